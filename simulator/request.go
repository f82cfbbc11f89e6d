package simulator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// chatRequest is what the simulator understands of a request to a model.
type chatRequest struct {
	model        string
	stream       bool
	includeUsage bool
	obfuscate    bool
	n            int
	maxTokens    int // 0: none
	messages     int
	user         string   // the last user message's text, parts joined with newlines
	results      []string // tool results at the end of the conversation
	size         int      // bytes of what the prompt's tokens are counted on
	tools        []tool
	toolChoice   string // "none", "auto", "required", or "=NAME"
	parallel     bool
	format       string // "", "text", "json_object", "json_schema"
	schema       gjson.Result
	effort       string
	reasoning    bool // to be told
	logprobs     bool
	marks        string // put at the end of the text: citations
}

// tool is one thing the model may call.
type tool struct {
	name   string
	custom bool
	schema gjson.Result // of the parameters
}

// rules are where the providers of the family differ in what they refuse.
type rules struct {
	known  map[string]bool // top-level members; nil: any
	strict bool            // OpenAI's checks of values and message members
	parts  map[string]bool // content parts any role may have, beside its own
}

// bad is a 400 in OpenAI's words.
func bad(param, code, format string, args ...any) *failure {
	return &failure{status: 400, message: fmt.Sprintf(format, args...), param: param, code: code}
}

var openAIMembers = set("model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "frequency_penalty",
	"presence_penalty", "stop", "n", "seed", "logprobs", "top_logprobs", "logit_bias", "reasoning_effort", "verbosity",
	"response_format", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "stream", "stream_options",
	"modalities", "audio", "prediction", "web_search_options", "service_tier", "store", "metadata", "prompt_cache_key",
	"prompt_cache_options", "prompt_cache_retention", "safety_identifier", "user", "moderation")

var partTypes = map[string]map[string]bool{
	"user":      set("text", "image_url", "input_audio", "file"),
	"assistant": set("text", "refusal"),
	"system":    set("text"), "developer": set("text"), "tool": set("text"), "function": set("text"),
}

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// parse reads and checks a chat request.
func (r rules) parse(body []byte) (*chatRequest, *failure) {
	if !utf8.Valid(body) || !gjson.ValidBytes(body) {
		return nil, bad("", "", "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "+
			"library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)")
	}
	root := gjson.ParseBytes(body)
	if !root.IsObject() {
		return nil, bad("", "", "Invalid type for request body: expected an object.")
	}
	q := &chatRequest{n: 1, obfuscate: true, parallel: true}
	m := make(map[string]gjson.Result, 16)
	var unknown []string
	root.ForEach(func(k, v gjson.Result) bool {
		name := k.String()
		if r.known != nil && !r.known[name] {
			unknown = append(unknown, name)
		}
		m[name] = v
		return true
	})
	if len(unknown) > 0 {
		plural := ""
		if len(unknown) > 1 {
			plural = "s"
		}
		return nil, bad("", "", "Unrecognized request argument%s supplied: %s", plural, strings.Join(unknown, ", "))
	}
	for _, check := range []func(map[string]gjson.Result, *chatRequest) *failure{r.basics, r.tools, r.output, r.conversation} {
		if f := check(m, q); f != nil {
			return nil, f
		}
	}
	return q, nil
}

