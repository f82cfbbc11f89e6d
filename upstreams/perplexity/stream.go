package perplexity

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// agentStream is how far a stream of the Agent API has come.
type agentStream struct {
	said
	chunks
	id, created string // JSON
	described   bool   // the chunks know of what answer they are
	began       bool   // the first chunk is out
	message     string // what is being said, and
	summary     string // thought: the item, and the part of it
}

// Event is Words'. Events of the provider's own that tell a client nothing pass in silence.
func (w *agentWords) Event(name string, data []byte) (chunks [][]byte, end bool, err error) {
	s := &w.stream
	s.reset()
	if data[0] != '{' || !json.Valid(data) {
		return nil, false, protocol("put something into its stream that is not JSON")
	}
	if t := gjson.GetBytes(data, "type"); t.Type == gjson.String {
		name = t.Str
	}
	switch name {
	case "response.created", "response.in_progress", "response.queued":
		r := parseResponse(gjson.GetBytes(data, "response"))
		s.id, s.created = r.id, r.created
	case "response.output_text.delta":
		w.say("content", &s.text, &s.message, data)
	case "response.refusal.delta":
		w.say("refusal", &s.refusal, &s.message, data)
	case "response.reasoning_text.delta", "response.reasoning_summary_text.delta":
		w.say("reasoning_content", &s.thoughts, &s.summary, data)
	case "response.output_item.done":
		w.done(gjson.GetBytes(data, "item"))
	case "response.completed", "response.incomplete":
		end, err = true, w.complete(parseResponse(gjson.GetBytes(data, "response")))
	case "response.failed", "response.cancelled":
		r := parseResponse(gjson.GetBytes(data, "response"))
		if said := gjson.GetBytes(data, "error"); given(said) { // beside the response, or without one
			r.failure = said
		}
		err = w.fail(r)
	case "error":
		err = upstreams.Complaint(bytes.Clone(data))
	default:
		w.think(gjson.GetBytes(data, "thought").Raw)
	}
	return s.list, end && err == nil, err
}

// End is Words'. Bytes that end before the end of the answer are an answer that was cut.
func (w *agentWords) End() ([][]byte, error) { return nil, cut() }

// Used is Words'. What an answer took comes with its end.
func (w *agentWords) Used() [][]byte { return nil }

func cut() error {
	return fault.New(fault.Upstream, "perplexity ended its stream before the answer was complete").WithCode("upstream_truncated")
}

// begin says the first chunk, once. It waits for something to say: until then the provider may still fail, and another be
// asked.
func (w *agentWords) begin() {
	s := &w.stream
	if s.began {
		return
	}
	s.began = true
	w.introduce()
	s.role()
}

// introduce describes the answer. The model that answers is known only at the end; until then it is the one that was
// asked, as a preset's own name would mean nothing to a client.
func (w *agentWords) introduce() {
	if s := &w.stream; !s.described {
		s.described = true
		s.describe(s.id, s.created, string(quoted(nil, w.model)))
	}
}

// say adds the delta of an event to a text. Texts of several items, and several summaries of one, are kept apart: at is
// the place of the last.
func (w *agentWords) say(name string, to *[]byte, at *string, data []byte) {
	s := &w.stream
	text := body(gjson.GetBytes(data, "delta").Raw)
	if text == "" {
		return
	}
	w.begin()
	gap := ""
	if place := gjson.GetBytes(data, "item_id").Str + gjson.GetBytes(data, "summary_index").Raw; place != *at {
		if len(*to) > 0 {
			gap = paragraph
		}
		*at = place
	}
	*to = append(append(*to, gap...), text...)
	s.tell(name, gap, text)
}

// think says what the provider tells of its search while it does it.
func (w *agentWords) think(thought string) {
	s := &w.stream
	text := body(thought)
	if text == "" {
		return
	}
	w.begin()
	gap := ""
	if len(s.thoughts) > 0 {
		gap = paragraph
	}
	s.thoughts = append(append(s.thoughts, gap...), text...)
	s.tell("reasoning_content", gap, text)
}

// done takes an item that is complete: results, and calls of the client's functions, which come whole.
func (w *agentWords) done(item gjson.Result) {
	s := &w.stream
	switch item.Get("type").Str {
	case "search_results":
		s.sources = addSources(s.sources, item.Get("results"))
	case "function_call":
		if element := s.call(item, w.functions); element != nil {
			w.begin()
			s.toolCall(strconv.Itoa(len(s.ids)-1), element)
		}
	}
}

// complete says what is left once the whole answer is there: what no event said before, where it is from, why it ended
// and what it took.
func (w *agentWords) complete(r response) error {
	if err := r.failed(); err != nil {
		return w.fail(r)
	}
	s := &w.stream
	w.begin()
	s.describe(r.id, r.created, r.model)
	var all said
	all.output(r.output, w.functions)
	w.rest("content", &s.text, all.text)
	w.rest("refusal", &s.refusal, all.refusal)
	if bytes.Equal(s.text, all.text) {
		s.given = all.given
	}
	for _, item := range elements(r.output) {
		w.done(item)
	}
	finish, err := r.finish(&s.said)
	if err != nil {
		return err
	}
	w.missed(&s.said)
	s.last(s.annotations(), appendLegacy(nil, s.sources), finish, appendUsage(nil, r.usage))
	return nil
}

// rest says what of a text has not been said.
func (w *agentWords) rest(name string, to *[]byte, all []byte) {
	if rest, ok := bytes.CutPrefix(all, *to); ok && len(rest) > 0 {
		*to = append(*to, rest...)
		w.stream.tell(name, "", string(rest))
	}
}

// fail is the end of an answer that failed. What it took is said first.
func (w *agentWords) fail(r response) error {
	if usage := appendUsage(nil, r.usage); usage != nil {
		w.introduce()
		w.stream.took(usage)
	}
	if err := r.failed(); err != nil {
		return err
	}
	return upstreams.Complaint("{}")
}
