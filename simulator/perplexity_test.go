package simulator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

func pplx(t *testing.T, s *Simulator, path, body string) *reply {
	t.Helper()
	f := &forms[1]
	if path == "/chat/completions" {
		f = &forms[2]
	}
	return f.ask(t, s, path, body, soon)
}

const agentTool = `{"type":"function","name":"get_weather","parameters":` + weatherSchema + `}`

func agentAsk(text, more string) string {
	return `{"input":` + asked(text) + more + `}`
}

func sonarAsk(text, more string) string {
	return `{"model":"sonar","messages":[{"role":"user","content":` + asked(text) + `}]` + more + `}`
}

func TestPerplexitysWholeAnswersHaveItsMembers(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ want, path, request string }{
		{"plain", "/v1/responses", agentAsk("hi", `,"preset":"fast"`)},
		{"plain", "/v1/agent", agentAsk("hi", `,"model":"openai/gpt-6-luna","tools":[{"type":"web_search"}]`)},
		{"annotated", "/v1/responses", agentAsk("hi", `,"preset":"low"`)},
		{"function_call", "/responses", agentAsk("call the tool", `,"model":"google/gemini-3.8-flash","tools":[`+agentTool+`]`)},
		{"sonar_plain", "/chat/completions", sonarAsk("hi", `,"return_related_questions":true`)},
		{"sonar_images", "/chat/completions", sonarAsk("hi", `,"return_images":true,"disable_search":true`)},
		{"sonar_reasoning_pro", "/chat/completions", strings.Replace(sonarAsk("hi", ""), `"sonar"`, `"sonar-reasoning-pro"`, 1)},
	} {
		t.Run(c.want, func(t *testing.T) {
			r := pplx(t, s, c.path, c.request)
			if r.code != 200 {
				t.Fatalf("%d %s", r.code, r.body)
			}
			loose := []string{"citation_tokens", "search_queries_cost", "reasoning_tokens_cost"}
			same(t, "the answer", optional(shape(t, r.body), loose...), optional(shape(t, fixture(t, "perplexity/"+c.want+".resp.json")), loose...))
		})
	}
}

func TestPerplexitysStreamsHaveItsEvents(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ want, path, request string }{
		{"stream", "/v1/responses", fixture(t, "perplexity/stream.req.json")},
		{"stream_failed", "/v1/responses", agentAsk("[[sim fault=error_first]]", `,"preset":"fast","stream":true`)},
		{"stream_function_call", "/v1/responses", agentAsk("call the tool", `,"stream":true,"model":"openai/gpt-6-luna","tools":[`+agentTool+`]`)},
		{"sonar_stream_full_done", "/chat/completions", sonarAsk("hi", `,"stream":true`)},
		{"sonar_stream_full", "/chat/completions", sonarAsk("[[sim fault=no_done]]", `,"stream":true`)},
		{"sonar_stream_concise", "/chat/completions", sonarAsk("hi", `,"stream":true,"stream_mode":"concise"`)},
	} {
		t.Run(c.want, func(t *testing.T) {
			r := pplx(t, s, c.path, c.request)
			if r.code != 200 || r.cut || r.head.Get("Content-Type") != "text/event-stream; charset=utf-8" {
				t.Fatalf("%d cut=%v %s", r.code, r.cut, r.body)
			}
			want := dataLines(strings.ReplaceAll(fixture(t, "perplexity/"+c.want+".sse"), "\r", ""))
			got := r.data
			if c.want == "stream_failed" { // the fault is the first event here
				want = want[len(want)-1:]
			}
			if g, w := outline(got), outline(want); !slices.Equal(g, w) {
				t.Errorf("events\n%q\nwant\n%q", g, w)
			}
			loose := []string{"tool_calls_cost", "tool_calls_details"} // of a search that was not made
			if c.want != "stream_function_call" {
				loose = []string{"none"}
			}
			g, w := shapes(t, got), shapes(t, want)
			for i := range max(len(g), len(w)) {
				if i >= len(g) || i >= len(w) {
					t.Fatalf("%d shapes, want %d", len(g), len(w))
				}
				same(t, fmt.Sprintf("event %d", i), optional(strings.Fields(g[i]), loose...), optional(strings.Fields(w[i]), loose...))
			}
		})
	}
}

