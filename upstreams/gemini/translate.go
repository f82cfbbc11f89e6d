package gemini

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/fetch"
	"threadhub/upstreams"
)

// maxRequest is how many bytes Gemini takes, media and all.
const maxRequest = 20 << 20

// translation puts one request into Gemini's words. The first thing that cannot be carried is kept in err; what is
// written after it is of no use.
type translation struct {
	upstreams.Losses
	model traits
	err   error

	limit     int64 // tokens of the answer; 0: none
	searches  bool  // Gemini is to search the web, and will say where it found what
	grounding bool  // the client wants to have that in Gemini's own words as well
	logprobs  bool  // the client asked for them

	chat     chat
	contents contents
	turn     int               // the last message of the user that says anything: what is before it is history
	asked    int               // where what the user says in a row with it begins
	recalls  bool              // a model's own message is told
	calls    upstreams.Calls   // that wait for their results
	names    map[string]string // of functions, by the ids of their calls
	renamed  map[string]string // names as JSON, by those that Gemini is given for them
	late     []byte            // parts that follow the results of tools: media an old model does not take inside them

	signatures upstreams.Signatures

	files map[string]fetch.File // by their addresses
	links []upstreams.Link      // to those that are not among them
}

// chat holds the members of a request that are looked at.
type chat struct {
	messages, tools, toolChoice, parallel, format, effort                     gjson.Result
	maxTokens, maxCompletion, temperature, topP, topK, stop, seed, n          gjson.Result
	presence, frequency, logprobs, topLogprobs, tier, modalities, web, vendor gjson.Result
}

// request translates body, a chat request that openai.ParseChat takes.
func (t *translation) request(body []byte) ([]byte, error) {
	gjson.ParseBytes(body).ForEach(func(key, v gjson.Result) bool {
		if v.Type != gjson.Null {
			t.member(key.Str, v)
		}
		return t.err == nil
	})
	if t.err != nil {
		return nil, t.err
	}
	t.contents.b = make([]byte, 0, len(body)+256)
	out := make([]byte, 0, len(body)+512)
	out = append(out, '{')
	out = t.messages(out)
	out = t.tools(out)
	out = t.generationConfig(out)
	out = t.vendor(out)
	out = t.serviceTier(out)
	out = append(out, '}')
	if t.err == nil && len(out) > maxRequest {
		t.fail(tooLarge())
	}
	return out, t.err
}

func tooLarge() error {
	return fault.New(fault.TooLarge, "gemini takes requests of at most %d bytes, media included", maxRequest).WithCode("request_too_large")
}

func (t *translation) member(name string, v gjson.Result) {
	c := &t.chat
	switch name {
	case "model", "stream", "stream_options", "thread_id":
	case "messages":
		c.messages = v
	case "tools":
		c.tools = v
	case "tool_choice":
		c.toolChoice = v
	case "parallel_tool_calls":
		c.parallel = v
	case "response_format":
		c.format = v
	case "reasoning_effort":
		c.effort = v
	case "max_tokens":
		c.maxTokens = v
	case "max_completion_tokens":
		c.maxCompletion = v
	case "temperature":
		c.temperature = v
	case "top_p":
		c.topP = v
	case "top_k":
		c.topK = v
	case "stop":
		c.stop = v
	case "seed":
		c.seed = v
	case "n":
		c.n = v
	case "presence_penalty":
		c.presence = v
	case "frequency_penalty":
		c.frequency = v
	case "logprobs":
		c.logprobs = v
	case "top_logprobs":
		c.topLogprobs = v
	case "service_tier":
		c.tier = v
	case "modalities":
		c.modalities = v
	case "web_search_options":
		c.web = v
	case "extra_body":
		if !v.IsObject() {
			t.invalid("invalid_type", "extra_body", "extra_body must be an object")
		}
		c.vendor = v
	case "audio":
		t.unsupported("audio", "gemini does not answer in sound here")
	case "functions", "function_call":
		t.unsupported(name, "functions are given as tools here")
	case "user", "safety_identifier", "metadata", "store", "prediction", "verbosity", "logit_bias", "moderation",
		"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options":
		if !upstreams.Idle(name, v.Raw) {
			t.dropped(name, "unsupported")
		}
	default:
		t.dropped(name, "unknown")
	}
}

// fail keeps the first error; nil is none.
func (t *translation) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// unsupported is for what Gemini has no way to do, and few would want left out: it fails, or else the caller leaves it
// out.
func (t *translation) unsupported(param, format string, args ...any) {
	if err := t.Contract(cannot(param, format, args...)); err != nil {
		t.fail(err)
	}
}

// cannot is the error for what Gemini has no way to do.
func cannot(param, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithCode("unsupported_parameter").WithParam(param)
}

// invalid fails for what is not as the API says.
func (t *translation) invalid(code, param, format string, args ...any) {
	t.fail(fault.New(fault.Invalid, format, args...).WithCode(code).WithParam(param))
}

