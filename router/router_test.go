package router

import (
	"slices"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

// shelf is a catalogue for tests.
type shelf map[string][]string

func (s shelf) Lists(provider, id string) bool { return slices.Contains(s[provider], id) }
func (s shelf) IDs(provider string) []string   { return s[provider] }

func (s shelf) Find(provider, name string) (string, bool) {
	if s.Lists(provider, name) {
		return name, true
	}
	for _, id := range s[provider] {
		if _, short, ok := strings.Cut(id, "/"); ok && short == name {
			return id, true
		}
	}
	return "", false
}

var goods = shelf{
	"openai":     {"gpt-5-mini", "gpt-6-luna"},
	"gemini":     {"gemini-3.5-flash"},
	"perplexity": {"openai/gpt-6-luna", "sonar", "perplexity/sonar"},
	"openrouter": {"anthropic/claude-sonnet-5.5", "openai/gpt-6-luna", "openrouter/auto", "perplexity/sonar"},
}

var all = []string{"openrouter", "perplexity", "gemini", "openai"}

func keys(list string) func(string) bool {
	return func(p string) bool { return slices.Contains(strings.Fields(list), p) }
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		about     string
		providers []string
		keys      string
		model     string
		want      string // provider model route, or a code
	}{
		{"a bare name goes to its vendor", all, "openai openrouter", "gpt-5-mini", "openai gpt-5-mini catalogue"},
		{"without a key there, to who else sells it", all, "openrouter", "gpt-6-luna", "openrouter openai/gpt-6-luna catalogue"},
		{"in the order of the contract", all, "openrouter perplexity", "gpt-6-luna", "perplexity openai/gpt-6-luna catalogue"},
		{"without an upstream there, likewise", []string{"openrouter"}, "openai openrouter", "gpt-6-luna", "openrouter openai/gpt-6-luna catalogue"},
		{"nobody has a key: the vendor's is missing", all, "", "gpt-6-luna", "provider_key_missing"},
		{"only the vendor sells it and has no key", all, "openrouter", "gpt-5-mini", "provider_key_missing"},
		{"a vendor that is no provider", all, "openrouter", "claude-sonnet-5.5", "openrouter anthropic/claude-sonnet-5.5 catalogue"},
		{"a name with a vendor that is no provider", all, "openrouter", "anthropic/claude-sonnet-5.5", "openrouter anthropic/claude-sonnet-5.5 catalogue"},
		{"a named provider is asked, whoever else could", all, "openai openrouter", "openrouter/openai/gpt-6-luna", "openrouter openai/gpt-6-luna explicit"},
		{"the prefix goes once", all, "openai", "openai/openai/gpt-9", "openai openai/gpt-9 explicit"},
		{"what is not listed is sent as it is", all, "openai", "openai/ft:gpt-4o:acme::x", "openai ft:gpt-4o:acme::x explicit"},
		{"a whole name that is listed is the model", all, "openrouter", "openrouter/auto", "openrouter openrouter/auto explicit"},
		{"and may be given its prefix again", all, "openrouter", "openrouter/openrouter/auto", "openrouter openrouter/auto explicit"},
		{"no key for a named provider", all, "openrouter", "openai/gpt-5-mini", "provider_key_missing"},
		{"no upstream for a named provider", []string{"openai"}, "openai openrouter", "openrouter/meta/muse", "model_not_found"},
		{"though another sells one of that name", []string{"openai", "openrouter"}, "openai openrouter", "perplexity/sonar", "model_not_found"},
		{"no upstream for the only seller", []string{"openai"}, "openai gemini", "gemini-3.5-flash", "model_not_found"},
		{"a name nobody lists", all, "openai openrouter", "gpt-99", "model_not_found"},
		{"a provider alone", all, "openai", "openai", "model_not_found"},
		{"a provider and a slash", all, "openai", "openai/", "model_not_found"},
		{"auto", all, "openai", "auto", "model_not_found"},
		{"no name", all, "openai", "", "model_not_found"},
		{"a slash", all, "openai", "/", "model_not_found"},
		{"names are exact", all, "openai", "GPT-5-mini", "model_not_found"},
		{"so are prefixes", all, "openai", "OpenAI/gpt-5-mini", "model_not_found"},
		{"a line break", all, "openai", "openai/gpt\n5", "model_not_found"},
		{"no text", all, "openai", "openai/\xff", "model_not_found"},
		{"too long", all, "openai", "openai/" + strings.Repeat("g", MaxName), "model_not_found"},
	} {
		r := New(Options{Catalogue: goods, Providers: c.providers})
		target, route, err := r.Resolve(c.model, keys(c.keys))
		got := target.Provider + " " + target.Model + " " + route.ID
		if err != nil {
			got = fault.From(err).Code
		}
		if got != c.want {
			t.Errorf("%s: %q is %q, want %q", c.about, c.model, got, c.want)
		}
		if err == nil && route.Reason == "" {
			t.Errorf("%s: no reason", c.about)
		}
	}
}

