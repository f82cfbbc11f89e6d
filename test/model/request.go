package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// request is one request of one client, and what came of it.
type request struct {
	kind     string
	messages []Written
	stream   bool
	fork     bool // X-Thread-On-Diverge: fork
	add      bool // POST …/messages with messages[0]; no model is called
	part     bool // POST …/fork up to upto, or all if that is -1; no model is called
	upto     int
	retry    int // X-Stainless-Retry-Count
	where    int // the thread's id is in the header, the body, or its metadata
	script   *script
	on       *process
	dies     bool // its process dies before it records

	heard
	err  error
	seen [][]byte // what the provider got
}

// send sends it to its thread and waits for the answer. A gateway that is busy is asked again, as its clients do.
func (q *request) send(thread string) {
	for {
		q.sendOnce(thread)
		if q.err != nil || q.status != 503 || codeOf(q.body) != "busy" || len(q.seen) > 0 {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (q *request) sendOnce(thread string) {
	switch {
	case q.add:
		body := fmt.Sprintf(`{"role":%s,"content":%s}`, quote(q.messages[0].Role), contentOf(q.messages[0].Raw))
		q.heard, q.err = q.on.ask("POST", "/api/threads/"+thread+"/messages", []byte(body))
		return
	case q.part:
		body := "{}"
		if q.upto >= 0 {
			body = fmt.Sprintf(`{"sequence":%d}`, q.upto)
		}
		q.heard, q.err = q.on.ask("POST", "/api/threads/"+thread+"/fork", []byte(body))
		return
	}
	q.on.h.provider.expect(q.script)
	defer q.on.h.provider.forget(q.script)
	header := []string{scriptHeader, q.script.name}
	if q.retry > 0 {
		header = append(header, "X-Stainless-Retry-Count", strconv.Itoa(q.retry))
	}
	if q.fork {
		header = append(header, "X-Thread-On-Diverge", "fork")
	}
	more := ""
	switch q.where {
	case 0:
		header = append(header, "X-Thread-Id", thread)
	case 1:
		more = `,"thread_id":` + quote(thread)
	default:
		more = `,"metadata":{"thread_id":` + quote(thread) + `}`
	}
	if q.stream {
		more += `,"stream":true`
	}
	if q.script.n > 1 {
		more += fmt.Sprintf(`,"n":%d`, q.script.n)
	}
	raw := make([]string, len(q.messages))
	for i, m := range q.messages {
		raw[i] = m.Raw
	}
	body := fmt.Sprintf(`{"model":"openai/gpt-5-mini","messages":[%s]%s}`, strings.Join(raw, ","), more)
	q.heard, q.err = q.on.ask("POST", "/v1/chat/completions", []byte(body), header...)
	q.script.mu.Lock()
	defer q.script.mu.Unlock()
	q.seen = q.script.seen
}

func contentOf(raw string) string {
	var m struct{ Content json.RawMessage }
	_ = json.Unmarshal([]byte(raw), &m)
	return string(m.Content)
}

// Outcome is what became of a request, as the model tells it before, and the client after.
type Outcome struct {
	Status int
	Code   string // of an error object, in the body or in the stream
	At     int    // the sequence an error names; -1: none
	Mode   string
	Seq    int // -1: none
	Done   bool
	Asked  int // how often the provider was asked
	Less   int // X-Threadhub-Thread-Omitted
}

// outcome is what the client and the provider saw.
func (q *request) outcome() Outcome {
	o := Outcome{Status: q.status, Code: codeOf(q.body), At: -1, Seq: -1, Mode: q.header.Get("X-Threadhub-Thread-Mode"), Asked: len(q.seen)}
	if n, err := strconv.Atoi(q.header.Get("X-Threadhub-Thread-Seq")); err == nil {
		o.Seq = n
	}
	if q.status == 409 {
		if m := sequence.FindSubmatch(q.body); m != nil {
			o.At, _ = strconv.Atoi(string(m[1]))
		}
	}
	o.Less, _ = strconv.Atoi(q.header.Get("X-Threadhub-Thread-Omitted"))
	if q.add {
		var added struct{ Sequence *int }
		if json.Unmarshal(q.body, &added) == nil && added.Sequence != nil {
			o.Seq = *added.Sequence
		}
	}
	o.Done = q.status == 200 && (!q.stream || bytes.HasSuffix(q.body, []byte("data: [DONE]\n\n")))
	return o
}

var sequence = regexp.MustCompile(`sequence (\d+)`)

func codeOf(body []byte) string {
	at := bytes.Index(body, []byte(`{"error":`))
	if at < 0 {
		return ""
	}
	var e struct{ Error struct{ Code string } }
	_ = json.NewDecoder(bytes.NewReader(body[at:])).Decode(&e)
	return e.Error.Code
}

// effect is what the rules say a request does to a thread: what the client hears, what the provider is shown, what the
// thread holds then, and the new thread if it was forked.
type effect struct {
	Outcome
	shown  []Written
	after  []Message
	forked []Message // nil: no fork
}

// effect of q on a thread. turn is a number for what it stores.
func (r Rules) effect(thread []Message, q *request, turn int, checkpoints bool) effect {
	if q.add {
		m := Message{Saying: q.messages[0].Saying, Wrote: q.messages[0].Raw, Turn: turn}
		return effect{Outcome: Outcome{Status: 201, At: -1, Seq: len(thread)}, after: append(slices.Clone(thread), m)}
	}
	if q.part {
		upto := q.upto
		if upto < 0 {
			upto = len(thread) - 1
		}
		return effect{Outcome: Outcome{Status: 201, At: -1, Seq: -1}, after: thread, forked: slices.Clone(thread[:upto+1])}
	}
	v := r.Decide(thread, q.messages)
	e := effect{after: thread}
	base := thread
	if v.Differs >= 0 {
		if !q.fork {
			e.Outcome = Outcome{Status: 409, Code: "thread_diverged", At: v.Differs, Seq: -1}
			return e
		}
		base, v = r.Fork(thread, v, q.messages)
	}
	grown := slices.Clone(base)
	for _, m := range v.New {
		m.Turn = turn
		grown = append(grown, m)
	}
	grown = append(grown, q.answer(turn, checkpoints))
	if v.Mode == "forked" {
		e.forked = grown
	} else {
		e.after = grown
	}
	e.shown = v.Shown
	e.Outcome = Outcome{Status: 200, At: -1, Mode: v.Mode, Seq: v.Seq, Asked: 1, Done: q.script.whole()}
	if !q.script.whole() {
		e.Code = "upstream_reset"
		if !q.stream {
			e.Status = 502
		}
	}
	return e
}

// answer is what the thread keeps of the answer.
func (q *request) answer(turn int, checkpoints bool) Message {
	m := Message{Saying: Saying{Role: "assistant"}, Turn: turn}
	switch {
	case q.dies: // what a checkpoint kept of what the client was given
		m.Cut = true
		if q.stream && checkpoints {
			m.Parts = q.script.text()
			if q.script.whole() {
				m.Calls = q.script.answer.Calls
			}
		}
	case q.script.whole():
		m.Saying = q.script.answer
	default:
		m.Cut = true
		if q.stream {
			m.Parts = q.script.text()
		}
	}
	return m
}

// agrees compares what the model says with what was seen; nil if they agree.
func (e effect) agrees(q *request) error {
	got := q.outcome()
	want := e.Outcome
	if q.dies && want.Status != 409 { // its client hears whatever a dying process says
		want.Status, want.Code, want.Done, got.Status, got.Code, got.Done = 0, "", false, 0, "", false
	}
	if got != want {
		return fmt.Errorf("%s: the client was told\n  %+v\nnot\n  %+v\n%.300s", q, got, want, q.body)
	}
	if want.Asked == 0 {
		return nil
	}
	var sent struct{ Messages []json.RawMessage }
	if err := json.Unmarshal(q.seen[0], &sent); err != nil {
		return err
	}
	if !shows(sent.Messages, e.shown) {
		return fmt.Errorf("%s: the provider was shown\n  %s\nnot\n  %s", q, sent.Messages, e.shown)
	}
	return nil
}

// shows reports whether the provider was sent these messages: a client's own as it wrote them, answers by what they say.
func shows(sent []json.RawMessage, want []Written) bool {
	return slices.EqualFunc(sent, want, func(raw json.RawMessage, w Written) bool {
		if w.Raw != "" {
			return string(raw) == w.Raw
		}
		s, err := read(raw)
		return err == nil && s.equal(w.Saying)
	})
}

// thread is the name of the thread that the answer is about.
func (q *request) thread() string {
	if !q.part {
		return q.header.Get("X-Thread-Id")
	}
	var made struct {
		ID string `json:"thread_id"`
	}
	_ = json.Unmarshal(q.body, &made)
	return made.ID
}

func (q *request) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", q.kind, q.messages)
	for _, f := range []struct {
		on   bool
		name string
	}{{q.stream, "stream"}, {q.fork, "fork"}, {q.add, "add"}, {q.dies, "dies"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	if q.part {
		fmt.Fprintf(&b, " upto %d", q.upto)
	}
	if q.script != nil && q.script.whole() {
		fmt.Fprintf(&b, " -> %s", q.script.answer)
	} else if q.script != nil {
		fmt.Fprintf(&b, " -> %s cut after %d", q.script.answer, q.script.comes)
	}
	return b.String()
}
