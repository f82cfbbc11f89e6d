package simulator

import (
	"net/url"
	"strings"

	"github.com/tidwall/gjson"
)

// Refusal is what a provider says to a request that it does not take.
type Refusal struct {
	Status  int
	Message string
	Param   string // the member at fault, where the provider names it
}

// Check reads a request for a model's answer as the provider would, without a socket: path is where it is sent below the
// provider's base, with its query. It returns nil for what would be answered. Scripts are not looked at.
func Check(provider, path string, body []byte) *Refusal {
	f := check(provider, path, body)
	if f == nil {
		return nil
	}
	return &Refusal{f.status, f.message, f.param}
}

func check(provider, path string, body []byte) *failure {
	path, _, _ = strings.Cut(path, "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return &failure{status: 404, message: "Not Found"}
	}
	path = "/" + strings.TrimPrefix(path, "/")
	switch {
	case provider == "openai" && openAI{}.asks(path):
		q, f := openAIRules.parse(body)
		if f == nil {
			f = openAI{}.suits(body, q)
		}
		return f
	case provider == "openrouter" && openRouter{}.asks(path):
		q, f := openRouterRules.parse(body)
		if f == nil {
			_, f = openRouter{}.suits(body, q)
		}
		return f
	case provider == "gemini" && gemini{}.asks(path):
		model, method, _ := geminiPath(path)
		q, f := readGemini(body, "GenerateContentRequest")
		if f == nil {
			f = gemini{}.suits(body, q, model, method)
		}
		return f
	case provider == "perplexity" && perplexity{}.agent(path):
		q, f := readAgent(body)
		if f == nil {
			f = q.pick(gjson.ParseBytes(body))
		}
		return f
	case provider == "perplexity" && perplexity{}.sonar(path):
		q, f := readSonar(body)
		if f == nil {
			_, f = q.suits()
		}
		return f
	}
	return &failure{status: 404, message: "Not Found"}
}

// Signature is what a model of Gemini, here or behind another provider, signs a call of a tool with, and, where name is
// empty, a text: for conversations that were not had.
func Signature(model, name, args string) string {
	if name == "" {
		return sign(model, signedText)
	}
	return sign(model, signedCall(name, args))
}
