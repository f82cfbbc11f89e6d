package gateway

import (
	"context"
	"slices"
	"strconv"
	"time"

	"threadhub/internal/chaos"
	"threadhub/metering/limits"
	"threadhub/openai"
	"threadhub/orgs"
	routing "threadhub/router"
)

// A call is counted against its limits in two steps (docs/decisions/0024): before anything is read for it, by what the
// request itself says; and once the model is known, and what of the thread goes before the request. Who is refused has taken
// nothing, and nothing of it is stored. What is answered without a call, as repeats are, is not counted.

// assumedAnswer is how long an answer is thought to become, in tokens, where the request does not say how long it may be.
const assumedAnswer = 1024

// limit is the step before load: the limits that hold for all models.
func (g *Gateway) limit(x *request, e *exchange) error {
	chaos.Point("limit")
	if g.opts.Limits == nil || len(e.caller.Limits) == 0 {
		return nil
	}
	if e.grant == nil {
		e.grant = limits.NewGrant(g.opts.Limits, e.caller.Org)
		x.grant = e.grant
	}
	return g.within(x.ctx, e, func(model string) bool { return model == "" })
}

// limitTarget is the step after fit: the limits of the model too, and what the thread adds.
func (g *Gateway) limitTarget(ctx context.Context, e *exchange) error {
	if e.grant == nil {
		return nil
	}
	e.grant.Leave(func(model string) bool { return !isModel(model, e.target) })
	return g.within(ctx, e, func(model string) bool { return model == "" || isModel(model, e.target) })
}

// isModel reports whether a limit's model is t: by its name, with or without its provider in front.
func isModel(model string, t routing.Target) bool {
	return model == t.Model || model == t.Provider+"/"+t.Model
}

// within takes what is still missing of the limits for some models.
func (g *Gateway) within(ctx context.Context, e *exchange, of func(model string) bool) error {
	stated, assumed := e.tokens()
	var wants []limits.Want
	want := func(l orgs.Limit, kind limits.Kind, limit, n int64) {
		if limit > 0 && n > 0 {
			wants = append(wants, limits.Want{Level: limits.Level{Scope: limits.Scope(l.Scope), ID: l.ID, Model: l.Model, Kind: kind, Limit: limit}, N: n})
		}
	}
	for _, l := range e.caller.Limits {
		if !of(l.Model) {
			continue
		}
		want(l, limits.Requests, l.Requests, 1)
		want(l, limits.Tokens, l.Tokens, stated+min(assumed, max(0, l.Tokens-stated)))
		if e.streams() {
			want(l, limits.Streams, l.Streams, 1)
		}
	}
	rooms, err := e.grant.Take(ctx, wants)
	for _, r := range rooms {
		e.rooms = append(slices.DeleteFunc(e.rooms, func(old limits.Room) bool { return old.Level == r.Level }), r)
	}
	return err
}

// tokens is what a call is thought to use: what it brings, and the longest answer it asks for; and beside it, where it does
// not say, what an answer is assumed to be.
func (e *exchange) tokens() (stated, assumed int64) {
	if e.embed != nil {
		return max(1, e.embed.InputBytes()/4), 0
	}
	beside := int64(len(e.req.Raw))
	for i := range e.req.Messages {
		beside -= int64(len(e.req.Messages[i].Raw))
		stated += openai.EstimateTokens(e.req.Messages[i].Raw)
	}
	stated += (beside + threadBytes(e)) / 4
	choices := min(max(e.req.N, 1), 128)
	if e.req.MaxTokens > 0 {
		return stated + e.req.MaxTokens*choices, 0
	}
	return stated, assumedAnswer * choices
}

// tellLimits says in the header how much is left, as OpenAI does: of the limit that has the least.
func (x *request) tellLimits(rooms []limits.Room) {
	h := &x.rc.Response.Header
	for kind, name := range map[limits.Kind]string{limits.Requests: "Requests", limits.Tokens: "Tokens"} {
		var tight *limits.Room
		for i, r := range rooms {
			if r.Kind == kind && (tight == nil || r.Left < tight.Left || r.Left == tight.Left && r.Full > tight.Full) {
				tight = &rooms[i]
			}
		}
		if tight != nil {
			h.Set("X-Ratelimit-Limit-"+name, strconv.FormatInt(tight.Limit, 10))
			h.Set("X-Ratelimit-Remaining-"+name, strconv.FormatInt(tight.Left, 10))
			h.Set("X-Ratelimit-Reset-"+name, tight.Full.Round(time.Millisecond).String())
		}
	}
}
