package simulator

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// gemini plays generativelanguage.googleapis.com, its native API: generateContent, streamGenerateContent, countTokens,
// embedContent, batchEmbedContents and models.
type gemini struct{}

// googleKey is the header that carries the key. Keys in the query are not taken here, though Google would: there they
// get into logs, and who puts them there shall find out.
const googleKey = "X-Goog-Api-Key"

func (gemini) name() string             { return "gemini" }
func (gemini) base() string             { return "/gemini/v1beta" }
func (gemini) key(h http.Header) string { return h.Get(googleKey) }

func (gemini) asks(path string) bool {
	_, method, ok := geminiPath(path)
	return ok && (method == "generateContent" || method == "streamGenerateContent" || embeds(method))
}

func embeds(method string) bool { return method == "embedContent" || method == "batchEmbedContents" }

// geminiPath splits "/models/ID:METHOD".
func geminiPath(path string) (model, method string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/models/")
	if i := strings.LastIndexByte(rest, ':'); ok && i >= 0 {
		return rest[:i], rest[i+1:], true
	}
	return rest, "", ok
}

func (g gemini) serve(x *exchange) error {
	x.id = random(23)
	switch {
	case x.req.Header.Get("Authorization") != "":
		realm := field("WWW-Authenticate", `Bearer realm="https://accounts.google.com/"`)
		return g.refuse(x, failure{status: 401, code: "ACCESS_TOKEN_TYPE_UNSUPPORTED", fields: realm})
	case x.key == "":
		return g.refuse(x, failure{status: 403, message: "Method doesn't allow unregistered callers (callers without established identity). " +
			"Please use API Key or other form of API consumer identity to call this API."})
	case !x.s.opt.AcceptKey(g.name(), x.key):
		return g.refuse(x, failure{status: 400, code: "invalid_api_key"})
	}
	model, method, named := geminiPath(x.path)
	if x.req.Method == "POST" && embeds(method) {
		return g.embed(x, model, method)
	}
	if x.req.Method == "POST" && (g.asks(x.path) || method == "countTokens") {
		return g.ask(x, model, method)
	}
	x.scripted()
	if did, err := x.early(); did {
		return err
	}
	switch {
	case x.req.Method == "GET" && x.path == "/models":
		return g.list(x)
	case x.req.Method == "GET" && named && method == "":
		m := g.find(model)
		if m == nil {
			return g.refuse(x, noGemini(model, ""))
		}
		return g.json(x, m.json(nil))
	}
	return g.refuse(x, failure{status: 404, message: "The requested URL " + x.req.URL.Path + " was not found on this server."})
}

// find looks a model up; nil if there is none.
func (gemini) find(id string) *geminiModel {
	if i := slices.IndexFunc(geminiModels, func(m geminiModel) bool { return m.id == id }); i >= 0 {
		return &geminiModels[i]
	}
	if strings.HasPrefix(id, "sim-") {
		return &geminiModel{id: id, levels: "minimal low medium high"}
	}
	return nil
}

func noGemini(id, method string) failure {
	return failure{status: 404, message: "models/" + id + " is not found for API version v1beta, or is not supported for " +
		otherwise(method, "generateContent") + ". Call ListModels to see the list of available models and their supported methods."}
}

// list answers GET /models, a page of it.
func (g gemini) list(x *exchange) error {
	query := x.req.URL.Query()
	size, from := 50, 0
	if s := query.Get("pageSize"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return g.refuse(x, *violated([]violation{{"page_size", "Invalid value at 'page_size' (TYPE_INT32), " + string(quote(nil, s))}}))
		}
		size = min(or(n, 50), 1000)
	}
	if token := query.Get("pageToken"); token != "" {
		b, err := bytesOf(token)
		rest, ok := strings.CutPrefix(string(b), signMark)
		at, bad := strconv.Atoi(rest)
		if err != nil || !ok || bad != nil {
			return g.refuse(x, *invalid("Invalid page token."))
		}
		from = min(at, len(geminiModels))
	}
	to := min(from+size, len(geminiModels))
	b := []byte(`{"models":[`)
	for i := from; i < to; i++ {
		if i > from {
			b = append(b, ',')
		}
		b = geminiModels[i].json(b)
	}
	b = append(b, ']')
	if to < len(geminiModels) {
		b = quote(append(b, `,"nextPageToken":`...), encode64([]byte(signMark+strconv.Itoa(to))))
	}
	return g.json(x, append(b, '}'))
}

