package calls

import (
	"bytes"
	"slices"
	"strconv"
	"sync"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/seedbug"
	"threadhub/internal/sse"
)

// TapeLimit is how much is kept of what a call gave its client, in bytes, where the call has no Idempotency-Key, and how
// much of any call other processes can hear.
const TapeLimit = 1 << 20

// AdoptFor is how long after its end a complete answer is given to a repeat that has no Idempotency-Key.
const AdoptFor = time.Minute

// Listener is who may hear a tape: the org and the API key of its call.
type Listener struct {
	Org id.Org
	Key id.Key
}

// TapeOf says what a tape is of.
type TapeOf struct {
	Call   id.Request
	For    Listener
	Finger int64  // of its request, and Hash: whole
	Hash   string //
	Stream bool
	Limit  int       // bytes it may hold
	Retry  bool      // an SDK's retry opened the call
	Opened time.Time // when, by this process's clock
}

// Tape is what one call gives its client, as it is given and for a while after, for whoever comes back for it: the client
// whose connection broke, and one that repeats its request. It has one writer, the call, and any number of readers. Of a
// call of another process it is what that process has told of it so far.
//
// All methods may be called on a nil tape, which keeps nothing, but After and Follow.
type Tape struct {
	TapeOf

	mu        sync.Mutex
	header    [][2]string // of the answer, once it has begun
	begun     bool
	n         int    // events of a stream so far
	body      []byte // of a stream, events as they were sent
	ends      []int  // where in body each of them ends
	spilled   bool   // it had more than Limit, and has been let go
	over      bool
	complete  bool
	ended     time.Time
	delivered bool          // the client has all of it, for all we know
	readers   int           // how many follow it
	more      chan struct{} // closed when something of the above has changed; nil while nobody waits

	share *sharing    // with other processes; nil: with none
	idle  func(*Tape) // called, without mu, when the last reader has gone; of another process's
}

// NewTape returns an empty tape.
func NewTape(of TapeOf) *Tape { return &Tape{TapeOf: of} }

// changed wakes who waits. t.mu is held.
func (t *Tape) changed() {
	if t.more != nil {
		close(t.more)
		t.more = nil
	}
	t.share.touch(t)
}

// Begin says that the answer begins, with this of its header.
func (t *Tape) Begin(header [][2]string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.header = true, header
	t.changed()
}

// Event appends the next event, with data, to dst as it goes to the client: with its number, from 1.
func (t *Tape) Event(dst, data []byte) []byte {
	if t == nil {
		return sse.AppendData(dst, data)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	from := len(dst)
	if !seedbug.On("same-event-id") || t.n == 0 {
		t.n++
	}
	dst = AppendEvent(dst, t.n, data)
	t.keep(dst[from:])
	t.ends = append(t.ends, len(t.body))
	t.changed()
	return dst
}

// keep adds to body what fits. t.mu is held.
func (t *Tape) keep(b []byte) {
	if t.spilled || len(t.body)+len(b) > t.Limit {
		t.spilled, t.body = true, nil
		return
	}
	t.body = append(t.body, b...)
}

// Whole sets the body of an answer in one piece.
func (t *Tape) Whole(body []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep(body)
}

// end reports whether this was its end, and not an earlier one.
func (t *Tape) end(complete bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.over, t.complete, t.ended = true, complete, time.Now()
	t.changed()
	return true
}

// Reached says that the client has it all.
func (t *Tape) Reached() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.delivered = true
	t.changed()
}

// Wanted reports whether somebody follows it: here, or, as far as is known a second later, in another process.
func (t *Tape) Wanted() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readers > 0 || t.share.wanted(t)
}

// Follow counts a reader until it is called again with less.
func (t *Tape) Follow(by int) {
	t.mu.Lock()
	t.readers += by
	idle := t.readers == 0 && t.idle != nil
	t.mu.Unlock()
	if idle {
		t.idle(t)
	}
}

// Far reports whether it is of another process's call.
func (t *Tape) Far() bool { return t.idle != nil }

// Repeatable reports whether a repeat of its request may have it: while it is open, and for AdoptFor after it was
// complete, unless the client is known to have it.
func (t *Tape) Repeatable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.delivered && !t.spilled && (!t.over || t.complete && time.Since(t.ended) <= AdoptFor)
}

// Heard is what a tape holds after an event.
type Heard struct {
	Begun    bool          // the answer has begun
	Header   [][2]string   // what its header was then
	Body     []byte        // events, or of a whole answer all of it; never written to
	N        int           // the last event in it
	Over     bool          // nothing follows
	Complete bool          // and that is all of a complete answer
	Spilled  bool          // it cannot be heard any more
	More     chan struct{} // closed when there is more
}

// Known reports whether anything is on the tape at all. Of another process's it may be that nothing is known of it.
func (h Heard) Known() bool { return h.Begun || h.N > 0 || h.Over || h.Spilled }

// After returns what a tape holds after event n of a stream, 0 being its beginning; of a whole answer all of it once it
// is there.
func (t *Tape) After(n int) Heard {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := Heard{Begun: t.begun, Header: t.header, N: t.n, Over: t.over, Complete: t.complete, Spilled: t.spilled}
	switch {
	case t.spilled:
	case !t.Stream:
		if t.over {
			h.Body = t.body
		}
	case n < len(t.ends):
		h.Body = t.body[t.endOf(n):len(t.body):len(t.body)]
	}
	if !t.over {
		if t.more == nil {
			t.more = make(chan struct{})
		}
		h.More = t.more
	}
	return h
}

// endOf is where in the body event n ends. t.mu is held.
func (t *Tape) endOf(n int) int {
	if n == 0 {
		return 0
	}
	return t.ends[n-1]
}

// With is what it holds and, after it, one more event with data. For its writer.
func (t *Tape) With(data []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return AppendEvent(slices.Clone(t.body), t.n+1, data)
}

// AppendEvent appends event n of a stream, with data.
func AppendEvent(dst []byte, n int, data []byte) []byte {
	dst = append(strconv.AppendInt(append(dst, "id: "...), int64(n), 10), '\n')
	return sse.AppendData(dst, data)
}

// EventsAfter is what of events comes after event n.
func EventsAfter(events []byte, n int) []byte {
	for range n {
		_, events, _ = bytes.Cut(events, []byte("\n\n"))
	}
	return events
}
