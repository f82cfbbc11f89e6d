package gemini

import (
	"bytes"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// placeholder stands where a call of a function has no signature that its model understands (Google, thought
// signatures: histories of other models). Google shows it as it is, not in base64.
const placeholder = `"skip_thought_signature_validator"`

// contents writes turns. Neighbours of one role become one content, as Gemini's roles must alternate.
type contents struct {
	b     []byte
	role  string // of the content that is open; "" before the first
	parts int    // in it
	calls int    // of functions, in it
}

// part begins a part: the caller appends it.
func (c *contents) part(role string) {
	switch {
	case c.role == role:
		c.b = append(c.b, ',')
		c.parts++
		return
	case c.role == "" && role == "model": // Gemini wants the user to begin
		c.b = append(c.b, `{"role":"user","parts":[{"text":" "}]},`...)
	case c.role != "":
		c.b = append(c.b, `]},`...)
	}
	c.b = append(append(append(c.b, `{"role":"`...), role...), `","parts":[`...)
	c.role, c.parts, c.calls = role, 1, 0
}

// try writes a part; nothing where write appends nothing, which it then reports.
func (c *contents) try(role string, write func(dst []byte) []byte) (some bool) {
	before := *c
	c.part(role)
	from := len(c.b)
	if c.b = write(c.b); len(c.b) == from {
		*c = before
		return false
	}
	return true
}

// text writes a part of text, a JSON string, with a signature if there is one. Without both it writes nothing: Gemini
// refuses empty texts.
func (c *contents) text(role, text, signature string) {
	if text == `""` && signature == "" {
		return
	}
	c.part(role)
	c.b = append(append(c.b, `{"text":`...), text...)
	c.sign(signature)
	c.b = append(c.b, '}')
}

// sign writes the signature, a JSON string, of the part that is open.
func (c *contents) sign(signature string) {
	if signature != "" {
		c.b = append(append(c.b, `,"thoughtSignature":`...), signature...)
	}
}

// message is one message of a request, as far as it is looked at.
type message struct {
	role, content, name, refusal, calls, function, id, extra, details, images, failed gjson.Result

	others []string // members that say something, and have no place
}

func read(v gjson.Result) (m message) {
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "role":
			m.role = v
		case "content":
			m.content = v
		case "name":
			m.name = v
		case "refusal":
			m.refusal = v
		case "tool_calls":
			m.calls = v
		case "function_call":
			m.function = v
		case "tool_call_id":
			m.id = v
		case "extra_content":
			m.extra = v
		case "reasoning_details":
			m.details = v
		case "images":
			m.images = v
		case "is_error": // no member of the API, but the only way some clients have to say it
			m.failed = v
		default:
			if says(v) {
				m.others = append(m.others, key.Str)
			}
		}
		return true
	})
	return m
}

// says reports whether v holds anything.
func says(v gjson.Result) bool {
	switch v.Raw {
	case "", "null", `""`, "[]", "{}":
		return false
	}
	return true
}

// text is v as a JSON string; "" if it is none.
func text(v gjson.Result) string {
	if v.Type != gjson.String {
		return ""
	}
	return v.Raw
}

// each calls f with the elements of an array; what is no array has none.
func each(v gjson.Result, f func(i int, e gjson.Result) bool) {
	if !v.IsArray() {
		return
	}
	i := -1
	v.ForEach(func(_, e gjson.Result) bool {
		i++
		return f(i, e)
	})
}

// messages writes systemInstruction and contents.
func (t *translation) messages(out []byte) []byte {
	out = t.system(out)
	each(t.chat.messages, func(n int, v gjson.Result) bool {
		m := read(v)
		t.message(n, &m)
		return t.err == nil
	})
	t.recalls = false
	t.fail(t.calls.Closed())
	t.flush()
	if t.contents.role == "" {
		t.contents.text("user", `" "`, "")
	}
	out = append(out, `"contents":[`...)
	out = append(out, t.contents.b...)
	return append(out, `]}]`...)
}

