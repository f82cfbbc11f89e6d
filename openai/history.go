package openai

import (
	"bytes"
	"slices"
)

// Kinship says who gave an answer, or took a client's message, as seen from the model that it goes to.
type Kinship uint8

// The kinships there are.
const (
	Own      Kinship = iota // that model, or another of its family: nothing is taken from it
	Relative                // a model of the same provider, whose signatures and thoughts it does not understand
	Foreign                 // another provider's, or nobody knows whose
)

// Told is a stored message that goes upstream again.
type Told struct {
	Raw  []byte // valid JSON
	Role string
	Kin  Kinship
	Cut  bool // an answer that did not come to its end
}

// History returns messages as they go upstream again, with the messages of a request after them, and says in warnings
// ("dropped=messages.annotations;reason=other_model") what of them is not told, or is told in another way. parts are the
// kinds of parts that a content may have, by the role of its message, where the provider refuses others, and members it
// does not know; nil where it does not.
//
// Of an answer that is not the model's own goes only what the model can take: its text, refusal and calls of tools, and
// what it drew and cites, where parts is nil. Names of tools that only some providers take are written so that all do, if
// it is Foreign. Sound, whose id means nothing to others, becomes its transcript. An answer that then says nothing is left
// out.
//
// Providers refuse calls without results, and results without calls. Of an answer that was cut, calls without a result are
// left out: they may be half of what was meant, and nobody has run them. Those of whole answers get a result that says
// so. Results that answer no call are left out.
func History(told []Told, next []Message, parts map[string][]string) (out [][]byte, warnings []string) {
	h := history{out: make([][]byte, 0, len(told)), parts: parts}
	for i := range told {
		switch m := &told[i]; m.Role {
		case "assistant":
			h.answer(m, told[i+1:], next)
		case "tool":
			h.result(m, memberText(m.Raw, "tool_call_id"))
		case "function":
			h.result(m, functionID(memberText(m.Raw, "name")))
		default:
			h.open = nil
			if raw := h.input(m); raw != nil {
				h.out = append(h.out, raw)
			}
		}
	}
	return h.out, h.warnings
}

// WithoutThoughts returns an answer without what only the family of models that gave it understands: its thoughts and
// their signatures. Warnings are those of History.
func WithoutThoughts(message []byte) (clean []byte, warnings []string) {
	a := answer{history: &history{}, kin: Relative, why: otherModel}
	walk(message, func(m Member) {
		switch v := m.Value.of(message); string(m.Name) {
		case "tool_calls":
			each(v, func(_ int, call []byte) { a.results = append(a.results, memberText(call, "id")) })
		case "function_call":
			a.results = append(a.results, functionID(memberText(v, "name")))
		}
	})
	return rebuild(message, a.member), a.warnings
}

type history struct {
	parts    map[string][]string
	out      [][]byte
	warnings []string
	open     []string // calls of the answer told last that wait for their results
	renamed  map[string][]byte
}

// Why something is not told as it was.
const (
	otherModel  = "other_model" // it is of no use to this one
	incomplete  = "incomplete"  // the answer was cut
	unsupported = "unsupported" // the provider would refuse it
)

// maxWarnings bounds a header.
const maxWarnings = 24

func (h *history) warn(what, why string) {
	if w := what + ";reason=" + why; !slices.Contains(h.warnings, w) && len(h.warnings) < maxWarnings {
		h.warnings = append(h.warnings, w)
	}
}

// lose notes that a member of what is at a place is not told, if it says anything.
func (h *history) lose(place, name string, v []byte, why string) {
	if !speaks(v) {
		return
	}
	if toolName(name) != name { // it goes into a header
		name = "other"
	}
	h.warn("dropped="+place+"."+name, why)
}

// speaks reports whether a value holds anything.
func speaks(v []byte) bool {
	switch string(v) {
	case "", "null", `""`, "[]", "{}":
		return false
	}
	return true
}

// toolName is a name as every provider takes it, the same one for the same one: OpenAI's set of characters, in which a dot
// and a colon, which Gemini has, become a low line.
func toolName(name string) string {
	const limit = 64
	clean := []byte(name[:min(len(name), limit)])
	for i, c := range clean {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			clean[i] = '_'
		}
	}
	return string(clean)
}

func memberText(object []byte, name string) string {
	m, _ := find(object, name)
	return text(m.Value.of(object))
}

// functionID stands for the id that calls of older clients do not have.
func functionID(name string) string { return "function " + name }

// results are the calls that messages which follow an answer have the results of.
func results(told []Told, next []Message) (ids []string) {
	add := func(role string, raw []byte) bool {
		switch role {
		case "tool":
			ids = append(ids, memberText(raw, "tool_call_id"))
		case "function":
			ids = append(ids, functionID(memberText(raw, "name")))
		default:
			return false
		}
		return true
	}
	for i := range told {
		if !add(told[i].Role, told[i].Raw) {
			return ids
		}
	}
	for i := range next {
		if r := next[i].Role; r != "system" && r != "developer" && !add(r, next[i].Raw) { // those go before the history
			return ids
		}
	}
	return ids
}

