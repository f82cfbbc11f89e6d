package gateway

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/seal"
	"threadhub/orgs"
	"threadhub/upstreams"
	"threadhub/upstreams/gemini"
	"threadhub/upstreams/openai"
	"threadhub/upstreams/openrouter"
	"threadhub/upstreams/perplexity"
	"threadhub/upstreams/upstreamstest"
)

// The recordings of the four providers, as clients see them through the whole gateway.

// recordings is a house whose providers answer with what was recorded.
type recordings struct {
	*house
	raw  atomic.Value  // string: what the next request is answered with
	host string        // where the providers are
	late time.Duration // between the head of an answer and the rest
}

func newRecordings(t *testing.T, api string) *recordings {
	h := &recordings{house: newHouse(t, stores["sqlite"](t), Options{})}
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		raw := h.raw.Load().(string)
		if h.late > 0 {
			head, rest, _ := strings.Cut(raw, "\r\n\r\n")
			c.Send(head + "\r\n\r\n")
			time.Sleep(h.late)
			raw = rest
		}
		c.Send(raw)
		c.Close()
	})
	h.host = strings.TrimPrefix(strings.TrimSuffix(server.URL, "/v1"), "http://")
	for name, open := range map[string]func(upstreams.Options) (*upstreams.Client, error){
		"openai": openai.New, "gemini": gemini.New, "perplexity": perplexity.New, "openrouter": openrouter.New,
	} {
		client, err := open(upstreams.Options{BaseURL: server.URL, API: api})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		h.opts.Upstreams[name] = client
		key := orgs.ProviderKeySpec{Provider: name, Key: seal.NewSecret(upstreamstest.Key)}
		if _, err := h.orgs.PutProviderKey(t.Context(), h.admin.Org, orgs.Actor{}, key); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// ask sends one message to a provider that answers with raw.
func (h *recordings) ask(provider, raw, more string, header ...string) heard {
	h.t.Helper()
	h.raw.Store(raw)
	model := map[string]string{"gemini": "gemini-3.8-flash", "perplexity": "sonar", "openrouter": "anthropic/claude-haiku-5.5", "openai": "gpt-5-mini"}[provider]
	return h.do("POST", "/v1/chat/completions", `{"model":"`+provider+`/`+model+`","messages":[{"role":"user","content":"q"}]`+more+`}`, header...)
}

// recorded are the files of a provider's folder that end so, by their names without the ending. Each must be in names.
func recorded[V any](t *testing.T, folder, ending string, names map[string]V) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../upstreams/" + folder + "/*" + ending)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ending)
		if _, ok := names[name]; !ok {
			t.Errorf("%s/%s%s is in no table", folder, name, ending)
		}
		files[name] = string(b)
	}
	if len(files) != len(names) {
		t.Errorf("%s holds %d files, %d are in the table", folder, len(files), len(names))
	}
	return files
}

// told checks an error object that a client is given: it is one, says which hop failed, and holds neither key nor address.
func (h *recordings) told(t *testing.T, about, provider string, raw []byte) gjson.Result {
	t.Helper()
	var body map[string]map[string]any
	if err := json.Unmarshal(raw, &body); err != nil || len(body) != 1 || len(body["error"]) != 4 {
		t.Errorf("%s: %s is no error object", about, raw)
	}
	e := gjson.GetBytes(raw, "error")
	if m := e.Get("message").Str; !strings.HasPrefix(m, provider) && !strings.HasPrefix(m, "the provider") {
		t.Errorf("%s: %q does not say which hop failed", about, e.Get("message").Str)
	}
	for _, secret := range []string{upstreamstest.Key, "canary", h.host, "127.0.0.1", "http:", "https:"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("%s: %s tells %q", about, raw, secret)
		}
	}
	return e
}

// What a client gets for each recorded refusal, whole and for a stream alike.
func TestRecordedRefusals(t *testing.T) {
	type row struct {
		status            int
		kind, code, param string
		wait              string // Retry-After
	}
	invalid := func(code, param string) row { return row{400, "invalid_request_error", code, param, ""} }
	missing := func(code, param string) row { return row{404, "invalid_request_error", code, param, ""} }
	limited := func(wait string) row { return row{429, "rate_limit_error", "rate_limit_exceeded", "", wait} }
	failed := func(wait string) row { return row{502, "upstream_error", "upstream_error", "", wait} }
	broke := row{429, "rate_limit_error", "insufficient_quota", "", "never"}
	rejected := row{502, "upstream_error", "upstream_auth", "", "never"}
	denied := row{403, "permission_denied", "permission_denied", "", "never"}
	late := row{504, "upstream_error", "upstream_timeout", "", "1"}
	h := newRecordings(t, "")
	for provider, table := range map[string]map[string]row{
		"openai": {
			"400_context_length": invalid("context_length_exceeded", "messages"), "400_empty_messages": invalid("empty_array", "messages"),
			"400_null_code": invalid("invalid_request", "dimensions"), "400_unsupported_parameter": invalid("unsupported_parameter", "max_tokens"),
			"400_unsupported_value": invalid("unsupported_value", "temperature"), "401_invalid_key": rejected, "401_missing_key": rejected,
			"403_model": missing("model_not_found", "model"), "403_region": denied, "404_model": missing("model_not_found", ""),
			"404_url": missing("not_found", ""), "429_quota": broke, "429_tokens": limited("2"), "500": failed("1"), "502_html": failed("1"),
		},
		"gemini": {
			"400_api_key": rejected, "400_array": invalid("invalid_request", ""), "400_field": invalid("invalid_request", ""), "400_location": denied,
			"400_signature": invalid("invalid_request", ""), "401_oauth": rejected, "403_leaked": denied, "403_no_key": denied,
			"404_model": missing("model_not_found", "model"), "429_bare": limited("1"), "429_day": broke, "429_minute": limited("35"),
			"499": failed("1"), "500": failed("1"), "503": failed("1"), "504": late,
		},
		"perplexity": {
			"400_agent_model": invalid("invalid_model", ""), "400_alternation": invalid("invalid_request", ""), "401": rejected, "401_html": rejected,
			"403_migration": denied, "403_retired": denied, "403_router_preview": denied, "422": invalid("invalid_request", "max_tokens"),
			"429": limited("1"), "500": failed("1"),
		},
		"openrouter": {
			"400": invalid("invalid_request", ""), "400_provider": invalid("invalid_request", ""), "401": rejected, "401_missing": rejected,
			"402": broke, "402_afford": broke, "403_guardrail": invalid("content_policy_violation", ""), "403_limit": denied,
			"404_availability": missing("not_found", ""), "404_endpoints": missing("not_found", ""), "408": failed("1"),
			"413": {413, "invalid_request_error", "request_too_large", "", ""}, "422": invalid("invalid_request", ""), "429_free": limited("37"),
			"429_upstream": limited("5"), "500": failed("1"), "502": failed("1"), "503": failed("10"), "524": failed("1"), "529": failed("1"),
		},
	} {
		for name, raw := range recorded(t, provider+"/testdata/errors", ".http", table) {
			want := table[name]
			for _, more := range []string{"", `,"stream":true`} {
				r := h.ask(provider, raw, more)
				about := provider + " " + name + more
				e := h.told(t, about, provider, r.body)
				got := row{r.status, e.Get("type").Str, e.Get("code").Str, e.Get("param").Str, r.header.Get("Retry-After")}
				if r.header.Get("X-Should-Retry") == "false" {
					got.wait += "never"
				}
				if got != want || r.header.Get("Content-Type") != "application/json" {
					t.Errorf("%s: got %+v, want %+v: %s", about, got, want, r.body)
				}
			}
		}
	}
}

// noReason is how the streams end that were written to try the framing: in [DONE], but no choice says why it ended.
const noReason = "upstream_truncated"

// unbegun are the streams that failed by their first event, and with what status: nothing of them goes to a client.
var unbegun = map[string]int{"error_first": 429, "comments_only": 502, "stream_failed": 502, "empty": 502, "json_instead": 400}

// How each recorded stream ends for a client: in [DONE], or in one error event with this code and nothing after it.
func TestRecordedStreams(t *testing.T) {
	for api, folders := range map[string]map[string]map[string]string{
		"": {
			"openai/testdata/stream": {
				"audio": "", "content_filter": "", "cut_clean_no_done": "upstream_truncated", "error_event": "rate_limit_exceeded",
				"error_mid": "upstream_error", "length": "", "logprobs": "", "moderation": "", "plain": "", "refusal": "", "text_then_tool": "",
				"tool_custom": "", "tool_parallel": "", "tool_single": "", "unicode": "", "usage": "", "usage_no_obfuscation": "", "web_search": "",
			},
			"openrouter/testdata/stream": {
				"annotations": "", "comments_only": "upstream_truncated", "error_first": "rate_limit_exceeded", "error_mid_numeric": "upstream_error",
				"plain_usage_empty_choices": "", "plain_usage_with_choice": "", "reasoning": "", "tool_call": "",
			},
			"gemini/testdata/stream": {
				"continuation": "", "cut": "upstream_truncated", "error_mid": "upstream_error", "error_mid_raw": "upstream_error", "grounding": "",
				"max_tokens": "", "n2": "", "plain": "", "plain_lf": "", "prompt_blocked": "", "safety": "", "thinking": "", "tool": "",
			},
			"perplexity/testdata/agent": {"stream": "", "stream_failed": "upstream_error", "stream_function_call": ""},
			"../internal/sse/testdata": { // at OpenAI
				"bom_crlf": noReason, "cr_only": noReason, "empty": "upstream_truncated", "fields_and_comments": noReason, "json_instead": "invalid_request",
				"long_line": noReason, "multi_line_data": noReason, "no_final_blank_line": noReason, "no_space_after_colon": noReason,
			},
		},
		perplexity.Sonar: {"perplexity/testdata/sonar": {"stream_concise": "", "stream_full": "", "stream_full_done": ""}},
	} {
		h := newRecordings(t, api)
		for folder, table := range folders {
			provider, _, _ := strings.Cut(folder, "/")
			if provider == ".." {
				provider = "openai"
			}
			for name, raw := range recorded(t, folder, ".sse", table) {
				for _, asked := range []bool{false, true} {
					more := `,"stream":true,"tools":[{"type":"function","function":{"name":"get_weather"}}]`
					if asked {
						more += `,"stream_options":{"include_usage":true}`
					}
					r := h.ask(provider, upstreamstest.EventStream+raw, more, "X-Thread-Id", "new")
					s := streamed{recordings: h, T: t, about: provider + " " + name, provider: provider, asked: asked}
					if status := unbegun[name]; status != 0 {
						s.checkUnbegun(r.want(t, status), table[name])
						continue
					}
					s.check(r.want(t, 200), table[name])
				}
			}
		}
	}
}

// streamed is a stream that a client was given.
type streamed struct {
	*recordings
	*testing.T
	about, provider string
	asked           bool // for the usage
}

func (s streamed) check(r heard, code string) {
	s.Helper()
	list := s.payloads(r.body)
	last := list[len(list)-1]
	ends := map[int64]int{}
	usages := 0
	for i, p := range list[:len(list)-1] {
		if !gjson.Valid(p) || p[0] != '{' || gjson.Get(p, "error").IsObject() {
			s.Errorf("%s: event %d is %s", s.about, i, p)
		}
		for _, c := range gjson.Get(p, "choices").Array() {
			if c.Get("finish_reason").Type == gjson.String {
				ends[c.Get("index").Int()]++
			}
		}
		if gjson.Get(p, "usage").IsObject() {
			usages++
			if !s.asked || gjson.Get(p, "choices").Raw != "[]" || !gjson.Get(p, "usage.cost_status").Exists() {
				s.Errorf("%s: the usage is %s", s.about, p)
			}
		}
	}
	status, reason := "complete", ""
	if code == "" {
		if last != "[DONE]" {
			s.Errorf("%s: the last event is %s", s.about, last)
		}
	} else {
		status, reason = "incomplete", code
		if e := s.told(s.T, s.about, s.provider, []byte(last)); e.Get("code").Str != code {
			s.Errorf("%s: the last event is %s, want %s", s.about, last, code)
		}
	}
	for index, n := range ends {
		if n != 1 {
			s.Errorf("%s: choice %d ends %d times", s.about, index, n)
		}
	}
	if usages > 1 {
		s.Errorf("%s: %d usages", s.about, usages)
	}
	thread := s.do("GET", "/api/threads/"+r.header.Get("X-Thread-Id"), "").want(s.T, 200).body
	if m := gjson.GetBytes(thread, "messages.1"); m.Get("status").Str != status || m.Get("incomplete_reason").Str != reason {
		s.Errorf("%s: the thread holds %s", s.about, m)
	}
}

func (s streamed) checkUnbegun(r heard, code string) {
	s.Helper()
	if e := s.told(s.T, s.about, s.provider, r.body); e.Get("code").Str != code {
		s.Errorf("%s: it failed with %s, want %s", s.about, r.body, code)
	}
	thread := s.do("GET", "/api/threads/"+r.header.Get("X-Thread-Id"), "").want(s.T, 200).body
	if m := gjson.GetBytes(thread, "messages.1"); m.Get("status").Str != "incomplete" || m.Get("incomplete_reason").Str != code || m.Get("content").Str != "" {
		s.Errorf("%s: the thread holds %s", s.about, m)
	}
}

// payloads takes an event stream apart, which must be of nothing but data with ids, and comments, in lines that end in LF.
func (s streamed) payloads(body []byte) (list []string) {
	s.Helper()
	rest := string(body)
	for rest != "" {
		event, after, whole := strings.Cut(rest, "\n\n")
		var data []string
		for line := range strings.SplitSeq(event, "\n") {
			value, ok := strings.CutPrefix(line, "data: ")
			if !whole || strings.ContainsAny(line, "\r") || !ok && !strings.HasPrefix(line, ":") && !strings.HasPrefix(line, "id: ") {
				s.Fatalf("%s: no event: %.200q", s.about, event)
			}
			if ok {
				data = append(data, value)
			}
		}
		if data != nil {
			list = append(list, strings.Join(data, "\n"))
		}
		rest = after
	}
	if len(list) == 0 {
		s.Fatalf("%s: nothing came", s.about)
	}
	return list
}

// What a client gets for each recorded whole answer: the answer, or an error with this code.
func TestRecordedAnswers(t *testing.T) {
	for api, folders := range map[string]map[string]map[string]string{
		"": {
			"openai/testdata/chat": {
				"audio_out": "", "content_filter": "", "empty_choices": "upstream_protocol", "image": "", "json_schema": "", "length": "",
				"length_all_reasoning": "", "logprobs": "", "moderation": "", "n2": "", "plain": "", "reasoning": "", "refusal": "", "tool_custom": "",
				"tool_parallel": "", "tool_results": "", "tool_single": "", "unicode": "", "web_search": "",
			},
			"openrouter/testdata/chat": {
				"annotations": "", "byok": "", "error_200": "upstream_error", "gemini_tool": "", "images_out": "", "metadata": "", "perplexity_sonar": "",
				"plain": "", "reasoning": "", "reasoning_claude": "",
			},
			"gemini/testdata/generate": {
				"cached_usage": "", "code_execution": "", "continuation_1": "", "continuation_2": "", "grounding": "", "image": "", "image_out": "",
				"json_schema": "", "logprobs": "", "max_tokens": "", "max_tokens_empty": "", "no_index_no_role": "", "plain": "", "prompt_blocked": "",
				"recitation": "", "safety": "", "server_tool_parts": "", "thinking": "", "tool": "", "tool_parallel": "", "unicode": "",
			},
			"perplexity/testdata/agent": {"annotated": "", "function_call": "", "plain": ""},
		},
		perplexity.Sonar: {"perplexity/testdata/sonar": {"images": "", "plain": "", "reasoning_pro": ""}},
	} {
		h := newRecordings(t, api)
		for folder, table := range folders {
			provider, _, _ := strings.Cut(folder, "/")
			for name, raw := range recorded(t, folder, ".resp.json", table) {
				more := `,"tools":[{"type":"function","function":{"name":"get_weather"}}]`
				r := h.ask(provider, upstreamstest.Reply("200 OK", raw, upstreamstest.JSON), more)
				about := provider + " " + name
				if code := table[name]; code != "" {
					if e := h.told(t, about, provider, r.body); r.status != 502 || e.Get("code").Str != code {
						t.Errorf("%s: %d %s, want %s", about, r.status, r.body, code)
					}
					continue
				}
				r.want(t, 200)
				if passes := slices.Contains([]string{"openai", "openrouter"}, provider); passes && string(r.body) != raw {
					t.Errorf("%s: its bytes have changed", about)
				}
				if finish := gjson.GetBytes(r.body, "choices.0.finish_reason").Str; finish == "" || !gjson.GetBytes(r.body, "choices.0.message.role").Exists() {
					t.Errorf("%s: %s", about, r.body)
				}
				call := h.call(r)
				if sum := gjson.GetBytes(r.body, "usage.total_tokens").Num; call["usage"].(map[string]any)["total_tokens"] != sum || call["cost_usd"] == nil {
					t.Errorf("%s: %v recorded of %v, for %v", about, call["usage"], sum, call["cost_usd"])
				}
			}
		}
	}
}

// Of a call through OpenRouter it is known whom it asked, and what of the cost that vendor bills to the org itself.
func TestVendorsAreRecorded(t *testing.T) {
	h := newRecordings(t, "")
	read := func(name string) string {
		b, err := os.ReadFile("../upstreams/openrouter/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for about, c := range map[string]struct{ raw, more, vendor, cost, vendors string }{
		"own key":  {upstreamstest.Reply("200 OK", read("chat/byok.resp.json"), upstreamstest.JSON), "", "OpenAI", "0.0000192", "0.0000192"},
		"theirs":   {upstreamstest.Reply("200 OK", read("chat/plain.resp.json"), upstreamstest.JSON), "", "OpenAI", "0.00042", ""},
		"streamed": {upstreamstest.EventStream + read("stream/plain_usage_with_choice.sse"), `,"stream":true`, "OpenAI", "0.00042", ""},
	} {
		r := h.ask("openrouter", c.raw, c.more, "X-Thread-Id", "new").want(t, 200)
		call := h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(t, 200).body
		for path, want := range map[string]string{"vendor": c.vendor, "cost_usd": c.cost, "cost_status": "reported", "attempts.0.vendor_cost_usd": c.vendors} {
			if got := gjson.GetBytes(call, path).String(); got != want {
				t.Errorf("%s: %s is %q, want %q", about, path, got, want)
			}
		}
		thread := h.do("GET", "/api/threads/"+r.header.Get("X-Thread-Id"), "").want(t, 200).body
		if got := gjson.GetBytes(thread, "messages.1.vendor").Str; got != c.vendor {
			t.Errorf("%s: the message is from %q", about, got)
		}
	}
}

// A Sonar model's answer without a search carries a warning. A stream cannot say so in its header: its usage does, where the
// client asked for one, and what became of the call does always.
func TestWarningsThatComeLate(t *testing.T) {
	h := newRecordings(t, "")
	const missed = "dropped=search;reason=not_searched"
	answer := `{"id":"resp_1","object":"response","created_at":1,"model":"m","status":"completed","error":null,"output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"a","annotations":[]}]}],"usage":{"input_tokens":3,"output_tokens":2,"total_tokens":5}}`
	whole := upstreamstest.Reply("200 OK", answer, upstreamstest.JSON)
	stream := upstreamstest.EventStream + upstreamstest.Data(`{"type":"response.completed","response":`+answer+`}`)
	for _, c := range []struct{ raw, more, header, usage, all string }{
		{whole, "", missed, "", `["` + missed + `"]`},
		{whole, `,"seed":1`, "dropped=seed;reason=unsupported, " + missed, "", `["dropped=seed;reason=unsupported","` + missed + `"]`},
		{stream, `,"stream":true`, "", "", `["` + missed + `"]`},
		{stream, `,"seed":1,"stream":true,"stream_options":{"include_usage":true}`, "dropped=seed;reason=unsupported", `["` + missed + `"]`, `["dropped=seed;reason=unsupported","` + missed + `"]`},
		{whole, `,"disable_search":true`, "", "", `[]`},
	} {
		r := h.ask("perplexity", c.raw, c.more).want(t, 200)
		if got := r.header.Get("X-Threadhub-Warning"); got != c.header {
			t.Errorf("%s: the header warns of %q", c.more, got)
		}
		usage := ""
		for _, p := range events(r.body) {
			usage += gjson.Get(p, "usage.warnings").Raw
		}
		call := h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(t, 200).body
		if all := gjson.GetBytes(call, "warnings|@ugly").Raw; usage != c.usage || all != c.all {
			t.Errorf("%s: the usage warns of %s, the call of %s", c.more, usage, all)
		}
	}
}

// The recorded requests for embeddings reach OpenAI as they are, and the recorded answer to each the client.
func TestRecordedEmbeddings(t *testing.T) {
	const folder = "openai/testdata/embeddings"
	answers := map[string]string{"float": "float", "tokens": "base64"}
	h := newRecordings(t, "")
	var seen atomic.Value
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		seen.Store(string(c.Body))
		c.Send(h.raw.Load().(string))
	})
	client, err := openai.New(upstreams.Options{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	h.opts.Upstreams["openai"] = client
	for name, body := range recorded(t, folder, ".req.json", answers) {
		answer, err := os.ReadFile("../upstreams/" + folder + "/" + answers[name] + ".resp.json")
		if err != nil {
			t.Fatal(err)
		}
		if name == "tokens" { // it asks for two
			answer = []byte(strings.Replace(string(answer), "}\n  ],", `},{"object":"embedding","index":1,"embedding":"8IVJPAAAgL4AAAA/AACAPQ=="}],`, 1))
		}
		h.raw.Store(upstreamstest.Reply("200 OK", string(answer), upstreamstest.JSON))
		r := h.do("POST", "/v1/embeddings", body).want(t, 200)
		if got := seen.Load(); got != body || string(r.body) != string(answer) {
			t.Errorf("%s: OpenAI got %s, the client %s", name, got, r.body)
		}
	}
}
