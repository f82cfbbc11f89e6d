package gemini

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/fetch"
	"threadhub/internal/testkit"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// still is a dialect whose clock stands and whose names are counted.
func still() dialect {
	n := 0
	return dialect{
		now: func() time.Time { return time.Unix(1794700800, 0) },
		fresh: func() string {
			n++
			return fmt.Sprintf("GEN%021d", n)
		},
	}
}

// translated is what becomes of a request, which must be one that the gateway takes.
func translated(t testing.TB, body string) (*words, error) {
	t.Helper()
	r, err := openai.ParseChat([]byte(body))
	if err != nil {
		t.Fatalf("no request: %v in %s", err, body)
	}
	w, err := still().translate(&upstreams.Request{Body: []byte(body), Model: r.Model, Stream: r.Stream})
	if err != nil {
		return nil, err
	}
	if w.Body() == nil || !json.Valid(w.Body()) {
		t.Fatalf("%s became no JSON: %s", body, w.Body())
	}
	strict(t, w.Body())
	return w.(*words), nil
}

func TestRecordedRequests(t *testing.T) {
	for name, warnings := range map[string]string{
		"01_params": "dropped=user;reason=unsupported",
		"02_tools":  "",
		"03_schema": "",
		"04_media":  "dropped=messages.content.filename;reason=unsupported",
	} {
		w, err := translated(t, string(upstreamstest.File(t, "mapping/"+name+".in.openai.json")))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		upstreamstest.Same(t, name, w.Body(), upstreamstest.File(t, "mapping/"+name+".out.gemini.json"))
		if got := strings.Join(w.Warnings(), ", "); got != warnings {
			t.Errorf("%s: the warnings are %q, want %q", name, got, warnings)
		}
	}
}

// chatOf is a request for model with these members beside.
func chatOf(model, messages, members string) string {
	if members != "" {
		members = "," + members
	}
	return fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, model, messages, members)
}

const hi = `{"role":"user","content":"hi"}`

