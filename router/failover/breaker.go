package failover

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A breaker opens when half of what a key was asked for within the window failed, and that was at least so much.
const (
	enough   = 20
	openFor  = 10 * time.Second
	idleFor  = time.Minute // after which it is forgotten: longer than the window, and than it stays open
	interval = window / time.Second
)

// breaker is one key's at one provider. It is used under the engine's lock.
type breaker struct {
	gate  *gobreaker.TwoStepCircuitBreaker[struct{}]
	until time.Time // open: until then
	used  time.Time
	under int // attempts under way
}

var (
	errFailed  = errors.New("failed")
	errNeutral = errors.New("says nothing of the provider")
)

func newBreaker() *breaker {
	b := &breaker{}
	b.gate = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  1, // of a breaker that is half open
		Interval:     window,
		BucketPeriod: window / interval,
		Timeout:      openFor,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			known := c.TotalSuccesses + c.TotalFailures // Requests counts what is under way, too
			return known >= enough && 2*c.TotalFailures >= known
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errNeutral) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				b.until = time.Now().Add(openFor)
			}
		},
	})
	return b
}

// shut is how long nothing may be asked from now on; 0: something may be.
func (b *breaker) shut(now time.Time) time.Duration {
	switch b.gate.State() {
	case gobreaker.StateOpen:
		return max(b.until.Sub(now), time.Millisecond)
	case gobreaker.StateHalfOpen:
		if c := b.gate.Counts(); c.Requests > c.TotalExclusions { // one probe at a time
			return time.Second
		}
	}
	return 0
}

func (b *breaker) idle(now time.Time) bool { return b.under == 0 && now.Sub(b.used) > idleFor }

// begin is the start of an attempt, unless none may be. end takes how it ended.
func (b *breaker) begin(now time.Time) (end func(error), ok bool) {
	if b.shut(now) > 0 {
		return nil, false
	}
	done, err := b.gate.Allow()
	if err != nil {
		return nil, false
	}
	b.used = now
	b.under++
	return func(err error) {
		b.under--
		done(err)
	}, true
}

// said is what an outcome tells of the provider.
func (o Outcome) said() error {
	switch o {
	case Answered:
		return nil
	case Failed, Unreachable, Lost, Silent:
		return errFailed
	}
	return errNeutral
}
