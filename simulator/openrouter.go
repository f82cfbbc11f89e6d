package simulator

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// openRouter plays openrouter.ai: chat completions, embeddings, models and the key check.
type openRouter struct{}

func (openRouter) name() string             { return "openrouter" }
func (openRouter) base() string             { return "/openrouter/api/v1" }
func (openRouter) key(h http.Header) string { return bearer(h) }
func (openRouter) asks(path string) bool    { return path == "/chat/completions" || path == "/embeddings" }

// routed is a model with its price: pico-dollars a token, which is micro-dollars a million.
type routed struct {
	id                    string
	input, cached, output int64
}

var openRouterModels = []routed{
	{"anthropic/claude-fable-5.2", 8000000, 200000, 40000000},
	{"anthropic/claude-opus-5.5", 4000000, 200000, 20000000},
	{"anthropic/claude-sonnet-5.5", 2000000, 100000, 10000000},
	{"anthropic/claude-haiku-5.5", 100000, 10000, 500000},
	{"anthropic/claude-sonnet-4.6", 3000000, 300000, 15000000},
	{"openai/gpt-6-astra", 10000000, 1000000, 50000000},
	{"openai/gpt-6.1-sol", 2000000, 100000, 10000000},
	{"openai/gpt-6-luna", 100000, 10000, 500000},
	{"openai/gpt-4.1-mini", 400000, 100000, 1600000},
	{"google/gemini-4-argon", 2000000, 100000, 10000000},
	{"google/gemini-3.8-flash", 825000, 82500, 4125000},
	{"x-ai/grok-4.7", 2000000, 500000, 6000000},
	{"deepseek/deepseek-v4-pro", 955260, 79605, 1910520},
	{"deepseek/deepseek-v4.1-flash", 6000, 5000, 500000},
	{"moonshotai/kimi-k3.1-pro", 2000000, 200000, 10000000},
	{"z-ai/glm-5.3", 69900, 68900, 1400000},
	{"qwen/qwen3.7-max", 1475000, 295000, 4425000},
	{"meta/muse-spark-1.3", 1250000, 150000, 4250000},
	{"mistralai/mistral-large-4-0", 700000, 70000, 2100000},
	{"perplexity/sonar", 1000000, 1000000, 1000000},
	{"openrouter/auto", 1000000, 100000, 2000000},
	{"sim-1", 1000000, 100000, 2000000},
}

// vendor is who makes a model, and how its API says why it stopped.
type vendor struct{ name, stop, calls, length, format string }

var vendors = map[string]vendor{
	"anthropic": {"Anthropic", "end_turn", "tool_use", "max_tokens", "anthropic-claude-v1"},
	"google":    {"Google AI Studio", "STOP", "STOP", "MAX_TOKENS", "google-gemini-v1"},
	"openai":    {"OpenAI", "completed", "tool_calls", "length", "openai-responses-v1"},
	"x-ai":      {"xAI", "stop", "tool_calls", "length", "xai-responses-v1"},
}

var openRouterRules = rules{parts: set("text", "image_url", "input_audio", "file", "video_url")}

func (o openRouter) serve(x *exchange) error {
	public := (x.path == "/models" || x.path == "/embeddings/models") && x.req.Method == "GET"
	if x.key == "" && !public {
		return o.refuse(x, failure{status: 401, message: "Missing Authentication header"})
	}
	if x.key != "" && !x.s.opt.AcceptKey(o.name(), x.key) && !public {
		return o.refuse(x, failure{status: 401, message: "User not found."})
	}
	switch {
	case x.path == "/chat/completions" && x.req.Method == "POST":
		return o.chat(x)
	case x.path == "/embeddings" && x.req.Method == "POST":
		return o.embeddings(x)
	}
	x.scripted()
	if did, err := x.early(); did {
		return err
	}
	switch {
	case public && x.path == "/models":
		return o.json(x, o.models(openRouterModels, "text"))
	case public:
		return o.json(x, o.models(routedEmbedders, "embeddings"))
	case x.path == "/key" && x.req.Method == "GET":
		return o.json(x, o.keyInfo(x.key))
	}
	return o.refuse(x, failure{status: 404, message: "Not Found"})
}

func (openRouter) json(x *exchange, body []byte) error {
	return x.whole(head{status: 200, fields: field("Content-Type", "application/json")}, string(body), nil)
}