// dropped leaves a hint out; reason is one word. What a model left in an answer the client does not ask for: that it is
// left out is told, and nothing more.
func (t *translation) dropped(field, reason string) {
	if t.recalls {
		t.Warn("dropped=" + plain(field) + ";reason=" + reason)
		return
	}
	if err := t.Hint(plain(field), reason); err != nil {
		t.fail(err)
	}
}

// plain is the name of a member as it may stand in a header.
func plain(name string) string {
	odd := func(r rune) bool {
		return r != '_' && r != '.' && r != '-' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, odd) {
		return "other"
	}
	return name
}

// generationConfig writes the parameters.
func (t *translation) generationConfig(out []byte) []byte {
	c := &t.chat
	w := object{b: append(out, `,"generationConfig":{`...)}
	before := len(w.b)
	w.raw("temperature", t.number("temperature", c.temperature))
	w.raw("topP", t.number("top_p", c.topP))
	w.raw("topK", t.number("top_k", c.topK))
	tokens := t.number("max_completion_tokens", c.maxCompletion)
	if tokens == "" {
		tokens = t.number("max_tokens", c.maxTokens)
	}
	w.raw("maxOutputTokens", tokens)
	t.limit = gjson.Parse(tokens).Int()
	w.raw("stopSequences", t.stop())
	w.raw("seed", t.seed())
	w.raw("candidateCount", t.candidates())
	t.penalty(&w, "presencePenalty", "presence_penalty", c.presence)
	t.penalty(&w, "frequencyPenalty", "frequency_penalty", c.frequency)
	if t.logprobs = t.boolean("logprobs", c.logprobs); t.logprobs {
		w.raw("responseLogprobs", "true")
		w.raw("logprobs", t.number("top_logprobs", c.topLogprobs))
	} else if v := c.topLogprobs; v.Exists() && !upstreams.Idle("top_logprobs", v.Raw) {
		t.dropped("top_logprobs", "no_logprobs")
	}
	t.modalities(&w)
	t.responseFormat(&w)
	t.thinking(&w)
	if len(w.b) == before {
		return out
	}
	return append(w.b, '}')
}

// object writes members.
type object struct {
	b []byte
	n int
}

// key begins a member, whose value is for the caller to append.
func (o *object) key(name string) {
	if o.n > 0 {
		o.b = append(o.b, ',')
	}
	o.n++
	o.b = append(append(append(o.b, '"'), name...), '"', ':')
}

// raw writes a member whose value is JSON; nothing if it is empty.
func (o *object) raw(name, value string) {
	if value != "" {
		o.key(name)
		o.b = append(o.b, value...)
	}
}

// number is v as it was written; "" if it is absent.
func (t *translation) number(param string, v gjson.Result) string {
	if v.Exists() && v.Type != gjson.Number {
		t.invalid("invalid_type", param, "%s must be a number", param)
	}
	return v.Raw
}

func (t *translation) integer(param string, v gjson.Result) (int64, bool) {
	if !v.Exists() {
		return 0, false
	}
	if v.Type != gjson.Number || v.Num != math.Trunc(v.Num) {
		t.invalid("invalid_type", param, "%s must be an integer", param)
	}
	return v.Int(), true
}

func (t *translation) boolean(param string, v gjson.Result) bool {
	if v.Exists() && !v.IsBool() {
		t.invalid("invalid_type", param, "%s must be true or false", param)
	}
	return v.Type == gjson.True
}

// stop is a list also where the client gave one text.
func (t *translation) stop() string {
	v := t.chat.stop
	if v.Type == gjson.String {
		return "[" + v.Raw + "]"
	}
	if v.Exists() && !allStrings(v) {
		t.invalid("invalid_type", "stop", "stop must be a string or an array of strings")
	}
	return v.Raw
}

// allStrings reports whether v is an array of nothing but strings.
func allStrings(v gjson.Result) bool {
	all := v.IsArray()
	each(v, func(_ int, e gjson.Result) bool {
		all = all && e.Type == gjson.String
		return all
	})
	return all
}

// seed fits the client's into Gemini's 32 bits, the same one for the same one.
func (t *translation) seed() string {
	n, given := t.integer("seed", t.chat.seed)
	if !given {
		return ""
	}
	return strconv.FormatInt(n%(1<<31-1), 10)
}

