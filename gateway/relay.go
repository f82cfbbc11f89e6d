package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/internal/seedbug"
	"threadhub/openai"
)

// A stream is pulled: fasthttp reads the response's body from a relay, and each Read asks the provider for its next
// event. So a slow client slows the provider, nothing is queued, and there is no goroutine and no channel per stream, once
// its first event has come (firstevent.go).
// What follows the stream is done where the stream ends: in Read when the provider has ended it, in Close when the
// client has gone before that. See docs/decisions/0001-streams-are-pulled.md.

// errClientGone is the cause with which a departed client's call is cancelled.
var errClientGone = fault.New(fault.Invalid, "the client closed the connection").WithCode("client_closed")

// errClientSlow is the same for a client that stopped reading.
var errClientSlow = fault.New(fault.Invalid, "the client stopped reading").WithCode("client_slow")

// relay is one stream on its way to the client.
type relay struct {
	g       *Gateway
	x       *request
	e       *exchange
	conn    net.Conn
	cancel  context.CancelCauseFunc
	ctx     context.Context
	release func()
	unwatch func() bool

	taken  int    // bytes of payloads so far
	warned int    // how many of the warnings are in the header
	out    []byte // framed; read up to read
	read   int
	over   error     // how the provider's stream ended; nil while it runs
	ended  bool      // that is recorded, and out holds the last of it
	wrote  time.Time // when the client was last given something

	kept     kept // what the client was given, should this process die
	recorded bool

	left time.Time // when the client left, of a call that goes on for whoever comes back; under mu

	// While Read waits, the beat may write to the connection: fasthttp has flushed all it had and is waiting too.
	mu      sync.Mutex
	chunked bool // the answer is, so that a heartbeat can be put between two pieces; not to HTTP/1.0 clients
	waiting bool
	asked   bool // whether a half-closed client is still there
	spoke   time.Time
	beat    *time.Timer
}

// relay hands the stream to fasthttp, which pulls it after the handler has returned. x must not be used from then on.
func (g *Gateway) relay(x *request, e *exchange) {
	ctx, cancel := context.WithCancelCause(x.ctx)
	r := &relay{g: g, x: x, e: e, conn: x.conn(), ctx: ctx, cancel: cancel, release: x.hold(), spoke: time.Now(), wrote: time.Now()}
	r.chunked = x.rc.Request.Header.IsHTTP11()
	e.generated = new(openai.Accumulator)
	g.answerHeaders(x, e)
	r.warned = len(e.ask.Warnings)
	x.rc.SetContentType("text/event-stream; charset=utf-8")
	x.rc.Response.Header.Set("Cache-Control", "no-cache")
	x.rc.Response.Header.Set("X-Accel-Buffering", "no")
	x.rc.Response.ImmediateHeaderFlush = true // so that a heartbeat can never come before the head
	e.told = x.told()
	e.tape.Begin(e.told)
	// Ending the context closes the provider's stream, which ends a Next that waits.
	r.unwatch = context.AfterFunc(ctx, g.opts.Panics.Wrap("relay", func() { _ = e.answer.Stream.Close() }))
	x.load.holds(len(e.body))
	x.load.streams(cancel, r.cut)
	r.keep()
	r.mu.Lock()
	r.beat = time.AfterFunc(min(g.opts.Heartbeat, departureLook), g.opts.Panics.Wrap("relay", r.tick))
	r.mu.Unlock()
	x.rc.SetBodyStream(r, -1)
}

// Read gives fasthttp the next piece. It returns when there is one, however long that takes.
func (r *relay) Read(p []byte) (int, error) {
	if r.read == len(r.out) {
		if r.ended {
			return 0, io.EOF
		}
		r.fill()
	}
	n := copy(p, r.out[r.read:])
	r.read += n
	r.x.sent(n)
	r.wrote = time.Now()
	return n, nil
}

// fill waits for the next event, and takes along those that are there already.
func (r *relay) fill() {
	defer r.wait(false)
	defer func() {
		if v := recover(); v != nil {
			r.g.opts.Panics.Tell("relay", v)
			r.broken()
		}
	}()
	r.out, r.read = r.out[:0], 0
	r.wait(true)
	r.waitFirst()
	for r.over == nil && (len(r.out) == 0 || len(r.out) < maxWrite && r.ready()) {
		r.over = r.next()
	}
	r.kept.add(r.out)
	if len(r.out) == 0 { // what came goes out first: the record may have to wait for the store
		r.end(r.over)
	}
}

