package simulator

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// openAI plays api.openai.com: chat completions, embeddings and models.
type openAI struct{}

func (openAI) name() string             { return "openai" }
func (openAI) base() string             { return "/openai/v1" }
func (openAI) key(h http.Header) string { return bearer(h) }
func (openAI) asks(path string) bool    { return path == "/chat/completions" || path == "/embeddings" }

// openAIModels are those listed, in the order of the list. Prices are the gateway's business; OpenAI tells none.
var openAIModels = []string{
	"gpt-6-astra", "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-sol", "gpt-6-luna", "gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna",
	"gpt-5.5", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.3-codex", "gpt-5.2", "gpt-5.1", "gpt-5", "gpt-5-mini", "gpt-5-nano",
	"gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "o3", "o4-mini", "gpt-audio-mini",
	"text-embedding-3-small", "text-embedding-3-large", "sim-1",
}

// openAISnapshots are the names some models answer under, and are known by too.
var openAISnapshots = map[string]string{
	"gpt-4.1": "gpt-4.1-2025-04-14", "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14", "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
	"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18", "gpt-5": "gpt-5-2025-08-07",
	"gpt-5-mini": "gpt-5-mini-2025-08-07", "gpt-5-nano": "gpt-5-nano-2025-08-07", "o3": "o3-2025-04-16", "o4-mini": "o4-mini-2025-04-16",
}

// openAIUnlisted are known too.
var openAIUnlisted = []string{"gpt-4o-search-preview", "gpt-4o-mini-search-preview"}

var openAIRules = rules{known: openAIMembers, strict: true}

func (o openAI) serve(x *exchange) error {
	x.id = "req_" + hexes(32)
	if x.key == "" {
		return o.refuse(x, failure{status: 401, message: "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."})
	}
	if !x.s.opt.AcceptKey(o.name(), x.key) {
		return o.refuse(x, failure{status: 401, code: "invalid_api_key", fields: field("WWW-Authenticate", `Bearer realm="OpenAI API"`), message: "Incorrect API key provided: " +
			masked(x.key) + ". You can find your API key at https://platform.openai.com/account/api-keys."})
	}
	id, one := strings.CutPrefix(x.path, "/models/")
	switch {
	case o.asks(x.path):
		if x.req.Method != "POST" {
			return o.refuse(x, failure{status: 405, code: "method_not_supported", message: "Not allowed to " + x.req.Method +
				" on /v1" + x.path + ". (HINT: Perhaps you meant to use a different HTTP method?)"})
		}
		if x.path == "/embeddings" {
			return o.embeddings(x)
		}
		return o.chat(x)
	case x.req.Method == "GET" && (x.path == "/models" || one):
		x.scripted()
		if did, err := x.early(); did {
			return err
		}
		if one {
			if !o.knows(id) {
				return o.refuse(x, noModel(id))
			}
			return o.json(x, o.model(nil, id))
		}
		b := []byte(`{"object":"list","data":[`)
		for i, m := range openAIModels {
			if i > 0 {
				b = append(b, ',')
			}
			b = o.model(b, m)
		}
		return o.json(x, append(b, "]}"...))
	}
	x.scripted()
	if did, err := x.early(); did {
		return err
	}
	return o.refuse(x, failure{status: 404, message: "Invalid URL (" + x.req.Method + " /v1" + x.path + ")"})
}

func noModel(id string) failure {
	return failure{status: 404, code: "model_not_found", message: "The model `" + id + "` does not exist or you do not have access to it."}
}

// masked shows a key as OpenAI does: its beginning and end.
func masked(key string) string {
	if len(key) < 12 {
		return "********"
	}
	return key[:3] + "********" + key[len(key)-4:]
}

func (openAI) knows(id string) bool {
	if strings.HasPrefix(id, "sim-") || slices.Contains(openAIModels, id) || slices.Contains(openAIUnlisted, id) {
		return true
	}
	for _, snapshot := range openAISnapshots {
		if id == snapshot {
			return true
		}
	}
	return false
}

