package simulator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// google asks Gemini with a good key.
func google(t *testing.T, s *Simulator, path, body string) *reply {
	t.Helper()
	return forms[0].ask(t, s, "/models/"+path, body, soon)
}

const (
	geminiTools = `"tools":[{"functionDeclarations":[{"name":"get_weather","parametersJsonSchema":` + weatherSchema + `},{"name":"get_time"}]}]`
	geminiUser  = `{"role":"user","parts":[{"text":"hi"}]}`
)

func geminiAsk(text, more string) string {
	return `{"contents":[{"role":"user","parts":[{"text":` + asked(text) + `}]}]` + more + `}`
}

// optional are members that one answer has and another, as good, has not.
func optional(list []string, parts ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(p string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(p, part) })
	})
}

func TestGeminisWholeAnswersHaveItsMembers(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ want, model, request string }{
		{"plain", "gemini-2.5-flash", fixture(t, "gemini/plain.req.json")},
		{"thinking", "gemini-3.8-flash", fixture(t, "gemini/thinking.req.json")},
		{"tool", "gemini-3.8-flash", fixture(t, "gemini/tool.req.json")},
		{"tool_parallel", "gemini-3.8-flash", geminiAsk("call both tools", `,`+geminiTools)},
		{"json_schema", "gemini-2.5-flash-lite", fixture(t, "gemini/json_schema.req.json")},
		{"grounding", "gemini-3.8-flash", fixture(t, "gemini/grounding.req.json")},
		{"logprobs", "gemini-2.5-flash-lite", fixture(t, "gemini/logprobs.req.json")},
		{"safety", "gemini-2.5-flash-lite", geminiAsk("[[sim finish=SAFETY]]", "")},
		{"prompt_blocked", "gemini-2.5-flash-lite", geminiAsk("[[sim block=PROHIBITED_CONTENT]]", "")},
		{"recitation", "gemini-2.5-flash-lite", geminiAsk("[[sim finish=RECITATION]]", "")},
		{"max_tokens", "gemini-3.8-flash", geminiAsk("a long story", `,"generationConfig":{"maxOutputTokens":20}`)},
		{"max_tokens_empty", "gemini-2.5-pro", geminiAsk("hi", `,"generationConfig":{"maxOutputTokens":5}`)},
		{"cached_usage", "gemini-2.5-flash-lite", geminiAsk("hi [[sim cached_tokens=4 prompt_tokens=9]]", `,"serviceTier":"standard"`)},
		{"continuation_1", "gemini-4-argon", geminiAsk("[[sim finish=CONTINUATION]]", "")},
	} {
		t.Run(c.want, func(t *testing.T) {
			r := google(t, s, c.model+":generateContent", c.request)
			if r.code != 200 || r.head.Get("X-Gemini-Service-Tier") != "standard" {
				t.Fatalf("%d %s", r.code, r.body)
			}
			// An index of 0 and a start of 0 are left out, signatures come with thoughts, a second support with more text.
			loose := []string{"candidates[].index", "startIndex", "thoughtSignature", "args.unit"}
			same(t, "the answer", optional(shape(t, r.body), loose...), optional(shape(t, fixture(t, "gemini/"+c.want+".resp.json")), loose...))
		})
	}
}

func TestGeminisStreamsHaveItsEvents(t *testing.T) {
	s := start(t, Options{})
	off := `,"generationConfig":{"thinkingConfig":{"thinkingBudget":0}}`
	for _, c := range []struct{ want, model, request string }{
		{"plain", "gemini-2.5-flash", geminiAsk("hi", off)},
		{"thinking", "gemini-3.8-flash", geminiAsk("hi", `,"generationConfig":{"thinkingConfig":{"includeThoughts":true}}`)},
		{"tool", "gemini-3.8-flash", geminiAsk("call the tool", `,`+geminiTools)},
		{"safety", "gemini-2.5-flash", geminiAsk("[[sim finish=SAFETY]]", off)},
		{"prompt_blocked", "gemini-2.5-flash", geminiAsk("[[sim block=SAFETY]]", off)},
		{"max_tokens", "gemini-3.8-flash", geminiAsk("hi", `,"generationConfig":{"maxOutputTokens":20}`)},
		{"n2", "gemini-2.5-flash", geminiAsk("hi", `,"generationConfig":{"candidateCount":2,"thinkingConfig":{"thinkingBudget":0}}`)},
		{"error_mid", "gemini-2.5-flash", geminiAsk("[[sim fault=error_mid]]", off)},
		{"error_mid_raw", "gemini-2.5-flash", geminiAsk("[[sim fault=error_mid kind=bare]]", off)},
		{"continuation", "gemini-4-argon", geminiAsk("[[sim finish=CONTINUATION]]", "")},
	} {
		t.Run(c.want, func(t *testing.T) {
			r := google(t, s, c.model+":streamGenerateContent?alt=sse", c.request)
			if r.code != 200 || r.cut || !strings.HasPrefix(r.head.Get("Content-Type"), "text/event-stream") || r.done() {
				t.Fatalf("%d cut=%v %s", r.code, r.cut, r.body)
			}
			want := strings.ReplaceAll(fixture(t, "gemini/"+c.want+".sse"), "\r", "")
			loose := []string{"thoughtSignature", "finishMessage", "args.unit", ".content.parts[].text", "promptFeedback.safetyRatings", "].index"}
			got := optional(flat(t, r.data), loose...)
			same(t, "the stream", got, optional(flat(t, dataLines(want)), loose...))
			if strings.Contains(want, "\n{\n") && !strings.Contains(r.body, "\n{\n  \"error\": {\n") {
				t.Errorf("no bare error in %q", r.body)
			}
			for _, line := range strings.Split(strings.TrimSuffix(r.body, "\r\n"), "\r\n") {
				if strings.Contains(line, "\n") && !strings.HasPrefix(line, "{\n") {
					t.Errorf("a line ends with LF: %q", line)
				}
			}
		})
	}
}

