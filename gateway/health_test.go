package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"threadhub/internal/db"
)

// pinged is a store of which only Ping is asked.
type pinged struct {
	db.Store
	calls atomic.Int64
	err   atomic.Pointer[error]
}

func (p *pinged) Stats() db.Stats { return db.Stats{} }

func (p *pinged) Ping(context.Context) error {
	p.calls.Add(1)
	if e := p.err.Load(); e != nil {
		return *e
	}
	return nil
}

func TestOperator(t *testing.T) {
	op, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := newEdge(t, Options{DrainAccept: time.Minute, Store: &pinged{}})
	e.dial = func() (net.Conn, error) { return net.Dial("tcp", pub.Addr().String()) }
	go func() { e.errc <- e.Serve(pub, op) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	get := func(path string) (int, string) {
		t.Helper()
		res, err := (&http.Client{Transport: transport}).Get("http://" + op.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	e.do("GET", "/t/hit", "")
	until(t, "the request counted", func() bool {
		_, body := get("/metrics")
		return strings.Contains(body, `threadhub_requests_total{outcome="ok",route="/t/hit",status="2xx"} 1`)
	})
	for path, want := range map[string]int{"/health/live": 200, "/health/ready": 200, "/debug/pprof/": 404, "/v1/models": 404, "/health": 404} {
		if got, body := get(path); got != want {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	down := make(chan error, 1)
	go func() { down <- e.Shutdown(ctx) }()
	until(t, "unreadiness", func() bool { s, body := get("/health/ready"); return s == 503 && strings.Contains(body, "draining") })
	if s, _ := get("/health/live"); s != 200 {
		t.Error("draining is not death")
	}
	cancel()
	if err := <-down; err != nil {
		t.Error(err)
	}
	if err := <-e.errc; err != nil {
		t.Error(err)
	}
}

// Readiness follows the store, and asks it at most once a second.
func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pinged{}
		r := &readiness{store: p}
		for range 10 {
			if !r.check() {
				t.Error("not ready")
			}
		}
		if n := p.calls.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		err := errors.New("refused")
		p.err.Store(&err)
		time.Sleep(readyFor)
		if r.check() {
			t.Error("ready without a store")
		}
		p.err.Store(nil)
		time.Sleep(readyFor)
		if !r.check() {
			t.Error("not ready again")
		}
	})
}