func (openAI) model(b []byte, id string) []byte {
	b = quote(append(b, `{"id":`...), id)
	return append(b, `,"object":"model","created":1789000000,"owned_by":"system","shutdown_date":null}`...)
}

// reasons reports whether a model thinks first; those take neither max_tokens nor a temperature, and leave logprobs out.
func (openAI) reasons(id string) bool {
	return strings.HasPrefix(id, "gpt-5") || strings.HasPrefix(id, "gpt-6") || strings.HasPrefix(id, "o3") || strings.HasPrefix(id, "o4")
}

func (o openAI) json(x *exchange, body []byte) error {
	return x.whole(head{status: 200, fields: field("Content-Type", "application/json") + o.fields(x, false)}, string(body), nil)
}

// fields are the header lines OpenAI puts on what it worked on.
func (openAI) fields(x *exchange, limits bool) string {
	f := field("x-request-id", x.id) + field("openai-version", "2020-10-01") + field("openai-processing-ms", "17") + field("openai-project", "proj_sim")
	if limits {
		f += "x-ratelimit-limit-requests: 500\r\nx-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-requests: 499\r\n" +
			"x-ratelimit-remaining-tokens: 199998\r\nx-ratelimit-reset-requests: 120ms\r\nx-ratelimit-reset-tokens: 0s\r\n"
	}
	return f
}

// refuse answers with OpenAI's error object.
func (o openAI) refuse(x *exchange, f failure) error {
	x.rejected = f.message
	message, kind, code := f.message, f.kind, f.code
	switch {
	case f.status == 429 && code == "insufficient_quota":
		message, kind = otherwise(message, "You exceeded your current quota, please check your plan and billing details."), "insufficient_quota"
	case f.status == 429:
		kind, code = otherwise(kind, "tokens"), otherwise(code, "rate_limit_exceeded")
		message = otherwise(message, "Rate limit reached for the model in organization org-sim on tokens per min (TPM): Limit 200000, Used 199000, Requested 3000. Please try again in 600ms.")
	case f.status >= 500:
		kind, message = otherwise(kind, "server_error"), otherwise(message, "The server had an error while processing your request. Sorry about that!")
	}
	kind, message = otherwise(kind, "invalid_request_error"), otherwise(message, "The request was refused.")
	b := quote([]byte(`{"error":{"message":`), message)
	b = quote(append(b, `,"type":`...), kind)
	b = nullable(append(b, `,"param":`...), f.param)
	b = nullable(append(b, `,"code":`...), code)
	b = append(b, "}}"...)
	fields := field("Content-Type", "application/json")
	if f.status == 400 || f.status == 429 && code == "rate_limit_exceeded" {
		fields += o.fields(x, true)
	} else {
		fields += field("x-request-id", x.id)
	}
	return x.whole(head{status: f.status, fields: fields + f.fields}, string(b), nil)
}

