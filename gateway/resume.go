package gateway

import (
	"strconv"
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// errExpired is the answer for a stream of which too little is kept.
var errExpired = fault.New(fault.Gone, "this stream cannot be resumed any more; the thread, if it is in one, has the answer").
	WithCode("stream_expired").NoRetry()

// resume answers GET /v1/requests/{id}/stream?starting_after=N, and Last-Event-ID: the rest of a stream.
func (g *Gateway) resume(x *request) {
	n, err := x.startingAfter()
	if err != nil {
		x.fail(err)
		return
	}
	call := id.Request(x.param("id"))
	wait := 50 * time.Millisecond
	for {
		if t := g.tapes.Tape(call, x.who()); t != nil {
			g.resumeFrom(x, t, n)
			return
		}
		c, err := g.seenCall(x, call)
		if err == nil && c.Key != x.caller.Key {
			err = calls.Absent()
		}
		if err == nil && (!c.Facts.Stream || c.Facts.Kind != kindChat) {
			err = errNoStream()
		}
		if err != nil {
			x.fail(err)
			return
		}
		if g.resumeElsewhere(x, c, n) {
			return
		}
		if err := pauseFor(x.ctx, wait); err != nil {
			x.fail(err)
			return
		}
		wait = min(2*wait, 500*time.Millisecond)
	}
}

func errNoStream() error {
	return fault.New(fault.Invalid, "this request was not answered with a stream").WithCode("not_a_stream").NoRetry()
}

func (g *Gateway) resumeFrom(x *request, t *calls.Tape, n int) {
	h := t.After(n)
	switch {
	case !t.Stream:
		x.fail(errNoStream())
	case h.Spilled:
		x.fail(errExpired)
	case n > h.N && h.Over:
		x.fail(fault.New(fault.Invalid, "the stream has only %d events", h.N).WithParam("starting_after"))
	default:
		g.play(x, t, n)
	}
}

// resumeElsewhere answers with the rest of a stream that is another process's, or was: from what is kept for repeats of
// its request, or as its process has told it. It reports false, and nothing has been answered, if the stream is still made
// and processes do not tell of theirs, or if it has ended just now and may still be told of.
func (g *Gateway) resumeElsewhere(x *request, c *calls.Call, n int) bool {
	closed := c.State != "open"
	if closed {
		r, err := g.opts.Calls.Replay(x.ctx, x.caller.Org, c.ID)
		if err != nil {
			x.fail(err)
			return true
		}
		if r != nil {
			x.answers = c.ID
			x.replayed(r.Header)
			x.rc.Response.SetBodyRaw(calls.EventsAfter(r.Body, n))
			return true
		}
	}
	t, err := g.tapes.Follow(x.ctx, c.ID, x.who(), true)
	if t != nil {
		defer t.Follow(-1)
	}
	switch {
	case t != nil && (!closed || t.After(0).Known()):
		g.resumeFrom(x, t, n)
	case err != nil:
		x.fail(err)
	case closed && g.settled(x, c.ID):
		x.fail(errExpired)
	default:
		return false
	}
	return true
}

// settled reports whether nothing more will be told of a call.
func (g *Gateway) settled(x *request, call id.Request) bool {
	end, err := g.opts.Calls.Ended(x.ctx, x.caller.Org, call)
	return err == nil && end.Settled
}

func (x *request) startingAfter() (int, error) {
	n, err := number(x, "starting_after", -1, 0, 1<<31-2)
	if err != nil || n >= 0 {
		return n, err
	}
	last := x.header("Last-Event-ID")
	if last == "" {
		return 0, nil
	}
	n, err = strconv.Atoi(last)
	if err != nil || n < 0 {
		return 0, fault.New(fault.Invalid, "Last-Event-ID is the id of an event: a number").WithParam("Last-Event-ID")
	}
	return n, nil
}