// system writes what system and developer say, wherever they say it, before all else; Gemma hears it from the user. It
// also finds where the turn under way begins.
func (t *translation) system(out []byte) []byte {
	t.turn = -1
	system, row := 0, -1 // row: where the user's messages in a row begin
	w := append(out, `"systemInstruction":{"parts":[`...)
	each(t.chat.messages, func(n int, v gjson.Result) bool {
		m := read(v)
		switch m.role.Str {
		case "system", "developer":
			t.texts(n, m.content, true, func(text string) {
				if t.model.gemma {
					t.contents.text("user", text, "")
					return
				}
				if system++; system > 1 {
					w = append(w, ',')
				}
				w = append(append(append(w, `{"text":`...), text...), '}')
			})
		case "user":
			if row < 0 {
				row = n
			}
			if speaks(m.content) {
				t.turn, t.asked = n, row
			}
		default:
			row = -1
		}
		return t.err == nil
	})
	if system == 0 {
		return out
	}
	return append(w, `]},`...)
}

// speaks reports whether there is anything in a content but empty texts.
func speaks(content gjson.Result) bool {
	some := content.Type == gjson.String && content.Str != ""
	each(content, func(_ int, part gjson.Result) bool {
		some = part.Get("type").Str != "text" || part.Get("text").Str != ""
		return !some
	})
	return some
}

// past reports whether message n is history. What cannot be carried of it is left out: the conversation goes on,
// whichever provider it began at. What is asked now is refused instead.
func (t *translation) past(n int) bool { return n < t.turn }

func (t *translation) message(n int, m *message) {
	switch role := m.role.Str; role {
	case "tool", "function":
	case "system", "developer": // they stand elsewhere
	default:
		t.fail(t.calls.Closed())
		t.flush()
	}
	t.recalls = m.role.Str == "assistant"
	for _, name := range m.others {
		t.dropped("messages."+name, "unsupported")
	}
	if role := m.role.Str; m.name.Type == gjson.String && role != "tool" && role != "function" {
		t.dropped("messages.name", "unsupported")
	}
	switch m.role.Str {
	case "user":
		t.user(n, m.content)
	case "assistant":
		t.assistant(n, m)
	case "tool":
		t.result(n, m)
	case "function":
		t.fail(t.calls.Answered(n, functionID(m.name)))
		t.respond(n, m, "", t.named(m.name))
	}
}

// functionID stands for the id that calls of older clients do not have.
func functionID(name gjson.Result) string { return "function " + name.Str }

// lose notes the members of a part that are not among those that are kept.
func (t *translation) lose(part gjson.Result, kept ...string) {
	if !part.IsObject() {
		return
	}
	part.ForEach(func(key, v gjson.Result) bool {
		if !slices.Contains(kept, key.Str) && says(v) {
			t.dropped("messages.content."+key.Str, "unsupported")
		}
		return true
	})
}

// texts calls f with each text of content that is nothing but text, as JSON strings; empty ones left out.
func (t *translation) texts(n int, content gjson.Result, system bool, f func(text string)) {
	if content.Type == gjson.String {
		if content.Str != "" {
			f(content.Raw)
		}
		return
	}
	each(content, func(_ int, part gjson.Result) bool {
		kind := "text"
		if part.Get("type").Str == "refusal" {
			kind = "refusal"
		}
		text := part.Get(kind)
		switch {
		case text.Type != gjson.String && t.past(n) && !system:
			t.dropped("messages.content."+part.Get("type").Str, "unsupported")
		case text.Type != gjson.String:
			t.unsupported(place(n, ".content"), "the content of message %d can hold text only", n)
		case text.Str != "":
			t.lose(part, "type", kind)
			f(text.Raw)
		}
		return t.err == nil
	})
}

// assistant writes a turn of the model: parts of the server's tools, text, images, calls. Thoughts do not go back.
func (t *translation) assistant(n int, m *message) {
	c := &t.contents
	signature := t.signature(m)
	if !t.model.demands() && says(m.extra.Get("google.tool_parts")) {
		t.dropped("messages.extra_content", "model")
	} else {
		each(m.extra.Get("google.tool_parts"), func(_ int, part gjson.Result) bool {
			if isToolPart(part) {
				c.part("model")
				c.b = append(c.b, part.Raw...)
			}
			return true
		})
	}
	last := "" // the text that comes last is the one that is signed
	keep := func(text string) {
		if last != "" {
			c.text("model", last, "")
		}
		last = text
	}
	t.texts(n, m.content, false, keep)
	if m.refusal.Type == gjson.String && m.refusal.Str != "" {
		keep(m.refusal.Raw)
	}
	if last != "" {
		c.text("model", last, signature)
	}
	each(m.images, func(_ int, image gjson.Result) bool {
		t.ownImage(n, image)
		return t.err == nil
	})
	each(m.calls, func(i int, call gjson.Result) bool {
		t.call(n, i, m, call)
		return t.err == nil
	})
	if m.function.IsObject() {
		t.fail(t.calls.Called(n, functionID(m.function.Get("name"))))
		t.functionCall(n, "", m.function.Get("name"), m.function.Get("arguments"), "", gjson.Result{})
	}
	t.loseDetails(m)
	if last == "" {
		c.text("model", `""`, signature)
	}
}

