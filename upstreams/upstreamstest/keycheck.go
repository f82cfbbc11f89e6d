package upstreamstest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/upstreams"
)

var key = seal.NewSecret(Key)

// Check is how the subject's provider tells whether a key is good.
type Check struct {
	Folder string // of recorded answers to a good key (*.resp.json, each named for its path)
	Path   string // which of them proves it
	Models int    // how many models the list there has
	Narrow bool   // 403 is for a key that is good for less

	Refused []string // recorded errors that refuse the key, beside those of 401 and 403
}

// place is the path that c asks for, under the base.
func place(c *Conn) string {
	return strings.TrimPrefix(strings.TrimPrefix(c.Request.URL.Path, "/v1/"), "/")
}

// provider answers everybody as the provider answers a good key, but at the path in its place.
func (s Subject) provider(t testing.TB, instead map[string]string) *Server {
	t.Helper()
	answers := recorded(t, s.Check.Folder, ".resp.json")
	return Serve(t, func(c *Conn) {
		path := place(c)
		if c.Request.Method != "GET" || len(c.Body) > 0 || c.Request.Header.Get(s.wire().Authorization) != s.wire().credential() {
			t.Errorf("asked with\n%s%s", c.Head, c.Body)
		}
		if raw, ok := instead[path]; ok {
			c.Send(raw)
			c.Close()
			return
		}
		body, ok := answers[path]
		if !ok {
			t.Errorf("asked for %q", path)
		}
		c.Send(Reply("200 OK", body, JSON))
	})
}

