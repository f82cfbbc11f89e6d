package gemini

import (
	"encoding/json"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// under translates a request by a policy.
func under(t *testing.T, policy upstreams.Policy, body string) (upstreams.Words, error) {
	t.Helper()
	r, err := openai.ParseChat([]byte(body))
	if err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return still().translate(&upstreams.Request{Body: []byte(body), Model: r.Model, Unsupported: policy})
}

const oneFunction = `"tools":[{"type":"function","function":{"name":"f"}}]`

// What is left out with a warning is refused by its name where nothing may be left out.
func TestRejectedHints(t *testing.T) {
	for _, c := range []struct{ model, messages, members, param string }{
		{"gemini-3.8-flash", hi, `"user":"u"`, "user"},
		{"gemini-3.8-flash", hi, `"new_thing":1`, "new_thing"},
		{"gemini-3.8-flash", hi, `"service_tier":"scale"`, "service_tier"},
		{"gemini-2.5-flash", hi, `"presence_penalty":0.5`, "presence_penalty"},
		{"gemini-2.5-pro", hi, `"reasoning_effort":"none"`, "reasoning_effort"},
		{"gemini-3.8-flash", hi, `"extra_body":{"acme":1}`, "extra_body.acme"},
		{"gemini-3.8-flash", hi, `"web_search_options":{"search_context_size":"low"}`, "web_search_options.search_context_size"},
		{"gemini-3.8-flash", hi, strings.Replace(oneFunction, `}]`, `},{"type":"function","function":{"name":"g"}}]`, 1) + `,"parallel_tool_calls":false`, "parallel_tool_calls"},
		{"gemini-3.8-flash", hi, `"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","not":{}}}}]`, "tools.function.parameters.not"},
		{"gemini-3.8-flash", hi, `"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"pattern":"^a"}}}`, "response_format.json_schema.schema.pattern"},
		{"gemini-3.8-flash", `{"role":"user","name":"bob","content":"hi"}`, "", "messages.name"},
		{"gemini-2.5-flash", `{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ==","detail":"low"}}]}`, "", "image_url.detail"},
	} {
		body := chatOf(c.model, c.messages, c.members)
		if w, err := under(t, upstreams.ByClass, body); err != nil || !strings.HasPrefix(strings.Join(w.Warnings(), ", "), "dropped="+c.param+";reason=") {
			t.Errorf("%s: %v", body, err)
		}
		_, err := under(t, upstreams.Reject, body)
		if f := fault.From(err); err == nil || f.Kind != fault.Invalid || f.Code != "unsupported_parameter" || f.Param != c.param {
			t.Errorf("%s: %v, want %s refused", body, err, c.param)
		}
	}
	for _, members := range []string{
		`"temperature":1,"seed":1,"stop":"x"`, `"n":1,"store":false,"metadata":{},"logit_bias":{},"user":"","parallel_tool_calls":true,"service_tier":"auto","presence_penalty":0`,
		oneFunction + `,"tool_choice":"auto"`, `"user":null`,
	} {
		if w, err := under(t, upstreams.Reject, chatOf("gemini-3.8-flash", hi, members)); err != nil || len(w.Warnings()) > 0 {
			t.Errorf("%s: %v", members, err)
		}
	}
}

// What is refused otherwise is left out, by its name, where that was asked for: what is left is a request without it.
func TestDroppedContracts(t *testing.T) {
	part := func(p string) string { return `{"role":"user","content":[` + p + `]}` }
	const text = `{"type":"text","text":"hi"}`
	const plainTurn = `"contents":[{"role":"user","parts":[{"text":"hi"}]}]`
	const declared = `"tools":[{"functionDeclarations":[{"name":"f"}]}]`
	for _, c := range []struct{ model, messages, members, params, want string }{
		{"gemini-3.8-flash", hi, `"audio":{}`, "audio", plainTurn},
		{"gemini-3.8-flash", hi, `"modalities":["text","audio"]`, "modalities", plainTurn},
		{"gemini-3.8-flash", hi, `"functions":[{"name":"f"}],"function_call":"auto"`, "functions function_call", plainTurn},
		{"gemini-3.8-flash", hi, `"n":9`, "n", plainTurn},
		{"gemini-3.8-flash", hi, `"response_format":{"type":"grammar"}`, "response_format.type", plainTurn},
		{"gemini-3.8-flash", hi, `"response_format":{"type":"json_schema","json_schema":{"strict":true,"schema":{"items":{"not":{}}}}}`, "response_format.json_schema.schema.not", plainTurn + `,"generationConfig":{"responseMimeType":"application/json","responseJsonSchema":{"items":{}}}`},
		{"gemini-2.5-flash", hi, `"response_format":{"type":"json_object"},` + oneFunction, "response_format", plainTurn + "," + declared},
		{"gemini-2.5-flash", hi, `"web_search_options":{},` + oneFunction, "web_search_options", plainTurn + "," + declared},
		{"gemini-3.8-flash", hi, `"tools":[{"type":"custom","custom":{"name":"g"}},{"type":"function","function":{"name":"f"}},{"type":"custom","custom":{"name":"h"}}]`, "tools[0].type tools[2].type", plainTurn + "," + declared},
		{"gemini-3.8-flash", hi, `"tools":[{"type":"custom","custom":{"name":"g"}}],"tool_choice":"required"`, "tools[0].type tool_choice", plainTurn},
		{"gemini-3.8-flash", hi, `"tool_choice":"required","web_search_options":{}`, "tool_choice", plainTurn + `,"tools":[{"googleSearch":{}}]`},
		{"gemini-3.8-flash", hi, oneFunction + `,"tool_choice":{"type":"custom","custom":{"name":"f"}}`, "tool_choice", plainTurn + "," + declared},
		{"gemini-3.8-flash", hi, oneFunction + `,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"custom","custom":{"name":"g"}}]}}`, "tool_choice", plainTurn + "," + declared},
		{"gemini-3.8-flash", hi, oneFunction + `,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"custom","custom":{"name":"g"}},{"type":"function","function":{"name":"f"}}]}}`, "tool_choice", plainTurn + "," + declared + `,"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["f"]}}`},
		{"gemini-3.8-flash", part(`{"type":"smell"},` + text + `,{"type":"file","file":{"file_id":"file-abc"}}`), "", "messages[0].content[0].type messages[0].content[2].file.file_id", plainTurn},
		{"gemini-3.8-flash", part(text + `,{"type":"image_url","image_url":{"url":"data:image/svg+xml;base64,QQ==","detail":"low"}}`), "", "messages[0].content[1].image_url.url", plainTurn},
		{"gemini-3.8-flash", part(text + `,{"type":"image_url","image_url":{"url":"https://example.com/a.svg"}}`), "", "messages[0].content[1].image_url.url", plainTurn},
		{"gemini-3.8-flash", `{"role":"system","content":[{"type":"image_url","image_url":{"url":"https://x/y"}},{"type":"text","text":"S"}]},` + hi, "", "messages[0].content", `"systemInstruction":{"parts":[{"text":"S"}]},` + plainTurn},
		{
			"gemini-3.8-flash", hi + `,{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"QQ=="}}}]},{"role":"tool","tool_call_id":"a","content":[{"type":"smell"},{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}},{"type":"smell"}]}`, "",
			"messages[2].content[0].type messages[2].content[2].type",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"QQ=="}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":""},"parts":[{"inlineData":{"mimeType":"image/png","data":"QQ=="}}]}}]}]`,
		},
	} {
		body := chatOf(c.model, c.messages, c.members)
		for _, policy := range []upstreams.Policy{upstreams.ByClass, upstreams.Reject} {
			if _, err := under(t, policy, body); fault.From(err).Code != "unsupported_parameter" {
				t.Errorf("%q: %s: %v", policy, body, err)
			}
		}
		w, err := under(t, upstreams.Drop, body)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if !json.Valid(w.Body()) {
			t.Errorf("%s became %s", body, w.Body())
			continue
		}
		upstreamstest.Same(t, body, w.Body(), []byte("{"+c.want+"}"))
		var want []string
		for _, param := range strings.Fields(c.params) {
			want = append(want, "dropped="+param+";reason=unsupported")
		}
		if got := strings.Join(w.Warnings(), ", "); got != strings.Join(want, ", ") {
			t.Errorf("%s: warned of %q, want %q", body, got, want)
		}
	}
}