// broken ends a stream whose relay panicked. What can be recorded of it is; a call that cannot is abandoned.
func (r *relay) broken() {
	err := fault.From(errPanicked)
	r.x.ended(err.Code, err)
	r.out = r.e.tape.Event(r.out, errorBody(err))
	defer func() {
		if v := recover(); v != nil {
			r.g.opts.Panics.Tell("relay", v)
			r.g.abandon(r.e, err.Code, nil)
		}
	}()
	if r.ended { // in the record: what the client has seen must come into the thread all the same
		r.g.abandonAs(r.e, r.ending(err), nil)
		return
	}
	r.ended = true
	r.recorded = r.g.record(r.e, r.ending(err)) == nil
	r.g.tapes.End(r.e.tape, false)
}

// errPanicked stands for a panic that was caught.
var errPanicked = errors.New("panic")

// maxAnswer bounds what one stream may bring, pictures and all: it is kept until it is recorded.
const maxAnswer = 64 << 20

// maxWrite is about how much of a burst is given to the client in one piece.
const maxWrite = 16 << 10

// ready reports whether the provider's next event is there already.
func (r *relay) ready() bool {
	s, ok := r.e.answer.Stream.(interface{ Ready() bool })
	return ok && s.Ready()
}

func (r *relay) wait(on bool) {
	r.mu.Lock()
	r.waiting = on
	r.spoke = time.Now()
	r.mu.Unlock()
}

// next takes one event from the provider and frames it. Its error says how the stream ended: io.EOF itself that the
// provider ended it well, and anything else, also what wraps it, that it did not.
func (r *relay) next() error {
	chaos.Point("relay")
	payload, err := r.e.answer.Stream.Next()
	if seedbug.On("switch-midstream") && err != nil && err != io.EOF { //nolint:errorlint // as below
		if again, aerr := r.g.opts.Upstreams[r.e.target.Provider].Chat(r.ctx, r.e.ask); aerr == nil {
			r.e.answer = again
			return nil
		}
	}
	if err != nil {
		if cause := context.Cause(r.ctx); cause != nil && err != io.EOF { //nolint:errorlint // only itself means a good end
			return cause
		}
		return err
	}
	r.x.load.holds(len(payload))
	chunk, err := r.e.generated.Add(payload)
	if r.taken += len(payload); err == nil && r.taken > maxAnswer {
		err = fault.New(fault.Upstream, "the provider's answer is larger than the gateway takes").WithCode("upstream_oversize")
	}
	if err != nil {
		return err
	}
	if r.e.first.IsZero() && chunk.HasText {
		r.e.first = time.Now()
	}
	if chunk.UsageOnly && !r.e.req.IncludeUsage {
		return nil
	}
	if chunk.UsageSpan != [2]int{} && r.e.req.IncludeUsage {
		cost, status := priced(r.g.charge(r.e, r.e.generated.Usage(), r.e.generated.TextBytes()))
		late := r.e.ask.Warnings[r.warned:] // the others are in the header
		chunk.Payload = chunk.WithCost(cost, status, late)
	}
	if seedbug.On("drop-chunk") && bytes.Contains(payload, []byte("end")) {
		return nil
	}
	r.out = r.e.tape.Event(r.out, chunk.Payload)
	return nil
}

// end records what came and frames the last event: [DONE] only when the provider said so and the record is durable.
func (r *relay) end(err error) {
	r.ended = true
	if err == io.EOF { //nolint:errorlint // only itself means a good end
		err = nil
	}
	if err == nil && !r.e.generated.Finished() { // without a finish_reason nobody can tell a whole answer from a cut one
		err = fault.New(fault.Upstream, "the provider ended the stream before the answer was complete").WithCode("upstream_truncated")
	}
	if seedbug.On("swallow-cut") {
		err = nil
	}
	if seedbug.On("done-early") {
		time.AfterFunc(300*time.Millisecond, r.g.opts.Panics.Wrap("seedbug", func() { _ = r.g.record(r.e, r.ending(err)) }))
		r.out = r.e.tape.Event(r.out, done)
		return
	}
	rerr := r.g.record(r.e, r.ending(err))
	r.recorded = rerr == nil
	if err == nil {
		err = rerr
	}
	if err != nil {
		r.x.ended(fault.From(err).Code, err)
		r.out = r.e.tape.Event(r.out, errorBody(err))
	} else {
		r.x.ended("done", nil)
		r.out = r.e.tape.Event(r.out, done)
	}
	r.g.tapes.End(r.e.tape, err == nil)
}

