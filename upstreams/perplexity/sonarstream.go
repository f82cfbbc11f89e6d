package perplexity

import (
	"bytes"
	"encoding/json"

	"github.com/tidwall/gjson"
)

// sonarStream is how far a stream of the older API has come.
type sonarStream struct {
	chunks
	thinking thinking
	began    bool
	text     []byte // the body of a string
	finish   string

	// The newest of what comes again and again, JSON.
	results, citations, images, questions, usage string
}

// Event is Words'. In full mode each chunk has the whole message so far, and a usage that runs along; both are left out
// but for the last usage. In concise mode the steps of a search come first.
func (w *sonarWords) Event(_ string, data []byte) (list [][]byte, end bool, err error) {
	s := &w.stream
	s.reset()
	if bytes.Equal(data, endMark) {
		if s.finish == "" { // nobody has said why: it is the mark of whoever stands between
			return nil, false, cut()
		}
		w.complete()
		return s.list, true, nil
	}
	if data[0] != '{' || !json.Valid(data) {
		return nil, false, protocol("put something into its stream that is not JSON")
	}
	v := s.keep(gjson.ParseBytes(data))
	if !s.began && v.Get("choices").Exists() { // else it is no piece of an answer, but an error
		s.began = true
		s.describe(v.Get("id").Raw, v.Get("created").Raw, v.Get("model").Raw)
		s.role()
	}
	choice := v.Get("choices.0")
	for _, step := range elements(choice.Get("delta.reasoning_steps")) {
		if thought := body(step.Get("thought").Raw); thought != "" {
			s.tell("reasoning_content", "", thought+paragraph)
		}
	}
	s.say(choice.Get("delta.content"))
	if reason := choice.Get("finish_reason"); reason.Type == gjson.String {
		s.finish = reason.Str
	}
	if v.Get("object").Str == "chat.completion.done" {
		w.complete()
		return s.list, true, nil
	}
	return s.list, false, nil
}

var endMark = []byte("[DONE]")

// End is Words'.
func (w *sonarWords) End() ([][]byte, error) { return nil, cut() }

// Used is Words'. The tokens run along, but what they cost comes with the end.
func (w *sonarWords) Used() [][]byte {
	s := &w.stream
	s.reset()
	if s.began {
		s.took(appendSonarTokens(nil, gjson.Parse(s.usage), gjson.Result{}))
		s.usage = ""
	}
	return s.list
}

// keep remembers the newest of what comes again and again, and returns the chunk.
func (s *sonarStream) keep(chunk gjson.Result) gjson.Result {
	for key, v := range members(chunk) {
		if !given(v) {
			continue
		}
		switch key.Str {
		case "search_results":
			s.results = v.Raw
		case "citations":
			s.citations = v.Raw
		case "images":
			s.images = v.Raw
		case "related_questions":
			s.questions = v.Raw
		case "usage":
			s.usage = v.Raw
		}
	}
	return chunk
}

// say adds a piece of the answer.
func (s *sonarStream) say(delta gjson.Result) {
	text := body(delta.Raw)
	if text == "" {
		return
	}
	if !s.thinking.saying() {
		thought, content := s.thinking.add(delta.Str)
		s.tellBoth(thought, content)
		return
	}
	s.text = append(s.text, text...)
	s.tell("content", "", text)
}

func (s *sonarStream) tellBoth(thought, content string) {
	if thought != "" {
		s.tell("reasoning_content", "", body(string(quoted(nil, thought))))
	}
	if content != "" {
		text := body(string(quoted(nil, content)))
		s.text = append(s.text, text...)
		s.tell("content", "", text)
	}
}

// complete says what is left at the end.
func (w *sonarWords) complete() {
	s := &w.stream
	if !s.began {
		return
	}
	s.tellBoth(s.thinking.end())
	sources := sonarSources(gjson.Parse(s.results), gjson.Parse(s.citations))
	w.missed(sources)
	more := raw(nil, "citations", s.citations)
	if s.citations == "" { // in concise mode
		more = appendLegacy(nil, sources)
	} else {
		more = raw(more, "search_results", s.results)
	}
	more = raw(more, "images", s.images)
	more = raw(more, "related_questions", s.questions)
	finish := s.finish
	if finish == "" {
		finish = "stop"
	}
	s.last(appendAnnotations(nil, plain(s.text), sources), more, finish, appendSonarUsage(nil, gjson.Parse(s.usage)))
}
