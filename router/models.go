package router

import "strings"

// ModelInfo is a model an org can ask for.
type ModelInfo struct {
	ID      string // the name to ask for; Resolve gives Target for it
	OwnedBy string // the provider
	Target  Target
}

// Models returns what an org can ask for that has keys where has says so: of each such provider, in the order they are
// tried in, every model the catalogue lists, under its full name provider/model. A model that its vendor sells itself
// comes before that under its bare name, which is the one existing applications look for. The names of one list are
// unique, and each resolves to the target beside it.
func (r *Router) Models(has func(provider string) bool) []ModelInfo {
	var models []ModelInfo
	seen := map[string]bool{}
	add := func(name string, t Target) {
		if got, _, err := r.Resolve(name, has); err == nil && got == t && !seen[name] {
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
	}
	return models
}

// whole reports whether id begins with the provider's own name.
func whole(provider, id string) bool { return strings.HasPrefix(id, provider+"/") }
