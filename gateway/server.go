package gateway

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
)

// newServer builds the public server. Bodies are read before the handler runs (StreamRequestBody is off): its limits
// hold, and what a handler leaves unread cannot become a request. The listener's conn does the rest: framing, clocks,
// one request at a time. ReduceMemoryUsage gives buffers back while a stream runs or a connection idles; it also means
// that a head has been checked before a buffer is taken for it.
func (g *Gateway) newServer() *fasthttp.Server {
	return &fasthttp.Server{
		Handler:      g.serve,
		ErrorHandler: g.refuse,
		Logger:       quietLogger{g.opts.Log},
		ConnState: func(c net.Conn, s fasthttp.ConnState) {
			if ours, ok := c.(*conn); ok && s == fasthttp.StateIdle {
				ours.answered()
			}
		},
		Concurrency:                  g.opts.MaxConns + 1<<16, // the listener counts; this must not
		ReadBufferSize:               maxHead + 4<<10,
		MaxRequestBodySize:           int(g.opts.MaxBodyBytes),
		ReduceMemoryUsage:            true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
	}
}

// serve is fasthttp's handler: everything a client sends that is a request comes through here.
func (g *Gateway) serve(rc *fasthttp.RequestCtx) {
	defer g.lastResort(rc)
	x := g.begin(rc)
	defer x.finish()
	defer x.recover()
	if c, ok := rc.Conn().(*conn); ok && c.verdict != nil {
		x.refuse(c.verdict)
		return
	}
	r, params, err := g.router.find(rc.Method(), pathOf(rc.Request.Header.RequestURI()))
	if err != nil {
		if f := fault.From(err); f.Kind == fault.Method {
			rc.Response.Header.Set("Allow", f.Param)
			f.Param = ""
		}
		x.fail(err)
		return
	}
	x.route, x.params, x.line.route = r, params, r.Pattern
	chaos.Point("authenticate")
	if err := x.admit(); err != nil {
		x.fail(err)
		return
	}
	r.handler(g, x)
}

// begin makes the request and registers it in flight.
func (g *Gateway) begin(rc *fasthttp.RequestCtx) *request {
	x := &request{g: g, rc: rc, id: id.NewRequest(), arrived: time.Now()}
	x.line = logLine{id: x.id, method: methodLabel(rc.Method()), route: "unknown"}
	g.metrics.inflight.Inc()
	x.ctx, x.flight = g.flights.begin(func() {
		defer g.opts.Panics.Catch("end of a request") // whoever lets go of it last has other things to do
		took := time.Since(x.arrived)
		if !seedbug.On("leak-inflight") {
			g.metrics.inflight.Dec()
		}
		x.load.done()
		x.grant.Lose() // unless it was settled
		g.metrics.answered(&x.line, took)
		x.line.write(g.opts.Log, took)
	})
	return x
}

// finish runs when the handler has returned: it puts on the headers that every answer has and lets go of the request. A
// stream that holds it goes on; its answer's head is sent only now, so these headers are on it too.
func (x *request) finish() {
	rc := x.rc
	h := &rc.Response.Header
	h.Set("X-Request-Id", string(cmp.Or(x.answers, x.id)))
	h.Set("X-Content-Type-Options", "nosniff")
	if x.route != nil && x.route.isV1() {
		h.Set("Openai-Processing-Ms", strconv.FormatInt(time.Since(x.arrived).Milliseconds(), 10))
	}
	if x.g.keepsNone(rc.Conn()) {
		rc.SetConnectionClose()
	}
	x.line.status = rc.Response.StatusCode()
	if !rc.Response.IsBodyStream() {
		x.line.bytes = int64(len(rc.Response.Body()))
	}
	x.rc = nil
	x.flight.release()
}

// keepsNone reports whether a connection ends with its answer, whatever its client would like.
func (g *Gateway) keepsNone(c net.Conn) bool {
	ours, ok := c.(*conn)
	return g.draining.Load() || g.loads.stage() >= tight || ok && ours.l.crowdedOut()
}

// recover turns a panic of the handler into a 500. fasthttp recovers nothing: without this, one request's bug would end
// every other request's stream.
func (x *request) recover() {
	v := recover()
	if v == nil {
		return
	}
	if seedbug.On("no-recover") {
		panic(v)
	}
	x.g.opts.Panics.Tell("handler", v)
	x.rc.Response.Reset()
	x.fail(fault.Wrap(fault.Internal, fmt.Errorf("panic: %T", v), "the gateway failed; the request id helps us find out why").WithCode("internal_error"))
	x.flight.abandon() // whoever it was going to hand the request to does not have it
}

// lastResort catches what request.recover does not: panics of what comes before a request is one, and after it.
func (g *Gateway) lastResort(rc *fasthttp.RequestCtx) {
	if v := recover(); v != nil {
		g.opts.Panics.Tell("request", v)
		rc.Response.Reset()
		rc.SetStatusCode(500)
		rc.SetConnectionClose()
	}
}

// refuse answers a request that never was one: its head or body broke a rule of strict.go, or a clock ran out.
func (x *request) refuse(f *fault.Error) {
	x.line.method, x.line.route = "-", "refused"
	x.g.metrics.refused.WithLabelValues(answerFor(f).code).Inc()
	x.fail(f)
	x.rc.SetConnectionClose()
}

// refuse is fasthttp's error handler: it could not read a request. Mostly because our conn stopped it, and knows why.
func (g *Gateway) refuse(rc *fasthttp.RequestCtx, err error) {
	f := fault.Wrap(fault.Invalid, fmt.Errorf("%T", err), "malformed HTTP request").WithCode("malformed_request")
	if c, ok := rc.Conn().(*conn); ok {
		if c.verdict != nil {
			f = c.verdict
		}
		c.refused.Store(true)
	}
	defer g.lastResort(rc)
	x := g.begin(rc)
	defer x.finish()
	defer x.recover()
	x.refuse(f)
}

// methodLabel is the method for the log: one that exists, or "-".
func methodLabel(m []byte) string {
	switch s := string(m); s {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return s
	default:
		return "-"
	}
}
