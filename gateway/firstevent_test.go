package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/calls"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/orgs"
	"threadhub/router/failover"
	"threadhub/simulator"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// Whichever provider begins a stream with an error, the next target is asked, and the client sees nothing of it.
func TestAnErrorThatComesFirst(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.everyKey()
	models := map[string]string{"openai": "gpt-5-mini", "gemini": "gemini-3.8-flash", "perplexity": "perplexity/sonar", "openrouter": "openai/gpt-6-luna"}
	for provider, model := range models {
		other := "gemini"
		if provider == other {
			other = "openai"
		}
		h.aliases(fmt.Sprintf(`{"list":["%s/%s","%s/%s"]}`, provider, model, other, models[other]))
		for _, do := range []string{"fault=error_first", "fault=error_first kind=bare", "fault=error_first kind=response"} {
			h.sim.Unplay()
			h.play(simulator.Script{Provider: provider, Do: do})
			h.failover = failover.New(h.opts.Failover)
			r := h.do("POST", "/v1/chat/completions", `{"model":"list","stream":true,"messages":[{"role":"user","content":"hello"}]}`).want(t, 200)
			want := []string{provider + "/" + model + " default failed upstream_error", other + "/" + models[other] + " default ok"}
			if got := h.attemptsOf(r); !slices.Equal(got, want) {
				t.Errorf("%s, %s: the attempts were %q", provider, do, got)
			}
			if e := events(r.body); e[len(e)-1] != "[DONE]" || strings.Contains(string(r.body), `"error"`) {
				t.Errorf("%s, %s: %s", provider, do, r.body)
			}
		}
	}
}

// A stream of which nothing can be used is a failed attempt, with a status. It was worked for, so it is asked again only where
// that is safe.
func TestAStreamOfWhichNothingCame(t *testing.T) {
	t.Parallel()
	h := newRecordings(t, "")
	h.aliases(`{"both":["openai/gpt-5-mini","openrouter/openai/gpt-6-luna"]}`)
	for raw, code := range map[string]string{
		"": "upstream_truncated", ": a comment\n\n": "upstream_truncated", "data: [DONE]\n\n": "upstream_truncated",
		"data: {\"id\":\"c\",\"choices\":[\n\n": "upstream_protocol", "data: no JSON\n\n": "upstream_protocol", "<html><body>Bad gateway</body></html>\n": "upstream_protocol",
		"data: {\"choices\":[7]}\n\n": "upstream_protocol", "data: {\"id\":": "upstream_truncated",
		"data: " + strings.Repeat("x", 40<<20): "upstream_oversize",
	} {
		h.raw.Store(upstreamstest.EventStream + raw)
		for safe, attempts := range map[bool]int{false: 1, true: 2} {
			h.failover = failover.New(failover.Options{RetrySafe: map[string]bool{"openai": safe}})
			r := h.both(`,"stream":true`, "X-Thread-Id", "new").want(t, 502)
			about := fmt.Sprintf("%.40q, safe %v", raw, safe)
			if r.code() != code {
				t.Errorf("%s: %s, want %s", about, r.body, code)
			}
			got := h.attemptsOf(r)
			if len(got) != attempts || got[0] != gpt+"failed "+code+" maybe" {
				t.Errorf("%s: the attempts were %q", about, got)
			}
			if m := h.messages(id.Thread(r.header.Get("X-Thread-Id"))); len(m) != 2 || m[1] != "assistant::incomplete:"+code {
				t.Errorf("%s: the thread reads %q", about, m)
			}
		}
	}
}

// What a stream that begins with an error says it took is charged.
func TestTheUsageOfAnErrorThatComesFirstIsCharged(t *testing.T) {
	t.Parallel()
	h := newRecordings(t, "")
	h.failover = failover.New(once)
	for provider, raw := range map[string]string{
		"openrouter": `{"error":{"code":502,"message":"no"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}],"usage":{"prompt_tokens":1000,"completion_tokens":0,"total_tokens":1000}}`,
		"perplexity": `{"type":"response.failed","response":{"status":"failed","error":{"message":"no"},"usage":{"input_tokens":1000,"output_tokens":0,"total_tokens":1000}}}`,
	} {
		r := h.ask(provider, upstreamstest.EventStream+"data: "+raw+"\n\n", `,"stream":true`).want(t, 502)
		lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
		if err != nil || len(lines) != 1 || lines[0].Charge.Input != 1000 || lines[0].Charge.Status == metering.Estimated || lines[0].MaybeBilled {
			t.Errorf("%s: %s, %v, %+v", provider, r.body, err, lines)
		}
	}
}