func isToolPart(part gjson.Result) bool {
	for _, name := range []string{"toolCall", "toolResponse", "executableCode", "codeExecutionResult"} {
		if part.Get(name).IsObject() {
			return true
		}
	}
	return false
}

// signature is that of the message itself, a JSON string; "" if it has none.
func (t *translation) signature(m *message) string {
	if t.model.gemma {
		return ""
	}
	if s := upstreams.Signature(m.extra.Get("google.thought_signature")); s != "" || m.calls.IsArray() {
		return s
	}
	return upstreams.DetailSignature(m.details, func(string) bool { return true })
}

// loseDetails notes what of reasoning_details is no signature of Gemini's.
func (t *translation) loseDetails(m *message) {
	if m.details.IsArray() && !upstreams.OnlySignatures(m.details) {
		t.dropped("messages.reasoning_details", "unsupported")
	}
}

// call writes call i of message n.
func (t *translation) call(n, i int, m *message, call gjson.Result) {
	id, signature := upstreams.CallSignature(call, m.details, i == 0)
	f, input := call.Get("function"), gjson.Result{}
	if custom := call.Get("custom"); custom.IsObject() {
		f, input = custom, custom.Get("input")
	}
	if f.Get("name").Type != gjson.String {
		t.invalid("invalid_type", place(n, ".tool_calls"), "a tool call of message %d has no name", n)
		return
	}
	if input.Exists() {
		input = gjson.Result{Type: gjson.JSON, Raw: `{"input":` + input.Raw + `}`}
	} else {
		input = f.Get("arguments")
	}
	t.fail(t.calls.Called(n, id))
	t.functionCall(n, id, f.Get("name"), input, signature, call)
	if t.names == nil {
		t.names = map[string]string{}
	}
	t.names[id] = t.named(f.Get("name"))
}

// named is the name of a function, as JSON, in the form that Gemini takes: one may not begin with a digit or a hyphen
// there. The answer's calls get their own name back.
func (t *translation) named(name gjson.Result) string {
	if name.Type != gjson.String || name.Str == "" || name.Str[0] != '-' && (name.Str[0] < '0' || name.Str[0] > '9') {
		return text(name)
	}
	if t.renamed == nil {
		t.renamed = map[string]string{}
	}
	t.renamed["_"+name.Str] = name.Raw
	return `"_` + name.Raw[1:]
}

// functionCall writes a call. In the turn under way the first of each step must be signed. call is what the client sent,
// if it has an id.
func (t *translation) functionCall(n int, id string, name, arguments gjson.Result, signature string, call gjson.Result) {
	c := &t.contents
	c.part("model")
	c.calls++
	w := object{b: append(c.b, `{"functionCall":{`...)}
	if id != "" {
		w.key("id")
		w.b = gjson.AppendJSONString(w.b, id)
	}
	w.raw("name", t.named(name))
	w.key("args")
	w.b = t.args(w.b, arguments)
	c.b = append(w.b, '}')
	switch {
	case t.model.gemma:
		signature = ""
	case signature == "" && c.calls == 1 && n > t.turn && t.model.demands():
		if signature = t.signatures.Of(call); signature == "" {
			signature = placeholder
		}
	}
	c.sign(signature)
	c.b = append(c.b, '}')
}

// args appends the arguments of a call as an object, which Gemini wants.
func (t *translation) args(dst []byte, arguments gjson.Result) []byte {
	text := arguments.Raw
	if arguments.Type == gjson.String {
		text = strings.TrimSpace(arguments.Str)
	}
	switch {
	case text == "" || text == "null":
		return append(dst, `{}`...)
	case text[0] == '{' && gjson.Valid(text):
		return append(dst, text...)
	}
	t.Warn("changed=tool_calls.arguments;reason=no_object")
	if arguments.Type == gjson.String {
		text = arguments.Raw
	}
	return append(append(append(dst, `{"_raw":`...), text...), '}')
}