// What cannot be told of history is left out but where nothing may be: the conversation goes on. What a model left in its
// own answers is nothing that a client asks for.
func TestPoliciesAndHistory(t *testing.T) {
	for _, c := range []struct{ messages, drop, byClass string }{
		{`{"role":"user","content":[{"type":"smell"}]},` + hi, "messages[0].content[0].type", "messages.content.smell"},
		{hi + `,{"role":"assistant","content":"a","images":[{"type":"image_url","image_url":{"url":"gs://a/b.png"}}]},` + hi, "messages[1].images", "messages.images"},
	} {
		body := chatOf("gemini-3.8-flash", c.messages, "")
		for policy, want := range map[upstreams.Policy]string{upstreams.Drop: c.drop, upstreams.ByClass: c.byClass} {
			w, err := under(t, policy, body)
			if err != nil || strings.Join(w.Warnings(), ", ") != "dropped="+want+";reason=unsupported" {
				t.Errorf("%q: %s: %v", policy, body, err)
			}
		}
	}
	if _, err := under(t, upstreams.Reject, chatOf("gemini-3.8-flash", `{"role":"user","content":[{"type":"smell"}]},`+hi, "")); fault.From(err).Param != "messages.content.smell" {
		t.Errorf("%v", err)
	}
	w, err := under(t, upstreams.Reject, chatOf("gemini-3.8-flash", hi+`,{"role":"assistant","content":[{"type":"text","text":"a","annotations":[{}]}],"name":"n","reasoning_content":"r","annotations":[{}]},`+hi, ""))
	if err != nil || len(w.Warnings()) != 4 {
		t.Errorf("%v", err)
	}
}

// A request that is nothing without what it loses is refused whatever the policy, and so is one that is wrong.
func TestNeverDropped(t *testing.T) {
	part := func(p string) string { return `{"role":"user","content":[` + p + `]}` }
	for _, c := range []struct{ messages, members, param string }{
		{hi + "," + part(`{"type":"smell"}`), "", "messages[1].content"},
		{part(`{"type":"text","text":""},{"type":"file","file":{"file_id":"file-abc"}}`), "", "messages[0].content"},
		{hi, `"tools":[` + strings.TrimSuffix(strings.Repeat(`{"type":"function","function":{"name":"f"}},`, 513), ",") + `]`, "tools"},
		{hi, `"temperature":"1"`, "temperature"},
		{part(`{"type":"image_url","image_url":{"url":"data:image/png;base64,a b"}}`), "", "messages[0].content[0].image_url.url"},
	} {
		_, err := under(t, upstreams.Drop, chatOf("gemini-3.8-flash", c.messages, c.members))
		if f := fault.From(err); err == nil || f.Kind != fault.Invalid || f.Param != c.param {
			t.Errorf("%s %s: %v %+v", c.messages, c.members, err, f)
		}
	}
}
