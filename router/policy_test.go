package router

import (
	"fmt"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func TestWrongRules(t *testing.T) {
	rule := func(r Rule) Rules { return Rules{Rules: []Rule{r}} }
	when := func(text string) Rules { return rule(Rule{ID: "a", When: text, Targets: []string{"openai"}}) }
	many := make([]string, maxWords+1)
	for i := range many {
		many[i] = "w"
	}
	for _, tt := range []struct {
		about        string
		rules        Rules
		param, words string
	}{
		{"a condition that is no CEL", when("messages >"), "rules[0].when", "line 1, column 11: "},
		{"on its second line", when("messages > 3 &&\n  nosuch == 1"), "rules[0].when", "line 2, column 3: undeclared reference"},
		{"of the wrong type", when("messages + 1"), "rules[0].when", "line 1, column 1: a condition is true or false, and this is int"},
		{"comparing what cannot be", when("messages == 'x'"), "rules[0].when", "line 1, column 10: "},
		{"a list that is not there", when("mentions.nosuch"), "rules[0].when", "line 1, column 1: undeclared reference"},
		{"too long", when(strings.Repeat("!", maxCondition+1)), "rules[0].when", "up to 4096 bytes"},
		{"a bad regular expression", when("message.matches('(')"), "rules[0].when", "error parsing regexp"},
		{"no id", rule(Rule{Targets: []string{"openai"}}), "rules[0].id", "a rule has an id"},
		{"an id with a line break", rule(Rule{ID: "a\nb", Targets: []string{"openai"}}), "rules[0].id", "a rule has an id"},
		{"two of one id", Rules{Rules: []Rule{{ID: "a", Targets: []string{"openai"}}, {ID: "a", Targets: []string{"openai"}}}}, "rules[1].id", "two rules"},
		{"no target", rule(Rule{ID: "a"}), "rules[0].targets", "1 to 10 targets"},
		{"a provider nobody knows", rule(Rule{ID: "a", Targets: []string{"openai", "acme/x"}}), "rules[0].targets[1]", "provider/model"},
		{"a target without its model", rule(Rule{ID: "a", Targets: []string{"openai/"}}), "rules[0].targets[0]", "provider/model"},
		{"a policy nobody knows", rule(Rule{ID: "a", Targets: []string{"openai"}, OnUnsupported: "ignore"}), "rules[0].on_unsupported", "drop"},
		{"an alias for auto", Rules{Aliases: map[string][]string{"auto": {"openai"}}}, "aliases", "not auto"},
		{"an alias for everything", Rules{Aliases: map[string][]string{"*": {"openai"}}}, "aliases", "a name"},
		{"an alias for nothing", Rules{Aliases: map[string][]string{"fast": {}}}, "aliases.fast", "1 to 10 targets"},
		{"a word that is only a star", Rules{Words: map[string][]string{"w": {"ok", " * "}}}, "words.w[1]", "more than * and !"},
		{"an exception of nothing", Rules{Words: map[string][]string{"w": {"!"}}}, "words.w[0]", "more than * and !"},
		{"a list with a bad name", Rules{Words: map[string][]string{"a-b": {"ok"}}}, "words", "letters, digits"},
		{"too many words", Rules{Words: map[string][]string{"w": many}}, "words", "up to 2000 words"},
		{"too many rules", Rules{Rules: make([]Rule, maxRules+1)}, "rules", "up to 200 rules"},
	} {
		_, err := Compile(tt.rules)
		if f := fault.From(err); err == nil || f.Kind != fault.Invalid || f.Code != "invalid_rule" || f.Param != tt.param || !strings.Contains(f.Message, tt.words) {
			t.Errorf("%s: %v (%s), want %s: %s", tt.about, err, fault.From(err).Param, tt.param, tt.words)
		}
	}
}

func TestConditions(t *testing.T) {
	r, _ := byDefault(t)
	in := Input{
		Model: Auto, Message: "Ship it to Köln today, please", Messages: 3, Tokens: 1200, Tools: true, ResponseFormat: "json_schema", Images: 2,
		Headers: map[string]string{"x-team": "red"}, Tags: map[string]string{"cost_center": "42"}, Org: "org_a", Hour: 23,
	}
	for when, holds := range map[string]bool{
		"":                       true,
		"messages == 3":          true,
		"tokens > 1000 && tools": true,
		"response_format == 'json_schema' && images == 2": true,
		"headers['x-team'] == 'red'":                      true,
		"headers['x-none'] == 'red'":                      false, // there is no such header: it does not hold
		"'x-none' in headers || tags.cost_center == '42'": true,
		"org == 'org_a' && (hour >= 22 || hour < 6)":      true,
		"model == 'auto'":                                 true,
		"message.contains('Köln')":                        true,
		"message.matches('(?i)ship .* today')":            true,
		"message.lowerAscii().startsWith('ship')":         true,
		"mentions.places":                                 true,
		"opens.places":                                    false,
		"opens.verbs && !mentions.never":                  true,
		"size(message) > 100":                             false,
		"[1,2,3].all(a, [1,2,3].all(b, a * b < 10))":      true,
		"message.split('').all(a, message.contains(a))":   true,
		"message.split('').all(a, message.split('').all(b, message.split('').all(c, a + b + c != '')))": false, // costs too much
	} {
		p, err := Compile(Rules{
			Rules: []Rule{{ID: "it", When: when, Targets: []string{"openai"}}, {ID: "else", Targets: []string{"gemini"}}},
			Words: map[string][]string{"places": {"köln", "Rom"}, "verbs": {"ship*"}, "never": {"nev*"}},
		})
		if err != nil {
			t.Errorf("%s: %v", when, err)
			continue
		}
		c, err := r.Choose(p, in, everybody)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Route.ID == "it"; got != holds {
			t.Errorf("%q holds: %v, want %v (%+v)", when, got, holds, c.Skipped)
		}
	}
}

func TestAliases(t *testing.T) {
	r, _ := byDefault(t)
	p, err := Compile(Rules{Aliases: map[string][]string{
		"fast": {"openai/gpt-5-mini", "openrouter"}, "gpt-4*": {"openai/gpt-6-luna"}, "gpt-4*-mini": {"openai/gpt-5-mini"}, "*-opus*": {"openrouter/anthropic/claude-sonnet-5.5"},
		"gpt-6-luna": {"openrouter/auto"}, "old/name": {"gemini"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{
		"fast": "alias openai gpt-5-mini", "gpt-4": "alias openai gpt-6-luna", "gpt-4o-mini": "alias openai gpt-5-mini", "claude-opus-9": "alias openrouter anthropic/claude-sonnet-5.5",
		"gpt-6-luna":        "alias openrouter openrouter/auto", // an alias goes before the catalogue
		"openai/gpt-6-luna": "explicit openai gpt-6-luna",       // a provider that is named does not
		"old/name":          "alias gemini gemini-3.5-flash", "gpt-5-mini": "catalogue openai gpt-5-mini", "nosuch": "model_not_found", "auto": "provider_key_missing",
	} {
		if got := describe(r.Choose(p, Input{Model: model}, everybody)); got != want {
			t.Errorf("%s: %s, want %s", model, got, want)
		}
	}
	c, err := r.Choose(p, Input{Model: "fast"}, keys("openai openrouter"))
	if err != nil || len(c.Targets) != 2 || c.Targets[1] != (Target{"openrouter", "openrouter/auto"}) {
		t.Errorf("%+v %v", c, err)
	}
	if c, err = r.Choose(p, Input{Model: "fast"}, keys("openrouter")); err != nil || c.Targets[0].Provider != "openrouter" {
		t.Errorf("without the first's key: %+v %v", c, err)
	}
	if got := describe(r.Choose(p, Input{Model: "fast"}, keys(""))); got != "provider_key_missing" {
		t.Errorf("without any: %s", got)
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		list, text string
		in, open   bool
	}{
		{"news", "The NEWS of today", true, true},
		{"news", "newspaper", false, false},
		{"news*", "Read the big newspapers", true, false},
		{"what's new", "So, what’s new?", true, true},
		{"what's new", "what is new", false, false},
		{"wie viel*", "Und wie vielen hilft es", true, true},
		{"*خبار*", "ما هي الأخبار", true, false},
		{"天气", "上海明天的天气", true, true},
		{"who", "Well then. Who is it", true, true},
		{"who", "the man who came", true, false},
		{"été", "L'ÉTÉ", false, false}, // l'été is one word
		{"news, !good news", "Good news: it snows", false, false},
		{"news, !good news", "Good news! News from home?", true, true},
		{"what, !what a", "What a day", false, false},
		{"what, !what a", "What a day. And what now", true, true},
		{"who, !translat*", "Translate who is it", true, false},
		{"!who", "who", false, false},
		{"什么, 谁, !没什么", "没什么", false, false},
		{"什么, 谁, !没什么", "没什么，是谁", true, true},
		{"*أخبار*", "اخر الاخبار", true, true},
		{"كيف", "كَيْفَ", true, true},
	} {
		w, text := newWords(strings.Split(tt.list, ", ")), newText(tt.text)
		if in, open := w.in(text), w.open(text); in != tt.in || open != tt.open {
			t.Errorf("%q in %q: %v, opens: %v", tt.list, tt.text, in, open)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range sayings {
		f.Add(s.message)
	}
	r, p := byDefault(f)
	f.Fuzz(func(t *testing.T, message string) {
		c, err := r.Choose(p, Input{Model: Auto, Message: message}, everybody)
		if err != nil || len(c.Targets) == 0 {
			t.Errorf("%v", err)
		}
	})
}

func BenchmarkFiftyRules(b *testing.B) {
	r, _ := byDefault(b)
	rules := Rules{Words: map[string][]string{}}
	for i := range 50 {
		list := fmt.Sprint("list", i)
		rules.Words[list] = []string{fmt.Sprint("word", i), fmt.Sprint("begin", i, "*"), "two words"}
		rules.Rules = append(rules.Rules, Rule{
			ID: fmt.Sprint("rule", i), When: fmt.Sprintf("mentions.%s && messages > %d || headers['x-none'] == 'x'", list, i), Targets: []string{"openai"},
		})
	}
	rules.Rules = append(rules.Rules, Rule{ID: "last", Targets: []string{"openrouter"}})
	p, err := Compile(rules)
	if err != nil {
		b.Fatal(err)
	}
	in := Input{Model: Auto, Message: strings.Repeat("A message of some twenty words, as people write it to ask for something. ", 3), Messages: 4, Headers: map[string]string{}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Choose(p, in, everybody); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefaultRules(b *testing.B) {
	r, p := byDefault(b)
	note := "Write a friendly note to the neighbours about the party on Saturday. "
	for name, message := range map[string]string{"short": note, "8KiB": strings.Repeat(note, maxMessage/len(note))} {
		b.Run(name, func(b *testing.B) {
			in := Input{Model: Auto, Message: message, Messages: 1}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Choose(p, in, everybody); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestNamesThatAreAliases(t *testing.T) {
	p, err := Compile(Rules{Aliases: map[string][]string{"fast": {"openai"}, "gpt-4*": {"openrouter/a/b"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"fast": true, "gpt-4.1": true, "gpt-4": true, "faster": false, "openai/fast": false, "auto": false} {
		if got := p.Aliases(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