func TestErrorsSayWhatToChange(t *testing.T) {
	r := New(Options{Catalogue: goods, Providers: all})
	_, _, err := r.Resolve("openai/gpt-5-mini", keys(""))
	if f := fault.From(err); f.Kind != fault.Invalid || f.Param != "model" || !strings.Contains(f.Message, "PUT /api/orgs/{org}/providers/openai") {
		t.Errorf("missing key: %+v", f)
	}
	_, _, err = r.Resolve("gpt\x00<99>"+strings.Repeat("x", 500), keys(""))
	if f := fault.From(err); f.Kind != fault.NotFound || f.Param != "model" || strings.Contains(f.Message, "\x00") || len(f.Message) > 400 {
		t.Errorf("unknown model: %+v", f)
	}
}

func TestModelsAreUniqueAndResolveToThemselves(t *testing.T) {
	r := New(Options{Catalogue: goods, Providers: all})
	for _, list := range []string{"", "openai", "openrouter", "openai perplexity openrouter", "openai gemini perplexity openrouter"} {
		has := keys(list)
		seen := map[string]bool{}
		targets := map[Target]bool{}
		for _, m := range r.Models(has, nil) {
			if got, _, err := r.Resolve(m.ID, has); err != nil || got != m.Target {
				t.Errorf("keys %q: %s is listed as %v and resolves to %v, %v", list, m.ID, m.Target, got, err)
			}
			if seen[m.ID] || m.OwnedBy != m.Target.Provider {
				t.Errorf("keys %q: %+v", list, m)
			}
			seen[m.ID] = true
			targets[m.Target] = true
		}
		for _, p := range strings.Fields(list) {
			for _, id := range goods[p] {
				if !targets[Target{p, id}] {
					t.Errorf("keys %q: %s %s is in no list", list, p, id)
				}
			}
		}
		if seen["openai/gpt-5-mini"] != has("openai") || seen["gpt-5-mini"] != has("openai") || seen["openrouter/auto"] != has("openrouter") {
			t.Errorf("keys %q: %v", list, seen)
		}
	}
}

