package router

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"

	"threadhub/internal/fault"
)

// Rules is what an org decides about names that leave the choice to the gateway: data, as it is written and stored.
type Rules struct {
	Rules   []Rule              `json:"rules"`             // for "auto", in order: the first that holds and can be used
	Aliases map[string][]string `json:"aliases,omitempty"` // a name, or a pattern with *, and its targets
	Words   map[string][]string `json:"words,omitempty"`   // lists that conditions name, by name
}

// Rule is one rule. Its condition is CEL (cel.dev) over
//
//	message          string  text of the last user message, its first 8 KiB
//	messages         int     messages of the conversation, the thread's too
//	tokens           int     estimated tokens of the request, and of the newest messages of its thread that go before it
//	tools            bool    there are tools
//	response_format  string  "json_schema", "json_object", …; "" if the request has none
//	images           int     images in the request
//	headers          map     the request's headers, names in lower case
//	tags             map     X-Threadhub-Tag-… and metadata of the request
//	org              string  the org's id
//	hour             int     0 to 23, UTC
//	mentions.<list>  bool    the message has a word of that list
//	opens.<list>     bool    one of its sentences begins with one
//
// A list holds words (news), beginnings of words (aktuell*), parts of words (*akhbar*), and several words in a row (what's
// new), whatever their case. What stands after ! is an exception: "good news" has no word of a list of news and !good news.
type Rule struct {
	ID      string   `json:"id"`
	Reason  string   `json:"reason"`
	When    string   `json:"when,omitempty"` // "": always
	Targets []string `json:"targets"`        // "provider", which means its default model, or "provider/model"

	OnUnsupported string `json:"on_unsupported,omitempty"` // see Choice
}

// Bounds of what an org may write.
const (
	maxRules     = 200
	maxCondition = 4 << 10
	maxTargets   = 10
	maxWords     = 2000 // of all lists
	maxText      = 512  // of a name, a reason, a target, a word
	costLimit    = 100_000
)

// Policy is rules that were checked and can be asked. Safe for concurrent use.
type Policy struct {
	Rules   Rules
	rules   []compiled
	words   map[string]*words
	exact   map[string][]target
	pattern []aliasPattern
}

type compiled struct {
	Rule
	program cel.Program // nil: always
	targets []target
}

// target is a provider and perhaps a model, as rules name it.
type target struct{ provider, model string }

type aliasPattern struct {
	glob    string
	targets []target
}

// Compile checks rules. Errors are fault.Invalid, code invalid_rule, with the place as the parameter, and for a condition
// its line and column.
func Compile(r Rules) (*Policy, error) {
	p := &Policy{Rules: r, words: map[string]*words{}, exact: map[string][]target{}}
	if len(r.Rules) > maxRules {
		return nil, wrong("rules", "there may be up to %d rules", maxRules)
	}
	n := 0
	for name, list := range r.Words {
		if !isName(name) {
			return nil, wrong("words", "a list is named with letters, digits and _: %.40q", name)
		}
		if n += len(list); n > maxWords {
			return nil, wrong("words", "there may be up to %d words in all lists", maxWords)
		}
		for i, w := range list {
			if strings.Trim(w, " *!") == "" || len(w) > maxText {
				return nil, wrong(fmt.Sprintf("words.%s[%d]", name, i), "a word has 1 to %d bytes, and more than * and !", maxText)
			}
		}
		p.words[name] = newWords(list)
	}
	env, err := newEnv(p.words)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i, rule := range r.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		switch {
		case rule.ID == "" || len(rule.ID) > maxText || strings.ContainsFunc(rule.ID, func(c rune) bool { return c <= ' ' || c > '~' }):
			return nil, wrong(at+".id", "a rule has an id of visible ASCII characters")
		case seen[rule.ID]:
			return nil, wrong(at+".id", "two rules have the id %q", rule.ID)
		case len(rule.Reason) > maxText:
			return nil, wrong(at+".reason", "a reason has up to %d bytes", maxText)
		case rule.OnUnsupported != "" && rule.OnUnsupported != "drop" && rule.OnUnsupported != "reject":
			return nil, wrong(at+".on_unsupported", "on_unsupported is \"drop\" or \"reject\", or is left out")
		}
		seen[rule.ID] = true
		c := compiled{Rule: rule}
		if c.program, err = condition(env, at+".when", rule.When); err != nil {
			return nil, err
		}
		if c.targets, err = targetsOf(at+".targets", rule.Targets); err != nil {
			return nil, err
		}
		p.rules = append(p.rules, c)
	}
	return p, p.aliases(r.Aliases)
}

func (p *Policy) aliases(aliases map[string][]string) error {
	for name, list := range aliases {
		at := "aliases." + name
		if !wellFormed(name) || name == Auto || strings.Trim(name, "*") == "" {
			return wrong("aliases", "an alias is a name that a request can have as its model, and not auto: %.40q", name)
		}
		targets, err := targetsOf(at, list)
		if err != nil {
			return err
		}
		if strings.Contains(name, "*") {
			p.pattern = append(p.pattern, aliasPattern{name, targets})
			continue
		}
		p.exact[name] = targets
	}
	// Of several patterns that fit the longest says most.
	slices.SortFunc(p.pattern, func(a, b aliasPattern) int {
		if d := len(b.glob) - len(a.glob); d != 0 {
			return d
		}
		return strings.Compare(a.glob, b.glob)
	})
	return nil
}

func wrong(param, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithCode("invalid_rule").WithParam(param)
}

func isName(s string) bool {
	for i, c := range s {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxText
}

func targetsOf(at string, list []string) (out []target, err error) {
	if len(list) == 0 || len(list) > maxTargets {
		return nil, wrong(at, "there are 1 to %d targets", maxTargets)
	}
	for i, text := range list {
		provider, model, named := strings.Cut(text, "/")
		if !slices.Contains(order[:], provider) || named && model == "" || len(text) > maxText {
			return nil, wrong(fmt.Sprintf("%s[%d]", at, i), "a target is provider or provider/model, the provider one of %s: %.60q", strings.Join(order[:], ", "), text)
		}
		out = append(out, target{provider, model})
	}
	return out, nil
}

// Aliases reports whether a name is an alias of the org's, or fits one with *: it then means what that says, whoever else
// has a model of the name.
func (p *Policy) Aliases(name string) bool {
	_, ok := p.alias(name)
	return ok
}

// alias returns what a name means to the org.
func (p *Policy) alias(name string) ([]target, bool) {
	if t, ok := p.exact[name]; ok {
		return t, true
	}
	for _, a := range p.pattern {
		if Matches(a.glob, name) {
			return a.targets, true
		}
	}
	return nil, false
}

// Matches reports whether name fits glob, in which * stands for any text, slashes too.
func Matches(glob, name string) bool {
	head, rest, star := strings.Cut(glob, "*")
	if !star {
		return glob == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	name = name[len(head):]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], after
	}
}
