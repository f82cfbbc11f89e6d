package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// wrongs are what a provider does wrong, as the simulator is told, but for what takes long.
var wrongs = []string{
	"status=500", "status=429", "status=400", "fault=reset", "fault=close", "fault=reset_head", "fault=garbage_head", "fault=switching",
	"fault=echo_key", "fault=html", "fault=redirect", "fault=empty", "fault=interim_flood", "fault=set_cookie", "fault=huge_header",
	"fault=gzip", "fault=bad_encoding", "fault=wrong_type", "fault=cl_long", "fault=cl_short", "fault=cl_negative", "fault=cl_duplicate",
	"fault=cut", "fault=cut_raw", "fault=reset_mid", "fault=bad_json", "fault=no_done", "fault=no_usage", "fault=no_finish",
	"fault=garbage", "fault=error_first", "fault=error_mid", "fault=double_done", "fault=after_done", "fault=zero_usage",
	"fault=error_200", "fault=json_instead", "fault=http10", "fault=bad_utf8", "fault=split_rune", "fault=lone_surrogate", "fault=nul",
	"fault=wrong_model", "fault=wrong_id", "fault=many_headers",
	"fault=hostile_usage", "fault=usage_twice", "fault=usage_first", "fault=bom",
}

// Every thread that any of these leaves behind reads gapless, has its answer or its marker, and takes the next turn; and
// every attempt has one line.
func TestTurnsThatGoWrong(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Failover: once}, func(t *testing.T, h *house) {
		for i, directive := range wrongs {
			for j, more := range []string{"", `,"stream":true`, `,"n":3`, `,"n":3,"stream":true`} {
				thread := id.Thread(fmt.Sprintf("wrong-%d-%d", i, j))
				r := h.chat("[[sim "+directive+"]]", more, "X-Thread-Id", string(thread))
				if r.code() == "simulator_script" {
					t.Fatalf("%s: %s", directive, r.body)
				}
				m := h.messages(thread)
				if len(m) != 2 || !strings.HasPrefix(m[1], "assistant:") {
					t.Errorf("%s%s: status %d, the thread reads %q", directive, more, r.status, m)
				}
				done := strings.Contains(string(r.body), "[DONE]") || r.status == 200 && !strings.Contains(more, "stream")
				if done != strings.HasSuffix(m[1], ":complete") {
					t.Errorf("%s%s: told %.100s, stored %q", directive, more, r.body, m[1])
				}
				lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
				if err != nil || len(lines) != 1 {
					t.Errorf("%s%s: %d lines, %v", directive, more, len(lines), err)
				}
				if !h.free(thread) {
					t.Errorf("%s%s: the turn is held", directive, more)
				}
			}
		}
	})
}

// A stream that says that it is over, and not why each of its choices is, was cut: it has no clean end, whoever gives it.
func TestAStreamWithoutAFinishReason(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), Options{Failover: once})
	h.everyKey()
	check := func(about string, r heard, code string) {
		t.Helper()
		e := events(r.want(t, 200).body)
		if last := e[len(e)-1]; gjson.Get(last, "error.code").Str != code || slices.Contains(e, "[DONE]") {
			t.Errorf("%s: it ended in %s", about, last)
		}
		if m := h.messages(id.Thread(r.header.Get("X-Thread-Id"))); !strings.HasSuffix(m[1], ":incomplete:"+code) {
			t.Errorf("%s: the thread reads %q", about, m)
		}
	}
	for model, code := range map[string]string{
		"openai/gpt-5-mini": "upstream_truncated", "openrouter/openai/gpt-6-luna": "upstream_truncated", "gemini/gemini-3.8-flash": "upstream_truncated",
		"perplexity/sonar": "upstream_protocol", // whose last event then says nothing that it could
	} {
		check(model, h.do("POST", "/v1/chat/completions",
			`{"model":"`+model+`","stream":true,"messages":[{"role":"user","content":"[[sim fault=no_finish]] q"}]}`, "X-Thread-Id", "new"), code)
	}
	rec := newRecordings(t, "")
	h = rec.house
	const one = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"},{"index":1,"delta":{"content":"b"},"finish_reason":null}]}` + "\n\ndata: [DONE]\n\n"
	check("one of two", rec.ask("openai", upstreamstest.EventStream+one, `,"stream":true,"n":2`, "X-Thread-Id", "new"), "upstream_truncated")
}

// Many thin clients in one thread: every one is served, whole turns after each other.
func TestManyInOneThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		var wg sync.WaitGroup
		const n = 20
		for i := range n {
			wg.Go(func() {
				more := ""
				if i%2 == 0 {
					more = `,"stream":true`
				}
				if r := h.chat(fmt.Sprint("q", i), more, "X-Thread-Id", "many"); r.status != 200 {
					t.Errorf("status %d: %s", r.status, r.body)
				}
			})
		}
		wg.Wait()
		m := h.messages("many")
		if len(m) != 2*n {
			t.Fatalf("%d messages", len(m))
		}
		for i := 0; i < len(m); i += 2 {
			if !strings.HasPrefix(m[i], "user:") || !strings.HasPrefix(m[i+1], "assistant:") {
				t.Errorf("turn %d reads %q", i/2, m[i:i+2])
			}
		}
	})
}

// complaining is a provider that answers with an error and says what it has charged for it.
type complaining struct{ upstreams.Upstream }

func (complaining) Chat(context.Context, *upstreams.Request) (*upstreams.Answer, error) {
	return nil, errors.Join(fault.New(fault.Upstream, "overloaded").WithCode("upstream_error"), &upstreams.Failure{
		Status: 200, Sent: true, Body: []byte(`{"error":{"message":"overloaded"},"usage":{"prompt_tokens":1000,"completion_tokens":0,"total_tokens":1000}}`),
	})
}

func TestTheUsageOfAnErrorIsCharged(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.opts.Upstreams["openai"] = complaining{h.opts.Upstreams["openai"]}
	r := h.chat("hello", "").want(t, 502)
	lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
	if err != nil || len(lines) != 1 || lines[0].Charge.Input != 1000 || lines[0].Charge.Cost <= 0 || lines[0].Charge.Status != metering.Computed {
		t.Errorf("%v, %+v", err, lines)
	}
}
