package perplexity

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// toAgent and toSonar translate a body as the gateway gives it, which is one that openai.ParseChat takes.
func toAgent(t testing.TB, body string) (upstreams.Words, error) {
	t.Helper()
	return translateAgent(request(t, body), searchChoices[""])
}

func toSonar(t testing.TB, body string) (upstreams.Words, error) {
	t.Helper()
	return translateSonar(request(t, body))
}

func request(t testing.TB, body string) *upstreams.Request {
	t.Helper()
	c, err := openai.ParseChat([]byte(body))
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return &upstreams.Request{Body: []byte(body), Model: c.Model, Stream: c.Stream}
}

func TestRequestOfTheMapping(t *testing.T) {
	w, err := toAgent(t, string(upstreamstest.File(t, "mapping/10_pplx.in.openai.json")))
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Same(t, "the mapping's example", w.Body(), upstreamstest.File(t, "mapping/10_pplx.out.agent.json"))
	if got := strings.Join(w.Warnings(), ", "); got != "dropped=seed;reason=unsupported" {
		t.Errorf("warned of %s", got)
	}
	if w.Path() != "v1/responses" {
		t.Errorf("asked at %s", w.Path())
	}
}

// The recorded requests are what the same request in chat's words becomes.
func TestRecordedRequests(t *testing.T) {
	tools := gjson.ParseBytes(upstreamstest.File(t, "agent/tools.req.json"))
	w, err := toAgent(t, `{"model":"openai/gpt-6-luna","stream":false,"max_tokens":500,"max_steps":3,"reasoning_effort":"low",
		"messages":[{"role":"system","content":"Be brief."},
			{"role":"user","content":[{"type":"text","text":"Weather in Riga?"},{"type":"image_url","image_url":{"url":`+tools.Get("input.0.content.1.image_url").Raw+`}}]},
			{"role":"assistant","content":null,"tool_calls":[{"id":"call_p1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Riga\"}"}}]},
			{"role":"tool","tool_call_id":"call_p1","content":"4 C"}],
		"tools":[{"type":"function","function":{"name":"get_weather","description":"Weather","parameters":`+tools.Get("tools.0.parameters").Raw+`,"strict":true}},{"type":"fetch_url"}],
		"response_format":`+tools.Get("response_format").Raw+`}`)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(tools.Raw, `"models": `+tools.Get("models").Raw+",", `"store": false,`, 1) // a chain is no part of chat
	upstreamstest.Same(t, "tools", w.Body(), []byte(want))
	if len(w.Warnings()) > 0 {
		t.Errorf("warned of %s", w.Warnings())
	}

	w, err = toAgent(t, `{"model":"sonar","messages":[{"role":"user","content":"Latest Go release?"}],"max_completion_tokens":400,
		"web_search_options":{"search_context_size":"low","user_location":{"country":"EE"}},"search_domain_filter":["go.dev"],"search_recency_filter":"month"}`)
	if err != nil {
		t.Fatal(err)
	}
	want = strings.Replace(string(upstreamstest.File(t, "agent/preset.req.json")), `"input": "Latest Go release?"`,
		`"model":"perplexity/sonar","tool_choice":{"type":"web_search"},"stream":false,"input":[{"type":"message","role":"user","content":"Latest Go release?"}]`, 1)
	upstreamstest.Same(t, "preset", w.Body(), []byte(want))

	w, err = toAgent(t, `{"model":"sonar","messages":[{"role":"user","content":"Latest Go release?"}],"stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	want = strings.Replace(string(upstreamstest.File(t, "agent/stream.req.json")), `"stream"`,
		`"model":"perplexity/sonar","tools":[{"type":"web_search"}],"tool_choice":{"type":"web_search"},"store":false,"stream"`, 1)
	upstreamstest.Same(t, "stream", w.Body(), []byte(want))

	w, err = toSonar(t, string(upstreamstest.File(t, "sonar/plain.req.json")))
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Same(t, "the older API", w.Body(), []byte(strings.Replace(string(upstreamstest.File(t, "sonar/plain.req.json")), "{", `{"stream":false,`, 1)))
	if len(w.Warnings()) > 0 || w.Path() != "chat/completions" {
		t.Errorf("asked at %s, warned of %s", w.Path(), w.Warnings())
	}
}

// user is a request of one message. more is further members, beginning with a comma.
func user(model, more string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"q"}]` + more + `}`
}

// TestAgentRequests says what members become: paths of the body and their values, "" for what is not there.
func TestAgentRequests(t *testing.T) {
	const function = `{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}`
	for _, c := range []struct {
		about, body string
		want        map[string]string
		warnings    string
	}{
		{"sonar-pro", user("sonar-pro", ""), map[string]string{"preset": `"low"`, "model": `"perplexity/sonar"`}, ""},
		{"sonar-reasoning-pro", user("sonar-reasoning-pro", ""), map[string]string{"preset": `"medium"`}, ""},
		{"sonar-deep-research", user("sonar-deep-research", ""), map[string]string{"preset": `"high"`}, ""},
		{"a vendor's model searches for nothing", user("openai/gpt-6-luna", ""), map[string]string{
			"preset": "", "model": `"openai/gpt-6-luna"`, "tools": "", "tool_choice": "", "store": "false", "max_output_tokens": "",
		}, ""},
		{"anthropic needs a limit", user("anthropic/claude-haiku-5.5", ""), map[string]string{"max_output_tokens": "8192"}, ""},
		{"the newer limit counts", user("m/m", `,"max_tokens":1,"max_completion_tokens":2`), map[string]string{"max_output_tokens": "2"}, ""},
		{"numbers as they are", user("m/m", `,"temperature":0.20,"top_p":1e-1`), map[string]string{"temperature": "0.20", "top_p": "1e-1"}, ""},
		{"no effort", user("m/m", `,"reasoning_effort":"none"`), map[string]string{"reasoning": ""}, "dropped=reasoning_effort;reason=unsupported"},
		{"most effort", user("m/m", `,"reasoning_effort":"max"`), map[string]string{"reasoning.effort": `"xhigh"`}, ""},
		{"what asks for nothing", user("m/m", `,"n":1,"logprobs":false,"top_logprobs":0,"store":false,"stop":null,"frequency_penalty":0,
			"parallel_tool_calls":true,"modalities":["text"],"service_tier":"auto","metadata":{},"return_images":false,"response_format":{"type":"text"}`), nil, ""},
		{
			"hints", user("m/m", `,"user":"u","stop":["a"],"frequency_penalty":1,"logit_bias":{"1":2},"store":true,"Xé\n":1,"return_images":true,"stream_mode":"concise"`), nil,
			"dropped=user;reason=unsupported, dropped=stop;reason=unsupported, dropped=frequency_penalty;reason=unsupported, " +
				"dropped=logit_bias;reason=unsupported, dropped=store;reason=unsupported, dropped=X??;reason=unknown, " +
				"dropped=return_images;reason=unsupported, dropped=stream_mode;reason=unsupported",
		},
		{"a schema without a name", user("m/m", `,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object"},"strict":true}}`), map[string]string{
			"response_format": `{"type":"json_schema","json_schema":{"name":"response","schema":{"type":"object"},"strict":true}}`,
		}, ""},
		{"a search of a vendor's model", user("m/m", `,"web_search_options":{},"num_search_results":3`), map[string]string{
			"tools": `[{"type":"web_search","max_results":3}]`, "tool_choice": "",
		}, ""},
		{"filters alone", user("m/m", `,"search_after_date_filter":"1/2/2026","search_domain_filter":[]`), map[string]string{
			"tools": `[{"type":"web_search","filters":{"search_after_date_filter":"1/2/2026"}}]`,
		}, ""},
		{"options that are not known", user("m/m", `,"web_search_options":{"search_type":"pro","user_location":{"type":"approximate","approximate":{"timezone":"Europe/Tallinn","city":"Tartu"}}}`), map[string]string{
			"tools": `[{"type":"web_search","user_location":{"city":"Tartu"}}]`,
		}, "dropped=web_search_options.search_type;reason=unsupported, dropped=web_search_options.user_location.timezone;reason=unsupported"},
		{"no search", user("sonar", `,"disable_search":true,"search_recency_filter":"day"`), map[string]string{
			"preset": "", "model": `"perplexity/sonar"`, "tools": "", "tool_choice": "",
		}, "dropped=web_search_options;reason=not_searched"},
		{"functions of a vendor's model", user("m/m", `,"tools":[`+function+`],"tool_choice":"required"`), map[string]string{
			"tools": `[{"type":"function","name":"f","parameters":{"type":"object"},"strict":false}]`, "tool_choice": `"required"`,
		}, ""},
		{"functions of Sonar", user("sonar", `,"tools":[`+function+`],"tool_choice":{"type":"function","function":{"name":"f"}}`), map[string]string{
			"tools.0.type": `"web_search"`, "tools.1.name": `"f"`, "tool_choice": `{"type":"function","name":"f"}`,
		}, ""},
		{"a choice of functions", user("m/m", `,"tools":[`+function+`],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"f"}}]}}`), map[string]string{
			"tool_choice": `{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}`,
		}, ""},
		{"no function of Sonar", user("sonar", `,"tools":[`+function+`],"tool_choice":"none"`), map[string]string{
			"tools": `[{"type":"web_search"}]`, "tool_choice": `{"type":"web_search"}`,
		}, ""},
		{"no functions in the older way", user("m/m", `,"functions":[],"function_call":"auto"`), map[string]string{"tools": "", "tool_choice": ""}, ""},
		{"instructions from anywhere", `{"model":"m/m","messages":[{"role":"system","content":"a\u00e9"},{"role":"user","content":"q"},{"role":"developer","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]}]}`, map[string]string{
			"instructions": `"a\u00e9\n\nb\n\nc"`, "input": `[{"type":"message","role":"user","content":"q"}]`,
		}, ""},
		{"instructions alone", `{"model":"m/m","messages":[{"role":"system","content":"a"}]}`, map[string]string{
			"instructions": "", "input": `[{"type":"message","role":"user","content":"a"}]`,
		}, ""},
		{"what another provider's answer left", `{"model":"m/m","messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"refusal":"no","reasoning_details":[{"type":"reasoning.text"}],
			"annotations":[{"type":"url_citation"}],"extra_content":{"google":{}},"images":[],"name":"x"},{"role":"assistant","content":""},{"role":"user","content":""}]}`, map[string]string{
			"input": `[{"type":"message","role":"user","content":"q"},{"type":"message","role":"assistant","content":"no"}]`,
		}, "dropped=messages.annotations;reason=unsupported, dropped=messages.extra_content;reason=unsupported, dropped=messages.name;reason=unsupported, dropped=messages.reasoning_details;reason=unsupported"},
		{"calls of every kind", `{"model":"m/m","messages":[{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text","text":"t"}],"tool_calls":[
			{"id":"a","type":"function","function":{"name":"f","arguments":""}},{"id":"b","type":"custom","custom":{"name":"c","input":"2+\"3"}},
			{"id":"d","type":"function","function":{"name":"f","arguments":{"x":1}},"extra_content":{"google":{"thought_signature":"s"}}}]},
			{"role":"tool","tool_call_id":"a","content":[{"type":"text","text":"1"},{"type":"text","text":"2"}]},{"role":"tool","tool_call_id":"b","content":null},{"role":"tool","tool_call_id":"d","content":"3"},
			{"role":"assistant","function_call":{"name":"g","arguments":"{}"}},{"role":"function","name":"g","content":"r"}]}`, map[string]string{
			"input.1": `{"type":"message","role":"assistant","content":"t"}`,
			"input.2": `{"type":"function_call","call_id":"a","name":"f","arguments":"{}"}`,
			"input.3": `{"type":"function_call","call_id":"b","name":"c","arguments":"{\"input\":\"2+\\\"3\"}"}`,
			"input.4": `{"type":"function_call","call_id":"d","name":"f","arguments":"{\"x\":1}"}`,
			"input.5": `{"type":"function_call_output","call_id":"a","output":[{"type":"input_text","text":"1"},{"type":"input_text","text":"2"}]}`,
			"input.6": `{"type":"function_call_output","call_id":"b","output":""}`,
			"input.7": `{"type":"function_call_output","call_id":"d","output":"3"}`,
			"input.8": `{"type":"function_call","call_id":"call_5","name":"g","arguments":"{}"}`,
			"input.9": `{"type":"function_call_output","call_id":"call_5","output":"r"}`,
		}, "dropped=messages.tool_calls.extra_content;reason=unsupported"},
		{"signatures of Google's models", `{"model":"google/gemini-3.8-flash","messages":[{"role":"user","content":"q"},{"role":"assistant","tool_calls":[
			{"id":"d","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}]},{"role":"tool","tool_call_id":"d","content":"x"}]}`, map[string]string{
			"input.1": `{"type":"function_call","call_id":"d","name":"f","arguments":"{}","thought_signature":"s"}`,
		}, ""},
		{"ids that come again", `{"model":"m/m","messages":[{"role":"user","content":"q"},{"role":"assistant","tool_calls":[{"id":"f:0","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"f:0","content":"1"},
			{"role":"assistant","tool_calls":[{"id":"f:0_2","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"f:0","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"f:0","content":"3"},{"role":"tool","tool_call_id":"f:0_2","content":"2"}]}`, map[string]string{
			"input.#.call_id": `["f:0","f:0","f:0_2","f:0_3","f:0_3","f:0_2"]`, "input.#.output": `["1","3","2"]`,
		}, ""},
		{"a text and a refusal", `{"model":"m/m","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","refusal":"b"},{"role":"user","content":"q"}]}`, map[string]string{
			"input.1": `{"type":"message","role":"assistant","content":"a\nb"}`,
		}, ""},
		{"a user who says nothing", `{"model":"m/m","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":[{"type":"text","text":""}]}]}`, map[string]string{
			"input": `[{"type":"message","role":"user","content":"q"},{"type":"message","role":"assistant","content":"a"}]`,
		}, ""},
		{"nothing at all", `{"model":"m/m","messages":[{"role":"user","content":""}]}`, map[string]string{"input": `[{"type":"message","role":"user","content":" "}]`}, ""},
		{"what an answer cites", `{"model":"m/m","messages":[{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text","text":"a","annotations":[{"url":"u"}]}],"annotations":[{"url":"u"}],"citations":["u"],"search_results":[]},{"role":"user","content":"q"}]}`, map[string]string{
			"input.1": `{"type":"message","role":"assistant","content":"a"}`,
		}, "dropped=messages.annotations;reason=unsupported, dropped=messages.citations;reason=unsupported, dropped=messages.content.annotations;reason=unsupported"},
		{"signatures as other gateways give them", `{"messages":[{"role":"user","content":"q"},{"role":"assistant","tool_calls":[
			{"id":"d__thought__QQ==","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"d__thought__QQ==","content":"x"},
			{"role":"assistant","reasoning_details":[{"type":"reasoning.encrypted","format":"google-gemini-v1","id":"e","data":"Qg=="}],"tool_calls":[{"id":"e","type":"function","function":{"name":"f","arguments":"{}"}}]},
			{"role":"tool","tool_call_id":"e","content":"y"}],"model":"google/gemini-3.8-flash"}`, map[string]string{
			"input.1": `{"type":"function_call","call_id":"d","name":"f","arguments":"{}","thought_signature":"QQ=="}`,
			"input.2": `{"type":"function_call_output","call_id":"d","output":"x"}`,
			"input.3": `{"type":"function_call","call_id":"e","name":"f","arguments":"{}","thought_signature":"Qg=="}`,
		}, ""},
		{"what history holds and nobody can be told", `{"model":"m/m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]},{"role":"assistant","content":"a"},
			{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}},{"type":"image_url","image_url":{"url":"http://a.example/b.png"}}]},{"role":"user","content":"q"}]}`, map[string]string{
			"input": `[{"type":"message","role":"assistant","content":"a"},{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]},{"type":"message","role":"user","content":"q"}]`,
		}, "dropped=messages.content.input_audio;reason=unsupported, dropped=messages.content.cache_control;reason=unsupported, dropped=messages.content.image_url;reason=unsupported"},
		{"an image and how closely to look", `{"model":"m/m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a.example/b.png","detail":"low"}}]}]}`, map[string]string{
			"input.0.content": `[{"type":"input_image","image_url":"https://a.example/b.png"}]`,
		}, "dropped=messages.content.detail;reason=unsupported"},
	} {
		w, err := toAgent(t, c.body)
		if err != nil {
			t.Errorf("%s: %v", c.about, err)
			continue
		}
		check(t, c.about, w, c.want, c.warnings)
	}
}

func check(t testing.TB, about string, w upstreams.Words, want map[string]string, warnings string) {
	t.Helper()
	if !json.Valid(w.Body()) {
		t.Fatalf("%s: %s", about, w.Body())
	}
	for path, value := range want {
		if got := gjson.GetBytes(w.Body(), path).Raw; got != value {
			t.Errorf("%s: %s is %s, want %s", about, path, got, value)
		}
	}
	if got := strings.Join(w.Warnings(), ", "); got != warnings {
		t.Errorf("%s: warned of %q, want %q", about, got, warnings)
	}
}

// What a client asks for now, and would get something else instead, is refused by its name.
func TestRefusedRequests(t *testing.T) {
	content := func(part string) string {
		return `{"model":"sonar","messages":[{"role":"user","content":[{"type":"text","text":"x"},` + part + `]}]}`
	}
	both := []func(testing.TB, string) (upstreams.Words, error){toAgent, toSonar}
	for _, c := range []struct {
		param, body string
		by          []func(testing.TB, string) (upstreams.Words, error)
	}{
		{"n", user("sonar", `,"n":2`), both},
		{"logprobs", user("sonar", `,"logprobs":true`), both},
		{"top_logprobs", user("sonar", `,"top_logprobs":3`), both},
		{"audio", user("sonar", `,"audio":{"voice":"alloy"}`), both},
		{"modalities", user("sonar", `,"modalities":["text","audio"]`), both},
		{"response_format", user("sonar", `,"response_format":{"type":"json_object"}`), both},
		{"response_format", user("sonar", `,"response_format":{"type":"regex"}`), both[:1]},
		{"tools[1]", user("sonar", `,"tools":[{"type":"web_search"},{"type":"custom","custom":{"name":"c"}}]`), both[:1]},
		{"tool_choice", user("sonar", `,"tool_choice":{"type":"custom","custom":{"name":"c"}}`), both},
		{"tool_choice", user("sonar", `,"tool_choice":"required"`), both[1:]},
		{"functions", user("m/m", `,"functions":[{"name":"g"}]`), both[:1]},
		{"function_call", user("m/m", `,"functions":[{"name":"g"}],"function_call":{"name":"g"}`), both},
		{"messages[0].content[1]", content(`{"type":"input_audio","input_audio":{}}`), both},
		{"messages[0].content[1]", content(`{"type":"file","file":{"file_id":"file-1"}}`), both},
		{"messages[0].content[1]", content(`{"type":"image_url","image_url":{"url":"http://a.example/b.png"}}`), both[:1]},
		{"messages[0].content[1]", content(`{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}`), both[:1]},
	} {
		for i, by := range c.by {
			_, err := by(t, c.body)
			if f := fault.From(err); err == nil || f.Kind != fault.Invalid || f.Code != "unsupported_parameter" || f.Param != c.param {
				t.Errorf("%d: %s: %v", i, c.body, err)
			}
		}
	}
}

// Calls without results, and results without calls, are named before the provider refuses them. The older API has none.
func TestRefusedCalls(t *testing.T) {
	const call = `{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}`
	const result = `{"role":"tool","tool_call_id":"c","content":"1"}`
	const hi = `{"role":"user","content":"hi"}`
	for param, messages := range map[string]string{
		"messages[1].tool_calls":   hi + "," + call,
		"messages[2].tool_calls":   hi + "," + hi + "," + call + "," + hi + "," + result,
		"messages[3].tool_calls":   hi + "," + hi + "," + hi + "," + call + "," + call + "," + result,
		"messages[0].tool_calls":   strings.Replace(call, `"id":"c",`, "", 1),
		"messages[1].tool_call_id": hi + "," + result,
		"messages[3].tool_call_id": hi + "," + call + "," + result + "," + result,
		"messages[2].tool_call_id": hi + "," + call + `,{"role":"tool","content":"1"}`,
	} {
		body := `{"model":"m/m","messages":[` + messages + `]}`
		_, err := toAgent(t, body)
		if f := fault.From(err); err == nil || f.Kind != fault.Invalid || f.Code != "invalid_value" || f.Param != param {
			t.Errorf("%s: %v, want %s", body, err, param)
		}
		if _, err := toSonar(t, body); err != nil {
			t.Errorf("%s: the older API: %v", body, err)
		}
	}
}

// Hundreds of members nobody knows are told as a few warnings: they go into a header.
func TestWarningsAreFew(t *testing.T) {
	var more strings.Builder
	for i := range 500 {
		more.WriteString(`,"x` + strings.Repeat("y", i) + `":1`)
	}
	w, err := toAgent(t, user("sonar", more.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Warnings(); len(got) != 25 || got[24] != "dropped=more;reason=unsupported" {
		t.Errorf("%d warnings: %s", len(got), got)
	}
	if all := strings.Join(w.Warnings(), ", "); len(all) > 2500 {
		t.Errorf("%d bytes of warnings", len(all))
	}
}

func TestSearchChoices(t *testing.T) {
	for name, want := range map[string]string{"": `{"type":"web_search"}`, "web_search": `{"type":"web_search"}`, "required": `"required"`, "auto": ""} {
		w, err := translateAgent(request(t, user("sonar", "")), searchChoices[name])
		if err != nil {
			t.Fatal(err)
		}
		check(t, name, w, map[string]string{"tool_choice": want, "tools": `[{"type":"web_search"}]`}, "")
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []upstreams.Options{{}, {API: Agent, Search: "auto"}, {API: Sonar}} {
		u, err := New(o)
		if err != nil {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		u.Close()
	}
	for _, o := range []upstreams.Options{{API: "chat"}, {Search: "always"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestFamily(t *testing.T) {
	for model, want := range map[string]string{"google/gemini-3.8-flash": "google/gemini-3", "google/gemini-4-argon": "google/gemini-4", "openai/gpt-6-luna": "openai", "sonar": "perplexity", "perplexity/sonar": "perplexity"} {
		if got := family(model); got != want {
			t.Errorf("%s is of %s, want %s", model, got, want)
		}
	}
}

// Signatures that did not come back are asked for where a model may want them, and put where they belong.
func TestSignaturesThatDidNotComeBack(t *testing.T) {
	call := func(id, more string) string {
		return `{"id":"` + id + `","type":"function","function":{"name":"f","arguments":"{}"}` + more + `}`
	}
	name := func(id string) string { return upstreams.CallName(gjson.Parse(call(id, ""))) }
	const user = `{"role":"user","content":"q"}`
	body := func(model string) string {
		return `{"model":"` + model + `","messages":[` + user + `,{"role":"assistant","tool_calls":[` + call("old", "") + `]},{"role":"tool","tool_call_id":"old","content":"0"},` + user +
			`,{"role":"assistant","tool_calls":[` + call("a", "") + `,` + call("b", "") + `]},{"role":"tool","tool_call_id":"a","content":"1"},{"role":"tool","tool_call_id":"b","content":"2"},` +
			`{"role":"assistant","tool_calls":[` + call("c", `,"extra_content":{"google":{"thought_signature":"QQ=="}}`) + `]},{"role":"tool","tool_call_id":"c","content":"3"},` +
			`{"role":"assistant","tool_calls":[` + call("d", "") + `]},{"role":"tool","tool_call_id":"d","content":"4"}]}`
	}
	for model, want := range map[string][]string{
		"google/gemini-3.8-flash": {name("a"), name("d")}, "google/gemini-2.5-flash": nil, "openai/gpt-6-luna": nil,
	} {
		r := request(t, body(model))
		if _, err := translateAgent(r, ""); err != nil {
			t.Fatal(err)
		}
		if got := r.Signatures.Unknown; !slices.Equal(got, want) {
			t.Errorf("%s: asked for the signatures of %q, want %q", model, got, want)
		}
	}
	r := request(t, body("google/gemini-3.8-flash"))
	r.Signatures = upstreams.Signatures{
		Known:   map[string]string{name("a"): "Qg==", name("b"): "no", name("old"): "no", name("c"): "no", name("d"): "not base64"},
		Unknown: []string{"once more"},
	}
	w, err := translateAgent(r, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	gjson.GetBytes(w.Body(), "input").ForEach(func(_, item gjson.Result) bool {
		if s := item.Get("thought_signature"); s.Exists() {
			got = append(got, item.Get("call_id").Str+":"+s.Str)
		}
		return true
	})
	if strings.Join(got, " ") != "a:Qg== c:QQ==" || !slices.Equal(r.Signatures.Unknown, []string{name("d")}) {
		t.Errorf("signed %v, asked for %v", got, r.Signatures.Unknown)
	}
}

// TestSonarRequests says what conversations become where turns must alternate.
func TestSonarRequests(t *testing.T) {
	chat := func(messages string) string { return `{"model":"sonar","messages":[` + messages + `]}` }
	for _, c := range []struct {
		about, body string
		want        map[string]string
		warnings    string
	}{
		{"turns that alternate", chat(`{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}`), map[string]string{
			"messages": `[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]`,
		}, ""},
		{"turns that do not", chat(`{"role":"user","content":"a"},{"role":"developer","content":"s"},{"role":"user","content":"b"},{"role":"assistant","content":"c"},{"role":"assistant","content":"d"}`), map[string]string{
			"messages": `[{"role":"system","content":"s"},{"role":"user","content":"a\n\nb"},{"role":"assistant","content":"c\n\nd"},{"role":"user","content":"Continue."}]`,
		}, ""},
		{"an answer first", chat(`{"role":"assistant","content":"a"},{"role":"user","content":"b"}`), map[string]string{
			"messages": `[{"role":"user","content":"…"},{"role":"assistant","content":"a"},{"role":"user","content":"b"}]`,
		}, ""},
		{"instructions alone", chat(`{"role":"system","content":"a"}`), map[string]string{"messages": `[{"role":"user","content":"a"}]`}, ""},
		{"nothing at all", chat(`{"role":"user","content":""}`), map[string]string{"messages": `[{"role":"user","content":" "}]`}, ""},
		{"members of parts", chat(`{"role":"user","content":[{"type":"text","text":"a","cache_control":{"a":1}}]}`), map[string]string{"messages": `[{"role":"user","content":"a"}]`}, "dropped=messages.content.cache_control;reason=unsupported"},
		{"images", chat(`{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a.example/"}},{"type":"text","text":"b"}]}`), map[string]string{
			"messages.0.content": `[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"https://a.example/"}},{"type":"text","text":"b"}]`,
		}, ""},
		{"calls", chat(`{"role":"user","content":"a"},{"role":"assistant","content":"b","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},{"role":"tool","tool_call_id":"1","content":"7"}`), map[string]string{
			"messages": `[{"role":"user","content":"a"},{"role":"assistant","content":"b\n\n[f({\"x\":1})]"},{"role":"user","content":"[f: 7]"}]`,
		}, "dropped=messages.tool_calls;reason=told_as_text"},
		{"parameters", user("sonar-pro", `,"max_completion_tokens":5,"frequency_penalty":0,"presence_penalty":1,"stop":["a"],"reasoning_effort":"xhigh","seed":1,
			"response_format":{"type":"json_schema","json_schema":{"schema":{}}},"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto",
			"web_search_options":{"search_type":"pro","user_location":{"type":"approximate","approximate":{"country":"EE"}}}`), map[string]string{
			"max_tokens": "5", "frequency_penalty": "", "presence_penalty": "1", "stop": `["a"]`, "reasoning_effort": `"high"`, "seed": "", "tools": "",
			"response_format":    `{"type":"json_schema","json_schema":{"schema":{}}}`,
			"web_search_options": `{"search_type":"pro","user_location":{"country":"EE"}}`,
		}, "dropped=tools;reason=unsupported, dropped=seed;reason=unsupported"},
	} {
		w, err := toSonar(t, c.body)
		if err != nil {
			t.Errorf("%s: %v", c.about, err)
			continue
		}
		check(t, c.about, w, c.want, c.warnings)
	}
}
