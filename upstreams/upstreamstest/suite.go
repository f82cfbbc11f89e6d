// Package upstreamstest is the suite that every upstream must pass, in whatever words its provider speaks, and the server
// that plays the provider in it. The server knows nothing of the code under test: it speaks TCP and sends the
// bytes it was given.
package upstreamstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/upstreams"
)

// Subject is the upstream under test.
type Subject struct {
	// New makes it, asking at o.BaseURL.
	New func(o upstreams.Options) (*upstreams.Client, error)

	Forward map[string]string // headers of clients that it passes on
	Header  map[string]string // headers of its provider that it keeps, in canonical form
	ID      string            // which of them is the provider's name for the request; "" if none is
	Check   Check
	Embeds  Embeds
	Lists   Lists

	Wire *Wire  // how its provider speaks; nil: the dialect of OpenAI, which is passed through
	More string // what recorded streams were asked for beside messages: members, beginning with a comma
}

// Key is the provider key the suite uses. It must come out nowhere but in the header for it.
const Key = "sk-canary-4Zq8LrT2vX9pW6mK"

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"request":          testRequest,
		"whole":            testWhole,
		"header":           testHeader,
		"stream":           testStream,
		"broken whole":     testBrokenWhole,
		"broken stream":    testBrokenStream,
		"encodings":        testEncodings,
		"hostile":          testHostile,
		"refusals":         testRefusals,
		"unreachable":      testUnreachable,
		"silence":          testSilence,
		"limits in time":   testTime,
		"context":          testContext,
		"close":            testClose,
		"connections":      testConnections,
		"secrets":          testSecrets,
		"storm":            testStorm,
		"tls and http/2":   testTLS,
		"options":          testOptions,
		"many at one host": testMany,
		"further attempts": testFurther,
		"key check":        testKeyCheck,
		"embeddings":       testEmbeddings,
		"list of models":   testList,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// open makes the subject ask at s, with limits short enough for a test; adjust may change them.
func (s Subject) open(t testing.TB, server *Server, adjust ...func(*upstreams.Options)) client {
	t.Helper()
	o := upstreams.Options{BaseURL: server.URL, HeaderTimeout: Patience, WholeTimeout: Patience, IdleTimeout: Patience}
	for _, f := range adjust {
		f(&o)
	}
	u, err := s.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return client{u}
}

// client translates what it asks, as the gateway does.
type client struct{ *upstreams.Client }

func (c client) Chat(ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	if err := c.Translate(r); err != nil {
		return nil, err
	}
	return c.Client.Chat(ctx, r)
}

func ask(stream bool) *upstreams.Request { return askFor("", stream) }

func askFor(more string, stream bool) *upstreams.Request {
	return &upstreams.Request{
		Body:    fmt.Appendf(nil, `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":%v%s}`, stream, more),
		Model:   "m",
		Stream:  stream,
		Key:     seal.NewSecret(Key),
		Attempt: "req_1-0",
	}
}

// drain reads a stream to its end and returns what it said and what ended it.
func drain(s upstreams.Stream) (payloads []string, err error) {
	for {
		p, err := s.Next()
		if err != nil {
			return payloads, err
		}
		payloads = append(payloads, string(p))
	}
}

// next reads a stream up to the next payload that says something.
func next(s upstreams.Stream) error {
	for {
		if p, err := s.Next(); err != nil || textOf(string(p)) != "" {
			return err
		}
	}
}

// listen asks for a stream, reads it to its end and closes it.
func listen(t testing.TB, u upstreams.Upstream) (payloads []string, err error) {
	t.Helper()
	a, err := u.Chat(t.Context(), ask(true))
	if err != nil {
		t.Fatalf("no stream: %v", err)
	}
	defer a.Stream.Close()
	return drain(a.Stream)
}

