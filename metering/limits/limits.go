// Package limits says whether a call may be made now: so many requests and tokens a minute, and so many streams at a time,
// for an org, a user, an API key, or what one of them asks of one model.
//
// It promises that a call is counted against all the levels it is under or against none; that no level gives out more than
// its limit at once, and no more than its limit a minute for as long as anybody asks (GCRA, whose burst is one minute's
// worth); that what a call turns out to have used is counted, whatever it was thought to need; and that a Redis that is away
// neither opens a limit nor refuses anybody: each process gives out its share then. Whose limits there are, and which calls
// are under them, is for others to say.
//
// Requests are counted when they are let in. Tokens are held while their call runs, so that calls that run at once cannot
// use more than there is, and are counted by what was used when it has ended; so are streams, of which nothing is left then.
package limits

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"threadhub/internal/contain"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Kind is what a level counts.
type Kind uint8

const (
	Requests Kind = iota // a minute
	Tokens               // a minute
	Streams              // at a time
)

func (k Kind) String() string { return [...]string{"requests", "tokens", "streams"}[k] }

// Scope is whom a level is for.
type Scope string

const (
	Org  Scope = "org"
	User Scope = "user"
	Key  Scope = "key"
)

// Most is the largest limit there may be: what is counted stays exact, in Lua's numbers too.
const Most = 1_000_000_000

// Level is one limit: at most Limit of a Kind for whom it is for.
type Level struct {
	Scope Scope
	ID    string // of the org, user or key
	Model string // only what is asked of this model; "": of all together
	Kind  Kind
	Limit int64 // 1 to Most
}

// Want is what a call wants of a level.
type Want struct {
	Level
	N   int64
	had int64 // what it has of it already
}

// Use is what a call took of a level, and what it came to. Streams come to nothing.
type Use struct {
	Level
	Taken, Used int64
}

// Room is how a level stands.
type Room struct {
	Level
	Left int64         // what may be taken now
	Full time.Duration // until all of the limit is there again, if nobody takes more
}

// Limiter counts. Safe for concurrent use. It has two backends, for a process that is alone and for many that share a Redis.
type Limiter interface {
	// Take counts all wants, each of another level, or none of them, and says how their levels stand then. It waits no
	// longer than a command of Redis may take, and mostly not at all. Errors: fault.RateLimited, rate_limit_exceeded, with the
	// time after which it may be different, or tokens_exceed_limit for what no waiting helps; the cause of ctx's end.
	Take(ctx context.Context, org id.Org, wants []Want) ([]Room, error)

	// Settle ends what was taken. It does not wait.
	Settle(org id.Org, uses []Use)

	Close() error
}

// Options of both backends. The zero value works.
type Options struct {
	Log      *slog.Logger
	Panics   *contain.Panics      // of the whole process; nil: they are not counted
	Registry *prometheus.Registry // nil: nothing is counted
	Now      func() time.Time     // nil: time.Now

	// Of Redis alone.
	Timeout  time.Duration // the longest a call waits for Redis; 0: 30 ms
	Replicas func() int    // how many processes there are, as last known: what a share is part of; nil: one

	redisTime func() int64 // in ms, in place of Redis's own clock
	noTicks   bool         // tick is called by the test
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Millisecond
	}
	if o.Replicas == nil {
		o.Replicas = func() int { return 1 }
	}
	return o
}

// clock returns one that counts milliseconds from now on.
func (o Options) clock() func() int64 {
	start := o.Now()
	return func() int64 { return o.Now().Sub(start).Milliseconds() }
}

// counts are the metrics of either backend.
type counts struct {
	taken, refused *prometheus.CounterVec
}

// How a call was decided.
const (
	byLease = "lease" // in memory
	byRedis = "redis" // Redis was asked
	byShare = "share" // Redis is away
)

func newCounts(reg *prometheus.Registry, degraded func() bool) *counts {
	c := &counts{
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_limits_taken_total", Help: "Calls let in by their limits: in memory (lease), by Redis, or by this process's share of the limit while Redis is away (share).",
		}, []string{"by"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_limits_refused_total", Help: "Calls refused by a limit, by what it counts and whom it is for.",
		}, []string{"limit", "scope"}),
	}
	if reg != nil {
		reg.MustRegister(c.taken, c.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "threadhub_limits_degraded", Help: "Whether limits are kept by shares of each process, as Redis does not answer.",
		}, func() float64 {
			if degraded() {
				return 1
			}
			return 0
		}))
	}
	return c
}