func (m *geminiModel) json(b []byte) []byte {
	b = quote(append(b, `{"name":`...), "models/"+m.id)
	b = quote(append(b, `,"version":"001","displayName":`...), m.id)
	b = quote(append(b, `,"description":`...), "Simulated "+m.id)
	if m.embeds() {
		return append(b, `,"inputTokenLimit":8192,"outputTokenLimit":1,"supportedGenerationMethods":["embedContent","countTextTokens"]}`...)
	}
	return append(b, `,"inputTokenLimit":1048576,"outputTokenLimit":65536,"supportedGenerationMethods":["generateContent","countTokens",`+
		`"createCachedContent","batchGenerateContent"],"temperature":1,"topP":0.95,"topK":64,"maxTemperature":2,"thinking":true}`...)
}

func encode64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// pretty is JSON as Google prints it where it is not a stream.
func pretty(b []byte) string {
	var out bytes.Buffer
	if json.Indent(&out, b, "", "  ") != nil {
		return string(b)
	}
	return out.String() + "\n"
}

const googleFields = "Vary: Origin\r\nServer: scaffolding on HTTPServer2\r\n"

func (gemini) json(x *exchange, body []byte) error {
	return x.whole(head{status: 200, fields: field("Content-Type", "application/json; charset=UTF-8") + googleFields}, pretty(body), nil)
}

// googleErrors are the names of the HTTP codes, and what is said where nothing better is known.
var googleErrors = map[int][2]string{
	400: {"INVALID_ARGUMENT", "Request contains an invalid argument."},
	401: {"UNAUTHENTICATED", "Request had invalid authentication credentials. " +
		"Expected OAuth 2 access token, login cookie or other valid authentication credential."},
	403: {"PERMISSION_DENIED", "The caller does not have permission"},
	404: {"NOT_FOUND", "Requested entity was not found."},
	409: {"ABORTED", "The operation was aborted."},
	429: {"RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."},
	499: {"CANCELLED", "The operation was cancelled."},
	500: {"INTERNAL", "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting"},
	501: {"UNIMPLEMENTED", "Operation is not implemented, or supported, or enabled."},
	503: {"UNAVAILABLE", "The model is overloaded. Please try again later."},
	504: {"DEADLINE_EXCEEDED", "Deadline expired before operation could complete."},
}

// refuse answers with Google's error object. Its header never tells when to come back: RetryInfo does.
func (g gemini) refuse(x *exchange, f failure) error {
	x.rejected = otherwise(f.message, googleErrors[f.status][1])
	fields := f.fields
	if x.plan.fault == "status" {
		f, fields = x.plan.google(f), ""
	}
	switch f.code {
	case "invalid_api_key":
		if f.status == 401 {
			f.status = 400
		}
		f.message = otherwise(f.message, "API key not valid. Please pass a valid API key.")
		x.rejected = f.message
		f.meta = errorInfo("API_KEY_INVALID", f.message)
	case "ACCESS_TOKEN_TYPE_UNSUPPORTED":
		f.meta = errorInfo(f.code, "")
	}
	fields = field("Content-Type", "application/json; charset=UTF-8") + googleFields + fields
	return x.whole(head{status: f.status, fields: fields}, pretty(googleError(nil, f)), nil)
}

