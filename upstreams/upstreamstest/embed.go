package upstreamstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/openai"
	"threadhub/upstreams"
)

// Embeds is how the subject's provider embeds "one" and "two", each in four dimensions.
type Embeds struct {
	Path   string // below the base URL; "" is OpenAI's
	Body   string // what it is sent; "" is what the client wrote
	Answer string // what it says
	Told   string // what the client gets of that; "" is the same
}

// Embedded is the answer of those who speak OpenAI's dialect.
const Embedded = `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1, -2e-1,0.30,1]},{"object":"embedding","index":1,"embedding":[1,0,0,0]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}`

func (e Embeds) path() string {
	if e.Path == "" {
		return "embeddings"
	}
	return e.Path
}

const embeddingsBody = `{ "model":"m", "input" : ["one","tw\u006f"],"dimensions":4 }`

// embedding is what is asked, translated as the gateway does it, and the subject to ask.
func (s Subject) embedding(t testing.TB, server *Server, adjust ...func(*upstreams.Options)) (*upstreams.Client, *upstreams.Request) {
	t.Helper()
	u := s.open(t, server, adjust...).Client
	r := &upstreams.Request{Body: []byte(embeddingsBody), Model: "m", Inputs: 2, Key: seal.NewSecret(Key), Attempt: "req_1-0"}
	if err := u.TranslateEmbeddings(r); err != nil {
		t.Fatal(err)
	}
	return u, r
}

func (s Subject) embed(t testing.TB, server *Server, adjust ...func(*upstreams.Options)) (*upstreams.Answer, error) {
	t.Helper()
	u, r := s.embedding(t, server, adjust...)
	return u.Embed(t.Context(), r)
}

