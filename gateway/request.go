package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
	"threadhub/metering/limits"
	"threadhub/orgs"
)

// request is one request on its way through the gateway. Each field has one writer: serve those above the line of
// handlers, the handler the rest.
type request struct {
	g       *Gateway
	rc      *fasthttp.RequestCtx // nil once the handler has returned
	id      id.Request
	arrived time.Time
	ctx     context.Context // ends with the last holder; cancelled with errDraining at the end of a drain
	caller  orgs.Caller
	route   *Route
	params  []string // by the order of the pattern's wildcards
	flight  *flight
	load    *load         // of a call; nil until it is let in
	grant   *limits.Grant // of a call that is under limits
	line    logLine
	answers id.Request // the call whose answer is given; "": its own
	raw     []byte
	taken   bool
}

// actor is the caller as the audit log names it.
func (x *request) actor() orgs.Actor { return orgs.Actor{User: x.caller.User, Key: x.caller.Key} }

// conn returns the client's connection, good for departed. A stream may keep it; it is closed by fasthttp.
func (x *request) conn() net.Conn { return x.rc.Conn() }

// header returns a request header, "" if it is absent. When it stands there more than once the first one counts.
func (x *request) header(name string) string { return string(x.rc.Request.Header.Peek(name)) }

// only is header for one that must not say two things.
func (x *request) only(name string) (string, error) {
	all := x.rc.Request.Header.PeekAll(name)
	for _, v := range all {
		if !bytes.Equal(v, all[0]) {
			return "", fault.New(fault.Invalid, "the header %s is there more than once, with different values", name).WithParam(name)
		}
	}
	return x.header(name), nil
}

// forward copies those of the client's headers that a provider may see. Values with bytes that are not printable ASCII
// are left out: nobody past us should have to wonder what they mean.
func (x *request) forward(names []string) http.Header {
	h := http.Header{}
	for _, name := range names {
		for _, v := range x.rc.Request.Header.PeekAll(name) {
			if printable(v) {
				h.Add(name, string(v))
			}
		}
	}
	return h
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return len(b) > 0
}

// hold keeps the request in flight after the handler has returned: Shutdown waits for it, its context lives, its log
// line is not yet written. Call it in the handler that sets a body stream; call release when the stream has ended, on
// every way out (more than once is once). Until then the holder may use x.ctx, x.note, x.sent and x.ended, and nothing
// of x.rc, which is nil by then.
func (x *request) hold() (release func()) { return x.flight.hold() }

// note adds attributes to the log line. No content, no keys.
func (x *request) note(key string, value any) {
	x.line.more = append(x.line.more, slog.Any(key, value))
}

// sent counts n bytes of a stream's body for the log line.
func (x *request) sent(n int) { x.line.bytes += int64(n) }

// ended says how a stream ended: "done", or the code of err. Call it before release.
func (x *request) ended(reason string, err error) {
	x.line.reason = reason
	if err != nil {
		x.line.fault = fault.From(err)
	}
}

// body returns the request's body. It belongs to the caller of body from then on: fasthttp keeps nothing of it.
func (x *request) body() []byte {
	if !x.taken && seedbug.On("keep-buffer") {
		x.raw, x.taken = x.rc.Request.Body(), true
	}
	if !x.taken {
		x.raw, x.taken = x.rc.Request.SwapBody(nil), true
	}
	return x.raw
}

// query returns a parameter of the URL, "" if it is absent.
func (x *request) query(name string) string { return string(x.rc.QueryArgs().Peek(name)) }

// param returns what the wildcard of the route's pattern matched.
func (x *request) param(name string) string {
	for i, n := range x.route.names {
		if n == name {
			return x.params[i]
		}
	}
	return ""
}

// json answers with v. HTML in it is not escaped: nobody may take the answer for HTML.
func (x *request) json(status int, v any) {
	b, err := encoded(v)
	if err != nil {
		x.fail(err)
		return
	}
	x.write(status, b)
}

// encoded is v as json answers with it.
func encoded(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// write answers with body, which is JSON and belongs to the answer from then on.
func (x *request) write(status int, body []byte) {
	x.rc.SetStatusCode(status)
	x.rc.SetContentType("application/json")
	x.rc.Response.SetBodyRaw(body)
}
