package limits

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/bus"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
)

const (
	leaseFor    = 1000   // ms that a lease lasts
	leaseCalls  = 64     // a lease is no more than so many calls want
	leasePart   = 100    // and no more than this part of the limit
	holdsFor    = 30_000 // ms after which what a process says of itself is no longer believed
	saidAgain   = 10_000 // ms after which it says it again
	idleFor     = 60_000 // ms after which a level that nobody owes anything to is forgotten
	tickEvery   = 500 * time.Millisecond
	together    = 128 // calls in one command, commands in one pipeline
	failures    = 5   // in a row, after which nobody waits for Redis until it answers again
	connections = 8
)

// Redis are the limits that the processes of an installation share.
//
// Redis knows of each level what is owed, and what each process holds of it. A process leases a little more than its calls
// want, for a second, and lets others in on that without asking. One command at a time asks for an org, for all who wait.
// What is used is told with the next command, or by tick.
//
// While Redis does not answer, each process gives out its share: what one of so many replicas may. It reckons as if all the
// others took as much as it does, so whatever it counts, it counts as many times as there are replicas.
type Redis struct {
	o      Options
	counts *counts
	clock  func() int64
	owner  string
	client redis.UniversalClient
	exec   func([]*command) // run; a test's own where commands or replies are to be lost

	mu     sync.Mutex
	orgs   map[id.Org]*shared
	n      int64 // of commands
	away   bool  // Redis does not answer: nobody waits for it
	failed int   // commands, in a row

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// shared is what this process knows of an org's levels.
type shared struct {
	busy    bool // a command is under way
	queue   []*waiter
	buckets map[name]*share
}

// share is what it knows of a level, and has of it.
type share struct {
	level  Level
	key    string
	leased int64 // may be given out without asking, until
	until  int64
	held   int64 // by calls that run

	used, back     int64 // all there ever was
	told, toldBack int64 // of that, what Redis has acknowledged
	stated         int64 // what Redis was last told is held
	acked, ackedAt int64 // the last command that it has answered, and when that was sent
	known          meter // what was owed when Redis last answered: no less can be owed than what is left of that
	others         int64 // what others held then
	touched        int64

	alone     bool  // decided without Redis since it last answered
	owed      meter // then: what is owed, by this process's reckoning
	usedAlone int64 // then: what was used
}

// waiter is a call that waits for Redis.
type waiter struct {
	wants   []Want
	done    chan struct{} // closed when it is decided
	decided bool
	gone    bool  // it has not waited
	err     error // Redis did not say
	refused int   // which want, from 1; 0: none
	rooms   []Room
	over    int64 // by how much it was refused
}

// taken reports whether Redis has let it in.
func (w *waiter) taken() bool { return w.decided && w.err == nil && w.refused == 0 }

// NewRedis starts to share limits through the server client talks to. It takes the address and the credentials from client
// and opens connections of its own; client stays the caller's. Close ends it.
func NewRedis(client redis.UniversalClient, o Options) *Redis {
	o = o.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	r := &Redis{
		o: o, clock: o.clock(), owner: string(id.NewOwner()), orgs: map[id.Org]*shared{}, ctx: ctx, stop: stop,
		client: bus.Own(client, bus.Limits{Dial: o.Timeout, Timeout: o.Timeout, Connections: connections}),
	}
	r.exec = r.run
	r.counts = newCounts(o.Registry, r.isAway)
	if !o.noTicks {
		r.wg.Go(func() { o.Panics.Keep(ctx, "limits", r.ticks) })
	}
	return r
}

func (r *Redis) isAway() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.away
}

