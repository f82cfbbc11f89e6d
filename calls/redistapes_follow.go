package calls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/id"
)

// record is one entry of a tape's stream in Redis: what has become of the tape since the one before. It says whose it is,
// as an answer of Redis may be another's.
type record struct {
	call   id.Request
	who    Listener
	begun  bool
	header [][2]string
	after  int // events before data
	n      int // events with data
	data   []byte
	end    string // "": it goes on

	delivered bool
}

// How a tape ends.
const (
	endComplete = "complete"
	endBroken   = "broken"  // with an error, or nothing came
	endSpilled  = "spilled" // it goes on, and is more than others may hear
)

func (r *record) fields() []any {
	f := []any{"org", string(r.who.Org), "key", string(r.who.Key), "call", string(r.call), "after", r.after, "n", r.n}
	if r.begun {
		head, _ := json.Marshal(r.header) // texts
		f = append(f, "header", head)
	}
	if len(r.data) > 0 {
		f = append(f, "data", r.data)
	}
	if r.end != "" {
		f = append(f, "end", r.end)
	}
	if r.delivered {
		f = append(f, "delivered", "1")
	}
	return f
}

// errForeign is what Redis answered that is of another org, key or call, or no record at all.
var errForeign = errors.New("calls: redis answered with what is not this tape's")

func recordOf(fields map[string]any, call id.Request, who Listener) (r record, err error) {
	text := func(name string) string { s, _ := fields[name].(string); return s }
	number := func(name string) int {
		n, e := strconv.Atoi(text(name))
		if e != nil || n < 0 {
			err = errForeign
		}
		return n
	}
	r = record{
		call: id.Request(text("call")), who: Listener{id.Org(text("org")), id.Key(text("key"))},
		after: number("after"), n: number("n"), data: []byte(text("data")), end: text("end"), delivered: text("delivered") != "",
	}
	if err != nil || r.call != call || r.who != who {
		return record{}, errForeign
	}
	if head := text("header"); head != "" {
		r.begun = true
		if json.Unmarshal([]byte(head), &r.header) != nil {
			return record{}, errForeign
		}
	}
	return r, nil
}

// hear adds to a tape of another process what it has told. What is there already is skipped: a record that Redis took
// without saying so is told again. Where something is missing the tape cannot be heard.
func (t *Tape) hear(r record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over && !r.delivered || t.spilled {
		return
	}
	defer t.changed()
	if r.begun {
		t.begun, t.header = true, r.header
	}
	t.delivered = t.delivered || r.delivered
	if t.Stream {
		t.hearEvents(r)
	} else if r.end != "" && !t.over {
		t.body = r.data
	}
	switch r.end {
	case endSpilled:
		t.spilled = true
	case endComplete, endBroken:
		t.over, t.complete, t.ended = true, r.end == endComplete, time.Now()
	}
}

func (t *Tape) hearEvents(r record) {
	if r.after > t.n && r.n > t.n {
		t.spilled = true
		return
	}
	data := EventsAfter(r.data, t.n-r.after)
	for t.n < r.n && len(data) > 0 {
		event, rest, _ := bytes.Cut(data, []byte("\n\n"))
		t.body = append(append(t.body, event...), '\n', '\n')
		t.ends = append(t.ends, len(t.body))
		t.n++
		data = rest
	}
}

type mirrorKey struct {
	call id.Request
	who  Listener
}

// mirror is a tape of another process that somebody here follows.
type mirror struct {
	t     *Tape
	last  string        // the id of the last record
	first chan struct{} // closed when Redis has answered once
	wish  time.Time     // when Redis was last told that somebody follows it; the follower's
}

// Follow is Tapes'.
func (r *RedisTapes) Follow(ctx context.Context, call id.Request, who Listener, stream bool) (*Tape, error) {
	if r.away.Load() {
		return nil, errAway
	}
	m := r.mirror(mirrorKey{call, who}, stream)
	timer := time.NewTimer(r.o.Timeout)
	defer timer.Stop()
	select {
	case <-m.first:
		return m.t, nil
	default:
	}
	signal(r.ask)
	err := error(errAway)
	select {
	case <-m.first:
		return m.t, nil
	case <-timer.C:
		r.note(err)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	m.t.Follow(-1)
	return nil, err
}

// mirror returns the mirror of a tape, with the caller as one more reader.
func (r *RedisTapes) mirror(at mirrorKey, stream bool) *mirror {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.mirrors[at]
	if m == nil {
		m = &mirror{t: NewTape(TapeOf{Call: at.call, For: at.who, Stream: stream}), last: "-", first: make(chan struct{})}
		m.t.idle = func(*Tape) { r.drop(at, m) }
		r.mirrors[at] = m
	}
	m.t.Follow(1)
	return m
}

// drop forgets a mirror that nobody follows any more.
func (r *RedisTapes) drop(at mirrorKey, m *mirror) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.t.mu.Lock()
	defer m.t.mu.Unlock()
	if m.t.readers == 0 && r.mirrors[at] == m {
		delete(r.mirrors, at)
	}
}

