package router

import (
	"slices"
	"strings"
)

// ModelInfo is a model an org can ask for.
type ModelInfo struct {
	ID      string // the name to ask for; Resolve gives Target for it
	OwnedBy string // the provider
	Target  Target
}

// Models returns what an org can ask for that has keys where has says so: of each such provider, in the order they are
// tried in, every model the catalogue lists, and every other one that listed has of it (nil: none), under its full name
// provider/model. A model that the catalogue lists and its vendor sells itself comes before that under its bare name, which
// is the one existing applications look for. The names of one list are unique, and each resolves to the target beside it.
func (r *Router) Models(has func(provider string) bool, listed func(provider string) []string) []ModelInfo {
	var models []ModelInfo
	seen := map[string]bool{}
	add := func(name string, t Target) {
		if seen[name] {
			return
		}
		if got, _, err := r.Resolve(name, has); err == nil && got == t {
			seen[name] = true
			models = append(models, ModelInfo{ID: name, OwnedBy: t.Provider, Target: t})
		}
	}
	for _, p := range r.providers {
		if !has(p) {
			continue
		}
		for _, id := range r.catalogue.IDs(p) {
			t := Target{p, id}
			if !strings.Contains(id, "/") {
				add(id, t)
			}
			if whole(p, id) {
				add(id, t) // its prefix is the provider's already: openrouter/auto
			} else {
				add(p+"/"+id, t)
			}
		}
		if listed == nil {
			continue
		}
		for _, id := range slices.Sorted(slices.Values(listed(p))) {
			if !r.catalogue.Lists(p, id) {
				add(p+"/"+id, Target{p, id}) // a bare name that the catalogue does not know is nobody's
			}
		}
	}
	return models
}

// whole reports whether id begins with the provider's own name.
func whole(provider, id string) bool { return strings.HasPrefix(id, provider+"/") }
