package perplexity

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// input writes the messages as items of the Agent API, but those of system and developer, which are instructions
// wherever they stand.
func (a *agent) input() error {
	a.out = append(member(a.out, "input"), '[')
	empty := len(a.out)
	for i := range a.messages {
		m := &a.messages[i]
		var err error
		switch m.role {
		case "system", "developer":
			a.instructions = m.instruct(a.instructions)
		case "assistant":
			a.recalls = true
			err = a.assistant(i, m)
			a.recalls = false
		case "tool", "function":
			err = a.result(i, m)
		default:
			err = a.ask(i, m)
		}
		if err != nil {
			return err
		}
	}
	if err := a.open.Closed(); err != nil {
		return err
	}
	if len(a.out) == empty { // a conversation of instructions alone: the model is to act on them
		text := a.instructions
		if len(text) == 0 {
			text = []byte{' '} // it takes no empty texts
		}
		a.out = append(a.out, `{"type":"message","role":"user"`...)
		a.out = append(str(a.out, "content", text), '}')
		a.instructions = nil
	}
	a.out = append(a.out, ']')
	if len(a.instructions) > 0 {
		a.out = str(a.out, "instructions", a.instructions)
	}
	return nil
}

// instruct adds a message of system or developer to the instructions, the body of a string.
func (m *message) instruct(to []byte) []byte {
	to = joined(to, body(m.content), paragraph)
	for _, part := range elements(gjson.Parse(m.content)) {
		to = joined(to, body(part.Get("text").Raw), paragraph)
	}
	return to
}

// paragraph keeps texts apart that were written apart, in the body of a string.
const paragraph = `\n\n`

// joined appends the body of a string to another, with a separator between them.
func joined(to []byte, body, separator string) []byte {
	if body == "" {
		return to
	}
	if len(to) > 0 {
		to = append(to, separator...)
	}
	return append(to, body...)
}

// ask writes a message of the user. One that says nothing is left out.
func (a *agent) ask(i int, m *message) error {
	if err := a.open.Closed(); err != nil {
		return err
	}
	from := len(a.out)
	a.out = append(comma(a.out), `{"type":"message","role":"user"`...)
	a.out = member(a.out, "content")
	some, err := a.content(i, m)
	if err != nil {
		return err
	}
	if !some {
		a.out = a.out[:from]
		return nil
	}
	a.out = append(a.out, '}')
	return nil
}

// content writes a content: a string as it is, parts as the Agent API names them. some says that there is anything in it.
func (a *agent) content(i int, m *message) (some bool, err error) {
	if !isArray(m.content) {
		text := m.content
		if !isString(text) {
			text = `""`
		}
		a.out = append(a.out, text...)
		return text != `""`, nil
	}
	a.out = append(a.out, '[')
	from := len(a.out)
	for n, part := range elements(gjson.Parse(m.content)) {
		if err := a.part(place(i, ".content["+strconv.Itoa(n)+"]"), a.past(i), part); err != nil {
			return false, err
		}
	}
	some = len(a.out) > from
	if !some {
		a.out = append(a.out[:from-1], `""`...)
		return false, a.emptied(i, m)
	}
	a.out = append(a.out, ']')
	return true, nil
}

// emptied is the error of what is said now and lost its last part; nil if it was empty from the start, or is history.
func (c *chat) emptied(i int, m *message) error {
	for _, part := range elements(gjson.Parse(m.content)) {
		if kind := part.Get("type").Str; !c.past(i) && !slices.Contains(textual, kind) {
			return refused(place(i, ".content"), "perplexity can be told nothing of what message %d says", i)
		}
	}
	return nil
}

// textual are the parts that are told whatever is in them.
var textual = []string{"text", "input_text", "output_text"}

// part writes one part of a content.
func (a *agent) part(where string, past bool, part gjson.Result) error {
	kind := part.Get("type").Str
	switch kind {
	case "text", "input_text", "output_text":
		a.lose(part, "type", "text")
		if text := part.Get("text").Raw; isString(text) && says(text) {
			a.out = append(comma(a.out), `{"type":"input_text"`...)
			a.out = append(raw(a.out, "text", text), '}')
		}
		return nil
	case "image_url":
		if url := imageURL(part); sendable(url.Str) {
			a.lose(part.Get("image_url"), "url")
			a.out = append(comma(a.out), `{"type":"input_image"`...)
			a.out = append(raw(a.out, "image_url", url.Raw), '}')
			return nil
		}
		if !past {
			return a.cannot(where, "perplexity takes images by https or data URLs only")
		}
	default:
		if !past {
			return a.cannot(where, "perplexity takes no content of type %q", clean(kind))
		}
	}
	a.dropped("messages.content."+kind, unsupported)
	return nil
}

