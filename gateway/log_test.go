package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"threadhub/calls"
)

// blocked is a log file on a disk that does not answer.
type blocked struct{ until chan struct{} }

func (b blocked) Write(p []byte) (int, error) { <-b.until; return len(p), nil }

// A log that blocks holds up no request; what is lost is counted.
func TestBlockedLog(t *testing.T) {
	w := blocked{make(chan struct{})}
	sink := NewLogSink(w, 4)
	reg := prometheus.NewRegistry()
	e := newEdge(t, Options{Log: slog.New(slog.NewJSONHandler(sink, nil)), LogSink: sink, Registry: reg}).serveTCP()
	for range 20 {
		if r := e.do("GET", "/t/hit", ""); r.status != 200 {
			t.Fatalf("%v", r)
		}
	}
	until(t, "the losses", func() bool { return metric(t, reg, "threadhub_log_dropped_total") >= 15 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := sink.Close(ctx); err == nil {
		t.Error("a blocked writer was waited for")
	}
	close(w.until)
	if err := sink.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

type panicking struct{ n int }

func (p *panicking) Write(b []byte) (int, error) {
	if p.n++; p.n == 1 {
		panic("a broken log")
	}
	return 0, io.ErrShortWrite
}

func TestLogSink(t *testing.T) {
	var b bytes.Buffer
	s := NewLogSink(&b, 0)
	line := []byte("one\n")
	_, _ = s.Write(line)
	copy(line, "two\n") // the handler reuses its buffer
	_, _ = s.Write(line)
	if err := s.Close(t.Context()); err != nil || b.String() != "one\ntwo\n" {
		t.Errorf("%v %q", err, b.String())
	}
	if n, err := s.Write(line); n != 4 || err != nil || s.Dropped() != 1 {
		t.Errorf("after Close: %d, %v, %d lost", n, err, s.Dropped())
	}
	s = NewLogSink(&panicking{}, 0)
	_, _ = s.Write(line)
	_, _ = s.Write(line)
	if err := s.Close(t.Context()); err != nil || s.Dropped() != 2 {
		t.Errorf("a writer that fails: %v, %d lost", err, s.Dropped())
	}
}

// One line a request, valid JSON, with what one looks for and without what nobody may find.
func TestLogLine(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	r := e.do("POST", "/t/write?q=CANARYQUERY", `{"prompt":"CANARYPROMPT"}`, bearer(memberKey), "X-Evil: CANARYHEADER\x1b"[:20])
	bad := e.do("GET", "/CANARYPATH/\"},{", "", "User-Agent: CANARYAGENT")
	if r.status != 200 || bad.status != 404 {
		t.Fatalf("%v %v", r, bad)
	}
	until(t, "two lines", func() bool { return strings.Count(e.log.String(), "\n") == 2 })
	log := e.log.String()
	if strings.Contains(log, "CANARY") || strings.Contains(log, memberKey) {
		t.Error(log)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(strings.Split(log, "\n")[0]), &line); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"msg": "request", "request_id": r.header.Get("X-Request-Id"), "method": "POST", "route": "/t/write", "status": 200.0,
		"org": "org_a", "bytes": float64(len(r.body)),
	} {
		if line[name] != want {
			t.Errorf("%s is %v, want %v", name, line[name], want)
		}
	}
	if !strings.Contains(log, `"route":"unknown","status":404`) || !strings.Contains(log, `"code":"unknown_url"`) {
		t.Error(log)
	}
}

// fasthttp quotes what clients send when it cannot read it. Nothing of that may reach the log, on whatever path.
func TestMalformedIsNotLogged(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	head := "POST /t/CANARY HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer sk-CANARYCANARY\r\n"
	for _, in := range []string{
		head + "X CANARY: b\r\n\r\n", head + "CANARY\r\n\r\n", head + "X: CANARY\x00\r\n\r\n", head + "Content-Length: CANARY\r\n\r\n",
		head + "Content-Length: 100\r\n\r\nCANARY", head + "Transfer-Encoding: chunked\r\n\r\nCANARY", "CANARY", "CANARY /CANARY CANARY\r\n\r\n",
		head + "Transfer-Encoding: CANARY\r\n\r\n", head + "Trailer: CANARY, Content-Length\r\n\r\n", "GET /%ZZCANARY HTTP/1.1\r\nHost: CANARY%zz\r\n\r\n",
		"GET /CANARY HTTP/1.1\r\nHost: [::CANARY\r\n\r\n", head + "X-A: " + strings.Repeat("CANARY", 12000) + "\r\n\r\n",
	} {
		for _, r := range e.raw(in) {
			if strings.Contains(r.body, "CANARY") {
				t.Errorf("%.60q: the answer quotes it: %s", in, r.body)
			}
			if r.code() == "" {
				t.Errorf("%.60q: no error object: %v", in, r)
			}
		}
	}
	// A client that is gone before its answer: fasthttp's own logger has its say.
	c := e.connect()
	_, _ = io.WriteString(c, head+"Content-Length: 5\r\n\r\nhe")
	_ = c.Close()
	quietLogger{e.opts.Log}.Printf("error when serving connection %q: %v", "CANARY", "sk-CANARYCANARY")
	until(t, "a line", func() bool { return strings.Contains(e.log.String(), "error when serving") })
	if strings.Contains(e.log.String(), "CANARY") {
		t.Error(e.log.String())
	}
}

// No label takes a value from a client.
func TestLabelsAreBounded(t *testing.T) {
	e := newEdge(t, Options{Models: fakeModels{}}).serveTCP()
	series := func() int {
		families, err := e.opts.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			n += len(f.GetMetric())
		}
		return n
	}
	round := func(i string) {
		c := e.connect()
		br := bufio.NewReader(c)
		for _, in := range []string{
			"GET /x" + i + " HTTP/1.1\r\nHost: gw\r\n\r\n",
			"GET /v1/models/m" + i + " HTTP/1.1\r\nHost: gw\r\n" + bearer(memberKey) + "\r\n\r\n",
			"GET /v1/models HTTP/1.1\r\nHost: gw\r\n" + bearer("th_x"+i) + "\r\n\r\n",
			strings.ToUpper("M"+strings.Repeat("A", len(i))) + " /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n",
			"GET /t/hit HTTP/1.1\r\nHost: gw\r\nX" + i + "\x00: y\r\n\r\n",
		} {
			_, _ = io.WriteString(c, in)
			if _, err := readReply(br); err != nil {
				t.Fatal(err)
			}
		}
		e.metrics.ended("openai", ending{outcome: calls.Failed, state: calls.FailedTry, code: "reason" + i})
	}
	round("0")
	before := series()
	for i := range 100 {
		round(itoa(i))
	}
	if after := series(); after != before {
		t.Errorf("%d series have become %d", before, after)
	}
}