func googleError(b []byte, f failure) []byte {
	b = strconv.AppendInt(append(b, `{"error":{"code":`...), int64(f.status), 10)
	b = quote(append(b, `,"message":`...), otherwise(otherwise(f.message, googleErrors[f.status][1]), "The request was refused."))
	b = quote(append(b, `,"status":`...), otherwise(otherwise(f.kind, googleErrors[f.status][0]), "UNKNOWN"))
	if f.meta != "" {
		b = append(append(b, `,"details":`...), f.meta...)
	}
	return append(b, "}}"...)
}

func errorInfo(reason, message string) string {
	b := quote([]byte(`[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":`), reason)
	b = append(b, `,"domain":"googleapis.com","metadata":{"service":"generativelanguage.googleapis.com"}}`...)
	if message != "" {
		b = quote(append(b, `,{"@type":"type.googleapis.com/google.rpc.LocalizedMessage","locale":"en-US","message":`...), message)
		b = append(b, '}')
	}
	return string(append(b, ']'))
}

// google puts a failure that a script asks for into Google's words: code=leaked, location, expired, day, and for 429 the
// time to wait.
func (p *plan) google(f failure) failure {
	var wait string
	switch {
	case p.retryMS != "":
		ms, _ := strconv.ParseFloat(p.retryMS, 64)
		wait = strconv.FormatFloat(ms/1000, 'f', -1, 64)
	default:
		wait = otherwise(p.retryAfter, p.retryDate)
	}
	if wait != "" {
		wait += "s"
	}
	switch f.code {
	case "leaked":
		f.message = "Your API key was reported as leaked. Please use another API key."
	case "location":
		f.message, f.kind = "User location is not supported for the API use.", "FAILED_PRECONDITION"
	case "expired":
		f.message = "API key expired. Please renew the API key."
		f.meta = errorInfo("API_KEY_INVALID", f.message)
	case "day", "insufficient_quota":
		f = quota(f, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "250", otherwise(wait, "3.2s"))
	default:
		if f.status == 429 && wait != "" {
			f = quota(f, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "10", wait)
		} else if wait != "" {
			f.meta = `[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"` + wait + `"}]`
		}
	}
	return f
}

// quota fills in what a 429 of Google's says of the quota and the time to wait.
func quota(f failure, id, value, wait string) failure {
	f.message = "You exceeded your current quota, please check your plan and billing details. Please retry in " + wait + "."
	f.meta = `[{"@type":"type.googleapis.com/google.rpc.Help","links":[{"description":"Learn more about Gemini API quotas",` +
		`"url":"https://ai.google.dev/gemini-api/docs/rate-limits"}]},{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{` +
		`"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"` + id +
		`","quotaDimensions":{"location":"global","model":"gemini-3.8-flash"},"quotaValue":"` + value +
		`"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"` + wait + `"}]`
	return f
}

// ask answers generateContent, streamGenerateContent and countTokens.
func (g gemini) ask(x *exchange, model, method string) error {
	if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
		return g.refuse(x, *invalid("Invalid Content-Type header (%s). Expected application/json.", t))
	}
	message := "GenerateContentRequest"
	if method == "countTokens" {
		message = "CountTokensRequest"
	}
	q, f := readGemini(x.body, message)
	if f != nil {
		return g.refuse(x, *f)
	}
	q.stream = method == "streamGenerateContent"
	x.rec.update(func(a *Attempt) { a.Model, a.Stream = model, q.stream })
	said, err := x.direct(q.user)
	if err != nil {
		return g.refuse(x, *invalid("The simulator does not understand the directive: %v", err))
	}
	if did, err := x.early(); did {
		return err
	}
	if f := g.suits(x.body, q, model, method); f != nil {
		return g.refuse(x, *f)
	}
	if method == "countTokens" {
		n := strconv.Itoa(3 + q.size/4)
		return g.json(x, []byte(`{"totalTokens":`+n+`,"promptTokensDetails":[{"modality":"TEXT","tokenCount":`+n+`}]}`))
	}
	w, f := newGeminiWriter(x, q, said)
	if f != nil {
		return g.refuse(x, *f)
	}
	return g.answer(x, q, w)
}