// outline is the types of the events of a stream, repetitions left out.
func outline(data []string) []string {
	var list []string
	for _, d := range data {
		kind := gjson.Get(d, "type").Str + gjson.Get(d, "object").Str
		if d == "[DONE]" {
			kind = d
		}
		list = append(list, kind)
	}
	return slices.Compact(list)
}

func TestAgentsEventsAreNamedAndNumbered(t *testing.T) {
	s := start(t, Options{})
	r := pplx(t, s, "/v1/responses", agentAsk("hi", `,"preset":"fast","stream":true`))
	frames := strings.Split(strings.TrimSuffix(r.body, "\n\n"), "\n\n")
	before, gaps := int64(-1), false
	for _, f := range frames {
		name, data, ok := strings.Cut(f, "\ndata: ")
		e := gjson.Parse(data)
		n := e.Get("sequence_number").Int()
		if !ok || name != "event: "+e.Get("type").Str || n <= before {
			t.Errorf("%q after number %d", f, before)
		}
		gaps = gaps || n > before+1
		before = n
	}
	if !gaps || gjson.Get(r.data[0], "response.model").Str != "fast" || gjson.Get(r.data[len(r.data)-1], "response.model").Str != "openai/gpt-6-luna" {
		t.Errorf("%s", r.body)
	}
	if a := last(t, s); a.RequestID != gjson.Get(r.data[0], "response.id").Str || a.Model != "fast" {
		t.Errorf("%s %s", a.RequestID, a.Model)
	}
}

func TestPerplexitysErrorsAreInItsWords(t *testing.T) {
	s, gone := start(t, Options{}), start(t, Options{NoSonar: true})
	for _, c := range []struct {
		want, key, path, body string
		s                     *Simulator
	}{
		{"400_agent_model", "k", "/v1/responses", agentAsk("hi", `,"model":"sonar"`), s},
		{"400_alternation", "k", "/chat/completions", `{"model":"sonar","messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}`, s},
		{"401", "invalid", "/v1/responses", agentAsk("hi", `,"preset":"fast"`), s},
		{"401", "", "/v1/responses", agentAsk("hi", `,"preset":"fast"`), s},
		{"401", "invalid", "/chat/completions", sonarAsk("hi", ""), s},
		{"401_html", "k", "/v1/responses", agentAsk("[[sim status=401 code=html]]", `,"preset":"fast"`), s},
		{"403_migration", "k", "/chat/completions", sonarAsk("[[sim status=403 code=agent_api_migration_required]]", ""), s},
		{"403_migration", "k", "/chat/completions", sonarAsk("hi", ""), gone},
		{"403_retired", "k", "/chat/completions", sonarAsk("[[sim status=403 code=chat_completions_not_available]]", ""), s},
		{"403_router_preview", "k", "/v1/responses", agentAsk("[[sim status=403]]", `,"preset":"fast"`), s},
		{"422", "k", "/chat/completions", sonarAsk("hi", `,"max_tokens":"many"`), s},
		{"429", "k", "/v1/responses", agentAsk("[[sim status=429]]", `,"preset":"fast"`), s},
		{"500", "k", "/chat/completions", sonarAsk("[[sim status=500]]", ""), s},
	} {
		t.Run(c.want, func(t *testing.T) {
			head, want, _ := strings.Cut(strings.ReplaceAll(fixture(t, "perplexity/"+c.want+".http"), "\r\n", "\n"), "\n\n")
			resp, body := exchangeHTTP(t, "POST", c.s.URL("perplexity")+c.path, c.key, c.body)
			if status := strings.Fields(head)[1]; !strings.HasPrefix(resp.Status, status) {
				t.Fatalf("%s, want %s: %s", resp.Status, status, body)
			}
			if c.want == "401_html" {
				if strings.Join(strings.Fields(body), "") != strings.Join(strings.Fields(want), "") || resp.Header.Get("Content-Type") != "text/html" {
					t.Errorf("%s", body)
				}
				return
			}
			var got, need any
			if json.Unmarshal([]byte(body), &got) != nil || json.Unmarshal([]byte(want), &need) != nil || fmt.Sprint(got) != fmt.Sprint(need) {
				t.Errorf("%s\nwant\n%s", body, want)
			}
		})
	}
}