// wantFault checks the kind and the code of err.
func wantFault(t testing.TB, about string, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%s: got %v, want %s", about, err, code)
		return
	}
	if f := fault.From(err); f.Kind != kind || f.Code != code {
		t.Errorf("%s: got kind %d code %q (%v), want kind %d code %q", about, f.Kind, f.Code, err, kind, code)
	}
}

func testRequest(t *testing.T, s Subject) {
	heads := make(chan *Conn, 1)
	server := Serve(t, func(c *Conn) {
		heads <- c
		c.Send(Reply("200 OK", s.answer("hello"), JSON))
	})
	u := s.open(t, server)
	r := ask(false)
	r.Body = []byte("{ \"model\" : \"m\",\n\t\"messages\":[], \"unknown\": 1e2, \"text\":\"\\u00e9é\" }\n")
	r.Header = http.Header{
		"Authorization":   {"Bearer th_the_clients_own"},
		"Cookie":          {"session=1"},
		"X-Forwarded-For": {"10.0.0.1"},
		"Idempotency-Key": {"k"},
		"Accept-Encoding": {"gzip"},
		"Expect":          {"100-continue"},
	}
	want := map[string]string{
		"Host":                strings.TrimSuffix(strings.TrimPrefix(server.URL, "http://"), "/v1"),
		"Content-Type":        "application/json",
		"Accept":              "application/json",
		"Accept-Encoding":     "identity",
		"User-Agent":          "threadhub",
		"X-Client-Request-Id": "req_1-0",
	}
	want[s.wire().Authorization] = Key
	if s.wire().Authorization == "Authorization" {
		want["Authorization"] = "Bearer " + Key
	}
	for name, value := range s.Forward {
		r.Header.Set(name, value)
		want[http.CanonicalHeaderKey(name)] = value
	}
	if _, err := u.Chat(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	c := <-heads
	if !strings.HasPrefix(c.Head, "POST /v1/"+s.wire().Path+" HTTP/1.1\r\n") {
		t.Errorf("asked with %q", c.Head)
	}
	if s.Wire == nil && string(c.Body) != string(r.Body) || s.Wire != nil && !json.Valid(c.Body) {
		t.Errorf("the body came as %q", c.Body)
	}
	want["Content-Length"] = fmt.Sprint(len(c.Body))
	got := map[string]string{"Host": c.Request.Host}
	for name, values := range c.Request.Header {
		got[name] = strings.Join(values, " | ")
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: got %q, want %q", name, got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("headers nobody asked for: %v", got)
	}

	r.Stream = true
	for name := range s.Forward {
		r.Header.Set(name, "a\r\nb")
	}
	if _, err := u.Chat(t.Context(), r); err == nil {
		t.Error("a whole answer passed for a stream")
	}
	c = <-heads
	if !strings.HasPrefix(c.Head, "POST /v1/"+s.wire().StreamPath+" HTTP/1.1\r\n") {
		t.Errorf("a stream was asked for with %q", c.Head)
	}
	if got := c.Request.Header.Get("Accept"); got != "text/event-stream" {
		t.Errorf("a stream was asked for with Accept: %s", got)
	}
	for name := range s.Forward {
		if got, there := c.Request.Header[http.CanonicalHeaderKey(name)]; there {
			t.Errorf("%s came with a line break as %q", name, got)
		}
	}
}

func testWhole(t *testing.T, s Subject) {
	const text = "héllo \u2028 \\ud83d"
	body := "\n" + s.answer(text) + " \n"
	for about, raw := range map[string]string{
		"with a length":       Reply("200 OK", body, JSON),
		"with a charset":      Reply("200 OK", body, "Content-Type: application/json; charset=utf-8"),
		"in chunks":           "HTTP/1.1 200 OK\r\n" + JSON + "\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunk(body[:7]) + Chunk(body[7:]) + LastChunk,
		"until the end":       "HTTP/1.0 200 OK\r\n" + JSON + "\r\n\r\n" + body,
		"after a 100 and 103": "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + Reply("200 OK", body, JSON),
	} {
		a, err := s.open(t, Replies(t, raw)).Chat(t.Context(), ask(false))
		if err != nil {
			t.Errorf("%s: %v", about, err)
			continue
		}
		if !s.answered(a.Body, body, text) || a.Stream != nil || a.Status != 200 {
			t.Errorf("%s: status %d, %q", about, a.Status, a.Body)
		}
	}
}

func testHeader(t *testing.T, s Subject) {
	lines := []string{JSON, "Set-Cookie: a=b", "Server: cloudflare", "Content-Disposition: attachment", "Link: </x>", "Openai-Organization: org-x", "X-Other: y"}
	for name, value := range s.Header {
		lines = append(lines, strings.ToLower(name)+": "+value)
	}
	a, err := s.open(t, Replies(t, Reply("200 OK", s.answer("x"), lines...))).Chat(t.Context(), ask(false))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Header) != len(s.Header) {
		t.Errorf("kept %v, want %v", a.Header, s.Header)
	}
	for name, value := range s.Header {
		if got := a.Header.Get(name); got != value {
			t.Errorf("%s: got %q, want %q", name, got, value)
		}
	}
	if s.ID == "" {
		return
	}
	if a.UpstreamID != s.Header[s.ID] || a.UpstreamID == "" {
		t.Errorf("the provider's id is %q, want that of %s", a.UpstreamID, s.ID)
	}

	odd := s.ID + ": a\x01\x7f\xffb" + strings.Repeat("c", 1000)
	a, err = s.open(t, Replies(t, Reply("200 OK", s.answer("x"), JSON, odd))).Chat(t.Context(), ask(false))
	if err != nil { // net/http may refuse such a header, which is as good
		wantFault(t, "odd header", err, fault.Upstream, "upstream_protocol")
	} else if id := a.UpstreamID; len(id) > 256 || strings.Trim(id, "abc") != "" {
		t.Errorf("an odd header came out as %q", id)
	}
}

