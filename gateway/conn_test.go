package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A client that sends slowly gets a 408 at the limit, and no handler runs for it.
func TestSlowClients(t *testing.T) {
	const post = "POST /t/echo HTTP/1.1\r\nHost: gw\r\nContent-Length: 100000\r\n\r\n"
	for name, c := range map[string]struct {
		first  string        // sent at once
		rate   int           // then bytes a second; 0: nothing
		status int           // 0: closed without an answer
		after  time.Duration // when the end comes
	}{
		"says nothing":              {"", 0, 0, 10 * time.Second},
		"stops in the head":         {"GET /t/hit HT", 0, 408, 10 * time.Second},
		"drips the head":            {"GET /t/hit HTTP/1.1\r\nX: ", 1, 408, 10 * time.Second},
		"stops in the body":         {post, 0, 408, 5 * time.Second},
		"drips the body":            {post, 1, 408, 5 * time.Second},
		"half the rate":             {post, 512, 408, 9 * time.Second}, // 512 t < 1024 (t − 5)
		"a little over the rate":    {post, 1100, 200, 91 * time.Second},
		"a body older than allowed": {strings.Replace(post, "100000", "1000000", 1), 2000, 408, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdge(t, Options{}).serveMemory()
				defer e.leave()
				nc, err := e.dial()
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = nc.Close() }()
				start := time.Now()
				if c.first != "" {
					_, _ = io.WriteString(nc, c.first)
				}
				stop := make(chan struct{})
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for c.rate > 0 {
						select {
						case <-time.After(time.Second):
						case <-stop:
							return
						}
						if _, err := nc.Write([]byte(strings.Repeat("x", c.rate))); err != nil {
							return
						}
					}
				}()
				r, err := readReply(bufio.NewReader(nc))
				took := time.Since(start)
				close(stop)
				_ = nc.Close()
				<-sent
				if c.status == 0 && err == nil || c.status != 0 && (err != nil || r.status != c.status) {
					t.Errorf("got %d, %v, want %d", r.status, err, c.status)
				}
				if took < c.after-time.Second || took > c.after+2*time.Second {
					t.Errorf("it took %s, want about %s", took, c.after)
				}
				if n := e.calls.Load(); (n == 1) != (c.status == 200) {
					t.Errorf("%d handlers ran", n)
				}
			})
		})
	}
}

// A connection between two requests lives for IdleTimeout, not for HeaderTimeout.
func TestIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t, Options{}).serveMemory()
		defer e.leave()
		nc, err := e.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		br := bufio.NewReader(nc)
		for range 2 {
			_, _ = io.WriteString(nc, "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n")
			if r, err := readReply(br); err != nil || r.status != 200 {
				t.Fatalf("%v, %v", r, err)
			}
			time.Sleep(time.Minute)
		}
		start := time.Now()
		if _, err := br.ReadByte(); err != io.EOF || time.Since(start) != 15*time.Second {
			t.Errorf("closed with %v after %s", err, time.Since(start))
		}
	})
}

// A client that never reads is cut after WriteTimeout; one that reads slowly is not.
func TestClientsThatReadSlowly(t *testing.T) {
	big := Route{Method: "GET", Pattern: "/t/big", Needs: Open, handler: func(_ *Gateway, x *request) {
		x.write(200, []byte(strings.Repeat("x", 100<<10)))
	}}
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t, Options{}, big).serveMemory()
		defer e.leave()
		dial := func() net.Conn {
			nc, err := e.dial()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(nc, "GET /t/big HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
			return nc
		}
		never, slow := dial(), dial()
		start := time.Now()
		buf, got := make([]byte, 4<<10), 0
		for {
			time.Sleep(4 * time.Second)
			n, err := slow.Read(buf)
			if got += n; err != nil {
				break
			}
		}
		if took := time.Since(start); got < 100<<10 || took < time.Minute {
			t.Errorf("the slow reader got %d bytes in %s", got, took)
		}
		rest, _ := io.ReadAll(never)
		if len(rest) != 0 {
			t.Errorf("the one that never read was still written to: %d bytes", len(rest))
		}
		_, _ = never.Close(), slow.Close()
	})
}

func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer func() { _, _ = a.Close(), b.Close() }()
		opts := Options{}.withDefaults()
		c := &conn{Conn: a, l: &listener{opts: &opts}}
		start := time.Now()
		_, err := c.Write([]byte("nobody reads this"))
		if took := time.Since(start); !timedOut(err) || took != 20*time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// A client that is still sending what is too large can read why.
