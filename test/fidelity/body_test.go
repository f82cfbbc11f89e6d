package fidelity

import (
	"fmt"
	"strings"

	"pgregory.net/rapid"
)

// A body is a chat request as a client wrote it, in pieces, so that what must come out of it can be said piece by piece.
type body struct {
	lead, first string   // white space before the brace and after it
	items       []member // in the order they stand
	seps        []string // between them: a comma and white space
	last, trail string   // white space before the closing brace and after it
}

// member is one member of an object, as written.
type member struct {
	name  string // what the key says
	key   string // as written, with quotes
	colon string // and white space
	value string
}

func (m member) text() string { return m.key + m.colon + m.value }

func (b *body) text() string {
	out := b.lead + "{" + b.first
	for i, m := range b.items {
		if i > 0 {
			out += b.seps[i-1]
		}
		out += m.text()
	}
	return out + b.last + "}" + b.trail
}

// find returns the member of a name; nil if there is none.
func (b *body) find(name string) *member {
	for i := range b.items {
		if b.items[i].name == name {
			return &b.items[i]
		}
	}
	return nil
}

// without removes a member with the comma that is its own: the one after it, or, of the last one, the one before it.
func (b *body) without(name string) *body {
	out := *b
	out.items, out.seps = nil, nil
	for i, m := range b.items {
		if m.name == name {
			continue
		}
		out.items = append(out.items, m)
		if i < len(b.seps) {
			out.seps = append(out.seps, b.seps[i])
		}
	}
	if n := len(out.items); len(out.seps) >= n && n > 0 {
		out.seps = out.seps[:n-1]
	}
	return &out
}

// with replaces the value of a member.
func (b *body) with(name, value string) *body {
	out := *b
	out.items = append([]member(nil), b.items...)
	if m := out.find(name); m != nil {
		m.value = value
	}
	return &out
}

func pick(t *rapid.T, list ...string) string { return rapid.SampledFrom(list).Draw(t, "pick") }

// chance is true in percent of all cases, and never in the simplest one.
func chance(t *rapid.T, percent int) bool {
	return rapid.IntRange(0, 99).Draw(t, "chance") >= 100-percent
}

func space(t *rapid.T) string { return pick(t, "", "", "", " ", "\n", "\r\n  ", "\t", " \n\t ") }

// fragments are pieces of JSON strings that some programs along the way would write another way, or lose.
var fragments = []string{
	"plain words", " ", `\n`, `\t`, `\"`, `\\`, `\/`, "/", `\b\f\r`, `\u0000`, `\u0001`, `\u001f`, "\u007f", `\u0041`, `\u003c\u003E`,
	"<b>&amp;</b>", `\u00e9`, "é", "e\u0301", "\u2028", "\u2029", `\u2028`, "\ufeff", "\ufffd", `\ufffd`, "\U0010ffff", "\ufdd0",
	"👩‍👧‍👦", "🏳️‍🌈", `\ud83d\ude00`, `\uD83D\uDE00`, "😀", `\ud800`, `\udc00`, `\udc00\ud83d`, `\ud83d\n`, "שלום", "\u202e", "日本語", "data: [DONE]",
}

// str is a JSON string as written.
func str(t *rapid.T) string {
	n := rapid.IntRange(0, 6).Draw(t, "fragments")
	out := `"`
	for range n {
		out += pick(t, fragments...)
	}
	return out + `"`
}

// number is one that is not the same after a float64, or not written the same.
func number(t *rapid.T) string {
	return pick(t, "0", "-0", "-0.0", "1", "1.0", "1.10", "12345678901234567890", "-98765432109876543210", "9007199254740993", "1e400", "-1E-400",
		"1E+2", "0.1e-7", "3.141592653589793238462643383279502884", "123456789012345678901234567890.000000000001")
}

// twins hold members that only their escapes tell apart, and values that do not survive a decoder.
var twins = []string{
	`{"a":1,"\u0061":2,"a":3}`, `{"":null,"\u0000":0}`, `["\ud83d","\ude00","\ud83d\ude00","😀"]`, `[1e2,100,1.0e+2,-0,0e0,-0.0]`,
	`12345678901234567890123456789.10`, `"\/ \/ \u002f"`, `[ [ ], { } ]`,
}