// ending is what the stream has brought, and err the reason if that is not all.
func (r *relay) ending(err error) ending {
	e, got := r.e, r.e.generated
	end := ending{
		outcome: calls.Complete, state: calls.OK, status: e.answer.Status, upstreamID: e.answer.UpstreamID,
		usage: got.Usage(), outBytes: got.TextBytes(), served: got.Model(), vendor: got.Vendor(), finish: got.FinishReason(),
	}
	if (!got.Empty() || got.Finished()) && r.keepsAnswer() { // what was filtered, or thought to the end of its room, is an answer without a word
		end.message, end.others, end.sources = got.Message(), got.Others(), got.Sources()
	}
	if err != nil {
		end.fail(err)
	}
	return end
}

// keepsAnswer reports whether anybody wants the answer itself, of which a message is made at the end: a thread, or the
// memory of signatures. Of a call that only passes through it would be a copy for nobody, when memory may be short.
func (r *relay) keepsAnswer() bool {
	return r.e.thread != "" || r.g.maker(r.e.target) != "" || r.e.generated.TextBytes() == 0
}

// Close is called by fasthttp once, when the body is through or the client could not be written to. Of a client that has
// left somebody may come back for the rest of the answer: it is taken then, on a goroutine that ends with the answer, or
// when nobody has come.
func (r *relay) Close() error {
	if !r.ended && r.over == nil && !r.slow() && r.outlives() {
		go r.g.opts.Panics.Run("relay", r.runOn)
		return nil
	}
	return r.close()
}

func (r *relay) runOn() {
	defer r.close() //nolint:errcheck // nobody is there to be told
	for !r.ended {
		r.fill()
	}
}

// why is the reason for the end of a stream that could not be given to its client: what ended the call, if the connection
// was broken for that, or that the client left, or stopped reading.
func (r *relay) why() error {
	switch cause := context.Cause(r.ctx); {
	case cause != nil:
		return cause
	case r.slow():
		return errClientSlow
	}
	return errClientGone
}

// cut breaks the connection, for a stream that was told to end while its client reads nothing.
func (r *relay) cut() {
	if c, ok := r.conn.(*conn); ok {
		c.cut()
	}
}

// slow reports whether the client has not taken a byte for too long.
func (r *relay) slow() bool { return time.Since(r.wrote) >= r.g.opts.WriteTimeout }

// outlives notes that the client has left, and reports whether the call goes on.
func (r *relay) outlives() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stays()
}

func (r *relay) stays() bool {
	if r.left.IsZero() {
		r.left = time.Now()
	}
	return r.g.outlives(r.e, r.left)
}

func (r *relay) close() error {
	defer r.release()
	defer r.e.leave()
	defer func() {
		if v := recover(); v != nil {
			r.g.opts.Panics.Tell("relay", v)
			r.g.abandon(r.e, "internal_error", nil)
		}
	}()
	r.beat.Stop()
	if seedbug.On("leak-upstream") {
		return nil
	}
	if !r.ended {
		if r.over == nil {
			r.over = r.why()
			r.cancel(r.over)
			r.waitFirst() // nothing reads of the stream any more
		}
		r.end(r.over)
	}
	r.kept.close(r.recorded)
	if r.recorded && r.read == len(r.out) && r.left.IsZero() && !departed(r.conn) {
		r.e.tape.Reached()
	}
	r.unwatch()
	r.cancel(context.Canceled)
	return r.e.answer.Stream.Close()
}

// tick runs beside Read. A provider that is silent makes it say something to the client, so that proxies between keep the
// connection and a client that left is noticed: the first write to it draws the reset that the look after it sees.
func (r *relay) tick() {
	defer func() {
		if v := recover(); v != nil {
			r.g.opts.Panics.Tell("relay", v)
			r.beat.Reset(departureLook) // the stream goes on, and may be silent again
		}
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	if !r.left.IsZero() || departed(r.conn) {
		r.gone()
		return
	}
	chaos.Point("tick")
	silent := time.Since(r.spoke)
	next := r.g.opts.Heartbeat - silent
	ask := !r.asked && halfClosed(r.conn) // a heartbeat before its time finds out
	if r.waiting && r.chunked && !seedbug.On("no-heartbeat") && (next <= 0 || ask) {
		r.asked = r.asked || ask
		if _, err := r.conn.Write(heartbeat); err != nil {
			r.gone()
			return
		}
		r.spoke = time.Now()
		next = r.g.opts.Heartbeat
	}
	r.beat.Reset(min(max(next, time.Millisecond), departureLook))
}

// gone looks after a stream whose client has left. r.mu is held.
func (r *relay) gone() {
	if !r.stays() {
		r.cancel(errClientGone)
		return
	}
	r.beat.Reset(departureLook)
}

// departureLook is how often a silent stream's connection is looked at.
const departureLook = 500 * time.Millisecond

// heartbeat is a comment event in a chunk of its own, as it goes over the wire.
var heartbeat = []byte("8\r\n: ping\n\n\r\n")
