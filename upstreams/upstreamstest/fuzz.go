package upstreamstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
)

// offline is the subject, which asks nobody.
func (s Subject) offline(t testing.TB) client {
	u, err := s.New(upstreams.Options{BaseURL: "https://" + nowhere + "/v1", MaxLine: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return client{u}
}

// nowhere is where the subject would ask: no client may hear of it.
const nowhere = "provider.test:8443"

// FuzzStream reads any bytes as a stream; what is recorded in folder comes first. What comes out are chunks, the end is good
// only after the provider's own, no error tells the key, and little memory is taken.
func (s Subject) FuzzStream(f *testing.F, folder string) {
	for _, raw := range recorded(f, folder, ".sse") {
		f.Add([]byte(raw))
		f.Add([]byte(strings.ReplaceAll(raw, "\n", "\r\n")))
	}
	for _, last := range []string{s.done(), "data: " + s.wire().Last, `{"error":{"message":"` + Key + `"}}`, Data(`{"error":"` + Key + `"}`), "event: error\n" + Data(Key), "<html>" + Key} {
		f.Add([]byte(Data(s.delta("a")) + Data(s.delta(`\ud83d`)) + last))
	}
	u := s.offline(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		payloads, err := s.play(t, u, bytes.NewReader(raw))
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20+200*uint64(len(raw)) {
			t.Fatalf("%d bytes took %d", len(raw), took)
		}
		for _, p := range payloads {
			if s.Wire != nil && !json.Valid([]byte(p)) || p == "" || p[0] != '{' {
				t.Fatalf("no chunk: %q", p)
			}
		}
		if !errors.Is(err, io.EOF) {
			s.fit(t, err)
			return
		}
		marks := raw
		if bytes.Contains(raw, []byte(`\`)) { // the mark may be escaped
			marks = fmt.Appendf(nil, "%s%s", raw, unescaped(raw))
		}
		if !s.wire().over(string(marks)) {
			t.Fatalf("a good end of %q", raw)
		}
	})
}

// unescaped is raw without the escapes of JSON that stand for letters.
func unescaped(raw []byte) (out []byte) {
	for line := range bytes.Lines(raw) {
		line = bytes.TrimRight(line, "\r\n")
		_, data, _ := bytes.Cut(line, []byte("data:"))
		var v any
		if json.Unmarshal(data, &v) == nil {
			again, _ := json.Marshal(v)
			out = append(out, again...)
		}
	}
	return out
}

// FuzzRefusal reads any bytes as the body of an error; what is recorded in folder comes first. Whatever they are, a client gets
// one fault that is not its own key's, without the key and without addresses.
func (s Subject) FuzzRefusal(f *testing.F, folder string) {
	for _, raw := range recorded(f, folder, ".http") {
		head, body, _ := strings.Cut(raw, "\r\n\r\n")
		var status int
		if _, err := fmt.Sscanf(head, "HTTP/1.1 %d", &status); err != nil {
			f.Fatal(err)
		}
		f.Add(status, "", []byte(body))
		f.Add(status, "34", []byte(strings.Replace(body, `"message": "`, `"message": "`+Key+` https://`+nowhere+`/x `, 1)))
	}
	f.Add(401, Key, []byte(`{"error":{"message":"`+Key+`","code":"`+Key+`","param":"`+Key+`","type":"`+Key+`"}}`))
	f.Add(429, "Wed, 21 Oct 2395 07:28:00 GMT", []byte(`{"detail":[{"loc":["body",0,"`+Key+`"],"msg":"`+Key+`"}]}`))
	u := s.offline(f)
	f.Fuzz(func(t *testing.T, status int, header string, body []byte) {
		status = 400 + (status&0x7fffffff)%200
		r := ask(false)
		if err := u.Translate(r); err != nil {
			t.Fatal(err)
		}
		_, err := u.Read(t.Context(), r, &http.Response{
			StatusCode: status, ProtoMajor: 1, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
			Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {header}, "X-Request-Id": {header}, "X-Generation-Id": {header}},
		})
		if f := upstreams.FailureOf(err); f.Status != status || f.RetryAfter < 0 || f.RetryAfter > time.Hour {
			t.Fatalf("%+v", f)
		}
		s.fit(t, err)
	})
}

// fit fails for an error that no client may be told.
func (s Subject) fit(t testing.TB, err error) {
	t.Helper()
	e := fault.From(err)
	if e == nil || e.Kind == fault.Internal || e.Kind == fault.Unauthorized || e.Message == "" || e.Retry < 0 || e.Retry > time.Hour {
		t.Fatalf("no error for a client: %#v", err)
	}
	told := e.Message + "\x00" + e.Code + "\x00" + e.Param
	for _, secret := range []string{Key, nowhere, "http://", "https://", "\n", "\r"} {
		if strings.Contains(told, secret) || strings.Contains(strings.ToLower(told), secret) {
			t.Fatalf("%q tells %q", told, secret)
		}
	}
	failure := upstreams.FailureOf(err)
	if out := fmt.Sprintf("%v %+v %v %s %v", err, err, failure.Header, failure.UpstreamID, failure); strings.Contains(out, Key) {
		t.Fatalf("the key is in %q", out)
	}
	if len(told) > 4<<10 {
		t.Fatalf("%d bytes", len(told))
	}
}

// BenchmarkChunk is one chunk of text on its way through the client.
func (s Subject) BenchmarkChunk(b *testing.B) {
	u := s.offline(b)
	event := Data(s.delta(" some words of it"))
	r := ask(true)
	if err := u.Translate(r); err != nil {
		b.Fatal(err)
	}
	a, err := u.Read(b.Context(), r, &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(&endless{text: event}),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Stream.Close()
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Stream.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSent is a request of 20 KB from the client's bytes to the provider's: read, with another name for the model and
// the usage asked for, and translated.
func (s Subject) BenchmarkSent(b *testing.B) {
	u := s.offline(b)
	body := long()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := openai.ParseChat(body)
		if err != nil {
			b.Fatal(err)
		}
		r := &upstreams.Request{Body: c.Splice(openai.Edits{Model: "vendor/model", IncludeUsage: true}), Model: "vendor/model", Stream: true}
		if err := u.Translate(r); err != nil {
			b.Fatal(err)
		}
		if _, sent := r.Wire(); len(sent) < len(body)/2 {
			b.Fatalf("%d bytes are sent", len(sent))
		}
	}
}

// long is a request of 20 KB as agents send them: turns with calls and their results, and tools.
func long() []byte {
	var b bytes.Buffer
	b.WriteString(`{"model":"auto","stream":true,"temperature":0.2,"messages":[{"role":"system","content":"Be brief."}`)
	for i := range 11 {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_%d","type":"function","function":{"name":"look_up","arguments":"{\"q\":\"words\"}"}}]},`+
			`{"role":"tool","tool_call_id":"call_%d","content":"{\"found\":7}"},{"role":"assistant","content":"%s"}`,
			strings.Repeat("What is to be said of it? ", 27), i, i, strings.Repeat("That is what there is. ", 27))
	}
	b.WriteString(`,{"role":"user","content":"And now?"}],"tools":[`)
	tool := `{"type":"function","function":{"name":"look_up","description":"Looks it up","parameters":{"type":"object","properties":{"q":{"type":"string"},"kind":{"type":"string","enum":["a","b"]}},"required":["q"],"additionalProperties":false}}}`
	b.WriteString(strings.Repeat(tool+",", 9) + tool + `]}`)
	return b.Bytes()
}

// endless says the same for ever.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (n int, err error) {
	n = copy(p, e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	return n, nil
}
