// Package openai is the upstream of OpenAI itself. Bytes pass through as they are; all that stands here is how this
// provider differs from others that speak its dialect.
package openai

import "threadhub/upstreams"

// New returns the upstream. It connects to nothing yet; Close it when the last call has ended.
func New(o upstreams.Options) (*upstreams.Client, error) {
	return upstreams.NewClient(upstreams.Dialect{
		Provider: "openai",
		BaseURL:  "https://api.openai.com/v1",
		Forward:  []string{"Openai-Beta"}, // not organisation and project: they choose who pays
		Answer:   []string{"X-Request-Id", "Openai-Processing-Ms", "X-Ratelimit-*", "Retry-After", "Retry-After-Ms"},
		IDs:      []string{"X-Request-Id"},
		Check:    upstreams.KeyCheck{Path: "models", Models: "models", Narrow: true}, // a restricted key may be kept from the list
		List:     upstreams.List{Paths: []string{"models"}},
		Parts: map[string][]string{
			"system": {"text"}, "developer": {"text"}, "user": {"text", "image_url", "input_audio", "file"},
			"assistant": {"text", "refusal"}, "tool": {"text"}, "function": {"text"},
		},
	}, o)
}
