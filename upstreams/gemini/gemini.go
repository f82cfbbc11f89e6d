// Package gemini is the upstream of Google's Gemini by its own API, generateContent and batchEmbedContents of the Developer
// API. It puts requests in the OpenAI dialect into Gemini's words, and Gemini's answers into that dialect.
//
// Both directions are pure functions on bytes. What Gemini has no word for is left out with a warning where the answer
// stays right without it, and refused where the client would get something else than it asked for. What only Gemini
// knows of an answer (signatures of thoughts, parts of the server's own tools) goes to the client in
// extra_content.google, where Google's own compatible endpoint puts it, and is read from there when it comes back, or
// from where other gateways have clients keep it. Signatures that do not come back are asked for in Request.Signatures.
// A client that sets extra_body.google.grounding_metadata to true finds Gemini's groundingMetadata there too.
package gemini

import (
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// New returns the upstream. It connects to nothing yet; Close it when the last call has ended.
func New(o upstreams.Options) (*upstreams.Client, error) {
	d := dialect{now: time.Now, fresh: fresh}
	return upstreams.NewClient(upstreams.Dialect{
		Provider:   "gemini",
		BaseURL:    "https://generativelanguage.googleapis.com/v1beta",
		Answer:     []string{"X-Gemini-Service-Tier", "Retry-After"}, // it names its answers inside them
		Translate:  d.translate,
		Embeddings: translateEmbeddings,
		Family:     Family,
		Requests:   Requests,
		Check:      upstreams.KeyCheck{Path: models, Models: models, Member: "models"},
		List:       upstreams.List{Paths: []string{models}, Member: "models", Next: "nextPageToken", Read: listed},
		Authorize:  func(h http.Header, key string) { h["X-Goog-Api-Key"] = []string{key} },
	}, o)
}

// models is the list, as much of it as fits a page.
const models = "models?pageSize=1000"

// listed is what the list tells of a model. What is false Gemini leaves out.
func listed(entry gjson.Result) (upstreams.Model, bool) {
	m := upstreams.Model{
		ID:        strings.TrimPrefix(entry.Get("name").Str, "models/"),
		Window:    upstreams.Count(entry.Get("inputTokenLimit")),
		MaxOutput: upstreams.Count(entry.Get("outputTokenLimit")),
	}
	var chat, embeddings bool
	each(entry.Get("supportedGenerationMethods"), func(_ int, method gjson.Result) bool {
		chat = chat || method.Str == "generateContent"
		embeddings = embeddings || method.Str == "embedContent"
		return true
	})
	m.Chat, m.Embeddings = &chat, &embeddings
	if chat {
		m.Reasoning = new(entry.Get("thinking").Bool())
	}
	if embeddings {
		m.MaxOutput = 0 // the list has a 1 there
	}
	return m, chat || embeddings
}

// dialect is what of a translation is not in the bytes.
type dialect struct {
	now   func() time.Time
	fresh func() string // a new name for what Gemini left without one: 24 letters and digits
}

func (d dialect) translate(r *upstreams.Request) (upstreams.Words, error) {
	t := translation{model: traitsOf(r.Model), Losses: upstreams.Losses{Policy: r.Unsupported}, signatures: r.Signatures, files: r.Files}
	t.signatures.Unknown = nil
	body, err := t.request(r.Body)
	r.Signatures, r.Links = t.signatures, t.links
	if err != nil {
		return nil, err
	}
	method := "generateContent"
	if r.Stream {
		method = "streamGenerateContent?alt=sse"
	}
	return &words{
		path:      address(r.Model, method),
		body:      body,
		warnings:  t.Warnings,
		model:     r.Model,
		renamed:   t.renamed,
		logprobs:  t.logprobs,
		grounding: t.grounding,
		single:    t.chat.parallel.Type == gjson.False,
		dialect:   d,
		long:      long{limit: t.limit},
	}, nil
}

func fresh() string { return rand.Text()[:24] }