// find looks a model up: a variant (":free") or an alias ("~") is known with what it stands on.
func (openRouter) find(id string) (routed, bool) {
	bare, _, _ := strings.Cut(strings.TrimPrefix(id, "~"), ":")
	if i := slices.IndexFunc(openRouterModels, func(m routed) bool { return m.id == bare }); i >= 0 {
		m := openRouterModels[i]
		if strings.HasSuffix(id, ":free") {
			m = routed{id: id}
		}
		return m, true
	}
	if _, name, ok := strings.Cut("/"+bare, "/sim-"); ok && name != "" {
		return routed{bare, 1000000, 100000, 2000000}, true
	}
	return routed{}, false
}

// suits refuses models that there are not, and hands to the vendor the signatures of thoughts that came back.
func (o openRouter) suits(body []byte, q *chatRequest) (routed, *failure) {
	m, ok := o.find(q.model)
	if !ok {
		return m, &failure{status: 400, message: q.model + " is not a valid model ID"}
	}
	maker, name, _ := strings.Cut(m.id, "/")
	v, signs := vendors[maker]
	if !signs {
		return m, nil
	}
	var f *failure
	gjson.GetBytes(body, "messages").ForEach(func(_, message gjson.Result) bool {
		message.Get("reasoning_details").ForEach(func(_, d gjson.Result) bool {
			if sealed := d.Get("signature").Str + d.Get("data").Str; sealed != "" && (d.Get("format").Str != v.format || !ofFamily(sealed, name)) {
				f = &failure{status: 400, message: "Provider returned error", meta: string(quote([]byte(`{"raw":"Corrupted thought signature.","provider_name":`), v.name)) + "}"}
			}
			return f == nil
		})
		return f == nil
	})
	return m, f
}

// ofFamily reports whether a signature, if it is one of ours for Gemini, is of the model's family.
func ofFamily(signature, model string) bool {
	b, err := bytesOf(signature)
	if err != nil {
		return true
	}
	rest, ours := strings.CutPrefix(string(b), googleSign+signMark)
	family, _, _ := strings.Cut(rest, "|")
	return !ours || family == geminiFamily(model)
}

// models is a list of models that write text, or embeddings.
func (openRouter) models(list []routed, output string) []byte {
	b := []byte(`{"data":[`)
	for i, m := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(append(b, `{"id":`...), m.id)
		b = quote(append(b, `,"canonical_slug":`...), m.id)
		b = quote(append(b, `,"hugging_face_id":"","name":`...), m.id)
		b = append(b, `,"created":1792454400,"description":"Simulated","context_length":1050000,"architecture":{"modality":"text->`+output+`",`+
			`"input_modalities":["text"],"output_modalities":["`+output+`"],"tokenizer":"Other","instruct_type":null},"pricing":{"prompt":"`...)
		b = dollars(b, m.input)
		b = dollars(append(b, `","completion":"`...), m.output)
		b = dollars(append(b, `","input_cache_read":"`...), m.cached)
		b = append(b, `"},"top_provider":{"context_length":1050000,"max_completion_tokens":128000,"is_moderated":false},"per_request_limits":null,`+
			`"supported_parameters":["max_tokens","reasoning","response_format","tool_choice","tools"],"default_parameters":{},`+
			`"supported_voices":null,"knowledge_cutoff":null,"expiration_date":null}`...)
	}
	return append(b, "]}"...)
}

func (openRouter) keyInfo(key string) []byte {
	label := "sk-or-v1-..."
	if len(key) > 12 {
		label = key[:9] + "..." + key[len(key)-4:]
	}
	b := quote([]byte(`{"data":{"label":`), label)
	return append(b, `,"limit":100,"limit_remaining":74.5,"limit_reset":"monthly","include_byok_in_limit":false,"usage":25.5,"usage_daily":1.25,`+
		`"usage_weekly":6,"usage_monthly":25.5,"byok_usage":0,"byok_usage_daily":0,"byok_usage_weekly":0,"byok_usage_monthly":0,`+
		`"is_free_tier":false,"is_management_key":false,"is_provisioning_key":false,"expires_at":null,"creator_user_id":null,`+
		`"rate_limit":{"requests":-1,"interval":"10s","note":"deprecated"}}}`...)
}

