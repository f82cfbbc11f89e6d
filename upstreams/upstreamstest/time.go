package upstreamstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// blink is the limit in tests that wait for one to be reached.
const blink = 100 * time.Millisecond

func impatient(o *upstreams.Options) { o.IdleTimeout = blink }

func testSilence(t *testing.T, s Subject) {
	for _, c := range []struct {
		about, raw string
		stream     bool
		kind       fault.Kind
		code       string
	}{
		{"no header", "", true, fault.Timeout, "upstream_timeout"},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-", false, fault.Timeout, "upstream_timeout"},
		{"half a body", "HTTP/1.1 200 OK\r\n" + JSON + "\r\nContent-Length: 100\r\n\r\n{", false, fault.Timeout, "upstream_timeout"},
		{"an error without its body", "HTTP/1.1 500 No\r\n" + JSON + "\r\nContent-Length: 100\r\n\r\n{", false, fault.Upstream, "upstream_error"},
		{"a stream before its first event", EventStream, true, fault.Upstream, "upstream_stalled"},
		{"a stream after an event", EventStream + Data(s.delta("one")), true, fault.Upstream, "upstream_stalled"},
		{"a stream inside an event", EventStream + Data(s.delta("one")) + "data: {", true, fault.Upstream, "upstream_stalled"},
	} {
		t.Run(c.about, func(t *testing.T) {
			t.Parallel()
			gone := make(chan bool, 1)
			server := Serve(t, func(conn *Conn) {
				conn.Send(c.raw)
				gone <- conn.Gone()
				conn.Close()
			})
			began := time.Now()
			u := s.open(t, server, impatient, func(o *upstreams.Options) {
				if !strings.Contains(c.raw, "\r\n\r\n") {
					o.HeaderTimeout, o.WholeTimeout = blink, blink
				}
			})
			a, err := u.Chat(t.Context(), ask(c.stream))
			if err == nil {
				_, err = drain(a.Stream)
				if !<-gone { // before Close
					t.Error("the socket stays open")
				}
				a.Stream.Close()
			} else if upstreams.FailureOf(err).Sent && !<-gone { // on a busy machine time may be up before there is a connection
				t.Error("the socket stays open")
			}
			wantFault(t, c.about, err, c.kind, c.code)
			if took := time.Since(began); took < blink {
				t.Errorf("given up after %v", took)
			}
		})
	}
}

func testTime(t *testing.T, s Subject) {
	t.Run("signs of life", func(t *testing.T) {
		t.Parallel()
		// Each pause is far shorter than the limit, all together are longer; comments are life as well.
		server := Serve(t, func(c *Conn) {
			c.Send(EventStream)
			tick := time.NewTicker(blink / 5)
			defer tick.Stop()
			for _, b := range ": still here\n\n" + "data: {}\n\n" + s.done()[:7] {
				<-tick.C
				c.Send(string(b))
			}
			c.Send(s.done()[7:])
			c.Close()
		})
		if got, err := listen(t, s.open(t, server, func(o *upstreams.Options) { o.IdleTimeout = 4 * blink })); !errors.Is(err, io.EOF) || s.Wire == nil && len(got) != 1 {
			t.Errorf("a slow stream gave %q, %v", got, err)
		}
	})

	t.Run("a slow reader", func(t *testing.T) {
		t.Parallel()
		asked := make(chan bool)
		server := Serve(t, func(c *Conn) {
			c.Send(EventStream + Data(s.delta("one")))
			<-asked
			c.Send(Data(s.delta("two")) + s.done())
			c.Close()
		})
		a, err := s.open(t, server, impatient).Chat(t.Context(), ask(true))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Stream.Close()
		if err := next(a.Stream); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * blink) // nobody waits for the provider: that is no silence of its
		close(asked)
		if got, err := drain(a.Stream); !errors.Is(err, io.EOF) || !s.heard(got, "two") {
			t.Errorf("then came %q, %v", got, err)
		}
	})

	t.Run("the whole call", func(t *testing.T) {
		t.Parallel()
		server := Serve(t, func(c *Conn) {
			c.Send(EventStream)
			for c.Send(Data(s.delta("more"))) {
				<-time.After(blink / 20)
			}
		})
		u := s.open(t, server, func(o *upstreams.Options) { o.TotalTimeout = 5 * blink })
		got, err := listen(t, u)
		wantFault(t, "an endless stream", err, fault.Timeout, "deadline")
		if len(got) == 0 {
			t.Error("nothing came of it")
		}
		server = Serve(t, func(c *Conn) { c.Gone() })
		u = s.open(t, server, func(o *upstreams.Options) { o.TotalTimeout = blink })
		_, err = u.Chat(t.Context(), ask(false))
		wantFault(t, "an endless wait", err, fault.Timeout, "deadline")
	})
}