func TestAgentRefusesWhatItRefuses(t *testing.T) {
	s := start(t, Options{})
	with := func(members string) string { return agentAsk("hi", `,"model":"openai/gpt-6-luna"`+members) }
	items := func(list ...string) string {
		return `{"model":"openai/gpt-6-luna","input":[` + strings.Join(list, ",") + `]}`
	}
	const (
		user   = `{"type":"message","role":"user","content":"hi"}`
		call   = `{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"}`
		output = `{"type":"function_call_output","call_id":"c1","output":"x"}`
	)
	google := func(signature string) string {
		return `{"model":"google/gemini-3.8-flash","input":[` + user + `,` + strings.Replace(call, `"name"`, `"thought_signature":"`+signature+`","name"`, 1) + `,` + output + `]}`
	}
	for _, c := range []struct {
		name, body string
		code       int
		says       string
	}{
		{"good", with(""), 200, ""},
		{"a call and its output", items(user, call, output), 200, ""},
		{"not JSON", `{`, 422, "json_invalid"},
		{"not an object", `[]`, 422, "model_attributes_type"},
		{"messages", with(`,"messages":[]`), 422, `"loc":["body","messages"],"msg":"Extra inputs are not permitted","type":"extra_forbidden"`},
		{"max_tokens", with(`,"max_tokens":5`), 422, "extra_forbidden"},
		{"a seed", with(`,"seed":5`), 422, "extra_forbidden"},
		{"stream options", with(`,"stream_options":{"include_usage":true}`), 422, "extra_forbidden"},
		{"the form of another API", with(`,"text":{"format":{"type":"text"}}`), 422, "extra_forbidden"},
		{"no input", `{"model":"openai/gpt-6-luna"}`, 422, "Field required"},
		{"an empty input", `{"model":"openai/gpt-6-luna","input":[]}`, 400, "must not be empty"},
		{"an input of a wrong type", `{"model":"openai/gpt-6-luna","input":5}`, 422, "string_type"},
		{"no model", `{"input":"hi"}`, 400, "one of model, models, preset or profile"},
		{"an unknown model", agentAsk("hi", `,"model":"gpt-6-luna"`), 400, `model \"gpt-6-luna\" is not supported`},
		{"an unknown model among others", with(`,"models":["openai/gpt-6-luna","x/y"]`), 400, `model \"x/y\" is not supported`},
		{"six models", with(`,"models":["a","b","c","d","e","f"]`), 400, "at most 5"},
		{"an unknown preset", agentAsk("hi", `,"preset":"sonar"`), 400, `preset \"sonar\" is not supported`},
		{"Anthropic without a limit", agentAsk("hi", `,"model":"anthropic/claude-haiku-5.5"`), 400, "max_output_tokens is required"},
		{"Anthropic with one", agentAsk("hi", `,"model":"anthropic/claude-haiku-5.5","max_output_tokens":50`), 200, ""},
		{"stream of a wrong type", with(`,"stream":"yes"`), 422, "bool_parsing"},
		{"a limit that is not whole", with(`,"max_output_tokens":1.5`), 422, "int_parsing"},
		{"a limit of nothing", with(`,"max_output_tokens":0`), 400, "max_output_tokens"},
		{"too many steps", with(`,"max_steps":101`), 400, "max_steps"},
		{"too hot", with(`,"temperature":2.5`), 400, "temperature"},
		{"an unknown effort", with(`,"reasoning":{"effort":"none"}`), 400, "reasoning.effort"},
		{"an unknown kind of item", items(user, `{"type":"item_reference","id":"x"}`), 422, "union_tag_invalid"},
		{"an item without a kind", items(`{"role":"user","content":"hi"}`), 422, "union_tag_invalid"},
		{"a tool's role", items(user, `{"type":"message","role":"tool","content":"x"}`), 422, "literal_error"},
		{"an unknown member of a message", items(`{"type":"message","role":"user","content":"hi","name":"Ann"}`), 422, "extra_forbidden"},
		{"calls within a message", items(user, `{"type":"message","role":"assistant","content":"x","tool_calls":[]}`), 422, "extra_forbidden"},
		{"an empty message", items(`{"type":"message","role":"user","content":""}`), 400, "must not be empty"},
		{"no content", items(`{"type":"message","role":"user"}`), 422, "string_type"},
		{"a chat's part", items(`{"type":"message","role":"user","content":[{"type":"text","text":"hi"}]}`), 422, "union_tag_invalid"},
		{"a chat's image", items(`{"type":"message","role":"user","content":[{"type":"input_image","image_url":{"url":"https://x"}}]}`), 422, "string_type"},
		{"an image from anywhere", items(`{"type":"message","role":"user","content":[{"type":"input_image","image_url":"http://x"}]}`), 400, "https or data URL"},
		{"an output without a call", items(user, output), 400, "has no function_call"},
		{"an output of another call", items(user, call, strings.Replace(output, "c1", "c2", 1)), 400, "has no function_call"},
		{"an output twice", items(user, call, output, output), 400, "has no function_call"},
		{"an output without a call, of a stored response", strings.Replace(items(output), "{", `{"previous_response_id":"resp_1",`, 1), 200, ""},
		{"a call without an output", items(user, call), 400, "no output for function_call"},
		{"a call without an output, then a user", items(user, call, user), 400, "no output for function_call"},
		{"a call twice", items(user, call, output, call, output), 400, "duplicate call_id"},
		{"a called name with a dot", items(user, strings.Replace(call, `"f"`, `"ns.f"`, 1), output), 400, "input[1].name"},
		{"an output of parts", items(user, call, strings.Replace(output, `"x"`, `[{"type":"input_text","text":"x"},{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]`, 1)), 200, ""},
		{"an output of a chat's parts", items(user, call, strings.Replace(output, `"x"`, `[{"type":"text","text":"x"}]`, 1)), 422, "union_tag_invalid"},
		{"arguments that are no text", items(user, strings.Replace(call, `"{}"`, `{}`, 1), output), 422, "string_type"},
		{"an output that is an object", items(user, call, strings.Replace(output, `"x"`, `{}`, 1)), 422, "string_type"},
		{"a form without a name", with(`,"response_format":{"type":"json_schema","json_schema":{"schema":{}}}`), 400, "json_schema.name is required"},
		{"a form with a long name", with(`,"response_format":{"type":"json_schema","json_schema":{"name":"` + strings.Repeat("n", 65) + `","schema":{}}}`), 400, "64 characters"},
		{"a form without a schema", with(`,"response_format":{"type":"json_schema","json_schema":{"name":"n"}}`), 400, "json_schema.schema"},
		{"any JSON", with(`,"response_format":{"type":"json_object"}`), 400, "json_object"},
		{"a chat's function", with(`,"tools":[{"type":"function","function":{"name":"f"}}]`), 422, "extra_forbidden"},
		{"a function without a name", with(`,"tools":[{"type":"function"}]`), 400, "is not valid"},
		{"a function named as the search", with(`,"tools":[{"type":"function","name":"search_web"}]`), 400, "is not valid"},
		{"an unknown tool", with(`,"tools":[{"type":"code_interpreter"}]`), 422, "union_tag_invalid"},
		{"a place as of OpenAI", with(`,"tools":[{"type":"web_search","user_location":{"type":"approximate","approximate":{"country":"EE"}}}]`), 422, "extra_forbidden"},
		{"an unknown size of context", with(`,"tools":[{"type":"web_search","search_context_size":"huge"}]`), 400, "search_context_size"},
		{"filters beside their place", with(`,"tools":[{"type":"web_search","search_domain_filter":["go.dev"]}]`), 422, "extra_forbidden"},
		{"a choice of an unknown tool", with(`,"tools":[` + agentTool + `],"tool_choice":{"type":"function","name":"g"}`), 400, "tool_choice"},
		{"a chat's choice", with(`,"tools":[` + agentTool + `],"tool_choice":{"type":"function","function":{"name":"get_weather"}}`), 422, "extra_forbidden"},
		{"a choice of the search", with(`,"tools":[{"type":"web_search"}],"tool_choice":{"type":"web_search"}`), 200, ""},
		{"a choice of a search that is not there", with(`,"tool_choice":{"type":"web_search"}`), 400, "tool_choice"},
		{"its signature", google(sign("gemini-3.8-flash", signedCall("f", "{}"))), 200, ""},
		{"a signature of another family", google(sign("gemini-4-argon", signedCall("f", "{}"))), 400, "thought_signature"},
		{"a signature of another call", google(sign("gemini-3.8-flash", signedCall("g", "{}"))), 400, "thought_signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := pplx(t, s, "/v1/responses", c.body)
			if r.code != c.code || !strings.Contains(r.body, c.says) || c.code != 200 && !inItsWords("perplexity", r.code, r.body) {
				t.Errorf("%d %s", r.code, r.body)
			}
			checked(t, "perplexity", "v1/responses", c.body, c.code)
			if a := last(t, s); (c.code != 200) != (a.End == EndRejected) || c.code != 200 && a.Reason == "" || string(a.Body) != c.body {
				t.Errorf("logged as %s %q", a.End, a.Reason)
			}
		})
	}
}

