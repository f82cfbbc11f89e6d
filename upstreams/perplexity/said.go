package perplexity

import (
	"slices"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// said is what an answer of the Agent API has said so far. Texts are the bodies of JSON strings.
type said struct {
	text, thoughts, refusal []byte
	calls                   []byte   // elements of tool_calls
	ids                     []string // of those calls
	sources                 []source
	given                   []byte // elements of annotations: the provider's own
}

// output adds the items of an answer. functions are those the client offered: other calls are the provider's own
// business, search_web and fetch_url above all.
func (s *said) output(items gjson.Result, functions []string) {
	for _, item := range elements(items) {
		switch item.Get("type").Str {
		case "message":
			if len(s.text) > 0 {
				s.text = append(s.text, paragraph...)
			}
			for _, part := range elements(item.Get("content")) {
				s.part(part)
			}
		case "reasoning":
			for _, of := range []string{"summary", "content"} {
				for _, part := range elements(item.Get(of)) {
					s.thoughts = joined(s.thoughts, body(part.Get("text").Raw), paragraph)
				}
			}
		case "search_results":
			s.sources = addSources(s.sources, item.Get("results"))
		case "function_call":
			s.call(item, functions)
		}
	}
}

// part adds a part of a message, with the annotations it came with. Their offsets are those of its own text.
func (s *said) part(part gjson.Result) {
	if r := part.Get("refusal").Raw; isString(r) {
		s.refusal = append(s.refusal, body(r)...)
		return
	}
	annotations := part.Get("annotations")
	if annotations.IsArray() && len(annotations.Raw) > len("[]") {
		before := utf8.RuneCountInString(plain(s.text))
		for _, a := range elements(annotations) {
			if url := a.Get("url"); url.Type == gjson.String && a.Get("type").Str == "url_citation" {
				s.given = appendAnnotation(s.given, before+int(a.Get("start_index").Int()), before+int(a.Get("end_index").Int()),
					orEmpty(a.Get("title").Raw), url.Raw)
			}
		}
	}
	s.text = append(s.text, body(part.Get("text").Raw)...)
}

// call adds a call, if it is one of the client's functions and is not there yet, and returns it; nil if not.
func (s *said) call(item gjson.Result, functions []string) []byte {
	if !slices.Contains(functions, item.Get("name").Str) {
		return nil
	}
	id := item.Get("call_id")
	if id.Type != gjson.String {
		id = item.Get("id")
	}
	if slices.Contains(s.ids, id.Str) {
		return nil
	}
	s.calls = comma(s.calls)
	from := len(s.calls)
	s.calls = raw(append(s.calls, '{'), "id", orEmpty(id.Raw))
	s.calls = append(s.calls, `,"type":"function","function":{"name":`...)
	s.calls = append(s.calls, item.Get("name").Raw...)
	s.calls = append(raw(s.calls, "arguments", arguments(item.Get("arguments"))), '}')
	if signature := item.Get("thought_signature"); signature.Type == gjson.String {
		s.calls = append(append(append(s.calls, `,"extra_content":{"google":{"thought_signature":`...), signature.Raw...), "}}"...)
	}
	s.calls = append(s.calls, '}')
	s.ids = append(s.ids, id.Str)
	return s.calls[from:]
}

// annotations are the elements of annotations: the provider's own where it gave any, else those of the markers.
func (s *said) annotations() []byte {
	if len(s.given) > 0 || len(s.sources) == 0 {
		return s.given
	}
	return appendAnnotations(nil, plain(s.text), s.sources)
}
