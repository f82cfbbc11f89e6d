package openrouter_test

import (
	"testing"

	"threadhub/upstreams"
	"threadhub/upstreams/openrouter"
)

// A vendor is not sent what another one has sealed; all else that answers have is sent.
func TestTakes(t *testing.T) {
	u, err := openrouter.New(upstreams.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	const (
		claude = `[{"type":"reasoning.text","text":"t","signature":"s","format":"anthropic-claude-v1","index":0}]`
		gemini = `[{"type":"reasoning.text","text":"t"},{"type":"reasoning.encrypted","data":"d","format":"google-gemini-v1"}]`
		azure  = `[{"type":"reasoning.encrypted","data":"d","format":"azure-openai-responses-v1"}]`
		open   = `[{"type":"reasoning.text","text":"t","format":"anthropic-claude-v1"}]`
		bare   = `[{"type":"reasoning.encrypted","data":"d"}]`
	)
	for _, tt := range []struct {
		model, name, value string
		takes              bool
	}{
		{"anthropic/claude-haiku-5.5", "reasoning_details", claude, true},
		{"~anthropic/claude-sonnet-latest", "reasoning_details", claude, true},
		{"google/gemini-3.8-flash", "reasoning_details", claude, false},
		{"openai/gpt-6-luna", "reasoning_details", claude, false},
		{"x-ai/grok-6", "reasoning_details", claude, false},
		{"google/gemini-3.8-flash", "reasoning_details", gemini, true},
		{"anthropic/claude-haiku-5.5", "reasoning_details", gemini, false},
		{"openai/gpt-6-luna", "reasoning_details", azure, true},
		{"google/gemini-3.8-flash", "reasoning_details", open, true}, // nothing is sealed in it
		{"google/gemini-3.8-flash", "reasoning_details", bare, true},
		{"google/gemini-3.8-flash", "reasoning_details", `"text"`, true},
		{"mistralai/mistral-large-4-0", "reasoning_details", claude, true},
		{"openrouter/auto", "reasoning_details", claude, true},
		{"google/gemini-3.8-flash", "reasoning", `"t"`, true},
		{"google/gemini-3.8-flash", "extra_content", claude, true},
	} {
		if got := u.Takes(tt.model, tt.name, []byte(tt.value)); got != tt.takes {
			t.Errorf("%s takes %s %s: %v", tt.model, tt.name, tt.value, got)
		}
	}
}
