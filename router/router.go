// Package router says which target a model name means: which provider to ask, and for which of its models.
//
// It decides only: no I/O, no state, the same answer to the same question. It promises that a target's provider is one
// this gateway has an upstream for and the asking org has a key for. It leaves to others to ask the target, and what the
// answer costs.
package router

import (
	"slices"
	"strings"
	"unicode/utf8"

	"threadhub/internal/fault"
)

// Catalogue is what the router must know of the models there are.
type Catalogue interface {
	// Lists reports whether provider has a model of exactly this name.
	Lists(provider, id string) bool

	// Find returns provider's own name for the model others call name: name itself, or the one it lists as vendor/name.
	Find(provider, name string) (id string, ok bool)

	// IDs returns provider's models, sorted.
	IDs(provider string) []string
}

// Options say what there is to route to.
type Options struct {
	Catalogue     Catalogue
	Providers     []string          // those with an upstream; others do not exist for this router
	DefaultModels map[string]string // by provider: what a target without a model means
}

// Target is a provider and the model to ask it for, by its own name for it.
type Target struct{ Provider, Model string }

// Route says why a target was chosen.
type Route struct {
	ID     string // "explicit": the client named the provider; "catalogue": the catalogue knows the name
	Reason string // for people
}

// Router resolves model names. Safe for concurrent use.
type Router struct {
	catalogue Catalogue
	providers []string // in the order they are tried in
	defaults  map[string]string
}

// order is which provider is asked first where several sell a model. Providers not in it come last, as they were given.
var order = [...]string{"openai", "gemini", "perplexity", "openrouter"}

// New returns a router.
func New(o Options) *Router {
	r := &Router{catalogue: o.Catalogue, defaults: o.DefaultModels}
	given := map[string]bool{}
	for _, p := range o.Providers {
		given[p] = true
	}
	for _, p := range append(order[:len(order):len(order)], o.Providers...) {
		if given[p] {
			r.providers = append(r.providers, p)
			given[p] = false
		}
	}
	return r
}

// Auto is the name that leaves the choice to the rules.
const Auto = "auto"

// MaxName is the longest model name, in bytes.
const MaxName = 256

// Resolve says what model means for an org that has a key where has says so:
//
//   - provider/model is that model of that provider. The prefix is taken off once, unless the provider lists the whole
//     name (openrouter/auto). The catalogue need not list what is left: it is sent as it is. Without an upstream for that
//     provider there is no such model, whoever else sells one under that name.
//   - any other name the catalogue lists is asked of its vendor's own provider, or without a key there of the next that
//     sells it, by whatever name it does.
//   - nothing else is known.
//
// Errors: fault.NotFound, model_not_found; fault.Invalid, provider_key_missing, when the model is known and only a key
// is missing.
func (r *Router) Resolve(model string, has func(provider string) bool) (Target, Route, error) {
	if !wellFormed(model) {
		return Target{}, Route{}, unknown(model, "no model has such a name")
	}
	if model == Auto {
		return Target{}, Route{}, unknown(model, "it stands for a choice, which Choose makes")
	}
	if provider, rest, ok := strings.Cut(model, "/"); ok && r.serves(provider) {
		return r.explicit(provider, rest, model, has)
	} else if ok && slices.Contains(order[:], provider) { // never another's model that happens to have this name
		return Target{}, Route{}, unknown(model, "this gateway does not speak to "+provider+" yet")
	}
	if t, route, err := r.listed(model, has); err != nil || t.Model != "" {
		return t, route, err
	}
	return Target{}, Route{}, unknown(model, "the catalogue does not list it; a model it does not list is named with its provider, as in openai/gpt-5-mini")
}

func (r *Router) explicit(provider, rest, whole string, has func(string) bool) (Target, Route, error) {
	t := r.named(provider, rest)
	if t.Model == "" {
		return Target{}, Route{}, unknown(whole, "the name of the model is missing after the slash")
	}
	if !has(provider) {
		return Target{}, Route{}, keyMissing(provider)
	}
	return t, Route{"explicit", "the request names the provider " + provider}, nil
}

// named returns the target provider/model: what is behind the slash, or the whole of it if provider lists that
// (openrouter/auto).
func (r *Router) named(provider, model string) Target {
	if whole := provider + "/" + model; r.catalogue.Lists(provider, whole) {
		model = whole
	}
	return Target{provider, model}
}

// listed looks name up. The target is empty if no provider sells such a model.
func (r *Router) listed(name string, has func(string) bool) (Target, Route, error) {
	sellers := r.sellers(name)
	for i, t := range sellers {
		if has(t.Provider) {
			reason := t.Provider + " offers " + t.Model
			if i > 0 {
				reason += ", and there is no key for " + sellers[0].Provider
			}
			return t, Route{"catalogue", reason}, nil
		}
	}
	if len(sellers) > 0 {
		return Target{}, Route{}, keyMissing(sellers[0].Provider)
	}
	return Target{}, Route{}, nil
}

// sellers returns the targets that name may mean, the best first: a provider that lists exactly this name, which for a
// bare name is its vendor, before those that know it as vendor/name.
func (r *Router) sellers(name string) []Target {
	var exact, others []Target
	for _, p := range r.providers {
		if id, ok := r.catalogue.Find(p, name); ok && id == name {
			exact = append(exact, Target{p, id})
		} else if ok {
			others = append(others, Target{p, id})
		}
	}
	return append(exact, others...)
}

// Default returns what a target of provider without a model means; false if nothing was set.
func (r *Router) Default(provider string) (Target, bool) {
	model := r.defaults[provider]
	return Target{provider, model}, model != "" && r.serves(provider)
}

func (r *Router) serves(provider string) bool {
	for _, p := range r.providers {
		if p == provider {
			return true
		}
	}
	return false
}

// wellFormed reports whether a model may have this name: valid text of a reasonable length without control characters.
func wellFormed(name string) bool {
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) {
		return false
	}
	return strings.IndexFunc(name, func(c rune) bool { return c < 0x20 || c == 0x7f }) < 0
}

func unknown(model, why string) error {
	return fault.New(fault.NotFound, "the model %.100q does not exist: %s", model, why).WithCode("model_not_found").WithParam("model")
}

func keyMissing(provider string) error {
	return fault.New(fault.Invalid, "your organisation has no key for %s; an admin sets one with PUT /api/orgs/{org}/providers/%s", provider, provider).
		WithCode("provider_key_missing").WithParam("model")
}