// suits refuses models that do not answer, and what this one does not take.
func (g gemini) suits(body []byte, q *geminiRequest, model, method string) *failure {
	m := g.find(model)
	if m == nil || m.embeds() {
		f := noGemini(model, method)
		return &f
	}
	return q.suits(m, gjson.ParseBytes(body))
}

func (g gemini) answer(x *exchange, q *geminiRequest, w *geminiWriter) error {
	if x.plan.fault == "error_200" {
		return g.json(x, googleError(nil, w.mistake()))
	}
	fields := googleFields + field("X-Gemini-Service-Tier", otherwise(q.tier, "standard"))
	h := head{status: 200, fields: field("Content-Type", "application/json; charset=UTF-8") + fields}
	if !q.stream || x.plan.fault == "json_instead" {
		return x.whole(h, pretty(w.whole()), func(s *sender) {
			w.said(s)
			s.raw, s.usage = w.raw, w.honest
		})
	}
	x.eol = "\r\n"
	if x.array = x.req.URL.Query().Get("alt") != "sse"; !x.array {
		h.fields = field("Content-Type", "text/event-stream") + fields
	}
	return x.stream(h, w.list(), w)
}

// geminiWriter puts an answer into Gemini's form.
type geminiWriter struct {
	*chat
	q       *geminiRequest
	id      string
	toolUse int64  // tokens of what a search brought, part of usage.Prompt
	token   int    // where a continuation goes on, for finish CONTINUATION
	ground  []byte // groundingMetadata, for the last chunk

	// What the stream has told so far.
	bytes    int  // of text and arguments
	thought  int  // bytes
	told     bool // usage, for usage_first
	raw      string
	honest   *Usage
	finished bool
}

// newGeminiWriter decides what to answer and counts what it costs.
func newGeminiWriter(x *exchange, q *geminiRequest, said string) (*geminiWriter, *failure) {
	var hidden int64
	if q.thinking() {
		hidden = 16
	}
	q.reasoning = q.thoughts && hidden > 0
	from := 0
	if q.continuation != "" {
		at, f := q.continued()
		if f != nil {
			return nil, f
		}
		from, hidden, q.reasoning = at, 0, false
	}
	w := &geminiWriter{chat: x.compose(&q.chatRequest, said, hidden), q: q, id: x.id}
	if x.plan.fault == "wrong_model" {
		w.model = "sim-other"
	}
	for i := range w.answers {
		a := &w.answers[i]
		a.text, a.refusal = a.text+a.refusal, ""
		a.finish = nativeFinish(a.finish)
	}
	if from > 0 || x.plan.finish == "CONTINUATION" {
		w.goOn(from)
	}
	if a := &w.answers[0]; silent(a.finish) && (!q.stream || x.plan.fault == "json_instead") {
		w.usage.Completion -= tokens(a.text)
		a.text, a.pieces = "", nil
	}
	if q.search && len(w.answers[0].calls) == 0 && w.answers[0].text != "" && x.plan.search != "off" {
		w.ground = grounding(w.answers[0].text, said)
		if x.plan.prompt < 0 {
			w.toolUse = 60
			w.usage.Prompt += w.toolUse
		}
	}
	if x.plan.block != "" {
		w.answers, w.usage.Completion, w.usage.Reasoning = nil, 0, 0
	}
	w.usage.Completion = max(w.usage.Completion, w.usage.Reasoning)
	w.usage.Total = w.usage.Prompt + w.usage.Completion
	return w, nil
}

