package perplexity

import (
	"strconv"

	"github.com/tidwall/gjson"
)

// sonarWords is a request in the words of the older API, and what reads its answer.
type sonarWords struct {
	request  []byte
	warnings []string
	searches bool // the model is one that searches for every answer
	stream   sonarStream
}

func (w *sonarWords) Path() string       { return sonarPath }
func (w *sonarWords) Body() []byte       { return w.request }
func (w *sonarWords) Warnings() []string { return w.warnings }

// extras are the members the older API has beside a completion's.
var extras = [...]string{"citations", "search_results", "images", "related_questions"}

// Whole is Words'.
func (w *sonarWords) Whole(body []byte) ([]byte, error) {
	root := gjson.ParseBytes(body)
	choices := root.Get("choices")
	if !choices.IsArray() {
		return nil, protocol("answered with something that is no answer")
	}
	sources := sonarSources(root.Get("search_results"), root.Get("citations"))
	w.missed(sources)
	out := append(make([]byte, 0, len(body)+256), '{')
	out = raw(out, "id", orEmpty(root.Get("id").Raw))
	out = raw(out, "object", `"chat.completion"`)
	out = raw(out, "created", seconds(root.Get("created").Raw))
	out = raw(out, "model", orEmpty(root.Get("model").Raw))
	out = append(member(out, "choices"), '[')
	for _, c := range elements(choices) {
		out = append(comma(out), '{')
		for key, v := range members(c) {
			switch key.Str {
			case "delta": // empty, in whole answers
			case "message":
				out = append(appendSonarMessage(append(member(out, key.Str), '{'), v, sources), '}')
			default:
				out = append(append(append(comma(out), key.Raw...), ':'), v.Raw...)
			}
		}
		if !c.Get("logprobs").Exists() {
			out = raw(out, "logprobs", "null")
		}
		out = append(out, '}')
	}
	out = append(out, ']')
	for _, name := range extras {
		out = raw(out, name, root.Get(name).Raw)
	}
	if usage := appendSonarUsage(nil, root.Get("usage")); usage != nil {
		out = append(member(out, "usage"), usage...)
	}
	return append(out, '}'), nil
}

// missed warns of an answer that should rest on a search and does not.
func (w *sonarWords) missed(sources []source) {
	if w.searches && len(sources) == 0 {
		w.warnings = append(w.warnings, notSearchedWarning)
	}
}

// appendSonarMessage appends a message's members: its thoughts apart from what it says.
func appendSonarMessage(dst []byte, message gjson.Result, sources []source) []byte {
	var t thinking
	thought, content := t.add(message.Get("content").Str)
	more, rest := t.end()
	thought, content = thought+more, content+rest
	for key, v := range members(message) {
		if key.Str == "content" && v.Type == gjson.String {
			dst = quoted(member(dst, "content"), content)
		} else {
			dst = append(append(append(comma(dst), key.Raw...), ':'), v.Raw...)
		}
	}
	if !message.Get("refusal").Exists() {
		dst = raw(dst, "refusal", "null")
	}
	if thought != "" {
		dst = quoted(member(dst, "reasoning_content"), thought)
	}
	return list(dst, "annotations", appendAnnotations(nil, content, sources))
}

// sonarSources are what [1], [2], … stand for.
func sonarSources(results, citations gjson.Result) (s []source) {
	if s = addSources(nil, results); len(s) > 0 {
		return s
	}
	for _, url := range elements(citations) {
		if len(s) < maxSources {
			s = append(s, source{id: int64(len(s) + 1), url: orEmpty(url.Raw), title: `""`})
		}
	}
	return s
}

// appendSonarUsage appends a usage in OpenAI's form; nil if there is none.
func appendSonarUsage(dst []byte, u gjson.Result) []byte {
	return appendSonarTokens(dst, u, u.Get("cost"))
}

// appendSonarTokens appends a usage with this cost. Here the reasoning and what was read of the sources stand beside what
// was completed and what was asked, in OpenAI's form they are parts of it.
func appendSonarTokens(dst []byte, u, cost gjson.Result) []byte {
	if !u.IsObject() {
		return nil
	}
	count := func(name string) int64 { return u.Get(name).Int() }
	reasoning, cited := count("reasoning_tokens"), count("citation_tokens")
	dst = append(dst, '{')
	if reasoning == 0 && cited == 0 {
		dst = raw(dst, "prompt_tokens", u.Get("prompt_tokens").Raw)
		dst = raw(dst, "completion_tokens", u.Get("completion_tokens").Raw)
		dst = raw(dst, "total_tokens", u.Get("total_tokens").Raw)
	} else {
		prompt, completion := count("prompt_tokens")+cited, count("completion_tokens")+reasoning
		dst = strconv.AppendInt(member(dst, "prompt_tokens"), prompt, 10)
		dst = strconv.AppendInt(member(dst, "completion_tokens"), completion, 10)
		dst = strconv.AppendInt(member(dst, "total_tokens"), prompt+completion, 10)
		dst = append(strconv.AppendInt(append(member(dst, "prompt_tokens_details"), `{"tool_tokens":`...), cited, 10), '}')
		dst = append(strconv.AppendInt(append(member(dst, "completion_tokens_details"), `{"reasoning_tokens":`...), reasoning, 10), '}')
	}
	for _, name := range []string{"search_context_size", "citation_tokens", "num_search_queries"} {
		dst = raw(dst, name, u.Get(name).Raw)
	}
	return append(appendCost(dst, cost), '}')
}
