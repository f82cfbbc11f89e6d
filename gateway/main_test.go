package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
	"go.uber.org/goleak"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
	"threadhub/orgs"
)

func TestMain(m *testing.M) {
	// fasthttp starts goroutines for the whole process at first use; start them outside of every test.
	ln := fasthttputil.NewInmemoryListener()
	s := &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}, Logger: quietLogger{slog.New(slog.DiscardHandler)}}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	c, err := ln.Dial()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	_, _ = io.ReadAll(c)
	_ = c.Close()
	_ = s.Shutdown()
	<-done
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"), // sleeps once more after its server has ended
	)
}

const (
	adminKey  = "th_admin"
	memberKey = "th_member"
	viewerKey = "th_viewer"
)

// fakeOrgs knows three keys of org_a.
type fakeOrgs struct{}

func (fakeOrgs) AuthenticateWith(_ context.Context, token string, _ orgs.Leave) (orgs.Caller, error) {
	role, ok := map[string]orgs.Role{adminKey: orgs.Admin, memberKey: orgs.Member, viewerKey: orgs.Viewer}[token]
	switch {
	case token == "th_down":
		return orgs.Caller{}, fault.Wrap(fault.Unavailable, errors.New("dial: refused"), "the store is away").WithCode("storage_unavailable")
	case !ok:
		return orgs.Caller{}, fault.New(fault.Unauthorized, "no such key").WithCode("invalid_api_key")
	}
	return orgs.Caller{Org: "org_a", User: "usr_a", Key: "k00000000001", Role: role}, nil
}

// edge is a gateway that serves a listener, with routes of the test's own beside the real ones.
type edge struct {
	*Gateway
	t     *testing.T
	log   *testkit.Log
	calls atomic.Int64 // of the test's handlers
	body  atomic.Value // string: the last body POST /t/echo got
	dial  func() (net.Conn, error)
	errc  chan error
}

// newEdge builds the gateway of a test; serveTCP or serveMemory starts it.
func newEdge(t *testing.T, opts Options, more ...Route) *edge {
	t.Helper()
	e := &edge{t: t, log: &testkit.Log{}, errc: make(chan error, 1)}
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewJSONHandler(e.log, nil))
	}
	if opts.Orgs == nil {
		opts.Orgs = fakeOrgs{}
	}
	if opts.DrainAccept == 0 {
		opts.DrainAccept = -1
	}
	e.Gateway = New(opts)
	e.router = newRouter(append(e.routes(), append([]Route{
		{Method: "POST", Pattern: "/t/echo", Needs: Open, handler: func(_ *Gateway, x *request) {
			e.calls.Add(1)
			e.body.Store(string(x.body()))
			x.json(200, map[string]int{"bytes": len(x.body())})
		}},
		{Method: "GET", Pattern: "/t/hit", Needs: Open, handler: func(_ *Gateway, x *request) {
			e.calls.Add(1)
			x.json(200, "hit")
		}},
		{Method: "GET", Pattern: "/t/panic", Needs: Open, handler: func(*Gateway, *request) { panic("th_secretsecret in a panic") }},
		{Method: "GET", Pattern: "/t/internal", Needs: Open, handler: func(_ *Gateway, x *request) {
			x.fail(errors.New("dsn postgres://u:p@db; key sk-CANARYCANARY"))
		}},
		{Method: "POST", Pattern: "/t/write", Needs: Write, handler: func(_ *Gateway, x *request) { x.json(200, "ok") }},
	}, more...)...))
	return e
}

func (e *edge) serve(ln net.Listener, dial func() (net.Conn, error)) *edge {
	e.dial = dial
	go func() { e.errc <- e.Serve(ln, nil) }()
	return e
}

func (e *edge) serveTCP() *edge {
	e.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(e.stop)
	return e.serve(ln, func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) })
}

// serveMemory serves connections that exist in memory only, for the virtual time of testing/synctest. The test calls
// leave at its end.
func (e *edge) serveMemory() *edge {
	ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	return e.serve(ln, ln.dial)
}

// leave ends the gateway inside a bubble, and waits until fasthttp's janitor, which sleeps, has noticed.
func (e *edge) leave() {
	e.stop()
	time.Sleep(time.Minute)
	synctest.Wait()
}

// pipeListener accepts the other ends of net.Pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) dial() (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (e *edge) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no patience
	_ = e.Shutdown(ctx)
	if err := <-e.errc; err != nil {
		e.t.Errorf("Serve: %v", err)
	}
}

// connect opens a connection that no test can wait on for ever.
func (e *edge) connect() net.Conn {
	e.t.Helper()
	c, err := e.dial()
	if err != nil {
		e.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	e.t.Cleanup(func() { _ = c.Close() })
	return c
}

type reply struct {
	status int
	header http.Header
	body   string
	close  bool
}

// code is the code of the OpenAI error object in the body, "" if there is none.
func (r reply) code() string { return r.errorField("code") }

func (r reply) errorField(name string) string {
	var v struct {
		Error map[string]any `json:"error"`
	}
	if json.Unmarshal([]byte(r.body), &v) != nil || v.Error == nil {
		return ""
	}
	s, _ := v.Error[name].(string)
	return s
}

func readReply(br *bufio.Reader) (reply, error) {
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b), res.Close}, err
}

// raw sends bytes as they are, closes the sending side, and returns all answers.
func (e *edge) raw(in string) []reply {
	e.t.Helper()
	c := e.connect()
	if _, err := io.WriteString(c, in); err == nil {
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	var all []reply
	for br := bufio.NewReader(c); ; {
		r, err := readReply(br)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				e.t.Errorf("reading the answer to %.80q: %v", in, err)
			}
			return all
		}
		all = append(all, r)
	}
}

// do sends one well-formed request. Headers are "Name: value".
func (e *edge) do(method, target, body string, headers ...string) reply {
	e.t.Helper()
	var b strings.Builder
	b.WriteString(method + " " + target + " HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n")
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if body != "" {
		b.WriteString("Content-Length: " + itoa(len(body)) + "\r\n")
	}
	all := e.raw(b.String() + "\r\n" + body)
	if len(all) != 1 {
		e.t.Fatalf("%s %s: %d answers", method, target, len(all))
	}
	return all[0]
}

func bearer(key string) string { return "Authorization: Bearer " + key }

// until waits for what another goroutine is about to make true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not come to pass", what)
		}
		<-time.After(time.Millisecond)
	}
}

// metric sums the series of a counter or gauge.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
