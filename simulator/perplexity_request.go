package simulator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// agentModels are those of the Agent API, with their prices as of the vendors.
var agentModels = []routed{
	{"perplexity/sonar", 250000, 62500, 2500000},
	{"openai/gpt-6-astra", 10000000, 1000000, 50000000},
	{"openai/gpt-6.1-sol", 2000000, 100000, 10000000},
	{"openai/gpt-6-luna", 100000, 10000, 500000},
	{"anthropic/claude-opus-5.5", 4000000, 200000, 20000000},
	{"anthropic/claude-sonnet-5.5", 2000000, 100000, 10000000},
	{"anthropic/claude-haiku-5.5", 100000, 10000, 500000},
	{"google/gemini-4-argon", 2000000, 100000, 10000000},
	{"google/gemini-3.8-flash", 750000, 75000, 3750000},
	{"xai/grok-4.7", 2000000, 500000, 6000000},
	{"sim-1", 1000000, 100000, 2000000},
}

// presets bring a model and a search with them.
var presets = map[string]string{
	"fast": "openai/gpt-6-luna", "low": "perplexity/sonar", "medium": "anthropic/claude-sonnet-5.5", "high": "openai/gpt-6.1-sol",
	"xhigh": "openai/gpt-6-astra", "wide-research": "anthropic/claude-opus-5.5",
}

// perplexityMessages are the messages of a request and their members, as for Gemini.
var perplexityMessages = readMessages(map[string]string{
	"Agent": "input:Value model:string models:[string] preset:string profile:Struct instructions:string max_output_tokens:int temperature:number " +
		"top_p:number reasoning:Reasoning response_format:ResponseFormat tools:[Value] tool_choice:Value max_tool_calls:int max_steps:int " +
		"previous_response_id:string store:bool background:bool stream:bool skills:[Value] language_preference:string service_tier:string",
	"Reasoning":            "effort:string",
	"ResponseFormat":       "type:string json_schema:JSONSchema",
	"JSONSchema":           "name:string schema:Struct strict:bool description:string",
	"message":              "type:string role:string content:Value",
	"input_text":           "type:string text:string",
	"input_image":          "type:string image_url:string",
	"function_call":        "type:string call_id:string name:string arguments:string thought_signature:string",
	"function_call_output": "type:string call_id:string output:Value name:string thought_signature:string",
	"web_search":           "type:string search_context_size:string filters:Filters user_location:Location max_results:int max_tokens:int max_tokens_per_page:int",
	"Filters": "search_domain_filter:[string] search_recency_filter:string search_after_date_filter:string search_before_date_filter:string " +
		"last_updated_after_filter:string last_updated_before_filter:string",
	"Location":       "latitude:number longitude:number city:string region:string country:string",
	"fetch_url":      "type:string max_urls:int",
	"people_search":  "type:string",
	"finance_search": "type:string",
	"sandbox":        "type:string",
	"function":       "type:string name:string description:string parameters:Struct strict:bool",
	"Choice":         "type:string name:string",
	"Embeddings":     "model:string input:Value dimensions:int encoding_format:string",

	// The older form takes members it does not know.
	"Sonar": "model:string messages:[Struct] max_tokens:int temperature:number top_p:number top_k:int presence_penalty:number " +
		"frequency_penalty:number stop:Value stream:bool stream_mode:string response_format:Struct reasoning_effort:string search_mode:string " +
		"search_domain_filter:[string] search_recency_filter:string search_after_date_filter:string search_before_date_filter:string " +
		"last_updated_after_filter:string last_updated_before_filter:string search_language_filter:[string] return_images:bool " +
		"image_domain_filter:[string] image_format_filter:[string] return_related_questions:bool enable_search_classifier:bool " +
		"disable_search:bool language_preference:string num_search_results:int web_search_options:SearchOptions tools:[Struct] tool_choice:Value",
	"SearchOptions": "search_context_size:string search_type:string user_location:Location image_results_enhanced_relevance:bool",
})

// mistyped is one thing wrong with the types of a request, as FastAPI tells it.
type mistyped struct {
	loc       []string
	msg, kind string
}

