package openai

import (
	"maps"
	"slices"
)

// extra reports whether a member of an answer, or of one of its tool calls, is one that providers give, this gateway passes
// on, and OpenAI does not know: it refuses a message that holds it. Some clients send answers back as they came.
func extra(place, name string) bool {
	switch name {
	case "reasoning", "reasoning_content", "reasoning_details", "images":
		return place == ""
	case "extra_content":
		return place == "" || place == inCalls
	}
	return false
}

// inCalls is the place of what is in a message's tool calls.
const inCalls = "tool_calls."

// Shed adds to e what takes extras out of the assistant messages that e leaves alone, where their provider does not take
// them: at is the message's index, name is "reasoning_content" or "tool_calls.extra_content". Every other byte stays as it
// is. A message in which nothing is left for a model is dropped. lost names the members that said anything.
func (c *ChatRequest) Shed(e *Edits, takes func(at int, name string, v []byte) bool) (lost []string) {
	if !c.HasExtras {
		return nil
	}
	gone := c.dropped(e.Drop)
	drop := slices.Clip(e.Drop)
	instead := map[int][]byte{}
	for at := range c.Messages {
		m := &c.Messages[at]
		if _, changed := e.Instead[at]; changed || m.Role != "assistant" || gone[at] {
			continue
		}
		s := shedding{takes: func(name string, v []byte) bool { return takes(at, name, v) }, lost: lost}
		s.object(&scanner{b: m.Raw}, "")
		lost = s.lost
		switch {
		case len(s.edits) == 0:
		case !s.says:
			drop = append(drop, at)
		default:
			instead[at] = splice(m.Raw, s.edits)
		}
	}
	if len(instead) > 0 {
		maps.Copy(instead, e.Instead)
		e.Instead = instead
	}
	e.Drop = drop
	return lost
}

// shedding goes through one message.
type shedding struct {
	takes func(name string, v []byte) bool
	edits []edit
	lost  []string
	says  bool // something is left for a model
}

// object takes extras out of the message, or of a call of it, that the scanner stands before.
func (s *shedding) object(in *scanner, place string) {
	var items []Span
	var gone []bool
	in.enter()
	for n := 0; ; n++ {
		key, b, ok := in.key(n)
		if !ok {
			break
		}
		name, from := string(b), in.i
		if place == "" && name == "tool_calls" && in.peek() == '[' {
			s.calls(in)
		} else {
			in.value()
		}
		v := in.b[from:in.i]
		out := extra(place, name) && !s.takes(place+name, v)
		items, gone = append(items, Span{key[0], in.i}), append(gone, out)
		switch {
		case !speaks(v):
		case out && !slices.Contains(s.lost, place+name):
			s.lost = append(s.lost, place+name)
		case !out && place == "" && name != "role" && name != "name" && name != "annotations":
			s.says = s.says || !silent(v)
		}
	}
	s.edits = removeItems(s.edits, len(items), func(i int) (Span, bool) { return items[i], gone[i] })
}

func (s *shedding) calls(in *scanner) {
	in.enter()
	for n := 0; in.element(n); n++ {
		if in.peek() == '{' {
			s.object(in, inCalls)
		} else {
			in.value()
		}
	}
}
