package limits

import (
	"context"
	"sync"

	"threadhub/internal/id"
)

// Local are the limits of a process that is alone.
type Local struct {
	counts *counts
	clock  func() int64

	mu      sync.Mutex
	buckets map[ours]*bucket
	swept   int64
}

// ours is a level of an org.
type ours struct {
	org id.Org
	name
}

// bucket is how a level stands.
type bucket struct {
	meter
	limit int64 // as last heard
	held  int64 // by calls that run
}

// sweepEvery is how often buckets that nobody owes anything to are forgotten, in ms.
const sweepEvery = 10_000

// NewLocal returns limits that nothing has been taken of.
func NewLocal(o Options) *Local {
	o = o.withDefaults()
	return &Local{counts: newCounts(o.Registry, func() bool { return false }), clock: o.clock(), buckets: map[ours]*bucket{}}
}

// Take is Limiter's.
func (l *Local) Take(_ context.Context, org id.Org, wants []Want) ([]Room, error) {
	if w, found := tooLarge(wants); found {
		return nil, l.counts.never(w)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	l.sweep(now)
	var err error
	for _, w := range wants {
		b := l.bucket(org, w.Level, now)
		if over := over(w.Level, b.debt, b.held, w.N); over > 0 {
			err = l.counts.refuse(w.Level, wait(w.Level, over))
			break
		}
	}
	rooms := make([]Room, len(wants))
	for i, w := range wants {
		b := l.bucket(org, w.Level, now)
		switch {
		case err != nil:
		case w.Kind == Requests:
			b.add(w.N)
		default:
			b.held += w.N
		}
		rooms[i] = room(w.Level, b.debt, b.held)
	}
	if err == nil {
		l.counts.taken.WithLabelValues(byLease).Inc()
	}
	return rooms, err
}

// Settle is Limiter's.
func (l *Local) Settle(org id.Org, uses []Use) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	for _, u := range uses {
		b := l.bucket(org, u.Level, now)
		switch u.Kind {
		case Requests:
			b.add(u.Used - u.Taken)
		case Tokens:
			b.held -= u.Taken
			b.add(u.Used)
		case Streams:
			b.held -= u.Taken
		}
	}
}

// bucket returns a level's, as it stands now. l.mu is held.
func (l *Local) bucket(org id.Org, level Level, now int64) *bucket {
	key := ours{org, level.name()}
	b := l.buckets[key]
	if b == nil {
		b = &bucket{meter: meter{at: now}, limit: level.Limit}
		l.buckets[key] = b
	}
	b.pass(now, b.limit)
	b.limit = level.Limit
	return b
}

// sweep forgets what is as it was in the beginning. l.mu is held.
func (l *Local) sweep(now int64) {
	if now-l.swept < sweepEvery {
		return
	}
	l.swept = now
	for key, b := range l.buckets {
		if b.pass(now, b.limit); b.debt == 0 && b.held == 0 {
			delete(l.buckets, key)
		}
	}
}

// Close does nothing: it starts nothing.
func (l *Local) Close() error { return nil }