// flat are the members of all events of a stream.
func flat(t *testing.T, data []string) []string {
	t.Helper()
	var list []string
	for _, d := range data {
		for _, p := range shape(t, d) {
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}

func TestGeminisErrorsAreInItsWords(t *testing.T) {
	s := start(t, Options{})
	const key, ask = "X-Goog-Api-Key: k", "/models/gemini-3.8-flash:generateContent"
	for _, c := range []struct{ want, key, path, body string }{
		{"400_api_key", "X-Goog-Api-Key: invalid", ask, geminiAsk("hi", "")},
		{"400_field", key, ask, geminiAsk("hi", `,"generationConfig":{"foo":1}`)},
		{"400_location", key, ask, geminiAsk("[[sim status=400 code=location]]", "")},
		{"400_signature", key, ask, `{"contents":[` + geminiUser + `,{"role":"model","parts":[{"functionCall":{"name":"get_time"}}]},` +
			`{"role":"user","parts":[{"functionResponse":{"name":"get_time","response":{"output":"noon"}}}]}],` + geminiTools + `}`},
		{"401_oauth", "Authorization: Bearer k", ask, geminiAsk("hi", "")},
		{"401_oauth", "X-Goog-Api-Key: k\r\nAuthorization: Bearer k", ask, geminiAsk("hi", "")},
		{"403_leaked", key, ask, geminiAsk("[[sim status=403 code=leaked]]", "")},
		{"403_no_key", "X-None: k", ask, geminiAsk("hi", "")},
		{"403_no_key", "X-None: k", ask + "?key=k", geminiAsk("hi", "")},
		{"404_model", key, "/models/gemini-9-ultra:generateContent", geminiAsk("hi", "")},
		{"429_bare", key, ask, geminiAsk("[[sim status=429]]", "")},
		{"429_minute", key, ask, geminiAsk("[[sim status=429 retry_after=34.4]]", "")},
		{"499", key, ask, geminiAsk("[[sim status=499]]", "")},
		{"500", key, ask, geminiAsk("[[sim status=500]]", "")},
		{"503", key, ask, geminiAsk("[[sim status=503]]", "")},
		{"504", key, ask, geminiAsk("[[sim status=504]]", "")},
	} {
		t.Run(c.want, func(t *testing.T) {
			head, want, _ := strings.Cut(strings.ReplaceAll(fixture(t, "gemini/"+c.want+".http"), "\r\n", "\n"), "\n\n")
			f := forms[0]
			f.key = c.key
			r := f.ask(t, s, c.path, c.body, soon)
			if status := strings.Fields(head)[1]; fmt.Sprint(r.code) != status {
				t.Fatalf("%d, want %s: %s", r.code, status, r.body)
			}
			for _, l := range strings.Split(head, "\n")[1:] {
				if name, _, _ := strings.Cut(l, ":"); r.head.Get(name) == "" {
					t.Errorf("no header %s", name)
				}
			}
			var got, need any
			if json.Unmarshal([]byte(r.body), &got) != nil || json.Unmarshal([]byte(want), &need) != nil || fmt.Sprint(got) != fmt.Sprint(need) {
				t.Errorf("%s\nwant\n%s", r.body, want)
			}
			if !strings.Contains(r.body, "\n  \"error\": {\n") {
				t.Errorf("not printed as Google prints it: %s", r.body)
			}
		})
	}
	r := google(t, s, "gemini-3.8-flash:generateContent", geminiAsk("[[sim status=429 code=day]]", ""))
	if r.code != 429 || !strings.Contains(r.body, "PerDay") || !strings.Contains(r.body, `"retryDelay": "3.2s"`) {
		t.Errorf("%d %s", r.code, r.body)
	}
	r = google(t, s, "gemini-3.8-flash:generateContent", geminiAsk("[[sim status=400 code=expired]]", ""))
	if r.code != 400 || !strings.Contains(r.body, "API_KEY_INVALID") || !strings.Contains(r.body, "expired") {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestGeminiTakesEitherSpelling(t *testing.T) {
	s := start(t, Options{})
	snaky := `{"contents":[{"role":"user","parts":[{"inline_data":{"mime_type":"image/png","data":"_-8"}},{"text":"hi"}]}],` +
		`"system_instruction":{"parts":{"text":"S"}},"generation_config":{"max_output_tokens":"50","top_p":0.5,"seed":null}}`
	if r := google(t, s, "gemini-2.5-flash-lite:generateContent", snaky); r.code != 200 || !strings.Contains(r.body, "I can see 2 messages") {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestGeminiRefusesWhatItRefuses(t *testing.T) {
	s := start(t, Options{})
	const flash3, flash2, four = "gemini-3.8-flash", "gemini-2.5-flash", "gemini-4-argon"
	contents := func(list ...string) string {
		return `{"contents":[` + strings.Join(list, ",") + `],` + geminiTools + `}`
	}
	parts := func(list ...string) string {
		return `{"contents":[{"role":"user","parts":[` + strings.Join(list, ",") + `]}]}`
	}
	config := func(members string) string { return geminiAsk("hi", `,"generationConfig":{`+members+`}`) }
	declare := func(members string) string {
		return geminiAsk("hi", `,"tools":[{"functionDeclarations":[{`+members+`}]}]`)
	}
	const dummy = `,"thoughtSignature":"skip_thought_signature_validator"`
	call := func(name, id, signature string) string {
		return `{"functionCall":{"id":"` + id + `","name":"` + name + `"}` + signature + `}`
	}
	model := func(list ...string) string { return `{"role":"model","parts":[` + strings.Join(list, ",") + `]}` }
	response := func(name, id, response string) string {
		return `{"functionResponse":{"id":"` + id + `","name":"` + name + `","response":` + response + `}}`
	}
	user := func(list ...string) string { return `{"role":"user","parts":[` + strings.Join(list, ",") + `]}` }
	const done = `{"output":"x"}`
	signed := func(model, name, args string) string {
		return `,"thoughtSignature":"` + sign(model, signedCall(name, args)) + `"`
	}
	good := contents(geminiUser, model(call("get_time", "", dummy)), user(response("get_time", "", done)))
	for _, c := range []struct {
		name, model, body string
		code              int
		says              string
	}{
		{"good", flash3, good, 200, ""},
		{"not JSON", flash3, `{"contents":`, 400, "Invalid JSON payload received."},
		{"not UTF-8", flash3, parts("{\"text\":\"\xff\"}"), 400, "Invalid JSON payload"},
		{"not an object", flash3, `[]`, 400, "Root element must be a message"},
		{"unknown at the top", flash3, geminiAsk("hi", `,"messages":[]`), 400, `Unknown name \"messages\": Cannot find field.`},
		{"unknown in the config", flash3, config(`"max_tokens":5`), 400, `Unknown name \"max_tokens\" at 'generation_config'`},
		{"unknown in a content", flash3, contents(`{"role":"user","content":"hi","parts":[{"text":"hi"}]}`), 400, `at 'contents[0]'`},
		{"unknown in a part", flash3, parts(`{"type":"text","text":"hi"}`), 400, `Unknown name \"type\" at 'contents[0].parts[0]'`},
		{"unknown in a blob", flash3, parts(`{"inlineData":{"mimeType":"a/b","data":"AAAA","detail":"low"}}`), 400, `at 'contents[0].parts[0].inline_data'`},
		{"unknown in a call", flash3, contents(geminiUser, model(`{"functionCall":{"name":"f","arguments":"{}"}}`)), 400, `Unknown name \"arguments\"`},
		{"unknown in a tool", flash3, geminiAsk("hi", `,"tools":[{"type":"function"}]`), 400, `at 'tools[0]'`},
		{"unknown in a declaration", flash3, declare(`"name":"f","strict":true`), 400, `Unknown name \"strict\" at 'tools[0].function_declarations[0]'`},
		{"unknown in a schema", flash3, declare(`"name":"f","parameters":{"type":"OBJECT","properties":{"a":{"type":"STRING","const":1}}}`), 400, `properties[0].value'`},
		{"unknown in the thinking", flash3, config(`"thinkingConfig":{"effort":"low"}`), 400, `at 'generation_config.thinking_config'`},
		{"unknown in the tool config", flash3, geminiAsk("hi", `,"toolConfig":{"functionCallingConfig":{"type":"auto"}}`), 400, `function_calling_config'`},
		{"a string where a message is", flash3, geminiAsk("hi", `,"systemInstruction":"be brief"`), 400, "Invalid value at 'system_instruction'"},
		{"a string where a number is", flash3, config(`"temperature":"hot"`), 400, "Invalid value at 'generation_config.temperature' (TYPE_FLOAT)"},
		{"a fraction where a whole number is", flash3, config(`"maxOutputTokens":1.5`), 400, "TYPE_INT32"},
		{"a number where a string is", flash3, parts(`{"text":5}`), 400, "(TYPE_STRING), 5"},
		{"a mode that is none", flash3, geminiAsk("hi", `,`+geminiTools+`,"toolConfig":{"functionCallingConfig":{"mode":"required"}}`), 400, "function_calling_config.mode"},
		{"a tier that is none", flash3, geminiAsk("hi", `,"serviceTier":"default"`), 400, "service_tier"},
		{"no contents", flash3, `{"contents":[]}`, 400, "contents is not specified"},
		{"no parts", flash3, `{"contents":[{"role":"user","parts":[]}]}`, 400, "contents.parts must not be empty"},
		{"an empty text", flash3, parts(`{"text":""}`), 400, "required oneof field 'data'"},
		{"an empty text in the system", flash3, geminiAsk("hi", `,"systemInstruction":{"parts":[{"text":""}]}`), 400, "required oneof field 'data'"},
		{"an empty part", flash3, parts(`{}`), 400, "required oneof field 'data'"},
		{"an empty text that is signed", flash3, contents(geminiUser, model(`{"text":"","thoughtSignature":"`+sign(flash3, signedText)+`"}`), geminiUser), 200, ""},
		{"two things in a part", flash3, parts(`{"text":"a","functionCall":{"name":"f"}}`), 400, "oneof field 'data' is already set"},
		{"bytes that are not base64", flash3, parts(`{"inlineData":{"mimeType":"image/png","data":"data:image/png;base64,AAAA"}}`), 400, "Base64 decoding failed"},
		{"media without a type", flash3, parts(`{"inlineData":{"data":"AAAA"}}`), 400, "mime_type"},
		{"a drawing", flash3, parts(`{"inlineData":{"mimeType":"image/svg+xml","data":"AAAA"}}`), 400, "Unsupported MIME type"},
		{"a system role", flash3, contents(`{"role":"system","parts":[{"text":"S"}]}`, geminiUser), 400, "Please use a valid role: user, model."},
		{"an assistant", flash3, contents(geminiUser, `{"role":"assistant","parts":[{"text":"A"}]}`, geminiUser), 400, "valid role"},
		{"a tool role", flash3, contents(geminiUser, model(call("get_time", "", dummy)), `{"role":"tool","parts":[`+response("get_time", "", done)+`]}`), 400, "valid role"},
		{"the model first", flash3, contents(model(`{"text":"A"}`), geminiUser), 400, "first content"},
		{"a response without a call", flash3, contents(geminiUser, user(response("get_time", "", done))), 400, "immediately after a function call turn"},
		{"a response in the model's turn", flash3, contents(geminiUser, model(call("get_time", "", dummy)), model(response("get_time", "", done))), 400, "role"},
		{"a call of the user", flash3, contents(user(call("get_time", "", dummy))), 400, "role"},
		{"a call without a response", flash3, contents(geminiUser, model(call("get_time", "", dummy)), geminiUser), 400, "number of function response parts"},
		{"a call without a response at the end", flash3, contents(geminiUser, model(call("get_time", "", dummy))), 400, "number of function response parts"},
		{"one response to two calls", flash3, contents(geminiUser, model(call("get_time", "a", dummy), call("get_time", "b", "")), user(response("get_time", "a", done))), 400, "number of function response parts"},
		{"responses in two contents", flash3, contents(geminiUser, model(call("get_time", "a", dummy), call("get_time", "b", "")), user(response("get_time", "a", done)), user(response("get_time", "b", done))), 400, "number of function response parts"},
		{"responses in another order", flash3, contents(geminiUser, model(call("get_time", "a", dummy), call("get_time", "b", "")), user(response("get_time", "b", done), response("get_time", "a", done))), 200, ""},
		{"a response of another name", flash3, contents(geminiUser, model(call("get_time", "a", dummy)), user(response("get_weather", "a", done))), 400, "the name and the id"},
		{"a response of another id", flash3, contents(geminiUser, model(call("get_time", "a", dummy)), user(response("get_time", "b", done))), 400, "the name and the id"},
		{"a response that is text", flash3, contents(geminiUser, model(call("get_time", "", dummy)), user(response("get_time", "", `"noon"`))), 400, "function_response.response' (type.googleapis.com/google.protobuf.Struct)"},
		{"a response that is a list", flash3, contents(geminiUser, model(call("get_time", "", dummy)), user(response("get_time", "", `[1]`))), 400, "protobuf.Struct"},
		{"arguments that are text", flash3, contents(geminiUser, model(`{"functionCall":{"name":"f","args":"{}"}}`)), 400, "function_call.args"},
		{"no signature", flash3, contents(geminiUser, model(call("get_time", "", "")), user(response("get_time", "", done))), 400, "missing a thought_signature"},
		{"no signature, in an earlier turn", flash3, contents(geminiUser, model(call("get_time", "", "")), user(response("get_time", "", done)), model(`{"text":"noon"}`), geminiUser), 200, ""},
		{"no signature, on a second call", flash3, contents(geminiUser, model(call("get_time", "a", dummy), call("get_time", "b", "")), user(response("get_time", "a", done), response("get_time", "b", done))), 200, ""},
		{"no signature, in the second step", flash3, contents(geminiUser, model(call("get_time", "", dummy)), user(response("get_time", "", done)), model(call("get_time", "", "")), user(response("get_time", "", done))), 400, "missing a thought_signature"},
		{"no signature, for the second generation", flash2, contents(geminiUser, model(call("get_time", "", "")), user(response("get_time", "", done))), 200, ""},
		{"its own signature", flash3, contents(geminiUser, model(call("get_time", "", signed("gemini-3.5-flash", "get_time", ""))), user(response("get_time", "", done))), 200, ""},
		{"a signature of another family", flash3, contents(geminiUser, model(call("get_time", "", signed(four, "get_time", ""))), user(response("get_time", "", done))), 400, "Thought signature is not valid"},
		{"a signature of another family, earlier", flash3, contents(geminiUser, model(call("get_time", "", signed(four, "get_time", ""))), user(response("get_time", "", done)), geminiUser), 400, "Thought signature is not valid"},
		{"a signature of another family on text", flash3, contents(geminiUser, model(`{"text":"A","thoughtSignature":"`+sign(four, signedText)+`"}`), geminiUser), 400, "Thought signature is not valid"},
		{"a signature of another call", flash3, contents(geminiUser, model(call("get_time", "", signed(flash3, "get_weather", ""))), user(response("get_time", "", done))), 400, "Thought signature is not valid"},
		{"a signature of other arguments", flash3, contents(geminiUser, model(call("get_time", "", signed(flash3, "get_time", `{"zone":1}`))), user(response("get_time", "", done))), 400, "Thought signature is not valid"},
		{"a signature of nobody", flash3, contents(geminiUser, model(call("get_time", "", `,"thoughtSignature":"c29tZXRoaW5n"`)), user(response("get_time", "", done))), 400, "Thought signature is not valid"},
		{"the placeholder, for the second generation", flash2, good, 400, "Thought signature is not valid"},
		{"a level and a budget", flash3, config(`"thinkingConfig":{"thinkingLevel":"low","thinkingBudget":100}`), 400, "only one of thinking budget and thinking level"},
		{"a level for the second generation", flash2, config(`"thinkingConfig":{"thinkingLevel":"low"}`), 400, "Thinking level is not supported"},
		{"a level it does not have", flash3, config(`"thinkingConfig":{"thinkingLevel":"minimal"}`), 400, "Thinking level MINIMAL"},
		{"a level that is none", flash3, config(`"thinkingConfig":{"thinkingLevel":"max"}`), 400, "thinking_level"},
		{"a level of its own", "gemini-4-hydrogen", config(`"thinkingConfig":{"thinkingLevel":"XHIGH"}`), 200, ""},
		{"a budget for the fourth generation", four, config(`"thinkingConfig":{"thinkingBudget":100}`), 400, "Thinking budget is not supported"},
		{"no thinking for the third", flash3, config(`"thinkingConfig":{"thinkingBudget":0}`), 400, "only works in thinking mode"},
		{"no thinking for pro", "gemini-2.5-pro", config(`"thinkingConfig":{"thinkingBudget":0}`), 400, "only works in thinking mode"},
		{"a budget too large", flash2, config(`"thinkingConfig":{"thinkingBudget":30000}`), 400, "between 0 and 24576"},
		{"penalties for the second generation", flash2, config(`"presencePenalty":0.5`), 400, "Penalty is not enabled"},
		{"penalties", flash3, config(`"presencePenalty":0.5`), 200, ""},
		{"six stops", flash3, config(`"stopSequences":["1","2","3","4","5","6"]`), 400, "stop_sequences"},
		{"too hot", flash3, config(`"temperature":2.5`), 400, "range [0.0, 2.0]"},
		{"nine candidates", flash3, config(`"candidateCount":9`), 400, "candidate_count"},
		{"no tokens", flash3, config(`"maxOutputTokens":0`), 400, "max_output_tokens"},
		{"a seed too large", flash3, config(`"seed":3000000000`), 400, "TYPE_INT32"},
		{"logprobs of nothing", flash3, config(`"logprobs":2`), 400, "response_logprobs"},
		{"an unknown form", flash3, config(`"responseMimeType":"application/yaml"`), 400, "response_mime_type"},
		{"a schema for text", flash3, config(`"responseJsonSchema":{"type":"object"}`), 400, "response_mime_type"},
		{"two schemas", flash3, config(`"responseMimeType":"application/json","responseSchema":{"type":"OBJECT"},"responseJsonSchema":{"type":"object"}`), 400, "Only one of"},
		{"a constant", flash3, config(`"responseMimeType":"application/json","responseJsonSchema":{"type":"object","properties":{"a":{"const":1}}}`), 400, "properties.a.const"},
		{"a schema's name", flash3, config(`"responseMimeType":"application/json","responseJsonSchema":{"$schema":"x","type":"object"}`), 400, "$schema"},
		{"a pattern within", flash3, config(`"responseMimeType":"application/json","responseJsonSchema":{"anyOf":[{"type":"string","pattern":"a"}]}`), 400, "anyOf[0].pattern"},
		{"a constant in a function", flash3, declare(`"name":"f","parametersJsonSchema":{"type":"object","properties":{"a":{"const":1}}}`), 400, "properties.a.const"},
		{"JSON Schema in the older form", flash3, declare(`"name":"f","parameters":{"type":"OBJECT","additionalProperties":false}`), 400, `Unknown name \"additionalProperties\"`},
		{"both kinds of parameters", flash3, declare(`"name":"f","parameters":{"type":"OBJECT"},"parametersJsonSchema":{"type":"object"}`), 400, "mutually exclusive"},
		{"a function without a name", flash3, declare(`"description":"x"`), 400, "Invalid function name"},
		{"a function's name with a space", flash3, declare(`"name":"a b"`), 400, "Invalid function name"},
		{"a function twice", flash3, geminiAsk("hi", `,"tools":[{"functionDeclarations":[{"name":"f"}]},{"functionDeclarations":[{"name":"f"}]}]`), 400, "Duplicate function declaration"},
		{"a called function's name with a space", flash3, contents(geminiUser, model(call("get time", "", dummy)), user(response("get time", "", done))), 400, "Invalid function name"},
		{"a called function's name that begins with a digit", flash3, contents(geminiUser, model(call("3d", "", dummy)), user(response("3d", "", done))), 400, "start with a letter"},
		{"a picture in a response, without a type", flash3, contents(geminiUser, model(call("get_time", "", dummy)), user(`{"functionResponse":{"name":"get_time","response":{},"parts":[{"inlineData":{"data":"AAAA"}}]}}`)), 400, "function_response.parts[0].inline_data"},
		{"a picture in a response", flash3, contents(geminiUser, model(call("get_time", "", dummy)), user(`{"functionResponse":{"name":"get_time","response":{},"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}`)), 200, ""},
		{"a picture in the system", flash3, geminiAsk("hi", `,"systemInstruction":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}`), 400, "Only text is supported in system instructions"},
		{"a tool of nothing", flash3, geminiAsk("hi", `,"tools":[{}]`), 400, "tool_type"},
		{"ANY without functions", flash3, geminiAsk("hi", `,"toolConfig":{"functionCallingConfig":{"mode":"ANY"}}`), 400, "without function_declarations"},
		{"names beside AUTO", flash3, geminiAsk("hi", `,`+geminiTools+`,"toolConfig":{"functionCallingConfig":{"mode":"AUTO","allowedFunctionNames":["get_time"]}}`), 400, "allowed_function_names"},
		{"a name that is none", flash3, geminiAsk("hi", `,`+geminiTools+`,"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["x"]}}`), 400, "Allowed function name x"},
		{"search beside functions", flash3, geminiAsk("hi", `,"tools":[{"googleSearch":{}},{"functionDeclarations":[{"name":"f"}]}]`), 400, "include_server_side_tool_invocations"},
		{"search beside functions, second generation", flash2, geminiAsk("hi", `,"tools":[{"googleSearch":{}},{"functionDeclarations":[{"name":"f"}]}],"toolConfig":{"includeServerSideToolInvocations":true}`), 400, "unsupported by the model"},
		{"JSON beside functions, second generation", flash2, geminiAsk("hi", `,`+geminiTools+`,"generationConfig":{"responseMimeType":"application/json"}`), 400, "Function calling with a response mime type"},
		{"JSON beside functions", flash3, geminiAsk("hi", `,`+geminiTools+`,"generationConfig":{"responseMimeType":"application/json"}`), 200, ""},
		{"pictures in a response, second generation", flash2, contents(geminiUser, model(call("get_time", "", "")), user(`{"functionResponse":{"name":"get_time",`+
			`"response":{"output":"x"},"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}`)), 400, "Multimodal function responses"},
		{"20 MiB", flash3, geminiAsk(strings.Repeat("x", 20<<20), ""), 400, "Request payload size exceeds the limit: 20971520 bytes."},
		{"a token that is none", four, geminiAsk("hi", `,"continuationToken":"***"`), 400, "continuation token"},
		{"a model that embeds", "gemini-embedding-2", geminiAsk("hi", ""), 404, "not supported for generateContent"},
		{"an unknown model", "gpt-5", geminiAsk("hi", ""), 404, "models/gpt-5 is not found"},
		{"a simulated model", "sim-fast", geminiAsk("hi", ""), 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := google(t, s, c.model+":generateContent", c.body)
			if r.code != c.code || !strings.Contains(r.body, c.says) || c.code != 200 && !inItsWords("gemini", r.code, r.body) {
				t.Errorf("%d %s", r.code, r.body)
			}
			checked(t, "gemini", "models/"+c.model+":generateContent", c.body, c.code)
			if a := last(t, s); (c.code != 200) != (a.End == EndRejected) || c.code != 200 && a.Reason == "" || string(a.Body) != c.body {
				t.Errorf("logged as %s %q", a.End, a.Reason)
			}
		})
	}
}

func TestGeminisPathsAndModels(t *testing.T) {
	s := start(t, Options{})
	f := forms[0]
	for path, code := range map[string]int{
		"/models/gemini-3.8-flash:countTokens": 200, "/models/gemini-3.8-flash:predict": 404, "/models/gemini-3.8-flash": 404, "/chat/completions": 404,
		"/openai/chat/completions": 404,
	} {
		if r := f.ask(t, s, path, geminiAsk("hi", ""), soon); r.code != code || code == 404 && gjson.Get(r.body, "error.status").Str != "NOT_FOUND" {
			t.Errorf("%s: %d %s", path, r.code, r.body)
		}
	}
	r := f.ask(t, s, "/models/gemini-3.8-flash:countTokens", `{"generateContentRequest":`+geminiAsk("hi", "")+`}`, soon)
	same(t, "the count", shape(t, r.body), shape(t, fixture(t, "gemini/count_tokens.resp.json")))

	get := func(path string) (int, string) {
		c := dial(t, s)
		_, _ = fmt.Fprintf(c, "GET /gemini/v1beta%s HTTP/1.1\r\nHost: s\r\n%s\r\nConnection: close\r\n\r\n", path, f.key)
		r := &reply{raw: []byte(readWhole(t, c))}
		r.parse()
		return r.code, r.body
	}
	var names []string
	for page := ""; ; {
		code, body := get("/models?pageSize=3" + page)
		if code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		for _, m := range gjson.Get(body, "models").Array() {
			names = append(names, m.Get("name").Str)
		}
		token := gjson.Get(body, "nextPageToken").Str
		if page == "" {
			same(t, "the list", optional(shape(t, body), "none"), optional(shape(t, fixture(t, "gemini/list.resp.json")), "none"))
		}
		if token == "" {
			break
		}
		page = "&pageToken=" + token
	}
	if len(names) != len(geminiModels) || names[0] != "models/gemini-4-argon" {
		t.Errorf("%q", names)
	}
	for path, want := range map[string]int{"/models?pageToken=x": 400, "/models?pageSize=x": 400, "/models/gemini-3.8-flash": 200, "/models/none": 404, "/models": 200} {
		if code, body := get(path); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestGeminiWithoutEventsIsOneArray(t *testing.T) {
	s := start(t, Options{})
	r := google(t, s, "gemini-2.5-flash-lite:streamGenerateContent", geminiAsk("hi", ""))
	if !strings.HasPrefix(r.head.Get("Content-Type"), "application/json") || !gjson.Valid(r.body) || !gjson.Parse(r.body).IsArray() || len(gjson.Parse(r.body).Array()) < 5 {
		t.Fatalf("%v %s", r.head, r.body)
	}
	same(t, "the array", shape(t, r.body), shape(t, fixture(t, "gemini/no_alt_sse.resp.json")))
	if a := last(t, s); a.Text != "You said: hi. I can see 1 messages." || a.Usage == nil || a.NEvents < 5 {
		t.Errorf("%+v", a)
	}
	r = google(t, s, "gemini-2.5-flash-lite:streamGenerateContent", geminiAsk("[[sim fault=cut]]", ""))
	if !strings.HasPrefix(r.body, "[{") || strings.Contains(r.body, "STOP") {
		t.Errorf("%s", r.body)
	}
}

func TestGeminiGoesOnWhereATokenSays(t *testing.T) {
	s := start(t, Options{})
	const ask = "[[sim finish=CONTINUATION count=3]] tell me a long story about the 你好 city"
	whole := google(t, s, "gemini-4-argon:generateContent", geminiAsk("tell me a long story about the 你好 city", ""))
	want := gjson.Get(whole.body, "candidates.0.content.parts.0.text").Str
	for _, method := range []string{"generateContent", "streamGenerateContent"} {
		text, token := "", ""
		hops := 0
		for ; hops == 0 || token != ""; hops++ {
			more := ""
			if token != "" {
				more = `,"continuationToken":"` + token + `"`
			}
			r := google(t, s, "gemini-4-argon:"+method, geminiAsk(ask, more))
			end := gjson.Parse(r.body)
			if end.IsArray() {
				list := end.Array()
				end = list[len(list)-1]
			}
			token = end.Get("candidates.0.continuationToken").Str
			if reason := end.Get("candidates.0.finishReason").Str; (reason == "CONTINUATION") != (token != "") || hops > 3 {
				t.Fatalf("%s with token %q", reason, token)
			}
			a := last(t, s)
			if hops > 0 && (a.Usage.Cached == 0 || a.Usage.Reasoning != 0) || a.Usage.Completion == 0 {
				t.Errorf("hop %d: %+v", hops, a.Usage)
			}
			text += a.Text
		}
		if text != want || hops != 3 {
			t.Errorf("%d hops: %q, want %q", hops, text, want)
		}
	}
	r := google(t, s, "gemini-4-argon:streamGenerateContent?alt=sse", geminiAsk(ask, ""))
	checkpoint := gjson.Get(r.data[1], "candidates.0.continuationToken").Str // on the way: goes on right after it
	r = google(t, s, "gemini-4-argon:generateContent", geminiAsk(ask, `,"continuationToken":"`+checkpoint+`"`))
	if a := last(t, s); !strings.HasPrefix(want[len("You "):], a.Text) || a.Text == "" {
		t.Errorf("%q %s", a.Text, r.body)
	}
	r = google(t, s, "gemini-4-argon:generateContent", geminiAsk("another question", `,"continuationToken":"`+checkpoint+`"`))
	if r.code != 400 {
		t.Errorf("a token of another request: %d %s", r.code, r.body)
	}
}

// What Gemini answers comes back as it was, and is understood.
func TestGeminisCallsComeBack(t *testing.T) {
	s := start(t, Options{})
	for _, model := range []string{"gemini-2.5-flash", "gemini-3.8-flash", "gemini-4-argon", "sim-1"} {
		for text, n := range map[string]int{"call the tool": 1, "call both tools": 2} {
			r := google(t, s, model+":generateContent", geminiAsk(text, `,`+geminiTools))
			parts := gjson.Get(r.body, "candidates.0.content.parts").Array()
			if len(parts) != n || parts[0].Get("thoughtSignature").Str == "" || n == 2 && parts[1].Get("thoughtSignature").Exists() ||
				gjson.Get(r.body, "candidates.0.finishReason").Str != "STOP" || n == 2 && parts[1].Get("functionCall.args").Exists() {
				t.Fatalf("%s: %s", model, r.body)
			}
			var responses []string
			for i, p := range parts {
				responses = append(responses, fmt.Sprintf(`{"functionResponse":{"id":%s,"name":%s,"response":{"output":"result %d"}}}`,
					quote(nil, p.Get("functionCall.id").Str), p.Get("functionCall.name").Raw, i))
			}
			body := `{"contents":[` + geminiSaid(text) + `,` + gjson.Get(r.body, "candidates.0.content").Raw + `,{"role":"user","parts":[` + strings.Join(responses, ",") + `]}],` + geminiTools + `}`
			r = google(t, s, model+":generateContent", body)
			if a := last(t, s); r.code != 200 || !strings.HasPrefix(a.Text, "The tool said: result 0") || strings.Contains(a.Text, "result 1") != (n == 2) {
				t.Errorf("%s: %d %q %s", model, r.code, a.Text, r.body)
			}
		}
	}
}

func geminiSaid(text string) string { return `{"role":"user","parts":[{"text":` + asked(text) + `}]}` }

func TestGeminisGroundingCountsBytes(t *testing.T) {
	s := start(t, Options{})
	r := google(t, s, "gemini-3.8-flash:generateContent", geminiAsk("Où est la Grèce? 你好", `,"tools":[{"googleSearch":{}}]`))
	text := gjson.Get(r.body, "candidates.0.content.parts.0.text").Str
	list := gjson.Get(r.body, "candidates.0.groundingMetadata.groundingSupports").Array()
	if len(list) != 2 || list[0].Get("segment.startIndex").Exists() {
		t.Fatalf("%s", r.body)
	}
	for _, g := range list {
		if got := text[g.Get("segment.startIndex").Int():g.Get("segment.endIndex").Int()]; got != g.Get("segment.text").Str {
			t.Errorf("%q is %q", g, got)
		}
	}
	a := last(t, s)
	u := gjson.Get(r.body, "usageMetadata")
	if a.Usage.Prompt != u.Get("promptTokenCount").Int()+u.Get("toolUsePromptTokenCount").Int() || u.Get("toolUsePromptTokenCount").Int() == 0 ||
		a.Usage.Total != u.Get("totalTokenCount").Int() || a.Usage.Completion != u.Get("candidatesTokenCount").Int()+u.Get("thoughtsTokenCount").Int() {
		t.Errorf("%+v %s", a.Usage, u)
	}
}

func TestGeminisUsageRuns(t *testing.T) {
	s := start(t, Options{})
	r := google(t, s, "gemini-3.8-flash:streamGenerateContent?alt=sse", geminiAsk("hi", `,"generationConfig":{"thinkingConfig":{"includeThoughts":true}}`))
	before := int64(0)
	for i, d := range r.data {
		u := gjson.Get(d, "usageMetadata")
		total := u.Get("totalTokenCount").Int()
		if total < before || total != u.Get("promptTokenCount").Int()+u.Get("candidatesTokenCount").Int()+u.Get("thoughtsTokenCount").Int() {
			t.Errorf("event %d: %s after %d", i, u, before)
		}
		before = total
	}
	if a := last(t, s); a.Usage.Total != before || a.Usage.Reasoning == 0 {
		t.Errorf("%+v, told %d", a.Usage, before)
	}
	google(t, s, "gemini-3.8-flash:streamGenerateContent?alt=sse", geminiAsk("[[sim fault=cut after=3]]", ""))
	if a := last(t, s); a.Usage == nil || a.Usage.Completion == 0 || a.Usage.Completion >= before {
		t.Errorf("of a stream that was cut: %+v", a.Usage)
	}
}