// imageURL is the address of an image, which some write without the object around it.
func imageURL(part gjson.Result) gjson.Result {
	if url := part.Get("image_url.url"); url.Exists() {
		return url
	}
	return part.Get("image_url")
}

func sendable(url string) bool {
	return strings.HasPrefix(url, "https://") || strings.HasPrefix(url, "data:image/")
}

// lose notes the members of an object that are not among those that are kept.
func (c *chat) lose(object gjson.Result, kept ...string) {
	for key, v := range members(object) {
		if !slices.Contains(kept, key.Str) && given(v) && says(v.Raw) {
			c.dropped("messages.content."+key.Str, unsupported)
		}
	}
}

// assistant writes what the model said, and what it called.
func (a *agent) assistant(i int, m *message) error {
	if err := a.open.Closed(); err != nil {
		return err
	}
	if text := a.spoken(m); len(text) > 0 {
		a.out = append(comma(a.out), `{"type":"message","role":"assistant"`...)
		a.out = append(str(a.out, "content", text), '}')
	}
	details := gjson.Parse(m.details)
	for n, call := range elements(gjson.Parse(m.calls)) {
		id, signature := upstreams.CallSignature(call, details, n == 0)
		if err := a.open.Called(i, id); err != nil {
			return err
		}
		if signature == "" && n == 0 && i > a.current && a.google != "" && upstreams.GoogleDemands(a.google) {
			signature = a.signatures.Of(call)
		}
		a.called(call, id, signature)
	}
	if !isObject(m.call) {
		return nil
	}
	a.made = "call_" + strconv.Itoa(i)
	f := gjson.Parse(m.call)
	a.callItem(a.made, f.Get("name").Raw, arguments(f.Get("arguments")), "")
	return a.open.Called(i, a.made)
}

// spoken is the text of an answer, the body of a string. A refusal is what the model said, too.
func (c *chat) spoken(m *message) (text []byte) {
	if isString(m.content) {
		text = append(text, body(m.content)...)
	}
	for _, part := range elements(gjson.Parse(m.content)) {
		switch kind := part.Get("type").Str; kind {
		case "text", "refusal":
			c.lose(part, "type", kind)
			text = joined(text, body(part.Get(kind).Raw), `\n`)
		default:
			c.dropped("messages.content."+kind, unsupported)
		}
	}
	return joined(text, body(m.refusal), `\n`)
}

// called writes one tool call. A custom tool's becomes a function's whose one argument is its input. signature is JSON.
func (a *agent) called(call gjson.Result, id, signature string) {
	f := call.Get("function")
	args := arguments(f.Get("arguments"))
	if custom := call.Get("custom"); custom.IsObject() {
		f = custom
		args = string(quoted(nil, `{"input":`+orEmpty(custom.Get("input").Raw)+`}`))
	}
	if extra := call.Get("extra_content"); given(extra) && (a.google == "" || signature == "") {
		a.dropped("messages.tool_calls.extra_content", unsupported)
	}
	if a.google == "" {
		signature = ""
	}
	a.callItem(id, f.Get("name").Raw, args, signature)
}

// callItem writes a call. Of an id that was there before, as some models count their calls anew in each turn, it makes
// another: here each is to be one call's.
func (a *agent) callItem(id, name, args, signature string) {
	own := id
	for n := 2; a.taken[own]; n++ {
		own = id + "_" + strconv.Itoa(n)
	}
	a.ids[id], a.taken[own] = own, true
	a.out = append(comma(a.out), `{"type":"function_call"`...)
	a.out = quoted(member(a.out, "call_id"), own)
	a.out = raw(a.out, "name", orEmpty(name))
	a.out = raw(a.out, "arguments", args)
	a.out = append(raw(a.out, "thought_signature", signature), '}')
}

// orEmpty is a JSON string, the empty one for what is none.
func orEmpty(value string) string {
	if !isString(value) {
		return `""`
	}
	return value
}

// arguments are JSON within a string; some write the JSON itself, and none at all are an empty object.
func arguments(v gjson.Result) string {
	switch {
	case v.Type == gjson.String && v.Str != "":
		return v.Raw
	case v.IsObject():
		return string(quoted(nil, v.Raw))
	}
	return `"{}"`
}

// result writes what a tool answered.
func (a *agent) result(i int, m *message) error {
	id := gjson.Parse(m.callID).Str
	if m.role == "function" {
		id = a.made
	}
	if err := a.open.Answered(i, id); err != nil {
		return err
	}
	a.out = append(comma(a.out), `{"type":"function_call_output"`...)
	a.out = quoted(member(a.out, "call_id"), a.ids[id])
	a.out = member(a.out, "output")
	_, err := a.content(i, m)
	a.out = append(a.out, '}')
	return err
}
