package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
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
	kindFork       = "fork"
	kindAdmin      = "admin"
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
	if key != "" && !seedbug.On("no-claims") {
		// Of the route alone; and whatever clients put there, it is kept as little as their API keys.
		hash := sha256.Sum256([]byte(x.route.Pattern + "\x00" + key))
		e.claim = base64.RawURLEncoding.EncodeToString(hash[:])
	}
	e.hash = x.whatIsAsked()
	return nil
}

// mostRetries is more than any SDK counts to.
const mostRetries = 1000

// retries reads an SDK's word that the request, which has no claim, repeats one that it thinks was lost.
func (x *request) retries(e *exchange) {
	n, err := strconv.Atoi(x.header("X-Stainless-Retry-Count"))
	if err == nil && n > 0 && e.claim == "" && e.named != "" {
		e.retry = min(n, mostRetries)
	}
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
func (x *request) who() calls.Listener { return calls.Listener{Org: x.caller.Org, Key: x.caller.Key} }

// repeat answers a request that was made before; done says that it has. What failed, or was cut, is not an answer: it is
// asked again, as a call of its own.
func (g *Gateway) repeat(x *request, e *exchange) (done bool) {
	if e.retry != 0 {
		return g.adopt(x, e)
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
		case string(c.BodyHash) != string(e.hash[:]) && !seedbug.On("any-body"):
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
		t := g.tapes.Tape(c.Call, x.who())
		if t != nil && g.hear(x, t, e.streams()) || t == nil && c.Alive && g.hearElsewhere(x, c.Call, e.streams()) {
			return true
		}
		// It came to nothing, and the claim is free in a moment; or another process has it that does not tell of it, or one
		// that died, whose call is settled in a while. No connection is held meanwhile.
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
		g.replayThread(x, c.Thread, made)
		return
	case kindFork:
		g.replayThread(x, c.Thread, forked)
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
	if c.Kind == kindAdmin {
		g.replaySealed(x, r)
		return
	}
	if len(r.Body) == 0 { // the answer is a message of a thread
		g.replayMessage(x, c, r.Header)
		return
	}
	x.replayed(r.Header)
	x.rc.Response.SetBodyRaw(r.Body)
}

// errNotKept is the answer to a repeat whose call had a longer answer than is kept, or one that was sealed with a key that is
// gone.
var errNotKept = fault.New(fault.Gone, "the answer to this Idempotency-Key is not kept; ask again with another one").
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

// replayThread answers with a thread that was made, as it was told of then.
func (g *Gateway) replayThread(x *request, thread id.Thread, told func(*threads.Thread) any) {
	t, err := g.visible(x, thread)
	if err != nil {
		x.fail(err)
		return
	}
	x.replayed(nil)
	x.json(201, told(t))
}

// replayed puts on an answer's header what it had the first time, and that it is not the first time.
func (x *request) replayed(header [][2]string) {
	h := &x.rc.Response.Header
	h.SetContentType("application/json")
	for _, pair := range header {
		h.Set(pair[0], pair[1])
	}
	h.Set("Idempotent-Replayed", "true")
	if len(h.Peek("X-Threadhub-Thread-Mode")) > 0 { // nothing is added to the thread now
		h.Set("X-Threadhub-Thread-Mode", "replayed")
	}
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
		case e.claim != "" && fault.Is(err, fault.Conflict) && g.repeat(x, e): // what it met may be the first of its kind
			return false
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
	of := calls.TapeOf{
		Call: e.id, For: calls.Listener{Org: e.caller.Org, Key: e.caller.Key}, Finger: e.finger(), Hash: string(e.hash[:]), Stream: e.streams(), Limit: calls.TapeLimit,
		Retry: e.retry != 0, Opened: time.Now(),
	}
	if e.claim != "" {
		of.Limit = 2 * maxAnswer // all of it
	}
	e.tape = calls.NewTape(of)
	g.tapes.Begin(e.tape)
}
