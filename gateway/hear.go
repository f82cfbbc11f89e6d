package gateway

import (
	"context"
	"io"
	"net"
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/sse"
	"threadhub/orgs"
)

// Who comes back for an answer hears it from a tape: of this process's own call, or of another's, which it tells of as far
// as Redis allows. See docs/decisions/0013-repeats.md and 0020-tapes-are-shared.md.

// lookEvery is how often the store is asked what became of a call of another process, which may have died.
const lookEvery = 5 * time.Second

// errInFlight is the answer to a repeat of a stream that another process makes and nobody can hear.
var errInFlight = fault.New(fault.Conflict, "the first request with this Idempotency-Key is still being answered by another replica; try again in a moment").
	WithCode("idempotency_in_flight").After(time.Second)

// hear answers with what is on a tape, as it comes. It reports false, and nothing has been answered, if that is no
// complete answer.
func (g *Gateway) hear(x *request, t *calls.Tape, stream bool) bool {
	t.Follow(1)
	defer t.Follow(-1)
	watch := g.watch(x, nil)
	defer watch.stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		h := t.After(0)
		switch {
		case h.Spilled || h.Over && !h.Complete || t.Stream != stream:
			return false
		case t.Stream && h.Begun:
			g.play(x, t, 0)
			return true
		case h.Over:
			x.answers = t.Call
			x.replayed(h.Header)
			x.rc.Response.SetBodyRaw(h.Body)
			return true
		}
		select {
		case <-h.More:
		case <-look.C:
			if t.Far() && g.settled(x, t.Call) {
				return false
			}
		case <-x.ctx.Done():
			x.fail(context.Cause(x.ctx))
			return true
		}
	}
}

// hearElsewhere answers as another process answers a call, if that can be followed. A whole answer is in the store as soon
// as it is there at all, so whoever cannot hear it may wait for that; a stream is not to be waited for to its end.
func (g *Gateway) hearElsewhere(x *request, call id.Request, stream bool) bool {
	t, err := g.tapes.Follow(x.ctx, call, x.who(), stream)
	if err != nil && stream {
		x.fail(errInFlight)
		return true
	}
	if t == nil {
		return false
	}
	defer t.Follow(-1)
	return g.hear(x, t, stream)
}

// adopt answers an SDK's retry with the answer of the call that it repeats, whichever process has that. Each call is given
// away once to the first retry, once to the second, and so on: an answer to a retry may be lost as well.
func (g *Gateway) adopt(x *request, e *exchange) bool {
	t, leave, err := g.alike(x, e)
	if err != nil {
		x.fail(err)
		return true
	}
	if t == nil {
		return false
	}
	defer leave()
	if e.alike == "" {
		e.alike = t.Call
	}
	if !t.Repeatable() {
		return false
	}
	first, err := g.opts.Calls.Adopt(x.ctx, t.For.Org, t.Call, e.retry)
	if err != nil {
		x.fail(err)
		return true
	}
	return first && g.hear(x, t, e.streams())
}

// overtaken stands for the number of a try that comes after its own retry.
const overtaken = -1

// missed reports whether a call that a retry may repeat has come to light since that was last looked at: the first try may
// have waited for the thread's turn just before it. The first try itself may come after a retry, which then was opened
// while it was on its way.
func (g *Gateway) missed(ctx context.Context, e *exchange) (bool, error) {
	if e.retry == 0 && e.claim == "" && e.named != "" {
		t := g.tapes.Alike(e.finger(), string(e.hash[:]), calls.Listener{Org: e.caller.Org, Key: e.caller.Key})
		if t != nil && t.Retry && e.arrived.Before(t.Opened) {
			e.retry, e.alike = overtaken, t.Call
			return true, nil
		}
	}
	if e.retry == 0 {
		return false, nil
	}
	c, err := g.opts.Calls.Alike(ctx, e.caller.Org, e.caller.Key, e.finger(), e.hash[:])
	if err != nil || c == nil || c.Call == e.alike {
		return false, err
	}
	e.alike = c.Call
	return true, nil
}

// alike returns the tape of the call that a retry repeats; nil if there is none that can be heard. Call leave after it.
func (g *Gateway) alike(x *request, e *exchange) (t *calls.Tape, leave func(), err error) {
	leave = func() {}
	if t = g.tapes.Alike(e.finger(), string(e.hash[:]), x.who()); t != nil && t.Repeatable() {
		return t, leave, nil
	}
	c, err := g.opts.Calls.Alike(x.ctx, x.caller.Org, x.caller.Key, e.finger(), e.hash[:])
	if err != nil || c == nil {
		return nil, leave, err
	}
	if t = g.tapes.Tape(c.Call, x.who()); t != nil {
		return t, leave, nil
	}
	if t, err = g.tapes.Follow(x.ctx, c.Call, x.who(), e.streams()); err != nil || t == nil {
		return nil, leave, nil //nolint:nilerr // what cannot be heard is asked again
	}
	leave = func() { t.Follow(-1) }
	if !c.Open && !g.toldOf(x, t) { // of an answer whose end is not known a retry would be given a part
		leave()
		return nil, func() {}, nil
	}
	return t, leave, nil
}

