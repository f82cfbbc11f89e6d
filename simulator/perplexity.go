package simulator

import (
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// perplexity plays api.perplexity.ai: the Agent API, embeddings, the models, the Router API's list (which tells good keys),
// and in sonar.go the chat completions that came before.
type perplexity struct{}

func (perplexity) name() string             { return "perplexity" }
func (perplexity) base() string             { return "/perplexity" }
func (perplexity) key(h http.Header) string { return bearer(h) }

func (p perplexity) asks(path string) bool {
	return p.agent(path) || p.sonar(path) || path == embeddingsPath
}

const embeddingsPath = "/v1/embeddings"

func (perplexity) agent(path string) bool {
	return path == "/v1/responses" || path == "/v1/agent" || path == "/responses"
}

func (perplexity) sonar(path string) bool { return path == "/chat/completions" || path == "/v1/sonar" }

func (p perplexity) serve(x *exchange) error {
	public := x.path == "/v1/models" && x.req.Method == "GET"
	if !public && (x.key == "" || !x.s.opt.AcceptKey(p.name(), x.key)) {
		return p.refuse(x, failure{status: 401})
	}
	if x.req.Method == "POST" && p.asks(x.path) {
		if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
			return p.refuse(x, *mistakes([]mistyped{{[]string{"body"}, "Input should be a valid dictionary or object to extract fields from", "model_attributes_type"}}))
		}
		if x.path == embeddingsPath {
			return p.embeddings(x)
		}
		if p.agent(x.path) {
			return p.respond(x)
		}
		return p.complete(x)
	}
	x.scripted()
	if did, err := x.early(); did {
		return err
	}
	if x.req.Method == "GET" && (public || x.path == "/router/v1/models") {
		return p.json(x, p.models())
	}
	return p.refuse(x, failure{status: 404})
}

func (perplexity) models() []byte {
	b := []byte(`{"object":"list","data":[`)
	for i, m := range agentModels {
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(append(b, `{"id":`...), m.id)
		maker, _, _ := strings.Cut(m.id, "/")
		b = append(quote(append(b, `,"object":"model","created":0,"owned_by":`...), maker), '}')
	}
	return append(b, "]}"...)
}

func (perplexity) json(x *exchange, body []byte) error {
	return x.whole(head{status: 200, fields: field("Content-Type", "application/json")}, string(body), nil)
}

// perplexityErrors are the type and the message of each status, where nothing better is known.
var perplexityErrors = map[int][2]string{
	400: {"invalid_request", "Bad request"},
	401: {"invalid_api_key", "Invalid API key provided. You can find your API key at https://console.perplexity.ai."},
	403: {"forbidden", "The Router API is currently in limited preview"},
	404: {"not_found", "Not found"},
	422: {"invalid_request", "Unprocessable request"},
	429: {"request_rate_limit_exceeded", "Request rate limit exceeded, please try again later."},
	500: {"internal_server_error", "Internal server error"},
	503: {"service_unavailable", "The service is overloaded"},
}

// retired are the ways to say that chat completions are no more.
var retired = map[string]string{
	"agent_api_migration_required":   "Use `/v1/responses` instead of `/chat/completions`.",
	"chat_completions_not_available": "Sonar is now the Agent API. Use /v1/responses instead of /v1/sonar.",
}

// refuse answers in one of Perplexity's forms: an error object, whose code is a word or the status again, a list of
// mistyped members, or an HTML page (code=html).
func (p perplexity) refuse(x *exchange, f failure) error {
	x.rejected = otherwise(f.message, perplexityErrors[f.status][1])
	if f.code == "html" {
		title := strconv.Itoa(f.status) + " " + reason(f.status)
		if f.status == 401 {
			title = "401 Authorization Required"
		}
		return x.whole(head{status: f.status, fields: field("Content-Type", "text/html") + f.fields}, "<html>\r\n<head><title>"+title+"</title></head>\r\n"+
			"<body>\r\n<center><h1>"+title+"</h1></center>\r\n<hr><center>openresty/1.25.3.1</center>\r\n</body>\r\n</html>\r\n", nil)
	}
	fields := field("Content-Type", "application/json") + f.fields
	if f.status == 422 && f.meta != "" {
		return x.whole(head{status: 422, fields: fields}, f.meta, nil)
	}
	kind, message := f.kind, f.message
	if text := retired[f.code]; text != "" {
		kind, message, f.code = f.code, text, ""
	}
	if f.code == "insufficient_quota" {
		kind, message, f.code = "insufficient_quota", "You have run out of credits.", ""
	}
	b := quote([]byte(`{"error":{"message":`), otherwise(otherwise(message, perplexityErrors[f.status][1]), "The request failed."))
	b = quote(append(b, `,"type":`...), otherwise(otherwise(kind, perplexityErrors[f.status][0]), "error"))
	b = append(b, `,"code":`...)
	if f.code == "" || f.code == "invalid_api_key" {
		b = strconv.AppendInt(b, int64(f.status), 10)
	} else {
		b = quote(b, f.code)
	}
	return x.whole(head{status: f.status, fields: fields}, string(append(b, "}}"...)), nil)
}