// value is any JSON value, with members in no order and white space anywhere.
func value(t *rapid.T, depth int) string {
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth <= 0 {
		kind %= 5
	}
	switch kind {
	case 0, 1:
		return str(t)
	case 2, 3:
		return number(t)
	case 4:
		return pick(t, append([]string{"true", "false", "null"}, twins...)...)
	case 5:
		n := rapid.IntRange(0, 3).Draw(t, "elements")
		var list []string
		for range n {
			list = append(list, space(t)+value(t, depth-1)+space(t))
		}
		return "[" + strings.Join(list, ",") + "]"
	default:
		n := rapid.IntRange(0, 3).Draw(t, "members")
		var list []string
		for i := range n {
			list = append(list, space(t)+key(t, fmt.Sprint(pick(t, "z", "a", "thread_id", "model", "ключ", "", " "), i))+space(t)+":"+space(t)+value(t, depth-1))
		}
		return "{" + strings.Join(list, ",") + space(t) + "}"
	}
}

// key writes a name of plain letters, sometimes with an escape in it that any reader must undo.
func key(t *rapid.T, name string) string {
	if name != "" && name[0] > ' ' && name[0] < 0x7f && chance(t, 5) {
		return fmt.Sprintf(`"\u%04x%s"`, name[0], name[1:])
	}
	return `"` + name + `"`
}

// object writes members in an order of their own.
func object(t *rapid.T, members map[string]string, order []string) string {
	order = rapid.Permutation(order).Draw(t, "order")
	out := "{" + space(t)
	for i, name := range order {
		if i > 0 {
			out += "," + space(t)
		}
		out += key(t, name) + space(t) + ":" + space(t) + members[name]
	}
	return out + space(t) + "}"
}

// message is one that the provider takes. mark makes it different from all others.
func message(t *rapid.T, role, mark string, strict bool) string {
	text := `"` + mark + " " + str(t)[1:]
	content := text
	if chance(t, 30) {
		content = "[" + space(t) + object(t, map[string]string{"type": `"text"`, "text": text}, []string{"type", "text"}) + space(t)
		if role == "user" && chance(t, 30) {
			content += `, {"image_url": {"url" :"data:image/png;base64,iVBORw0KGgo="},"type":"image_url"}`
		}
		content += "]"
	}
	members := map[string]string{"role": `"` + role + `"`, "content": content}
	order := []string{"role", "content"}
	if chance(t, 20) {
		members["name"], order = `"b\u006fb"`, append(order, "name")
	}
	if !strict && chance(t, 30) { // OpenAI refuses what it does not know
		members["x_extra"], order = value(t, 2), append(order, "x_extra")
	}
	return object(t, members, order)
}

// toolTurn is a call and its result, as a client resends them.
func toolTurn(t *rapid.T) []string {
	return []string{
		`{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{ \"b\" : 1e2,\"a\":` +
			`12345678901234567890 }"}}]}`,
		object(t, map[string]string{"role": `"tool"`, "tool_call_id": `"call_1"`, "content": `"result ` + str(t)[1:]}, []string{"role", "tool_call_id", "content"}),
	}
}

// target is a model as clients may name it, and what the provider must be asked for.
type target struct {
	provider string
	written  string // with quotes
	sent     string // "": the name as written
}

var targets = []target{
	{"openai", `"openai/sim-1"`, `"sim-1"`},
	{"openai", `"openai\/sim-1"`, `"sim-1"`},
	{"openai", `"\u006fpenai/gpt-4.1"`, `"gpt-4.1"`},
	{"openai", `"gpt-4.1-mini"`, ""},
	{"openai", `"gpt-4.1\u002dmini"`, ""},
	{"openrouter", `"openrouter/sim-1"`, `"sim-1"`},
	{"openrouter", `"openrouter/anthropic/claude-haiku-5.5"`, `"anthropic/claude-haiku-5.5"`},
	{"openrouter", `"openrouter\/auto"`, ""},
}

