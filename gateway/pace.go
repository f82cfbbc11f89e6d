package gateway

import (
	"sync"
	"time"

	"threadhub/internal/id"
)

// pace lets each org do something so many times within a span of time, in this process. Safe for concurrent use.
type pace struct {
	most   int
	within time.Duration
	now    func() time.Time

	mu   sync.Mutex
	done map[id.Org][]time.Time // of those who did it within the span, oldest first
}

func newPace(most int, within time.Duration, now func() time.Time) *pace {
	return &pace{most: most, within: within, now: now, done: map[id.Org][]time.Time{}}
}

// take counts one more time, or says how long the org has to wait for it.
func (p *pace) take(org id.Org) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for o, times := range p.done {
		for len(times) > 0 && now.Sub(times[0]) >= p.within {
			times = times[1:]
		}
		if p.done[o] = times; len(times) == 0 {
			delete(p.done, o)
		}
	}
	times := p.done[org]
	if len(times) >= p.most {
		return p.within - now.Sub(times[0]), false
	}
	p.done[org] = append(times, now)
	return 0, true
}