// What providers list beside the catalogue is asked for by its full name, and by no other.
func TestModelsThatOnlyTheirProviderLists(t *testing.T) {
	r := New(Options{Catalogue: goods, Providers: all})
	has := keys("openai perplexity openrouter")
	lists := map[string][]string{
		"openai":     {"ft:gpt-4o:acme::x", "gpt-5-mini", "gpt-99", "gpt-99", "openai/odd"},
		"gemini":     {"of-a-provider-without-a-key"},
		"perplexity": {"perplexity/sonar", "perplexity/new", "sonar"},
		"openrouter": {"openrouter/auto", "openrouter/new", "gpt-99", "anthropic/claude-sonnet-5.5", "a b", ""},
	}
	got := map[string]Target{}
	for _, m := range r.Models(has, func(p string) []string { return lists[p] }) {
		if _, twice := got[m.ID]; twice {
			t.Errorf("%s is there twice", m.ID)
		}
		got[m.ID] = m.Target
		if target, _, err := r.Resolve(m.ID, has); err != nil || target != m.Target {
			t.Errorf("%s is listed as %v and resolves to %v, %v", m.ID, m.Target, target, err)
		}
	}
	for name, want := range map[string]Target{
		"openai/ft:gpt-4o:acme::x":    {"openai", "ft:gpt-4o:acme::x"},
		"openai/gpt-99":               {"openai", "gpt-99"},
		"openai/openai/odd":           {"openai", "openai/odd"},
		"gpt-5-mini":                  {"openai", "gpt-5-mini"},
		"perplexity/perplexity/new":   {"perplexity", "perplexity/new"},
		"perplexity/sonar":            {"perplexity", "perplexity/sonar"},
		"openrouter/openrouter/new":   {"openrouter", "openrouter/new"},
		"openrouter/auto":             {"openrouter", "openrouter/auto"},
		"openrouter/gpt-99":           {"openrouter", "gpt-99"},
		"gpt-99":                      {},
		"ft:gpt-4o:acme::x":           {},
		"openrouter/new":              {},
		"perplexity/new":              {},
		"of-a-provider-without-a-key": {},
		"openrouter/openrouter/auto":  {},
		"openrouter/":                 {},
		"openai/openai/gpt-5-mini":    {},
		"perplexity/perplexity/sonar": {},
	} {
		if got[name] != want {
			t.Errorf("%s is listed as %v, want %v", name, got[name], want)
		}
	}
}

func TestDefault(t *testing.T) {
	r := New(Options{Catalogue: goods, Providers: []string{"openai"}, DefaultModels: map[string]string{"openai": "gpt-5-mini", "gemini": "gemini-3.5-flash"}})
	if got, ok := r.Default("openai"); !ok || got != (Target{"openai", "gpt-5-mini"}) {
		t.Error(got, ok)
	}
	if got, ok := r.Default("gemini"); ok {
		t.Error("a provider without an upstream has a default:", got)
	}
}

func FuzzResolve(f *testing.F) {
	for _, m := range []string{"auto", "gpt-5-mini", "openai/gpt-5-mini", "openrouter/auto", "openrouter/a/b/c", "openai/", "/", "sonar", "x\x00"} {
		f.Add(m, uint8(15), uint8(15))
	}
	f.Fuzz(func(t *testing.T, model string, upstreams, owned uint8) {
		var providers, have []string
		for i, p := range all {
			if upstreams>>i&1 == 1 {
				providers = append(providers, p)
			}
			if owned>>i&1 == 1 {
				have = append(have, p)
			}
		}
		has := keys(strings.Join(have, " "))
		r := New(Options{Catalogue: goods, Providers: providers})
		target, route, err := r.Resolve(model, has)
		if err != nil {
			if code := fault.From(err).Code; code != "model_not_found" && code != "provider_key_missing" || target != (Target{}) || route != (Route{}) {
				t.Fatalf("%q: %v %v %v", model, target, route, err)
			}
			return
		}
		if !slices.Contains(providers, target.Provider) || !has(target.Provider) || target.Model == "" {
			t.Fatalf("%q: %v has no upstream or no key", model, target)
		}
		if route.ID == "explicit" && model != target.Provider+"/"+target.Model && model != target.Model {
			t.Fatalf("%q: explicit, but asks for %v", model, target)
		}
		if route.ID == "catalogue" && !goods.Lists(target.Provider, target.Model) {
			t.Fatalf("%q: %v is in no catalogue", model, target)
		}
		again, _, err := r.Resolve(target.Provider+"/"+target.Model, has)
		if err != nil || again.Provider != target.Provider {
			t.Fatalf("%q: its full name resolves to %v, %v", model, again, err)
		}
	})
}