// basics checks the model, the stream and the numbers.
func (r rules) basics(m map[string]gjson.Result, q *chatRequest) *failure {
	model := m["model"]
	if !model.Exists() && !r.strict {
		model = m["models"].Get("0")
	}
	if !model.Exists() || model.Type == gjson.String && model.Str == "" {
		return bad("", "", "you must provide a model parameter")
	}
	if model.Type != gjson.String {
		return wrongType("model", "a string", model)
	}
	q.model = model.Str
	for _, name := range []string{"stream", "store", "logprobs", "parallel_tool_calls"} {
		if v := m[name]; v.Exists() && !v.IsBool() && v.Type != gjson.Null {
			return wrongType(name, "a boolean", v)
		}
	}
	q.stream, q.logprobs = m["stream"].Bool(), m["logprobs"].Bool()
	if v := m["stream_options"]; v.Exists() && v.Type != gjson.Null {
		if !v.IsObject() {
			return wrongType("stream_options", "an object", v)
		}
		if r.strict {
			if !q.stream {
				return bad("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
			}
			for name, o := range v.Map() {
				if name != "include_usage" && name != "include_obfuscation" {
					return bad("stream_options."+name, "unknown_parameter", "Unknown parameter: 'stream_options.%s'.", name)
				}
				if !o.IsBool() {
					return wrongType("stream_options."+name, "a boolean", o)
				}
			}
		}
		q.includeUsage = v.Get("include_usage").Bool()
		if o := v.Get("include_obfuscation"); o.Exists() {
			q.obfuscate = o.Bool()
		}
	}
	for _, l := range limits {
		v := m[l.name]
		if !v.Exists() || v.Type == gjson.Null {
			continue
		}
		if v.Type != gjson.Number {
			return wrongType(l.name, l.expected(), v)
		}
		if l.whole && v.Num != float64(int64(v.Num)) {
			return wrongType(l.name, l.expected(), v)
		}
		if v.Num < l.min {
			return bad(l.name, l.below(), "Invalid '%s': %s below minimum value. Expected a value >= %v, but got %s instead.", l.name, l.noun(), l.min, v.Raw)
		}
		if v.Num > l.max {
			return bad(l.name, l.above(), "Invalid '%s': %s above maximum value. Expected a value <= %v, but got %s instead.", l.name, l.noun(), l.max, v.Raw)
		}
	}
	if v := m["n"]; v.Type == gjson.Number {
		q.n = int(v.Num)
	}
	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		if v := m[name]; v.Type == gjson.Number {
			q.maxTokens = int(v.Num)
		}
	}
	if v := m["stop"]; v.IsArray() && len(v.Array()) > 4 {
		return bad("stop", "array_above_max_length", "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length %d instead.", len(v.Array()))
	} else if v.Exists() && v.Type != gjson.Null && v.Type != gjson.String && !v.IsArray() {
		return wrongType("stop", "one of a string or array of strings", v)
	}
	if r.strict {
		if f := worded(m); f != nil {
			return f
		}
	}
	q.effort = m["reasoning_effort"].String()
	if v := m["reasoning"]; !r.strict && v.IsObject() {
		q.reasoning = v.Get("effort").String() != "none" && !(v.Get("enabled").Exists() && !v.Get("enabled").Bool()) && !v.Get("exclude").Bool()
	}
	return nil
}

// texts are the members that are strings; where there are words, one of these.
var texts = []struct {
	name  string
	words []string
}{
	{"reasoning_effort", []string{"none", "minimal", "low", "medium", "high", "xhigh", "max"}},
	{"verbosity", []string{"low", "medium", "high"}},
	{"service_tier", []string{"auto", "default", "flex", "scale", "priority", "fast"}},
	{"user", nil},
	{"safety_identifier", nil},
	{"prompt_cache_key", nil},
}

// worded checks the members that are strings, and those made of strings.
func worded(m map[string]gjson.Result) *failure {
	for _, t := range texts {
		v := m[t.name]
		if !v.Exists() || v.Type == gjson.Null {
			continue
		}
		if v.Type != gjson.String {
			return wrongType(t.name, "a string", v)
		}
		if t.words != nil && !slices.Contains(t.words, v.Str) {
			return bad(t.name, "invalid_value", "Invalid value: '%s'. Supported values are: %s.", v.Str, quoted(set(t.words...)))
		}
	}
	if v := m["metadata"]; v.Exists() && v.Type != gjson.Null && !v.IsObject() {
		return wrongType("metadata", "an object", v)
	}
	for name, v := range m["metadata"].Map() {
		if v.Type != gjson.String {
			return wrongType("metadata."+name, "a string", v)
		}
	}
	if v := m["modalities"]; v.Exists() && v.Type != gjson.Null && !v.IsArray() {
		return wrongType("modalities", "an array of strings", v)
	}
	for i, v := range m["modalities"].Array() {
		if v.Str != "text" && v.Str != "audio" {
			return bad(fmt.Sprintf("modalities[%d]", i), "invalid_value", "Invalid value: '%s'. Supported values are: 'text' and 'audio'.", v.String())
		}
	}
	return nil
}

// limit is the range of a number.
type limit struct {
	name     string
	min, max float64
	whole    bool
}

var limits = []limit{
	{"temperature", 0, 2, false},
	{"top_p", 0, 1, false},
	{"frequency_penalty", -2, 2, false},
	{"presence_penalty", -2, 2, false},
	{"n", 1, 128, true},
	{"max_tokens", 1, 1 << 31, true},
	{"max_completion_tokens", 1, 1 << 31, true},
	{"top_logprobs", 0, 20, true},
	{"seed", -1 << 62, 1 << 62, true},
}

func (l limit) noun() string {
	if l.whole {
		return "integer"
	}
	return "decimal"
}

func (l limit) expected() string {
	if l.whole {
		return "an integer"
	}
	return "a decimal"
}
func (l limit) below() string { return l.noun() + "_below_min_value" }
func (l limit) above() string { return l.noun() + "_above_max_value" }

