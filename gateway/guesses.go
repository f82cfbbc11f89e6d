package gateway

import (
	"net/netip"
	"sync"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// guesses bounds how often keys that nobody has vouched for are looked up and turn out to be bad: so often a minute for
// each address they come from, half of that at once. A key that was good is never asked for leave, so a bad neighbour
// behind the same address shuts nobody out; a key that is new to this process may have to come again.
//
// Guesses at one key's id, from wherever they come, have the same bound, but for the first of each address: else
// whoever knows the id could shut its owner out.
//
// Nothing is shared between processes. An address is forgotten when its debt is over, or when a great many others came
// after it: memory is bounded.
type guesses struct {
	every time.Duration // a failure is forgiven after so long
	ahead time.Duration // of failures not yet forgiven, at most

	mu         sync.Mutex
	young, old map[suspect]time.Time // when all is forgiven
}

// suspect is an address that guesses come from, or a key's id that they are at.
type suspect struct {
	from netip.Addr
	key  id.Key
}

// maxSuspects is how many are kept in each half.
const maxSuspects = 16 << 10

// newGuesses allows perMinute; nil, which allows all, for none or less.
func newGuesses(perMinute int64) *guesses {
	if perMinute <= 0 {
		return nil
	}
	// In no minute can it be more than perMinute: half at once, half forgiven one by one.
	burst := (perMinute + 1) / 2
	every := time.Minute / time.Duration(max(perMinute-burst, 1))
	return &guesses{every: every, ahead: every * time.Duration(burst), young: map[suspect]time.Time{}}
}

// leave is orgs.Leave for what x shows.
func (x *request) leave(key id.Key) (settle func(bad bool), err error) {
	g := x.g.guesses
	if g == nil {
		return func(bool) {}, nil
	}
	from, at := suspect{from: network(x.rc.RemoteIP())}, suspect{key: key}
	if wait := g.take(from, at, time.Now()); wait > 0 {
		return nil, fault.New(fault.RateLimited, "too many requests with API keys that are not valid; this one was not looked at").
			WithCode("rate_limit_exceeded").After(wait)
	}
	return func(bad bool) {
		if !bad {
			g.giveBack(from, at)
		}
	}, nil
}

// network is what one subscriber has: an address of IPv4, a /64 of IPv6.
func network(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	if a = a.Unmap(); a.Is6() {
		p, _ := a.Prefix(64)
		return p.Addr()
	}
	return a
}

// take counts a failure in advance, or says how long there is to wait for leave.
func (g *guesses) take(from, at suspect, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	owes, owed := g.debt(from, now), g.debt(at, now)
	wait = owes + g.every - g.ahead
	if owes > 0 {
		wait = max(wait, owed+g.every-g.ahead)
	}
	if wait > 0 {
		return wait
	}
	g.set(from, now.Add(owes+g.every))
	g.set(at, now.Add(owed+g.every))
	return 0
}

// giveBack takes a failure back that was none.
func (g *guesses) giveBack(all ...suspect) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range all {
		if until, ok := g.find(s); ok {
			g.set(s, until.Add(-g.every))
		}
	}
}

// debt is how long it is until all is forgiven.
func (g *guesses) debt(s suspect, now time.Time) time.Duration {
	until, _ := g.find(s)
	return max(until.Sub(now), 0)
}

// find and set are called with the lock held.
func (g *guesses) find(s suspect) (time.Time, bool) {
	if until, ok := g.young[s]; ok {
		return until, true
	}
	until, ok := g.old[s]
	if ok {
		delete(g.old, s)
		g.set(s, until)
	}
	return until, ok
}

// set drops the old half when the young one is full, so that what is used stays.
func (g *guesses) set(s suspect, until time.Time) {
	if _, ok := g.young[s]; !ok && len(g.young) >= maxSuspects {
		g.old, g.young = g.young, map[suspect]time.Time{}
	}
	g.young[s] = until
}