func otherwise(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func nullable(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return quote(b, s)
}

// chat answers POST /chat/completions.
func (o openAI) chat(x *exchange) error {
	if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
		return o.refuse(x, *bad("", "", "Invalid Content-Type header (%s). Expected application/json.", t))
	}
	q, f := openAIRules.parse(x.body)
	if f != nil {
		return o.refuse(x, *f)
	}
	x.rec.update(func(a *Attempt) { a.Model, a.Stream = q.model, q.stream })
	said, err := x.direct(q.user)
	if err != nil {
		return o.refuse(x, *bad("messages", "simulator_script", "The simulator does not understand the directive: %v", err))
	}
	if did, err := x.early(); did {
		return err
	}
	if f := o.suits(x.body, q); f != nil {
		return o.refuse(x, *f)
	}
	var hidden int64
	if o.reasons(q.model) && q.effort != "none" {
		hidden = 16
	}
	c := x.compose(q, said, hidden)
	if s, ok := openAISnapshots[q.model]; ok {
		c.model = s
	}
	if x.plan.fault == "wrong_model" {
		c.model = "sim-other"
	}
	if strings.HasPrefix(q.toolChoice, "=") && strings.HasPrefix(q.model, "gpt-4") && x.plan.finish == "" {
		for i := range c.answers {
			c.answers[i].finish = "stop" // a forced function is not reported as tool_calls by these
		}
	}
	w := &openAIWriter{chat: c, id: "chatcmpl-" + random(29), logprobs: !o.reasons(q.model)}
	w.fingerprint = `"fp_4c2851f862"`
	if o.reasons(q.model) {
		w.fingerprint = "null"
	}
	if x.plan.fault == "error_200" {
		return o.json(x, w.failure(nil, true))
	}
	if !q.stream || x.plan.fault == "json_instead" {
		return x.whole(head{status: 200, fields: field("Content-Type", "application/json") + o.fields(x, true)}, string(w.whole()), func(s *sender) {
			c.said(s)
			if raw := w.usageJSON(); raw != "" {
				s.raw, s.usage = w.usageOf(&event{kind: evUsage, text: x.plan.fake()})
			}
		})
	}
	list := c.events(true)
	if q.includeUsage {
		list = append(list, event{kind: evUsage})
	}
	list = append(list, event{kind: evDone})
	return x.stream(head{status: 200, fields: field("Content-Type", "text/event-stream; charset=utf-8") + o.fields(x, true)}, list, w)
}