func testStream(t *testing.T, s Subject) {
	a, b := s.delta("one"), s.delta("two \" é")
	last, done := s.wire().Last, s.done()
	good := map[string]string{
		"plain":                     EventStream + Data(a) + Data(b) + done,
		"in chunks":                 Chunked + Chunk(Data(a)) + Chunk(Data(b)) + Chunk(done) + LastChunk,
		"cut anywhere":              Chunked + Chunk(Data(a)[:9]) + Chunk(Data(a)[9:]+Data(b)[:3]) + Chunk(Data(b)[3:]+done[:8]) + Chunk(done[8:]) + LastChunk,
		"of HTTP/1.0":               "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + Data(a) + Data(b) + done,
		"no space after the colon":  EventStream + "data:" + a + "\n\ndata:" + b + "\n\ndata:" + last + "\n\n",
		"carriage returns":          EventStream + "data: " + a + "\r\n\r\ndata: " + b + "\r\n\r\ndata: " + last + "\r\n\r\n",
		"comments and other fields": EventStream + ": PROCESSING\n\nretry: 5\n\nid: 7\nevent: message\n" + Data(a) + ": x\n\n" + Data(b) + done,
		"empty events":              EventStream + "data:\n\n" + Data(a) + "data: \n\n" + Data(b) + done,
	}
	if !s.wire().Endless {
		good["no blank line at the end"] = EventStream + Data(a) + Data(b) + "data: " + last
		good["one line end at the end"] = EventStream + Data(a) + Data(b) + "data: " + last + "\n"
		good["more after the end"] = EventStream + Data(a) + Data(b) + done + Data(`{"error":{"message":"late"}}`) + done + "junk"
		good["no last chunk"] = Chunked + Chunk(Data(a)+Data(b)+done)
	}
	for about, raw := range good {
		got, err := listen(t, s.open(t, Replies(t, raw)))
		if !errors.Is(err, io.EOF) || !s.heard(got, "one", "two \" é") {
			t.Errorf("%s: got %q, %v", about, got, err)
		}
	}

	const speech = `"error" and {"error":1}`
	null := s.delta(speech)
	if s.Wire == nil {
		null = `{"id":"1","choices":[{"index":0,"delta":{"content":"\"error\" and {\"error\":1}"},"error":null,"finish_reason":null}],"error":null}`
	}
	got, err := listen(t, s.open(t, Replies(t, EventStream+Data(null)+done)))
	if !errors.Is(err, io.EOF) || s.Wire == nil && (len(got) != 1 || got[0] != null) || s.Wire != nil && !s.heard(got, speech) {
		t.Errorf("a chunk that speaks of errors: %q, %v", got, err)
	}

	long := strings.Repeat("x", 900<<10)
	got, err = listen(t, s.open(t, Replies(t, EventStream+Data(s.delta(long))+done)))
	if !errors.Is(err, io.EOF) || !s.heard(got, long) {
		t.Errorf("a long event: %d payloads, %v", len(got), err)
	}
}