// A stream that is silent at first is not waited for any longer than a heartbeat: the client gets its head, and signs of
// life. What goes wrong from then on is told in the stream, and nothing is asked again.
func TestASilentStart(t *testing.T) {
	t.Parallel()
	h := newRecordings(t, "")
	h.opts.Heartbeat, h.late = 50*time.Millisecond, 500*time.Millisecond
	file := func(path string) string {
		raw, err := os.ReadFile("../upstreams/" + path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, tt := range []struct{ provider, raw, code string }{
		{"openai", file("openai/testdata/stream/plain.sse"), ""},
		{"openrouter", file("openrouter/testdata/stream/error_first.sse"), "rate_limit_exceeded"},
		{"gemini", file("gemini/testdata/stream/plain.sse"), ""},
		{"gemini", `data: {"error":{"code":503,"status":"UNAVAILABLE"}}` + "\n\n", "upstream_error"},
		{"perplexity", file("perplexity/testdata/agent/stream.sse"), ""},
		{"perplexity", file("perplexity/testdata/agent/stream_failed.sse"), "upstream_error"},
		{"openai", "", "upstream_truncated"},
	} {
		about := tt.provider + " " + tt.code
		r := h.ask(tt.provider, upstreamstest.EventStream+tt.raw, `,"stream":true`, "X-Thread-Id", "new").want(t, 200)
		e := events(r.body)
		last := e[len(e)-1]
		if tt.code == "" && last != "[DONE]" || tt.code != "" && (gjson.Get(last, "error.code").Str != tt.code || len(e) != 1) {
			t.Errorf("%s: it ended in %s", about, last)
		}
		if before, _, _ := strings.Cut(string(r.body), "data: "); strings.Count(before, ": ping\n\n") < 2 {
			t.Errorf("%s: before the first event the client heard %q", about, before)
		}
		c := h.call(r)
		attempts := c["attempts"].([]any)
		if len(attempts) != 1 {
			t.Errorf("%s: the attempts were %v", about, attempts)
		}
		if first := attempts[0].(map[string]any)["first_ms"].(float64); tt.code == "" && (first < 500 || c["first_token_ms"].(float64) < 500) {
			t.Errorf("%s: the call reads %v", about, c)
		}
	}
}

// waiting asks for a stream, waits until its provider has begun it with nothing, and returns what will be answered.
func (h *house) waiting(ctx context.Context, thread string) <-chan heard {
	h.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", h.url+"/v1/chat/completions", strings.NewReader(
		`{"model":"openrouter/openai/gpt-6-luna","stream":true,"messages":[{"role":"user","content":"[[sim first=1m]] hello"}]}`))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
	req.Header.Set("X-Thread-Id", thread)
	begun := make(chan struct{})
	or := h.opts.Upstreams["openrouter"]
	h.opts.Upstreams["openrouter"] = opening{or, begun}
	answer := make(chan heard, 1)
	go func() {
		resp, err := houseClient.Do(req)
		if err != nil {
			answer <- heard{}
			return
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		answer <- heard{resp.StatusCode, resp.Header, body}
	}()
	select {
	case <-begun:
	case <-time.After(20 * time.Second):
		h.t.Fatal("the provider does not begin")
	}
	h.opts.Upstreams["openrouter"] = or
	return answer
}

// opening tells when a provider has begun to answer.
type opening struct {
	upstreams.Upstream
	begun chan struct{}
}

func (o opening) Chat(ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	defer close(o.begun)
	return o.Upstream.Chat(ctx, r)
}

// What ends a call ends it while its first event is waited for, with the status that belongs to it.
func TestAWaitForTheFirstEventEnds(t *testing.T) {
	t.Parallel()
	ended := func(t *testing.T, h *house, thread id.Thread, code string) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, func() bool {
			m, err := h.stored(thread)
			return err == nil && len(m) == 2 && m[1].Reason == code
		}, "the call to have ended by %s", code)
		if !h.free(thread) {
			t.Error("the turn is held")
		}
		for _, a := range h.attempts() {
			if a.End == "complete" {
				t.Errorf("the provider was heard out: %+v", a)
			}
		}
	}
	soon := func(t *testing.T, answer <-chan heard) heard {
		t.Helper()
		select {
		case r := <-answer:
			return r
		case <-time.After(20 * time.Second): // the first event comes after a minute
			t.Fatal("it goes on")
			return heard{}
		}
	}
	long := Options{Heartbeat: time.Minute, ResumeGrace: -1}
	t.Run("by a client that leaves", func(t *testing.T) {
		h := newHouse(t, testkit.SQLite(t), long)
		ctx, cancel := context.WithCancel(t.Context())
		answer := h.waiting(ctx, "left")
		cancel()
		soon(t, answer)
		ended(t, h, "left", "client_closed")
	})
	t.Run("by a key that is revoked", func(t *testing.T) {
		h := newHouse(t, testkit.SQLite(t), long)
		answer := h.waiting(t.Context(), "revoked")
		if err := h.orgs.RevokeKey(t.Context(), h.admin.Org, orgs.Actor{}, h.admin.Key); err != nil {
			t.Fatal(err)
		}
		if r := soon(t, answer); r.status != 401 || r.code() != "key_revoked" {
			t.Errorf("it was answered %d %s", r.status, r.body)
		}
		ended(t, h, "revoked", "key_revoked")
	})
	t.Run("by the end of a drain", func(t *testing.T) {
		o := long
		o.Drain = 200 * time.Millisecond
		h := newHouse(t, testkit.SQLite(t), o)
		answer := h.waiting(t.Context(), "drained")
		stopped := make(chan error, 1)
		go func() { stopped <- h.Shutdown(context.Background()) }()
		if r := soon(t, answer); r.status != 503 || r.code() != "draining" {
			t.Errorf("it was answered %d %s", r.status, r.body)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		ended(t, h, "drained", "draining")
	})
	t.Run("for its memory", func(t *testing.T) {
		h, memory := pressed(t, long)
		answer := h.waiting(t.Context(), "heavy")
		memory(98)
		if r := soon(t, answer); r.status != 503 || r.code() != "overloaded" || r.header.Get("Retry-After") == "" {
			t.Errorf("it was answered %d %v %s", r.status, r.header, r.body)
		}
		memory(50)
		ended(t, h, "heavy", "overloaded")
	})
	t.Run("by a client that leaves after its head", func(t *testing.T) {
		h := newHouse(t, testkit.SQLite(t), Options{Heartbeat: 20 * time.Millisecond, ResumeGrace: -1})
		ctx, cancel := context.WithCancel(t.Context())
		answer := h.waiting(ctx, "late")
		time.Sleep(200 * time.Millisecond) // most likely after it
		cancel()
		soon(t, answer)
		ended(t, h, "late", "client_closed")
	})
}

