package simulator

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// sonarModel is a model of the older form with its prices, pico-dollars a token, and of a request by context size.
type sonarModel struct {
	id               string
	input, output    int64
	low, medium, big int64 // a request, in pico-dollars
	thinks           bool
}

var sonarModels = []sonarModel{
	{"sonar", 1000000, 1000000, 5000000000, 8000000000, 12000000000, false},
	{"sonar-pro", 3000000, 15000000, 6000000000, 10000000000, 14000000000, false},
	{"sonar-reasoning-pro", 2000000, 8000000, 6000000000, 10000000000, 14000000000, true},
	{"sonar-deep-research", 2000000, 8000000, 5000000000, 5000000000, 5000000000, true},
}

func sonarModelOf(id string) (sonarModel, bool) {
	if i := slices.IndexFunc(sonarModels, func(m sonarModel) bool { return m.id == id }); i >= 0 {
		return sonarModels[i], true
	}
	m := sonarModels[0]
	m.id = id
	return m, strings.HasPrefix(id, "sim-")
}

// sonarRequest is what the simulator understands of a request in the older form.
type sonarRequest struct {
	chatRequest
	concise bool
	search  bool
	related bool
	images  bool
	size    string // of the search's context
}

// badSonar is a 400 of the older form.
func badSonar(kind, message string) *failure {
	return &failure{status: 400, kind: kind, message: message}
}

var sonarLimits = []limit{
	{"temperature", 0, 2, false},
	{"top_p", 0, 1, false},
	{"top_k", 0, 2048, true},
	{"max_tokens", 1, 1 << 31, true},
	{"presence_penalty", -2, 2, false},
}

// sonarWords are the members that are one of a few words.
var sonarWords = map[string][]string{
	"stream_mode":                            {"full", "concise"},
	"search_mode":                            {"web", "academic", "sec"},
	"search_recency_filter":                  {"hour", "day", "week", "month", "year"},
	"reasoning_effort":                       {"minimal", "low", "medium", "high"},
	"web_search_options.search_context_size": {"low", "medium", "high"},
	"web_search_options.search_type":         {"fast", "pro", "auto"},
}

// readSonar reads and checks a request in the older form.
func readSonar(body []byte) (*sonarRequest, *failure) {
	root, f := readBody(body)
	if f == nil {
		f = mistakes(typed(nil, root, "Sonar", []string{"body"}, true))
	}
	if f != nil {
		return nil, f
	}
	for _, name := range []string{"model", "messages"} {
		if !root.Get(name).Exists() {
			return nil, mistakes([]mistyped{{[]string{"body", name}, "Field required", "missing"}})
		}
	}
	q := &sonarRequest{
		concise: root.Get("stream_mode").Str == "concise", search: !root.Get("disable_search").Bool(),
		related: root.Get("return_related_questions").Bool(), images: root.Get("return_images").Bool(),
		size: otherwise(root.Get("web_search_options.search_context_size").Str, "low"),
	}
	q.n, q.toolChoice, q.model, q.stream, q.maxTokens = 1, "none", root.Get("model").Str, root.Get("stream").Bool(), int(root.Get("max_tokens").Int())
	if why, ok := within(root, sonarLimits); !ok {
		return nil, badSonar("invalid_parameter", why)
	}
	if v := root.Get("frequency_penalty"); v.Exists() && v.Num <= 0 {
		return nil, badSonar("invalid_parameter", "frequency_penalty must be greater than 0")
	}
	for path, words := range sonarWords {
		if v := root.Get(path); v.Str != "" && !slices.Contains(words, v.Str) {
			return nil, badSonar("invalid_parameter", path+" must be one of "+strings.Join(words, ", "))
		}
	}
	if n := len(root.Get("search_domain_filter").Array()); n > 20 {
		return nil, badSonar("invalid_search_domain_filter", "search_domain_filter may hold at most 20 domains")
	}
	if f := q.form(root.Get("response_format")); f != nil {
		return nil, f
	}
	return q, q.turns(root.Get("messages").Array())
}

func (q *sonarRequest) form(v gjson.Result) *failure {
	switch v.Get("type").String() {
	case "", "text":
	case "json_schema":
		q.format, q.schema = "json_schema", v.Get("json_schema.schema")
		if !q.schema.IsObject() {
			return badSonar("invalid_parameter", "response_format.json_schema.schema is required")
		}
	case "regex":
		if v.Get("regex.regex").Str == "" {
			return badSonar("invalid_parameter", "response_format.regex.regex is required")
		}
	default:
		return badSonar("invalid_parameter", "response_format.type must be one of text, json_schema, regex")
	}
	return nil
}

