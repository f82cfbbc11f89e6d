package metering

import (
	"regexp"
	"slices"
	"testing"
)

func TestEmbeddedCatalogue(t *testing.T) {
	c := catalogue(t)
	if !regexp.MustCompile(`^\d{4}-\d{2}\.[0-9a-f]{8}$`).MatchString(c.Version()) {
		t.Errorf("version %q", c.Version())
	}
	for _, provider := range []string{"openai", "gemini", "perplexity", "openrouter"} {
		ids := c.IDs(provider)
		if len(ids) == 0 || !slices.IsSorted(ids) {
			t.Errorf("%s lists %v", provider, ids)
		}
		for _, id := range ids {
			m, ok := c.Lookup(provider, id)
			if !ok || m.ID != id || m.Provider != provider || !c.Lists(provider, id) {
				t.Errorf("%s %s: %+v", provider, id, m)
			}
			if _, ok := Cost(m, Tokens{Input: 1}); !ok && id != "openrouter/auto" {
				t.Errorf("%s %s has no price", provider, id)
			}
			if m.LongAbove > 0 && m.Long.Input <= m.Prices.Input {
				t.Errorf("%s %s: a long context is not dearer", provider, id)
			}
		}
	}
	// What a target without a model means must be there.
	for provider, id := range map[string]string{"openai": "gpt-5.4-mini", "gemini": "gemini-3.5-flash", "perplexity": "sonar", "openrouter": "openrouter/auto"} {
		if !c.Lists(provider, id) {
			t.Errorf("%s does not list %s", provider, id)
		}
	}
	if _, ok := c.Lookup("nobody", "gpt-5-mini"); ok || c.IDs("nobody") != nil {
		t.Error("an unknown provider has models")
	}
}

func TestFind(t *testing.T) {
	c := catalogue(t)
	for _, x := range []struct{ provider, name, want string }{
		{"openai", "gpt-6-luna", "gpt-6-luna"},
		{"openrouter", "gpt-6-luna", "openai/gpt-6-luna"},
		{"openrouter", "openai/gpt-6-luna", "openai/gpt-6-luna"},
		{"openrouter", "claude-sonnet-5.5", "anthropic/claude-sonnet-5.5"},
		{"openrouter", "gpt-5-nano", ""},
		{"openai", "openai/gpt-6-luna", ""},
		{"perplexity", "sonar", "sonar"},
		{"nobody", "sonar", ""},
		{"openrouter", "", ""},
	} {
		if got, ok := c.Find(x.provider, x.name); got != x.want || ok != (x.want != "") {
			t.Errorf("%s %s: got %q, %v; want %q", x.provider, x.name, got, ok, x.want)
		}
	}
	two, err := ParseCatalogue([]byte(`{"as_of":"x","models":[{"provider":"p","id":"a/m","input":1},{"provider":"p","id":"b/m","input":1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := two.Find("p", "m"); ok {
		t.Errorf("a name that two vendors use means %q", got)
	}
}

func TestWrongCataloguesAreRefused(t *testing.T) {
	for about, text := range map[string]string{
		"no JSON":                        `{`,
		"no provider":                    `{"models":[{"id":"m","input":1}]}`,
		"no name":                        `{"models":[{"provider":"p","input":1}]}`,
		"twice":                          `{"models":[{"provider":"p","id":"m"},{"provider":"p","id":"m"}]}`,
		"a price below zero":             `{"models":[{"provider":"p","id":"m","input":-1}]}`,
		"a price too high":               `{"models":[{"provider":"p","id":"m","input":1,"output":10000000001}]}`,
		"half a price":                   `{"models":[{"provider":"p","id":"m","input":0.5}]}`,
		"a long context without an edge": `{"models":[{"provider":"p","id":"m","input":1,"long":{"input":2}}]}`,
		"a long context without a price": `{"models":[{"provider":"p","id":"m","input":1,"long":{"above":5}}]}`,
		"a fee below zero":               `{"models":[{"provider":"p","id":"m","fees":{"request":-1}}]}`,
		"a window below zero":            `{"models":[{"provider":"p","id":"m","window":-1}]}`,
	} {
		if _, err := ParseCatalogue([]byte(text)); err == nil {
			t.Errorf("%s: accepted", about)
		}
	}
}

func TestVersionFollowsTheContent(t *testing.T) {
	versions := map[string]bool{}
	for _, text := range []string{`{"as_of":"2026-11","models":[]}`, `{"as_of":"2026-11","models":[] }`, `{"as_of":"2026-12","models":[]}`} {
		c, err := ParseCatalogue([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		versions[c.Version()] = true
	}
	if len(versions) != 3 {
		t.Errorf("three catalogues have the versions %v", versions)
	}
}

// Google's lists put "models/" before a name, and Gemini takes a name so: it is not another model without a price.
func TestGoogleNamesAModelTwice(t *testing.T) {
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	want, ok := c.Lookup("gemini", "gemini-2.5-pro")
	got, also := c.Lookup("gemini", "models/gemini-2.5-pro")
	if !ok || !also || got.ID != want.ID {
		t.Errorf("%v %v, %v %v", got, also, want, ok)
	}
	if _, ok := c.Lookup("openai", "models/gpt-5-mini"); ok {
		t.Error("OpenAI has no such names")
	}
}
