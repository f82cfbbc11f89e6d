package simulator

import (
	"net/http"
	"sync"
	"time"
)

// How an attempt ends, beside the name of the fault that ended it.
const (
	EndComplete   = "complete"    // the whole answer was handed to the kernel, and no fault was asked for
	EndRejected   = "rejected"    // the request was refused as the provider would refuse it: see Reason
	EndClientGone = "client_gone" // the client closed, or reset, before the end
	EndClosed     = "closed"      // the simulator was closed
)

// Attempt is one request as the simulator saw it. It is in its log from the moment its head has arrived.
type Attempt struct {
	Seq      int64       `json:"seq"`                // 1, 2, 3… in the order the heads arrived
	Provider string      `json:"provider"`           // "openai"
	Method   string      `json:"method"`             // "POST"
	Path     string      `json:"path"`               // below the provider's base: "/chat/completions"
	Query    string      `json:"query,omitempty"`    // as sent, without its "?"
	Name     string      `json:"name,omitempty"`     // X-Client-Request-Id: the caller's own name for the attempt
	KeyHash  string      `json:"key_hash,omitempty"` // KeyHash of the provider key
	Header   http.Header `json:"header"`             // as sent, without the one that holds the key
	Body     []byte      `json:"body,omitempty"`     // as read from the socket, transfer coding taken off (base64 in JSON)
	BodySize int64       `json:"body_size"`
	Model    string      `json:"model,omitempty"`
	Stream   bool        `json:"stream"`

	Status    int      `json:"status,omitempty"`     // of the answer; 0: no head was sent
	RequestID string   `json:"request_id,omitempty"` // the provider's own: x-request-id, or the generation's id
	Sent      []byte   `json:"sent,omitempty"`       // every byte handed to the kernel, head and framing included (base64)
	SentSize  int64    `json:"sent_size"`
	Events    []string `json:"events,omitempty"`    // payloads of the data events sent, [DONE] included; or the one body
	NEvents   int      `json:"n_events"`            // how many
	Text      string   `json:"text,omitempty"`      // choice 0's content as sent so far, put together
	Choices   []string `json:"choices,omitempty"`   // all choices' contents, where there is more than one
	Usage     *Usage   `json:"usage,omitempty"`     // the last usage sent, if it was honest
	UsageRaw  string   `json:"usage_raw,omitempty"` // the last usage sent, as sent

	Fault  string    `json:"fault,omitempty"`  // the fault asked for, if one was
	End    string    `json:"end,omitempty"`    // "" while running; complete, rejected, client_gone, closed or the fault
	Reason string    `json:"reason,omitempty"` // rejected: the message
	Begun  time.Time `json:"begun"`
	Ended  time.Time `json:"ended,omitzero"`
}

// Usage is what an answer said it cost.
type Usage struct {
	Prompt     int64 `json:"prompt"`      // cached and cache-written ones included
	Completion int64 `json:"completion"`  // reasoning included
	Total      int64 `json:"total"`       // the sum of the two
	Cached     int64 `json:"cached"`      // of Prompt
	CacheWrite int64 `json:"cache_write"` // of Prompt
	Reasoning  int64 `json:"reasoning"`   // of Completion
	CostPico   int64 `json:"cost_pico"`   // 10⁻¹² US dollars, from providers that say it; else 0
}

// record is an Attempt being written.
type record struct {
	mu    sync.Mutex
	a     Attempt
	texts [][]byte // by choice
}

func (r *record) update(f func(a *Attempt)) {
	r.mu.Lock()
	f(&r.a)
	r.mu.Unlock()
}

func (r *record) snapshot() Attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.a
	if len(r.texts) > 0 {
		a.Text = string(r.texts[0])
	}
	if len(r.texts) > 1 {
		a.Choices = make([]string, len(r.texts))
		for i, t := range r.texts {
			a.Choices[i] = string(t)
		}
	}
	return a
}

// attempts is the log: bounded in number and in bytes, oldest first out.
type attempts struct {
	mu       sync.Mutex
	max      int
	maxBytes int64
	seq      int64
	list     []*record
	sizes    []int64 // what each record was charged with
	first    int     // sequence number of list[0]
	bytes    int64
}

// begin adds a record and gives it its number.
func (l *attempts) begin(r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	r.a.Seq = l.seq
	if len(l.list) == 0 {
		l.first = int(l.seq)
	}
	l.list = append(l.list, r)
	l.sizes = append(l.sizes, 0)
	l.trim()
}

// charge counts the bytes a record holds.
func (l *attempts) charge(seq, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := int(seq) - l.first; i >= 0 && i < len(l.list) {
		l.sizes[i] += n
		l.bytes += n
		l.trim()
	}
}

func (l *attempts) trim() {
	for len(l.list) > 1 && (len(l.list) > l.max || l.bytes > l.maxBytes) {
		l.bytes -= l.sizes[0]
		l.list[0] = nil
		l.list, l.sizes = l.list[1:], l.sizes[1:]
		l.first++
	}
}

func (l *attempts) all() []Attempt {
	l.mu.Lock()
	records := append([]*record(nil), l.list...)
	l.mu.Unlock()
	list := make([]Attempt, len(records))
	for i, r := range records {
		list[i] = r.snapshot()
	}
	return list
}

// reset forgets all; numbers go on rising.
func (l *attempts) reset() {
	l.mu.Lock()
	l.list, l.sizes, l.bytes = nil, nil, 0
	l.mu.Unlock()
}
