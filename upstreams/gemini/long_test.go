package gemini_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/gemini"
	"threadhub/upstreams/upstreamstest"
)

// chapter is a piece of a long answer: the last one has no token.
func chapter(text, token string) string {
	finish := `"STOP"`
	if token != "" {
		finish = `"CONTINUATION","continuationToken":"` + token + `"`
	}
	return `{"candidates":[{"content":{"parts":[{"text":"` + text + `"}],"role":"model"},"finishReason":` + finish + `,"index":0}],` + usage + `}`
}

func wholeChapter(text, token string) string {
	return upstreamstest.Reply("200 OK", chapter(text, token), upstreamstest.JSON)
}

func streamedChapter(text, token string) string {
	return upstreamstest.Chunked + upstreamstest.Chunk(upstreamstest.Data(chapter(text, token))) + upstreamstest.LastChunk
}

// book is a provider that gives these replies, one after the other, and what it was asked. What a reply begins with a
// word of says how the connection ends: "reset", "close", "silent".
type book struct {
	*upstreamstest.Server
	mu    sync.Mutex
	asked []*upstreamstest.Conn
	gone  chan bool
}

func open(t *testing.T, replies ...string) *book {
	b := &book{gone: make(chan bool, 8)}
	b.Server = upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		b.mu.Lock()
		b.asked = append(b.asked, c)
		reply := replies[min(len(b.asked), len(replies))-1]
		b.mu.Unlock()
		how, rest, _ := strings.Cut(reply, "|")
		switch how {
		case "reset":
			c.Send(rest)
			c.Reset()
		case "close":
			c.Send(rest)
			c.Close()
		case "silent":
			c.Send(rest)
			b.gone <- c.Gone()
		default:
			c.Send(reply)
		}
	})
	return b
}