func testBrokenStream(t *testing.T, s Subject) {
	a, last, done := s.delta("one"), s.wire().Last, s.done()
	good := EventStream + Data(a)
	chunked := Chunked + Chunk(Data(a))
	type broken struct {
		about, raw string
		kind       fault.Kind
		code       string
	}
	cases := []broken{
		{"a clean end without the mark", good, fault.Upstream, "upstream_truncated"},
		{"a last chunk without the mark", chunked + LastChunk, fault.Upstream, "upstream_truncated"},
		{"an end inside an event", good + `data: {"id":"x"`, fault.Upstream, "upstream_truncated"},
		{"an end after a line", good + "data: " + a + "\n", fault.Upstream, "upstream_truncated"},
		{"a mark that is cut", good + "data: " + last[:len(last)-2], fault.Upstream, "upstream_truncated"},
		{"an end between chunks", chunked, fault.Upstream, "upstream_reset"},
		{"an end inside a chunk", chunked + "ff\r\ndata: ", fault.Upstream, "upstream_reset"},
		{"a chunk that is none", chunked + "zz\r\n", fault.Upstream, "upstream_protocol"},
		{"something that is no JSON", good + Data("hello") + done, fault.Upstream, "upstream_protocol"},
		{"an array", good + Data("[1]") + done, fault.Upstream, "upstream_protocol"},
		{"a line over the cap", good + Data(`{"a":"`+strings.Repeat("x", 1<<20)+`"}`) + done, fault.Upstream, "upstream_oversize"},
		{"a line without an end", good + "data: " + strings.Repeat("x", 2<<20), fault.Upstream, "upstream_oversize"},
		{"many lines of one event", good + strings.Repeat("data: "+strings.Repeat("x", 1<<10)+"\n", 2<<10), fault.Upstream, "upstream_oversize"},
		{"an error", good + Data(`{"error":{"message":"no","type":"server_error","code":null}}`), fault.Upstream, "upstream_error"},
		{"an error and then the mark", good + Data(`{"error":{"message":"no","code":502}}`) + done, fault.Upstream, "upstream_error"},
		{"an error that ends the bytes", good + `data: {"error":{"message":"no","code":"server_error"}}`, fault.Upstream, "upstream_error"},
		{"an event named error", good + "event: error\n" + Data(`{"error":{"message":"slow","type":"tokens","code":"rate_limit_exceeded"}}`), fault.RateLimited, "rate_limit_exceeded"},
		{"an error in an array", good + Data(`[{"error":{"message":"no","code":503,"status":"UNAVAILABLE"}}]`), fault.Upstream, "upstream_error"},
		{"an error in an array between events", good + "[{\n  \"error\": {\"message\": \"no\", \"code\": 503}\n}]\n", fault.Upstream, "upstream_error"},
		{"a page", good + "<!DOCTYPE html>\n<html>\n<h1>502</h1>\n</html>\n", fault.Upstream, "upstream_protocol"},
		{"words", good + "upstream connect error\n", fault.Upstream, "upstream_protocol"},
		{"a byte order mark", good + "\xEF\xBB\xBF" + Data(a), fault.Upstream, "upstream_protocol"},
		{"an error in a text", good + Data(`{"error":"overloaded"}`), fault.Upstream, "upstream_error"},
		{"a request the model refuses midway", good + Data(`{"error":{"message":"too long","code":"context_length_exceeded","param":"messages"}}`), fault.Invalid, "context_length_exceeded"},
	}
	if s.Wire == nil {
		cases = append(cases, []broken{
			{"an event named error without a member", good + "event: error\n" + Data(`{"message":"slow","code":429}`), fault.RateLimited, "rate_limit_exceeded"},
			{"an event named error that is text", good + "event: error\n" + Data("oh no"), fault.Upstream, "upstream_error"},
			{"a choice that ended in an error", good + Data(`{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}`), fault.Upstream, "upstream_error"},
		}...)
	}
	for _, c := range cases {
		got, err := listen(t, s.open(t, Replies(t, c.raw)))
		wantFault(t, c.about, err, c.kind, c.code)
		if !s.heard(got, "one") {
			t.Errorf("%s: before it came %d payloads", c.about, len(got))
		}
	}

	server := Serve(t, func(c *Conn) {
		c.Send(good)
		if c.N == 0 { // the client has the first event before the connection breaks
			_, _ = c.in.ReadByte()
		}
	})
	u := s.open(t, server)
	an, err := u.Chat(t.Context(), ask(true))
	if err != nil {
		t.Fatal(err)
	}
	defer an.Stream.Close()
	if err := next(an.Stream); err != nil {
		t.Fatal(err)
	}
	server.mu.Lock()
	for c := range server.open {
		(&Conn{Conn: c}).Reset()
	}
	server.mu.Unlock()
	err = next(an.Stream)
	wantFault(t, "a reset", err, fault.Upstream, "upstream_reset")
	_, again := an.Stream.Next()
	if !errors.Is(again, err) {
		t.Errorf("after its end a stream says %v", again)
	}
}

