package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/sse"
	"threadhub/orgs"
	"threadhub/threads"
)

// A request that was made before is not made again: under an Idempotency-Key it gets the answer of the first, stored or as
// it comes; without one, if it is an SDK's retry, the answer of the turn it repeats. See docs/decisions/0013-repeats.md.

// Kinds of calls.
const (
	kindChat       = "chat"
	kindEmbeddings = "embeddings"
	kindMessage    = "message"
	kindCreate     = "create"
)

// maxClaim bounds an Idempotency-Key.
const maxClaim = 255

// errRepeats says that between the look for a claim and the opening somebody else took it.
var errRepeats = errors.New("another call has taken the claim")

// claims reads what says that a request may repeat another one.
func (x *request) claims(e *exchange) error {
	key, err := x.only("Idempotency-Key")
	if err != nil {
		return err
	}
	if len(x.rc.Request.Header.PeekAll("Idempotency-Key")) > 0 && (key == "" || len(key) > maxClaim || !printable([]byte(key))) {
		return fault.New(fault.Invalid, "an Idempotency-Key is 1 to %d printable characters", maxClaim).WithParam("Idempotency-Key").WithCode("invalid_idempotency_key")
	}
	if key != "" {
		hash := sha256.Sum256([]byte(key)) // whatever clients put there, it is kept as little as their API keys
		e.claim = base64.RawURLEncoding.EncodeToString(hash[:])
	}
	e.hash = x.whatIsAsked()
	return nil
}

// retries reads an SDK's word that the request, which has no claim, repeats one that it thinks was lost.
func (x *request) retries(e *exchange) {
	n, err := strconv.Atoi(x.header("X-Stainless-Retry-Count"))
	e.retried = err == nil && n > 0 && e.claim == "" && e.named != ""
}