// result tells a result if its call was told and has none yet.
func (h *history) result(m *Told, id string) {
	at := slices.Index(h.open, id)
	if at < 0 {
		h.warn("dropped=messages."+m.Role, "no_call")
		return
	}
	h.open = slices.Delete(h.open, at, at+1)
	raw := h.input(m)
	if name, ok := h.renamed[id]; ok {
		raw = rebuild(raw, func(member string, v []byte) ([]byte, bool) {
			if member == "name" {
				return name, true
			}
			return v, true
		})
	}
	h.out = append(h.out, raw)
}

// input is a client's message without what this provider would refuse: whoever took it before may have known more. It is
// nil where nothing is left of a user's.
func (h *history) input(m *Told) []byte {
	if m.Kin != Foreign || h.parts == nil {
		return m.Raw
	}
	left := true
	raw := rebuild(m.Raw, func(name string, v []byte) ([]byte, bool) {
		switch name {
		case "content":
			if isArray(v) {
				if v = h.content(m.Role, v); string(v) == "[]" {
					left = m.Role != "user"
					v = []byte(`""`)
				}
			}
			return v, true
		case "role", "name", "tool_call_id":
			return v, true
		}
		h.lose("messages", name, v, unsupported)
		return v, false
	})
	if !left {
		h.lose("messages", "name", []byte(memberText(raw, "name")), unsupported)
		return nil
	}
	return raw
}

// content is a list of parts without those that the provider would refuse.
func (h *history) content(role string, list []byte) []byte {
	out, n, changed := []byte{'['}, 0, false
	each(list, func(_ int, part []byte) {
		kind := memberText(part, "type")
		if !slices.Contains(h.parts[role], kind) {
			h.lose("messages.content", kind, part, unsupported)
			changed = true
			return
		}
		out = append(comma(out, n), part...)
		n++
	})
	if !changed {
		return list
	}
	return append(out, ']')
}

// answer tells one answer, and results for those of its calls that have none.
func (h *history) answer(m *Told, told []Told, next []Message) {
	h.open, h.renamed = nil, nil
	a := answer{history: h, kin: m.Kin, why: otherModel, cut: m.Cut}
	if m.Cut {
		a.kin, a.why = max(m.Kin, Relative), incomplete // its signatures may be cut as well
	}
	a.results = results(told, next)
	raw := rebuild(m.Raw, a.member)
	if len(a.transcript) > 0 && ContentText(raw) == "" {
		h.warn("changed=messages.audio", "transcript")
		raw, a.says = withContent(raw, a.transcript), true
	}
	if !a.says {
		h.open = nil
		walk(raw, func(m Member) {
			switch name := string(m.Name); name {
			case "role", "name", "content", "refusal":
			default:
				h.lose("messages", name, m.Value.of(raw), "no_text")
			}
		})
		return
	}
	h.out = append(append(h.out, raw), a.missing...)
}

// withContent is a message with another content, or with one.
func withContent(message, content []byte) []byte {
	had := false
	out := rebuild(message, func(name string, v []byte) ([]byte, bool) {
		if name == "content" {
			had = true
			return content, true
		}
		return v, true
	})
	if had {
		return out
	}
	out = bytes.TrimRight(out, "} \t\r\n")
	return append(append(bytes.Clone(out), `,"content":`...), append(content, '}')...)
}

// answer is one answer as it is told.
type answer struct {
	*history
	kin        Kinship
	cut        bool
	why        string
	results    []string
	says       bool     // there is anything in it for a model
	transcript []byte   // of what it said aloud, a JSON string
	missing    [][]byte // results that nobody gave
}

// member says what becomes of a member of the message.
func (a *answer) member(name string, v []byte) ([]byte, bool) {
	switch name {
	case "role", "name":
		return v, true
	case "content", "refusal":
		if a.kin == Foreign && a.parts != nil && isArray(v) {
			v = a.content("assistant", v)
		}
		a.says = a.says || speaks(v) && !silent(v)
		return v, true
	case "tool_calls":
		if isArray(v) {
			v = a.calls(v)
			a.says = a.says || speaks(v)
			return v, speaks(v)
		}
		return v, true
	case "function_call":
		return a.functionCall(v)
	case "audio":
		return a.audio(v)
	case "images":
		a.says = a.says || a.parts == nil && speaks(v)
		if a.parts == nil && a.kin != Own {
			return a.images(v), true
		}
	case "annotations":
		if a.parts == nil {
			return v, true
		}
	case "extra_content":
		a.says = a.says || a.kin == Own && speaks(v)
	}
	if a.kin != Own {
		a.lose("messages", name, v, a.why)
	}
	return v, a.kin == Own
}

// silent reports whether a content of parts has nothing but empty texts.
func silent(v []byte) bool {
	if !isArray(v) {
		return false
	}
	silent := true
	each(v, func(_ int, part []byte) {
		for _, kind := range []string{"text", "refusal"} {
			if t, ok := partText(part, kind); ok && len(t) == 0 {
				return
			}
		}
		silent = false
	})
	return silent
}

