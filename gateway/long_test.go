package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/openai"
	"threadhub/simulator"
)

// An answer that its provider gives in several is one: to the client, in the thread and in the ledger, whole or streamed.
func TestALongAnswerIsOne(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("PUT", h.providers("gemini"), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		seen := 0
		for _, stream := range []bool{false, true} {
			thread := fmt.Sprint("long-", stream)
			body := fmt.Sprintf(`{"model":"gemini/gemini-4-argon","messages":[{"role":"user","content":"[[sim finish=CONTINUATION count=3]] tell me a long story"}],"max_tokens":60000,"stream":%v,"stream_options":%s}`,
				stream, map[bool]string{false: "null", true: `{"include_usage":true}`}[stream])
			r := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", thread).want(t, 200)
			var text, finish string
			used := gjson.GetBytes(r.body, "usage")
			if stream {
				var all openai.Accumulator
				list := events(r.body)
				for _, e := range list[:len(list)-1] {
					if _, err := all.Add([]byte(e)); err != nil {
						t.Fatal(err)
					}
					if u := gjson.Get(e, "usage"); u.IsObject() {
						used = u
					}
				}
				if list[len(list)-1] != "[DONE]" {
					t.Errorf("the stream ended in %s", list[len(list)-1])
				}
				text, finish = openai.ContentText(all.Message()), all.FinishReason()
			} else {
				text, finish = gjson.GetBytes(r.body, "choices.0.message.content").Str, gjson.GetBytes(r.body, "choices.0.finish_reason").Str
			}
			log := h.attempts()[seen:]
			seen += len(log)
			if len(log) != 3 {
				t.Fatalf("the provider was asked %d times, want 3", len(log))
			}
			var all string
			var prompt, completion int64
			for i, a := range log {
				all += a.Text
				prompt, completion = prompt+a.Usage.Prompt, completion+a.Usage.Completion
				if a.Name != log[0].Name || gjson.GetBytes(a.Body, "continuationToken").Exists() != (i > 0) {
					t.Errorf("request %d is called %s: %s", i, a.Name, a.Body)
				}
			}
			if text != all || !strings.Contains(text, "tell me a long story") || finish != "stop" {
				t.Errorf("streamed %v: ended in %s, said %q of %q", stream, finish, text, all)
			}
			if used.Get("prompt_tokens").Int() != prompt || used.Get("completion_tokens").Int() != completion {
				t.Errorf("streamed %v: used %s, the provider told %d and %d", stream, used.Raw, prompt, completion)
			}
			stored := gjson.GetBytes(h.do("GET", "/api/threads/"+thread, "").want(t, 200).body, "messages.1")
			if stored.Get("content").Str != all || stored.Get("status").Str != "complete" || stored.Get("attempts").Int() != 1 {
				t.Errorf("streamed %v: the thread has %s", stream, stored.Raw)
			}
			lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
			if err != nil || len(lines) != 1 || lines[0].MaybeBilled || lines[0].Charge.Prompt() != prompt || lines[0].Charge.Output+lines[0].Charge.Reasoning != completion ||
				lines[0].Charge.Status != metering.Computed {
				t.Errorf("streamed %v: the ledger has %+v, %v", stream, lines, err)
			}
		}
	})
}

// What came is the answer where the rest is refused; the ledger says whether there may be more to pay.
func TestALongAnswerWithoutItsRest(t *testing.T) {
	h := newHouse(t, stores["sqlite"](t), Options{})
	h.do("PUT", h.providers("gemini"), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
	for fault, billed := range map[string]bool{"status=503": false, "fault=reset": true} {
		if err := h.sim.Play(simulator.Script{Provider: "gemini", Match: "continuationToken", Do: fault, Times: 1},
			simulator.Script{Provider: "gemini", Do: "finish=CONTINUATION", Times: 1}); err != nil {
			t.Fatal(err)
		}
		r := h.do("POST", "/v1/chat/completions", `{"model":"gemini/gemini-4-argon","messages":[{"role":"user","content":"tell me a long story"}]}`).want(t, 200)
		if gjson.GetBytes(r.body, "choices.0.finish_reason").Str != "length" || gjson.GetBytes(r.body, "choices.0.message.content").Str == "" {
			t.Errorf("%s: answered %s", fault, r.body)
		}
		if got := r.header.Get("X-Threadhub-Warning"); got != "dropped=continuation;reason=upstream" {
			t.Errorf("%s: warned of %q", fault, got)
		}
		lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
		if err != nil || len(lines) != 1 || lines[0].MaybeBilled != billed || lines[0].Charge.Status != metering.Computed {
			t.Errorf("%s: the ledger has %+v, %v", fault, lines, err)
		}
	}
}