// respond answers POST /v1/responses.
func (p perplexity) respond(x *exchange) error {
	q, f := readAgent(x.body)
	if f != nil {
		return p.refuse(x, *f)
	}
	top := topLevel(x.body, "model", "preset")
	x.rec.update(func(a *Attempt) { a.Model, a.Stream = otherwise(top[0].Str, top[1].Str), q.stream })
	said, err := x.direct(q.user)
	if err != nil {
		return p.refuse(x, *failed("simulator_script", "the simulator does not understand the directive: %v", err))
	}
	if did, err := x.early(); did {
		return err
	}
	root, _ := readBody(x.body)
	if f := q.pick(root); f != nil {
		return p.refuse(x, *f)
	}
	w := newAgentWriter(x, q, said)
	if x.plan.fault == "error_200" {
		w.status = "failed"
		return p.json(x, w.response(nil, w.status))
	}
	h := head{status: 200, fields: field("Content-Type", "application/json")}
	if !q.stream || x.plan.fault == "json_instead" {
		return x.whole(h, string(w.response(nil, w.status)), func(s *sender) {
			w.said(s)
			s.raw, s.usage = w.told()
		})
	}
	h.fields = field("Content-Type", "text/event-stream; charset=utf-8") + field("Cache-Control", "no-cache")
	return x.stream(h, w.list(), w)
}

// searchTool is what Perplexity's own search is called where it shows as a call.
const searchTool = "search_web"

// agentWriter puts an answer into the Agent API's form.
type agentWriter struct {
	*chat
	q                    *agentRequest
	id, item             string
	query                string
	searched             bool
	status               string
	inCost, outCost      int64 // pico-dollars
	cachedCost, toolCost int64
	seq                  int64
	last                 string // the type of the event just rendered
	raw                  string
	honest               *Usage
}

// newAgentWriter decides what to answer and counts what it costs.
func newAgentWriter(x *exchange, q *agentRequest, said string) *agentWriter {
	var hidden int64
	if q.effort != "" || q.preset != "" && q.preset != "fast" && q.preset != "low" {
		hidden = 16
	}
	searched := q.search && x.plan.search != "off"
	if searched {
		q.marks = " [1][2]"
		if q.preset == "medium" {
			q.marks = " [web:1][web:2]"
		}
	}
	w := &agentWriter{chat: x.compose(&q.chatRequest, said, hidden), q: q, query: clip(said, 60), searched: searched}
	a := &w.answers[0]
	a.text, a.refusal = a.text+a.refusal, ""
	if len(a.calls) > 0 {
		w.searched = false
	}
	w.id, w.item = "resp_"+uuid(), "msg_"+uuid()
	x.id = w.id
	if x.plan.fault == "wrong_model" {
		w.model = "sim-other"
	}
	switch w.status = "completed"; {
	case a.finish == "length", a.finish == "content_filter":
		w.status = "incomplete"
	case a.finish == "tool_calls" && !strings.HasPrefix(q.model, "openai/"):
		w.status = "requires_action"
	case a.finish != "stop" && a.finish != "tool_calls":
		w.status = a.finish
	}
	if w.brief() {
		w.usage.Cached, w.usage.Reasoning = 0, 0 // nobody is told
	}
	u := &w.usage
	w.inCost, w.cachedCost, w.outCost = (u.Prompt-u.Cached)*q.used.input, u.Cached*q.used.cached, u.Completion*q.used.output
	if w.searched {
		w.toolCost = 2_500_000_000
		if q.preset == "fast" {
			w.toolCost = 1_000_000_000
		}
	}
	u.CostPico = w.inCost + w.cachedCost + w.outCost + w.toolCost
	return w
}

// brief reports whether the usage comes without its details, as it does where a vendor's model calls a function.
func (w *agentWriter) brief() bool {
	return len(w.answers[0].calls) > 0 && w.status == "requires_action"
}

func uuid() string {
	h := hexes(32)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}

