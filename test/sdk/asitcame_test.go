package sdk

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/shared"
	"github.com/tidwall/gjson"
)

// movers are models of all four providers, two vendors' at OpenRouter, in an order in which each answers after others.
var movers = []string{
	"gemini/gemini-3.8-flash", "openai/gpt-5-mini", "perplexity/google/gemini-3.8-flash", "openrouter/anthropic/claude-haiku-5.5",
	"openai/gpt-4.1-mini", "openrouter/google/gemini-3.8-flash", "gemini/gemini-3.8-flash", "openrouter/anthropic/claude-haiku-5.5",
	"perplexity/google/gemini-3.8-flash", "openai/gpt-5-mini", "gemini/gemini-3.5-flash", "openai/gpt-4.1-mini",
}

// A client that pushes each message of a model as it came, members the SDK does not know among them, goes on at any
// provider, also between a call of a tool and its result.
func TestMessagesAsTheyCame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // of the Go SDK
	var schema shared.FunctionParameters
	if err := json.Unmarshal([]byte(weatherSchema), &schema); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "as-it-came"} {
		options := []option.RequestOption{option.WithBaseURL(w.gw.URL + "/v1"), option.WithAPIKey(w.writer.Key), option.WithMaxRetries(0)}
		if name != "" {
			options = append(options, option.WithHeader("X-Thread-Id", name))
		}
		client := openai.NewClient(options...)
		p := openai.ChatCompletionNewParams{ReasoningEffort: shared.ReasoningEffortLow, Tools: []openai.ChatCompletionToolUnionParam{
			openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: weatherName, Parameters: schema}),
		}}
		var pushed strings.Builder
		ask := func(model string) openai.ChatCompletionMessage {
			t.Helper()
			p.Model = model
			var raw *http.Response
			more := []option.RequestOption{option.WithResponseInto(&raw)}
			if strings.HasPrefix(model, "openrouter/") {
				more = append(more, option.WithJSONSet("reasoning", map[string]any{"effort": "low"})) // where it shows what it thinks
			}
			c, err := client.Chat.Completions.New(t.Context(), p, more...)
			if err != nil {
				t.Fatalf("%q, %s: %v\nafter %s", name, model, err, pushed.String())
			}
			if provider, _, _ := strings.Cut(model, "/"); raw.Header.Get("X-Threadhub-Provider") != provider {
				t.Errorf("%s was asked, and not %s", raw.Header.Get("X-Threadhub-Provider"), provider)
			}
			m := c.Choices[0].Message
			pushed.WriteString(m.RawJSON() + "\n")
			asItCame := param.Override[openai.ChatCompletionAssistantMessageParam](json.RawMessage(m.RawJSON()))
			p.Messages = append(p.Messages, openai.ChatCompletionMessageParamUnion{OfAssistant: &asItCame})
			return m
		}
		for i, model := range movers {
			p.Messages = append(p.Messages, openai.UserMessage(fmt.Sprintf("call the tool, for the %dth time", i)))
			m := ask(model)
			if len(m.ToolCalls) == 0 {
				t.Fatalf("%s called no tool: %s", model, m.RawJSON())
			}
			for _, call := range m.ToolCalls {
				p.Messages = append(p.Messages, openai.ToolMessage("rain", call.ID))
			}
			if m = ask(movers[(i+1)%len(movers)]); !strings.Contains(m.Content, "rain") {
				t.Errorf("after its result %s says %s", p.Model, m.RawJSON())
			}
		}
		for _, member := range []string{"thought_signature", "reasoning_content", "reasoning_details", `"signature"`} {
			if !strings.Contains(pushed.String(), member) {
				t.Errorf("nobody gave %s: nothing was tried", member)
			}
		}
		if name == "" {
			continue
		}
		r, err := w.gw.Do(t.Context(), "GET", "/api/threads/"+name, w.writer.Key, "")
		if err != nil {
			t.Fatal(err)
		}
		if n := gjson.GetBytes(r.Body, "messages.#").Int(); n != int64(len(p.Messages)) {
			t.Errorf("the thread holds %d messages, and %d were said", n, len(p.Messages))
		}
	}
}