// proves shows what is made of a good key, a bad one, one that is good for less, and of recorded refusals.
func proves(t *testing.T, s Subject) {
	test := func(instead string) (upstreams.Proof, error) {
		t.Helper()
		at := map[string]string{}
		if instead != "" {
			at[s.Check.Path] = instead
		}
		return s.open(t, s.provider(t, at)).Test(t.Context(), key)
	}
	if p, err := test(""); err != nil || p != (upstreams.Proof{Status: 200, Models: s.Check.Models}) {
		t.Errorf("a good key: %+v, %v", p, err)
	}
	for name, raw := range recorded(t, "testdata/errors", ".http") {
		p, err := test(raw)
		status := upstreams.FailureOf(err).Status
		narrow := s.Check.Narrow && strings.HasPrefix(name, "403_") && name != "403_region"
		switch {
		case narrow:
			if err != nil || p != (upstreams.Proof{Status: 403, Models: -1, Narrow: true}) {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		case err == nil:
			t.Errorf("%s proves a key: %+v", name, p)
		case status == 401 || status == 403 || slices.Contains(s.Check.Refused, name):
			wantFault(t, name, err, fault.Upstream, "upstream_auth")
			if f := fault.From(err); !strings.HasSuffix(f.Message, ": the key was refused") || !f.Final {
				t.Errorf("%s: %+v", name, f)
			}
		case !strings.HasPrefix(name, fmt.Sprint(status)) || fault.HasCode(err, "upstream_auth"):
			t.Errorf("%s: status %d, %v", name, status, err)
		}
	}
	_, err := test(Reply("403 Forbidden", "<html>blocked</html>", "Content-Type: text/html"))
	wantFault(t, "an edge that says no", err, fault.Upstream, "upstream_auth")
}

func testKeyCheck(t *testing.T, s Subject) {
	proves(t, s)

	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	fmt.Fprintf(w, `{"data":{"a":"%s"}}`, strings.Repeat("x", 16<<20))
	_ = w.Close()
	elsewhere := Serve(t, func(c *Conn) { t.Error("a redirect was followed, with " + c.Request.Header.Get("Authorization")) })
	for about, c := range map[string]struct{ raw, code string }{
		"nothing":                     {Reply("200 OK", "", JSON), "upstream_protocol"},
		"an empty object":             {Reply("200 OK", "{}", JSON), "upstream_protocol"},
		"no data":                     {Reply("200 OK", `{"data":null}`, JSON), "upstream_protocol"},
		"data that is a word":         {Reply("200 OK", `{"data":"`+Key+`"}`, JSON), "upstream_protocol"},
		"data that is a number":       {Reply("200 OK", `{"data":1}`, JSON), "upstream_protocol"},
		"a list without an object":    {Reply("200 OK", `[]`, JSON), "upstream_protocol"},
		"a page":                      {Reply("200 OK", "<html>welcome</html>", "Content-Type: text/html"), "upstream_protocol"},
		"a stream":                    {EventStream + Data(`{"data":[]}`) + Done, "upstream_protocol"},
		"an error":                    {Reply("200 OK", `{"error":{"message":"no","type":"server_error"}}`, JSON), "upstream_error"},
		"a redirect":                  {Reply("302 Found", "", "Location: "+elsewhere.URL+"/models"), "upstream_protocol"},
		"a flood of 103":              {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000) + Reply("200 OK", `{"data":[]}`, JSON), "upstream_protocol"},
		"a header that is huge":       {Reply("200 OK", `{"data":[]}`, JSON, "X-Big: "+strings.Repeat("x", 64<<10)), "upstream_protocol"},
		"no HTTP":                     {"220 " + Key + "\r\n", "upstream_protocol"},
		"more than anybody lists":     {Reply("200 OK", `{"data":{"a":"`+strings.Repeat("x", 9<<20)+`"}}`, JSON), "upstream_oversize"},
		"the same, packed":            {Reply("200 OK", packed.String(), JSON, "Content-Encoding: gzip"), "upstream_oversize"},
		"an end in the middle":        {"HTTP/1.1 200 OK\r\n" + JSON + "\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunk(`{"data":[`), "upstream_reset"},
		"an end before the beginning": {"", "upstream_reset"},
		"a 500":                       {Reply("500 Error", `{"error":{"message":"bad key `+Key+`"}}`, JSON), "upstream_error"},
		"a 429":                       {Reply("429 Slow", `{"error":{"message":"`+Key+`","code":"`+Key+`"}}`, JSON, "Retry-After: 3"), "rate_limit_exceeded"},
		"a 401 that quotes the key":   {Reply("401 No", `{"error":{"message":"`+Key+`","param":"`+Key+`"}}`, JSON), "upstream_auth"},
		"a 400 that quotes the key":   {Reply("400 No", `{"error":{"message":"`+Key+`","param":"`+Key+`","code":"odd"}}`, JSON), "odd"},
	} {
		server := s.provider(t, map[string]string{s.Check.Path: c.raw})
		p, err := s.open(t, server).Test(t.Context(), key)
		if err == nil || p != (upstreams.Proof{}) || !fault.HasCode(err, c.code) {
			t.Errorf("%s: %+v, %v, want %s", about, p, err, c.code)
		}
		if n := server.Conns.Load(); n != 1 {
			t.Errorf("%s: asked %d times", about, n)
		}
		f := fault.From(err)
		if out := fmt.Sprintf("%v|%+v|%#v|%s|%s|%v", err, err, f.Message, f.Code, f.Param, upstreams.FailureOf(err)); strings.Contains(out, Key) || strings.Contains(f.Message, "127.0.0.1") {
			t.Errorf("%s: the key or the address came out: %s", about, out)
		}
	}

	// A connection that breaks under the question is no reason to ask again, however long it was kept.
	var broken, asked atomic.Int64
	answers := recorded(t, s.Check.Folder, ".resp.json")
	u := s.open(t, Serve(t, func(c *Conn) {
		if broken.Load() == 0 {
			c.Send(Reply("200 OK", answers[place(c)], JSON))
			return
		}
		asked.Add(1)
		c.Reset()
	}))
	if _, err := u.Test(t.Context(), key); err != nil {
		t.Error(err)
	}
	broken.Store(1)
	_, err := u.Test(t.Context(), key)
	wantFault(t, "a connection that breaks", err, fault.Upstream, "upstream_reset")
	if n := asked.Load(); n != 1 {
		t.Errorf("after a connection broke it was asked %d times", n)
	}

	// What cannot be told from a word cannot be taken out of words: nothing is told then.
	short := s.open(t, Replies(t, Reply("500 Error", `{"error":{"message":"no: abc123"}}`, JSON)))
	if _, err := short.Test(t.Context(), seal.NewSecret("abc123")); err == nil || strings.Contains(err.Error(), "abc123") {
		t.Errorf("a short key: %v", err)
	}
	nobody := Serve(t, func(c *Conn) { t.Errorf("a key that cannot be sent was sent: %q", c.Head) })
	for _, bad := range []string{"", "sk-canary\r\nX-Evil: 1", "sk-canaryé"} {
		_, err := s.open(t, nobody).Test(t.Context(), seal.NewSecret(bad))
		wantFault(t, "a key that cannot be sent", err, fault.Upstream, "upstream_auth")
	}
	testKeyCheckInTime(t, s)
}

func testKeyCheckInTime(t *testing.T, s Subject) {
	gone := make(chan bool, 1)
	hang := func(begin string) *Server {
		return Serve(t, func(c *Conn) {
			c.Send(begin)
			gone <- c.Gone()
			c.Close()
		})
	}
	head := "HTTP/1.1 200 OK\r\n" + JSON + "\r\nContent-Length: 100\r\n\r\n{"
	for about, c := range map[string]struct {
		begin, code string
		adjust      func(*upstreams.Options)
	}{
		"no answer":    {"", "upstream_timeout", func(o *upstreams.Options) { o.HeaderTimeout = blink }},
		"half a body":  {head, "upstream_timeout", impatient},
		"all too long": {"", "deadline", func(o *upstreams.Options) { o.TotalTimeout = blink }},
	} {
		_, err := s.open(t, hang(c.begin), c.adjust).Test(t.Context(), key)
		wantFault(t, about, err, fault.Timeout, c.code)
		if !<-gone {
			t.Errorf("%s: the socket stays open", about)
		}
	}

	cause := errors.New("the client has left")
	for about, begin := range map[string]string{"before the header": "", "in the body": head} {
		asked := make(chan bool, 1)
		u := s.open(t, Serve(t, func(c *Conn) {
			c.Send(begin)
			asked <- true
			gone <- c.Gone()
			c.Close()
		}))
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := u.Test(ctx, key)
			ended <- err
		}()
		<-asked
		cancel(cause)
		select {
		case err := <-ended:
			if !errors.Is(err, cause) {
				t.Errorf("%s: the error is %v, not the cause", about, err)
			}
		case <-time.After(Patience):
			t.Fatalf("%s: the test goes on", about)
		}
		if !<-gone {
			t.Errorf("%s: the socket stays open", about)
		}
	}
}