func testContext(t *testing.T, s Subject) {
	cause := errors.New("the client has left")
	gone := make(chan bool, 1)
	for about, begin := range map[string]string{
		"before the header":     "",
		"in the header":         "HTTP/1.1 200 OK\r\nContent-",
		"in a whole answer":     "HTTP/1.1 200 OK\r\n" + JSON + "\r\nContent-Length: 100\r\n\r\n{",
		"in a stream":           Chunked + Chunk(Data(s.delta("one"))),
		"in the body of a 400":  "HTTP/1.1 400 Bad Request\r\n" + JSON + "\r\nContent-Length: 100\r\n\r\n{",
		"in a stream, compress": "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
	} {
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
			a, err := u.Chat(ctx, ask(about != "in a whole answer"))
			if err == nil && a.Stream != nil {
				_, err = drain(a.Stream)
				defer a.Stream.Close()
			}
			ended <- err
		}()
		<-asked
		cancel(cause)
		select {
		case err := <-ended:
			if !errors.Is(err, cause) && about != "in the body of a 400" {
				t.Errorf("%s: the error is %v, not the cause", about, err)
			}
		case <-time.After(Patience):
			t.Fatalf("%s: the call goes on", about)
		}
		if !<-gone {
			t.Errorf("%s: the socket stays open", about)
		}
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	server := Serve(t, func(c *Conn) { t.Error("a request was sent for a context that had ended") })
	if _, err := s.open(t, server).Chat(ctx, ask(true)); !errors.Is(err, cause) || upstreams.FailureOf(err).Sent {
		t.Errorf("a context that had ended: %v, sent %v", err, upstreams.FailureOf(err).Sent)
	}
}
