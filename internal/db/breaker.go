package db

import (
	"sync"
	"time"

	"threadhub/internal/seedbug"
)

// The breaker: after this many failures to reach the store in a row what a client waits for fails at once, but for one
// probe a second.
const (
	breakAfter = 5
	probeEach  = time.Second
)

// breaker counts whether the store could be talked to at all, for all that talk to it.
type breaker struct {
	now func() time.Time

	mu       sync.Mutex
	failures int
	probe    time.Time // when the next one is let through
}

func newBreaker() *breaker { return &breaker{now: time.Now} }

// allow reports whether the store may be asked. Whoever is the probe of its second may.
func (b *breaker) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter || seedbug.On("no-breaker") {
		return true
	}
	now := b.now()
	if now.Before(b.probe) {
		return false
	}
	b.probe = now.Add(probeEach)
	return true
}

// reached counts one try.
func (b *breaker) reached(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.failures = 0
		return
	}
	if b.failures++; b.failures == breakAfter {
		b.probe = b.now().Add(probeEach)
	}
}

func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= breakAfter
}