// whatIsAsked is a hash over what makes two requests of a caller the same: route, thread and body.
func (x *request) whatIsAsked() [sha256.Size]byte {
	h := sha256.New()
	for _, s := range append([]string{x.route.Pattern, x.header("X-Thread-Id")}, x.params...) {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	h.Write(x.body())
	return [sha256.Size]byte(h.Sum(nil))
}

// finger is 64 bits of that, with who asks.
func (e *exchange) finger() int64 {
	h := sha256.New()
	h.Write([]byte(e.caller.Key))
	h.Write(e.hash[:])
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

// who is whose tapes the caller may hear.
func (x *request) who() tapeKey { return tapeKey{x.caller.Org, x.caller.Key} }

// repeat answers a request that was made before; done says that it has. What failed, or was cut, is not an answer: it is
// asked again, as a call of its own.
func (g *Gateway) repeat(x *request, e *exchange) (done bool) {
	if e.retried {
		t := g.tapes.like(e.finger(), string(e.hash[:]), x.who())
		return t != nil && t.adopt() && g.hear(x, t, e.streams())
	}
	if e.claim == "" {
		return false
	}
	wait := 50 * time.Millisecond
	for {
		c, err := g.opts.Calls.Claimed(x.ctx, x.caller.Org, x.caller.Key, e.claim)
		switch {
		case err != nil:
			x.fail(err)
			return true
		case c == nil:
			return false
		case string(c.BodyHash) != string(e.hash[:]):
			x.fail(fault.New(fault.Reused, "this Idempotency-Key was sent before with another request").WithParam("Idempotency-Key").NoRetry())
			return true
		}
		if c.Thread != "" {
			if _, err := g.visible(x, c.Thread); err != nil {
				x.fail(err)
				return true
			}
		}
		if !c.Open {
			g.replay(x, c)
			return true
		}
		if t := g.tapes.call(c.Call, x.who()); t != nil && g.hear(x, t, e.streams()) {
			return true
		}
		// It came to nothing, and the claim is free in a moment; or another process has it, or one that died, whose call is
		// settled in a while. No connection is held meanwhile.
		if err := pauseFor(x.ctx, wait); err != nil {
			x.fail(err)
			return true
		}
		wait = min(2*wait, 500*time.Millisecond)
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// replay answers with what the client of a complete call was given.
func (g *Gateway) replay(x *request, c *calls.Claimed) {
	x.answers = c.Call
	switch c.Kind {
	case kindMessage:
		g.replayMessage(x, c, nil)
		return
	case kindCreate:
		g.replayThread(x, c.Thread)
		return
	}
	r, err := g.opts.Calls.Replay(x.ctx, x.caller.Org, c.Call)
	if err == nil && r == nil {
		err = errNotKept
	}
	if err != nil {
		x.fail(err)
		return
	}
	if len(r.Body) == 0 { // the answer is a message of a thread
		g.replayMessage(x, c, r.Header)
		return
	}
	x.replayed(r.Header)
	x.rc.Response.SetBodyRaw(r.Body)
}

// errNotKept is the answer to a repeat whose call had a longer answer than is kept.
var errNotKept = fault.New(fault.Gone, "the answer to this Idempotency-Key was too long to be kept; ask again with another one").
	WithCode("answer_not_kept").WithParam("Idempotency-Key").NoRetry()

// replayMessage answers with a message as the thread has it: the one that the call added, or the answer to it.
func (g *Gateway) replayMessage(x *request, c *calls.Claimed, header [][2]string) {
	seq := c.Seq
	if c.Kind == kindChat {
		seq++
	}
	p, err := g.opts.Threads.Page(x.ctx, x.caller.Org, c.Thread, x.viewer(), seq-1, 1)
	if err == nil && len(p.Messages) == 0 {
		err = threads.Absent()
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.replayed(header)
	if m := p.Messages[0]; c.Kind == kindChat {
		x.write(200, messageShape(m, c.Thread))
	} else {
		x.json(201, added(m, c.Thread))
	}
}

// replayThread answers with a thread that was made.
func (g *Gateway) replayThread(x *request, thread id.Thread) {
	t, err := g.visible(x, thread)
	if err != nil {
		x.fail(err)
		return
	}
	x.replayed(nil)
	x.json(201, made(t))
}

// replayed puts on an answer's header what it had the first time.
func (x *request) replayed(header [][2]string) {
	h := &x.rc.Response.Header
	h.SetContentType("application/json")
	for _, pair := range header {
		h.Set(pair[0], pair[1])
	}
	h.Set("Idempotent-Replayed", "true")
}

// hear answers with what is on a tape, as it comes. It reports false, and nothing has been answered, if that is no
// complete answer.
func (g *Gateway) hear(x *request, t *tape, stream bool) bool {
	t.follow(1)
	defer t.follow(-1)
	watch := g.watch(x, nil)
	defer watch.stop()
	for {
		h := t.after(0)
		switch {
		case h.spilled || h.over && !h.complete || t.stream != stream:
			return false
		case t.stream && h.begun:
			g.play(x, t, 0)
			return true
		case h.over:
			x.answers = t.call
			x.replayed(h.header)
			x.rc.Response.SetBodyRaw(h.body)
			return true
		}
		select {
		case <-h.more:
		case <-x.ctx.Done():
			x.fail(context.Cause(x.ctx))
			return true
		}
	}
}

// play streams a tape from after event n on.
func (g *Gateway) play(x *request, t *tape, n int) {
	t.follow(1)
	x.answers = t.call
	x.replayed(t.after(n).header)
	g.guard(x, func(orgs.Caller) error { return nil })
	x.rc.SetContentType("text/event-stream; charset=utf-8")
	h := &x.rc.Response.Header
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	x.rc.Response.ImmediateHeaderFlush = true
	p := &player{x: x, t: t, n: n, conn: x.conn(), beat: g.opts.Heartbeat, ctx: x.ctx, release: x.hold()}
	x.rc.SetBodyStream(p, -1)
}

// player is a stream that is taped from a tape.
type player struct {
	x       *request
	t       *tape
	n       int // the last event that was taken
	out     []byte
	over    bool
	conn    net.Conn
	beat    time.Duration
	ctx     context.Context
	release func()
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
	h := p.t.after(p.n)
	switch {
	case h.spilled:
		p.last(errExpired)
		return
	case len(h.body) > 0:
		p.out, p.n = h.body, h.n
		return
	case h.over:
		p.over = true
		p.x.ended("done", nil)
		return
	}
	timer := time.NewTimer(p.beat)
	defer timer.Stop()
	select {
	case <-h.more:
	case <-timer.C:
		p.out = sse.AppendComment(nil, "ping")
	case <-p.ctx.Done():
		p.last(context.Cause(p.ctx))
	}
}

// last ends the stream with err.
func (p *player) last(err error) {
	p.over, p.out = true, errorEvent(err)
	p.x.ended(fault.From(err).Code, err)
}

// Close is called by fasthttp once.
func (p *player) Close() error {
	p.t.follow(-1)
	p.release()
	return nil
}

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
		if t := g.tapes.call(call, x.who()); t != nil {
			g.resumeFrom(x, t, n)
			return
		}
		c, err := g.seenCall(x, call)
		if err == nil && c.Key != x.caller.Key {
			err = calls.Absent()
		}
		if err == nil && (!c.Facts.Stream || c.Facts.Kind != kindChat) {
			err = fault.New(fault.Invalid, "this request was not answered with a stream").WithCode("not_a_stream").NoRetry()
		}
		if err != nil {
			x.fail(err)
			return
		}
		if c.State != "open" {
			g.resumeStored(x, c, n)
			return
		}
		if err := pauseFor(x.ctx, wait); err != nil {
			x.fail(err)
			return
		}
		wait = min(2*wait, 500*time.Millisecond)
	}
}

func (g *Gateway) resumeFrom(x *request, t *tape, n int) {
	h := t.after(n)
	switch {
	case !t.stream:
		x.fail(fault.New(fault.Invalid, "this request was not answered with a stream").WithCode("not_a_stream").NoRetry())
	case h.spilled:
		x.fail(errExpired)
	case n > h.n && h.over:
		x.fail(fault.New(fault.Invalid, "the stream has only %d events", h.n).WithParam("starting_after"))
	default:
		g.play(x, t, n)
	}
}

// resumeStored answers from what is kept of a call for repeats of it.
func (g *Gateway) resumeStored(x *request, c *calls.Call, n int) {
	r, err := g.opts.Calls.Replay(x.ctx, x.caller.Org, c.ID)
	if err == nil && r == nil {
		err = errExpired
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.answers = c.ID
	x.replayed(r.Header)
	x.rc.Response.SetBodyRaw(eventsAfter(r.Body, n))
}

// eventsAfter is what of events comes after event n.
func eventsAfter(events []byte, n int) []byte {
	for range n {
		_, events, _ = bytes.Cut(events, []byte("\n\n"))
	}
	return events
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

// once runs do, which commits what is asked for, unless that was asked before; it reports whether do did it, and the client
// is still to be answered.
func (g *Gateway) once(x *request, e *exchange, do func() error) bool {
	if err := x.claims(e); err != nil {
		x.fail(err)
		return false
	}
	for !g.repeat(x, e) {
		err := do()
		switch {
		case err == nil:
			return true
		case !errors.Is(err, errRepeats):
			x.fail(err)
			return false
		}
	}
	return false
}

// told is what of an answer's header is the answer's own, and is told again to whoever repeats the request.
func (x *request) told() (pairs [][2]string) {
	for name, value := range x.rc.Response.Header.All() {
		if s := string(name); strings.HasPrefix(s, "X-Thread") || strings.HasPrefix(s, "X-Upstream-") || s == "Content-Type" {
			pairs = append(pairs, [2]string{s, string(value)})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return pairs
}

// keepTape begins the tape of a call that was opened, if somebody can come back for its answer.
func (g *Gateway) keepTape(e *exchange) {
	if e.thread == "" && e.claim == "" && !e.streams() {
		return
	}
	e.tape = &tape{
		call: e.id, of: tapeKey{e.caller.Org, e.caller.Key}, finger: e.finger(), hash: string(e.hash[:]), stream: e.streams(), limit: tapeLimit,
	}
	if e.claim != "" {
		e.tape.limit = 2 * maxAnswer // all of it
	}
	g.tapes.begin(e.tape)
}