// A panic in the wait is the call's alone, and it may be billed.
func TestAPanicInTheFirstEvent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), Options{Heartbeat: 100 * time.Millisecond})
	for after, status := range map[time.Duration]int{0: 500, time.Second: 200} {
		h.opts.Upstreams["openai"] = breaking{h.opts.Upstreams["openai"], after}
		r := h.chat("hello", `,"stream":true`, "X-Thread-Id", "new").want(t, status)
		c, err := h.calls.Call(t.Context(), h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
		if err != nil || len(c.Attempts) != 1 || c.Attempts[0].State != calls.FailedTry || !c.Attempts[0].MaybeBilled || !strings.Contains(string(r.body), `"internal_error"`) {
			t.Errorf("after %v: %s, %+v, %v", after, r.body, c, err)
		}
		if !h.free(id.Thread(r.header.Get("X-Thread-Id"))) {
			t.Error("the turn is held")
		}
	}
}

type breaking struct {
	upstreams.Upstream
	after time.Duration
}

func (p breaking) Chat(context.Context, *upstreams.Request) (*upstreams.Answer, error) {
	return &upstreams.Answer{Status: 200, Stream: breakingStream{after: p.after}}, nil
}

type breakingStream struct {
	upstreams.Stream
	after time.Duration
}

func (s breakingStream) Begin() error {
	time.Sleep(s.after)
	panic("in the first event")
}

func (breakingStream) Close() error { return nil }
