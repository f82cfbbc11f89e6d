package upstreamstest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

func testBrokenWhole(t *testing.T, s Subject) {
	body := s.answer("hello")
	json := "HTTP/1.1 200 OK\r\n" + JSON + "\r\n"
	type broken struct {
		about, raw string
		stream     bool
		code       string
	}
	const failed = `{"choices":[{"index":0,"finish_reason":"error","error":{"code":502}}],"usage":{"prompt_tokens":12}}`
	cases := []broken{
		{"less than its length", json + "Content-Length: 1000\r\n\r\n" + body, false, "upstream_protocol"},
		{"a length that is too short", json + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)-5) + body, false, "upstream_protocol"},
		{"a length below zero", json + "Content-Length: -1\r\n\r\n" + body, false, "upstream_protocol"},
		{"two lengths", json + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + body, false, "upstream_protocol"},
		{"an end between chunks", json + "Transfer-Encoding: chunked\r\n\r\n" + Chunk(body), false, "upstream_reset"},
		{"a chunk that is none", json + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", false, "upstream_protocol"},
		{"an end inside JSON", "HTTP/1.0 200 OK\r\n" + JSON + "\r\n\r\n" + body[:40], false, "upstream_protocol"},
		{"nothing", Reply("200 OK", "", JSON), false, "upstream_protocol"},
		{"an array", Reply("200 OK", "[]", JSON), false, "upstream_protocol"},
		{"two answers", Reply("200 OK", body+body, JSON), false, "upstream_protocol"},
		{"a page", Reply("200 OK", "<html></html>", "Content-Type: text/html"), false, "upstream_protocol"},
		{"a page for a stream", Reply("200 OK", "<html></html>", "Content-Type: text/html"), true, "upstream_protocol"},
		{"a page that says it is JSON", Reply("200 OK", "<html></html>", JSON), false, "upstream_protocol"},
		{"no type", Reply("200 OK", body), false, "upstream_protocol"},
		{"a whole answer for a stream", Reply("200 OK", body, JSON), true, "upstream_protocol"},
		{"a stream for a whole answer", EventStream + Data(s.delta("x")) + s.done(), false, "upstream_protocol"},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", false, "upstream_protocol"},
		{"half a page of content", Reply("206 Partial Content", body, JSON), false, "upstream_protocol"},
		{"an error for an answer", Reply("200 OK", `{"error":{"message":"no","type":"server_error"}}`, JSON), false, "upstream_error"},
		{"an error for a stream", Reply("200 OK", `{"error":{"message":"no","type":"server_error"}}`, JSON), true, "upstream_error"},
	}
	if s.Wire == nil {
		cases = append(cases, broken{"an answer that failed", Reply("200 OK", failed, JSON), false, "upstream_error"})
	}
	for _, c := range cases {
		_, err := s.open(t, Replies(t, c.raw)).Chat(t.Context(), ask(c.stream))
		wantFault(t, c.about, err, fault.Upstream, c.code)
		if f := upstreams.FailureOf(err); !f.Sent {
			t.Errorf("%s: the failure does not say that the request was sent", c.about)
		}
	}
	if s.Wire != nil {
		return
	}
	_, err := s.open(t, Replies(t, Reply("200 OK", failed, JSON))).Chat(t.Context(), ask(false))
	if f := upstreams.FailureOf(err); string(f.Body) != failed || f.Status != 200 {
		t.Errorf("the usage of an answer that failed is lost: %d %q", f.Status, f.Body)
	}
}

