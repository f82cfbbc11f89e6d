// Package perplexity is the upstream of Perplexity. It speaks the Agent API, which took the place of Sonar chat
// completions in September 2026, or, where the operator says so, the older form that some accounts and imitations of it
// still have.
//
// Translation is pure: bytes in, bytes out. What clients wrote (texts, schemas, arguments) and what the provider wrote
// (texts, money) is spliced as it stands, escapes included. What the provider cannot be told is left out with a warning
// where the answer is right without it, and refused where it is not. No conversation is stored at the provider.
package perplexity

import (
	"fmt"

	"threadhub/upstreams"
)

// The APIs there are, as Options name them.
const (
	Agent = "agent"
	Sonar = "sonar"
)

// routed is the list that asks for a key. It is in preview: most good keys get 403 there. Everybody gets /v1/models.
const routed = "router/v1/models"

// New returns the upstream. It connects to nothing yet; Close it when the last call has ended.
func New(o upstreams.Options) (*upstreams.Client, error) {
	d := upstreams.Dialect{
		Provider:   "perplexity",
		BaseURL:    "https://api.perplexity.ai",
		Answer:     []string{"X-Request-Id", "X-Ratelimit-*", "Retry-After", "Retry-After-Ms"},
		IDs:        []string{"X-Request-Id"},
		Family:     family,
		Embeddings: translateEmbeddings,
		Check:      upstreams.KeyCheck{Path: routed, Models: routed, Narrow: true},
		List:       upstreams.List{Paths: []string{"v1/models"}},
	}
	search, ok := searchChoices[o.Search]
	if !ok {
		return nil, fmt.Errorf("perplexity: %q is no way to make a model search", o.Search)
	}
	switch o.API {
	case "", Agent:
		d.Translate = func(r *upstreams.Request) (upstreams.Words, error) { return translateAgent(r, search) }
	case Sonar:
		d.Translate = translateSonar
	default:
		return nil, fmt.Errorf("perplexity: %q is none of its APIs", o.API)
	}
	return upstreams.NewClient(d, o)
}

// searchChoices are the ways to ask for a search in each answer of a Sonar model, by their names in Options. The models
// of that name searched for every answer; the Agent API leaves it to the model unless tool_choice demands it. The first
// is what the Responses API calls the choice of a hosted tool; which of them the provider takes is in none of its
// documents, so an operator may change it.
var searchChoices = map[string]string{
	"":           `{"type":"web_search"}`,
	"web_search": `{"type":"web_search"}`,
	"required":   `"required"`,
	"auto":       "",
}