func TestSonarRefusesWhatItRefuses(t *testing.T) {
	s := start(t, Options{})
	messages := func(list ...string) string {
		return `{"model":"sonar","messages":[` + strings.Join(list, ",") + `]}`
	}
	const system, user, assistant = `{"role":"system","content":"s"}`, `{"role":"user","content":"u"}`, `{"role":"assistant","content":"a"}`
	for _, c := range []struct {
		name, body string
		code       int
		says       string
	}{
		{"good", messages(system, system, user, assistant, user), 200, ""},
		{"members it does not know", sonarAsk("hi", `,"seed":5,"n":2`), 200, ""},
		{"two users", messages(user, user), 400, "alternating"},
		{"the assistant first", messages(system, assistant, user), 400, "alternating"},
		{"the system later", messages(user, system, user), 400, "alternating"},
		{"the assistant last", messages(user, assistant), 400, "Last message must have role"},
		{"only the system", messages(system), 400, "Last message"},
		{"nobody", messages(), 400, "must not be empty"},
		{"a developer", messages(`{"role":"developer","content":"s"}`, user), 422, "literal_error"},
		{"a tool", messages(user, `{"role":"tool","content":"s"}`), 422, "literal_error"},
		{"no messages", `{"model":"sonar"}`, 422, "Field required"},
		{"no model", `{"messages":[` + user + `]}`, 422, "Field required"},
		{"an unknown model", strings.Replace(messages(user), "sonar", "gpt-5", 1), 400, "Invalid model"},
		{"a limit of a wrong type", sonarAsk("hi", `,"max_tokens":1.5`), 422, "int_parsing"},
		{"no penalty", sonarAsk("hi", `,"frequency_penalty":0`), 400, "greater than 0"},
		{"too hot", sonarAsk("hi", `,"temperature":2.5`), 400, "temperature"},
		{"an unknown mode", sonarAsk("hi", `,"stream_mode":"fast"`), 400, "stream_mode"},
		{"an unknown span", sonarAsk("hi", `,"search_recency_filter":"decade"`), 400, "search_recency_filter"},
		{"a place as of OpenAI", sonarAsk("hi", `,"web_search_options":{"user_location":{"approximate":{"country":"EE"}}}`), 422, "extra_forbidden"},
		{"too many domains", sonarAsk("hi", `,"search_domain_filter":[`+strings.TrimSuffix(strings.Repeat(`"a.b",`, 21), ",")+`]`), 400, "at most 20"},
		{"a form without a schema", sonarAsk("hi", `,"response_format":{"type":"json_schema","json_schema":{}}`), 400, "schema is required"},
		{"any JSON", sonarAsk("hi", `,"response_format":{"type":"json_object"}`), 400, "response_format.type"},
		{"an unknown part", messages(`{"role":"user","content":[{"type":"input_audio"}]}`), 422, "union_tag_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := pplx(t, s, "/chat/completions", c.body)
			if r.code != c.code || !strings.Contains(r.body, c.says) || c.code != 200 && !inItsWords("perplexity", r.code, r.body) {
				t.Errorf("%d %s", r.code, r.body)
			}
			checked(t, "perplexity", "chat/completions", c.body, c.code)
		})
	}
}