// tools checks what the model may call.
func (r rules) tools(m map[string]gjson.Result, q *chatRequest) *failure {
	list := m["tools"]
	if list.Exists() && list.Type != gjson.Null {
		if !list.IsArray() {
			return wrongType("tools", "an array of objects", list)
		}
		if r.strict && len(list.Array()) == 0 {
			return bad("tools", "empty_array", "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.")
		}
		q.size += len(list.Raw)
	}
	for i, t := range list.Array() {
		switch kind := t.Get("type").String(); kind {
		case "function", "custom":
			name := t.Get(kind + ".name").String()
			if !toolName(name) {
				return bad(fmt.Sprintf("tools[%d].%s.name", i, kind), "invalid_value", "Invalid 'tools[%d].%s.name': string does not match pattern. "+
					"Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.", i, kind)
			}
			p := t.Get(kind + ".parameters")
			if p.Exists() && p.Type != gjson.Null && !p.IsObject() {
				return wrongType(fmt.Sprintf("tools[%d].function.parameters", i), "an object", p)
			}
			q.tools = append(q.tools, tool{name: name, custom: kind == "custom", schema: p})
		default:
			if r.strict {
				return bad(fmt.Sprintf("tools[%d].type", i), "invalid_value", "Invalid value: '%s'. Supported values are: 'function' and 'custom'.", kind)
			}
		}
	}
	if v := m["parallel_tool_calls"]; v.IsBool() {
		if r.strict && len(q.tools) == 0 {
			return bad("parallel_tool_calls", "", "'parallel_tool_calls' is only allowed when 'tools' are specified.")
		}
		q.parallel = v.Bool()
	}
	return r.choice(m["tool_choice"], q)
}

func (r rules) choice(v gjson.Result, q *chatRequest) *failure {
	q.toolChoice = "auto"
	if !v.Exists() || v.Type == gjson.Null {
		return nil
	}
	if r.strict && len(q.tools) == 0 {
		return bad("tool_choice", "", "'tool_choice' is only allowed when 'tools' are specified.")
	}
	switch {
	case v.Type == gjson.String && (v.Str == "none" || v.Str == "auto" || v.Str == "required"):
		q.toolChoice = v.Str
	case v.Type == gjson.String:
		return bad("tool_choice", "invalid_value", "Invalid value: '%s'. Supported values are: 'none', 'auto', and 'required'.", v.Str)
	case v.Get("type").Str == "allowed_tools":
		q.toolChoice = v.Get("allowed_tools.mode").String()
	case v.Get("type").Str == "function" || v.Get("type").Str == "custom":
		name := v.Get(v.Get("type").Str + ".name").String()
		if !slices.ContainsFunc(q.tools, func(t tool) bool { return t.name == name }) {
			return bad("tool_choice", "", "Tool choice '%s' not found in 'tools' parameter.", name)
		}
		q.toolChoice = "=" + name
	default:
		return wrongType("tool_choice", "one of 'none', 'auto', 'required' or an object", v)
	}
	return nil
}

func toolName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// output checks the form of the answer.
func (r rules) output(m map[string]gjson.Result, q *chatRequest) *failure {
	v := m["response_format"]
	if !v.Exists() || v.Type == gjson.Null {
		return nil
	}
	if !v.IsObject() {
		return wrongType("response_format", "an object", v)
	}
	switch q.format = v.Get("type").String(); q.format {
	case "text", "json_object":
	case "json_schema":
		name := v.Get("json_schema.name").String()
		if !toolName(name) {
			return bad("response_format.json_schema.name", "missing_required_parameter", "Missing required parameter: 'response_format.json_schema.name'.")
		}
		q.schema = v.Get("json_schema.schema")
		if r.strict && v.Get("json_schema.strict").Bool() {
			if where := loose(q.schema, 0); where != "" {
				return bad("response_format", "", "Invalid schema for response_format '%s': %s", name, where)
			}
		}
	default:
		if r.strict {
			return bad("response_format.type", "invalid_value", "Invalid value: '%s'. Supported values are: 'json_object', 'json_schema', and 'text'.", q.format)
		}
	}
	return nil
}

