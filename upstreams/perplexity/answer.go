package perplexity

import (
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// agentWords is a request in the words of the Agent API, and what reads its answer.
type agentWords struct {
	request   []byte
	warnings  []string
	functions []string
	model     string // as it was asked for
	searches  bool   // the model is to search for every answer
	forced    [2]int // where in request it is made to
	stream    agentStream
}

func (w *agentWords) Path() string       { return agentPath }
func (w *agentWords) Body() []byte       { return w.request }
func (w *agentWords) Warnings() []string { return w.warnings }

// Yield is upstreams.Yielder's. In which form Perplexity takes the demand for a search is in none of its documents: without
// it a Sonar model mostly searches all the same, and a warning says so if it did not.
func (w *agentWords) Yield() bool {
	if w.forced[1] == 0 {
		return false
	}
	w.request = slices.Concat(w.request[:w.forced[0]], w.request[w.forced[1]:])
	w.forced = [2]int{}
	return true
}

// response is the object of an answer, whole or at the end of a stream.
type response struct {
	id, model, created                 string // JSON
	status                             string
	failure, incomplete, output, usage gjson.Result
}

func parseResponse(v gjson.Result) (r response) {
	for key, v := range members(v) {
		switch key.Str {
		case "id":
			r.id = orEmpty(v.Raw)
		case "model":
			r.model = orEmpty(v.Raw)
		case "created_at":
			r.created = v.Raw
		case "status":
			r.status = v.Str
		case "error":
			r.failure = v
		case "incomplete_details":
			r.incomplete = v
		case "output":
			r.output = v
		case "usage":
			r.usage = v
		}
	}
	return r
}

// Whole is Words'.
func (w *agentWords) Whole(body []byte) ([]byte, error) {
	r := parseResponse(gjson.ParseBytes(body))
	if err := r.failed(); err != nil {
		return append(raw([]byte{'{'}, "usage", string(appendUsage(nil, r.usage))), '}'), err
	}
	if !r.output.IsArray() {
		return nil, protocol("answered with something that is no answer")
	}
	var s said
	s.output(r.output, w.functions)
	finish, err := r.finish(&s)
	if err != nil {
		return nil, err
	}
	w.missed(&s)
	out := append(make([]byte, 0, len(body)), '{')
	out = raw(out, "id", r.id)
	out = raw(out, "object", `"chat.completion"`)
	out = raw(out, "created", seconds(r.created))
	out = raw(out, "model", r.model)
	out = append(member(out, "choices"), `[{"index":0,"message":{"role":"assistant"`...)
	out = s.message(out)
	out = append(out, `},"logprobs":null,"finish_reason":"`+finish+`"}]`...)
	out = appendLegacy(out, s.sources)
	if usage := appendUsage(nil, r.usage); usage != nil {
		out = append(member(out, "usage"), usage...)
	}
	return append(out, '}'), nil
}

// missed warns of an answer that should rest on a search and does not. One that calls a function is none yet.
func (w *agentWords) missed(s *said) {
	if w.searches && len(s.sources) == 0 && len(s.calls) == 0 {
		w.warnings = append(w.warnings, notSearchedWarning)
	}
}

const notSearchedWarning = "dropped=search;reason=" + notSearched

// message appends the members of the message.
func (s *said) message(dst []byte) []byte {
	if len(s.text) == 0 && (len(s.calls) > 0 || len(s.refusal) > 0) {
		dst = raw(dst, "content", "null")
	} else {
		dst = str(dst, "content", s.text)
	}
	if len(s.refusal) > 0 {
		dst = str(dst, "refusal", s.refusal)
	} else {
		dst = raw(dst, "refusal", "null")
	}
	if len(s.thoughts) > 0 {
		dst = str(dst, "reasoning_content", s.thoughts)
	}
	dst = list(dst, "tool_calls", s.calls)
	return list(dst, "annotations", s.annotations())
}

// list appends a member whose value is the array of these elements; nothing if there are none.
func list(dst []byte, name string, elements []byte) []byte {
	if len(elements) == 0 {
		return dst
	}
	dst = append(append(member(dst, name), '['), elements...)
	return append(dst, ']')
}

// failed is the error of an answer that says it has failed.
func (r *response) failed() error {
	switch {
	case r.failure.IsObject() || r.failure.Type == gjson.String:
		return upstreams.Complaint(r.failure.Raw)
	case r.status == "failed" || r.status == "cancelled":
		return upstreams.Complaint("{}")
	}
	return nil
}

// finish is why the answer ended, in OpenAI's word. A cut wins over calls: their arguments may be cut.
func (r *response) finish(s *said) (string, error) {
	switch r.status {
	case "completed", "requires_action":
		switch {
		case len(s.calls) > 0:
			return "tool_calls", nil
		case r.status == "requires_action":
			return "", protocol("asked for a function that nobody offered")
		}
		return "stop", nil
	case "incomplete":
		if r.incomplete.Get("reason").Str == "content_filter" {
			return "content_filter", nil
		}
		return "length", nil
	}
	return "", protocol("answered with something that is no end of an answer")
}

// appendUsage appends a usage in OpenAI's form; nil if there is none. The cost is what the provider says it is, digit for
// digit.
func appendUsage(dst []byte, u gjson.Result) []byte {
	if !u.IsObject() {
		return nil
	}
	in, out := u.Get("input_tokens_details"), u.Get("output_tokens_details")
	cached := in.Get("cached_tokens")
	if cached.Int() == 0 {
		cached = in.Get("cache_read_input_tokens")
	}
	dst = append(dst, '{')
	dst = raw(dst, "prompt_tokens", u.Get("input_tokens").Raw)
	dst = raw(dst, "completion_tokens", u.Get("output_tokens").Raw)
	dst = raw(dst, "total_tokens", u.Get("total_tokens").Raw)
	dst = append(member(dst, "prompt_tokens_details"), '{')
	dst = raw(dst, "cached_tokens", cached.Raw)
	dst = append(raw(dst, "cache_write_tokens", in.Get("cache_creation_input_tokens").Raw), '}')
	dst = append(member(dst, "completion_tokens_details"), '{')
	dst = append(raw(dst, "reasoning_tokens", out.Get("reasoning_tokens").Raw), '}')
	if n := searches(u.Get("tool_calls_details")); n > 0 {
		dst = strconv.AppendInt(member(dst, "num_search_queries"), n, 10)
	}
	return append(appendCost(dst, u.Get("cost")), '}')
}

// searches adds up how often the web was searched.
func searches(tools gjson.Result) (n int64) {
	for _, name := range []string{"search_web", "web_search"} {
		n += tools.Get(name + ".invocation").Int()
	}
	return n
}

// appendCost appends what the answer cost, and what it is made of.
func appendCost(dst []byte, cost gjson.Result) []byte {
	if !cost.IsObject() {
		return dst
	}
	dst = raw(dst, "cost", cost.Get("total_cost").Raw)
	return raw(dst, "cost_details", cost.Raw)
}

// seconds is a time, 0 where there is none.
func seconds(value string) string {
	if value == "" || value == "null" || value[0] == '"' {
		return "0"
	}
	return value
}

// protocol is the error for an answer that is not what the API says.
func protocol(text string) error {
	return fault.New(fault.Upstream, "perplexity %s", text).WithCode("upstream_protocol")
}
