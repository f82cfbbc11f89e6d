package openai

import (
	"bytes"
	"slices"

	"threadhub/internal/fault"
)

// choice is one message as it grows. Texts are the bodies of JSON strings, still escaped.
type choice struct {
	index     int
	finish    string
	content   []byte
	refusal   []byte
	reasoning []byte // OpenRouter's name for it
	thoughts  []byte // reasoning_content, as others call it

	details     []detail
	calls       []call
	function    *call
	annotations [][]byte
	images      [][]byte
	audio       *audio
	extra       []byte // extra_content, an object: what one vendor wants back (Google: signatures); the last stands
}

// call is a tool call, a custom tool call or, without id and index, a function call of older clients.
type call struct {
	index      int
	id, kind   []byte
	name, args []byte
	customized bool
	extra      []byte // as choice.extra
}

type audio struct{ id, transcript, expires []byte }

// add takes a delta, and notes in a what came with it.
func (c *choice) add(a *Accumulator, delta []byte) (wrong *fault.Error) {
	walk(delta, func(m Member) {
		v := m.Value.of(delta)
		if isNull(v) || wrong != nil {
			return
		}
		name := string(m.Name)
		a.brought = a.brought || name != "role" && name != "extra_content" && len(v) > len(`""`) // "", [] and {} bring nothing
		switch name {
		case "content":
			if isArray(v) { // some give parts here, too
				each(v, func(_ int, part []byte) {
					t, _ := find(part, "text")
					a.join(&c.content, t.Value.of(part))
				})
			}
			a.join(&c.content, v)
		case "refusal":
			a.join(&c.refusal, v)
		case "reasoning":
			a.join(&c.reasoning, v)
		case "reasoning_content":
			a.join(&c.thoughts, v)
		case "reasoning_details":
			each(v, func(_ int, d []byte) {
				if wrong == nil {
					wrong = c.addDetail(d)
				}
			})
		case "tool_calls":
			each(v, func(n int, t []byte) {
				if wrong == nil {
					wrong = c.addCall(a, n, t)
				}
			})
		case "function_call":
			if c.function == nil {
				c.function = &call{}
			}
			c.function.add(a, v)
		case "annotations":
			wrong = addItems(&c.annotations, v)
		case "images":
			wrong = addItems(&c.images, v)
			a.media = true
		case "audio":
			c.addAudio(a, v)
		case "extra_content":
			keepObject(&c.extra, v)
		}
	})
	return wrong
}

// join appends the string v, if it is one, to a text of the model.
func (a *Accumulator) join(to *[]byte, v []byte) {
	if raw := body(v); len(raw) > 0 {
		*to = append(*to, raw...)
		a.text += textLen(raw)
	}
}

// keepObject sets to to a copy of v, if that is an object.
func keepObject(to *[]byte, v []byte) {
	if isObject(v) {
		*to = append((*to)[:0], v...)
	}
}

// addItems keeps the elements of list. Some providers give the whole list so far with each chunk: what was among the
// last kept is not kept again.
func addItems(to *[][]byte, list []byte) (wrong *fault.Error) {
	const recent = 64
	each(list, func(_ int, v []byte) {
		for _, old := range (*to)[max(0, len(*to)-recent):] {
			if bytes.Equal(old, v) {
				return
			}
		}
		if len(*to) >= maxItems {
			wrong = protocol("the provider sent more than %d items of a kind", maxItems)
			return
		}
		*to = append(*to, bytes.Clone(v))
	})
	return wrong
}

// addCall adds a fragment of a tool call. Fragments belong together by index; where a provider gives none, by id, and
// without that to the last call.
func (c *choice) addCall(a *Accumulator, n int, v []byte) *fault.Error {
	if !isObject(v) {
		return protocol("the provider sent a tool call that is not an object")
	}
	var id, kind, index, inner, extra []byte
	custom := false
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "index":
			index = w
		case "id":
			id = body(w)
		case "type":
			kind = body(w)
		case "function":
			inner = w
		case "custom":
			inner, custom = w, true
		case "extra_content":
			extra = w
		}
	})
	i, ok := whole(index)
	switch {
	case ok:
	case len(index) > 0 && !isNull(index):
		i = -1
	default:
		i = c.guessIndex(n, id)
	}
	if i < 0 || i >= maxCalls {
		return protocol("the provider sent a tool call with an impossible index")
	}
	at, found := slices.BinarySearchFunc(c.calls, int(i), func(t call, i int) int { return t.index - i })
	if !found {
		c.calls = slices.Insert(c.calls, at, call{index: int(i)})
	}
	t := &c.calls[at]
	if len(t.id) == 0 {
		t.id = append(t.id, id...)
	}
	if len(t.kind) == 0 {
		t.kind = append(t.kind, kind...)
	}
	t.customized = t.customized || custom
	keepObject(&t.extra, extra)
	t.add(a, inner)
	return nil
}