// conversation checks the messages and their order.
func (r rules) conversation(m map[string]gjson.Result, q *chatRequest) *failure {
	list := m["messages"]
	if !list.Exists() {
		return bad("messages", "missing_required_parameter", "Missing required parameter: 'messages'.")
	}
	if !list.IsArray() {
		return wrongType("messages", "an array of objects", list)
	}
	var open []string // tool calls that wait for their result
	i, called := -1, false
	var f *failure
	list.ForEach(func(_, msg gjson.Result) bool {
		i++
		where := "messages[" + strconv.Itoa(i) + "]"
		if !msg.IsObject() {
			f = wrongType(where, "an object", msg)
			return false
		}
		p := readParts(msg)
		role, content := p.role, p.content
		if role.Str != "tool" && len(open) > 0 {
			f = unanswered(i, open)
			return false
		}
		if role.Str != "tool" {
			called, q.results = false, nil
		}
		if f = r.message(&p, where, i); f != nil {
			return false
		}
		q.size += len(content.Raw) + 16
		switch role.Str {
		case "user":
			q.user = plain(content)
		case "assistant":
			for _, c := range p.calls.Array() {
				open = append(open, c.Get("id").String())
				q.size += len(c.Raw)
				called = true
			}
		case "tool":
			if !called {
				f = bad(fmt.Sprintf("messages.[%d].role", i), "", "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.")
				return false
			}
			id := p.callID.String()
			at := slices.Index(open, id)
			if at < 0 {
				f = bad(fmt.Sprintf("messages.[%d].tool_call_id", i), "", "Invalid parameter: 'tool_call_id' of '%s' not found in 'tool_calls' of previous message.", id)
				return false
			}
			open = slices.Delete(open, at, at+1)
			q.results = append(q.results, plain(content))
		}
		return true
	})
	if f != nil {
		return f
	}
	if i < 0 {
		return bad("messages", "empty_array", "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.")
	}
	if len(open) > 0 {
		return unanswered(i+1, open)
	}
	q.messages = i + 1
	return nil
}

func unanswered(i int, open []string) *failure {
	return bad(fmt.Sprintf("messages.[%d].role", i), "", "An assistant message with 'tool_calls' must be followed by tool messages responding to each "+
		"'tool_call_id'. The following tool_call_ids did not have response messages: %s", strings.Join(open, ", "))
}

// parts are a message's members, found in one pass.
type parts struct {
	role, content, calls, callID, refusal, function, audio, images gjson.Result
	unknown                                                        string // a member OpenAI does not know
}

func readParts(msg gjson.Result) (p parts) {
	msg.ForEach(func(k, v gjson.Result) bool {
		switch name := k.String(); name {
		case "role":
			p.role = v
		case "content":
			p.content = v
		case "tool_calls":
			p.calls = v
		case "tool_call_id":
			p.callID = v
		case "refusal":
			p.refusal = v
		case "function_call":
			p.function = v
		case "audio":
			p.audio = v
		case "name", "annotations":
		case "images":
			p.images, p.unknown = v, name
		default:
			p.unknown = name
		}
		return true
	})
	return p
}