// searchResults are what every search finds.
const searchResults = `[{"id":1,"url":"https://example.org/one","title":"The first page","snippet":"It says so.","date":"2026-08-12",` +
	`"last_updated":"2026-11-01","source":"web"},{"id":2,"url":"https://example.com/two","title":"The second page","snippet":"",` +
	`"date":"2026-08-12","last_updated":"2026-11-01","source":"web"}]`

// list is the whole stream, in the order in which Perplexity sends it.
func (w *agentWriter) list() []event {
	step := func(what string) event { return event{kind: evStep, text: what} }
	list := []event{step("response.created"), step("response.in_progress")}
	if w.searched {
		list = append(list, step("search"), step("response.reasoning.search_queries"), step("response.reasoning.search_results"), step("searched"))
	}
	a := &w.answers[0]
	for k, c := range a.calls { // calls come whole, and twice
		list = append(list, event{kind: evCall, call: k}, event{kind: evArgs, call: k, text: c.args})
	}
	if len(a.calls) == 0 {
		list = append(list, step("message"))
		for _, t := range a.pieces {
			list = append(list, event{kind: evText, text: t})
		}
		list = append(list, step("response.output_text.done"), step("said"))
	}
	return append(list, event{kind: evDone})
}

// begin appends the type and the number of an event. Numbers have gaps.
func (w *agentWriter) begin(b []byte, kind string, gap int64) []byte {
	w.seq += gap
	w.last = kind
	b = quote(append(b, `{"type":`...), kind)
	b = strconv.AppendInt(append(b, `,"sequence_number":`...), w.seq, 10)
	w.seq++
	return b
}

// render writes one event.
func (w *agentWriter) render(b []byte, e *event) []byte {
	w.raw, w.last = "", ""
	if w.x.plan.fault == "wrong_id" {
		w.id, w.item = "resp_"+uuid(), "msg_"+uuid()
	}
	switch e.kind {
	case evJSON:
		return append(b, e.text...)
	case evError:
		b = w.mistake(append(w.begin(b, "response.failed", 1), ','))
		if w.x.plan.kind == "response" {
			w.status = "failed"
			b = w.response(append(b, `,"response":`...), w.status)
		}
		return append(b, '}')
	case evDone:
		w.raw, w.honest = w.told()
		kind := "response.completed"
		if w.status == "incomplete" || w.status == "failed" || w.status == "cancelled" {
			kind = "response." + w.status
		}
		return append(w.response(append(w.begin(b, kind, 0), `,"response":`...), w.status), '}')
	case evCall, evArgs:
		kind, status := "response.output_item.added", running
		if e.kind == evArgs {
			kind, status = "response.output_item.done", "completed"
		}
		b = strconv.AppendInt(append(w.begin(b, kind, 0), `,"output_index":`...), int64(e.call), 10)
		return append(w.call(append(b, `,"item":`...), e.call, status), '}')
	case evStep:
		return w.step(b, e.text)
	}
	b = w.place(w.begin(b, "response.output_text.delta", 0))
	return append(w.quote(append(b, `,"delta":`...), e.text), '}')
}

// place appends which part of the output an event is about.
func (w *agentWriter) place(b []byte) []byte {
	b = quote(append(b, `,"item_id":`...), w.item)
	b = strconv.AppendInt(append(b, `,"output_index":`...), w.index(), 10)
	return append(b, `,"content_index":0`...)
}

// index is that of the message in the output.
func (w *agentWriter) index() int64 {
	if w.searched {
		return 1
	}
	return 0
}

func (w *agentWriter) step(b []byte, what string) []byte {
	queries := append(quote([]byte(`"queries":[`), w.query), ']')
	switch what {
	case "response.created", "response.in_progress":
		return append(w.response(append(w.begin(b, what, 0), `,"response":`...), running), '}')
	case "search": // Perplexity's own, not for the caller to answer
		b = append(w.begin(b, "response.output_item.added", 1), `,"output_index":0,"item":{"type":"function_call","id":`...)
		b = append(quote(b, "fc_"+uuid()), `,"call_id":"call_s1","name":"`+searchTool+`","arguments":`...)
		return append(quote(b, "{"+string(queries)+"}"), `,"status":"in_progress"}}`...)
	case "response.reasoning.search_queries":
		return append(append(append(w.begin(b, what, 0), ','), queries...), `,"thought":"","call_id":"call_s1"}`...)
	case "response.reasoning.search_results":
		return append(w.begin(b, what, 1), `,"results":`+searchResults+`,"thought":""}`...)
	case "searched":
		return append(w.found(append(w.begin(b, "response.output_item.done", 0), `,"output_index":0,"item":`...)), '}')
	case "message":
		b = strconv.AppendInt(append(w.begin(b, "response.output_item.added", 2), `,"output_index":`...), w.index(), 10)
		b = quote(append(b, `,"item":{"type":"message","id":`...), w.item)
		return append(b, `,"role":"assistant","status":"completed","content":null}}`...)
	case "response.output_text.done":
		return append(w.quote(append(w.place(w.begin(b, what, 0)), `,"text":`...), w.answers[0].text), '}')
	}
	b = strconv.AppendInt(append(w.begin(b, "response.output_item.done", 0), `,"output_index":`...), w.index(), 10)
	return append(w.message(append(b, `,"item":`...)), '}')
}