// TestRequests says of each rule what comes out, as the members that differ from a plain request.
func TestRequests(t *testing.T) {
	call := func(id, extra string) string {
		return `{"role":"assistant","content":null,"tool_calls":[{"id":"` + id + `","type":"function","function":{"name":"f","arguments":"{}"}` + extra + `}]}`
	}
	result := func(id, content string) string {
		return `{"role":"tool","tool_call_id":"` + id + `","content":` + content + `}`
	}
	const functions = `"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g","parameters":{}}}]`
	const declared = `{"functionDeclarations":[{"name":"f"},{"name":"g"}]}`
	for _, c := range []struct {
		about, model, messages, members string
		want                            string // a member or two, as JSON
		warnings                        string
	}{
		{
			"nothing but a system", "gemini-3.8-flash", `{"role":"system","content":"S"}`, "",
			`"systemInstruction":{"parts":[{"text":"S"}]},"contents":[{"role":"user","parts":[{"text":" "}]}]`, "",
		},
		{
			"a system in the middle is said first", "gemini-3.8-flash", hi + `,{"role":"developer","content":[{"type":"text","text":"D"}]},` + hi, "",
			`"systemInstruction":{"parts":[{"text":"D"}]},"contents":[{"role":"user","parts":[{"text":"hi"},{"text":"hi"}]}]`, "",
		},
		{"an empty system is none", "gemini-3.8-flash", `{"role":"system","content":""},` + hi, "", `"contents":[{"role":"user","parts":[{"text":"hi"}]}]`, ""},
		{
			"gemma hears it from the user", "gemma-4-31b-it", `{"role":"assistant","content":"A"},{"role":"system","content":"S"}`, "",
			`"contents":[{"role":"user","parts":[{"text":"S"}]},{"role":"model","parts":[{"text":"A"}]}]`, "",
		},
		{
			"the model does not begin", "gemini-3.8-flash", `{"role":"assistant","content":"A"},` + hi, "",
			`"contents":[{"role":"user","parts":[{"text":" "}]},{"role":"model","parts":[{"text":"A"}]},{"role":"user","parts":[{"text":"hi"}]}]`, "",
		},
		{
			"empty parts and turns are left out", "gemini-3.8-flash", hi + `,{"role":"assistant","content":""},{"role":"assistant","content":null},{"role":"user","content":[{"type":"text","text":""},{"type":"text","text":"\u00e9"}]}`, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"},{"text":"é"}]}]`, "",
		},
		{
			"a refusal is text", "gemini-3.8-flash", hi + `,{"role":"assistant","content":null,"refusal":"no"},{"role":"assistant","content":[{"type":"refusal","refusal":"never"}]},` + hi, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"text":"no"},{"text":"never"}]},{"role":"user","parts":[{"text":"hi"}]}]`, "",
		},
		{"names of users are not told", "gemini-3.8-flash", `{"role":"user","name":"bob","content":"hi"}`, "", `"contents":[{"role":"user","parts":[{"text":"hi"}]}]`, "dropped=messages.name;reason=unsupported"},

		{
			"results of every kind", "gemini-2.5-flash",
			hi + `,{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":""}},{"id":"b","function":{"name":"g","arguments":"[1]"}},{"id":"c","type":"custom","custom":{"name":"h","input":"x"}},{"id":"d","function":{"name":"f"}},{"id":"e","function":{"name":"g"}}]},` +
				result("c", `"[1, 2]"`) + "," + result("b", `[{"type":"text","text":"{\"a\""},{"type":"text","text":":1}"}]`) + "," + result("a", `" plain"`) + "," + result("d", `"\"s\""`) +
				`,{"role":"tool","tool_call_id":"e","content":"broken","is_error":true},{"role":"user","content":"and?"}`, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}}},{"functionCall":{"id":"b","name":"g","args":{"_raw":"[1]"}}},{"functionCall":{"id":"c","name":"h","args":{"input":"x"}}},{"functionCall":{"id":"d","name":"f","args":{}}},{"functionCall":{"id":"e","name":"g","args":{}}}]},` +
				`{"role":"user","parts":[{"functionResponse":{"id":"c","name":"h","response":{"output":[1,2]}}},{"functionResponse":{"id":"b","name":"g","response":{"a":1}}},{"functionResponse":{"id":"a","name":"f","response":{"output":" plain"}}},` +
				`{"functionResponse":{"id":"d","name":"f","response":{"output":"s"}}},{"functionResponse":{"id":"e","name":"g","response":{"error":"broken"}}},{"text":"and?"}]}]`,
			"changed=tool_calls.arguments;reason=no_object",
		},
		{
			"older functions", "gemini-2.5-flash", hi + `,{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\":1}"}},{"role":"function","name":"f","content":"2"}`, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"name":"f","args":{"a":1}}}]},{"role":"user","parts":[{"functionResponse":{"name":"f","response":{"output":2}}}]}]`, "",
		},
		{
			"an image inside a result", "gemini-3.8-flash", hi + "," + call("a", `,"extra_content":{"google":{"thought_signature":"QQ=="}}`) + "," + result("a", `[{"type":"text","text":"t"},{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ==","detail":"auto"}}]`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"QQ=="}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":"t"},"parts":[{"inlineData":{"mimeType":"image/png","data":"QQ=="}}]}}]}]`, "",
		},
		{
			"an image after the results", "gemini-2.5-flash", hi + "," + strings.Replace(call("a", ""), "]", `,{"id":"b","function":{"name":"f"}}]`, 1) + "," + result("a", `[{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}}]`) + "," + result("b", `"2"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}}},{"functionCall":{"id":"b","name":"f","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":""}}},{"functionResponse":{"id":"b","name":"f","response":{"output":2}}},{"inlineData":{"mimeType":"image/png","data":"QQ=="}}]}]`, "",
		},

		{
			"the placeholder stands on the first call of each step of this turn", "gemini-3.8-flash",
			hi + "," + call("a", "") + "," + result("a", `"1"`) + `,{"role":"user","content":"again"},` +
				`{"role":"assistant","content":"t","tool_calls":[{"id":"b","function":{"name":"f","arguments":"{}"}},{"id":"c","function":{"name":"f","arguments":"{}"}}]},` + result("b", `"2"`) + "," + result("c", `"3"`) + "," +
				call("d", "") + "," + result("d", `"4"`) + "," + call("e", `,"extra_content":{"google":{"thought_signature":"QQ=="}}`) + "," + result("e", `"5"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":1}}},{"text":"again"}]},` +
				`{"role":"model","parts":[{"text":"t"},{"functionCall":{"id":"b","name":"f","args":{}},"thoughtSignature":"skip_thought_signature_validator"},{"functionCall":{"id":"c","name":"f","args":{}}}]},` +
				`{"role":"user","parts":[{"functionResponse":{"id":"b","name":"f","response":{"output":2}}},{"functionResponse":{"id":"c","name":"f","response":{"output":3}}}]},` +
				`{"role":"model","parts":[{"functionCall":{"id":"d","name":"f","args":{}},"thoughtSignature":"skip_thought_signature_validator"}]},{"role":"user","parts":[{"functionResponse":{"id":"d","name":"f","response":{"output":4}}}]},` +
				`{"role":"model","parts":[{"functionCall":{"id":"e","name":"f","args":{}},"thoughtSignature":"QQ=="}]},{"role":"user","parts":[{"functionResponse":{"id":"e","name":"f","response":{"output":5}}}]}]`, "",
		},
		{
			"no placeholder for gemini 2.5", "gemini-2.5-pro", hi + "," + call("a", "") + "," + result("a", `"1"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":1}}}]}]`, "",
		},
		{
			"what is no signature is none", "gemini-3.8-flash", hi + "," + call("a", `,"extra_content":{"google":{"thought_signature":"a b"}}`) + "," + result("a", `"1"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"skip_thought_signature_validator"}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":1}}}]}]`, "",
		},
		{
			"a signature in the id", "gemini-3.8-flash", hi + "," + call("call_1__thought__Q+/=", "") + "," + result("call_1__thought__Q+/=", `"1"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"call_1","name":"f","args":{}},"thoughtSignature":"Q+/="}]},{"role":"user","parts":[{"functionResponse":{"id":"call_1","name":"f","response":{"output":1}}}]}]`, "",
		},
		{
			"signatures in reasoning_details", "gemini-3.8-flash", hi + `,{"role":"assistant","content":null,"reasoning":"r","reasoning_details":[{"type":"reasoning.text","text":"r"},{"type":"reasoning.encrypted","format":"anthropic-claude-v1","id":"a","data":"Tm8="},{"type":"reasoning.encrypted","format":"google-gemini-v1","id":"a","data":"WWVz"}],"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}],"annotations":[{}]},` + result("a", `"1"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"WWVz"}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":1}}}]}]`,
			"dropped=messages.reasoning;reason=unsupported, dropped=messages.annotations;reason=unsupported, dropped=messages.reasoning_details;reason=unsupported",
		},
		{
			"signatures of texts, images and tools of the server", "gemini-3.8-flash",
			hi + `,{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="},"extra_content":{"google":{"thought_signature":"Qg=="}}}],"extra_content":{"google":{"thought_signature":"QQ==","tool_parts":[{"toolCall":{"id":"1"},"thoughtSignature":"Qw=="},{"text":"no"}]}}},{"role":"user","content":"x"},{"role":"assistant","content":"","extra_content":{"google":{"thought_signature":"RA=="}}}`, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"toolCall":{"id":"1"},"thoughtSignature":"Qw=="},{"text":"a"},{"text":"b","thoughtSignature":"QQ=="},{"inlineData":{"mimeType":"image/png","data":"QQ=="},"thoughtSignature":"Qg=="}]},{"role":"user","parts":[{"text":"x"}]},{"role":"model","parts":[{"text":"","thoughtSignature":"RA=="}]}]`, "",
		},
		{
			"gemma signs nothing", "gemma-4-31b-it", hi + "," + call("a", `,"extra_content":{"google":{"thought_signature":"QQ=="}}`) + "," + result("a", `"1"`), "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":1}}}]}]`, "",
		},

		{
			"addresses", "gemini-3.8-flash", `{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a/B.WEBP?x=1"}},{"type":"image_url","image_url":"https://example.com/b"},{"type":"image_url","image_url":{"url":"https://generativelanguage.googleapis.com/v1beta/files/x"}},{"type":"video_url","video_url":{"url":"https://www.youtube.com/watch?v=1"}},{"type":"file","file":{"file_id":"https://generativelanguage.googleapis.com/v1beta/files/y"}},{"type":"file","file":{"file_data":"https://example.com/c.pdf"}}]}`, "",
			`"contents":[{"role":"user","parts":[{"fileData":{"mimeType":"image/webp","fileUri":"https://example.com/a/B.WEBP?x=1"}},{"fileData":{"mimeType":"image/jpeg","fileUri":"https://example.com/b"}},{"fileData":{"fileUri":"https://generativelanguage.googleapis.com/v1beta/files/x"}},{"fileData":{"fileUri":"https://www.youtube.com/watch?v=1"}},{"fileData":{"fileUri":"https://generativelanguage.googleapis.com/v1beta/files/y"}},{"fileData":{"mimeType":"application/pdf","fileUri":"https://example.com/c.pdf"}}]}]`,
			"unchecked=image_url;reason=not_fetched, unchecked=file_data;reason=not_fetched",
		},
		{
			"what is left of an answer has no place", "gemini-3.8-flash", `{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"},"annotations":[]}]},{"role":"assistant","name":"x","content":[{"type":"text","text":"A","annotations":[{}]}],"reasoning_content":"R","refusal":null,"citations":["u"],"audio":null,"odd, thing\n":1,"reasoning_details":[{"type":"reasoning.encrypted","format":"google-gemini-v1","data":"QQ=="}]},` + hi, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"text":"A","thoughtSignature":"QQ=="}]},{"role":"user","parts":[{"text":"hi"}]}]`,
			"dropped=messages.content.cache_control;reason=unsupported, dropped=messages.reasoning_content;reason=unsupported, dropped=messages.citations;reason=unsupported, dropped=other;reason=unsupported, dropped=messages.name;reason=unsupported, dropped=messages.content.annotations;reason=unsupported",
		},
		{
			"what history holds and nobody can be told", "gemini-3.8-flash",
			`{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/svg+xml;base64,QQ=="}}]},{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}},{"type":"text","text":"x"},{"type":"smell"}]},{"role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"text","text":"A"}],"images":[{"image_url":{"url":"gs://a"}}]},` +
				call("a", "") + "," + result("a", `[{"type":"smell"},{"type":"text","text":"r"},{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}},{"type":"smell"}]`) + "," + hi, "",
			`"contents":[{"role":"user","parts":[{"text":"x"}]},{"role":"model","parts":[{"text":"A"},{"functionCall":{"id":"a","name":"f","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":"r"},"parts":[{"inlineData":{"mimeType":"image/png","data":"QQ=="}}]}},{"text":"hi"}]}]`,
			"dropped=messages.content.image_url;reason=unsupported, dropped=messages.content.file;reason=unsupported, dropped=messages.content.smell;reason=unsupported, dropped=messages.content.thinking;reason=unsupported, dropped=messages.images;reason=unsupported",
		},
		{
			"a turn is not begun by nothing", "gemini-3.8-flash", hi + "," + call("a", "") + "," + result("a", `"1"`) + `,{"role":"user","content":[{"type":"text","text":""}]}`, "",
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"skip_thought_signature_validator"}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":1}}}]}]`, "",
		},
		{
			"names as Gemini takes them", "gemini-2.5-flash", hi + "," + strings.Replace(call("a", ""), `"f"`, `"3d"`, 1) + "," + result("a", `"1"`), `"tools":[{"type":"function","function":{"name":"3d"}},{"type":"function","function":{"name":"-x"}}],"tool_choice":{"type":"function","function":{"name":"-x"}}`,
			`"contents":[{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"id":"a","name":"_3d","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"id":"a","name":"_3d","response":{"output":1}}}]}],"tools":[{"functionDeclarations":[{"name":"_3d"},{"name":"_-x"}]}],"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["_-x"]}}`, "",
		},
		{
			"detail is new", "gemini-2.5-flash", `{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ==","detail":"low"}}]}`, "",
			`"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"image/png","data":"QQ=="}}]}]`, "dropped=image_url.detail;reason=unsupported",
		},

		{
			"parameters", "gemini-3.8-flash", hi, `"max_tokens":7,"temperature":1e0,"top_k":5,"stop":"X","seed":9223372036854775807,"n":1,"presence_penalty":0.5,"frequency_penalty":0,"logprobs":false,"top_logprobs":3`,
			`"generationConfig":{"maxOutputTokens":7,"temperature":1,"topK":5,"stopSequences":["X"],"seed":1,"presencePenalty":0.5}`, "dropped=top_logprobs;reason=no_logprobs",
		},
		{"nulls", "gemini-3.8-flash", hi, `"max_tokens":null,"temperature":null,"stop":null,"seed":null,"tools":null,"tool_choice":null,"response_format":null,"reasoning_effort":null,"user":null,"audio":null,"functions":null,"extra_body":null,"web_search_options":null`, "", ""},
		{"no penalties for 2.5", "gemini-2.5-flash", hi, `"presence_penalty":0.5,"frequency_penalty":1`, "", "dropped=presence_penalty;reason=model, dropped=frequency_penalty;reason=model"},
		{
			"hints", "gemini-3.8-flash", hi, `"metadata":{"a":"b"},"store":true,"logit_bias":{"1":2},"new_thing":1,"odd, thing\n":2,"service_tier":"scale","stream_options":null`, "",
			"dropped=metadata;reason=unsupported, dropped=store;reason=unsupported, dropped=logit_bias;reason=unsupported, dropped=new_thing;reason=unknown, dropped=other;reason=unknown, dropped=service_tier;reason=unsupported",
		},
		{"tiers", "gemini-3.8-flash", hi, `"service_tier":"default"`, `"serviceTier":"standard"`, ""},
		{"flex", "gemini-3.8-flash", hi, `"service_tier":"flex"`, `"serviceTier":"flex"`, ""},
		{"modalities", "gemini-3.1-flash-image", hi, `"modalities":["image","text"]`, `"generationConfig":{"responseModalities":["TEXT","IMAGE"]}`, ""},
		{
			"what is Gemini's own", "gemini-3.8-flash", hi, `"reasoning_effort":"low","extra_body":{"google":{"thinking_config":{"thinking_budget":5,"include_thoughts":true},"cached_content":"cachedContents/1","safety_settings":[{"category":"C","threshold":"T"}],"grounding_metadata":true,"x":1},"y":2}`,
			`"generationConfig":{"thinkingConfig":{"thinkingBudget":5,"includeThoughts":true}},"cachedContent":"cachedContents/1","safetySettings":[{"category":"C","threshold":"T"}]`,
			"dropped=reasoning_effort;reason=thinking_config, dropped=extra_body.google.x;reason=unknown, dropped=extra_body.y;reason=unknown",
		},

		{"no switch", "gemini-3.8-flash", hi, `"extra_body":{"google":{"grounding_metadata":"yes"}}`, "", "dropped=extra_body.google.grounding_metadata;reason=unknown"},
		{"functions", "gemini-3.8-flash", hi, functions + `,"tool_choice":"auto","parallel_tool_calls":false`, `"tools":[` + declared + `]`, "dropped=parallel_tool_calls;reason=unsupported"},
		{"no function", "gemini-3.8-flash", hi, functions + `,"tool_choice":"none"`, `"tools":[` + declared + `],"toolConfig":{"functionCallingConfig":{"mode":"NONE"}}`, ""},
		{"one function", "gemini-3.8-flash", hi, functions + `,"tool_choice":{"type":"function","function":{"name":"g"}}`, `"tools":[` + declared + `],"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["g"]}}`, ""},
		{"allowed functions", "gemini-3.8-flash", hi, functions + `,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"g"}}]}}`, `"tools":[` + declared + `],"toolConfig":{"functionCallingConfig":{"mode":"VALIDATED","allowedFunctionNames":["g"]}}`, ""},
		{"some of allowed functions", "gemini-3.8-flash", hi, functions + `,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"g"}}]}}`, `"tools":[` + declared + `],"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["g"]}}`, ""},
		{"search", "gemini-2.5-flash", hi, `"web_search_options":{"search_context_size":"low"},"tools":[],"tool_choice":"auto"`, `"tools":[{"googleSearch":{}}]`, "dropped=web_search_options.search_context_size;reason=unsupported"},
		{"search as a tool", "gemini-2.5-flash", hi, `"tools":[{"type":"web_search"}]`, `"tools":[{"googleSearch":{}}]`, ""},
		{"search beside functions", "gemini-3.8-flash", hi, functions + `,"web_search_options":{}`, `"tools":[` + declared + `,{"googleSearch":{}}],"toolConfig":{"functionCallingConfig":{"mode":"VALIDATED"},"includeServerSideToolInvocations":true}`, ""},
		{"search beside forced functions", "gemini-3.8-flash", hi, functions + `,"web_search_options":{},"tool_choice":"required"`, `"tools":[` + declared + `,{"googleSearch":{}}],"toolConfig":{"functionCallingConfig":{"mode":"ANY"},"includeServerSideToolInvocations":true}`, ""},

		{"JSON", "gemini-3.8-flash", hi, `"response_format":{"type":"json_object"}`, `"generationConfig":{"responseMimeType":"application/json"}`, ""},
		{"text", "gemini-3.8-flash", hi, `"response_format":{"type":"text"}`, "", ""},
		{"JSON beside functions", "gemini-3.8-flash", hi, functions + `,"response_format":{"type":"json_object"}`, `"tools":[` + declared + `],"generationConfig":{"responseMimeType":"application/json"}`, ""},
		{
			"a schema that asks too much", "gemini-3.8-flash", hi, `"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"string","pattern":"^a"}}}`,
			`"generationConfig":{"responseMimeType":"application/json","responseJsonSchema":{"type":"string"}}`, "dropped=response_format.json_schema.schema.pattern;reason=unsupported",
		},
	} {
		w, err := translated(t, chatOf(c.model, c.messages, c.members))
		if err != nil {
			t.Errorf("%s: %v", c.about, err)
			continue
		}
		want := c.want
		if !strings.Contains(want, `"contents":`) {
			want = strings.TrimSuffix(`"contents":[{"role":"user","parts":[{"text":"hi"}]}],`+want, ",")
		}
		upstreamstest.Same(t, c.about, w.Body(), []byte("{"+want+"}"))
		if got := strings.Join(w.Warnings(), ", "); got != c.warnings {
			t.Errorf("%s: the warnings are %q, want %q", c.about, got, c.warnings)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	part := func(p string) string { return `{"role":"user","content":[` + p + `]}` }
	for _, c := range []struct {
		about, model, messages, members string
		code, param                     string
	}{
		{"sound", "gemini-3.8-flash", hi, `"modalities":["text","audio"],"audio":{}`, "unsupported_parameter", "audio"},
		{"sound alone", "gemini-3.8-flash", hi, `"modalities":["audio"]`, "unsupported_parameter", "modalities"},
		{"functions that are no tools", "gemini-3.8-flash", hi, `"functions":[{"name":"f"}]`, "unsupported_parameter", "functions"},
		{"too many choices", "gemini-3.8-flash", hi, `"n":9`, "unsupported_parameter", "n"},
		{"an effort that is none", "gemini-3.8-flash", hi, `"reasoning_effort":"huge"`, "invalid_value", "reasoning_effort"},
		{"a text for a number", "gemini-3.8-flash", hi, `"temperature":"1"`, "invalid_type", "temperature"},
		{"a schema that is none", "gemini-3.8-flash", hi, `"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":true}}`, "invalid_type", "response_format.json_schema.schema"},
		{"half a seed", "gemini-3.8-flash", hi, `"seed":1.5`, "invalid_type", "seed"},
		{"stops that are none", "gemini-3.8-flash", hi, `"stop":[1]`, "invalid_type", "stop"},
		{"an unknown format", "gemini-3.8-flash", hi, `"response_format":{"type":"grammar"}`, "unsupported_parameter", "response_format.type"},
		{"a strict schema that asks too much", "gemini-3.8-flash", hi, `"response_format":{"type":"json_schema","json_schema":{"strict":true,"schema":{"items":{"not":{}}}}}`, "unsupported_parameter", "response_format.json_schema.schema.not"},
		{"JSON beside tools, formerly", "gemini-2.5-flash", hi, `"response_format":{"type":"json_object"},"tools":[{"type":"function","function":{"name":"f"}}]`, "unsupported_parameter", "response_format"},
		{"search beside functions, formerly", "gemini-2.5-flash", hi, `"web_search_options":{},"tools":[{"type":"function","function":{"name":"f"}}]`, "unsupported_parameter", "web_search_options"},
		{"tools of another kind", "gemini-3.8-flash", hi, `"tools":[{"type":"function","function":{"name":"f"}},{"type":"custom","custom":{"name":"g"}}]`, "unsupported_parameter", "tools[1].type"},
		{"a function without a name", "gemini-3.8-flash", hi, `"tools":[{"type":"function","function":{}}]`, "missing_required_parameter", "tools[0].function.name"},
		{"too many functions", "gemini-3.8-flash", hi, `"tools":[` + strings.TrimSuffix(strings.Repeat(`{"type":"function","function":{"name":"f"}},`, 513), ",") + `]`, "unsupported_parameter", "tools"},
		{"a call of nothing", "gemini-3.8-flash", hi, `"tool_choice":"required"`, "unsupported_parameter", "tool_choice"},
		{"a call where there is search alone", "gemini-3.8-flash", hi, `"tool_choice":"required","web_search_options":{}`, "unsupported_parameter", "tool_choice"},
		{"a choice of a kind of its own", "gemini-3.8-flash", hi, `"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"custom","custom":{"name":"f"}}`, "unsupported_parameter", "tool_choice"},
		{"the result of no call", "gemini-3.8-flash", hi + `,{"role":"tool","tool_call_id":"x","content":"1"}`, "", "invalid_value", "messages[1].tool_call_id"},
		{"a call without a result", "gemini-3.8-flash", hi + `,{"role":"assistant","tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}]},` + hi, "", "invalid_value", "messages[1].tool_calls"},
		{"a call without a result at the end", "gemini-3.8-flash", hi + `,{"role":"assistant","tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}]}`, "", "invalid_value", "messages[1].tool_calls"},
		{"a call without an id", "gemini-3.8-flash", hi + `,{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"f","arguments":"{}"}}]}`, "", "invalid_value", "messages[1].tool_calls"},
		{"a function's call without a result", "gemini-3.8-flash", hi + `,{"role":"assistant","function_call":{"name":"f","arguments":"{}"}},` + hi, "", "invalid_value", "messages[1].tool_calls"},
		{"a function's result without a call", "gemini-3.8-flash", hi + `,{"role":"function","name":"f","content":"1"}`, "", "invalid_value", "messages[1].tool_call_id"},
		{"a system that shows", "gemini-3.8-flash", `{"role":"system","content":[{"type":"image_url","image_url":{"url":"https://x/y"}}]}`, "", "unsupported_parameter", "messages[0].content"},
		{"an unknown part", "gemini-3.8-flash", part(`{"type":"text","text":"x"},{"type":"smell"}`), "", "unsupported_parameter", "messages[0].content[1].type"},
		{"SVG", "gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"data:image/svg+xml;base64,QQ=="}}`), "", "unsupported_parameter", "messages[0].content[0].image_url.url"},
		{"an address of SVG", "gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"https://example.com/a.svg"}}`), "", "unsupported_parameter", "messages[0].content[0].image_url.url"},
		{"an address of a bucket", "gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"gs://a/b.png"}}`), "", "unsupported_parameter", "messages[0].content[0].image_url.url"},
		{"no base64", "gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"data:image/png;base64,a b"}}`), "", "invalid_value", "messages[0].content[0].image_url.url"},
		{"an end inside base64", "gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ==QQ=="}}`), "", "invalid_value", "messages[0].content[0].image_url.url"},
		{"data as it is", "gemini-3.8-flash", part(`{"type":"file","file":{"file_data":"data:text/plain,hello"}}`), "", "invalid_value", "messages[0].content[0].file.file_data"},
		{"a type that breaks out", "gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"data:image/p\"ng;base64,QQ=="}}`), "", "invalid_value", "messages[0].content[0].image_url.url"},
		{"a file of another provider", "gemini-3.8-flash", part(`{"type":"file","file":{"file_id":"file-abc"}}`), "", "unsupported_parameter", "messages[0].content[0].file.file_id"},
		{"a format that breaks out", "gemini-3.8-flash", part(`{"type":"input_audio","input_audio":{"data":"QQ==","format":"w\"av"}}`), "", "invalid_value", "messages[0].content[0].input_audio.format"},
	} {
		_, err := translated(t, chatOf(c.model, c.messages, c.members))
		if f := fault.From(err); f == nil || f.Kind != fault.Invalid || f.Code != c.code || f.Param != c.param {
			t.Errorf("%s: got %v %+v, want %s of %s", c.about, err, f, c.code, c.param)
		}
	}
	_, err := translated(t, chatOf("gemini-3.8-flash", part(`{"type":"image_url","image_url":{"url":"data:image/png;base64,`+strings.Repeat("A", 20<<20)+`"}}`), ""))
	if !fault.Is(err, fault.TooLarge) {
		t.Errorf("too large a request: %v", err)
	}
}

func TestEffort(t *testing.T) {
	for model, want := range map[string]string{
		"gemini-2.5-flash":          "0 512 1024 8192 24576 24576 24576",
		"gemini-2.5-flash-lite":     "0 512 1024 8192 24576 24576 24576",
		"gemini-2.5-pro":            "128! 512 1024 8192 24576 32768 32768",
		"gemini-3-flash-preview":    "minimal! minimal low medium high high high",
		"gemini-3.5-flash":          "minimal! minimal low medium high high high",
		"gemini-3.6-flash":          "minimal! minimal low medium high high high",
		"gemini-3.1-flash-lite":     "minimal! minimal low medium high high high",
		"gemini-3.5-flash-lite":     "minimal! minimal low medium high high high",
		"gemini-3.1-pro-preview":    "low! low low medium high high high",
		"gemini-3.8-flash":          "low! low low medium high high high",
		"gemini-3-pro-preview":      "low! low low high high high high",
		"gemini-4-argon":            "low! low low medium high high high",
		"gemini-4-hydrogen":         "low! low low medium high xhigh xhigh",
		"gemini-flash-latest":       "low! low low medium high high high",
		"models/gemini-flash-later": "low! low low medium high high high",
		"gemma-4-31b-it":            "minimal! minimal high high high high high",
	} {
		for i, w := range strings.Fields(want) {
			body, err := translated(t, chatOf(model, hi, `"reasoning_effort":"`+efforts[i]+`"`))
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				GenerationConfig struct{ ThinkingConfig map[string]any }
			}
			if err := json.Unmarshal(body.Body(), &got); err != nil {
				t.Fatal(err)
			}
			think := got.GenerationConfig.ThinkingConfig
			value := think["thinkingLevel"]
			if value == nil {
				value = think["thinkingBudget"]
			}
			text := fmt.Sprint(value)
			if len(body.Warnings()) > 0 {
				text += "!"
			}
			if text != w {
				t.Errorf("%s %s is %s, want %s", model, efforts[i], text, w)
			}
			if include, _ := think["includeThoughts"].(bool); include != (i > 0) {
				t.Errorf("%s %s: thoughts come along: %v", model, efforts[i], include)
			}
		}
	}
}

func TestFamily(t *testing.T) {
	for model, want := range map[string]string{
		"gemini-2.5-flash": "gemini-2", "gemini-2.0-flash": "gemini-2", "gemini-3-pro": "gemini-3", "models/gemini-3.8-flash": "gemini-3",
		"gemini-4-argon": "gemini-4", "gemini-12.1-x": "gemini-12", "gemma-4-31b-it": "gemma", "gemini-flash-latest": "gemini-flash-latest", "": "", "x": "x",
	} {
		if got := Family(model); got != want {
			t.Errorf("%s is of the family %q, want %q", model, got, want)
		}
	}
}

// Signatures that did not come back are asked for, where the model wants them, and put where they belong.
func TestSignaturesThatDidNotComeBack(t *testing.T) {
	call := func(id, more string) string {
		return `{"id":"` + id + `","type":"function","function":{"name":"f","arguments":"{}"}` + more + `}`
	}
	name := func(id string) string { return upstreams.CallName(gjson.Parse(call(id, ""))) }
	body := func(model string) string {
		return chatOf(model, hi+`,{"role":"assistant","tool_calls":[`+call("old", "")+`]},{"role":"tool","tool_call_id":"old","content":"0"},`+hi+
			`,{"role":"assistant","tool_calls":[`+call("a", "")+`,`+call("b", "")+`]},{"role":"tool","tool_call_id":"a","content":"1"},{"role":"tool","tool_call_id":"b","content":"2"},`+
			`{"role":"assistant","tool_calls":[`+call("c", `,"extra_content":{"google":{"thought_signature":"QQ=="}}`)+`]},{"role":"tool","tool_call_id":"c","content":"3"},`+
			`{"role":"assistant","tool_calls":[`+call("d", "")+`]},{"role":"tool","tool_call_id":"d","content":"4"}`, "")
	}
	translate := func(model string, known map[string]string) (*upstreams.Request, string) {
		r := &upstreams.Request{Body: []byte(body(model)), Model: model, Signatures: upstreams.Signatures{Known: known, Unknown: []string{"once more"}}}
		w, err := still().translate(r)
		if err != nil {
			t.Fatal(err)
		}
		var signed []string
		gjson.GetBytes(w.Body(), "contents.#.parts|@flatten").ForEach(func(_, p gjson.Result) bool {
			if s := p.Get("thoughtSignature"); s.Exists() {
				signed = append(signed, p.Get("functionCall.id").Str+":"+s.Str)
			}
			return true
		})
		return r, strings.Join(signed, " ")
	}
	const dummy = "skip_thought_signature_validator"
	for model, want := range map[string]struct {
		asked  []string
		signed string
	}{
		"gemini-3.8-flash": {[]string{name("a"), name("d")}, "a:" + dummy + " c:QQ== d:" + dummy},
		"gemini-2.5-flash": {nil, "c:QQ=="},
		"gemma-4-31b-it":   {nil, ""},
	} {
		r, signed := translate(model, nil)
		if got := r.Signatures.Unknown; !slices.Equal(got, want.asked) || signed != want.signed {
			t.Errorf("%s: asked for the signatures of %q, want %q; signed %q, want %q", model, got, want.asked, signed, want.signed)
		}
	}
	r, signed := translate("gemini-3.8-flash", map[string]string{name("a"): "Qg==", name("b"): "no", name("old"): "no", name("c"): "no", name("d"): "no base64"})
	if want := "a:Qg== c:QQ== d:" + dummy; signed != want || !slices.Equal(r.Signatures.Unknown, []string{name("d")}) {
		t.Errorf("signed %q, want %q; asked for %v", signed, want, r.Signatures.Unknown)
	}
}

// Files by their address are asked for, and put where they belong once they are there; those that cannot be had leave a
// warning.
func TestFiles(t *testing.T) {
	image := func(url string) string {
		return `{"type":"image_url","image_url":{"url":"` + url + `","detail":"low"}}`
	}
	const a, b, c, d = "https://x.example/a.png", "https://x.example/b", "https://x.example/c.pdf", "https://x.example/d.mp4"
	body := chatOf("gemini-3.8-flash", `{"role":"user","content":[`+image(a)+`]},{"role":"assistant","content":null,"images":[`+image(b)+`],"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]},`+
		`{"role":"tool","tool_call_id":"1","content":[`+image(b)+`]},{"role":"assistant","content":"t"},{"role":"system","content":"s"},{"role":"user","content":[{"type":"file","file":{"file_data":"`+c+`"}}]},`+
		`{"role":"user","content":[`+image(a)+`,{"type":"video_url","video_url":{"url":"`+d+`"}},{"type":"image_url","image_url":"`+b+`"},`+image("https://generativelanguage.googleapis.com/v1beta/files/x")+`]}`, "")
	translate := func(files map[string]fetch.File) (*upstreams.Request, string) {
		r := &upstreams.Request{Body: []byte(body), Model: "gemini-3.8-flash", Files: files}
		w, err := still().translate(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Warnings = w.Warnings()
		return r, string(w.Body())
	}
	r, _ := translate(nil)
	var got []string
	for _, l := range r.Links {
		got = append(got, fmt.Sprintf("%s %s %s %v", l.Param, l.URL, strings.Join(l.Types, ","), l.Past))
	}
	want := []string{
		"messages[0].content[0].image_url.url " + a + " image/ true",
		"messages[1].images " + b + " image/ true",
		"messages[2].content[0].image_url.url " + b + " image/ true",
		"messages[5].content[0].file.file_data " + c + " application/pdf,text/,image/,audio/,video/ false",
		"messages[6].content[0].image_url.url " + a + " image/ false",
		"messages[6].content[1].video_url.url " + d + " video/ false",
		"messages[6].content[2].image_url " + b + " image/ false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("links: (-want +got)\n%s", diff)
	}
	r, out := translate(map[string]fetch.File{a: {Type: "image/webp", Data: []byte("AA")}, b: {}, c: {Type: "text/csv", Data: []byte("1,2")}})
	parts := gjson.Get(out, "contents.#.parts|@flatten").Raw
	if want := `[{"inlineData":{"mimeType":"image/webp","data":"QUE="},"mediaResolution":{"level":"MEDIA_RESOLUTION_LOW"}},` +
		`{"functionCall":{"id":"1","name":"f","args":{}}},{"functionResponse":{"id":"1","name":"f","response":{"output":""}}},{"text":"t"},` +
		`{"inlineData":{"mimeType":"text/csv","data":"MSwy"}},{"inlineData":{"mimeType":"image/webp","data":"QUE="},"mediaResolution":{"level":"MEDIA_RESOLUTION_LOW"}},` +
		`{"fileData":{"mimeType":"video/mp4","fileUri":"` + d + `"}},{"fileData":{"fileUri":"https://generativelanguage.googleapis.com/v1beta/files/x"},"mediaResolution":{"level":"MEDIA_RESOLUTION_LOW"}}]`; parts != want {
		t.Errorf("got\n%s\nwant\n%s", parts, want)
	}
	if got := strings.Join(r.Warnings, ", "); got != "dropped=messages.images;reason=not_fetched, dropped=messages.content.image_url;reason=not_fetched, unchecked=video_url;reason=not_fetched" {
		t.Errorf("warned of %s", got)
	}
	if len(r.Links) != 1 || r.Links[0].URL != d {
		t.Errorf("then asked for %v", r.Links)
	}
	_, err := still().translate(&upstreams.Request{Body: []byte(body), Model: "gemini-3.8-flash", Files: map[string]fetch.File{a: {Type: "image/png", Data: make([]byte, 8<<20)}}})
	if !fault.HasCode(err, "request_too_large") {
		t.Errorf("twice 8 MiB: %v", err)
	}
}

// TestSchemas shows that a schema keeps its order and its spelling, and that names which look like keywords are names.
func TestSchemas(t *testing.T) {
	for in, want := range map[string]string{
		`{ "type":"object", "$schema":"x" }`: `{"type":"object"}`,
		`{"properties":{"const":{"const":1},"pattern":{"pattern":"a"},"$schema":true,"if":{"enum":[{"const":1}]}}}`: `{"properties":{"const":{"enum":[1]},"pattern":{},"$schema":true,"if":{"enum":[{"const":1}]}}}`,
		`{"enum":["a","b"],"const":"a"}`: `{"enum":["a"]}`,
		`{"anyOf":[{"const":null},{"allOf":[]}],"items":[{"not":{}}],"additionalProperties":{"const":0}}`: `{"anyOf":[{"enum":[null]},{}],"items":[{}],"additionalProperties":{"enum":[0]}}`,
		`{"$defs":{"a":{"$ref":"#/$defs/a"}},"default":{"const":1},"z":1,"a":1e2,"\u00e9":"\u00e9"}`:      `{"$defs":{"a":{"$ref":"#/$defs/a"}},"default":{"const":1},"z":1,"a":1e2,"\u00e9":"\u00e9"}`,
	} {
		w, err := translated(t, chatOf("gemini-3.8-flash", hi, `"tools":[{"type":"function","function":{"name":"f","parameters":`+in+`}}]`))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(w.Body()), `"parametersJsonSchema":`+want+`}]}`) {
			t.Errorf("%s became %s, want %s", in, w.Body(), want)
		}
	}
}

func TestAddress(t *testing.T) {
	for model, want := range map[string]string{
		"gemini-2.5-flash":        "models/gemini-2.5-flash:generateContent",
		"models/gemini-2.5-flash": "models/gemini-2.5-flash:generateContent",
		"a/../../b?key=x#y":       "models/a%2F..%2F..%2Fb%3Fkey=x%23y:generateContent",
		"x:countTokens":           "models/x%3AcountTokens:generateContent",
		"..":                      "models/..:generateContent",
		"a%2Fb é":                 "models/a%252Fb%20%C3%A9:generateContent",
	} {
		if got := address(model, "generateContent"); got != want {
			t.Errorf("%s is asked at %s, want %s", model, got, want)
		}
	}
}

// TestShapes makes each recorded request of Gemini's own from one in the OpenAI dialect.
func TestShapes(t *testing.T) {
	var shaped []string
	const weather = `{"type":"function","function":{"name":"get_weather","description":"Current weather for one city.","parameters":{"type":"object","properties":{"city":{"type":"string"},"unit":{"type":"string","enum":["c","f"]}},"required":["city"]}}}`
	const riga = `{"id":"fc-7d1k2m","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Riga\"}"},"extra_content":{"google":{"thought_signature":"EpACulz+fJGjzUtn2zx7DsbzH4mdkKuUkyuZ6Tb77fZERrTLnKDhE0cqSr1Z9jkmHT+YzHEJ5674XbUMmGdvDSOgqbtmEH4zqYkKbT0xqFABrazh5hyPCWobLipbui/Dqqe4MLEiLOr5AzzhOjXtDSnsX4O3GydlZ/w9"}}}`
	say := func(text string) string { return fmt.Sprintf(`{"role":"user","content":%q}`, text) }
	for name, body := range map[string]string{
		"plain":           chatOf("gemini-2.5-flash", `{"role":"system","content":"Answer in one short sentence."},`+say("What is the capital of Estonia?"), `"temperature":0.2,"max_tokens":64,"extra_body":{"google":{"thinking_config":{"thinking_budget":0}}}`),
		"thinking":        chatOf("gemini-3.8-flash", say("How many r in strawberry?"), `"reasoning_effort":"low","max_completion_tokens":4096`),
		"thinking_budget": chatOf("gemini-2.5-flash", say("How many r in strawberry?"), `"reasoning_effort":"medium"`),
		"tool":            chatOf("gemini-3.8-flash", say("Weather in Tartu?"), `"tools":[`+weather+`],"tool_choice":{"type":"function","function":{"name":"get_weather"}}`),
		"tool_results": chatOf("gemini-3.8-flash", say("Weather in Riga and Vilnius, and the time?")+`,{"role":"assistant","content":null,"tool_calls":[`+riga+
			`,{"id":"fc-9x0q4p","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Vilnius\"}"}},{"id":"fc-3r8z1t","type":"function","function":{"name":"get_time","arguments":"{}"}}]},`+
			`{"role":"tool","tool_call_id":"fc-7d1k2m","content":"{\"temp\":4,\"sky\":\"rain\"}"},{"role":"tool","tool_call_id":"fc-9x0q4p","content":"6 degrees, cloudy"},{"role":"tool","tool_call_id":"fc-3r8z1t","content":"unknown zone","is_error":true}`,
			`"tools":[`+weather+`,{"type":"function","function":{"name":"get_time"}}]`),
		"tool_dummy_signature": chatOf("gemini-3.8-flash", say("Weather in Riga?")+`,{"role":"assistant","content":null,"function_call":{"name":"get_weather","arguments":"{\"city\":\"Riga\"}"}},{"role":"function","name":"get_weather","content":"4 C"}`, `"tools":[`+weather+`]`),
		"json_schema":          chatOf("gemini-2.5-flash", say("One fact about Tallinn."), `"response_format":{"type":"json_schema","json_schema":{"name":"fact","strict":true,"schema":{"type":"object","properties":{"city":{"type":"string"},"founded":{"type":["integer","null"]},"tags":{"type":"array","items":{"$ref":"#/$defs/tag"}}},"required":["city","founded","tags"],"additionalProperties":false,"propertyOrdering":["city","founded","tags"],"$defs":{"tag":{"type":"object","properties":{"t":{"type":"string"}},"required":["t"]}}}}}`),
		"grounding":            chatOf("gemini-3.8-flash", say("Latest Go release?"), `"web_search_options":{}`),
		"logprobs":             chatOf("gemini-2.5-flash", say("Say hi"), `"logprobs":true,"top_logprobs":2,"seed":7,"top_p":0.9,"top_k":40,"stop":"\n\n","n":1`),
		"search_and_function":  chatOf("gemini-3.8-flash", say("Find the weather in the host city of Eurovision 2026"), `"web_search_options":{},"tools":[`+weather+`]`),
		"image": chatOf("gemini-2.5-flash", `{"role":"user","content":[{"type":"text","text":"Which colour?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGM4IScHRAwQCgAfJgQRoo8irwAAAABJRU5ErkJggg=="}},`+
			`{"type":"file","file":{"file_id":"https://generativelanguage.googleapis.com/v1beta/files/abc-123"}},{"type":"input_audio","input_audio":{"format":"wav","data":"UklGRjQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YRAAAAAAAIQDQAaEAwAAfPzA+Xz8"}},`+
			`{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERi0xLjQKMSAwIG9iajw8L1R5cGUvQ2F0YWxvZz4+ZW5kb2JqCnRyYWlsZXI8PC9Sb290IDEgMCBSPj4KJSVFT0YK"}}]}`, ""),
	} {
		w, err := translated(t, body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		upstreamstest.Same(t, name, w.Body(), shape(t, name))
		shaped = append(shaped, "generate/"+name+".req.json")
	}
	// These ask for what we never do. That Google's client knows them shows that it is a judge of the others.
	for _, name := range []string{"response_schema", "all_fields"} {
		strict(t, shape(t, name))
		shaped = append(shaped, "generate/"+name+".req.json")
	}
	upstreamstest.Unused(t, append(shaped,
		"generate/continuation_2.req.json", // the second half of an answer is not asked for
		"generate/*.resp.json", "generate/*.want.json", "stream/*.sse", "stream/*.chunks", "stream/no_alt_sse.resp.json", "errors/*.http",
		"check/models.resp.json", "embed/batch.*.json", "embed/single.resp.json", "mapping/0[1-4]_*.in.openai.json", "mapping/0[1-4]_*.out.gemini.json", "mapping/07_stream.in.gemini.sse",
		"mapping/07_stream.expect.openai.sse", "mapping/09_grounding.in.gemini.json", "mapping/09_grounding.expect.openai.json")...)
}

// shape is a recorded request, in the way that we say the same.
func shape(t *testing.T, name string) []byte {
	t.Helper()
	var r map[string]any
	if err := json.Unmarshal(upstreamstest.File(t, "generate/"+name+".req.json"), &r); err != nil {
		t.Fatal(err)
	}
	switch name {
	case "logprobs": // one choice is what there is without a word
		delete(r["generationConfig"].(map[string]any), "candidateCount")
	case "search_and_function":
		slices.Reverse(r["tools"].([]any))
	case "image": // detail goes by the part, and Google knows the type of its own files
		delete(r, "generationConfig")
		parts := r["contents"].([]any)[0].(map[string]any)["parts"].([]any)
		delete(parts[2].(map[string]any)["fileData"].(map[string]any), "mimeType")
	case "all_fields": // Vertex's, and of Google's own log
		delete(r, "labels")
		delete(r, "store")
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