func (t *translation) candidates() string {
	n, _ := t.integer("n", t.chat.n)
	if n > 8 {
		t.unsupported("n", "gemini gives at most 8 choices")
		n = 1
	}
	if n <= 1 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func (t *translation) penalty(w *object, name, param string, v gjson.Result) {
	text := t.number(param, v)
	if v.Num != 0 && !t.model.penalises() {
		t.dropped(param, "model")
		return
	}
	if v.Num != 0 {
		w.raw(name, text)
	}
}

// modalities lets a model that draws draw.
func (t *translation) modalities(w *object) {
	v := t.chat.modalities
	if !v.Exists() {
		return
	}
	if !allStrings(v) {
		t.invalid("invalid_type", "modalities", "modalities must be an array of strings")
	}
	draws := false
	each(v, func(_ int, e gjson.Result) bool {
		switch e.Str {
		case "text":
		case "image":
			draws = true
		default:
			t.unsupported("modalities", "gemini answers in text and images here")
		}
		return true
	})
	if draws {
		w.raw("responseModalities", `["TEXT","IMAGE"]`)
	}
}

func (t *translation) responseFormat(w *object) {
	v := t.chat.format
	if !v.Exists() {
		return
	}
	kind := v.Get("type").Str
	switch kind {
	case "text":
		return
	case "json_object", "json_schema":
	default:
		t.unsupported("response_format.type", "gemini answers in text or JSON")
		return
	}
	if t.model.old && (t.searches || t.chat.tools.IsArray() && t.chat.tools.Get("#").Int() > 0) {
		t.unsupported("response_format", "gemini before 3 gives JSON only to requests without tools")
		return
	}
	w.raw("responseMimeType", `"application/json"`)
	schema := v.Get("json_schema.schema")
	if kind != "json_schema" || !schema.Exists() || schema.Type == gjson.Null {
		return
	}
	if !schema.IsObject() {
		t.invalid("invalid_type", "response_format.json_schema.schema", "the schema must be an object")
		return
	}
	w.key("responseJsonSchema")
	var s schemas
	w.b = s.append(w.b, schema)
	lost := "response_format.json_schema.schema." + s.lost
	switch {
	case s.lost == "":
	case v.Get("json_schema.strict").Bool():
		t.unsupported(lost, "gemini has no %q in schemas", s.lost)
	default:
		t.dropped(lost, "unsupported")
	}
}

// thinking writes how hard to think: the client's own thinking_config, or what the effort means to the model. Thoughts
// come along unless none are wanted.
func (t *translation) thinking(w *object) {
	effort := t.chat.effort
	if own := t.chat.vendor.Get("google.thinking_config"); own.IsObject() {
		if effort.Exists() {
			t.dropped("reasoning_effort", "thinking_config")
		}
		w.key("thinkingConfig")
		w.b = t.thinkingConfig(w.b, own)
		return
	}
	if !effort.Exists() {
		return
	}
	r := rank(effort.Str)
	if r < 0 {
		t.invalid("invalid_value", "reasoning_effort", "reasoning_effort must be one of %s", strings.Join(efforts, ", "))
		return
	}
	member, value, less := t.model.think(r)
	if less {
		t.dropped("reasoning_effort", "cannot_be_off")
	}
	w.key("thinkingConfig")
	inner := object{b: append(w.b, '{')}
	inner.raw(member, value)
	if r > 0 {
		inner.raw("includeThoughts", "true")
	}
	w.b = append(inner.b, '}')
}

func (t *translation) thinkingConfig(out []byte, own gjson.Result) []byte {
	w := object{b: append(out, '{')}
	own.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "thinking_budget", "thinkingBudget":
			w.raw("thinkingBudget", v.Raw)
		case "thinking_level", "thinkingLevel":
			w.raw("thinkingLevel", v.Raw)
		case "include_thoughts", "includeThoughts":
			w.raw("includeThoughts", v.Raw)
		default:
			t.dropped("extra_body.google.thinking_config."+key.Str, "unknown")
		}
		return true
	})
	return append(w.b, '}')
}

// vendor writes what a client has for Gemini alone, under the names Google's compatible endpoint gave it. Only
// grounding_metadata is a name of ours: it asks for what that endpoint cannot give.
func (t *translation) vendor(out []byte) []byte {
	t.chat.vendor.ForEach(func(key, v gjson.Result) bool {
		if key.Str != "google" || !v.IsObject() {
			t.dropped("extra_body."+key.Str, "unknown")
			return true
		}
		v.ForEach(func(key, v gjson.Result) bool {
			switch name := key.Str; {
			case name == "thinking_config" && v.IsObject():
			case name == "grounding_metadata" && v.IsBool():
				t.grounding = v.Bool()
			case name == "cached_content" && v.Type == gjson.String:
				out = append(append(out, `,"cachedContent":`...), v.Raw...)
			case name == "safety_settings" && v.IsArray():
				out = append(append(out, `,"safetySettings":`...), v.Raw...)
			default:
				t.dropped("extra_body.google."+name, "unknown")
			}
			return true
		})
		return true
	})
	return out
}

func (t *translation) serviceTier(out []byte) []byte {
	v := t.chat.tier
	switch v.Str {
	case "default":
		return append(out, `,"serviceTier":"standard"`...)
	case "flex", "priority":
		return append(append(out, `,"serviceTier":`...), v.Raw...)
	case "auto":
	default:
		if v.Exists() {
			t.dropped("service_tier", "unsupported")
		}
	}
	return out
}

// place is the name of a member of message n, as the API names it.
func place(n int, member string) string { return fmt.Sprintf("messages[%d]%s", n, member) }