// notRun is the result of a call that has none.
const notRun = `"The tool was not run: the conversation went on without its result."`

// calls are those of a list that are told.
func (a *answer) calls(list []byte) []byte {
	out, n, changed := []byte{'['}, 0, false
	each(list, func(_ int, call []byte) {
		id := memberText(call, "id")
		answered := slices.Contains(a.results, id)
		if id == "" || !answered && a.cut {
			a.warn("dropped=messages.tool_calls", map[bool]string{true: "no_id", false: incomplete}[id == ""])
			changed = true
			return
		}
		if answered {
			a.open = append(a.open, id)
		} else {
			a.warn("added=messages.tool", "no_result")
			raw := appendString([]byte(`{"role":"tool","tool_call_id":`), id)
			a.missing = append(a.missing, append(append(raw, `,"content":`+notRun...), '}'))
		}
		clean := a.call(call)
		changed = changed || !bytes.Equal(clean, call)
		out = append(comma(out, n), clean...)
		n++
	})
	if !changed {
		return list
	}
	return append(out, ']')
}

// call keeps of a tool call what the API knows: streams leave an index in them, and Gemini its signature.
func (a *answer) call(call []byte) []byte {
	if a.kin == Own {
		return call
	}
	return rebuild(call, func(name string, v []byte) ([]byte, bool) {
		switch name {
		case "id", "type":
			return v, true
		case "function", "custom":
			return a.function(v), true
		case "index":
		default:
			a.lose("messages.tool_calls", name, v, a.why)
		}
		return v, false
	})
}

// function is the name and the arguments of a call, with the name as the provider takes it.
func (a *answer) function(v []byte) []byte {
	if a.kin != Foreign {
		return v
	}
	return rebuild(v, func(member string, v []byte) ([]byte, bool) {
		if name := text(v); member == "name" && toolName(name) != name {
			a.warn("changed=messages.tool_calls.name", a.why)
			return appendString(nil, toolName(name)), true
		}
		return v, true
	})
}

// functionCall is the call of older clients, whose result goes by its name.
func (a *answer) functionCall(v []byte) ([]byte, bool) {
	if !isObject(v) {
		return v, !isNull(v) || a.kin == Own
	}
	id := functionID(memberText(v, "name"))
	answered := slices.Contains(a.results, id)
	if !answered && a.cut {
		a.warn("dropped=messages.function_call", incomplete)
		return nil, false
	}
	a.says = true
	clean := a.function(v)
	name, _ := find(clean, "name")
	if answered {
		a.open = append(a.open, id)
		a.renamed = map[string][]byte{id: name.Value.of(clean)}
		return clean, true
	}
	a.warn("added=messages.function", "no_result")
	called := name.Value.of(clean)
	if len(called) == 0 { // a call of nothing
		called = []byte(`""`)
	}
	raw := append([]byte(`{"role":"function","name":`), called...)
	a.missing = append(a.missing, append(append(raw, `,"content":`+notRun...), '}'))
	return clean, true
}

// audio keeps the id, which is all that the API wants, for those who know it.
func (a *answer) audio(v []byte) ([]byte, bool) {
	switch {
	case isNull(v):
		return v, a.kin == Own
	case a.kin == Own:
		a.says = true
		return rebuild(v, func(name string, v []byte) ([]byte, bool) { return v, name == "id" }), true
	}
	if t, _ := find(v, "transcript"); speaks(t.Value.of(v)) {
		a.transcript = bytes.Clone(t.Value.of(v))
	} else {
		a.lose("messages", "audio", v, a.why)
	}
	return nil, false
}

// images are what another model drew, without what only that one understands.
func (a *answer) images(list []byte) []byte {
	out, n := []byte{'['}, 0
	each(list, func(_ int, image []byte) {
		out = append(comma(out, n), rebuild(image, func(name string, v []byte) ([]byte, bool) {
			keep := name == "type" || name == "image_url"
			if !keep {
				a.lose("messages.images", name, v, a.why)
			}
			return v, keep
		})...)
		n++
	})
	return append(out, ']')
}

// rebuild copies an object, keeping the members f keeps with the values it gives them. It is the object itself if that
// changes nothing. A refusal of null stays only in an object that is not copied.
func rebuild(object []byte, f func(name string, v []byte) ([]byte, bool)) []byte {
	var room [16][2][]byte // the key and the value of each
	kept, changed := room[:0], false
	walk(object, func(m Member) {
		old := m.Value.of(object)
		v, keep := f(string(m.Name), old)
		changed = changed || !keep || !bytes.Equal(v, old)
		if keep && !(string(m.Name) == "refusal" && isNull(v)) {
			kept = append(kept, [2][]byte{m.Key.of(object), v})
		}
	})
	if !changed {
		return object
	}
	out := []byte{'{'}
	for n, m := range kept {
		out = append(append(append(comma(out, n), m[0]...), ':'), m[1]...)
	}
	return append(out, '}')
}
