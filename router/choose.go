package router

import (
	"fmt"
	"strings"

	"threadhub/internal/fault"
)

// Choice is what a request's model name means: targets in the order in which they are to be tried, at least one.
type Choice struct {
	Targets []Target
	Route   Route
	Skipped []Skipped // the other rules, in order, and why they did not fire

	// OnUnsupported is what the rule says of members that the target cannot be told: "drop" leaves them out, "reject"
	// refuses the request; "": as members of their kind are treated.
	OnUnsupported string
}

// Skipped is a rule that did not fire.
type Skipped struct {
	Rule string `json:"rule"`
	Why  string `json:"why"`
}

// Choose says what in.Model means to an org with policy p that has a key where has says so: auto goes by the rules, an
// alias of the org by its targets, and everything else as Resolve says. A rule that holds but names only providers without
// a key, or without an upstream, is passed over, and the reason of the one that fires says so. Errors: as Resolve, and
// fault.Invalid provider_key_missing when no rule can be used.
func (r *Router) Choose(p *Policy, in Input, has func(provider string) bool) (Choice, error) {
	if in.Model == Auto {
		return r.byRules(p, in, has)
	}
	if list, ok := p.alias(in.Model); ok {
		targets, why := r.usable(list, has)
		if len(targets) == 0 {
			return Choice{}, noKey(in.Model, why)
		}
		return Choice{Targets: targets, Route: Route{"alias", fmt.Sprintf("the organisation's alias %s", in.Model)}}, nil
	}
	t, route, err := r.Resolve(in.Model, has)
	if err != nil {
		return Choice{}, err
	}
	return Choice{Targets: []Target{t}, Route: route}, nil
}

func (r *Router) byRules(p *Policy, in Input, has func(string) bool) (c Choice, err error) {
	if len(in.Message) > maxMessage {
		in.Message = strings.ToValidUTF8(in.Message[:maxMessage], "")
	}
	q := &question{in: &in, words: p.words}
	var passed []string // rules that hold and cannot be used
	c.Skipped = make([]Skipped, 0, len(p.rules))
	for n, rule := range p.rules {
		holds, err := q.holds(rule.program)
		if !holds {
			why := "its condition does not hold"
			if err != nil {
				why = "its condition cannot be answered: " + err.Error()
			}
			c.Skipped = append(c.Skipped, Skipped{rule.ID, why})
			continue
		}
		targets, why := r.usable(rule.targets, has)
		if len(targets) == 0 {
			c.Skipped = append(c.Skipped, Skipped{rule.ID, why})
			passed = append(passed, fmt.Sprintf("%s would have been used, but %s", rule.ID, why))
			continue
		}
		c.Targets, c.Route, c.OnUnsupported = targets, Route{rule.ID, rule.Reason}, rule.OnUnsupported
		if rule.targets[0].provider != targets[0].Provider {
			passed = append(passed, why)
		}
		if len(passed) > 0 {
			c.Route.Reason += " (" + strings.Join(passed, "; ") + ")"
		}
		later := rule.ID + " fired before it"
		for _, r := range p.rules[n+1:] {
			c.Skipped = append(c.Skipped, Skipped{r.ID, later})
		}
		return c, nil
	}
	why := "no rule holds"
	if len(passed) > 0 {
		why = strings.Join(passed, "; ")
	}
	return Choice{}, noKey(Auto, why)
}

func noKey(model, why string) error {
	return fault.New(fault.Invalid, "%q leads to no provider: %s; an admin sets a key with PUT /api/orgs/{org}/providers/{provider}", model, why).
		WithCode("provider_key_missing").WithParam("model")
}

// usable returns what of list can be asked, and why those before the first of them cannot.
func (r *Router) usable(list []target, has func(string) bool) (targets []Target, why string) {
	var missing []string
	miss := func(why string) {
		if len(targets) == 0 {
			missing = append(missing, why)
		}
	}
	for _, t := range list {
		switch {
		case !r.serves(t.provider):
			miss("this gateway does not speak to " + t.provider)
		case !has(t.provider):
			miss("there is no key for " + t.provider)
		case t.model == "":
			d, ok := r.Default(t.provider)
			if !ok {
				miss(t.provider + " has no default model")
				continue
			}
			targets = append(targets, d)
		default:
			targets = append(targets, r.named(t.provider, t.model))
		}
	}
	return targets, strings.Join(missing, ", and ")
}
