package gateway

import (
	"container/list"
	"slices"
	"strconv"
	"sync"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/sse"
)

// tape is what one call gives its client, as it is given and for a while after, for whoever comes back for it: the client
// whose connection broke, and one that repeats its request. It has one writer, the call, and any number of readers.
//
// All methods may be called on a nil tape, which keeps nothing.
type tape struct {
	call   id.Request
	of     tapeKey
	finger int64  // and hash: of the request
	hash   string //
	stream bool
	limit  int

	mu        sync.Mutex
	header    [][2]string // of the answer, once it has begun
	begun     bool
	n         int    // events of a stream so far
	body      []byte // of a stream, events as they were sent
	ends      []int  // where in body each of them ends
	spilled   bool   // it had more than limit, and has been let go
	over      bool
	complete  bool
	ended     time.Time
	delivered bool          // the client has all of it, for all we know
	adopted   bool          // a repeat of the request has it
	readers   int           // how many follow it
	more      chan struct{} // closed when something of the above has changed; nil while nobody waits
}

// tapeKey is who may hear a tape: the caller's org and API key.
type tapeKey struct {
	org id.Org
	key id.Key
}

// changed wakes who waits. t.mu is held.
func (t *tape) changed() {
	if t.more != nil {
		close(t.more)
		t.more = nil
	}
}

// begin says that the answer begins, with this of its header.
func (t *tape) begin(header [][2]string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.header = true, header
	t.changed()
}

// event appends the next event, with data, to dst as it goes to the client: with its number, from 1.
func (t *tape) event(dst, data []byte) []byte {
	if t == nil {
		return sse.AppendData(dst, data)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	from := len(dst)
	t.n++
	dst = appendEvent(dst, t.n, data)
	t.keep(dst[from:])
	t.ends = append(t.ends, len(t.body))
	t.changed()
	return dst
}

// keep adds to body what fits. t.mu is held.
func (t *tape) keep(b []byte) {
	if t.spilled || len(t.body)+len(b) > t.limit {
		t.spilled, t.body = true, nil
		return
	}
	t.body = append(t.body, b...)
}

// whole sets the body of an answer in one piece.
func (t *tape) whole(body []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep(body)
}

// end reports whether this was its end, and not an earlier one.
func (t *tape) end(complete bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.over, t.complete, t.ended = true, complete, time.Now()
	t.changed()
	return true
}

// reached says that the client has it all.
func (t *tape) reached() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.delivered = true
}

// wanted reports whether somebody follows it.
func (t *tape) wanted() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readers > 0
}

// follow counts a reader until it is called again with less.
func (t *tape) follow(by int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readers += by
}

// adopt gives the tape to a repeat of its request, once, if that may have it: while it is open, and for adoptFor after it
// was complete, unless the client is known to have it.
func (t *tape) adopt() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.adopted || t.delivered || t.spilled || t.over && (!t.complete || time.Since(t.ended) > adoptFor) {
		return false
	}
	t.adopted = true
	return true
}

// adoptFor is how long after its end a complete answer is given to a repeat that has no Idempotency-Key.
const adoptFor = time.Minute

// taped is what a tape holds after an event.
type taped struct {
	begun    bool          // the answer has begun
	header   [][2]string   // what its header was then
	body     []byte        // events, or of a whole answer all of it; never written to
	n        int           // the last event in it
	over     bool          // nothing follows
	complete bool          // and that is all of a complete answer
	spilled  bool          // it cannot be taped any more
	more     chan struct{} // closed when there is more
}

// after returns what a tape holds after event n of a stream, 0 being its beginning; of a whole answer all of it once it
// is there.
func (t *tape) after(n int) taped {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := taped{begun: t.begun, header: t.header, n: t.n, over: t.over, complete: t.complete, spilled: t.spilled}
	switch {
	case t.spilled:
	case !t.stream:
		if t.over {
			h.body = t.body
		}
	case n < len(t.ends):
		from := 0
		if n > 0 {
			from = t.ends[n-1]
		}
		h.body = t.body[from:len(t.body):len(t.body)]
	}
	if !t.over {
		if t.more == nil {
			t.more = make(chan struct{})
		}
		h.more = t.more
	}
	return h
}

// with is what it holds and, after it, one more event with data. For its writer.
func (t *tape) with(data []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return appendEvent(slices.Clone(t.body), t.n+1, data)
}

func appendEvent(dst []byte, n int, data []byte) []byte {
	dst = append(strconv.AppendInt(append(dst, "id: "...), int64(n), 10), '\n')
	return sse.AppendData(dst, data)
}

// tapes are those of calls that run, and of those that ended a while ago: for as long as keepFor, and as much as keepBytes
// of them.
type tapes struct {
	keepFor   time.Duration
	keepBytes int

	mu     sync.Mutex
	byCall map[id.Request]*tape
	byWord map[int64]*tape // the newest of each finger
	ended  list.List       // of *tape, in the order they ended
	size   int             // bytes of those
}

const (
	tapeFor   = 10 * time.Minute
	tapeBytes = 64 << 20 // of calls that have ended
	tapeLimit = 1 << 20  // of one call that has no Idempotency-Key
)

func newTapes() *tapes {
	return &tapes{keepFor: tapeFor, keepBytes: tapeBytes, byCall: map[id.Request]*tape{}, byWord: map[int64]*tape{}}
}

// begin makes t found.
func (ts *tapes) begin(t *tape) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.byCall[t.call] = t
	ts.byWord[t.finger] = t
}

// end says that nothing more comes onto t, and whether it holds a complete answer, and keeps it for a while. The first time
// counts.
func (ts *tapes) end(t *tape, complete bool) {
	if t == nil || !t.end(complete) {
		return
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.ended.PushBack(t)
	ts.size += len(t.body)
	for e := ts.ended.Front(); e != nil; e = ts.ended.Front() {
		old := e.Value.(*tape)
		if ts.size <= ts.keepBytes && time.Since(old.ended) < ts.keepFor {
			break
		}
		ts.ended.Remove(e)
		ts.size -= len(old.body)
		delete(ts.byCall, old.call)
		if ts.byWord[old.finger] == old {
			delete(ts.byWord, old.finger)
		}
	}
}

// call returns the tape of a call that who may hear; nil if there is none.
func (ts *tapes) call(call id.Request, who tapeKey) *tape {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.byCall[call]; t != nil && t.of == who {
		return t
	}
	return nil
}

// like returns the tape of the newest call with the same request; nil if there is none.
func (ts *tapes) like(finger int64, hash string, who tapeKey) *tape {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.byWord[finger]; t != nil && t.of == who && t.hash == hash {
		return t
	}
	return nil
}