// found appends the search as an item of the output.
func (w *agentWriter) found(b []byte) []byte {
	b = quote(append(b, `{"type":"search_results","queries":[`...), w.query)
	return append(b, `],"results":`+searchResults+`}`...)
}

// message appends the answer as an item of the output. Perplexity's own model annotates, the others leave it at marks.
func (w *agentWriter) message(b []byte) []byte {
	a := &w.answers[0]
	b = quote(append(b, `{"type":"message","id":`...), w.item)
	b = w.quote(append(b, `,"role":"assistant","status":"completed","content":[{"type":"output_text","text":`...), a.text)
	b = append(b, `,"annotations":[`...)
	if at := strings.LastIndex(a.text, "[1][2]"); at >= 0 && w.searched && w.q.model == "perplexity/sonar" {
		start := int64(utf8.RuneCountInString(a.text[:at]))
		for i, url := range []string{"https://example.org/one", "https://example.com/two"} {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(append(b, `{"type":"url_citation","start_index":`...), start+int64(3*i), 10)
			b = strconv.AppendInt(append(b, `,"end_index":`...), start+int64(3*i+3), 10)
			b = quote(append(b, `,"url":`...), url)
			b = append(quote(append(b, `,"title":`...), []string{"The first page", "The second page"}[i]), '}')
		}
	}
	return append(b, "]}]}"...)
}

// call appends a function call as an item of the output. Google's models sign the first.
func (w *agentWriter) call(b []byte, k int, status string) []byte {
	c := &w.answers[0].calls[k]
	b = quote(append(b, `{"type":"function_call","id":`...), "fc_"+c.id)
	b = quote(append(b, `,"call_id":`...), c.id)
	b = quote(append(b, `,"name":`...), c.name)
	b = quote(append(b, `,"arguments":`...), c.args)
	b = quote(append(b, `,"status":`...), status)
	if model, ok := strings.CutPrefix(w.q.model, "google/"); ok && k == 0 {
		b = quote(append(b, `,"thought_signature":`...), sign(model, signedCall(c.name, c.args)))
	}
	return append(b, '}')
}

// running is the status of a response that has not ended.
const running = "in_progress"