// turns checks that users and assistants take turns, after the system messages, and that a user is last.
func (q *sonarRequest) turns(list []gjson.Result) *failure {
	const alternate = "After the (optional) system message(s), user and assistant roles should be alternating."
	if len(list) == 0 {
		return badSonar("invalid_message", "messages must not be empty")
	}
	before := "system"
	for i, m := range list {
		loc := []string{"body", "messages", strconv.Itoa(i)}
		role, content := m.Get("role").String(), m.Get("content")
		switch role {
		case "system", "user", "assistant":
		default:
			return mistakes([]mistyped{{deeper(loc, "role"), "Input should be 'system', 'user' or 'assistant'", "literal_error"}})
		}
		if role == "system" && before != "system" || role == before && role != "system" || role == "assistant" && before == "system" {
			return badSonar("invalid_message", alternate)
		}
		before = role
		if content.Type != gjson.String && !content.IsArray() {
			return mistakes([]mistyped{{deeper(loc, "content"), "Input should be a valid string", "string_type"}})
		}
		for j, p := range content.Array() {
			switch kind := p.Get("type").String(); {
			case !content.IsArray():
			case kind == "text" || kind == "image_url" || kind == "file_url" || kind == "pdf_url" || kind == "video_url":
			default:
				return mistakes([]mistyped{untagged(deeper(deeper(loc, "content"), strconv.Itoa(j)), kind)})
			}
		}
		if role == "user" {
			q.user = plain(content)
		}
		q.chatRequest.size += len(content.Raw) + 16
	}
	if before != "user" {
		return badSonar("invalid_message", "Last message must have role `user`.")
	}
	q.messages = len(list)
	return nil
}

// suits refuses models that there are not.
func (q *sonarRequest) suits() (sonarModel, *failure) {
	m, ok := sonarModelOf(q.model)
	if !ok {
		return m, badSonar("invalid_model", "Invalid model '"+q.model+
			"'. Permitted models can be found in the documentation at https://docs.perplexity.ai.")
	}
	return m, nil
}

// complete answers POST /chat/completions.
func (p perplexity) complete(x *exchange) error {
	if x.s.opt.NoSonar {
		x.scripted()
		if did, err := x.early(); did {
			return err
		}
		return p.refuse(x, failure{status: 403, code: "agent_api_migration_required"})
	}
	q, f := readSonar(x.body)
	if f != nil {
		return p.refuse(x, *f)
	}
	x.rec.update(func(a *Attempt) { a.Model, a.Stream = q.model, q.stream })
	said, err := x.direct(q.user)
	if err != nil {
		return p.refuse(x, *badSonar("simulator_script", "The simulator does not understand the directive: "+err.Error()))
	}
	if did, err := x.early(); did {
		return err
	}
	m, f := q.suits()
	if f != nil {
		return p.refuse(x, *f)
	}
	w := newSonarWriter(x, q, m, said)
	if x.plan.fault == "error_200" {
		return p.json(x, w.mistake(nil))
	}
	h := head{status: 200, fields: field("Content-Type", "application/json")}
	if !q.stream || x.plan.fault == "json_instead" {
		return x.whole(h, string(w.whole()), func(s *sender) {
			w.said(s)
			s.raw, s.usage = w.raw, w.honest
		})
	}
	x.eol = "\r\n"
	h.fields = field("Content-Type", "text/event-stream; charset=utf-8")
	return x.stream(h, w.list(), w)
}

// sonarWriter puts an answer into the older form.
type sonarWriter struct {
	*chat
	q                     *sonarRequest
	id                    string
	query                 string
	searched              bool
	inCost, outCost, call int64 // pico-dollars; call is that of the request

	sofar  []byte // text sent
	told   bool
	raw    string
	honest *Usage
}

func newSonarWriter(x *exchange, q *sonarRequest, m sonarModel, said string) *sonarWriter {
	var hidden int64
	if m.thinks {
		hidden, q.reasoning = 16, true
	}
	searched := q.search && x.plan.search != "off"
	if searched {
		q.marks = " [1][2]"
	}
	w := &sonarWriter{chat: x.compose(&q.chatRequest, said, hidden), q: q, query: clip(said, 60), searched: searched, id: uuid()}
	x.id = w.id
	a := &w.answers[0]
	a.text, a.refusal = a.text+a.refusal, ""
	if a.thought != "" {
		a.text, a.thought = "<think>\n"+a.thought+"\n</think>\n\n"+a.text, ""
		a.pieces = pieces(a.text, x.plan.chunks)
	}
	if x.plan.fault == "wrong_model" {
		w.model = "sim-other"
	}
	u := &w.usage
	u.Cached = 0 // nobody is told
	w.inCost, w.outCost = u.Prompt*m.input, u.Completion*m.output
	w.call = map[string]int64{"low": m.low, "medium": m.medium, "high": m.big}[q.size]
	u.CostPico = w.inCost + w.outCost + w.call
	return w
}

