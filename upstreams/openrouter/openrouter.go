// Package openrouter is the upstream of OpenRouter, which speaks OpenAI's dialect. Bytes pass through as they are, unless
// the operator wants what is OpenRouter's own way changed into what clients of OpenAI expect; all that stands here is how
// this provider differs.
package openrouter

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// New returns the upstream. It connects to nothing yet; Close it when the last call has ended.
func New(o upstreams.Options) (*upstreams.Client, error) {
	d := upstreams.Dialect{
		Provider:  "openrouter",
		BaseURL:   "https://openrouter.ai/api/v1",
		Forward:   []string{"Http-Referer", "X-Title", "X-Openrouter-Title", "X-Openrouter-Categories", "X-Session-Id"},
		Answer:    []string{"X-Request-Id", "X-Generation-Id", "X-Ratelimit-*", "Retry-After", "Retry-After-Ms"},
		IDs:       []string{"X-Generation-Id", "X-Request-Id"},
		Check:     upstreams.KeyCheck{Path: "key", Models: "models", Unfit: unfit}, // anybody gets the list
		List:      upstreams.List{Paths: []string{"models", "embeddings/models"}, Read: listed},
		Family:    family,
		Takes:     takes,
		Introduce: func(h http.Header) { introduce(h, o.Referer, o.Title) },
	}
	if o.Adapt {
		d.Ask, d.Said = requireParameters, repeatReasoning
	}
	return upstreams.NewClient(d, o)
}

// introduce says which app asks, where the client does not say it.
func introduce(h http.Header, referer, title string) {
	if referer != "" && h.Get("Http-Referer") == "" {
		h["Http-Referer"] = []string{referer}
	}
	if title != "" && h.Get("X-Openrouter-Title") == "" && h.Get("X-Title") == "" { // the older name still works
		h["X-Openrouter-Title"] = []string{title}
	}
}

// listed is what the list tells of a model.
func listed(entry gjson.Result) (upstreams.Model, bool) {
	m := upstreams.Model{
		ID:        entry.Get("id").Str,
		Created:   upstreams.Count(entry.Get("created")),
		Shutdown:  upstreams.Date(entry.Get("expiration_date")),
		Window:    upstreams.Count(entry.Get("context_length")),
		MaxOutput: upstreams.Count(entry.Get("top_provider.max_completion_tokens")),
		Input:     upstreams.Kinds(entry.Get("architecture.input_modalities")),
		Output:    upstreams.Kinds(entry.Get("architecture.output_modalities")),
	}
	if len(m.Output) > 0 {
		m.Chat, m.Embeddings = new(slices.Contains(m.Output, "text")), new(slices.Contains(m.Output, "embeddings"))
	}
	if parameters := entry.Get("supported_parameters"); parameters.IsArray() {
		m.Tools, m.Reasoning = new(holds(parameters, "tools")), new(holds(parameters, "reasoning"))
	}
	return m, true
}

func holds(list gjson.Result, word string) bool {
	return slices.ContainsFunc(list.Array(), func(v gjson.Result) bool { return v.Str == word })
}

// family names the models that understand each other's reasoning_details, which vendors sign: those of one vendor and, of
// Google's, of one generation. Whom openrouter/auto asks is not known before: it is one by itself.
func family(model string) string {
	vendor, name, _ := strings.Cut(strings.TrimPrefix(model, "~"), "/")
	if vendor == "google" {
		return vendor + "/" + upstreams.GoogleFamily(name)
	}
	return vendor
}

// forms are what is in the names of the forms in which vendors seal thoughts, by the vendor's name in those of its models.
var forms = map[string]string{"anthropic": "anthropic", "google": "google", "openai": "openai", "x-ai": "xai"}

// takes knows of a vendor that it refuses what another one has sealed: reasoning_details then go as a whole, as they may
// not be changed. Of other vendors nothing is known, nor of what does not say its form.
func takes(model, name string, value []byte) bool {
	vendor, _, _ := strings.Cut(family(model), "/")
	form := forms[vendor]
	if name != "reasoning_details" || form == "" {
		return true
	}
	for _, d := range gjson.ParseBytes(value).Array() {
		sealed := d.Get("signature").Str != "" || d.Get("data").Str != ""
		if by := d.Get("format").Str; sealed && by != "" && !strings.Contains(by, form) {
			return false
		}
	}
	return true
}

// unfit finds the keys that manage the account and its other keys.
func unfit(data json.RawMessage) string {
	var key struct {
		Management   bool `json:"is_management_key"`
		Provisioning bool `json:"is_provisioning_key"` // as it was called before
	}
	if json.Unmarshal(data, &key) == nil && (key.Management || key.Provisioning) {
		return "is for managing the account: no model can be asked with it"
	}
	return ""
}