// response appends the whole object as it is with a status.
func (w *agentWriter) response(b []byte, status string) []byte {
	model, done := w.q.asked, status != running
	if done {
		model = w.model
	}
	b = quote(append(b, `{"id":`...), w.id)
	b = strconv.AppendInt(append(b, `,"object":"response","created_at":`...), w.created, 10)
	if status == "completed" || status == "failed" {
		b = strconv.AppendInt(append(b, `,"completed_at":`...), w.created+1, 10)
	} else {
		b = append(b, `,"completed_at":null`...)
	}
	if w.x.plan.fault == "no_finish" {
		status = running
	}
	b = append(quote(append(b, `,"status":`...), status), `,"background":false,`...)
	if status == "failed" {
		b = w.mistake(b)
	} else {
		b = append(b, `"error":null`...)
	}
	b = append(b, `,"frequency_penalty":0,"incomplete_details":`...)
	if reason := map[string]string{"length": "max_output_tokens", "content_filter": "content_filter"}[w.answers[0].finish]; status == "incomplete" {
		b = append(quote(append(b, `{"reason":`...), reason), '}')
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"model":`...)
	b = append(quote(b, model), `,"output":[`...)
	if done && status != "failed" {
		b = w.output(b)
	}
	tier := "default"
	if done && w.q.preset == "fast" {
		tier = "fast"
	}
	b = append(b, `],"parallel_tool_calls":true,"presence_penalty":0,"previous_response_id":null,"prompt_cache_key":null,"reasoning":null,`+
		`"safety_identifier":null,"service_tier":"`+tier+`","store":false,"temperature":1,"text":{"format":{"type":"text"}},"tool_choice":"auto",`+
		`"tools":[],"top_logprobs":0,"top_p":1,"truncation":"","usage":`...)
	return append(append(b, otherwise(w.shown(done), "null")...), `,"user":null}`...)
}

func (w *agentWriter) output(b []byte) []byte {
	if w.searched {
		b = append(w.found(b), ',')
	}
	calls := w.answers[0].calls
	if len(calls) == 0 {
		return w.message(b)
	}
	for k := range calls {
		if k > 0 {
			b = append(b, ',')
		}
		b = w.call(b, k, "completed")
	}
	return b
}

// shown is the usage in a response object; "" is none.
func (w *agentWriter) shown(done bool) string {
	raw, _ := w.told()
	switch fault := w.x.plan.fault; {
	case fault == "usage_twice" && !done && w.last == "response.in_progress":
		return `{"input_tokens":1,"output_tokens":1,"total_tokens":2}`
	case fault == "usage_first" && w.q.stream:
		if w.last == "response.created" {
			return raw
		}
		return ""
	case done:
		return raw
	}
	return ""
}

// told is the usage and what the log makes of it. A response that failed has none.
func (w *agentWriter) told() (string, *Usage) {
	u := w.usage
	if w.status == "failed" {
		return "", nil
	}
	switch p := w.x.plan; p.fault {
	case "no_usage", "no_finish":
		return "", nil
	case "zero_usage", "hostile_usage":
		raw := p.fakeUsage("input_tokens", "output_tokens", "total_tokens")
		return raw, p.believable(raw)
	}
	b := strconv.AppendInt([]byte(`{"input_tokens":`), u.Prompt, 10)
	if !w.brief() {
		b = strconv.AppendInt(append(b, `,"input_tokens_details":{"cache_creation_input_tokens":0,"cache_read_input_tokens":`...), u.Cached, 10)
		b = append(strconv.AppendInt(append(b, `,"cached_tokens":`...), u.Cached, 10), '}')
	}
	b = strconv.AppendInt(append(b, `,"output_tokens":`...), u.Completion, 10)
	if !w.brief() {
		b = append(strconv.AppendInt(append(b, `,"output_tokens_details":{"reasoning_tokens":`...), u.Reasoning, 10), '}')
	}
	b = strconv.AppendInt(append(b, `,"total_tokens":`...), u.Total, 10)
	b = cost(append(b, `,"cost":{"currency":"USD","input_cost":`...), w.inCost)
	b = cost(append(b, `,"output_cost":`...), w.outCost)
	if !w.brief() {
		b = cost(append(b, `,"cache_creation_cost":0,"cache_read_cost":`...), w.cachedCost)
	}
	if w.searched {
		b = cost(append(b, `,"tool_calls_cost":`...), w.toolCost)
		b = append(cost(append(b, `,"tool_calls_cost_details":{"`+searchTool+`":`...), w.toolCost), '}')
	}
	b = append(cost(append(b, `,"total_cost":`...), u.CostPico), '}')
	if w.searched {
		b = cost(append(b, `,"tool_calls_details":{"`+searchTool+`":{"invocation":1,"cost_usd":`...), w.toolCost)
		b = append(b, "}}"...)
	}
	return string(append(b, '}')), &u
}

// mistake appends the error member of a response that failed.
func (w *agentWriter) mistake(b []byte) []byte {
	p := w.x.plan
	message, kind, code := "model overloaded", "server_error", otherwise(p.code, "overloaded")
	switch {
	case p.fault == "echo_key":
		message, kind, code = "Invalid API key provided: "+w.x.key, "invalid_api_key", "401"
	case p.code == "rate_limit_exceeded":
		message, kind = "Request rate limit exceeded, please try again later.", "request_rate_limit_exceeded"
	}
	b = quote(append(b, `"error":{"message":`...), message)
	b = quote(append(b, `,"type":`...), kind)
	return append(quote(append(b, `,"code":`...), code), '}')
}

func (w *agentWriter) usageOf(*event) (string, *Usage) {
	if w.raw == "" && w.x.plan.fault == "usage_first" && w.last == "response.created" {
		return w.told()
	}
	if w.x.plan.fault == "usage_first" {
		return "", nil
	}
	return w.raw, w.honest
}

func (w *agentWriter) name(*event) string { return w.last }
func (*agentWriter) tiny() string         { return `{"type":"response.reasoning.started"}` }

func (*agentWriter) broken() string {
	return `{"type":"response.output_text.delta","sequence_number":12,"delta":`
}