// list is the whole stream. The chunk that finishes is the one with the cost.
func (w *sonarWriter) list() []event {
	list := slices.DeleteFunc(w.events(false), func(e event) bool { return e.kind != evText && e.kind != evFinish })
	if w.q.concise {
		list = slices.Insert(list, 0, event{kind: evStep, text: "chat.reasoning"}, event{kind: evStep, text: "chat.reasoning.done"})
	}
	return append(list, event{kind: evDone})
}

const sonarResults = `[{"title":"The first page","url":"https://example.org/one","date":"2026-08-12","last_updated":"2026-11-01",` +
	`"snippet":"It says so.","source":"web"},{"title":"The second page","url":"https://example.com/two","date":null,"last_updated":null,` +
	`"snippet":"","source":"web"}]`

// begin appends what each object begins with. The time moves on while it talks.
func (w *sonarWriter) begin(b []byte, later int64) []byte {
	if w.x.plan.fault == "wrong_id" {
		w.id = uuid()
	}
	b = quote(append(b, `{"id":`...), w.id)
	b = quote(append(b, `,"model":`...), w.model)
	return strconv.AppendInt(append(b, `,"created":`...), w.created+later, 10)
}

// found appends what a search found, with a comma before it.
func (w *sonarWriter) found(b []byte, citations bool) []byte {
	if !w.searched {
		if citations {
			b = append(b, `,"citations":[]`...)
		}
		return append(b, `,"search_results":[]`...)
	}
	if citations {
		b = append(b, `,"citations":["https://example.org/one","https://example.com/two"]`...)
	}
	return append(b, `,"search_results":`+sonarResults...)
}

// extras appends what else was asked for.
func (w *sonarWriter) extras(b []byte) []byte {
	if w.q.images {
		b = append(b, `,"images":[{"image_url":"https://img.example.org/a.jpg","origin_url":"https://example.org/one","height":600,"width":800}]`...)
	}
	if w.q.related {
		b = append(b, `,"related_questions":["What else?"]`...)
	}
	return b
}

// whole is the answer in one object.
func (w *sonarWriter) whole() []byte {
	a := &w.answers[0]
	b := w.counted(w.begin(nil, 0), int64(len(a.text)), true)
	b = w.extras(w.found(b, true))
	b = quote(append(b, `,"object":"chat.completion","choices":[{"index":0,"finish_reason":`...), a.finish)
	b = w.quote(append(b, `,"message":{"role":"assistant","content":`...), a.text)
	return append(b, `},"delta":{"role":"assistant","content":""}}]}`...)
}

// render writes one chunk: all that was said so far, beside what is new.
func (w *sonarWriter) render(b []byte, e *event) []byte {
	w.raw = ""
	switch e.kind {
	case evDone:
		return append(b, "[DONE]"...)
	case evJSON:
		return append(b, e.text...)
	case evError:
		return w.mistake(b)
	case evStep:
		return w.thinks(b, e.text)
	case evFinish:
		return w.finish(b)
	}
	w.sofar = append(w.sofar, e.text...)
	if w.q.concise {
		b = append(w.begin(b, 1), `,"object":"chat.completion.chunk","choices":[{"index":0,"finish_reason":null`...)
		return append(w.quote(append(b, `,"delta":{"role":"assistant","content":`...), e.text), "}}]}"...)
	}
	b = w.found(w.counted(w.begin(b, 0), int64(len(w.sofar)), false), true)
	b = append(b, `,"object":"chat.completion.chunk","choices":[{"index":0,"finish_reason":null`...)
	b = w.quote(append(b, `,"message":{"role":"assistant","content":`...), string(w.sofar))
	return append(w.quote(append(b, `},"delta":{"role":"assistant","content":`...), e.text), "}}]}"...)
}