func TestAgentSearchesWhereItMay(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		more    string
		search  bool
		mark    string
		dollars float64
	}{
		{`,"preset":"fast"`, true, " [1][2]", 0.001},
		{`,"preset":"fast","tools":[]`, true, " [1][2]", 0.001},
		{`,"preset":"medium"`, true, " [web:1][web:2]", 0.0025},
		{`,"preset":"low","model":"openai/gpt-6-luna"`, true, " [1][2]", 0.0025},
		{`,"model":"perplexity/sonar","tools":[{"type":"web_search"}]`, true, " [1][2]", 0.0025},
		{`,"model":"perplexity/sonar"`, false, "", 0},
		{`,"preset":"fast","max_tool_calls":0`, false, "", 0},
		{`,"preset":"fast","tool_choice":"none"`, false, "", 0},
	} {
		r := pplx(t, s, "/v1/responses", agentAsk("hi", c.more))
		text := gjson.Get(r.body, `output.#(type=="message").content.0.text`).Str
		found := gjson.Get(r.body, `output.#(type=="search_results").results.#`).Int()
		a := last(t, s)
		if text != "You said: hi. I can see 1 messages."+c.mark || (found == 2) != c.search || gjson.Get(r.body, "usage.cost.tool_calls_cost").Num != c.dollars {
			t.Errorf("%s: %s", c.more, r.body)
		}
		if got := int64(gjson.Get(r.body, "usage.cost.total_cost").Num*1e12 + 0.5); got != a.Usage.CostPico || got == 0 {
			t.Errorf("%s: told %d, logged %d", c.more, got, a.Usage.CostPico)
		}
		for _, n := range gjson.Get(r.body, `output.#(type=="message").content.0.annotations`).Array() {
			at := []rune(text)[n.Get("start_index").Int():n.Get("end_index").Int()]
			if string(at) != "[1]" && string(at) != "[2]" {
				t.Errorf("%s points at %q", n, string(at))
			}
		}
	}
	r := pplx(t, s, "/v1/responses", agentAsk("hi [[sim search=off]]", `,"preset":"low"`))
	if strings.Contains(r.body, "search_results") {
		t.Errorf("%s", r.body)
	}
}