func testEncodings(t *testing.T, s Subject) {
	text := strings.Repeat("hello ", 100)
	body := s.answer(text)
	events := Data(s.delta("one")) + s.done()
	bare := func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, flate.DefaultCompression); return f }
	wrapped := func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }
	zipped := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	pack := func(with func(io.Writer) io.WriteCloser, text string) string {
		var b bytes.Buffer
		w := with(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Error(err)
		}
		w.Close()
		return b.String()
	}
	for name, with := range map[string]func(io.Writer) io.WriteCloser{"gzip": zipped, "X-GZip": zipped, "deflate": wrapped, "Deflate": bare} {
		encoding := "Content-Encoding: " + name
		a, err := s.open(t, Replies(t, Reply("200 OK", pack(with, body), JSON, encoding))).Chat(t.Context(), ask(false))
		if err != nil || !s.answered(a.Body, body, text) {
			t.Errorf("%s: %v", name, err)
		}
		got, err := listen(t, s.open(t, Replies(t, Reply("200 OK", pack(with, events), "Content-Type: text/event-stream", encoding))))
		if !errors.Is(err, io.EOF) || !s.heard(got, "one") {
			t.Errorf("%s: the stream is %q, %v", name, got, err)
		}
		no := `{"error":{"message":"the parameter is wrong","code":"odd_parameter","param":"p"}}`
		_, err = s.open(t, Replies(t, Reply("400 Bad Request", pack(with, no), JSON, encoding))).Chat(t.Context(), ask(false))
		wantFault(t, name+" of an error", err, fault.Invalid, "odd_parameter")

		cut := pack(with, body)
		cut = cut[:len(cut)-12]
		if _, err = s.open(t, Replies(t, Reply("200 OK", cut, JSON, encoding))).Chat(t.Context(), ask(false)); err == nil {
			t.Errorf("%s: an answer that was cut came through", name)
		}
		bomb := pack(with, `{"a":"`+strings.Repeat("x", 8<<20)+`"}`)
		u := s.open(t, Replies(t, Reply("200 OK", bomb, JSON, encoding)), func(o *upstreams.Options) { o.MaxBody = 1 << 20 })
		_, err = u.Chat(t.Context(), ask(false))
		wantFault(t, name+" bomb", err, fault.Upstream, "upstream_oversize")
		_, err = listen(t, s.open(t, Replies(t, Reply("200 OK", pack(with, "data: "+strings.Repeat("x", 8<<20)), "Content-Type: text/event-stream", encoding))))
		wantFault(t, name+" bomb in a stream", err, fault.Upstream, "upstream_oversize")
	}
	for _, name := range []string{"br", "zstd", "gzip, gzip", "nonsense", "gzip"} {
		_, err := s.open(t, Replies(t, Reply("200 OK", "junk and more junk", JSON, "Content-Encoding: "+name))).Chat(t.Context(), ask(false))
		wantFault(t, name, err, fault.Upstream, "upstream_protocol")
		_, err = s.open(t, Replies(t, Reply("200 OK", "junk and more junk", "Content-Type: text/event-stream", "Content-Encoding: "+name))).Chat(t.Context(), ask(true))
		wantFault(t, name+" stream", err, fault.Upstream, "upstream_protocol")
	}
}