// suits refuses models that do not chat, and what reasoning models do not take.
func (o openAI) suits(body []byte, q *chatRequest) *failure {
	switch {
	case !o.knows(q.model):
		f := noModel(q.model)
		return &f
	case strings.HasPrefix(q.model, "text-embedding") || strings.HasSuffix(q.model, "-codex"):
		return &failure{status: 404, param: "model", message: "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/completions?"}
	case !o.reasons(q.model):
		return nil
	}
	top := topLevel(body, "max_tokens", "temperature", "logprobs")
	if v := top[0]; v.Exists() && v.Raw != "null" {
		return bad("max_tokens", "unsupported_parameter", "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
	}
	if v := top[1]; v.Exists() && v.Raw != "null" && v.Num != 1 && q.effort != "none" {
		return bad("temperature", "unsupported_value", "Unsupported value: 'temperature' does not support %s with this model. Only the default (1) value is supported.", v.Raw)
	}
	if top[2].Bool() {
		return bad("logprobs", "unsupported_parameter", "Unsupported parameter: 'logprobs' is not supported with this model.")
	}
	return nil
}

// openAIWriter puts a chat into OpenAI's form.
type openAIWriter struct {
	*chat
	id          string
	fingerprint string // as JSON
	logprobs    bool   // the member is there at all
	prefix      []byte // what each chunk begins with, up to choices
}

// whole is the answer in one object.
func (w *openAIWriter) whole() []byte {
	b := make([]byte, 0, 1024)
	b = append(append(b, `{"id":"`...), w.id...)
	b = strconv.AppendInt(append(b, `","object":"chat.completion","created":`...), w.created, 10)
	b = quote(append(b, `,"model":`...), w.model)
	b = append(b, `,"choices":[`...)
	for i := range w.answers {
		a := &w.answers[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"index":`...), int64(i), 10)
		b = append(b, `,"message":{"role":"assistant","content":`...)
		if len(a.calls) > 0 || a.refusal != "" {
			b = append(b, "null"...)
		} else {
			b = w.quote(b, a.text)
		}
		b = nullable(append(b, `,"refusal":`...), a.refusal)
		for k := range a.calls {
			b = append(b, []string{`,"tool_calls":[`, `,`}[min(k, 1)]...)
			b = append(a.calls[k].json(append(b, '{'), a.calls[k].args), '}')
		}
		if len(a.calls) > 0 {
			b = append(b, ']')
		}
		b = append(b, `,"annotations":[]}`...)
		b = w.probabilities(b, a.pieces, a.text)
		b = append(quote(append(b, `,"finish_reason":`...), a.finish), '}')
	}
	b = append(b, ']')
	if u := w.usageJSON(); u != "" {
		b = append(append(b, `,"usage":`...), u...)
	}
	b = append(append(b, `,"service_tier":"default","system_fingerprint":`...), w.fingerprint...)
	return append(b, '}')
}

// json appends the members of a call, without braces.
func (c *call) json(b []byte, args string) []byte {
	b = quote(append(b, `"id":`...), c.id)
	if c.custom {
		b = quote(append(b, `,"type":"custom","custom":{"name":`...), c.name)
		return append(quote(append(b, `,"input":`...), args), '}')
	}
	b = quote(append(b, `,"type":"function","function":{"name":`...), c.name)
	return append(quote(append(b, `,"arguments":`...), args), '}')
}

// probabilities appends the logprobs member, if the model has one.
func (w *openAIWriter) probabilities(b []byte, tokens []string, text string) []byte {
	if !w.logprobs {
		return b
	}
	if !w.q.logprobs || text == "" {
		return append(b, `,"logprobs":null`...)
	}
	b = append(b, `,"logprobs":{"content":[`...)
	for i, t := range tokens {
		if i > 0 {
			b = append(b, ',')
		}
		b = w.quote(append(b, `{"token":`...), t)
		b = append(b, `,"logprob":-0.01,"bytes":[`...)
		for k := range len(t) {
			if k > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(t[k]), 10)
		}
		b = append(b, `],"top_logprobs":[]}`...)
	}
	return append(b, `],"refusal":null}`...)
}

// fake is the usage a fault puts in the place of the true one; "" if none.
func (p *plan) fake() string {
	if p.fault == "zero_usage" || p.fault == "hostile_usage" {
		return p.fakeUsage("prompt_tokens", "completion_tokens", "total_tokens")
	}
	return ""
}

// usageJSON is the usage as sent; "" if none is.
func (w *openAIWriter) usageJSON() string {
	if w.x.plan.fault == "no_usage" {
		return ""
	}
	raw, _ := w.usageOf(&event{kind: evUsage, text: w.x.plan.fake()})
	return raw
}

func (w *openAIWriter) usageOf(e *event) (string, *Usage) {
	if e.kind != evUsage {
		return "", nil
	}
	if e.text != "" {
		return e.text, w.x.plan.believable(e.text)
	}
	u := w.usage
	b := usageHead(nil, u)
	b = strconv.AppendInt(append(b, `,"prompt_tokens_details":{"cached_tokens":`...), u.Cached, 10)
	b = append(b, `,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":`...)
	b = strconv.AppendInt(b, u.Reasoning, 10)
	b = append(b, `,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`...)
	return string(b), &u
}

func usageHead(b []byte, u Usage) []byte {
	b = strconv.AppendInt(append(b, `{"prompt_tokens":`...), u.Prompt, 10)
	b = strconv.AppendInt(append(b, `,"completion_tokens":`...), u.Completion, 10)
	return strconv.AppendInt(append(b, `,"total_tokens":`...), u.Total, 10)
}

// believable is what a made-up usage says, where it says something a provider could mean.
func (p *plan) believable(raw string) *Usage {
	switch p.fault {
	case "zero_usage":
		return &Usage{}
	case "usage_twice":
		return &Usage{Prompt: 1, Completion: 1, Total: 2}
	}
	return nil
}

// failure appends an error object as it stands in a body or a stream.
func (w *openAIWriter) failure(b []byte, _ bool) []byte {
	p := w.x.plan
	message, kind, code := "The server had an error while processing your request. Sorry about that!", "server_error", p.code
	switch {
	case p.fault == "echo_key":
		message, kind, code = "Incorrect API key provided: "+w.x.key, "invalid_request_error", "invalid_api_key"
	case code == "rate_limit_exceeded":
		message, kind = "Rate limit reached during generation.", "tokens"
	}
	b = quote(append(b, `{"error":{"message":`...), message)
	b = quote(append(b, `,"type":`...), kind)
	b = nullable(append(b, `,"param":null,"code":`...), code)
	return append(b, "}}"...)
}

// render writes one chunk.
func (w *openAIWriter) render(b []byte, e *event) []byte {
	switch e.kind {
	case evDone:
		return append(b, "[DONE]"...)
	case evError:
		return w.failure(b, e.first)
	case evJSON:
		return append(b, e.text...)
	}
	if w.prefix == nil || w.x.plan.fault == "wrong_id" {
		if w.prefix != nil {
			w.id = "chatcmpl-" + random(29)
		}
		p := append(append([]byte(`{"id":"`), w.id...), `","object":"chat.completion.chunk","created":`...)
		p = strconv.AppendInt(p, w.created, 10)
		p = quote(append(p, `,"model":`...), w.model)
		p = append(append(p, `,"service_tier":"default","system_fingerprint":`...), w.fingerprint...)
		w.prefix = append(p, `,"choices":[`...)
	}
	b = append(b, w.prefix...)
	if e.kind == evUsage {
		raw, _ := w.usageOf(e)
		b = append(append(b, `],"usage":`...), raw...)
		return append(w.padding(b), '}')
	}
	b = strconv.AppendInt(append(b, `{"index":`...), int64(e.choice), 10)
	b = append(b, `,"delta":{`...)
	a := &w.answers[e.choice]
	switch e.kind {
	case evRole:
		if len(a.calls) > 0 {
			b = append(b, `"role":"assistant","content":null`...)
		} else {
			b = append(b, `"role":"assistant","content":"","refusal":null`...)
		}
	case evText:
		b = w.quote(append(b, `"content":`...), e.text)
	case evRefusal:
		b = w.quote(append(b, `"refusal":`...), e.text)
	case evCall:
		if e.first {
			b = append(b, `"role":"assistant","content":null,`...)
			if !a.calls[e.call].custom {
				b = append(b, `"refusal":null,`...)
			}
		}
		b = strconv.AppendInt(append(b, `"tool_calls":[{"index":`...), int64(e.call), 10)
		b = append(a.calls[e.call].json(append(b, ','), ""), "}]"...)
	case evArgs:
		b = strconv.AppendInt(append(b, `"tool_calls":[{"index":`...), int64(e.call), 10)
		if a.calls[e.call].custom {
			b = append(b, `,"custom":{"input":`...)
		} else {
			b = append(b, `,"function":{"arguments":`...)
		}
		b = append(w.quote(b, e.text), "}}]"...)
	}
	b = append(b, '}')
	text := ""
	if e.kind == evText {
		text = e.text
	}
	b = w.probabilities(b, []string{e.text}, text)
	if e.kind == evFinish {
		b = quote(append(b, `,"finish_reason":`...), a.finish)
	} else {
		b = append(b, `,"finish_reason":null`...)
	}
	b = append(b, "}]"...)
	if w.q.includeUsage {
		b = append(b, `,"usage":null`...)
	}
	return append(w.padding(b), '}')
}

// padding appends the obfuscation member: letters that hide how long the piece is.
func (w *openAIWriter) padding(b []byte) []byte {
	if !w.q.obfuscate {
		return b
	}
	const letters = "q37J093qzAOyabTiU1R92V6aXAonARNhz0PdVB4wR5zhflOyiSjRJ"
	n := int(uint(len(b)*7+len(w.id)) % 16)
	from := len(b) % (len(letters) - 16)
	return append(append(append(b, `,"obfuscation":"`...), letters[from:from+n]...), '"')
}