// Take is Limiter's.
func (r *Redis) Take(ctx context.Context, org id.Org, wants []Want) ([]Room, error) {
	if w, found := tooLarge(wants); found {
		return nil, r.counts.never(w)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, of := r.levels(org, wants)
	now := r.clock()
	switch i, over := surely(of, wants, now); {
	case leased(of, wants, now):
		for i, w := range wants {
			of[i].leased -= w.N
			of[i].take(w)
		}
		r.counts.taken.WithLabelValues(byLease).Inc()
		return rooms(of, wants, now), nil
	case i >= 0:
		return rooms(of, wants, now), r.counts.refuse(wants[i].Level, wait(wants[i].Level, over))
	case !r.away:
		w := &waiter{wants: wants, done: make(chan struct{})}
		if err := r.ask(ctx, org, s, w); err != nil {
			return nil, err
		}
		switch {
		case w.taken():
			r.counts.taken.WithLabelValues(byRedis).Inc()
			return w.rooms, nil
		case w.refused > 0:
			want := wants[w.refused-1]
			return w.rooms, r.counts.refuse(want.Level, wait(want.Level, w.over))
		}
	}
	return r.takeAlone(org, wants)
}

// levels returns what is known of the org and of the levels of wants. r.mu is held.
func (r *Redis) levels(org id.Org, wants []Want) (*shared, []*share) {
	s := r.orgs[org]
	if s == nil {
		s = &shared{buckets: map[name]*share{}}
		r.orgs[org] = s
	}
	of := make([]*share, len(wants))
	now := r.clock()
	for i, w := range wants {
		b := r.level(org, s, w.Level)
		b.known.pass(now, b.level.Limit)
		b.level = w.Level // its limit may be another by now
		of[i] = b
	}
	return s, of
}

// level is levels for one. r.mu is held.
func (r *Redis) level(org id.Org, s *shared, l Level) *share {
	b := s.buckets[l.name()]
	if b == nil {
		b = &share{level: l, key: place(org, l)}
		s.buckets[l.name()] = b
	}
	b.touched = r.clock()
	return b
}

// place is the name of a level in Redis. The braces keep what is an org's on one node of a cluster.
func place(org id.Org, l Level) string {
	return "threadhub:limit:{" + string(org) + "}:" + string(l.Scope) + ":" + l.ID + ":" + l.Kind.String() + ":" + l.Model
}

// leased reports whether all of it is leased.
func leased(of []*share, wants []Want, now int64) bool {
	for i, w := range wants {
		if now >= of[i].until || of[i].leased < w.N {
			return false
		}
	}
	return true
}

// surely returns the first want that Redis would refuse, and by how much, going by what was owed when it last answered, within
// the length of a lease, and what this process holds itself; -1 if there is none. Only a request that another process has
// given back since can make that wrong.
func surely(of []*share, wants []Want, now int64) (i int, by int64) {
	for i, w := range wants {
		b := of[i]
		if now < b.until && b.leased >= w.N {
			continue
		}
		b.known.pass(now, w.Limit)
		if by := over(w.Level, b.known.debt, b.held+b.used-b.told, w.N); by > 0 && !b.alone && now-b.ackedAt < leaseFor {
			return i, by
		}
	}
	return -1, 0
}

// take counts what a call was given. What Redis holds for it is told to have been used, or goes on to be held.
func (b *share) take(w Want) {
	if w.Kind == Requests {
		b.used += w.N
		return
	}
	b.held += w.N
}

// rooms is how the levels stand, as far as is known.
func rooms(of []*share, wants []Want, now int64) []Room {
	list := make([]Room, len(wants))
	for i, w := range wants {
		b := of[i]
		b.known.pass(now, w.Limit)
		list[i] = room(w.Level, b.known.debt, b.others+b.held+b.used-b.told)
	}
	return list
}

// ask hands w to whoever asks Redis for the org, and waits for what comes of it, but not for long. r.mu is held, but while
// it waits.
func (r *Redis) ask(ctx context.Context, org id.Org, s *shared, w *waiter) error {
	s.queue = append(s.queue, w)
	if !s.busy {
		s.busy = true
		go r.o.Panics.Run("limits", func() { r.serve(org, s) })
	}
	r.mu.Unlock()
	t := time.NewTimer(r.o.Timeout)
	defer t.Stop()
	left := false
	select {
	case <-w.done:
	case <-t.C:
	case <-ctx.Done():
		left = true
	}
	r.mu.Lock()
	w.gone = !w.decided
	if !left {
		return nil
	}
	if w.taken() {
		r.settle(org, returned(w.wants))
	}
	return context.Cause(ctx)
}

// takeAlone decides without Redis. r.mu is held.
func (r *Redis) takeAlone(org id.Org, wants []Want) ([]Room, error) {
	_, of := r.levels(org, wants) // it may have been forgotten meanwhile
	now, replicas := r.clock(), r.replicas()
	var err error
	for i, w := range wants {
		b := of[i]
		b.goAlone(now)
		// One call that is larger than a share is let in where nothing is owed: it would be refused for good.
		by := over(w.Level, b.owed.debt, b.held*replicas, w.N*replicas)
		if by -= max(0, w.N*replicas-w.Limit) * part; by > 0 && !seedbug.On("limits-open") || seedbug.On("limits-shut") {
			err = r.counts.refuse(w.Level, wait(w.Level, by))
			break
		}
	}
	list := make([]Room, len(wants))
	for i, w := range wants {
		b := of[i]
		b.goAlone(now)
		switch {
		case err != nil:
		case w.Kind == Requests:
			b.useAlone(w.N, replicas)
		default:
			b.held += w.N
		}
		list[i] = room(w.Level, b.owed.debt, b.held*replicas)
		list[i].Left /= replicas
	}
	if err == nil {
		r.counts.taken.WithLabelValues(byShare).Inc()
	}
	return list, err
}

func (r *Redis) replicas() int64 { return int64(max(1, r.o.Replicas())) }

// goAlone begins to reckon without Redis, from what is known, or goes on with it.
func (b *share) goAlone(now int64) {
	if !b.alone {
		b.known.pass(now, b.level.Limit)
		b.alone, b.owed, b.usedAlone = true, b.known, 0
		b.owed.add(b.used - b.told)
	}
	b.owed.pass(now, b.level.Limit)
}

// useAlone counts what is used meanwhile.
func (b *share) useAlone(n, replicas int64) {
	b.owed.add(n * replicas)
	b.usedAlone += n
}

// usedSince is what of that is still owed, to be told to Redis: what was used long ago has been paid.
func (b *share) usedSince(now, replicas int64) int64 {
	if !b.alone {
		return 0
	}
	b.owed.pass(now, b.level.Limit)
	return min(b.usedAlone, (b.owed.debt+part*replicas-1)/(part*replicas))
}

// Settle is Limiter's.
func (r *Redis) Settle(org id.Org, uses []Use) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle(org, uses)
}

// settle is Settle. r.mu is held.
func (r *Redis) settle(org id.Org, uses []Use) {
	s, _ := r.levels(org, nil)
	for _, u := range uses {
		b := r.level(org, s, u.Level)
		if u.Kind == Requests {
			b.back += u.Taken - u.Used
			continue
		}
		b.held -= u.Taken
		if u.Kind != Tokens {
			continue
		}
		if b.alone {
			b.owed.pass(r.clock(), b.level.Limit)
			b.useAlone(u.Used, r.replicas())
		} else {
			b.used += u.Used
		}
	}
}

// ticks tells Redis what has changed, again and again.
func (r *Redis) ticks() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.tick()
		case <-r.ctx.Done():
			return
		}
	}
}

// Close tells Redis what is still to be told, and ends the sharing.
func (r *Redis) Close() error {
	r.stop()
	r.wg.Wait()
	r.tick()
	return r.client.Close()
}
