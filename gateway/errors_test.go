package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
)

// Each kind has a status, a type and a code of its own, and what is said of a repeat.
func TestFail(t *testing.T) {
	var give error
	route := Route{Method: "GET", Pattern: "/t/fail", Needs: Open, handler: func(_ *Gateway, x *request) { x.fail(give) }}
	e := newEdge(t, Options{}, route).serveTCP()
	status := map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Unauthorized: 401, fault.Payment: 402, fault.Denied: 403, fault.NotFound: 404,
		fault.Method: 405, fault.Slow: 408, fault.Conflict: 409, fault.TooLarge: 413, fault.MediaType: 415, fault.Reused: 422,
		fault.RateLimited: 429, fault.Upstream: 502, fault.Unavailable: 503, fault.Timeout: 504,
	}
	for kind, want := range status {
		give = fault.Wrap(kind, errors.New("CANARY dsn"), "say %s", `"this"`).WithParam("p")
		r := e.do("GET", "/t/fail", "")
		if r.status != want || r.errorField("type") == "" || r.code() == "" || r.errorField("message") != `say "this"` || r.errorField("param") != "p" {
			t.Errorf("kind %d: %d %s, want %d", kind, r.status, r.body, want)
		}
		if strings.Contains(r.body, "CANARY") {
			t.Errorf("kind %d: the cause was sent", kind)
		}
		if outcomeOf(kind) == "other" {
			t.Errorf("kind %d is not counted by name", kind)
		}
	}
	give = fault.New(fault.RateLimited, "wait").After(1500 * time.Millisecond)
	if r := e.do("GET", "/t/fail", ""); r.header.Get("Retry-After") != "2" || r.header.Get("Retry-After-Ms") != "1500" {
		t.Errorf("retry: %v", r.header)
	}
	give = fault.New(fault.Payment, "no").NoRetry()
	if r := e.do("GET", "/t/fail", ""); r.header.Get("X-Should-Retry") != "false" || r.header.Get("Retry-After") != "" {
		t.Errorf("final: %v", r.header)
	}
	give = fault.New(fault.Unavailable, "away")
	if r := e.do("GET", "/t/fail", ""); r.header.Get("Retry-After") != "1" || r.header.Get("X-Should-Retry") != "" {
		t.Errorf("unavailable: %v", r.header)
	}
	give = fault.New(fault.Invalid, "\x00\n\x1b \"<script>\" \xff").WithCode("c")
	if r := e.do("GET", "/t/fail", ""); !json.Valid([]byte(r.body)) || r.status != 400 {
		t.Errorf("strange bytes: %q", r.body)
	}
}

// An error without a kind is ours: its text is for the log, where what looks like a key is cut out.
func TestInternalError(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	r := e.do("GET", "/t/internal", "")
	if r.status != 500 || r.code() != "internal_error" || strings.Contains(r.body, "postgres") || strings.Contains(r.body, "CANARY") {
		t.Errorf("%v", r)
	}
	until(t, "the log line", func() bool { return strings.Contains(e.log.String(), r.header.Get("X-Request-Id")) })
	if log := e.log.String(); !strings.Contains(log, "dsn postgres") || strings.Contains(log, "CANARY") || !strings.Contains(log, "sk-****") {
		t.Error(log)
	}
}

// A panic ends its own request and no other.
func TestPanic(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	for range 100 {
		r := e.do("GET", "/t/panic", "")
		if r.status != 500 || r.code() != "internal_error" || strings.Contains(r.body, "panic") {
			t.Fatalf("%v", r)
		}
	}
	if r := e.do("GET", "/t/hit", ""); r.status != 200 {
		t.Errorf("after the panics: %v", r)
	}
	if n := metric(t, e.opts.Registry, "threadhub_panics_total"); n != 100 {
		t.Errorf("%v panics counted", n)
	}
	until(t, "the end of all", func() bool { return metric(t, e.opts.Registry, "threadhub_requests_inflight") == 0 })
	if strings.Contains(e.log.String(), "secretsecret") {
		t.Error("the panic's text is in the log")
	}
}

func TestErrorEvent(t *testing.T) {
	ev := string(errorEvent(fault.New(fault.Upstream, "cut").WithCode("upstream_reset")))
	data, ok := strings.CutPrefix(ev, "data: ")
	if !ok || !strings.HasSuffix(data, "\n\n") || strings.Count(data, "\n") != 2 || !strings.Contains(data, `"upstream_reset"`) || !json.Valid([]byte(data)) {
		t.Errorf("%q", ev)
	}
	if ev := string(errorEvent(errors.New("CANARY"))); strings.Contains(ev, "CANARY") || !strings.Contains(ev, "internal_error") {
		t.Errorf("%q", ev)
	}
}

func TestScrub(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := scrub(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	f("dial tcp: refused", "dial tcp: refused")
	f("key sk-proj-abcdefgh1 is bad", "key sk-**** is bad")
	f("th_abcdefghijkl_x, pplx-aaaaaaaaaa; AIzaSyBBBBBBBB", "th_****, pplx-****; AIza****")
	f("the model pplx-embed-v1-0.6b, pplx-embedaaaaa", "the model pplx-embed-v1-0.6b, pplx-****")
	f("sk-sk-sk-sk-sk-", "sk-****")
	f("sk-short", "sk-short")
	f("th_", "th_")
	f("Bearer abcdefghijklmnop", "Bearer ****")
	if got := scrub(strings.Repeat("é", 1000)); len(got) > maxCause+4 {
		t.Errorf("%d bytes", len(got))
	}
}

// A handler that panics after it has taken hold leaves nothing in flight, or the next drain would wait for it.
func TestPanicWhileHeld(t *testing.T) {
	held := Route{Method: "GET", Pattern: "/t/held", Needs: Open, handler: func(_ *Gateway, x *request) {
		_ = x.hold()
		panic("after hold")
	}}
	e := newEdge(t, Options{}, held).serveTCP()
	if r := e.do("GET", "/t/held", ""); r.status != 500 {
		t.Errorf("%v", r)
	}
	<-e.flights.empty()
}