func TestAgentEndsAsItWasAsked(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ text, more, status, event string }{
		{"hi", `,"preset":"fast"`, "completed", "response.completed"},
		{"hi", `,"preset":"fast","max_output_tokens":3`, "incomplete", "response.incomplete"},
		{"[[sim finish=failed]]", `,"preset":"fast"`, "failed", "response.failed"},
		{"[[sim finish=cancelled]]", `,"preset":"fast"`, "cancelled", "response.cancelled"},
		{"call the tool", `,"model":"openai/gpt-6-luna","tools":[` + agentTool + `]`, "completed", "response.completed"},
		{"call the tool", `,"model":"google/gemini-3.8-flash","tools":[` + agentTool + `]`, "requires_action", "response.completed"},
		{"call both tools", `,"model":"sim-1","tools":[` + agentTool + `]`, "requires_action", "response.completed"},
	} {
		r := pplx(t, s, "/v1/responses", agentAsk(c.text, c.more))
		if got := gjson.Get(r.body, "status").Str; got != c.status || (c.status == "failed") != gjson.Get(r.body, "error.message").Exists() ||
			(c.status == "incomplete") != gjson.Get(r.body, "incomplete_details.reason").Exists() {
			t.Errorf("%s: %s", c.text, r.body)
		}
		n := gjson.Get(r.body, `output.#(type=="function_call")#|#`).Int()
		r = pplx(t, s, "/v1/responses", agentAsk(c.text, c.more+`,"stream":true`))
		end := gjson.Parse(r.data[len(r.data)-1])
		if end.Get("type").Str != c.event || end.Get("response.status").Str != c.status || r.done() {
			t.Errorf("%s: %s", c.text, end)
		}
		if n > 0 && int(n) != strings.Count(r.body, `"type":"response.output_item.done"`) {
			t.Errorf("%s: %d calls, %s", c.text, n, r.body)
		}
	}
	r := pplx(t, s, "/v1/responses", agentAsk("[[sim fault=error_mid kind=response code=overloaded]]", `,"preset":"fast","stream":true`))
	if end := gjson.Parse(r.data[len(r.data)-1]); end.Get("response.status").Str != "failed" || end.Get("error.code").Str != "overloaded" {
		t.Errorf("%s", end)
	}
}