// follower asks Redis for what others have told, until Close.
func (r *RedisTapes) follower() {
	tick := time.NewTicker(r.o.Poll)
	defer tick.Stop()
	for {
		select {
		case <-r.ask:
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		for r.askAll() {
		}
	}
}

// recordsAtOnce is how many records of one tape are read at once: some 4 KiB each.
const recordsAtOnce = 64

// askAll asks for what is new of all tapes that are followed, and reports whether there is more to be asked for at once.
func (r *RedisTapes) askAll() (more bool) {
	r.mu.Lock()
	var all []*mirror
	for _, m := range r.mirrors {
		all = append(all, m)
	}
	r.mu.Unlock()
	all = slices.DeleteFunc(all, func(m *mirror) bool {
		m.t.mu.Lock()
		defer m.t.mu.Unlock()
		return m.t.over || m.t.spilled
	})
	for some := range slices.Chunk(all, together) {
		if r.away.Load() || r.ctx.Err() != nil {
			return false
		}
		pipe := r.client.Pipeline()
		answers := make([]*redis.XMessageSliceCmd, len(some))
		for i, m := range some {
			answers[i] = r.askFor(pipe, m)
		}
		_, err := pipe.Exec(r.ctx)
		r.note(err)
		for i, m := range some {
			list, err := answers[i].Result()
			if err == nil {
				err = m.take(list)
			}
			if errors.Is(err, errForeign) {
				r.suspect(m.t.Call)
				continue
			}
			more = more || len(list) == recordsAtOnce
		}
	}
	return more
}

// askFor asks for what is new of m, and says now and then that somebody follows it.
func (r *RedisTapes) askFor(pipe redis.Pipeliner, m *mirror) *redis.XMessageSliceCmd {
	t := m.t
	if now := time.Now(); now.Sub(m.wish) > wishStands/3 {
		m.wish = now
		pipe.Set(r.ctx, wish(t.Call, t.For), wishFor(t.Call, t.For), wishStands)
	}
	return pipe.XRangeN(r.ctx, place(t.Call, t.For), after(m.last), "+", recordsAtOnce)
}

// after is the beginning of a range that comes after the record last.
func after(last string) string {
	if last == "-" {
		return last
	}
	return "(" + last
}

// take adds records to the mirror. Of an answer with anything foreign in it nothing is taken.
func (m *mirror) take(list []redis.XMessage) error {
	records := make([]record, len(list))
	for i, x := range list {
		var err error
		if records[i], err = recordOf(x.Values, m.t.Call, m.t.For); err != nil {
			return err
		}
	}
	for i, x := range list {
		m.t.hear(records[i])
		m.last = x.ID
	}
	select {
	case <-m.first:
	default:
		close(m.first)
	}
	return nil
}

// suspect counts an answer that was not for the question.
func (r *RedisTapes) suspect(call id.Request) {
	r.foreign.Inc()
	r.o.Log.Error("redis answered with another's tape, which was not used", "request_id", call)
}

const (
	leftTries = 3
	leftPause = 100 * time.Millisecond
)

// Left is Tapes'. It may take a second where Redis has just gone away. While that is known it is not asked.
func (r *RedisTapes) Left(ctx context.Context, call id.Request, who Listener) (events []byte, err error) {
	r.leftMu.Lock() // there is one connection for it
	defer r.leftMu.Unlock()
	for try := range leftTries {
		if try > 0 {
			time.Sleep(leftPause)
		}
		if r.away.Load() {
			return nil, errAway
		}
		events, err = r.readLeft(call, who)
		if errors.Is(err, errForeign) {
			r.note(nil) // it does answer
		} else {
			r.note(err)
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return events, err
}

func (r *RedisTapes) readLeft(call id.Request, who Listener) ([]byte, error) {
	m := &mirror{t: NewTape(TapeOf{Call: call, For: who, Stream: true}), last: "-", first: make(chan struct{})}
	for {
		list, err := r.client.XRangeN(r.ctx, place(call, who), after(m.last), "+", recordsAtOnce).Result()
		if err == nil {
			err = m.take(list)
		}
		if errors.Is(err, errForeign) {
			r.suspect(call)
		}
		if err != nil {
			return nil, err
		}
		if len(list) < recordsAtOnce {
			return m.t.body, nil
		}
	}
}