// read asks for an answer and returns all of it.
func (b *book) read(t *testing.T, ctx context.Context, stream bool, o upstreams.Options) (text, finish string, used *openai.Usage, r *upstreams.Request, a *upstreams.Answer, err error) {
	t.Helper()
	o.BaseURL = b.URL
	c, err := gemini.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r = &upstreams.Request{
		Body: []byte(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`), Model: "m", Stream: stream,
		Key: seal.NewSecret(upstreamstest.Key), Attempt: "req_1-0",
	}
	if err := c.Translate(r); err != nil {
		t.Fatal(err)
	}
	a, err = c.Chat(ctx, r)
	if err != nil {
		return "", "", nil, r, nil, err
	}
	if !stream {
		answer, err := openai.ParseAnswer(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Choices[0].Text(), answer.Choices[0].FinishReason, answer.Usage, r, a, nil
	}
	defer a.Stream.Close()
	var all openai.Accumulator
	for {
		p, err := a.Stream.Next()
		if err != nil {
			return openai.ContentText(all.Message()), all.FinishReason(), all.Usage(), r, a, err
		}
		if _, err := all.Add(p); err != nil {
			t.Fatal(err)
		}
	}
}

// A long answer is one, whole or streamed; each request is the first with a token, and is told by the same name.
func TestLongAnswers(t *testing.T) {
	for _, stream := range []bool{false, true} {
		say := wholeChapter
		if stream {
			say = streamedChapter
		}
		b := open(t, say("a", "QQ=="), say("b", "Qg=="), say("c", ""))
		text, finish, used, r, a, err := b.read(t, t.Context(), stream, upstreams.Options{})
		if stream && err != io.EOF || !stream && err != nil || text != "abc" || finish != "stop" || used.Input != 9 || used.Output != 6 {
			t.Fatalf("streamed %v: %q, %s, %+v, %v", stream, text, finish, used, err)
		}
		if len(r.Warnings) > 0 || a.MaybeBilled {
			t.Errorf("warned of %v, maybe billed %v", r.Warnings, a.MaybeBilled)
		}
		if len(b.asked) != 3 || b.Conns.Load() != 1 {
			t.Fatalf("asked %d times on %d connections", len(b.asked), b.Conns.Load())
		}
		first := string(b.asked[0].Body)
		for i, c := range b.asked {
			want := first
			if i > 0 {
				want = fmt.Sprintf(`%s,"continuationToken":"Q%c=="}`, strings.TrimSuffix(first, "}"), "Qg"[i-1])
			}
			if string(c.Body) != want || c.Head[:strings.Index(c.Head, "\r\n")] != b.asked[0].Head[:strings.Index(b.asked[0].Head, "\r\n")] ||
				c.Request.Header.Get("X-Client-Request-Id") != "req_1-0" || c.Request.Header.Get("X-Goog-Api-Key") != upstreamstest.Key {
				t.Errorf("request %d is %s%s, want the body %s", i, c.Head, c.Body, want)
			}
		}

		endless := open(t, say("x", "QQ=="))
		text, finish, used, _, _, err = endless.read(t, t.Context(), stream, upstreams.Options{})
		if stream && err != io.EOF || !stream && err != nil || text != "xxxxxxxx" || finish != "length" || used.Output != 16 || len(endless.asked) != 8 {
			t.Errorf("streamed %v, without an end: %q, %s, %+v, %v, asked %d times", stream, text, finish, used, err, len(endless.asked))
		}
	}
}

// A whole answer whose rest does not come ends as it was cut, and says so.
func TestLongAnswerWithoutItsRest(t *testing.T) {
	for about, c := range map[string]struct {
		rest   string
		billed bool
	}{
		"refused":     {upstreamstest.Reply("503 Service Unavailable", `{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}`, upstreamstest.JSON), false},
		"reset":       {"reset|", true},
		"cut":         {"close|HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{", true},
		"no JSON":     {upstreamstest.Reply("200 OK", "<html>", "Content-Type: text/html"), true},
		"an error":    {upstreamstest.Reply("200 OK", `{"error":{"code":500,"message":"x"}}`, upstreamstest.JSON), true},
		"silence":     {"silent|", true},
		"half of it":  {"silent|HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{", true},
		"the wrong":   {upstreamstest.Reply("200 OK", `[]`, upstreamstest.JSON), true},
		"a candidate": {upstreamstest.Reply("200 OK", `{"candidates":[]}`, upstreamstest.JSON), false},
	} {
		b := open(t, wholeChapter("a", "QQ=="), c.rest)
		o := upstreams.Options{WholeTimeout: time.Second, IdleTimeout: time.Second}
		text, finish, used, r, a, err := b.read(t, t.Context(), false, o)
		if err != nil || text != "a" || finish != "length" || used.Output != 2 {
			t.Errorf("%s: %q, %s, %+v, %v", about, text, finish, used, err)
			continue
		}
		want := "dropped=continuation;reason=upstream"
		if about == "a candidate" { // it came, but brought nothing
			want = ""
		}
		if got := strings.Join(r.Warnings, ", "); got != want || a.MaybeBilled != c.billed || a.Status != 200 {
			t.Errorf("%s: warned of %q, maybe billed %v, status %d", about, got, a.MaybeBilled, a.Status)
		}
		if strings.Contains(c.rest, "silent") && !<-b.gone {
			t.Errorf("%s: the connection stays", about)
		}
	}
}

// A caller that leaves between two pieces has used the first one.
func TestLongAnswerOfACallerThatLeaves(t *testing.T) {
	b := open(t, wholeChapter("a", "QQ=="), "silent|")
	left := fault.New(fault.Invalid, "gone").WithCode("client_closed")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(200*time.Millisecond, func() { cancel(left) })
	_, _, _, _, _, err := b.read(t, ctx, false, upstreams.Options{})
	f := upstreams.FailureOf(err)
	if !errors.Is(err, left) || gjson.GetBytes(f.Body, "usage.completion_tokens").Int() != 2 || !f.MaybeBilled || f.Status != 200 {
		t.Errorf("%v with %+v and %s", err, f, f.Body)
	}
	if !<-b.gone {
		t.Error("the connection stays")
	}
}

// A stream whose rest the provider does not begin ends as it was cut; one whose rest breaks breaks.
func TestLongStreamWithoutItsRest(t *testing.T) {
	cut := upstreamstest.Chunked + upstreamstest.Chunk(upstreamstest.Data(wire.Delta("b")))
	for about, c := range map[string]struct {
		rest, code, text string // no code: a good end
	}{
		"refused":               {upstreamstest.Reply("503 Service Unavailable", `{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}`, upstreamstest.JSON), "", "a"},
		"a bad token":           {upstreamstest.Reply("400 Bad Request", `{"error":{"code":400,"message":"x","status":"INVALID_ARGUMENT"}}`, upstreamstest.JSON), "", "a"},
		"reset":                 {"reset|", "upstream_reset", "a"},
		"silence":               {"silent|", "upstream_timeout", "a"},
		"silence in it":         {"silent|" + cut, "upstream_stalled", "ab"},
		"cut":                   {"close|" + cut, "upstream_reset", "ab"},
		"cut well":              {cut + upstreamstest.LastChunk, "upstream_truncated", "ab"},
		"nothing":               {upstreamstest.Chunked + upstreamstest.LastChunk, "upstream_truncated", "a"},
		"whole":                 {wholeChapter("b", ""), "upstream_protocol", "a"},
		"an error":              {upstreamstest.Chunked + upstreamstest.Chunk(upstreamstest.Data(`{"error":{"code":500,"message":"x","status":"INTERNAL"}}`)) + upstreamstest.LastChunk, "upstream_error", "a"},
		"an error in its place": {upstreamstest.Reply("200 OK", `{"error":{"code":500,"message":"x","status":"INTERNAL"}}`, upstreamstest.JSON), "upstream_error", "a"},
	} {
		b := open(t, streamedChapter("a", "QQ=="), c.rest)
		o := upstreams.Options{HeaderTimeout: time.Second, IdleTimeout: time.Second}
		text, finish, used, _, _, err := b.read(t, t.Context(), true, o)
		if text != c.text {
			t.Errorf("%s: said %q, want %q", about, text, c.text)
		}
		if c.code == "" && (err != io.EOF || finish != "length" || used == nil || used.Output != 2) || c.code != "" && (!fault.HasCode(err, c.code) || errors.Is(err, io.EOF)) {
			t.Errorf("%s: ended in %v, %s with %+v; want %q", about, err, finish, used, c.code)
		}
		if strings.Contains(c.rest, "silent") && !<-b.gone {
			t.Errorf("%s: the connection stays", about)
		}
	}
}

// A stream can be closed while its rest is asked for, and while it comes.
func TestLongStreamIsClosed(t *testing.T) {
	for _, rest := range []string{"silent|", "silent|" + upstreamstest.Chunked + upstreamstest.Chunk(upstreamstest.Data(wire.Delta("b")))} {
		b := open(t, streamedChapter("a", "QQ=="), rest)
		c, err := gemini.New(upstreams.Options{BaseURL: b.URL})
		if err != nil {
			t.Fatal(err)
		}
		r := &upstreams.Request{Body: []byte(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`), Model: "m", Stream: true, Key: seal.NewSecret(upstreamstest.Key)}
		if err := c.Translate(r); err != nil {
			t.Fatal(err)
		}
		a, err := c.Chat(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(200*time.Millisecond, func() { a.Stream.Close() })
		for err == nil {
			_, err = a.Stream.Next()
		}
		if !errors.Is(err, upstreams.ErrClosed) {
			t.Errorf("it ended in %v", err)
		}
		if !<-b.gone {
			t.Error("the connection stays")
		}
		c.Close()
	}
}