func TestAgentHearsItsTools(t *testing.T) {
	s := start(t, Options{})
	const body = `{"model":"google/gemini-3.8-flash","instructions":"S","input":[{"type":"message","role":"user","content":"both"},` +
		`{"type":"function_call","call_id":"a","name":"f","arguments":"{}"},{"type":"function_call","call_id":"b","name":"g","arguments":"{}"},` +
		`{"type":"function_call_output","call_id":"b","output":"one"},{"type":"function_call_output","call_id":"a","output":[{"type":"input_text","text":"two"}]}%s]}`
	pplx(t, s, "/v1/responses", fmt.Sprintf(body, ""))
	if a := last(t, s); a.Text != "The tool said: one; two." {
		t.Errorf("%q", a.Text)
	}
	pplx(t, s, "/v1/responses", fmt.Sprintf(body, `,{"type":"message","role":"user","content":"thanks"}`))
	if a := last(t, s); a.Text != "You said: thanks. I can see 6 messages." {
		t.Errorf("%q", a.Text)
	}
}

func TestPerplexitysKeysModelsAndPaths(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		method, path, key string
		code              int
	}{
		{"GET", "/v1/models", "", 200},
		{"GET", "/v1/models", "invalid", 200},
		{"GET", "/router/v1/models", "k", 200},
		{"GET", "/router/v1/models", "invalid", 401},
		{"GET", "/router/v1/models", "", 401},
		{"POST", "/v1/chat/completions", "k", 404},
		{"GET", "/v1/agent/resp_1", "k", 404},
		{"GET", "/v1/responses", "k", 404},
		{"POST", "/search", "k", 404},
	} {
		code, body := fetch(t, c.method, s.URL("perplexity")+c.path, c.key, "")
		if code != c.code || !gjson.Valid(body) {
			t.Errorf("%s %s with %q: %d %s", c.method, c.path, c.key, code, body)
		}
		if code == 200 {
			same(t, c.path, shape(t, body), shape(t, fixture(t, "perplexity/list.resp.json")))
		}
	}
	if err := s.Play(Script{Provider: "perplexity", Path: "/router/v1/models", Do: "status=403"}); err != nil {
		t.Fatal(err)
	}
	if code, body := fetch(t, "GET", s.URL("perplexity")+"/router/v1/models", "k", ""); code != 403 || !strings.Contains(body, "limited preview") {
		t.Errorf("%d %s", code, body)
	}
}

func TestSonarSaysAllAgain(t *testing.T) {
	s := start(t, Options{})
	r := pplx(t, s, "/chat/completions", strings.Replace(sonarAsk("hi", `,"stream":true,"web_search_options":{"search_context_size":"high"}`), `"sonar"`, `"sonar-reasoning-pro"`, 1))
	sofar := ""
	for _, d := range r.data[:len(r.data)-1] {
		sofar += gjson.Get(d, "choices.0.delta.content").Str
		u := gjson.Get(d, "usage")
		end := gjson.Get(d, "object").Str == "chat.completion.done"
		if gjson.Get(d, "choices.0.message.content").Str != sofar || (u.Get("cost.total_cost").Num > 0) != end {
			t.Errorf("%s after %q", d, sofar)
		}
	}
	a := last(t, s)
	u := gjson.Get(r.data[len(r.data)-2], "usage")
	if !strings.HasPrefix(sofar, "<think>\n") || !strings.HasSuffix(sofar, "</think>\n\nYou said: hi. I can see 1 messages. [1][2]") || a.Text != sofar {
		t.Errorf("%q", sofar)
	}
	if a.Usage.Completion != u.Get("completion_tokens").Int()+u.Get("reasoning_tokens").Int() || a.Usage.CostPico != int64(u.Get("cost.total_cost").Num*1e12+0.5) ||
		u.Get("cost.request_cost").Num != 0.014 || a.Usage.Reasoning == 0 {
		t.Errorf("%+v %s", a.Usage, u)
	}
	if !strings.HasSuffix(r.body, "\r\n\r\n") {
		t.Errorf("%q", r.body)
	}
}
