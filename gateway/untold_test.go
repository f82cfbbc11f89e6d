package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/simulator"
)

// whoever are models of all the providers, some of a kind.
var whoever = []string{
	"openai/gpt-4.1-mini", "gemini/gemini-3.8-flash", "gemini/gemini-2.5-flash", "perplexity/sonar", "perplexity/google/gemini-3.8-flash",
	"openrouter/anthropic/claude-haiku-5.5",
}

const weatherTools = `,"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`

// A conversation whose call of a tool came by half, or has no result, goes on at every provider: they all refuse one
// without the other.
func TestACallWithoutResultIsNoEnd(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for _, p := range []string{"gemini", "perplexity"} {
			h.do("PUT", h.providers(p), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		}
		say := func(thread, model, text, more string) heard {
			body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}]%s}`, model, text, more)
			return h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", thread).want(t, 200)
		}
		for i, from := range []string{"openai/gpt-4.1-mini", "openrouter/anthropic/claude-haiku-5.5"} {
			for k, to := range whoever {
				thread := fmt.Sprintf("cut-%d-%d", i, k)
				if err := h.sim.Play(simulator.Script{Do: "fault=cut after=1", Times: 1}); err != nil {
					t.Fatal(err)
				}
				say(thread, from, "Please call the tool.", `,"stream":true`+weatherTools)
				shown := gjson.GetBytes(h.do("GET", "/api/threads/"+thread, "").want(t, 200).body, "messages.1")
				id := shown.Get("tool_calls.0.id").Str
				if shown.Get("status").Str != "incomplete" || id == "" {
					t.Fatalf("no call was cut: %s", shown.Raw)
				}
				r := say(thread, to, "Go on without it.", "")
				if w := r.header.Get("X-Threadhub-Warning"); !strings.Contains(w, "dropped=messages.tool_calls;reason=incomplete") {
					t.Errorf("%s: warned of %q", to, w)
				}
				if a := h.attempts(); strings.Contains(string(a[len(a)-1].Body), id) {
					t.Errorf("%s was sent %s", to, a[len(a)-1].Body)
				}
			}
		}
		for i, from := range whoever {
			if from == "perplexity/sonar" {
				continue
			}
			for k, to := range whoever {
				thread := fmt.Sprintf("unanswered-%d-%d", i, k)
				first := say(thread, from, "Please call both tools: call the tool.", weatherTools)
				id := gjson.GetBytes(first.body, "choices.0.message.tool_calls.0.id").Str
				if id == "" {
					t.Fatalf("no call: %s", first.body)
				}
				r := say(thread, to, "Never mind.", "")
				if w := r.header.Get("X-Threadhub-Warning"); !strings.Contains(w, "added=messages.tool;reason=no_result") {
					t.Errorf("%s to %s: warned of %q", from, to, w)
				}
				if a := h.attempts(); !strings.Contains(string(a[len(a)-1].Body), "The tool was not run") {
					t.Errorf("%s to %s: sent %s", from, to, a[len(a)-1].Body)
				}
				if list := fmt.Sprint(h.call(r)["warnings"]); !strings.Contains(list, "added=messages.tool;reason=no_result") {
					t.Errorf("%s to %s: the call has the warnings %s", from, to, list)
				}
			}
		}
	})
}

// What one provider took and another would refuse is not shown to the other, and stays for the first.
func TestWhatAnotherProviderTookIsNoEnd(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		ask := func(model, messages string) (warning, sent string) {
			body := fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, model, messages, weatherTools)
			r := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "film").want(t, 200)
			a := h.attempts()
			return r.header.Get("X-Threadhub-Warning"), string(a[len(a)-1].Body)
		}
		const claude, film = "openrouter/anthropic/claude-haiku-5.5", "https://example.com/film.mp4"
		_, _ = ask(claude, `{"role":"user","content":[{"type":"text","text":"call the tool"},{"type":"video_url","video_url":{"url":"`+film+`"}}]}`)
		id := gjson.GetBytes(h.do("GET", "/api/threads/film", "").want(t, 200).body, "messages.1.tool_calls.0.id").Str
		_, _ = ask(claude, `{"role":"tool","tool_call_id":"`+id+`","is_error":true,"content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}`)
		warning, sent := ask("openai/gpt-4.1-mini", `{"role":"user","content":"And now?"}`)
		if strings.Contains(sent, film) || !strings.Contains(sent, id) {
			t.Errorf("OpenAI was sent %s", sent)
		}
		for _, what := range []string{"messages.content.video_url", "messages.is_error", "messages.content.image_url"} {
			if !strings.Contains(warning, "dropped="+what+";reason=unsupported") {
				t.Errorf("not warned of %s: %s", what, warning)
			}
		}
		if warning, sent := ask(claude, `{"role":"user","content":"And you?"}`); !strings.Contains(sent, film) || !strings.Contains(sent, "is_error") || warning != "" {
			t.Errorf("its first provider was sent %s, warned of %q", sent, warning)
		}
	})
}

// A client that sends everything back, with what only the model before understands, goes on at another one all the same.
func TestForeignThoughtsOfFullClientsAreNoEnd(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for _, p := range []string{"gemini", "perplexity"} {
			h.do("PUT", h.providers(p), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		}
		ask := func(thread, model string, messages ...string) (heard, string) {
			body := fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, model, strings.Join(messages, ","), weatherTools)
			r := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", thread).want(t, 200)
			a := h.attempts()
			return r, string(a[len(a)-1].Body)
		}
		const asked = `{"role":"user","content":"Please call the tool."}`
		for _, to := range []string{"gemini/gemini-4-argon", "gemini/gemini-2.5-flash", "perplexity/google/gemini-3.8-flash", "gemini/gemini-3.5-flash"} {
			thread := strings.ReplaceAll(to, "/", ".")
			first, _ := ask(thread, "gemini/gemini-3.8-flash", asked)
			call := gjson.GetBytes(first.body, "choices.0.message")
			signature := call.Get("tool_calls.0.extra_content.google.thought_signature").Str
			if signature == "" {
				t.Fatalf("no signature: %s", call.Raw)
			}
			result := fmt.Sprintf(`{"role":"tool","tool_call_id":%q,"content":"It is mild."}`, call.Get("tool_calls.0.id").Str)
			r, sent := ask(thread, to, asked, call.Raw, result)
			own := strings.HasPrefix(to, "gemini/gemini-3")
			if strings.Contains(sent, signature) != own {
				t.Errorf("%s was sent %s", to, sent)
			}
			if w := r.header.Get("X-Threadhub-Warning"); strings.Contains(w, "dropped=messages.tool_calls.extra_content;reason=other_model") == own {
				t.Errorf("%s: warned of %q", to, w)
			}
		}
	})
}