// message checks one message by itself.
func (r rules) message(p *parts, where string, i int) *failure {
	role, calls, content := p.role, p.calls, p.content
	if !role.Exists() {
		return bad(where+".role", "missing_required_parameter", "Missing required parameter: '%s.role'.", where)
	}
	allowed, ok := partTypes[role.Str]
	if !ok {
		return bad(where+".role", "invalid_value", "Invalid value: '%s'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'.", role.String())
	}
	if r.strict && p.unknown != "" {
		return bad(where+"."+p.unknown, "unknown_parameter", "Unknown parameter: '%s.%s'.", where, p.unknown)
	}
	if calls.Exists() && calls.Type != gjson.Null {
		if f := r.calls(calls, role.Str, where); f != nil {
			return f
		}
	}
	if r.strict && p.audio.IsObject() {
		if f := onlyKnown(p.audio, where+".audio", "id"); f != nil {
			return f
		}
	}
	may := role.Str == "assistant" && (calls.IsArray() || p.function.IsObject() || p.refusal.Str != "" || p.audio.IsObject() || p.images.IsArray())
	switch {
	case content.Type == gjson.Null: // also absent
		if !may {
			return bad(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string, got null.")
		}
	case content.Type == gjson.String:
		if content.Str == "" && role.Str == "assistant" && !may {
			return bad(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string with minimum length 1, got an empty string.")
		}
	case content.IsArray():
		parts := content.Array()
		if len(parts) == 0 && !may {
			return bad(where+".content", "empty_array", "Invalid '%s.content': empty array. Expected an array with minimum length 1, but got an empty array instead.", where)
		}
		for j, part := range parts {
			kind := part.Get("type")
			if !part.IsObject() || !allowed[kind.Str] && !r.parts[kind.Str] {
				return bad(fmt.Sprintf("%s.content[%d].type", where, j), "invalid_value", "Invalid value: '%s'. Supported values are: %s.", kind.String(), quoted(allowed))
			}
			if text := part.Get("text"); kind.Str == "text" && text.Type != gjson.String {
				return wrongType(fmt.Sprintf("%s.content[%d].text", where, j), "a string", text)
			}
			if f := media(part, fmt.Sprintf("%s.content[%d]", where, j)); r.strict && f != nil {
				return f
			}
		}
	default:
		return wrongType(where+".content", "one of a string or array of objects", content)
	}
	return nil
}

// calls checks a message's tool calls.
func (r rules) calls(calls gjson.Result, role, where string) *failure {
	if role != "assistant" {
		return bad(where+".tool_calls", "unknown_parameter", "Unknown parameter: '%s.tool_calls'.", where)
	}
	if !calls.IsArray() || len(calls.Array()) == 0 {
		return bad(where+".tool_calls", "empty_array", "Invalid '%s.tool_calls': empty array. Expected an array with minimum length 1, but got an empty array instead.", where)
	}
	for j, c := range calls.Array() {
		kind := c.Get("type").String()
		at := fmt.Sprintf("%s.tool_calls[%d]", where, j)
		name := c.Get(kind + ".name").String()
		if c.Get("id").String() == "" || kind != "function" && kind != "custom" || name == "" {
			return bad(at, "invalid_value", "Invalid value: '%s' needs an id, a type and what it calls.", at)
		}
		if !toolName(name) {
			return bad(at+"."+kind+".name", "invalid_value", "Invalid '%s.%s.name': string does not match pattern. "+
				"Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.", at, kind)
		}
		if a := c.Get("function.arguments"); kind == "function" && a.Type != gjson.String {
			return wrongType(at+".function.arguments", "a string", a)
		}
		if !r.strict {
			continue
		}
		f := onlyKnown(c, at, "id", "type", "index", kind) // clients leave the index of streams in
		if f == nil {
			f = onlyKnown(c.Get(kind), at+"."+kind, "name", "arguments", "input")
		}
		if f != nil {
			return f
		}
	}
	return nil
}

// onlyKnown refuses an object with other members than these.
func onlyKnown(object gjson.Result, where string, names ...string) (f *failure) {
	object.ForEach(func(k, _ gjson.Result) bool {
		if !slices.Contains(names, k.Str) {
			f = bad(where+"."+k.Str, "unknown_parameter", "Unknown parameter: '%s.%s'.", where, k.Str)
		}
		return f == nil
	})
	return f
}

// media checks a part that is no text.
func media(part gjson.Result, where string) *failure {
	wrong := func(member, want string) *failure {
		return bad(where+"."+member, "invalid_value", "Invalid '%s.%s': expected %s.", where, member, want)
	}
	switch part.Get("type").Str {
	case "image_url":
		url := part.Get("image_url.url").Str
		if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "data:image/") {
			return wrong("image_url.url", "a URL or a base64 data URL of an image")
		}
	case "input_audio":
		if format := part.Get("input_audio.format").Str; format != "wav" && format != "mp3" {
			return wrong("input_audio.format", "one of 'wav' or 'mp3'")
		}
		if part.Get("input_audio.data").Str == "" {
			return wrong("input_audio.data", "base64")
		}
	case "file":
		if part.Get("file.file_id").Str == "" && !strings.HasPrefix(part.Get("file.file_data").Str, "data:") {
			return wrong("file", "a file_id or a base64 data URL as file_data")
		}
	}
	return nil
}

func quoted(names map[string]bool) string {
	var list []string
	for n := range names {
		list = append(list, "'"+n+"'")
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// plain is the text of a content: a string, or its text parts.
func plain(content gjson.Result) string {
	if !content.IsArray() {
		return content.String()
	}
	var texts []string
	for _, part := range content.Array() {
		if part.Get("type").Str == "text" {
			texts = append(texts, part.Get("text").String())
		}
	}
	return strings.Join(texts, "\n")
}

func wrongType(param, want string, got gjson.Result) *failure {
	name := map[bool]string{true: "an array", false: "an object"}[got.IsArray()]
	switch got.Type {
	case gjson.String:
		name = "a string"
	case gjson.Number:
		name = "a number"
	case gjson.True, gjson.False:
		name = "a boolean"
	case gjson.Null:
		name = "null"
	}
	return bad(param, "invalid_type", "Invalid type for '%s': expected %s, but got %s instead.", param, want, name)
}

// topLevel reads some members of a body that was checked before.
func topLevel(body []byte, names ...string) []gjson.Result { return gjson.GetManyBytes(body, names...) }
