package orgs

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seedbug"
)

// A herd of look-ups, when a process starts or the store is just back, stands in line here and not at the store's pool,
// which turns away whoever cannot be served soon. A store that is away empties the line at once: it is told by its breaker.
const (
	lookUpsAtOnce = 8 // of all caches
	linePatience  = 10 * time.Second
)

// staleRecheck is how often a store that is away is asked again for the same entry.
const staleRecheck = time.Second

// cache keeps answers of the store. An answer is trusted for at most ttl from the moment the store was asked. Within
// the last third of that, at a random moment so that many entries do not end together, it is asked for again; if the
// store is away then, the answer serves until its ttl is over, and not a moment longer.
//
// One look-up per key is under way at a time. What an invalidation overtakes is not stored, and nobody who comes after
// the invalidation waits for it. Size is bounded: entries live in two halves, and when the young one is full the old one
// is dropped, so that what is used stays. Safe for concurrent use.
type cache[K comparable, V any] struct {
	ttl      time.Duration
	patience time.Duration // with one look-up
	line     chan struct{} // who is in it asks the store; nil: nobody waits
	max      int
	now      func() time.Time

	mu         sync.Mutex
	young, old map[K]entry[V]
	flights    map[K]*flight[V]
	era        uint64 // grows with every invalidation
}

type entry[V any] struct {
	value        V
	fresh, until time.Time
}

type flight[V any] struct {
	era   uint64
	done  chan struct{}
	value V
	err   error
}

func newCache[K comparable, V any](ttl, patience time.Duration, max int, now func() time.Time) *cache[K, V] {
	return &cache[K, V]{ttl: ttl, patience: patience, max: max, now: now, young: map[K]entry[V]{}, flights: map[K]*flight[V]{}}
}

// hit returns a fresh answer.
func (c *cache[K, V]) hit(k K) (V, bool) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.find(k)
	if !ok || !now.Before(e.fresh) {
		var none V
		return none, false
	}
	return e.value, true
}

// has reports whether there is an answer, however old.
func (c *cache[K, V]) has(k K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.find(k)
	return ok
}

// load returns a fresh answer, or what ask says, or, when ask fails for the store's sake, an answer not older than ttl.
// ask runs on the first caller's goroutine, without its deadline and cancellation: others wait for the same answer.
func (c *cache[K, V]) load(ctx context.Context, k K, ask func(context.Context) (V, error)) (V, error) {
	now := c.now()
	c.mu.Lock()
	if e, ok := c.find(k); ok && now.Before(e.fresh) {
		c.mu.Unlock()
		return e.value, nil
	}
	f := c.flights[k]
	if f != nil && f.era == c.era {
		c.mu.Unlock()
		select {
		case <-f.done:
			return f.value, f.err
		case <-ctx.Done():
			var none V
			return none, storeFault(context.Cause(ctx))
		}
	}
	f = &flight[V]{era: c.era, done: make(chan struct{}), err: errors.New("orgs: the look-up panicked")}
	c.flights[k] = f
	c.mu.Unlock()

	c.fly(ctx, k, f, ask)
	return f.value, f.err
}

// fly asks, and lands whatever happens.
func (c *cache[K, V]) fly(ctx context.Context, k K, f *flight[V], ask func(context.Context) (V, error)) {
	leave, err := c.queue()
	defer c.land(k, f, c.now())
	if err != nil {
		f.err = err
		return
	}
	defer leave()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.patience)
	defer cancel()
	v, err := ask(ctx)
	f.value, f.err = v, storeFault(err)
	if seedbug.On("401-when-down") && err != nil {
		f.err = fault.New(fault.Unauthorized, "the API key is not known")
	}
}

// queue waits until the store may be asked.
func (c *cache[K, V]) queue() (leave func(), err error) {
	if c.line == nil {
		return func() {}, nil
	}
	t := time.NewTimer(linePatience)
	defer t.Stop()
	select {
	case c.line <- struct{}{}:
		return func() { <-c.line }, nil
	case <-t.C:
		return nil, fault.New(fault.Unavailable, "the gateway is busy; try again in a moment").WithCode("busy").After(time.Second)
	}
}

// land ends a flight: it stores the answer unless that is overtaken, or makes do with the one we have, and lets the
// waiters go. asked is when the flight began: the answer may be as old as that.
func (c *cache[K, V]) land(k K, f *flight[V], asked time.Time) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[k] == f {
		delete(c.flights, k)
	}
	have, ok := c.find(k)
	switch {
	case f.err == nil && f.era == c.era:
		spread := time.Duration(rand.Float64() * float64(c.ttl) / 3)
		c.set(k, entry[V]{f.value, asked.Add(c.ttl - spread), asked.Add(c.ttl)})
	case f.err == nil: // overtaken: good for those who asked before, not for those who come after
	case !storeTrouble(f.err):
		delete(c.young, k)
		delete(c.old, k)
	case ok && now.Before(have.until):
		have.fresh = now.Add(staleRecheck)
		if have.fresh.After(have.until) {
			have.fresh = have.until
		}
		c.set(k, have)
		f.value, f.err = have.value, nil
	}
	close(f.done)
}

// put stores an answer for the whole ttl.
func (c *cache[K, V]) put(k K, v V) {
	until := c.now().Add(c.ttl)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(k, entry[V]{v, until, until})
}

// drop forgets every answer match picks.
func (c *cache[K, V]) drop(match func(K, V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.era++
	for _, half := range []map[K]entry[V]{c.young, c.old} {
		for k, e := range half {
			if match(k, e.value) {
				delete(half, k)
			}
		}
	}
}

// forget is drop for one key.
func (c *cache[K, V]) forget(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.era++
	delete(c.young, k)
	delete(c.old, k)
}

func (c *cache[K, V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.era++
	c.young, c.old = map[K]entry[V]{}, nil
}

// find and set are called with the lock held.
func (c *cache[K, V]) find(k K) (entry[V], bool) {
	if e, ok := c.young[k]; ok {
		return e, true
	}
	e, ok := c.old[k]
	if ok {
		delete(c.old, k)
		c.set(k, e)
	}
	return e, ok
}

func (c *cache[K, V]) set(k K, e entry[V]) {
	if _, ok := c.young[k]; !ok && len(c.young) >= c.max/2 {
		c.old, c.young = c.young, map[K]entry[V]{}
	}
	c.young[k] = e
}

// storeTrouble reports whether err says something of the store rather than of what was asked.
func storeTrouble(err error) bool {
	switch fault.From(err).Kind {
	case fault.Internal, fault.Unavailable, fault.Timeout:
		return true
	}
	return false
}

// storeFault gives a store that did not answer in time its kind.
func storeFault(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fault.Wrap(fault.Unavailable, err, "the gateway's storage did not answer in time").WithCode("storage_unavailable").After(time.Second)
	}
	return err
}