// typed checks a value against a message of the table and appends what is wrong. Messages in open may have members that
// are not in the table.
func typed(list []mistyped, v gjson.Result, kind string, loc []string, open bool) []mistyped {
	wrong := func(msg, kind string) []mistyped { return append(list, mistyped{loc, msg, kind}) }
	if v.Type == gjson.Null {
		return list
	}
	if item, ok := strings.CutPrefix(kind, "["); ok {
		if !v.IsArray() {
			return wrong("Input should be a valid list", "list_type")
		}
		for i, one := range v.Array() {
			list = typed(list, one, strings.TrimSuffix(item, "]"), deeper(loc, strconv.Itoa(i)), open)
		}
		return list
	}
	switch kind {
	case "Value":
	case "string":
		if v.Type != gjson.String {
			return wrong("Input should be a valid string", "string_type")
		}
	case "bool":
		if !v.IsBool() {
			return wrong("Input should be a valid boolean", "bool_parsing")
		}
	case "number":
		if v.Type != gjson.Number {
			return wrong("Input should be a valid number", "float_parsing")
		}
	case "int":
		if v.Type != gjson.Number || v.Num != float64(int64(v.Num)) {
			return wrong("Input should be a valid integer", "int_parsing")
		}
	default:
		if !v.IsObject() {
			return wrong("Input should be a valid dictionary", "dict_type")
		}
		if kind == "Struct" {
			return list
		}
		v.ForEach(func(k, one gjson.Result) bool {
			switch member := perplexityMessages[kind][k.Str]; {
			case member != "":
				list = typed(list, one, member, deeper(loc, k.Str), false)
			case !open:
				list = append(list, mistyped{deeper(loc, k.Str), "Extra inputs are not permitted", "extra_forbidden"})
			}
			return true
		})
	}
	return list
}

// untagged is a kind that is none of those that may stand there.
func untagged(loc []string, kind string) mistyped {
	return mistyped{loc, "Input tag '" + kind + "' does not match any of the expected tags", "union_tag_invalid"}
}

func deeper(loc []string, step string) []string { return append(slices.Clone(loc), step) }