// refuse is the answer to a call that a level has no room for.
func (c *counts) refuse(l Level, wait time.Duration) error {
	c.refused.WithLabelValues(l.Kind.String(), string(l.Scope)).Inc()
	return fault.New(fault.RateLimited, "%s %s; try again in %v", l.whose(), l.text(), wait).WithCode("rate_limit_exceeded").After(wait)
}

// never is the answer to a call that wants more of a level than there ever is.
func (c *counts) never(w Want) error {
	c.refused.WithLabelValues(w.Kind.String(), string(w.Scope)).Inc()
	return fault.New(fault.RateLimited, "this request may take %d %s, and %s %s: ask for fewer, with a shorter request or a smaller max_tokens", w.had+w.N, w.Kind, w.whose(), w.text()).
		WithCode("tokens_exceed_limit").NoRetry()
}

func (l Level) whose() string {
	return map[Scope]string{Org: "the organisation", User: "the user", Key: "the API key"}[l.Scope]
}

func (l Level) text() string {
	per := "per minute"
	if l.Kind == Streams {
		per = "at a time"
	}
	text := fmt.Sprintf("is limited to %d %s %s", l.Limit, l.Kind, per)
	if l.Model != "" {
		text += " of " + l.Model
	}
	return text
}

// returned is of a call that took all it wanted and was not made.
func returned(wants []Want) []Use {
	uses := make([]Use, len(wants))
	for i, w := range wants {
		uses[i] = Use{Level: w.Level, Taken: w.N}
	}
	return uses
}

// Grant is what one call has taken. Make one with NewGrant; a nil Grant is a call that is under no limit. Safe for
// concurrent use.
type Grant struct {
	from Limiter
	org  id.Org

	mu   sync.Mutex
	uses []Use
	over bool
}

// NewGrant is the grant of a call of org that has taken nothing yet.
func NewGrant(from Limiter, org id.Org) *Grant { return &Grant{from: from, org: org} }

// Take is Limiter's, of as much as is missing for the call to have all of wants: to take the same again takes nothing.
func (g *Grant) Take(ctx context.Context, wants []Want) ([]Room, error) {
	missing := g.missing(wants)
	if len(missing) == 0 {
		return nil, nil
	}
	rooms, err := g.from.Take(ctx, g.org, missing)
	if err != nil {
		return rooms, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	uses := returned(missing)
	if g.over { // nobody would end it any more
		g.from.Settle(g.org, uses)
		return rooms, nil
	}
	g.uses = append(g.uses, uses...)
	return rooms, nil
}

func (g *Grant) missing(wants []Want) (missing []Want) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range wants {
		for _, u := range g.uses {
			if u.name() == w.name() {
				w.had += u.Taken
			}
		}
		if w.N -= w.had; w.N > 0 {
			missing = append(missing, w)
		}
	}
	return missing
}

// Leave ends what was taken of the levels of models that leaves picks, which answered nothing: requests were made of them,
// and no more.
func (g *Grant) Leave(leaves func(model string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var left, kept []Use
	for _, u := range g.uses {
		if u.Model == "" || !leaves(u.Model) {
			kept = append(kept, u)
			continue
		}
		if u.Kind == Requests {
			u.Used = u.Taken
		}
		left = append(left, u)
	}
	g.uses = kept
	g.from.Settle(g.org, left)
}

// Settle ends the call, which has used so many tokens. Only the first end of a call counts.
func (g *Grant) Settle(tokens int64) {
	g.end(func(u *Use, first bool) {
		switch {
		case u.Kind == Requests:
			u.Used = u.Taken
		case u.Kind == Tokens && first:
			u.Used = tokens
		}
	})
}

// Return ends a call that was not made: it takes nothing.
func (g *Grant) Return() { g.end(func(*Use, bool) {}) }

// Lose ends a call of which nobody knows what it used: as much as it might have.
func (g *Grant) Lose() {
	g.end(func(u *Use, _ bool) { u.Used = u.Taken })
}

// end says of each use what it came to; first tells the first one of its level.
func (g *Grant) end(used func(u *Use, first bool)) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	g.over = true
	seen := make(map[name]bool, len(g.uses))
	for i := range g.uses {
		u := &g.uses[i]
		used(u, !seen[u.name()])
		seen[u.name()] = true
	}
	g.from.Settle(g.org, g.uses)
	g.uses = nil
}