// goOn makes the answer one of several: what comes after the first from bytes, and no more than its share.
func (w *geminiWriter) goOn(from int) {
	a, p := &w.answers[0], w.x.plan
	whole := a.text
	from = min(from, len(whole))
	to := len(whole)
	if p.finish == "CONTINUATION" {
		hops := or(p.count, 2)
		share := clip(whole[from:], max(1, (len(whole)+hops-1)/hops))
		if share == "" { // a rune longer than the share
			share = whole[from:]
		}
		to, a.finish = from+len(share), "STOP"
		if to < len(whole) {
			a.finish = "CONTINUATION"
		}
	}
	a.text = whole[from:to]
	a.pieces = pieces(a.text, p.chunks)
	w.token = to
	w.usage.Completion += tokens(a.text) - tokens(whole)
	if from > 0 { // what was said is read again, mostly from the cache
		w.usage.Prompt += tokens(whole[:from])
		w.usage.Cached = w.usage.Prompt * 9 / 10
	}
}

// nativeFinish is Gemini's word for a finish_reason; its own words stay.
func nativeFinish(finish string) string {
	switch finish {
	case "stop", "tool_calls":
		return "STOP"
	case "length":
		return "MAX_TOKENS"
	case "content_filter":
		return "SAFETY"
	}
	return finish
}

// silent reports whether a candidate with this finish has no content.
func silent(finish string) bool {
	return slices.Contains([]string{"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MALFORMED_FUNCTION_CALL"}, finish)
}

// grounding is the metadata of an answer that was searched for: offsets are bytes, and a start of 0 is left out.
func grounding(text, query string) []byte {
	b := quote([]byte(`{"webSearchQueries":[`), clip(query, 60))
	b = append(b, `],"searchEntryPoint":{"renderedContent":"<style>.c{}</style><div class=\"c\">chips</div>"},"groundingChunks":[{"web":{`+
		`"uri":"https://vertexaisearch.cloud.google.com/grounding-api-redirect/SIM1","title":"example.org"}},{"web":{`+
		`"uri":"https://vertexaisearch.cloud.google.com/grounding-api-redirect/SIM2","title":"example.com"}}],"groundingSupports":[`...)
	first, rest, _ := strings.Cut(text, ". ")
	if rest != "" {
		first += "."
	}
	b = strconv.AppendInt(append(b, `{"segment":{"endIndex":`...), int64(len(first)), 10)
	b = append(quote(append(b, `,"text":`...), first), `},"groundingChunkIndices":[0,1]}`...)
	if rest != "" {
		b = strconv.AppendInt(append(b, `,{"segment":{"startIndex":`...), int64(len(first)+1), 10)
		b = strconv.AppendInt(append(b, `,"endIndex":`...), int64(len(text)), 10)
		b = append(quote(append(b, `,"text":`...), rest), `},"groundingChunkIndices":[1]}`...)
	}
	return append(b, "]}"...)
}

// list is the whole stream. The last chunk finishes all candidates at once; where nothing is signed, the last piece of
// text comes with it.
func (w *geminiWriter) list() []event {
	if len(w.answers) == 0 {
		return []event{{kind: evDone}}
	}
	list := slices.DeleteFunc(w.events(false), func(e event) bool {
		return e.kind == evSignature || e.kind == evFinish || e.kind == evCall || e.kind == evArgs
	})
	for i := range w.answers {
		for k, c := range w.answers[i].calls { // calls come whole
			list = append(list, event{kind: evArgs, choice: i, call: k, text: c.args})
		}
	}
	end := event{kind: evDone}
	a := &w.answers[0]
	if n := len(list); n > 1 && len(w.answers) == 1 && list[n-1].kind == evText && !w.signs() && !silent(a.finish) && w.ground == nil {
		end.text = list[n-1].text
		list = list[:n-1]
	}
	return append(list, end)
}

// signs reports whether the text is signed.
func (w *geminiWriter) signs() bool { return w.usage.Reasoning > 0 }

