package gateway

import (
	"context"
	"slices"
	"strconv"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/metering"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/router/failover"
	"threadhub/threads"
	"threadhub/upstreams"
)

// place is where an attempt may go: a target, asked with one of the org's keys.
type place struct {
	target routing.Target
	key    orgs.KeyName
}

// aim is what an attempt asks, and of whom. Each further attempt has one of its own; that of the last one that was made
// is the call's.
type aim struct {
	at    int  // route: of the call's places
	fresh bool // attempts: it takes a connection of its own

	target routing.Target // route
	route  routing.Route  // route

	history [][]byte       // fit: what of the thread goes before the request
	instead map[int][]byte // fit: the thread's own messages in place of the request's, by their places
	untold  []string       // fit: warnings of what of both the provider is not told as it was

	hold metering.PicoUSD // admit

	body []byte             // translate: in the OpenAI dialect
	size int64              // translate: bytes of what the model reads, for the estimate where usage is missing
	ask  *upstreams.Request // translate: the same for the provider, without what only call knows
	key  seal.Secret        // translate
}

// past is an attempt that brought no answer, and was followed by another.
type past struct {
	target routing.Target
	end    calls.AttemptEnd
	hold   metering.PicoUSD // the worst it may have cost: 0 if it cannot be billed
}

// places are all that may be asked for one of targets: each with each of the org's keys, as far as the caller's key is
// good for it, the best first.
func (g *Gateway) places(ctx context.Context, c orgs.Caller, targets []routing.Target) (list []place, err error) {
	for _, t := range targets {
		if !reaches(c, t) {
			continue
		}
		names, err := g.opts.Purse.KeyNames(ctx, c.Org, t.Provider)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if p := (place{t, name}); !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list, nil
}

// aimFirst chooses whom of e.places to ask first.
func (g *Gateway) aimFirst(e *exchange) error {
	known := make([]failover.Place, len(e.places))
	for i, p := range e.places {
		known[i] = failover.Place{
			Org: e.caller.Org, Provider: p.target.Provider, Model: p.target.Model, Key: p.key.Name + "/" + strconv.Itoa(p.key.Version),
		}
	}
	e.tries = g.failover.Call(known)
	step := e.tries.First(time.Now())
	if !step.Ask {
		return shut(e.places[0].target.Provider, step.Wait)
	}
	e.at, e.target = step.Place, e.places[step.Place].target
	var passed []string
	for _, p := range e.places[:step.Place] {
		if why := name(p.target) + " is left alone for a while"; p.target != e.target && !slices.Contains(passed, why) {
			passed = append(passed, why)
		}
	}
	e.route.Reason = withReasons(e.route.Reason, passed)
	return nil
}

func name(t routing.Target) string { return t.Provider + " " + t.Model }

func withReasons(reason string, more []string) string {
	for _, m := range more {
		reason += "; " + m
	}
	return reason
}

// codeShut is the code of what is not asked, as it has failed too often.
const codeShut = "upstream_unavailable"

// shut is what a client is told when nothing may be asked for now.
func shut(provider string, wait time.Duration) error {
	return fault.New(fault.Upstream, "%s has failed too often in the last seconds to be asked again at once", provider).WithCode(codeShut).After(wait)
}

// attempts asks the provider, and where that may help, whoever may do better, until an answer has begun: from then on
// nothing is asked again. What it returns is the error of the last attempt.
//
// For as long as no answer has begun, the client's connection is looked at now and then: a peer that has reset it wants
// none.
func (g *Gateway) attempts(x *request, e *exchange, w way) error {
	watch := g.watch(x, func(left time.Time) bool { return g.outlives(e, left) })
	defer watch.stop()
	if e.streams() { // of a stream it can be ended as long as it runs
		x.load.streams(watch.cancel, func() {})
	}
	defer func() { e.tries.Ended(failover.Event{}, time.Now()) }() // of a panic: whatever it was, it is over
	for {
		err := g.attempt(x, e, w)
		step := e.tries.Ended(eventOf(err), time.Now())
		g.metrics.health(e.target.Provider, step)
		if err == nil || !g.further(x, e, w, err, step) {
			return err
		}
	}
}

// attempt makes one, unless something has happened meanwhile that speaks against it.
func (g *Gateway) attempt(x *request, e *exchange, w way) error {
	if !e.tries.Begin(e.at, time.Now()) {
		return shut(e.target.Provider, time.Second)
	}
	return g.call(x, e, w)
}

// eventOf says in the engine's words how an attempt ended.
func eventOf(err error) failover.Event {
	if err == nil {
		return failover.Event{Outcome: failover.Answered}
	}
	f, failure := fault.From(err), upstreams.FailureOf(err)
	ev := failover.Event{Wait: failure.RetryAfter, Billed: failure.MaybeBilled}
	said := failure.Status >= 400 || failure.Body != nil // the provider, with a status or in an answer
	ours := f.Kind == fault.Upstream || f.Kind == fault.Timeout || f.Kind == fault.RateLimited
	status := failure.Status
	switch {
	case f.Code == codeShut:
		ev.Outcome = failover.Shut
	case f.Code == "upstream_auth", f.Code == "insufficient_quota",
		f.Kind == fault.Denied && said, f.Code == "model_not_found" && status == 403: // what the key may not do, or use
		ev.Outcome = failover.Rejected
	case !ours: // the client has to change something, or has left; or it is our own failure
	case f.Kind == fault.RateLimited:
		ev.Outcome = failover.Limited
	case failure.Stale:
		ev.Outcome = failover.Stale
	case f.Code == "upstream_unreachable":
		ev.Outcome = failover.Unreachable
	case f.Kind == fault.Timeout && status == 0:
		ev.Outcome = failover.Silent
	case status < 400 && failure.Body == nil, failure.MaybeBilled, usageIn(failure.Body) != nil:
		ev.Outcome = failover.Lost
	default:
		ev.Outcome = failover.Failed
	}
	return ev
}

// further makes ready for the attempt that step says, and has it durable before it is made; false: there is none, and e is
// as the last one left it. A target that does not take the request is passed over.
func (g *Gateway) further(x *request, e *exchange, w way, err error, step failover.Step) bool {
	if !step.Ask {
		return false
	}
	last := e.aim
	var turn threads.Turn
	if e.turn != nil {
		turn = *e.turn
	}
	before := tried(e, err)
	for ; step.Ask && pause(x.ctx, step.After); step = e.tries.Skip(step.Place, time.Now()) {
		e.aim = aim{at: step.Place, fresh: step.How == failover.Fresh, target: e.places[step.Place].target, route: last.route}
		if e.target != last.target {
			e.route.Reason = withReasons(e.route.Reason, []string{name(last.target) + " was tried and failed: " + before.end.Code})
		}
		if unfit := g.retarget(x.ctx, e, w); unfit != nil {
			g.opts.Log.Info("a target does not take the request and is passed over", "request_id", e.id, "provider", e.target.Provider, "error", scrub(fault.From(unfit).Message))
			continue
		}
		if !g.beginFurther(x.ctx, e, before) {
			break
		}
		g.metrics.further(e.target.Provider, step.How)
		return true
	}
	e.aim = last
	if e.turn != nil {
		*e.turn = turn
	}
	return false
}

// retarget is what of the way there is to walk again for another attempt.
func (g *Gateway) retarget(ctx context.Context, e *exchange, w way) error {
	for _, step := range []func(*Gateway, context.Context, *exchange) error{(*Gateway).fit, (*Gateway).limitTarget, w.admit, w.translate} {
		if err := step(g, ctx, e); err != nil {
			return err
		}
	}
	e.files = nil
	return nil
}

// beginFurther commits a further attempt, and the end of the one before it. What that may be billed stays reserved beside what
// this one may cost.
func (g *Gateway) beginFurther(ctx context.Context, e *exchange, before past) bool {
	hold := e.hold + before.hold
	for _, t := range e.tried {
		hold += t.hold
	}
	if e.bound() { // holds only grow: to give some of it back would be one change of the budgets more
		hold = max(hold, metering.PicoUSD(e.opening.HoldPico))
		if int64(hold) > e.opening.HoldPico && !g.more(ctx, e, hold) {
			return false
		}
	}
	f := &calls.Further{
		Org: e.caller.Org, ID: e.id, Before: before.end, N: e.n() + 1,
		Provider: e.target.Provider, Model: e.target.Model, KeyName: e.keyName(), HoldPico: int64(hold),
		Aim: calls.Aim{
			Provider: e.target.Provider, Model: e.target.Model, Why: e.route.Reason, InputBytes: e.size, Warnings: e.warnings(),
		},
	}
	if e.turn != nil {
		f.Aim.ThreadOmitted = e.turn.Omitted
	}
	u := &db.Unit{Org: e.caller.Org}
	g.opts.Calls.Further(u, f)
	err := g.opts.Store.Commit(ctx, u)
	chaos.Point("attempt")
	switch {
	case err == nil && !f.Begun:
		err = errLostLease
	case fault.HasCode(err, "outcome_unknown"):
		e.unsure = f
	}
	if err != nil {
		g.opts.Log.Warn("a further attempt could not be recorded and is not made", "request_id", e.id, "error", err)
		return false
	}
	e.tried = append(e.tried, before)
	g.metrics.attempts.WithLabelValues(before.target.Provider, string(before.end.State)).Inc()
	f.Aim.Set(&e.opening.Facts)
	return true
}

// tried is the attempt that err ended.
func tried(e *exchange, err error) past {
	end := failedTry(err)
	now := time.Now()
	t := past{target: e.target, end: calls.AttemptEnd{
		N: e.n(), State: end.state, Status: end.status, Code: end.code, UpstreamID: clean(end.upstreamID), MaybeBilled: end.maybeBilled, TotalMS: sinceMS(e.asked, now),
	}}
	if end.maybeBilled {
		t.hold = e.hold
	}
	e.waited += now.Sub(e.asked)
	return t
}

// n is the number of the attempt that is under way, or was the last one.
func (e *exchange) n() int { return len(e.tried) }

// keyName is the name of the key that it is made with.
func (e *exchange) keyName() string {
	if len(e.places) == 0 {
		return ""
	}
	return e.places[e.at].key.Name
}

// pause waits for d; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