// finish writes the chunk that ends the choice.
func (w *sonarWriter) finish(b []byte) []byte {
	b = w.begin(b, 2)
	if w.q.concise {
		b = append(b, `,"object":"chat.completion.done"`...)
		b = w.counted(w.extras(w.found(b, false)), int64(len(w.sofar)), true)
	} else {
		b = w.extras(w.found(w.counted(b, int64(len(w.sofar)), true), true))
		b = append(b, `,"object":"chat.completion.done"`...)
	}
	b = quote(append(b, `,"choices":[{"index":0,"finish_reason":`...), w.answers[0].finish)
	b = w.quote(append(b, `,"message":{"role":"assistant","content":`...), string(w.sofar))
	return append(b, `},"delta":{"role":"assistant","content":""}}]}`...)
}

// thinks writes what the concise mode tells of the search.
func (w *sonarWriter) thinks(b []byte, object string) []byte {
	b = append(quote(append(w.begin(b, 0), `,"object":`...), object), ',')
	if object == "chat.reasoning" {
		b = append(b, `"choices":[{"index":0,"finish_reason":null,"delta":{"role":"assistant","content":"","reasoning_steps":[{"thought":"Search for it.",`+
			`"type":"web_search","web_search":{"search_keywords":[`...)
		return append(quote(b, w.query), `],"search_results":`+sonarResults+`}}]}}]}`...)
	}
	b = w.counted(append(w.found(b[:len(b)-1], false), `,"images":[]`...), 0, false)
	return append(b, `,"choices":[{"index":0,"finish_reason":null,"message":{"role":"assistant","content":"","reasoning_steps":[]},`+
		`"delta":{"role":"assistant","content":""}}]}`...)
}

// counted appends the usage with a comma before it: a running total that costs nothing until the end. said is how many
// bytes of text there are so far.
func (w *sonarWriter) counted(b []byte, said int64, end bool) []byte {
	u := w.usage
	if !end {
		u.Completion = min(u.Completion, u.Reasoning+(said+3)/4)
		u.Total, u.CostPico = u.Prompt+u.Completion, 0
	}
	raw, honest := w.usageAs(u, end)
	if w.raw = raw; raw == "" {
		return b
	}
	w.honest = honest
	return append(append(b, `,"usage":`...), raw...)
}

// usageAs is a usage as this form tells it: what was thought is not part of what was completed.
func (w *sonarWriter) usageAs(u Usage, end bool) (string, *Usage) {
	switch p := w.x.plan; p.fault {
	case "no_usage", "no_finish":
		return "", nil
	case "zero_usage", "hostile_usage":
		raw := p.fake()
		return raw, p.believable(raw)
	case "usage_twice":
		if !end {
			return `{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}`, &Usage{Prompt: 1, Completion: 1, Total: 2}
		}
	case "usage_first":
		if w.told {
			return "", nil
		}
		w.told, u, end = true, w.usage, true
	}
	b := strconv.AppendInt([]byte(`{"prompt_tokens":`), u.Prompt, 10)
	b = strconv.AppendInt(append(b, `,"completion_tokens":`...), u.Completion-u.Reasoning, 10)
	b = strconv.AppendInt(append(b, `,"total_tokens":`...), u.Total-u.Reasoning, 10)
	b = quote(append(b, `,"search_context_size":`...), w.q.size)
	if u.Reasoning > 0 {
		b = append(strconv.AppendInt(append(b, `,"reasoning_tokens":`...), u.Reasoning, 10), `,"num_search_queries":1`...)
	}
	if w.q.concise && !end {
		return string(append(b, '}')), &u
	}
	in, out, call := w.inCost, w.outCost, w.call
	if !end {
		in, out, call = 0, 0, 0
	}
	b = cost(append(b, `,"cost":{"input_tokens_cost":`...), in)
	b = cost(append(b, `,"output_tokens_cost":`...), out)
	b = cost(append(b, `,"request_cost":`...), call)
	b = cost(append(b, `,"total_cost":`...), u.CostPico)
	return string(append(b, "}}"...)), &u
}

// mistake appends an error object.
func (w *sonarWriter) mistake(b []byte) []byte {
	p := w.x.plan
	message, kind, code := "Internal server error", "internal_server_error", 500
	switch {
	case p.fault == "echo_key":
		message, kind, code = "Invalid API key provided: "+w.x.key, "invalid_api_key", 401
	case p.code == "rate_limit_exceeded":
		message, kind, code = "Request rate limit exceeded, please try again later.", "request_rate_limit_exceeded", 429
	}
	b = quote(append(b, `{"error":{"message":`...), message)
	b = quote(append(b, `,"type":`...), kind)
	return append(strconv.AppendInt(append(b, `,"code":`...), int64(code), 10), "}}"...)
}

func (w *sonarWriter) usageOf(*event) (string, *Usage) { return w.raw, w.honest }