func testClose(t *testing.T, s Subject) {
	gone := make(chan bool, 1)
	server := Serve(t, func(c *Conn) {
		c.Send(Chunked + Chunk(Data(s.delta("one"))))
		gone <- c.Gone()
		c.Close()
	})
	a, err := s.open(t, server).Chat(t.Context(), ask(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := next(a.Stream); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		ended <- next(a.Stream)
	}()
	for range 2 { // twice is once
		if err := a.Stream.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-ended:
		if !errors.Is(err, upstreams.ErrClosed) {
			t.Errorf("Next said %v", err)
		}
	case <-time.After(Patience):
		t.Fatal("Next still waits for a stream that was closed")
	}
	if !<-gone {
		t.Error("the socket stays open")
	}

	if s.wire().Endless {
		return
	}
	// After the end mark Close waits no longer than a moment for an end that does not come.
	held := make(chan bool, 1)
	a, err = s.open(t, Serve(t, func(c *Conn) {
		c.Send(Chunked + Chunk(s.done()))
		held <- c.Gone()
		c.Close()
	})).Chat(t.Context(), ask(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := drain(a.Stream); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	began := time.Now()
	a.Stream.Close()
	if took := time.Since(began); took > time.Second || !<-held {
		t.Errorf("closing a finished stream took %v", took)
	}
	if _, err := a.Stream.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after its end a stream says %v", err)
	}
}

// testConnections shows which connections serve again: those whose answer was read to a good end, and no others.
func testConnections(t *testing.T, s Subject) {
	stream := Chunked + Chunk(Data(s.delta("x"))) + Chunk(s.done()) + LastChunk
	type served struct {
		about, raw string
		stream     bool
		conns      int64
	}
	cases := []served{
		{"whole answers", Reply("200 OK", s.answer("x"), JSON), false, 1},
		{"streams", stream, true, 1},
		{"refusals", Reply("400 Bad Request", `{"error":{"message":"no"}}`, JSON), true, 1},
		{"streams that failed", Chunked + Chunk(Data(`{"error":{"message":"no"}}`)), true, 3},
	}
	if !s.wire().Endless {
		cases = append(cases, served{"streams with more after the mark", Chunked + Chunk(s.done()) + strings.Repeat(Chunk(strings.Repeat("x", 4000)), 5) + LastChunk, true, 3})
	}
	for _, c := range cases {
		server := Serve(t, func(conn *Conn) { conn.Send(c.raw) })
		u := s.open(t, server)
		for range 3 {
			if a, err := u.Chat(t.Context(), ask(c.stream)); err == nil && a.Stream != nil {
				_, _ = drain(a.Stream)
				a.Stream.Close()
			}
		}
		if got := server.Conns.Load(); got != c.conns {
			t.Errorf("%s: 3 calls took %d connections, want %d", c.about, got, c.conns)
		}
	}
}

// testStorm runs many streams at once, half of them cut short by their callers at any moment. Each says its own tag in
// every event, and nobody may hear another's.
func testStorm(t *testing.T, s Subject) {
	const callers, rounds, events = 16, 25, 20
	server := Serve(t, func(c *Conn) {
		tag := c.Request.Header.Get("X-Client-Request-Id")
		c.Send(Chunked)
		for i := range events {
			if !c.Send(Chunk(Data(s.delta(fmt.Sprintf("<%s>%d", tag, i))))) {
				return
			}
		}
		c.Send(Chunk(s.done()) + LastChunk)
	})
	u := s.open(t, server)
	var wait sync.WaitGroup
	for caller := range callers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			random := rand.New(rand.NewPCG(uint64(caller), 7))
			for round := range rounds {
				oneOfMany(t, u, fmt.Sprintf("req_%d_%d", caller, round), events, random)
			}
		}()
	}
	wait.Wait()
}

func oneOfMany(t *testing.T, u upstreams.Upstream, tag string, events int, random *rand.Rand) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	how, when := random.IntN(4), random.IntN(events)
	if how == 0 {
		go cancel() // at any moment, perhaps before the request is out
	}
	r := ask(true)
	r.Attempt = tag
	a, err := u.Chat(ctx, r)
	if err != nil {
		if how != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", tag, err)
		}
		return
	}
	defer a.Stream.Close()
	for i := 0; ; {
		if i == when {
			switch how {
			case 1:
				cancel()
			case 2:
				go a.Stream.Close()
			}
		}
		p, err := a.Stream.Next()
		if err != nil {
			whole := errors.Is(err, io.EOF) && i == events
			stopped := how < 3 && (errors.Is(err, context.Canceled) || errors.Is(err, upstreams.ErrClosed))
			if !whole && !stopped {
				t.Errorf("%s: after %d events: %v", tag, i, err)
			}
			return
		}
		text := textOf(string(p))
		if text == "" {
			continue
		}
		if want := fmt.Sprintf("<%s>%d", tag, i); text != want {
			t.Errorf("%s heard %s where %s belongs", tag, p, want)
			return
		}
		i++
	}
}

// testMany holds many streams open at one host at once.
func testMany(t *testing.T, s Subject) {
	const streams = 100
	var all sync.WaitGroup
	all.Add(streams)
	server := Serve(t, func(c *Conn) {
		c.Send(EventStream)
		all.Done()
		all.Wait() // nobody is answered before everybody has asked
		c.Send(s.done())
		c.Close()
	})
	u := s.open(t, server)
	var wait sync.WaitGroup
	for range streams {
		wait.Add(1)
		go func() {
			defer wait.Done()
			if _, err := listen(t, u); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}()
	}
	wait.Wait()
}
