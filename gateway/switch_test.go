package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// A conversation goes from provider to provider, with tool calls, an image and citations on its way, and each next one
// takes all that the others left. Half of the turns are streamed.
func TestAThreadChangesItsProvider(t *testing.T) {
	t.Parallel()
	const (
		tools = `,"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`
		pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
	)
	user := func(text string) string { return fmt.Sprintf(`{"role":"user","content":%q}`, text) }
	turns := []struct{ model, message, more, finish string }{
		{"openai/gpt-4.1-mini", user("Good morning."), "", "stop"},
		{"gemini/gemini-3.8-flash", user("Please call the tool."), tools, "tool_calls"},
		{"gemini/gemini-3.8-flash", "", tools, "stop"},
		{"perplexity/sonar", user("What is the latest news?"), "", "stop"},
		{"openrouter/anthropic/claude-haiku-5.5", user("Is that so?"), "", "stop"},
		{"openai/gpt-4.1-mini", user("Please call both tools: call the tool."), tools, "tool_calls"},
		{"perplexity/openai/gpt-6-luna", "", tools, "stop"},
		{"gemini/gemini-3.8-flash", fmt.Sprintf(`{"role":"user","content":[{"type":"text","text":"And this?"},{"type":"image_url","image_url":{"url":%q}}]}`, pixel), "", "stop"},
		{"openrouter/anthropic/claude-haiku-5.5", user("Please call the tool."), tools, "tool_calls"},
		{"gemini/gemini-3.8-flash", "", tools, "stop"},
		{"perplexity/sonar", user("Anything new?"), "", "stop"},
		{"openai/gpt-4.1-mini", user("Good night."), "", "stop"},
	}
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for _, p := range []string{"gemini", "perplexity"} {
			h.do("PUT", h.providers(p), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		}
		last := func() gjson.Result {
			return gjson.GetBytes(h.do("GET", "/api/threads/moving", "").want(t, 200).body, "messages.@reverse.0")
		}
		seen := 0
		for i, turn := range turns {
			messages := turn.message
			if messages == "" { // the results of the calls that the turn before ended in
				var results []string
				for _, c := range last().Get("tool_calls.#.id").Array() {
					results = append(results, fmt.Sprintf(`{"role":"tool","tool_call_id":%q,"content":"It is mild."}`, c.String()))
				}
				messages = strings.Join(results, ",")
			}
			body := fmt.Sprintf(`{"model":%q,"messages":[%s],"stream":%v%s}`, turn.model, messages, i%2 == 1, turn.more)
			h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "moving").want(t, 200)
			provider, model, _ := strings.Cut(turn.model, "/")
			got := last()
			for path, want := range map[string]string{
				"role": "assistant", "status": "complete", "provider": provider, "model_requested": turn.model, "route": "explicit", "attempts": "1",
				"finish_reason": turn.finish,
			} {
				if got.Get(path).String() != want {
					t.Fatalf("turn %d: %s is %s, want %q\n%s", i+1, path, got.Get(path).Raw, want, got.Raw)
				}
			}
			for _, path := range []string{"model_served", "reason", "latency_ms", "usage.prompt_tokens", "usage.completion_tokens", "cost_usd", "request_id"} {
				if !got.Get(path).Exists() || got.Get(path).String() == "" {
					t.Errorf("turn %d: no %s", i+1, path)
				}
			}
			if i%2 == 1 && !got.Get("first_token_ms").Exists() {
				t.Errorf("turn %d: how long the first token took is not told", i+1)
			}
			if model == "sonar" && got.Get("citations.#").Int() == 0 {
				t.Errorf("turn %d: no citations: %s\n%s", i+1, got.Raw, h.attempts()[seen].Body)
			}
			// The provider was given all that came before.
			log := h.attempts()
			for _, a := range log[seen:] {
				if a.Provider != provider || i > 0 && !strings.Contains(string(a.Body), "Good morning.") {
					t.Errorf("turn %d: %s was sent %s", i+1, a.Provider, a.Body)
				}
			}
			if len(log) != seen+1 {
				t.Fatalf("turn %d: %d attempts, want one", i+1, len(log)-seen)
			}
			seen = len(log)
		}
	})
}
