package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"threadhub/internal/fault"
)

// pulled is a body stream as the relay is one: it says a line a second, and ends after n of them or with its context.
type pulled struct {
	x       *request
	ctx     context.Context
	release func()
	n       int
}

func (p *pulled) Read(b []byte) (int, error) {
	if p.n == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(time.Second):
		p.n--
		n := copy(b, "data: {}\n\n")
		p.x.sent(n)
		return n, nil
	case <-p.ctx.Done():
		p.n = 0
		err := context.Cause(p.ctx)
		p.x.ended(fault.From(err).Code, err)
		return copy(b, errorEvent(err)), nil
	}
}

func (p *pulled) Close() error { p.release(); return nil }

func streamRoute(seconds int) Route {
	return Route{Method: "GET", Pattern: "/t/stream", Needs: Open, handler: func(_ *Gateway, x *request) {
		x.rc.SetContentType("text/event-stream")
		x.rc.SetBodyStream(&pulled{x: x, ctx: x.ctx, release: x.hold(), n: seconds}, -1)
	}}
}

func begin(t *testing.T, e *edge, target string) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := e.dial()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(nc, "GET "+target+" HTTP/1.1\r\nHost: gw\r\n\r\n")
	return nc, bufio.NewReader(nc)
}

// A stream that ends within Drain ends by itself; new requests are taken for DrainAccept and told to go elsewhere;
// readiness goes at once; and the log line of a stream is written when the stream has ended.
func TestDrainLetsStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t, Options{DrainAccept: 5 * time.Second}, streamRoute(60)).serveMemory()
		nc, br := begin(t, e, "/t/stream")
		defer func() { _ = nc.Close() }()
		var r reply
		var rerr error
		read := make(chan struct{})
		go func() { defer close(read); r, rerr = readReply(br) }()
		time.Sleep(10500 * time.Millisecond)

		start := time.Now()
		down := make(chan error, 1)
		go func() { down <- e.Shutdown(t.Context()) }()
		time.Sleep(4 * time.Second)
		hc, hbr := begin(t, e, "/health")
		if h, err := readReply(hbr); err != nil || h.status != 503 || !h.close || !strings.Contains(h.body, "draining") {
			t.Errorf("health while draining: %v, %v", h, err)
		}
		_ = hc.Close()
		if strings.Contains(e.log.String(), "/t/stream") {
			t.Error("the stream's log line was written before its end")
		}
		time.Sleep(2 * time.Second)
		if _, err := e.dial(); err == nil {
			t.Error("a connection was accepted after DrainAccept")
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 49*time.Second || took > 51*time.Second {
			t.Errorf("the drain took %s", took)
		}
		<-read
		if rerr != nil || strings.Count(r.body, "data: {}") != 60 || strings.Contains(r.body, "error") {
			t.Errorf("the stream was cut: %v %q", rerr, r.body)
		}
		if err := <-e.errc; err != nil {
			t.Error(err)
		}
		if !strings.Contains(e.log.String(), `"route":"/t/stream","status":200`) || !strings.Contains(e.log.String(), `"bytes":600`) {
			t.Errorf("no log line of the stream: %s", e.log)
		}
		time.Sleep(time.Minute)
	})
}

// What is still running after Drain, or at a second signal, or when ctx ends, is told so and recorded.
func TestDrainEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(e *edge, cancel func())
		took time.Duration
	}{
		"drain is over":   {func(*edge, func()) {}, 120 * time.Second},
		"a second signal": {func(e *edge, _ func()) { _ = e.Shutdown(context.Background()) }, 30 * time.Second},
		"the context":     {func(_ *edge, cancel func()) { cancel() }, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdge(t, Options{}, streamRoute(3600)).serveMemory()
				nc, br := begin(t, e, "/t/stream")
				defer func() { _ = nc.Close() }()
				var r reply
				var rerr error
				read := make(chan struct{})
				go func() { defer close(read); r, rerr = readReply(br) }()
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				start := time.Now()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					time.Sleep(30 * time.Second)
					c.end(e, cancel)
				}()
				if err := e.Shutdown(ctx); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took < c.took || took > c.took+time.Second {
					t.Errorf("the drain took %s, want %s", took, c.took)
				}
				<-read
				<-ended
				if rerr != nil || !strings.HasSuffix(r.body, "\n\n") || !strings.Contains(r.body, `"draining"`) {
					t.Errorf("the stream's end: %v %q", rerr, r.body[max(0, len(r.body)-200):])
				}
				if err := <-e.errc; err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// A client that takes nothing cannot hold up the end, and it is no failure of ours.
func TestDrainCutsStuckConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t, Options{WriteTimeout: time.Hour, Drain: time.Minute}, streamRoute(3600)).serveMemory()
		nc, _ := begin(t, e, "/t/stream") // and nobody reads
		defer func() { _ = nc.Close() }()
		synctest.Wait()
		start := time.Now()
		if err := e.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Minute+2*time.Second {
			t.Errorf("the drain took %s", took)
		}
		if err := <-e.errc; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}

// Idle connections do not hold up the end, and a gateway that never served can be shut down.
func TestShutdownWithoutWork(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	c := e.connect()
	_, _ = io.WriteString(c, "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n")
	br := bufio.NewReader(c)
	if _, err := readReply(br); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("an idle connection held up the end for %s", took)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection: %v", err)
	}
	never := New(Options{})
	if err := never.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := never.Serve(ln, nil); err != nil {
		t.Error(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener of a gateway that was shut down: %v", err)
	}
}

func TestFlights(t *testing.T) {
	f := newFlights()
	ended := 0
	ctx, fl := f.begin(func() { ended++ })
	release := fl.hold()
	fl.release()
	if ended != 0 || ctx.Err() != nil {
		t.Error("it ended while it was held")
	}
	release()
	release()
	if ended != 1 || ctx.Err() == nil {
		t.Errorf("ended %d times, context %v", ended, ctx.Err())
	}
	<-f.empty()
	_, fl = f.begin(func() { ended++ })
	release = fl.hold()
	fl.abandon()
	fl.release()
	release()
	<-f.empty()
	if ended != 2 {
		t.Errorf("an abandoned flight ended %d times", ended-1)
	}
	f.cancel(errDraining)
	ctx, fl = f.begin(func() {})
	if context.Cause(ctx) != errDraining {
		t.Errorf("begun after the cancel: %v", context.Cause(ctx))
	}
	fl.release()
}
