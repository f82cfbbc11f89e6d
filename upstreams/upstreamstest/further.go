package upstreamstest

import (
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// testFurther shows what whoever asks again is told, and can say.
func testFurther(t *testing.T, s Subject) {
	good := Reply("200 OK", s.answer("hello"), JSON)
	for about, broken := range map[string]struct {
		kept  bool // whether it is the connection's second request that it breaks at
		raw   string
		after time.Duration
		stale bool
	}{
		"a kept connection":                        {kept: true, stale: true},
		"a new connection":                         {},
		"a kept connection, in the header":         {kept: true, raw: "HTTP/1.1 200 OK\r\nContent-"},
		"a kept connection on which it is at work": {kept: true, after: 1500 * time.Millisecond},
	} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			server := Serve(t, func(c *Conn) {
				if broken.kept && c.N == 0 {
					c.Send(good)
					return
				}
				c.Send(broken.raw)
				time.Sleep(broken.after)
				c.Reset()
				c.Close()
			})
			u := s.open(t, server)
			if broken.kept {
				if _, err := u.Chat(t.Context(), ask(false)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := u.Chat(t.Context(), ask(false))
			wantFault(t, about, err, fault.Upstream, "upstream_reset")
			if f := upstreams.FailureOf(err); f.Stale != broken.stale || !f.Sent {
				t.Errorf("%+v", f)
			}
		})
	}
	t.Run("a connection of its own", func(t *testing.T) {
		t.Parallel()
		server := Serve(t, func(c *Conn) { c.Send(good) })
		u := s.open(t, server)
		for i := range 3 {
			r := ask(false)
			r.Fresh = i > 0
			if _, err := u.Chat(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if n := server.Conns.Load(); n != 3 {
			t.Errorf("%d connections for one request and two that take their own", n)
		}
	})
	t.Run("what is left of the patience", func(t *testing.T) {
		t.Parallel()
		u := s.open(t, Serve(t, func(c *Conn) { c.Gone() }))
		for _, stream := range []bool{false, true} {
			r, began := ask(stream), time.Now()
			r.Since = began.Add(-Patience + blink)
			_, err := u.Chat(t.Context(), r)
			wantFault(t, "silence", err, fault.Timeout, "upstream_timeout")
			if took := time.Since(began); took > Patience/2 {
				t.Errorf("it was waited for %v", took)
			}
		}
	})
}