// refuse answers with OpenRouter's error object.
func (o openRouter) refuse(x *exchange, f failure) error {
	x.rejected = f.message
	message, meta, fields := f.message, f.meta, field("Content-Type", "application/json")
	switch f.status {
	case 402:
		message = otherwise(message, "Insufficient credits. Add more using https://openrouter.ai/credits")
	case 403:
		message = otherwise(message, "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys")
	case 429:
		message = otherwise(message, "Provider returned error")
		meta = otherwise(meta, `{"raw":"the model is temporarily rate-limited upstream. Please retry shortly.","provider_name":"OpenAI","error_type":"rate_limit_exceeded"}`)
	case 500:
		message = otherwise(message, "Internal Server Error")
	case 502, 503, 529:
		message = otherwise(message, "Provider returned error")
		meta = otherwise(meta, `{"provider_name":"DeepInfra","raw":"{\"error\":\"simulated\"}"}`)
	case 408, 524:
		message = otherwise(message, "Request timed out. Please try again later.")
	}
	if f.status == 429 && f.code == "free" { // the platform's own limit tells when it ends
		reset := strconv.FormatInt(x.rec.a.Begun.UnixMilli()+37_000, 10)
		message = "Rate limit exceeded: free-models-per-min. "
		meta = `{"headers":{"X-RateLimit-Limit":"20","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"` + reset + `"}}`
		fields += field("X-RateLimit-Limit", "20") + field("X-RateLimit-Remaining", "0") + field("X-RateLimit-Reset", reset)
	}
	b := quote([]byte(`{"error":{"message":`), otherwise(message, "Unprocessable request"))
	b = strconv.AppendInt(append(b, `,"code":`...), int64(f.status), 10)
	if meta != "" {
		b = append(append(b, `,"metadata":`...), meta...)
	}
	b = append(b, '}')
	if f.status != 401 {
		b = append(b, `,"user_id":"user_sim"`...)
	}
	return x.whole(head{status: f.status, fields: fields + f.fields}, string(append(b, '}')), nil)
}

// chat answers POST /chat/completions.
func (o openRouter) chat(x *exchange) error {
	if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
		return o.refuse(x, failure{status: 400, message: "Invalid Content-Type: expected application/json"})
	}
	q, f := openRouterRules.parse(x.body)
	if f != nil {
		return o.refuse(x, *f)
	}
	x.rec.update(func(a *Attempt) { a.Model, a.Stream = q.model, q.stream })
	said, err := x.direct(q.user)
	if err != nil {
		return o.refuse(x, failure{status: 400, message: "The simulator does not understand the directive: " + err.Error()})
	}
	if did, err := x.early(); did {
		return err
	}
	m, f := o.suits(x.body, q)
	if f != nil {
		return o.refuse(x, *f)
	}
	c := x.compose(q, said, 0)
	if x.plan.fault == "wrong_model" {
		c.model = "sim-other"
	}
	maker, _, _ := strings.Cut(q.model, "/")
	w := &openRouterWriter{chat: c, vendor: vendor{"Simulator", "stop", "tool_calls", "length", "unknown"}}
	if v, ok := vendors[maker]; ok {
		w.vendor = v
	}
	if strings.HasPrefix(m.id, "openai/gpt-4") {
		w.vendor.stop = "stop"
	}
	x.id = "gen-" + strconv.FormatInt(c.created, 10) + "-" + random(20)
	w.id = x.id
	fresh := (c.usage.Prompt - c.usage.Cached) * m.input
	w.inputCost, w.outputCost = fresh+c.usage.Cached*m.cached, c.usage.Completion*m.output
	c.usage.CostPico = w.inputCost + w.outputCost
	generation := field("X-Generation-Id", x.id)
	if x.plan.fault == "error_200" {
		return o.json(x, w.failure(nil, true))
	}
	if !q.stream || x.plan.fault == "json_instead" {
		return x.whole(head{status: 200, fields: field("Content-Type", "application/json") + generation}, string(w.whole()), func(s *sender) {
			c.said(s)
			if x.plan.fault != "no_usage" {
				s.raw, s.usage = w.usageOf(&event{kind: evUsage, text: x.plan.fake()})
			}
		})
	}
	return x.stream(head{status: 200, fields: field("Content-Type", "text/event-stream") + generation}, w.list(), w)
}

// processing is the comment that says the provider is at work.
const processing = ": OPENROUTER PROCESSING\n\n"

// list is the whole stream: comments, pieces, usage, [DONE].
func (w *openRouterWriter) list() []event {
	list := slices.Insert(w.events(false), 0, event{kind: evLines, text: processing}, event{kind: evLines, text: processing})
	list = slices.Insert(list, place(list, 1), event{kind: evLines, text: processing})
	return append(list, event{kind: evUsage}, event{kind: evDone})
}