// known are members both providers take, with ways to write them.
var known = map[string]func(t *rapid.T) string{
	"temperature":       func(t *rapid.T) string { return pick(t, "0.70", "1E0", "7e-1", "1.000", "0", "-0") },
	"top_p":             func(t *rapid.T) string { return pick(t, "0.9", "9E-1", "1.0") },
	"presence_penalty":  func(t *rapid.T) string { return pick(t, "-0.50", "1", "null") },
	"seed":              func(t *rapid.T) string { return pick(t, "1234567890123456789", "-0", "7", "70e-1") },
	"max_tokens":        func(t *rapid.T) string { return pick(t, "640", "6.4e2", "640.0", "null") },
	"n":                 func(t *rapid.T) string { return pick(t, "1", "1.0", "2", "null") },
	"stop":              func(t *rapid.T) string { return "[" + space(t) + str(t) + "," + str(t) + "]" },
	"user":              str,
	"prompt_cache_key":  str,
	"safety_identifier": str,
	"logit_bias":        func(t *rapid.T) string { return value(t, 2) },
	"prediction":        func(t *rapid.T) string { return value(t, 3) },
	"web_search_options": func(t *rapid.T) string {
		return value(t, 3)
	},
}

var knownNames = []string{
	"temperature", "top_p", "presence_penalty", "seed", "max_tokens", "n", "stop", "user", "prompt_cache_key", "safety_identifier",
	"logit_bias", "prediction", "web_search_options",
}

// request is a body with what the test must know of it.
type request struct {
	body
	target
	stream   bool
	options  string // of the stream, as written; "" if absent
	asked    bool   // the client wants the usage chunk
	messages []string
}

// newRequest writes a request for messages. more are members the caller needs in it.
func newRequest(t *rapid.T, to target, messages []string, more ...member) *request {
	r := &request{target: to, messages: messages, stream: chance(t, 50)}
	items := append([]member{{name: "model", value: to.written}, {name: "messages", value: list(t, messages)}}, more...)
	add := func(name, value string) { items = append(items, member{name: name, value: value}) }
	if r.stream {
		add("stream", "true")
		r.options = pick(t, "", "", "null", "{}", "{ \n}", `{"include_usage":true}`, `{ "include_usage" : true }`, `{"include_usage":false}`,
			`{"include_usage" :null}`, `{"include_obfuscation":false}`, `{"include_obfuscation": false, "include_usage": true}`)
		r.asked = strings.Contains(r.options, "true")
		if to.provider == "openai" && strings.Contains(r.options, ":null") {
			r.options = "" // the gateway writes true over it, but what is asserted is that nobody else sees null
		}
		if r.options != "" {
			add("stream_options", r.options)
		}
	} else if chance(t, 20) {
		add("stream", pick(t, "false", "null"))
	}
	for _, name := range knownNames {
		if chance(t, 20) {
			add(name, known[name](t))
		}
	}
	if !has(items, "metadata") && chance(t, 30) {
		add("metadata", pick(t, "{}", "null", `{"a" : "b"}`, `{"thread":"x","z":`+str(t)+`}`))
	}
	if to.provider == "openrouter" {
		for i := range rapid.IntRange(0, 4).Draw(t, "unknown") {
			add(fmt.Sprint(pick(t, "x", "Transforms", "ключ", "a b", "x_thread_id", "модель", "😀"), i), value(t, 4))
		}
	}
	r.items = rapid.Permutation(items).Draw(t, "members")
	for i := range r.items {
		m := &r.items[i]
		m.key, m.colon = key(t, m.name), space(t)+":"+space(t)
		if i > 0 {
			r.seps = append(r.seps, space(t)+","+space(t))
		}
	}
	r.lead, r.first, r.last, r.trail = space(t), space(t), space(t), space(t)
	return r
}

func has(items []member, name string) bool {
	for _, m := range items {
		if m.name == name {
			return true
		}
	}
	return false
}

// list writes messages as an array.
func list(t *rapid.T, messages []string) string {
	out := "[" + space(t)
	for i, m := range messages {
		if i > 0 {
			out += space(t) + "," + space(t)
		}
		out += m
	}
	return out + space(t) + "]"
}