// mistakes is a 422 that lists what is wrong with the types of a request; nil if nothing is.
func mistakes(list []mistyped) *failure {
	if len(list) == 0 {
		return nil
	}
	b := []byte(`{"detail":[`)
	for i, m := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"loc":[`...)
		for k, step := range m.loc {
			if k > 0 {
				b = append(b, ',')
			}
			if _, err := strconv.Atoi(step); err == nil {
				b = append(b, step...)
				continue
			}
			b = quote(b, step)
		}
		b = quote(append(b, `],"msg":`...), m.msg)
		b = append(quote(append(b, `,"type":`...), m.kind), '}')
	}
	return &failure{status: 422, message: list[0].msg + ": " + strings.Join(list[0].loc, "."), meta: string(append(b, "]}"...))}
}

// failed is a 400 of the Agent API.
func failed(code, format string, args ...any) *failure {
	return &failure{status: 400, kind: "invalid_request", code: code, message: "validation failed: " + fmt.Sprintf(format, args...)}
}

// agentRequest is what the simulator understands of a request to the Agent API.
type agentRequest struct {
	chatRequest
	preset string
	search bool
	asked  string // the model or preset, as the first events name it
	used   routed
	signed []string // families of models whose signatures came back
}

func readBody(body []byte) (gjson.Result, *failure) {
	if !utf8.Valid(body) || !gjson.ValidBytes(body) {
		return gjson.Result{}, mistakes([]mistyped{{[]string{"body", "0"}, "JSON decode error", "json_invalid"}})
	}
	root := gjson.ParseBytes(body)
	if !root.IsObject() {
		return root, mistakes([]mistyped{{[]string{"body"}, "Input should be a valid dictionary or object to extract fields from", "model_attributes_type"}})
	}
	return root, nil
}

// readAgent reads and checks a request to the Agent API, all but its model.
func readAgent(body []byte) (*agentRequest, *failure) {
	root, f := readBody(body)
	if f == nil {
		f = mistakes(typed(nil, root, "Agent", []string{"body"}, false))
	}
	if f != nil {
		return nil, f
	}
	q := &agentRequest{preset: root.Get("preset").Str}
	q.n, q.parallel, q.toolChoice, q.stream = 1, true, "auto", root.Get("stream").Bool()
	for _, check := range []func(gjson.Result) *failure{q.numbers, q.readTools, q.choice, q.output, q.input} {
		if f := check(root); f != nil {
			return nil, f
		}
	}
	return q, nil
}

// pick finds the model that answers: the first named, or the preset's.
func (q *agentRequest) pick(root gjson.Result) *failure {
	named := []string{}
	if m := root.Get("model"); m.Str != "" {
		named = append(named, m.Str)
	}
	for _, m := range root.Get("models").Array() {
		named = append(named, m.Str)
	}
	for _, id := range named {
		m, ok := agentModel(id)
		if !ok {
			return failed("invalid_model", "model %q is not supported", id)
		}
		if q.used.id == "" {
			q.used, q.asked = m, id
		}
	}
	if q.preset != "" {
		id := presets[q.preset]
		if id == "" {
			return failed("invalid_preset", "preset %q is not supported", q.preset)
		}
		q.asked = q.preset
		if q.used.id == "" {
			q.used, _ = agentModel(id)
		}
	}
	if q.used.id == "" && !root.Get("profile").Exists() {
		return failed("missing_model", "one of model, models, preset or profile is required")
	}
	if q.used.id == "" {
		q.used, q.asked = agentModels[0], agentModels[0].id
	}
	if len(named) > 0 && strings.HasPrefix(q.used.id, "anthropic/") && !root.Get("max_output_tokens").Exists() {
		return failed("missing_parameter", "max_output_tokens is required for model %q", q.used.id)
	}
	q.model = q.used.id
	if model, ok := strings.CutPrefix(q.model, "google/"); ok {
		for _, family := range q.signed {
			if family != geminiFamily(model) {
				return failed("invalid_input", "a thought_signature is not valid for model %q", q.model)
			}
		}
	}
	return nil
}

func agentModel(id string) (routed, bool) {
	if i := slices.IndexFunc(agentModels, func(m routed) bool { return m.id == id }); i >= 0 {
		return agentModels[i], true
	}
	if strings.HasPrefix(id, "sim-") {
		return routed{id, 1000000, 100000, 2000000}, true
	}
	return routed{}, false
}

var agentLimits = []limit{
	{"temperature", 0, 2, false},
	{"top_p", 0, 1, false},
	{"max_output_tokens", 1, 1 << 31, true},
	{"max_tool_calls", 0, 1 << 31, true},
	{"max_steps", 1, 100, true},
}

// within checks ranges.
func within(root gjson.Result, limits []limit) (string, bool) {
	for _, l := range limits {
		if v := root.Get(l.name); v.Type == gjson.Number && (v.Num < l.min || v.Num > l.max) {
			return fmt.Sprintf("%s must be between %v and %v", l.name, l.min, l.max), false
		}
	}
	return "", true
}

// numbers checks what is a number or one of a few words.
func (q *agentRequest) numbers(root gjson.Result) *failure {
	if why, ok := within(root, agentLimits); !ok {
		return failed("invalid_parameter", "%s", why)
	}
	q.maxTokens = int(root.Get("max_output_tokens").Int())
	if n := len(root.Get("models").Array()); n > 5 {
		return failed("invalid_parameter", "models must hold at most 5 entries, got %d", n)
	}
	switch q.effort = root.Get("reasoning.effort").Str; q.effort {
	case "", "minimal", "low", "medium", "high", "xhigh":
	default:
		return failed("invalid_parameter", "reasoning.effort %q is not supported", q.effort)
	}
	return nil
}

// agentTools are the kinds of tools whose members are known.
var agentTools = set("web_search", "fetch_url", "people_search", "finance_search", "sandbox", "function")

// searchWords are the members of a search that are one of a few words.
var searchWords = map[string][]string{
	"search_context_size":           {"low", "medium", "high"},
	"filters.search_recency_filter": {"hour", "day", "week", "month", "year"},
}

// readTools checks the tools: those of Perplexity and those of the caller.
func (q *agentRequest) readTools(root gjson.Result) *failure {
	list := root.Get("tools")
	q.size += len(list.Raw)
	q.search = q.preset != ""
	for i, t := range list.Array() {
		kind, loc := t.Get("type").String(), []string{"body", "tools", strconv.Itoa(i)}
		if kind == "mcp" {
			continue
		}
		if !t.IsObject() || !agentTools[kind] {
			return mistakes([]mistyped{untagged(deeper(loc, "type"), kind)})
		}
		if f := mistakes(typed(nil, t, kind, loc, false)); f != nil {
			return f
		}
		switch kind {
		case "web_search":
			q.search = true
			for path, words := range searchWords {
				if v := t.Get(path); v.Str != "" && !slices.Contains(words, v.Str) {
					return failed("invalid_parameter", "tools[%d].%s %q is not supported", i, path, v.Str)
				}
			}
			if n := len(t.Get("filters.search_domain_filter").Array()); n > 20 {
				return failed("invalid_parameter", "search_domain_filter must hold at most 20 entries, got %d", n)
			}
		case "function":
			name := t.Get("name").Str
			if !toolName(name) || name == searchTool {
				return failed("invalid_tool", "tools[%d].name %q is not valid", i, name)
			}
			q.tools = append(q.tools, tool{name: name, schema: t.Get("parameters")})
		}
	}
	if v := root.Get("max_tool_calls"); v.Exists() && v.Int() == 0 { // tools:[] does not do it
		q.search = false
	}
	return nil
}

func (q *agentRequest) choice(root gjson.Result) *failure {
	v := root.Get("tool_choice")
	switch {
	case !v.Exists() || v.Type == gjson.Null:
		return nil
	case v.Type == gjson.String && (v.Str == "none" || v.Str == "auto" || v.Str == "required"):
		q.toolChoice = v.Str
		q.search = q.search && v.Str != "none"
		return nil
	case v.IsObject():
		if f := mistakes(typed(nil, v, "Choice", []string{"body", "tool_choice"}, false)); f != nil {
			return f
		}
		name, kind := v.Get("name").Str, v.Get("type").Str
		if kind == "function" && slices.ContainsFunc(q.tools, func(t tool) bool { return t.name == name }) {
			q.toolChoice = "=" + name
			return nil
		}
		if kind == "web_search" && q.search {
			return nil
		}
	}
	return failed("invalid_parameter", "tool_choice %s is not one of the tools", v.Raw)
}

// output checks the form of the answer.
func (q *agentRequest) output(root gjson.Result) *failure {
	v := root.Get("response_format")
	if !v.Exists() || v.Type == gjson.Null {
		return nil
	}
	if kind := v.Get("type").Str; kind != "json_schema" {
		return failed("invalid_parameter", "response_format.type %q is not supported", kind)
	}
	name := v.Get("json_schema.name").Str
	if name == "" || len(name) > 64 {
		return failed("invalid_parameter", "response_format.json_schema.name is required and has at most 64 characters")
	}
	if !v.Get("json_schema.schema").IsObject() {
		return failed("invalid_parameter", "response_format.json_schema.schema is required")
	}
	q.format, q.schema = "json_schema", v.Get("json_schema.schema")
	return nil
}

// input checks the conversation.
func (q *agentRequest) input(root gjson.Result) *failure {
	if s := root.Get("instructions"); s.Str != "" {
		q.messages++
		q.size += len(s.Raw)
	}
	v := root.Get("input")
	q.size += len(v.Raw)
	switch {
	case !v.Exists():
		return mistakes([]mistyped{{[]string{"body", "input"}, "Field required", "missing"}})
	case v.Type == gjson.String && v.Str != "":
		q.user = v.Str
		q.messages++
		return nil
	case !v.IsArray() && v.Type != gjson.String:
		return mistakes([]mistyped{{[]string{"body", "input"}, "Input should be a valid string or list", "string_type"}})
	case len(v.Array()) == 0:
		return failed("invalid_input", "input must not be empty")
	}
	var open, known []string
	for i, item := range v.Array() {
		if f := q.item(item, i, &open, &known, root.Get("previous_response_id").Str != ""); f != nil {
			return f
		}
	}
	if len(open) > 0 {
		return failed("invalid_input", "no output for function_call %q", open[0])
	}
	return nil
}

// item checks one item of the input. open are calls without an output, known all calls so far.
func (q *agentRequest) item(item gjson.Result, i int, open, known *[]string, stored bool) *failure {
	kind, loc := item.Get("type").String(), []string{"body", "input", strconv.Itoa(i)}
	switch kind {
	case "message", "function_call", "function_call_output":
		if f := mistakes(typed(nil, item, kind, loc, false)); f != nil {
			return f
		}
	case "reasoning":
		return nil
	default:
		return mistakes([]mistyped{untagged(deeper(loc, "type"), kind)})
	}
	id := item.Get("call_id").Str
	switch kind {
	case "message":
		if len(*open) > 0 {
			return failed("invalid_input", "no output for function_call %q", (*open)[0])
		}
		*known = append(*known, "") // a message stands between calls
		return q.said(item, i, loc)
	case "function_call":
		if id == "" || item.Get("name").Str == "" || !item.Get("arguments").Exists() {
			return failed("invalid_input", "input[%d] needs call_id, name and arguments", i)
		}
		if !toolName(item.Get("name").Str) {
			return failed("invalid_input", "input[%d].name does not match '^[a-zA-Z0-9_-]+$'", i)
		}
		if slices.Contains(*known, id) {
			return failed("invalid_input", "duplicate call_id %q", id)
		}
		if s := item.Get("thought_signature").Str; s != "" && !q.signature(s, item) {
			return failed("invalid_input", "input[%d].thought_signature is not valid", i)
		}
		if n := len(*known); n == 0 || (*known)[n-1] == "" || len(*open) == 0 {
			q.messages++ // calls side by side are one message
		}
		*open, *known = append(*open, id), append(*known, id)
		return nil
	}
	at := slices.Index(*open, id)
	if at < 0 && !stored {
		return failed("invalid_input", "function_call_output %q has no function_call", id)
	}
	if at >= 0 {
		*open = slices.Delete(*open, at, at+1)
	}
	out := item.Get("output")
	if !out.Exists() || out.Type != gjson.String && !out.IsArray() {
		return mistakes([]mistyped{{deeper(loc, "output"), "Input should be a valid string", "string_type"}})
	}
	if f := agentParts(out, "output", i, deeper(loc, "output")); f != nil {
		return f
	}
	q.messages++
	q.results = append(q.results, spoken(out))
	return nil
}

// signature reports whether a signature is Google's, or ours for that call; the family is looked at with the model.
func (q *agentRequest) signature(s string, call gjson.Result) bool {
	b, err := bytesOf(s)
	if err != nil {
		return false
	}
	rest, ours := strings.CutPrefix(string(b), googleSign+signMark)
	if !ours {
		return true
	}
	family, what, _ := strings.Cut(rest, "|")
	q.signed = append(q.signed, family)
	return what == signedCall(call.Get("name").Str, call.Get("arguments").Str)
}

// said checks a message.
func (q *agentRequest) said(item gjson.Result, i int, loc []string) *failure {
	role, content := item.Get("role").Str, item.Get("content")
	switch role {
	case "user", "assistant", "system", "developer":
	default:
		return mistakes([]mistyped{{deeper(loc, "role"), "Input should be 'user', 'assistant', 'system' or 'developer'", "literal_error"}})
	}
	switch {
	case content.Type == gjson.String:
	case content.IsArray():
		if f := agentParts(content, "content", i, deeper(loc, "content")); f != nil {
			return f
		}
	default:
		return mistakes([]mistyped{{deeper(loc, "content"), "Input should be a valid string", "string_type"}})
	}
	if content.String() == "" || content.IsArray() && len(content.Array()) == 0 {
		return failed("invalid_input", "input[%d].content must not be empty", i)
	}
	q.messages++
	q.results = nil
	if role == "user" {
		q.user = spoken(content)
	}
	return nil
}

// agentParts checks the parts of a content, or of an output; a text has none.
func agentParts(parts gjson.Result, name string, i int, loc []string) *failure {
	if !parts.IsArray() {
		return nil
	}
	for j, p := range parts.Array() {
		kind, at := p.Get("type").String(), deeper(loc, strconv.Itoa(j))
		if kind != "input_text" && kind != "input_image" {
			return mistakes([]mistyped{untagged(deeper(at, "type"), kind)})
		}
		if f := mistakes(typed(nil, p, kind, at, false)); f != nil {
			return f
		}
		if kind == "input_image" && !strings.HasPrefix(p.Get("image_url").Str, "https://") && !strings.HasPrefix(p.Get("image_url").Str, "data:image/") {
			return failed("invalid_input", "input[%d].%s[%d].image_url must be an https or data URL", i, name, j)
		}
	}
	return nil
}

// spoken is the text of a content: a string, or its text parts.
func spoken(content gjson.Result) string {
	if !content.IsArray() {
		return content.String()
	}
	var texts []string
	for _, p := range content.Array() {
		if t := p.Get("text"); t.Exists() {
			texts = append(texts, t.String())
		}
	}
	return strings.Join(texts, "\n")
}