// toldOf waits until the end of a call that is closed is told, and reports whether it was. Where its process died after the
// record, it is not.
func (g *Gateway) toldOf(x *request, t *calls.Tape) bool {
	for {
		h := t.After(0)
		if h.Over || h.Spilled {
			return true
		}
		if g.settled(x, t.Call) {
			return false
		}
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-h.More:
		case <-timer.C:
		case <-x.ctx.Done():
		}
		timer.Stop()
		if x.ctx.Err() != nil {
			return false
		}
	}
}

// play streams a tape from after event n on.
func (g *Gateway) play(x *request, t *calls.Tape, n int) {
	t.Follow(1)
	x.answers = t.Call
	x.replayed(t.After(n).Header)
	g.guard(x, func(orgs.Caller) error { return nil })
	x.rc.SetContentType("text/event-stream; charset=utf-8")
	h := &x.rc.Response.Header
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	x.rc.Response.ImmediateHeaderFlush = true
	p := &player{g: g, x: x, t: t, n: n, conn: x.conn(), ctx: x.ctx, release: x.hold(), look: time.NewTicker(lookEvery)}
	x.rc.SetBodyStream(p, -1)
}

// player is a stream that is taken from a tape.
type player struct {
	g       *Gateway
	x       *request
	t       *calls.Tape
	n       int // the last event that was taken
	out     []byte
	over    bool
	conn    net.Conn
	ctx     context.Context
	release func()
	look    *time.Ticker // at what became of another process's call
	looked  bool         // once, as soon as there was nothing more to hear
}

// Read gives fasthttp the next piece, or a sign of life when there is none for a while: a client that left is noticed by it.
func (p *player) Read(b []byte) (int, error) {
	for len(p.out) == 0 {
		if p.over {
			return 0, io.EOF
		}
		p.take()
	}
	n := copy(b, p.out)
	p.out = p.out[n:]
	p.x.sent(n)
	return n, nil
}

func (p *player) take() {
	h := p.t.After(p.n)
	switch {
	case h.Spilled:
		p.last(errExpired)
		return
	case len(h.Body) > 0:
		p.out, p.n = h.Body, h.N
		return
	case h.Over:
		p.over = true
		p.x.ended("done", nil)
		return
	}
	if p.t.Far() && !p.looked {
		p.looked = true
		p.lookAtCall()
		return
	}
	timer := time.NewTimer(p.g.opts.Heartbeat)
	defer timer.Stop()
	select {
	case <-h.More:
	case <-timer.C:
		p.out = sse.AppendComment(nil, "ping")
	case <-p.look.C:
		if p.t.Far() {
			p.lookAtCall()
		}
	case <-p.ctx.Done():
		p.last(context.Cause(p.ctx))
	}
}

// errLost ends a stream whose process is gone.
var errLost = fault.New(fault.Unavailable, "the replica that made this answer is gone; the thread, if it is in one, has what came of it").
	WithCode(reasonLost).NoRetry()

// lookAtCall ends a stream that its process ends no more: because it died, or could not tell of its end.
func (p *player) lookAtCall() {
	end, err := p.g.opts.Calls.Ended(p.ctx, p.t.For.Org, p.t.Call)
	if err != nil || !end.Settled {
		return
	}
	if end.Outcome != calls.Complete {
		p.lastEvent(errLost)
		return
	}
	r, err := p.g.opts.Calls.Replay(p.ctx, p.t.For.Org, p.t.Call)
	if err != nil || r == nil {
		p.lastEvent(errExpired)
		return
	}
	p.over, p.out = true, calls.EventsAfter(r.Body, p.n)
	p.x.ended("done", nil)
}

// last ends the stream with err, of this hearing alone.
func (p *player) last(err error) {
	p.over, p.out = true, errorEvent(err)
	p.x.ended(fault.From(err).Code, err)
}

// lastEvent ends the stream with err in place of what would have come next.
func (p *player) lastEvent(err error) {
	p.last(err)
	p.out = calls.AppendEvent(nil, p.n+1, errorBody(err))
}

// Close is called by fasthttp once.
func (p *player) Close() error {
	p.look.Stop()
	p.t.Follow(-1)
	p.release()
	return nil
}