// whole is the answer in one object.
func (w *geminiWriter) whole() []byte {
	b := []byte{'{'}
	if w.x.plan.block != "" {
		b = append(w.blocked(b), ',')
	} else {
		b = append(b, `"candidates":[`...)
		for i := range w.answers {
			a := &w.answers[i]
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '{')
			if !silent(a.finish) {
				b = append(append(b, `"content":{`...), w.parts(nil, i)...)
				b = append(b, `"role":"model"},`...)
			}
			b = w.finish(b, i)
			if i > 0 { // an index of 0 is left out
				b = strconv.AppendInt(append(b, `,"index":`...), int64(i), 10)
			}
			b = append(b, '}')
		}
		b = append(b, "],"...)
	}
	w.finished = true
	return append(w.tail(b), '}')
}

// parts appends the parts of a whole candidate, with a comma after them; nothing if there are none.
func (w *geminiWriter) parts(b []byte, i int) []byte {
	a := &w.answers[i]
	sep := `"parts":[`
	if a.thought != "" {
		b = append(w.quote(append(append(b, sep...), `{"text":`...), a.thought), `,"thought":true}`...)
		sep = ","
	}
	if a.text != "" {
		b = w.quote(append(append(b, sep...), `{"text":`...), a.text)
		if w.signs() {
			b = quote(append(b, `,"thoughtSignature":`...), sign(w.q.model.id, signedText))
		}
		b = append(b, '}')
		sep = ","
	}
	for k := range a.calls {
		b = w.call(append(b, sep...), i, k)
		sep = ","
	}
	if sep != "," {
		return b
	}
	return append(b, "],"...)
}

// call appends a function call as a part. A single call has no id; only the first is signed; no arguments is no args.
func (w *geminiWriter) call(b []byte, i, k int) []byte {
	calls := w.answers[i].calls
	c := &calls[k]
	b = append(b, `{"functionCall":{`...)
	if len(calls) > 1 {
		b = append(quote(append(b, `"id":`...), "fc-"+strings.ToLower(c.id[len(c.id)-6:])), ',')
	}
	b = quote(append(b, `"name":`...), c.name)
	if c.args != "{}" {
		b = append(append(b, `,"args":`...), c.args...)
	}
	b = append(b, '}')
	if k == 0 && (w.signs() || !w.q.model.second()) {
		b = quote(append(b, `,"thoughtSignature":`...), sign(w.q.model.id, signedCall(c.name, c.args)))
	}
	return append(b, '}')
}

// finish appends how a candidate ended, and what comes with that.
func (w *geminiWriter) finish(b []byte, i int) []byte {
	a := &w.answers[i]
	b = quote(append(b, `"finishReason":`...), a.finish)
	switch {
	case len(a.calls) > 0:
		b = append(b, `,"finishMessage":"Model generated function call(s)."`...)
	case a.finish == "MALFORMED_FUNCTION_CALL":
		b = append(b, `,"finishMessage":"Malformed function call: print(default_api.get_weather("`...)
	case a.finish == "RECITATION":
		b = strconv.AppendInt(append(b, `,"citationMetadata":{"citationSources":[{"endIndex":`...), int64(len(a.text)), 10)
		b = append(b, `,"uri":"https://books.example.com/1","license":""}]}`...)
	case silent(a.finish):
		b = append(b, `,"safetyRatings":[{"category":"HARM_CATEGORY_DANGEROUS_CONTENT","probability":"HIGH","blocked":true},`+
			`{"category":"HARM_CATEGORY_HARASSMENT","probability":"NEGLIGIBLE"}]`...)
	case a.finish == "CONTINUATION":
		b = quote(append(b, `,"continuationToken":`...), w.q.token(w.token))
	}
	if i == 0 && w.ground != nil {
		b = append(append(b, `,"groundingMetadata":`...), w.ground...)
	}
	if w.q.logprobs && a.text != "" && !w.q.stream {
		b = append(append(b, `,"avgLogprobs":-0.01`...), w.probabilities(a.pieces)...)
	}
	return b
}