func TestTooLargeWhileSending(t *testing.T) {
	e := newEdge(t, Options{MaxBodyBytes: 1 << 20}).serveTCP()
	for name, head := range map[string]string{
		"length":  "Content-Length: 8388608\r\n\r\n",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n800000\r\n",
	} {
		c := e.connect()
		_, err := io.WriteString(c, "POST /t/echo HTTP/1.1\r\nHost: gw\r\n"+head)
		for i := 0; i < 8<<20 && err == nil; i += 64 << 10 {
			_, err = c.Write(make([]byte, 64<<10))
		}
		r, rerr := readReply(bufio.NewReader(c))
		if rerr != nil || r.status != 413 || r.code() != "request_too_large" {
			t.Errorf("%s: sending ended with %v; the answer is %v, %v", name, err, r, rerr)
		}
	}
	if r := e.do("POST", "/t/echo", strings.Repeat("x", 1<<20)); r.status != 200 {
		t.Errorf("a body of exactly the limit: %v", r)
	}
	if n := e.calls.Load(); n != 1 {
		t.Errorf("%d handlers ran", n)
	}
}

// "Expect: 100-continue" is answered before the body comes, with an error when the body would be refused anyway.
func TestExpectContinue(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	c := e.connect()
	br := bufio.NewReader(c)
	_, _ = io.WriteString(c, "POST /t/echo HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	line, err := br.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = br.ReadString('\n')
	_, _ = io.WriteString(c, "helloGET /t/hit HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
	for range 2 {
		if r, err := readReply(br); err != nil || r.status != 200 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	if got := e.body.Load(); got != "hello" || e.calls.Load() != 2 {
		t.Errorf("body %q, %d handlers", got, e.calls.Load())
	}
	replies := e.raw("POST /t/echo HTTP/1.1\r\nHost: gw\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
	if len(replies) != 1 || replies[0].status != 413 {
		t.Errorf("%v", replies)
	}
}

// Large bodies under way share a budget; small ones pass, and what is taken is given back.
func TestBodyBudget(t *testing.T) {
	e := newEdge(t, Options{MaxBodyMemory: 1 << 20}).serveTCP()
	c := e.connect()
	_, _ = io.WriteString(c, "POST /t/echo HTTP/1.1\r\nHost: gw\r\nContent-Length: 1048576\r\n\r\nx")
	until(t, "the reservation", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.public != nil && e.public.bodies.Load() == 1<<20
	})
	large, small := strings.Repeat("x", 100<<10), strings.Repeat("x", 60<<10)
	if r := e.do("POST", "/t/echo", large); r.status != 503 || r.code() != "overloaded" || r.header.Get("Retry-After") != "1" {
		t.Errorf("over the budget: %v", r)
	}
	chunked := "POST /t/echo HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n19000\r\n"
	if r := e.raw(chunked); len(r) != 1 || r[0].status != 503 {
		t.Errorf("chunked, over the budget: %v", r)
	}
	if r := e.do("POST", "/t/echo", small); r.status != 200 {
		t.Errorf("a small body: %v", r)
	}
	_ = c.Close()
	until(t, "the end of the reservation", func() bool { return e.public.bodies.Load() == 0 })
	if r := e.do("POST", "/t/echo", large); r.status != 200 {
		t.Errorf("with room again: %v", r)
	}
}

// A client that closes its sending side after the request still gets its answer.
func TestHalfClose(t *testing.T) {
	wait := make(chan struct{})
	slow := Route{Method: "GET", Pattern: "/t/slow", Needs: Open, handler: func(_ *Gateway, x *request) {
		<-wait
		if departed(x.conn()) {
			x.fail(errors.New("a half-close was taken for a departure"))
			return
		}
		x.json(200, "late")
	}}
	e := newEdge(t, Options{}, slow).serveTCP()
	c := e.connect()
	_, _ = io.WriteString(c, "GET /t/slow HTTP/1.1\r\nHost: gw\r\n\r\n")
	_ = c.(*net.TCPConn).CloseWrite()
	close(wait)
	if r, err := readReply(bufio.NewReader(c)); err != nil || r.status != 200 {
		t.Errorf("%v, %v", r, err)
	}
}

// If fasthttp ever sees the end of a request elsewhere than we do, the connection ends instead of running the rest.
func TestLockstep(t *testing.T) {
	for name, state := range map[string]connState{"in the head": connHead, "in the body": connBody} {
		c := &conn{state: state, ahead: []byte("GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n")}
		c.answered()
		if n, err := c.Read(make([]byte, 100)); n != 0 || err != io.EOF {
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
	}
}
