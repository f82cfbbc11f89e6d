package histories

import "strings"

// Target is a model at a provider.
type Target struct {
	Provider, Model string
	Older           bool // Perplexity: by its older API
}

func (t Target) String() string {
	if t.Older {
		return t.Provider + "/" + t.Model + " (older API)"
	}
	return t.Provider + "/" + t.Model
}

// Targets are models of every provider, and of several kinds at each.
var Targets = []Target{
	{Provider: "openai", Model: "gpt-4.1-mini"},
	{Provider: "openai", Model: "gpt-5-mini"},
	{Provider: "gemini", Model: "gemini-3.8-flash"},
	{Provider: "gemini", Model: "gemini-3.5-flash"},
	{Provider: "gemini", Model: "gemini-4-argon"},
	{Provider: "gemini", Model: "gemini-2.5-flash"},
	{Provider: "perplexity", Model: "sonar"},
	{Provider: "perplexity", Model: "openai/gpt-6-luna"},
	{Provider: "perplexity", Model: "google/gemini-3.8-flash"},
	{Provider: "perplexity", Model: "google/gemini-4-argon"},
	{Provider: "perplexity", Model: "anthropic/claude-haiku-5.5"},
	{Provider: "perplexity", Model: "sonar", Older: true},
	{Provider: "openrouter", Model: "anthropic/claude-haiku-5.5"},
	{Provider: "openrouter", Model: "google/gemini-3.8-flash"},
	{Provider: "openrouter", Model: "google/gemini-4-argon"},
	{Provider: "openrouter", Model: "openai/gpt-4.1-mini"},
	{Provider: "openrouter", Model: "mistralai/mistral-large-4-0"},
	{Provider: "openrouter", Model: "openrouter/auto"},
}

// google is the name of the model at Google, "" if it is another vendor's.
func (t Target) google() string {
	if t.Provider == "gemini" {
		return t.Model
	}
	name, _ := strings.CutPrefix(t.Model, "google/")
	if name == t.Model {
		return ""
	}
	return name
}

// family names the models that understand each other's signatures: of one vendor and, of Google's, one generation.
func (t Target) family() string {
	if g := t.google(); g != "" {
		return g[:len("gemini-3")]
	}
	vendor, _, _ := strings.Cut(t.Model, "/")
	if t.Provider == "openai" {
		return "openai"
	}
	return vendor
}

// kin reports whether what by left for its own kind may go to t: the same provider, and the same family of models.
func (t Target) kin(by Target) bool { return t.Provider == by.Provider && t.family() == by.family() }

// demands reports whether the model wants a signature, or the placeholder for one, on calls of the turn under way.
func (t Target) demands() bool {
	return t.Provider == "gemini" && !strings.HasPrefix(t.Model, "gemini-2")
}

// speaksChat reports whether the provider is sent what the client wrote.
func (t Target) speaksChat() bool { return t.Provider == "openai" || t.Provider == "openrouter" }

// media are the kinds of pieces that a client would not get what it asks for without.
var media = map[string]bool{
	"image": true, "drawing": true, "image without TLS": true, "sound": true, "file": true, "file by its id": true, "film": true,
	"shown by a tool": true,
}

// takes reports whether the provider has a place for a kind of piece (the papers on mapping and on each provider).
func (t Target) takes(kind string) bool {
	switch kind {
	case "image", "result":
		return true
	case "drawing":
		return t.Provider != "gemini"
	case "image without TLS":
		return t.Provider != "perplexity" || t.Older
	case "sound", "file":
		return t.Provider != "perplexity"
	case "film":
		return t.Provider == "gemini" || t.Provider == "openrouter" || t.Older
	case "shown by a tool":
		return t.Provider != "openai" && !t.Older
	case "file by its id", "file name", "cache mark":
		return t.speaksChat()
	case "call": // it has an id
		return !t.Older
	case "drawn by the model":
		return t.Provider == "gemini" || t.Provider == "openrouter"
	case "citation":
		return t.Provider == "openrouter"
	case "name", "member": // one that OpenAI knows may have gone with all of its message
		return t.Provider == "openrouter"
	}
	return false
}