// probabilities is the logprobsResult of some tokens, with its comma.
func (w *geminiWriter) probabilities(list []string) []byte {
	b := []byte(`,"logprobsResult":{"topCandidates":[`)
	for i, t := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(probable(append(b, `{"candidates":[`...), t), "]}"...)
	}
	b = append(b, `],"chosenCandidates":[`...)
	for i, t := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = probable(b, t)
	}
	return append(b, "]}"...)
}

func probable(b []byte, token string) []byte {
	return append(quote(append(b, `{"token":`...), token), `,"tokenId":2151,"logProbability":-0.01}`...)
}

// blocked appends the feedback on a prompt that is not answered.
func (w *geminiWriter) blocked(b []byte) []byte {
	b = quote(append(b, `"promptFeedback":{"blockReason":`...), w.x.plan.block)
	return append(b, `,"safetyRatings":[{"category":"HARM_CATEGORY_DANGEROUS_CONTENT","probability":"HIGH","blocked":true}]}`...)
}

// tail appends the usage as it stands, the model and the id.
func (w *geminiWriter) tail(b []byte) []byte {
	if w.raw, w.honest = w.metadata(); w.raw != "" {
		b = append(append(append(b, `"usageMetadata":`...), w.raw...), ',')
	}
	if w.x.plan.fault == "wrong_id" {
		w.id = random(23)
	}
	b = quote(append(b, `"modelVersion":`...), w.model)
	return quote(append(b, `,"responseId":`...), w.id)
}

