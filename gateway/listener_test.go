package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failing returns errors from Accept before it accepts.
type failing struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	f.mu.Lock()
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		f.mu.Unlock()
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	f.mu.Unlock()
	return f.Listener.Accept()
}

// Being out of descriptors ends fasthttp's own Serve. Ours goes on: 5, 10, 20 … 1000 ms later.
func TestAcceptSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipes := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		ln := &failing{Listener: pipes, errs: []error{
			syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ECONNABORTED, syscall.ENOMEM,
			syscall.EMFILE, syscall.EMFILE, syscall.EMFILE, syscall.EMFILE, syscall.EMFILE,
		}}
		e := newEdge(t, Options{})
		e.serve(ln, pipes.dial)
		defer e.leave()
		start := time.Now()
		nc, err := e.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		if took, want := time.Since(start), (5+10+20+40+80+160+320+640+1000+1000)*time.Millisecond; took != want {
			t.Errorf("accepted after %s, want %s", took, want)
		}
		_, _ = io.WriteString(nc, "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n")
		if r, err := readReply(bufio.NewReader(nc)); err != nil || r.status != 200 {
			t.Errorf("%v, %v", r, err)
		}
		if n := metric(t, e.opts.Registry, "threadhub_accept_emfile_total"); n != 10 {
			t.Errorf("%v errors counted, want 10", n)
		}
	})
}

// A shutdown does not wait for descriptors to come back, and an error that waiting cannot mend ends Serve.
func TestAcceptEnds(t *testing.T) {
	pipes := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	opts := Options{MaxConns: 1}.withDefaults()
	l := newListener(&failing{Listener: pipes, errs: []error{syscall.EBADF}}, &opts, newMetrics(opts.Registry, nil, nil, &readiness{}))
	if _, err := l.Accept(); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a broken listener: %v", err)
	}
	errs := make([]error, 1000)
	for i := range errs {
		errs[i] = syscall.EMFILE
	}
	opts.Registry = nil
	opts = opts.withDefaults()
	l = newListener(&failing{Listener: pipes, errs: errs}, &opts, newMetrics(opts.Registry, nil, nil, &readiness{}))
	done := make(chan error)
	go func() { _, err := l.Accept(); done <- err }()
	until(t, "the first error", func() bool { return metric(t, opts.Registry, "threadhub_accept_emfile_total") > 0 })
	_ = l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while waiting: %v", err)
	}
}

// At MaxConns further connections wait in the kernel until one has gone.
func TestMaxConns(t *testing.T) {
	e := newEdge(t, Options{MaxConns: 2}).serveTCP()
	ask := func(c net.Conn) { _, _ = io.WriteString(c, "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n") }
	open := []net.Conn{e.connect(), e.connect()} // they have yet to say what they want
	until(t, "two connections", func() bool { return metric(t, e.opts.Registry, "threadhub_connections_open") == 2 })
	third := e.connect()
	ask(third)
	_ = third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	br := bufio.NewReader(third)
	if _, err := br.ReadByte(); !timedOut(err) {
		t.Fatalf("the third was served beside two: %v", err)
	}
	_ = open[0].Close()
	_ = third.SetReadDeadline(time.Now().Add(10 * time.Second))
	if r, err := readReply(br); err != nil || r.status != 200 {
		t.Errorf("after one had gone: %v, %v", r, err)
	}
	_, _ = third.Close(), open[1].Close()
	until(t, "no connection", func() bool { return metric(t, e.opts.Registry, "threadhub_connections_open") == 0 })
}

// Where places are few a connection ends with its answer, so that who comes next need not wait for an idle one.
func TestIdleConnectionsAreNotKeptInACrowd(t *testing.T) {
	e := newEdge(t, Options{MaxConns: 5}).serveTCP()
	for n := range 5 {
		c := e.connect()
		_, _ = io.WriteString(c, "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n")
		r, err := readReply(bufio.NewReader(c))
		if err != nil || r.status != 200 || r.close != (n == 4) {
			t.Errorf("connection %d of 5: %v, %v", n+1, r, err)
		}
	}
}

// The kernel may hold only so much for a client that never reads; what it is owed stays small.
func TestNeverReadingClientIsCut(t *testing.T) {
	big := Route{Method: "GET", Pattern: "/t/big", Needs: Open, handler: func(_ *Gateway, x *request) {
		x.write(200, []byte(strings.Repeat("x", 32<<20)))
	}}
	e := newEdge(t, Options{WriteTimeout: 200 * time.Millisecond}, big).serveTCP()
	c := e.connect()
	_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
	_, _ = io.WriteString(c, "GET /t/big HTTP/1.1\r\nHost: gw\r\n\r\n")
	until(t, "the connection", func() bool { return metric(t, e.opts.Registry, "threadhub_connections_open") == 1 })
	until(t, "the cut", func() bool { return metric(t, e.opts.Registry, "threadhub_connections_open") == 0 })
}