// result writes what a tool answered.
func (t *translation) result(n int, m *message) {
	id, _ := upstreams.CallID(m.id.String())
	if err := t.calls.Answered(n, id); err != nil {
		t.fail(err)
		return
	}
	t.respond(n, m, id, t.names[id])
}

// respond writes a functionResponse. name is a JSON string.
func (t *translation) respond(n int, m *message, id, name string) {
	if name == "" {
		t.invalid("missing_required_parameter", place(n, ".name"), "message %d does not name its function", n)
		return
	}
	c := &t.contents
	c.part("user")
	w := object{b: append(c.b, `{"functionResponse":{`...)}
	if id != "" {
		w.key("id")
		w.b = gjson.AppendJSONString(w.b, id)
	}
	w.raw("name", name)
	w.key("response")
	text, media := t.answer(n, m.content)
	w.b = append(w.b, response(text, m.failed.Type == gjson.True)...)
	if len(media) > 0 {
		if t.model.old || t.model.gemma {
			t.late = append(append(t.late, ','), media...)
		} else {
			w.key("parts")
			w.b = append(append(append(w.b, '['), media...), ']')
		}
	}
	c.b = append(w.b, `}}`...)
}

// answer takes apart the content of a tool's message: its text, and its media as parts.
func (t *translation) answer(n int, content gjson.Result) (text string, media []byte) {
	if !content.IsArray() {
		return content.String(), nil
	}
	var texts []string
	each(content, func(i int, part gjson.Result) bool {
		if part.Get("type").Str == "text" {
			t.lose(part, "type", "text")
			texts = append(texts, part.Get("text").String())
			return true
		}
		before := len(media)
		if before > 0 {
			media = append(media, ',')
		}
		from := len(media)
		if media = t.mediaPart(media, n, i, part, false); t.leaveOut(n, part.Get("type").Str) || len(media) == from {
			media = media[:before]
		}
		return t.err == nil
	})
	return strings.Join(texts, "\n"), media
}

// response is a tool's answer as the object Gemini wants: itself if it is one, else under the key Google's documentation
// has for it.
func response(text string, failed bool) []byte {
	key := `{"output":`
	if failed {
		key = `{"error":`
	}
	trimmed := strings.TrimSpace(text)
	switch {
	case !gjson.Valid(trimmed) || failed:
		return append(gjson.AppendJSONString([]byte(key), text), '}')
	case trimmed[0] == '{':
		return []byte(trimmed)
	}
	return append(append([]byte(key), trimmed...), '}')
}

// flush writes the media that must follow the results of tools, once the last of those is there.
func (t *translation) flush() {
	if len(t.late) > 0 {
		t.contents.part("user")
		t.contents.b = append(t.contents.b, bytes.TrimPrefix(t.late, []byte{','})...)
		t.late = nil
	}
}

// user writes a turn of the user. What is asked now must not be lost to the last part.
func (t *translation) user(n int, content gjson.Result) {
	if !content.IsArray() {
		if content.Type == gjson.String {
			t.contents.text("user", content.Raw, "")
		}
		return
	}
	before, lost := len(t.contents.b), false
	each(content, func(i int, part gjson.Result) bool {
		if part.Get("type").Str == "text" && part.Get("text").Type == gjson.String {
			t.lose(part, "type", "text")
			t.contents.text("user", part.Get("text").Raw, "")
			return true
		}
		some := t.contents.try("user", func(dst []byte) []byte {
			b := t.mediaPart(dst, n, i, part, true)
			if t.leaveOut(n, part.Get("type").Str) {
				return dst
			}
			return b
		})
		lost = lost || !some
		return t.err == nil
	})
	if lost && n == t.turn && len(t.contents.b) == before {
		t.fail(cannot(place(n, ".content"), "gemini can be told nothing of what message %d asks", n))
	}
}

// leaveOut reports whether a part of message n, which could not be carried, is left out rather than refused: then its
// error is none, and there is a warning. The caller takes back what was written of it.
func (t *translation) leaveOut(n int, kind string) bool {
	if t.err == nil || !t.past(n) {
		return false
	}
	t.err = nil
	t.dropped("messages.content."+kind, "unsupported")
	return true
}
