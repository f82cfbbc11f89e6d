package openrouter

import (
	"bytes"
	"strconv"

	"github.com/tidwall/gjson"
)

// requireParameters is body with provider.require_parameters set to true, if the request has tools, a schema or logprobs
// and does not say otherwise: what its model does not know, OpenRouter leaves out without a word.
func requireParameters(body []byte) []byte {
	const member = `"require_parameters":true`
	if !needsParameters(body) {
		return body
	}
	routing := gjson.GetBytes(body, "provider")
	switch {
	case !routing.Exists():
		at := bytes.IndexByte(body, '{') + 1
		return splice(body, at, at, `"provider":{`+member+`},`) // a request has members
	case routing.Type == gjson.Null:
		return splice(body, routing.Index, routing.Index+len(routing.Raw), `{`+member+`}`)
	case !routing.IsObject() || routing.Get("require_parameters").Exists():
		return body
	}
	at, comma := routing.Index+1, ""
	routing.ForEach(func(_, _ gjson.Result) bool {
		comma = ","
		return false
	})
	return splice(body, at, at, member+comma)
}

func needsParameters(body []byte) bool {
	for _, list := range []string{"tools", "functions"} {
		if gjson.GetBytes(body, list+".#").Int() > 0 {
			return true
		}
	}
	return gjson.GetBytes(body, "response_format.type").Str == "json_schema" || gjson.GetBytes(body, "logprobs").Type == gjson.True
}

// maxChoices is as many as the API gives.
const maxChoices = 128

// repeatReasoning is an answer, whole or a chunk, with each choice's reasoning also under the name that most others have for
// it.
func repeatReasoning(answer []byte) []byte {
	if !bytes.Contains(answer, []byte(`"reasoning"`)) {
		return answer
	}
	for i := range min(int(gjson.GetBytes(answer, "choices.#").Int()), maxChoices) {
		for _, holder := range []string{"delta", "message"} {
			at := "choices." + strconv.Itoa(i) + "." + holder + "."
			thought := gjson.GetBytes(answer, at+"reasoning")
			if thought.Type != gjson.String || thought.Str == "" || gjson.GetBytes(answer, at+"reasoning_content").Exists() {
				continue
			}
			end := thought.Index + len(thought.Raw)
			answer = splice(answer, end, end, `,"reasoning_content":`+thought.Raw)
		}
	}
	return answer
}

// splice is b with text instead of b[from:to], in new memory.
func splice(b []byte, from, to int, text string) []byte {
	out := make([]byte, 0, len(b)-(to-from)+len(text))
	out = append(append(out, b[:from]...), text...)
	return append(out, b[to:]...)
}