func testEmbeddings(t *testing.T, s Subject) {
	heads := make(chan *Conn, 1)
	server := Serve(t, func(c *Conn) {
		heads <- c
		c.Send(Reply("200 OK", s.Embeds.Answer, JSON))
	})
	a, err := s.embed(t, server)
	if err != nil {
		t.Fatal(err)
	}
	c := <-heads
	if !strings.HasPrefix(c.Head, "POST /v1/"+s.Embeds.path()+" HTTP/1.1\r\n") {
		t.Errorf("asked with %q", c.Head)
	}
	for name, want := range map[string]string{"X-Client-Request-Id": "req_1-0", "Accept": "application/json", s.wire().Authorization: s.wire().credential()} {
		if got := c.Request.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if s.Embeds.Body == "" && string(c.Body) != embeddingsBody {
		t.Errorf("the provider got %s", c.Body)
	} else if s.Embeds.Body != "" {
		Same(t, "the request", c.Body, []byte(s.Embeds.Body))
	}
	if s.Embeds.Told == "" && string(a.Body) != s.Embeds.Answer {
		t.Errorf("the client gets %s", a.Body)
	} else if s.Embeds.Told != "" {
		Same(t, "the answer", a.Body, []byte(s.Embeds.Told))
	}
	if a.Status != 200 || a.Stream != nil {
		t.Errorf("status %d, stream %v", a.Status, a.Stream)
	}
	testBrokenEmbeddings(t, s)
	testEmbeddingsInTime(t, s)

	refusal := Reply("403 Forbidden", `{"error":{"message":"You are not allowed to generate embeddings from this model","type":"invalid_request_error","param":null,"code":null}}`, JSON)
	_, err = s.embed(t, Replies(t, refusal))
	Fault{Kind: fault.Invalid, Param: "model", Message: "not allowed to generate embeddings"}.check(t, "a model that does not embed", err)
	_, err = s.open(t, Replies(t, refusal)).Chat(t.Context(), ask(false))
	wantFault(t, "a chat that is refused like that", err, fault.Denied, "permission_denied")
}

func testBrokenEmbeddings(t *testing.T, s Subject) {
	good := s.Embeds.Answer
	// As many bytes as an answer may have, and then some: what may come depends on how much was asked for.
	long := `{"a":"` + strings.Repeat("x", 2<<20) + `"}`
	for about, c := range map[string]struct {
		raw, code string
		kind      fault.Kind
	}{
		"less than its length":    {"HTTP/1.1 200 OK\r\n" + JSON + "\r\nContent-Length: 100000\r\n\r\n" + good, "upstream_protocol", fault.Upstream},
		"an end inside JSON":      {Reply("200 OK", good[:len(good)-3], JSON), "upstream_protocol", fault.Upstream},
		"a page":                  {Reply("200 OK", "<html></html>", "Content-Type: text/html"), "upstream_protocol", fault.Upstream},
		"nothing":                 {Reply("200 OK", "", JSON), "upstream_protocol", fault.Upstream},
		"a stream":                {EventStream + Data(good) + Done, "upstream_protocol", fault.Upstream},
		"an answer that is long":  {Reply("200 OK", long, JSON), "upstream_oversize", fault.Upstream},
		"a broken connection":     {"", "upstream_reset", fault.Upstream},
		"an error for an answer":  {Reply("200 OK", `{"error":{"message":"no","type":"server_error"}}`, JSON), "upstream_error", fault.Upstream},
		"a 400":                   {Reply("400 No", `{"error":{"message":"too large","param":"dimensions","code":"odd"}}`, JSON), "odd", fault.Invalid},
		"a 401 that quotes keys":  {Reply("401 No", `{"error":{"message":"`+Key+`"}}`, JSON), "upstream_auth", fault.Upstream},
		"a 429":                   {Reply("429 Slow", `{"error":{"message":"slow"}}`, JSON, "Retry-After: 3"), "rate_limit_exceeded", fault.RateLimited},
		"a 500 that quotes a key": {Reply("500 Error", `{"error":{"message":"`+Key+`"}}`, JSON), "upstream_error", fault.Upstream},
	} {
		_, err := s.embed(t, Replies(t, c.raw))
		wantFault(t, about, err, c.kind, c.code)
		if out := fmt.Sprintf("%v|%#v", err, fault.From(err)); strings.Contains(out, Key) {
			t.Errorf("%s: the key came out: %s", about, out)
		}
		if !upstreams.FailureOf(err).Sent {
			t.Errorf("%s: the failure does not say that the request was sent", about)
		}
	}
}

func testEmbeddingsInTime(t *testing.T, s Subject) {
	gone := make(chan bool, 1)
	asked := make(chan bool, 2)
	server := Serve(t, func(c *Conn) {
		asked <- true
		gone <- c.Gone()
		c.Close()
	})
	_, err := s.embed(t, server, func(o *upstreams.Options) { o.HeaderTimeout = blink })
	wantFault(t, "silence", err, fault.Timeout, "upstream_timeout")
	if !<-gone {
		t.Error("after silence the socket stays open")
	}
	<-asked

	cause := errors.New("the client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	u, r := s.embedding(t, server)
	go func() {
		_, err := u.Embed(ctx, r)
		ended <- err
	}()
	<-asked
	cancel(cause)
	select {
	case err := <-ended:
		if !errors.Is(err, cause) {
			t.Errorf("the error is %v, not the cause", err)
		}
	case <-time.After(Patience):
		t.Fatal("the call goes on")
	}
	if !<-gone {
		t.Error("the socket stays open")
	}
}

// Embedded plays every recorded answer in folder (*.resp.json) and checks that its bytes come out as they went in, and that
// the gateway can read them.
func (s Subject) Embedded(t *testing.T, folder string) {
	for name, raw := range recorded(t, folder, ".resp.json") {
		a, err := s.embed(t, Replies(t, Reply("200 OK", raw, JSON)))
		if err != nil || string(a.Body) != raw {
			t.Errorf("%s: %v", name, err)
			continue
		}
		e, err := openai.ParseEmbeddingsAnswer(a.Body, strings.Count(raw, `"index"`))
		if err != nil || e.Usage == nil || e.Model == "" {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// Embeddings checks what becomes of requests for embeddings. Each has what it is about, its body, what the provider is sent
// for it, or "code param" of its refusal, and the warnings.
func Embeddings(t *testing.T, translate func(*upstreams.Request) (upstreams.Wording, error), requests [][4]string) {
	t.Helper()
	for _, r := range requests {
		about, want, warnings := r[0], r[2], r[3]
		body := []byte(r[1])
		w, err := translate(&upstreams.Request{Body: body, Model: "m"})
		if string(body) != r[1] {
			t.Errorf("%s: the body has changed", about)
		}
		if err != nil {
			if f := fault.From(err); f.Kind != fault.Invalid && f.Kind != fault.TooLarge || f.Code+" "+f.Param != want {
				t.Errorf("%s: refused with %s %s: %v", about, f.Code, f.Param, err)
			}
			continue
		}
		if !json.Valid([]byte(want)) {
			t.Errorf("%s: became %.200s, and should be refused with %s", about, w.Body(), want)
			continue
		}
		Same(t, about, w.Body(), []byte(want))
		if got := strings.Join(w.Warnings(), ", "); got != warnings {
			t.Errorf("%s: warned of %q, want %q", about, got, warnings)
		}
	}
}

// EmbeddingsByPolicy holds a translation of embeddings to what a key or a rule says of what cannot be told. Its providers
// know neither of the members that are asked for.
func EmbeddingsByPolicy(t *testing.T, translate func(*upstreams.Request) (upstreams.Wording, error)) {
	t.Helper()
	for _, c := range []struct {
		policy     upstreams.Policy
		members    string
		warnings   string
		refusedFor string
	}{
		{upstreams.Reject, `"user":"u"`, "", "user"},
		{upstreams.Reject, `"new":1`, "", "new"},
		{upstreams.Reject, `"user":"","metadata":{},"new":null,"encoding_format":"float"`, "", ""},
		{upstreams.Drop, `"user":"u"`, "dropped=user;reason=unsupported", ""},
		{upstreams.Drop, `"encoding_format":"base64_int8"`, "dropped=encoding_format;reason=unsupported", ""},
		{upstreams.Drop, `"input":[1,2]`, "", "input"}, // nothing is left without it
	} {
		body := `{"model":"m",` + c.members + `}`
		if !strings.Contains(c.members, "input") {
			body = `{"model":"m","input":"x",` + c.members + `}`
		}
		w, err := translate(&upstreams.Request{Body: []byte(body), Model: "m", Unsupported: c.policy})
		if c.refusedFor != "" {
			if f := fault.From(err); err == nil || f.Code != "unsupported_parameter" || f.Param != c.refusedFor {
				t.Errorf("%s, %q: %v, want %s refused", body, c.policy, err, c.refusedFor)
			}
			continue
		}
		if err != nil || strings.Join(w.Warnings(), ", ") != c.warnings || bytes.Contains(w.Body(), []byte("new")) {
			t.Errorf("%s, %q: %v, %v", body, c.policy, w, err)
		}
	}
}