// metadata is the usage as it stands: a running total, so that the last one holds. Members that are 0 are left out.
func (w *geminiWriter) metadata() (string, *Usage) {
	u := w.usage
	toolUse := w.toolUse
	if !w.finished {
		u.Prompt -= toolUse
		toolUse = 0
		if w.bytes == 0 {
			u.Reasoning = min(u.Reasoning, int64(w.thought+3)/4)
		}
		u.Completion = min(u.Completion, u.Reasoning+int64(w.bytes+3)/4)
		u.Cached = min(u.Cached, u.Prompt)
		u.Total = u.Prompt + u.Completion
	}
	switch w.x.plan.fault {
	case "no_usage", "no_finish":
		return "", nil
	case "zero_usage", "hostile_usage":
		raw := w.x.plan.fakeUsage("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
		return raw, w.x.plan.believable(raw)
	case "usage_twice":
		if !w.finished {
			return `{"promptTokenCount":1,"candidatesTokenCount":1,"totalTokenCount":2}`, &Usage{Prompt: 1, Completion: 1, Total: 2}
		}
	case "usage_first":
		if w.told {
			return "", nil
		}
		w.told, u, toolUse = true, w.usage, w.toolUse
	}
	b := strconv.AppendInt([]byte(`{"promptTokenCount":`), u.Prompt-toolUse, 10)
	b = counted(b, "candidatesTokenCount", u.Completion-u.Reasoning)
	b = counted(b, "totalTokenCount", u.Total)
	b = append(strconv.AppendInt(append(b, `,"promptTokensDetails":[{"modality":"TEXT","tokenCount":`...), u.Prompt-toolUse, 10), "}]"...)
	b = counted(b, "thoughtsTokenCount", u.Reasoning)
	if u.Cached > 0 {
		b = counted(b, "cachedContentTokenCount", u.Cached)
		b = append(strconv.AppendInt(append(b, `,"cacheTokensDetails":[{"modality":"TEXT","tokenCount":`...), u.Cached, 10), "}]"...)
	}
	if toolUse > 0 {
		b = counted(b, "toolUsePromptTokenCount", toolUse)
		b = append(strconv.AppendInt(append(b, `,"toolUsePromptTokensDetails":[{"modality":"TEXT","tokenCount":`...), toolUse, 10), "}]"...)
	}
	if w.q.tier != "" {
		b = quote(append(b, `,"serviceTier":`...), w.q.tier)
	}
	return string(append(b, '}')), &u
}

// counted appends a member with its comma, unless it is 0.
func counted(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendInt(b, n, 10)
}

func (w *geminiWriter) usageOf(*event) (string, *Usage) { return w.raw, w.honest }

func (*geminiWriter) name(*event) string { return "" }
func (*geminiWriter) tiny() string       { return `{"candidates":[]}` }
func (*geminiWriter) broken() string     { return `{"candidates":[{"content":{"parts":[{"text":` }

// mistake is the error of a stream or a body that began well.
func (w *geminiWriter) mistake() failure {
	p := w.x.plan
	status, err := strconv.Atoi(p.code)
	switch {
	case p.fault == "echo_key":
		return failure{status: 400, message: "API key not valid: " + w.x.key, meta: errorInfo("API_KEY_INVALID", "")}
	case p.code == "rate_limit_exceeded":
		status = 429
	case err != nil:
		status = 503
	}
	return failure{status: status}
}

// render writes one chunk.
func (w *geminiWriter) render(b []byte, e *event) []byte {
	w.raw = ""
	switch e.kind {
	case evError:
		if w.x.plan.kind == "bare" { // as it stands outside of a stream, without a frame
			return append(b, strings.TrimSuffix(pretty(googleError(nil, w.mistake())), "\n")...)
		}
		return googleError(b, w.mistake())
	case evJSON:
		return append(b, e.text...)
	case evDone:
		return w.last(b, e)
	}
	b = append(b, `{"candidates":[{"content":{"parts":[`...)
	switch e.kind {
	case evThought:
		w.thought += len(e.text)
		b = append(w.quote(append(b, `{"text":`...), e.text), `,"thought":true}`...)
	case evArgs:
		w.bytes += len(e.text) + len(w.answers[e.choice].calls[e.call].name)
		b = w.call(b, e.choice, e.call)
	default:
		w.bytes += len(e.text)
		b = append(w.quote(append(b, `{"text":`...), e.text), '}')
	}
	b = w.index(append(b, `],"role":"model"}`...), e.choice)
	if w.q.logprobs && e.kind == evText {
		b = append(b, w.probabilities([]string{e.text})...)
	}
	if w.answers[0].finish == "CONTINUATION" { // checkpoints on the way
		b = quote(append(b, `,"continuationToken":`...), w.q.token(w.token-len(w.answers[0].text)+w.bytes))
	}
	return append(w.tail(append(b, "}],"...)), '}')
}

// index appends the index of a candidate: with several, that of the first is left out, as zeros are.
func (w *geminiWriter) index(b []byte, i int) []byte {
	if len(w.answers) > 1 && i == 0 {
		return b
	}
	return strconv.AppendInt(append(b, `,"index":`...), int64(i), 10)
}

// last writes the chunk that finishes all candidates, the later ones first.
func (w *geminiWriter) last(b []byte, e *event) []byte {
	w.finished = true
	if w.x.plan.block != "" {
		return append(w.tail(append(w.blocked(append(b, '{')), ',')), '}')
	}
	b = append(b, `{"candidates":[`...)
	for i := len(w.answers) - 1; i >= 0; i-- {
		a := &w.answers[i]
		b = append(b, '{')
		comma := ""
		if !silent(a.finish) {
			b = w.quote(append(b, `"content":{"parts":[{"text":`...), e.text)
			if w.signs() && len(a.calls) == 0 {
				b = quote(append(b, `,"thoughtSignature":`...), sign(w.q.model.id, signedText))
			}
			b = append(b, `}],"role":"model"}`...)
			comma = ","
		} else if w.x.plan.fault == "no_finish" {
			b = append(b, `"content":{}`...)
		}
		if w.x.plan.fault != "no_finish" {
			b = w.finish(append(b, comma...), i)
		}
		b = append(w.index(b, i), '}')
		if i > 0 {
			b = append(b, ',')
		}
	}
	return append(w.tail(append(b, "],"...)), '}')
}