// openRouterWriter puts a chat into OpenRouter's form.
type openRouterWriter struct {
	*chat
	id                    string
	vendor                vendor
	inputCost, outputCost int64 // pico-dollars
	prefix                []byte
}

// begin appends what every object begins with.
func (w *openRouterWriter) begin(b []byte, object string) []byte {
	b = append(append(b, `{"id":"`...), w.id...)
	b = quote(append(b, `","provider":`...), w.vendor.name)
	b = quote(append(b, `,"model":`...), w.model)
	b = append(append(b, `,"object":"`...), object...)
	return strconv.AppendInt(append(b, `","created":`...), w.created, 10)
}

// native is the vendor's own word for a finish_reason.
func (w *openRouterWriter) native(finish string) string {
	switch finish {
	case "stop":
		return w.vendor.stop
	case "tool_calls":
		return w.vendor.calls
	case "length":
		return w.vendor.length
	}
	return finish
}

// finish appends finish_reason, native_finish_reason and logprobs.
func (w *openRouterWriter) finish(b []byte, reason string) []byte {
	b = quote(append(b, `,"finish_reason":`...), reason)
	b = quote(append(b, `,"native_finish_reason":`...), w.native(reason))
	return append(b, `,"logprobs":null`...)
}

const signature = "9dXPH2xm03u1haS71+Xb/XPaYiPStX6z+WTKQ26AH7HmA5QuV8jl9g=="

