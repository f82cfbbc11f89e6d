package calls

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// sharing is how far other processes have been told of a tape, whose mu guards it. A nil sharing tells nobody.
type sharing struct {
	with *RedisTapes
	told told
	size int  // bytes that were told
	shut bool // nothing more can be told: it was more than others may hear

	waits, due bool      // it is among those with something to tell, and among those that cannot wait
	misses     bool      // its client has left
	wishedAt   time.Time // when somebody elsewhere was last known to follow it
}

// told is how much of a tape Redis has for certain.
type told struct {
	begun, over, delivered bool
	n                      int
}

// wishStands is how long somebody who follows a tape elsewhere is believed to.
const wishStands = 6 * time.Second

// Begin is Tapes'.
func (r *RedisTapes) Begin(t *Tape) {
	t.share = &sharing{with: r}
	r.LocalTapes.Begin(t)
}

// touch says that something of t has changed. t.mu is held.
func (s *sharing) touch(t *Tape) {
	if s == nil || s.shut {
		return
	}
	urgent := !s.with.away.Load() && (t.over || len(t.body)-t.known() >= tellBytes)
	if s.waits && (s.due || !urgent) {
		return
	}
	s.waits, s.due = true, s.due || urgent
	r := s.with
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[t] = struct{}{}
	if urgent {
		r.due = append(r.due, t)
		signal(r.tell)
	}
}

// known is how many bytes of a stream Redis has. t.mu is held.
func (t *Tape) known() int {
	if t.spilled || !t.Stream {
		return len(t.body)
	}
	return t.endOf(t.share.told.n)
}

// wanted reports whether somebody elsewhere follows t, and begins to find out. t.mu is held.
func (s *sharing) wanted(t *Tape) bool {
	if s == nil {
		return false
	}
	if !s.misses && !t.over {
		s.misses = true
		s.with.mu.Lock()
		s.with.missed[t] = struct{}{}
		s.with.mu.Unlock()
	}
	return time.Since(s.wishedAt) < wishStands
}

// news is what is to be told of a tape.
type news struct {
	t      *Tape
	record record
	next   told
	more   bool // its stream is there already
}

// news returns what is to be told of t, if anything is.
func (t *Tape) news() (n news, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.share
	s.waits, s.due = false, false
	next := told{begun: t.begun, over: t.over, delivered: t.delivered, n: t.n}
	if s.shut || next == s.told {
		return news{}, false
	}
	n = news{t: t, next: next, more: s.told != told{}, record: record{
		call: t.Call, who: t.For, after: s.told.n, n: t.n, delivered: t.delivered,
	}}
	switch {
	case t.spilled:
	case t.Stream:
		n.record.data = t.body[t.known():len(t.body):len(t.body)]
	case t.over && !s.told.over:
		n.record.data = t.body
	}
	if t.spilled || s.size+len(n.record.data) > TapeLimit {
		n.record.data, n.record.end = nil, endSpilled
		return n, true
	}
	if t.begun && !s.told.begun {
		n.record.begun, n.record.header = true, t.header
	}
	switch {
	case t.over && t.complete:
		n.record.end = endComplete
	case t.over:
		n.record.end = endBroken
	}
	return n, true
}

// arrived notes what became of the news, and reports whether it need not be told again.
func (n news) arrived(err error) bool {
	t := n.t
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.share
	switch {
	case err == nil:
		s.told = n.next
		s.size += len(n.record.data)
		s.shut = n.record.end == endSpilled
		return true
	case errors.Is(err, redis.Nil) && n.more: // Redis has lost what it had: it is told from the beginning
		s.told, s.size = told{}, 0
	}
	if t.over && s.with.away.Load() {
		s.shut = true // whoever asks for it is answered from the store, or not at all
		return true
	}
	return false
}

// teller tells Redis what is to be told, until Close.
func (r *RedisTapes) teller() {
	tick := time.NewTicker(r.o.Every)
	defer tick.Stop()
	for {
		select {
		case <-r.tell:
			time.Sleep(gather) // the end of an answer and its arrival, or many ends, are told together
			r.tellAll(r.ctx, false)
		case <-tick.C:
			if r.away.Load() {
				r.note(r.client.Ping(r.ctx).Err())
			}
			r.tellAll(r.ctx, true)
			r.lookForWishes()
		case <-r.ctx.Done():
			r.tellAll(context.Background(), true)
			return
		}
	}
}

// tellAll tells what cannot wait, or everything. While Redis is away nothing is told.
func (r *RedisTapes) tellAll(ctx context.Context, all bool) {
	r.mu.Lock()
	tapes := r.due
	r.due = nil
	if all {
		tapes = make([]*Tape, 0, len(r.waiting))
		for t := range r.waiting {
			tapes = append(tapes, t)
		}
		clear(r.waiting)
	} else {
		for _, t := range tapes {
			delete(r.waiting, t)
		}
	}
	r.mu.Unlock()
	var some []news
	size := 0
	for i, t := range tapes {
		if n, ok := t.news(); ok {
			some = append(some, n)
			size += len(n.record.data)
		}
		if len(some) == together || size >= tellMost || i == len(tapes)-1 {
			r.tellSome(ctx, some)
			some, size = nil, 0
		}
	}
}

func (r *RedisTapes) tellSome(ctx context.Context, some []news) {
	if len(some) == 0 {
		return
	}
	err := error(errAway)
	added := make([]*redis.StringCmd, len(some))
	if !r.away.Load() {
		pipe := r.client.Pipeline()
		for i, n := range some {
			at := place(n.t.Call, n.t.For)
			added[i] = pipe.XAdd(ctx, &redis.XAddArgs{Stream: at, NoMkStream: n.more, Values: n.record.fields()})
			pipe.PExpire(ctx, at, tapeFor)
		}
		_, err = pipe.Exec(ctx)
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		r.note(err)
	}
	for i, n := range some {
		one := err
		if added[i] != nil {
			one = added[i].Err()
		}
		if !n.arrived(one) {
			r.again(n.t)
		}
	}
}

// again has t told in the next round.
func (r *RedisTapes) again(t *Tape) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.share.waits = true
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[t] = struct{}{}
}

// lookForWishes finds out which of the tapes whose clients have left somebody follows elsewhere.
func (r *RedisTapes) lookForWishes() {
	for some := range slices.Chunk(r.unheard(), together) {
		if r.away.Load() {
			return
		}
		pipe := r.client.Pipeline()
		wishes := make([]*redis.StringCmd, len(some))
		for i, t := range some {
			wishes[i] = pipe.Get(r.ctx, wish(t.Call, t.For))
		}
		_, err := pipe.Exec(r.ctx)
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		r.note(err)
		for i, t := range some {
			if wishes[i].Val() == wishFor(t.Call, t.For) {
				t.mu.Lock()
				t.share.wishedAt = time.Now()
				t.mu.Unlock()
			}
		}
	}
}

// unheard are the tapes that go on though their clients have left.
func (r *RedisTapes) unheard() (list []*Tape) {
	r.mu.Lock()
	for t := range r.missed {
		list = append(list, t)
	}
	r.mu.Unlock()
	return slices.DeleteFunc(list, func(t *Tape) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.over {
			r.mu.Lock()
			delete(r.missed, t)
			r.mu.Unlock()
		}
		return t.over
	})
}
