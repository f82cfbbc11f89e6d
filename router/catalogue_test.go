package router_test

import (
	"testing"

	"threadhub/metering"
	"threadhub/router"
)

// The catalogue that ships fits the router, and every name it leads to resolves.
func TestWithTheEmbeddedCatalogue(t *testing.T) {
	c, err := metering.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	providers := []string{"openai", "gemini", "perplexity", "openrouter"}
	r := router.New(router.Options{Catalogue: c, Providers: providers})
	has := func(string) bool { return true }
	reachable := map[router.Target]bool{}
	for _, m := range r.Models(has, nil) {
		reachable[m.Target] = true
		if got, _, err := r.Resolve(m.ID, has); err != nil || got != m.Target {
			t.Errorf("%s is listed as %v and resolves to %v, %v", m.ID, m.Target, got, err)
		}
	}
	for _, p := range providers {
		for _, id := range c.IDs(p) {
			if !reachable[router.Target{Provider: p, Model: id}] {
				t.Errorf("%s %s is in no list", p, id)
			}
		}
	}
	for name, want := range map[string]router.Target{
		"gpt-5.4-mini":                           {Provider: "openai", Model: "gpt-5.4-mini"},
		"openai/gpt-5-mini":                      {Provider: "openai", Model: "gpt-5-mini"},
		"gemini/gemini-2.5-flash":                {Provider: "gemini", Model: "gemini-2.5-flash"},
		"sonar":                                  {Provider: "perplexity", Model: "sonar"},
		"openrouter/anthropic/claude-sonnet-5.5": {Provider: "openrouter", Model: "anthropic/claude-sonnet-5.5"},
		"openrouter/auto":                        {Provider: "openrouter", Model: "openrouter/auto"},
		"openai/gpt-4.1-mini-2025-04-14":         {Provider: "openai", Model: "gpt-4.1-mini-2025-04-14"},
	} {
		if got, _, err := r.Resolve(name, has); err != nil || got != want {
			t.Errorf("%s resolves to %v, %v", name, got, err)
		}
	}
}
