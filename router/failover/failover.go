// Package failover decides what follows when an attempt at a provider has ended: nothing, the same once more, another of
// the org's keys, or another target. It knows which of them were asked for rest, which have failed too often, and how many
// retries there have been.
//
// It promises that nothing is asked again once an answer has begun, that what may have been billed is asked again only at
// providers that are marked safe for it, that a place which asked for rest is left alone for as long as there is another, that
// one which fails is left alone in any case, and that retries stay within their budget. It does no I/O, has no goroutines and does not wait: what happened and when is told to
// it, and it says what to do. Only the breakers (gobreaker) look at the clock themselves, so the times it is told must be
// the clock's. It leaves to others to ask, to record, and to know what an error means.
package failover

import (
	"math/rand/v2"
	"sync"
	"time"

	"threadhub/internal/id"
)

// Place is where an attempt may go: a model at a provider, asked with one of the org's keys.
type Place struct {
	Org      id.Org
	Provider string
	Key      string // which key, and which version of it: a new one starts with a clean slate
	Model    string
}

// Outcome is how an attempt ended.
type Outcome uint8

const (
	Refused     Outcome = iota // nobody else would do better, or nobody waits for an answer any more
	Answered                   // the answer has begun
	Rejected                   // the key is no good, may not do this, or has no credit
	Limited                    // the key is asked to slow down
	Failed                     // the provider said that it failed: nothing is billed
	Unreachable                // nothing was sent
	Stale                      // sent on a kept connection that had been closed: nobody has read it
	Lost                       // sent, and no answer came: it may be billed
	Silent                     // as Lost, and the time there was for it is over
	Shut                       // it was not asked after all: its breaker had opened, or it does not take the request
)

// Event is the end of an attempt.
type Event struct {
	Outcome Outcome
	Wait    time.Duration // how long the provider asked to be left alone; 0: it did not
	Billed  bool          // it may be billed, whatever the outcome: an earlier request of the attempt was answered
}

// How is what an attempt is to the one before it.
type How uint8

const (
	First      How = iota
	Retry          // the same once more
	Fresh          // the same, on a connection of its own
	NextKey        // the same target with another key
	NextTarget     // another target
)

func (h How) String() string {
	return [...]string{"first", "retry", "fresh", "key", "target"}[h]
}

// Step is what to do next.
type Step struct {
	Ask   bool // whether to ask; false: it is over
	Place int  // whom, of the call's places
	How   How
	After time.Duration // how long to wait before

	Spent bool // it is over only because the budget for retries is spent

	// What the attempt that ended has done to its place.
	Cooled bool // it is left alone for a while
	Opened bool // its breaker has opened

	Wait time.Duration // where nothing may be asked, not even first: when something may be
}

// Options are what an operator may set. The zero value works.
type Options struct {
	Retries   int             // of the same, for one call; 0: 2; negative: none, nor on a new connection
	RetrySafe map[string]bool // providers at which what may have been billed may be asked again
	NoBreaker bool            // failures open no breaker
	Rand      *rand.Rand      // for jitter; nil: one of its own
}

// What is not the operator's to choose.
const (
	most        = 8                // attempts of one call
	window      = 10 * time.Second // of the budget and of the breakers
	share       = 10               // one retry for so many first attempts at a provider,
	floor       = 3                // and so many in any case
	backoff     = 200 * time.Millisecond
	maxPause    = 2 * time.Second // longer is not waited for: the client may
	maxCool     = time.Hour
	coolLimited = 5 * time.Second // where the provider does not say
	coolKey     = time.Minute
)

// Engine keeps what is known of all places. Safe for concurrent use.
type Engine struct {
	retries int
	safe    map[string]bool
	breaks  bool

	mu       sync.Mutex
	rand     *rand.Rand
	rests    map[Place]time.Time // until when it had better be left alone; without a model: all of the key's
	breakers map[Place]*breaker
	budgets  map[string]*budget // by provider
	sweepAt  int
}

// New returns an engine that knows of nothing bad.
func New(o Options) *Engine {
	e := &Engine{
		retries: max(o.Retries, 0), safe: o.RetrySafe, breaks: !o.NoBreaker, rand: o.Rand,
		rests: map[Place]time.Time{}, breakers: map[Place]*breaker{}, budgets: map[string]*budget{}, sweepAt: firstSweep,
	}
	if o.Retries == 0 {
		e.retries = 2
	}
	if e.rand == nil {
		e.rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return e
}

// key is what a breaker, or a rest of all its models, is kept under.
func (p Place) key() Place {
	p.Model = ""
	return p
}

// target reports whether two places are one target.
func (p Place) target(q Place) bool { return p.Provider == q.Provider && p.Model == q.Model }

// resting is for how long from now on p had better be left alone.
func (e *Engine) resting(p Place, now time.Time) time.Duration {
	return max(e.rests[p].Sub(now), e.rests[p.key()].Sub(now), 0)
}

// cool leaves p alone for d. It shortens no rest.
func (e *Engine) cool(p Place, d time.Duration, now time.Time) {
	if until := now.Add(min(d, maxCool)); until.After(e.rests[p]) {
		e.rests[p] = until
	}
	e.sweep(now)
}

// pause is how long to wait before retry n of a call, from 0: longer each time, and never the same for all.
func (e *Engine) pause(n int) time.Duration {
	d := min(backoff<<n, maxPause)
	return d/2 + time.Duration(e.rand.Int64N(int64(d/2)))
}

// firstSweep is how many places are kept before what has passed is forgotten.
const firstSweep = 4096

// sweep forgets what has passed, when there is a lot.
func (e *Engine) sweep(now time.Time) {
	if len(e.rests)+len(e.breakers) < e.sweepAt {
		return
	}
	for p, until := range e.rests {
		if !until.After(now) {
			delete(e.rests, p)
		}
	}
	for p, b := range e.breakers {
		if b.idle(now) {
			delete(e.breakers, p)
		}
	}
	e.sweepAt = max(firstSweep, 2*(len(e.rests)+len(e.breakers)))
}