// whole is the answer in one object.
func (w *openRouterWriter) whole() []byte {
	b := append(w.begin(nil, "chat.completion"), `,"choices":[`...)
	for i := range w.answers {
		a := &w.answers[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(append(b, `{"logprobs":null,"finish_reason":`...), a.finish)
		b = quote(append(b, `,"native_finish_reason":`...), w.native(a.finish))
		b = strconv.AppendInt(append(b, `,"index":`...), int64(i), 10)
		b = w.quote(append(b, `,"message":{"role":"assistant","content":`...), a.text)
		b = nullable(append(b, `,"refusal":`...), a.refusal)
		b = nullable(append(b, `,"reasoning":`...), a.thought)
		if a.thought != "" {
			b = w.details(append(b, `,"reasoning_details":[`...), a.thought, signature, true)
			b = append(b, ']')
		}
		for k := range a.calls {
			b = append(b, []string{`,"tool_calls":[{"index":`, `,{"index":`}[min(k, 1)]...)
			b = append(strconv.AppendInt(b, int64(k), 10), ',')
			b = append(a.calls[k].json(b, a.calls[k].args), '}')
		}
		if len(a.calls) > 0 {
			b = append(b, ']')
		}
		b = append(b, "}}"...)
	}
	b = append(b, `],"system_fingerprint":null`...)
	if w.x.plan.fault != "no_usage" {
		raw, _ := w.usageOf(&event{kind: evUsage, text: w.x.plan.fake()})
		b = append(append(b, `,"usage":`...), raw...)
	}
	return append(b, '}')
}

// details appends one entry of reasoning_details; empty members are left out.
func (w *openRouterWriter) details(b []byte, text, sign string, id bool) []byte {
	b = append(b, `{"type":"reasoning.text"`...)
	if text != "" {
		b = quote(append(b, `,"text":`...), text)
	}
	if sign != "" {
		b = quote(append(b, `,"signature":`...), sign)
	}
	if id {
		b = append(b, `,"id":null`...)
	}
	return append(quote(append(b, `,"format":`...), w.vendor.format), `,"index":0}`...)
}

func (w *openRouterWriter) usageOf(e *event) (string, *Usage) {
	if e.kind != evUsage {
		return "", nil
	}
	if e.text != "" {
		return e.text, w.x.plan.believable(e.text)
	}
	u := w.usage
	b := cost(append(usageHead(nil, u), `,"cost":`...), u.CostPico)
	b = strconv.AppendInt(append(b, `,"is_byok":false,"prompt_tokens_details":{"cached_tokens":`...), u.Cached, 10)
	b = append(b, `,"cache_write_tokens":0,"audio_tokens":0,"video_tokens":0},"cost_details":{"upstream_inference_cost":null,"upstream_inference_prompt_cost":`...)
	b = cost(append(cost(b, w.inputCost), `,"upstream_inference_completions_cost":`...), w.outputCost)
	b = strconv.AppendInt(append(b, `},"completion_tokens_details":{"reasoning_tokens":`...), u.Reasoning, 10)
	b = append(b, `,"image_tokens":0,"audio_tokens":0}}`...)
	return string(b), &u
}

// cost appends pico-dollars as JavaScript prints a number of dollars: exactly, and below 10⁻⁶ with an exponent.
func cost(b []byte, pico int64) []byte {
	if pico <= 0 || pico >= 1_000_000 {
		return dollars(b, pico)
	}
	digits := strconv.FormatInt(pico, 10)
	exponent := len(digits) - 13
	digits = strings.TrimRight(digits, "0")
	b = append(b, digits[0])
	if len(digits) > 1 {
		b = append(append(b, '.'), digits[1:]...)
	}
	return strconv.AppendInt(append(b, 'e'), int64(exponent), 10)
}

// dollars appends pico-dollars as a decimal number of dollars, exactly.
func dollars(b []byte, pico int64) []byte {
	const dollar = 1_000_000_000_000
	b = strconv.AppendInt(b, pico/dollar, 10)
	rest := pico % dollar
	if rest == 0 {
		return b
	}
	digits := strconv.FormatInt(rest+dollar, 10)[1:]
	return append(append(b, '.'), strings.TrimRight(digits, "0")...)
}

// failure appends an error: alone, where nothing came before it, else in a chunk that ends the choice.
func (w *openRouterWriter) failure(b []byte, alone bool) []byte {
	p := w.x.plan
	message, code := "Provider disconnected unexpectedly", "502"
	switch {
	case p.fault == "echo_key":
		message, code = "No auth credentials found for key "+w.x.key, "401"
	case p.code != "":
		code = p.code
		if _, err := strconv.Atoi(code); err != nil {
			code = string(quote(nil, code))
		}
	}
	mistake := append(append([]byte(`{"code":`), code...), `,"message":`...)
	mistake = append(quote(mistake, message), `,"metadata":{"error_type":"provider_unavailable","provider_code":"server_error"}}`...)
	if alone {
		b = append(append(b, `{"error":`...), mistake...)
		return append(b, `,"user_id":"user_sim"}`...)
	}
	b = append(append(w.begin(b, "chat.completion.chunk"), `,"error":`...), mistake...)
	return append(b, `,"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}`...)
}

// render writes one chunk.
func (w *openRouterWriter) render(b []byte, e *event) []byte {
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
			w.id = "gen-" + strconv.FormatInt(w.created, 10) + "-" + random(20)
		}
		w.prefix = append(w.begin(nil, "chat.completion.chunk"), `,"choices":[`...)
	}
	b = append(b, w.prefix...)
	if e.kind == evUsage {
		if w.x.plan.form == "choice" { // the other form: the choice comes once more, finish and all
			b = append(w.finish(append(b, `{"index":0,"delta":{"role":"assistant","content":""}`...), w.answers[0].finish), '}')
		}
		raw, _ := w.usageOf(e)
		return append(append(append(b, `],"usage":`...), raw...), '}')
	}
	b = strconv.AppendInt(append(b, `{"index":`...), int64(e.choice), 10)
	b = append(b, `,"delta":{"role":"assistant","content":`...)
	a := &w.answers[e.choice]
	switch e.kind {
	case evText:
		b = w.quote(b, e.text)
	case evRefusal:
		b = w.quote(append(b, `"","refusal":`...), e.text)
	case evThought:
		b = w.quote(append(b, `"","reasoning":`...), e.text)
		b = append(w.details(append(b, `,"reasoning_details":[`...), e.text, "", false), ']')
	case evSignature:
		b = append(w.details(append(b, `"","reasoning_details":[`...), "", signature, false), ']')
	case evCall:
		b = strconv.AppendInt(append(b, `null,"tool_calls":[{"index":`...), int64(e.call), 10)
		b = append(a.calls[e.call].json(append(b, ','), ""), "}]"...)
	case evArgs:
		b = strconv.AppendInt(append(b, `null,"tool_calls":[{"index":`...), int64(e.call), 10)
		b = append(w.quote(append(b, `,"type":"function","function":{"arguments":`...), e.text), "}}]"...)
	default:
		b = append(b, `""`...)
	}
	b = append(b, '}')
	if e.kind == evFinish {
		b = w.finish(b, a.finish)
	} else {
		b = append(b, `,"finish_reason":null,"native_finish_reason":null,"logprobs":null`...)
	}
	return append(b, "}]}"...)
}