func testHostile(t *testing.T, s Subject) {
	elsewhere := Serve(t, func(c *Conn) { t.Error("a redirect was followed, with " + c.Request.Header.Get("Authorization")) })
	for about, raw := range map[string]string{
		"a redirect":            Reply("302 Found", "", "Location: "+elsewhere.URL),
		"a lasting redirect":    Reply("308 Permanent Redirect", "", "Location: "+elsewhere.URL+"/chat/completions"),
		"not modified":          "HTTP/1.1 304 Not Modified\r\n\r\n",
		"another protocol":      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
		"a flood of 103":        strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000) + Reply("200 OK", s.answer("x"), JSON),
		"a header that is huge": Reply("200 OK", s.answer("x"), JSON, "X-Big: "+strings.Repeat("x", 64<<10)),
		"a thousand headers":    Reply("200 OK", s.answer("x"), JSON, strings.TrimSuffix(strings.Repeat("Set-Cookie: a=bcdefgh\r\n", 1000), "\r\n")),
		"no HTTP":               "220 smtp.example.com ESMTP\r\n",
		"bytes":                 "\x00\x01\x02\x03\xff\xfe\r\n\r\n\r\n",
		"a status of its own":   Reply("999 What", s.answer("x"), JSON),
		"half a status":         "HTTP/1.1 20\r\n\r\n",
	} {
		for _, stream := range []bool{false, true} {
			_, err := s.open(t, Replies(t, raw)).Chat(t.Context(), ask(stream))
			wantFault(t, about, err, fault.Upstream, "upstream_protocol")
		}
	}

	// Noise between events is an error, and what came before it stands.
	noisy := EventStream + Data(s.delta("one")) + "\x00\xfe{{{]]>\n\n" + Data(s.delta("two")) + s.done()
	got, err := listen(t, s.open(t, Replies(t, noisy)))
	wantFault(t, "noise in a stream", err, fault.Upstream, "upstream_protocol")
	if !s.heard(got, "one") {
		t.Errorf("before the noise: %q", got)
	}

	// Cookies and what else a provider would like us to keep are not sent back.
	server := Serve(t, func(c *Conn) {
		if v := c.Request.Header.Get("Cookie"); v != "" {
			t.Error("a cookie came back:", v)
		}
		c.Send(Reply("200 OK", s.answer("x"), JSON, "Set-Cookie: a=b; Path=/"))
	})
	u := s.open(t, server)
	for range 2 {
		if _, err := u.Chat(t.Context(), ask(false)); err != nil {
			t.Error(err)
		}
	}

	u = s.open(t, Replies(t, Reply("200 OK", s.answer(strings.Repeat("x", 2<<20)), JSON)), func(o *upstreams.Options) { o.MaxBody = 1 << 20 })
	_, err = u.Chat(t.Context(), ask(false))
	wantFault(t, "a body over the cap", err, fault.Upstream, "upstream_oversize")

	// Bytes at random, behind a good head, end in a fault or in a good end, and never hang or panic.
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"data: ", s.wire().Last, "[DONE]", "\n", "\n\n", "\r", "event: error", s.delta("x"), `{"error":`, `{"error":{}}`, "null", "\x00", "\xef\xbb\xbf", ":", "id: 1", "{", "\xff"}
	for range 200 {
		var b strings.Builder
		for range random.IntN(12) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		a, err := s.open(t, Replies(t, EventStream+b.String())).Chat(t.Context(), ask(true))
		if err != nil {
			t.Fatalf("%q: %v", b.String(), err)
		}
		_, err = drain(a.Stream)
		a.Stream.Close()
		if f := fault.From(err); !errors.Is(err, io.EOF) && f.Code == "internal_error" {
			t.Errorf("%q ended in %v", b.String(), err)
		}
		if errors.Is(err, io.EOF) && !strings.Contains(b.String(), s.wire().Last) {
			t.Errorf("%q ended well", b.String())
		}
	}
}

func testUnreachable(t *testing.T, s Subject) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + l.Addr().String()
	l.Close()
	plain := Serve(t, func(c *Conn) { t.Error("a request over plain TCP") })
	for about, base := range map[string]string{
		"refused":    refused,
		"not TLS":    strings.Replace(plain.URL, "http:", "https:", 1),
		"no address": "http://127.0.0.1:1",
	} {
		u := s.open(t, plain, func(o *upstreams.Options) { o.BaseURL, o.ConnectTimeout = base, 500*time.Millisecond })
		_, err := u.Chat(t.Context(), ask(true))
		wantFault(t, about, err, fault.Upstream, "upstream_unreachable")
		if f := upstreams.FailureOf(err); f.Sent || f.Status != 0 {
			t.Errorf("%s: %+v", about, f)
		}
	}
	for about, raw := range map[string]string{"nothing": "", "half a header": "HTTP/1.1 200 OK\r\nContent-Ty"} {
		for _, reset := range []bool{false, true} {
			u := s.open(t, Serve(t, func(c *Conn) {
				c.Send(raw)
				if reset {
					c.Reset()
				}
				c.Close()
			}))
			_, err := u.Chat(t.Context(), ask(true))
			wantFault(t, about, err, fault.Upstream, "upstream_reset")
			if f := upstreams.FailureOf(err); !f.Sent {
				t.Errorf("%s: the failure does not say that the request was sent", about)
			}
		}
	}
}