func (c *choice) guessIndex(n int, id []byte) int64 {
	if len(c.calls) == 0 {
		return int64(n)
	}
	last := c.calls[len(c.calls)-1].index
	if len(id) == 0 {
		return int64(last)
	}
	for _, t := range c.calls {
		if bytes.Equal(t.id, id) {
			return int64(t.index)
		}
	}
	return int64(last + 1)
}

// add takes the name and arguments, or the input of a custom tool.
func (t *call) add(a *Accumulator, v []byte) {
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "name":
			// Pieces are joined, but a name that is given again is not a second piece.
			if name := body(w); !bytes.Equal(t.name, name) {
				a.join(&t.name, w)
			}
		case "arguments", "input":
			if isObject(w) { // some give the value instead of its text
				w = appendString(nil, string(w))
			}
			a.join(&t.args, w)
		}
	})
}

func (c *choice) addAudio(a *Accumulator, v []byte) {
	if c.audio == nil {
		c.audio = &audio{}
	}
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "id":
			c.audio.id = append(c.audio.id[:0], body(w)...)
		case "transcript":
			a.join(&c.audio.transcript, w)
		case "expires_at":
			c.audio.expires = append(c.audio.expires[:0], w...)
		case "data":
			a.media = true // not kept: megabytes, and the id is what goes back to the provider
		}
	})
}

// detail is one element of reasoning_details, which must go back to the provider as it was (OpenRouter, reasoning
// tokens): fragments are joined per type and index, and the members keep their order.
type detail struct {
	kind, index, id []byte
	members         []detailMember
}

type detailMember struct {
	name  []byte // with its quotes
	value []byte // the body of a string if text, else JSON
	text  bool
}

func (c *choice) addDetail(v []byte) *fault.Error {
	if !isObject(v) {
		return protocol("the provider sent a reasoning detail that is not an object")
	}
	var kind, index, id []byte
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "type":
			kind = w
		case "index":
			index = w
		case "id":
			if !isNull(w) {
				id = w
			}
		}
	})
	d := c.detail(kind, index, id)
	if d == nil {
		if len(c.details) >= maxItems {
			return protocol("the provider sent more than %d items of a kind", maxItems)
		}
		c.details = append(c.details, detail{kind: bytes.Clone(kind), index: bytes.Clone(index)})
		d = &c.details[len(c.details)-1]
	}
	if len(d.id) == 0 {
		d.id = bytes.Clone(id)
	}
	walk(v, func(m Member) { d.add(m.Key.of(v), string(m.Name), m.Value.of(v)) })
	return nil
}

// detail finds the element a fragment continues.
func (c *choice) detail(kind, index, id []byte) *detail {
	for i := len(c.details) - 1; i >= 0; i-- {
		d := &c.details[i]
		if bytes.Equal(d.kind, kind) && bytes.Equal(d.index, index) && (len(id) == 0 || len(d.id) == 0 || bytes.Equal(d.id, id)) {
			return d
		}
		if len(index) == 0 {
			return nil // without an index only a run of fragments is one element
		}
	}
	return nil
}

func (d *detail) add(key []byte, name string, v []byte) {
	joined := isString(v) && (name == "text" || name == "summary" || name == "data" || name == "signature")
	for i := range d.members {
		m := &d.members[i]
		if !bytes.Equal(m.name, key) {
			continue
		}
		switch {
		case joined && m.text:
			m.value = append(m.value, body(v)...)
		case isNull(m.value) && !m.text:
			m.set(v, joined)
		}
		return
	}
	d.members = append(d.members, detailMember{name: bytes.Clone(key)})
	d.members[len(d.members)-1].set(v, joined)
}

func (m *detailMember) set(v []byte, text bool) {
	if m.text = text; text {
		v = body(v)
	}
	m.value = bytes.Clone(v)
}
