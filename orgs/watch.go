package orgs

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

const (
	watchTicks = 30 // a watch looks at its clock so often in a KeyTTL
	watchBatch = 64 // keys asked for before what changed meanwhile is looked at
	watchWidth = 4  // look-ups under way at a time
)

// watches are the keys of calls that run. One goroutine of the Service asks the store for them again: for those the bus
// named at once, for one that was not asked for yet within a thirtieth of KeyTTL (what let it in may be nearly as old as
// KeyTTL), for all others after half of it.
type watches struct {
	mu    sync.Mutex
	keys  map[watchedKey]*watchedCalls
	alarm chan struct{} // holds one when the bus named some of them
}

type watchedKey struct {
	org id.Org
	key id.Key
}

// watchedCalls are the calls of one key. They stay for a while after the last of them, so that a key of many short calls
// is not asked for at each.
type watchedCalls struct {
	calls   map[*watchedCall]struct{}
	asked   time.Time // when the store last vouched for the key; zero: it was not asked yet
	as      known     // as what
	alarmed bool      // the bus named it after that
}

type watchedCall struct {
	still func(Caller) error
	gone  func(error)
}

// revoked is the end of a call that runs when its key may be used no longer.
func revoked() *fault.Error {
	return fault.New(fault.Unauthorized, "the API key of this request was revoked while it ran, or may be used no longer").
		WithCode("key_revoked").NoRetry()
}

// Watch calls gone, once, when a call of the caller may go on no longer: with fault.Unauthorized, key_revoked, when its
// key has ended or its owner is shut out; with what still says, asked about the caller as it is by then, when that is an
// error. It happens as soon as the bus tells of a change, and within KeyTTL in any case; while the store is away nobody
// loses anything. Both are called on a goroutine that all calls share: they must be quick. After stop gone is not
// called, unless that is under way; stopping again does nothing.
func (s *Service) Watch(caller Caller, still func(Caller) error, gone func(error)) (stop func()) {
	k := watchedKey{caller.Org, caller.Key}
	c := &watchedCall{still, gone}
	s.watches.add(k, c)
	return func() { s.watches.remove(k, c) }
}

func (w *watches) add(k watchedKey, c *watchedCall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.keys[k]
	if of == nil {
		of = &watchedCalls{calls: map[*watchedCall]struct{}{}}
		w.keys[k] = of
	}
	of.calls[c] = struct{}{}
	if !of.asked.IsZero() && c.still(of.as.Caller) != nil { // what let it in is older than what we know
		of.alarmed = true
		w.ring()
	}
}

// remove reports whether c was there.
func (w *watches) remove(k watchedKey, c *watchedCall) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.keys[k]
	if of == nil {
		return false
	}
	_, there := of.calls[c]
	delete(of.calls, c)
	return there
}

// named has the keys that match picks asked for at once.
func (w *watches) named(match func(watchedKey) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, of := range w.keys {
		if match(k) {
			of.alarmed = true
			w.ring()
		}
	}
}

func (w *watches) ring() {
	select {
	case w.alarm <- struct{}{}:
	default:
	}
}

// due takes up to watchBatch keys to ask for, first those that were named, and forgets keys that nobody uses.
func (w *watches) due(now time.Time, every time.Duration) []watchedKey {
	w.mu.Lock()
	defer w.mu.Unlock()
	var named, old []watchedKey
	for k, of := range w.keys {
		ended := !of.as.expires.IsZero() && !now.Before(of.as.expires)
		aged := ended || of.asked.IsZero() || now.Sub(of.asked) >= every
		switch {
		case len(of.calls) == 0 && (aged || of.alarmed):
			delete(w.keys, k)
		case of.alarmed:
			named = append(named, k)
		case aged:
			old = append(old, k)
		}
	}
	all := append(named, old...)
	all = all[:min(len(all), watchBatch)]
	for _, k := range all {
		w.keys[k].alarmed = false // what is named from here on is asked for again
	}
	return all
}

// running are the calls of k, now that the store, asked at the time asked, vouches for it as vouched.
func (w *watches) running(k watchedKey, asked time.Time, vouched known) []*watchedCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.keys[k]
	if of == nil {
		return nil
	}
	of.asked, of.as = asked, vouched
	return of.list()
}

// end forgets k and returns what ran on it.
func (w *watches) end(k watchedKey) []*watchedCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.keys[k]
	delete(w.keys, k)
	if of == nil {
		return nil
	}
	return of.list()
}

func (of *watchedCalls) list() []*watchedCall {
	list := make([]*watchedCall, 0, len(of.calls))
	for c := range of.calls {
		list = append(list, c)
	}
	return list
}

// watchCalls asks for keys that are due until ctx ends.
func (s *Service) watchCalls(ctx context.Context) {
	tick := time.NewTicker(max(s.o.KeyTTL/watchTicks, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.watches.alarm:
		case <-ctx.Done():
			return
		}
		for s.askAgain(ctx) {
		}
	}
}

// askAgain asks for one batch of keys, a few at a time, and reports whether there may be more to ask for at once.
func (s *Service) askAgain(ctx context.Context) bool {
	due := s.watches.due(s.now(), s.o.KeyTTL/2)
	keys := make(chan watchedKey, len(due))
	for _, k := range due {
		keys <- k
	}
	close(keys)
	var away atomic.Bool
	var wg sync.WaitGroup
	for range min(watchWidth, len(due)) {
		wg.Go(s.o.Panics.Wrap("orgs", func() {
			for k := range keys {
				if ctx.Err() == nil && !s.lookAfter(ctx, k) {
					away.Store(true)
				}
			}
		}))
	}
	wg.Wait()
	return len(due) == watchBatch && !away.Load() && ctx.Err() == nil
}

// lookAfter asks the store whether k is good still, and ends what may go on no longer. It reports whether the store said
// anything: if not, it is asked again at the next tick.
func (s *Service) lookAfter(ctx context.Context, k watchedKey) (answered bool) {
	defer s.o.Panics.Catch("orgs")
	chaos.Point("calls")
	asked := s.now()
	limit, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	vouched, err := s.standing(limit, k.org, k.key)
	switch {
	case err == nil && (vouched.expires.IsZero() || s.now().Before(vouched.expires)):
		for _, c := range s.watches.running(k, asked, vouched) {
			if why := c.still(vouched.Caller); why != nil && s.watches.remove(k, c) {
				s.forgetKey(k) // first, so that whoever is told finds the key known as it now is
				c.gone(why)
			}
		}
	case err == nil || fault.Is(err, fault.Unauthorized):
		s.forgetKey(k)
		for _, c := range s.watches.end(k) {
			c.gone(revoked())
		}
	default:
		s.watches.again(k)
		return false
	}
	return true
}

// again has k, for which the store said nothing, asked for at the next tick.
func (w *watches) again(k watchedKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if of := w.keys[k]; of != nil {
		of.alarmed = true
	}
}

// forgetKey drops what authentication remembers of a key that changed and that the bus did not name.
func (s *Service) forgetKey(k watchedKey) {
	s.callers.drop(func(_ keyHash, have known) bool { return have.Org == k.org && have.Key == k.key })
}
