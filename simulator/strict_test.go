package simulator

import (
	"strings"
	"testing"
)

func TestRefusesWhatTheProviderRefuses(t *testing.T) {
	s := start(t, Options{})
	const (
		call  = `{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]}`
		user  = `{"role":"user","content":"hi"}`
		tools = `"tools":[{"type":"function","function":{"name":"f"}}]`
	)
	messages := func(m ...string) string { return `{"model":"gpt-4.1-mini","messages":[` + strings.Join(m, ",") + `]}` }
	with := func(more string) string { return `{"model":"gpt-4.1-mini","messages":[` + user + `],` + more + `}` }
	for _, c := range []struct {
		name, body string
		openAI     int // status; openRouter's is below
		says       string
		openRouter int
	}{
		{"good", messages(user), 200, "", 200},
		{"not JSON", `{"model":`, 400, "could not parse the JSON body", 400},
		{"trailing comma", `{"model":"gpt-4.1-mini","messages":[` + user + `],}`, 400, "could not parse", 400},
		{"not UTF-8", with(`"user":"` + "\xff" + `"`), 400, "could not parse", 400},
		{"not an object", `[]`, 400, "expected an object", 400},
		{"empty body", ``, 400, "could not parse", 400},
		{"no model", `{"messages":[` + user + `]}`, 400, "you must provide a model parameter", 400},
		{"model of a wrong type", `{"model":5,"messages":[` + user + `]}`, 400, "'model'", 400},
		{"no messages", `{"model":"gpt-4.1-mini"}`, 400, "Missing required parameter: 'messages'", 400},
		{"messages of a wrong type", `{"model":"gpt-4.1-mini","messages":"hi"}`, 400, "expected an array", 400},
		{"empty messages", messages(), 400, "empty array", 400},
		{"message is no object", messages(`"hi"`), 400, "messages[0]", 400},
		{"no role", messages(`{"content":"hi"}`), 400, "'messages[0].role'", 400},
		{"unknown role", messages(`{"role":"robot","content":"hi"}`), 400, "Invalid value: 'robot'", 400},
		{"member of ours", with(`"thread_id":"t1"`), 400, "Unrecognized request argument supplied: thread_id", 200},
		{"two members of ours", with(`"thread_id":"t1","threadhub":{}`), 400, "Unrecognized request arguments supplied: thread_id, threadhub", 200},
		{"member of ours in a message", messages(`{"role":"user","content":"hi","seq":4}`), 400, "Unknown parameter: 'messages[0].seq'", 200},
		{"stream_options without stream", with(`"stream_options":{"include_usage":true}`), 400, "only allowed when 'stream' is enabled", 200},
		{"unknown stream option", with(`"stream":true,"stream_options":{"x":true}`), 400, "stream_options.x", 200},
		{"stream of a wrong type", with(`"stream":"yes"`), 400, "'stream'", 400},
		{"temperature too high", with(`"temperature":2.5`), 400, "above maximum", 400},
		{"temperature a string", with(`"temperature":"1"`), 400, "expected a decimal", 400},
		{"n below one", with(`"n":0`), 400, "below minimum", 400},
		{"n not whole", with(`"n":1.5`), 400, "expected an integer", 400},
		{"an effort that is none", with(`"reasoning_effort":"huge"`), 400, "Invalid value: 'huge'", 200},
		{"an effort that is a number", with(`"reasoning_effort":3`), 400, "expected a string", 200},
		{"a verbosity that is none", with(`"verbosity":"loud"`), 400, "Supported values are: 'high', 'low', 'medium'", 200},
		{"a tier that is none", with(`"service_tier":"first"`), 400, "Invalid value: 'first'", 200},
		{"a user that is a number", with(`"user":7`), 400, "'user'", 200},
		{"metadata that is text", with(`"metadata":"x"`), 400, "expected an object", 200},
		{"metadata of numbers", with(`"metadata":{"a":1}`), 400, "'metadata.a'", 200},
		{"a modality that is none", with(`"modalities":["smell"]`), 400, "modalities[0]", 200},
		{"modalities that are text", with(`"modalities":"text"`), 400, "expected an array of strings", 200},
		{"five stops", with(`"stop":["1","2","3","4","5"]`), 400, "array too long", 400},
		{"content a number", messages(`{"role":"user","content":5}`), 400, "'messages[0].content'", 400},
		{"content null", messages(`{"role":"user","content":null}`), 400, "got null", 400},
		{"no content", messages(`{"role":"system"}`), 400, "got null", 400},
		{"no parts", messages(`{"role":"user","content":[]}`), 400, "empty array", 400},
		{"unknown part", messages(`{"role":"user","content":[{"type":"smell"}]}`), 400, "Invalid value: 'smell'", 400},
		{"part of another role", messages(`{"role":"system","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}`), 400, "image_url", 200},
		{"part without text", messages(`{"role":"user","content":[{"type":"text"}]}`), 400, "content[0].text", 400},
		{"assistant says nothing", messages(user, `{"role":"assistant","content":""}`, user), 400, "empty string", 400},
		{"assistant without content", messages(user, `{"role":"assistant","content":null}`, user), 400, "got null", 400},
		{"assistant refused", messages(user, `{"role":"assistant","content":null,"refusal":"no"}`, user), 200, "", 200},
		{"tool result without a call", messages(user, `{"role":"tool","tool_call_id":"c1","content":"1"}`), 400, "must be a response to a preceeding message", 400},
		{"tool result of another call", messages(user, call, `{"role":"tool","tool_call_id":"c2","content":"1"}`), 400, "'c2' not found", 400},
		{"tool result twice", messages(user, call, `{"role":"tool","tool_call_id":"c1","content":"1"}`, `{"role":"tool","tool_call_id":"c1","content":"1"}`), 400, "not found", 400},
		{"call without a result", messages(user, call, user), 400, "did not have response messages: c1", 400},
		{"call without a result at the end", messages(user, call), 400, "did not have response messages: c1", 400},
		{"call with its result", messages(user, call, `{"role":"tool","tool_call_id":"c1","content":"1"}`), 200, "", 200},
		{"calls of a user", messages(`{"role":"user","content":"hi","tool_calls":[]}`), 400, "tool_calls", 400},
		{"no calls", messages(user, `{"role":"assistant","content":"x","tool_calls":[]}`, user), 400, "empty array", 400},
		{"arguments not a string", messages(user, `{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":{}}}]}`), 400, "expected a string", 400},
		{"a called name with a dot", messages(user, strings.Replace(call, `"f"`, `"ns.f"`, 1), `{"role":"tool","tool_call_id":"c1","content":"1"}`), 400, "Invalid 'messages[1].tool_calls[0].function.name': string does not match pattern", 400},
		{"a called name too long", messages(user, strings.Replace(call, `"f"`, `"`+strings.Repeat("f", 65)+`"`, 1), `{"role":"tool","tool_call_id":"c1","content":"1"}`), 400, "messages[1].tool_calls[0].function.name", 400},
		{"a call with a signature", messages(user, strings.Replace(call, `"id"`, `"extra_content":{},"id"`, 1), `{"role":"tool","tool_call_id":"c1","content":"1"}`), 400, "Unknown parameter: 'messages[1].tool_calls[0].extra_content'", 200},
		{"a function with a signature", messages(user, strings.Replace(call, `"name"`, `"thought_signature":"","name"`, 1), `{"role":"tool","tool_call_id":"c1","content":"1"}`), 400, "Unknown parameter: 'messages[1].tool_calls[0].function.thought_signature'", 200},
		{"sound by its id", messages(user, `{"role":"assistant","audio":{"id":"a"}}`, user), 200, "", 200},
		{"sound with what it says", messages(user, `{"role":"assistant","audio":{"id":"a","transcript":"x"}}`, user), 400, "Unknown parameter: 'messages[1].audio.transcript'", 200},
		{"an image from nowhere", messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///x"}}]}`), 400, "content[0].image_url.url", 200},
		{"an image without an object", messages(`{"role":"user","content":[{"type":"image_url","image_url":"https://x"}]}`), 400, "content[0].image_url.url", 200},
		{"sound of another form", messages(`{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"ogg"}}]}`), 400, "input_audio.format", 200},
		{"no sound", messages(`{"role":"user","content":[{"type":"input_audio","input_audio":{"format":"wav"}}]}`), 400, "input_audio.data", 200},
		{"a file from anywhere", messages(`{"role":"user","content":[{"type":"file","file":{"file_data":"https://x/y.pdf"}}]}`), 400, "content[0].file'", 200},
		{"empty tools", with(`"tools":[]`), 400, "empty array", 200},
		{"tool without a name", with(`"tools":[{"type":"function","function":{}}]`), 400, "tools[0].function.name", 400},
		{"unknown kind of tool", with(`"tools":[{"type":"openrouter:web_search"}]`), 400, "Supported values are: 'function' and 'custom'", 200},
		{"choice without tools", with(`"tool_choice":"auto"`), 400, "only allowed when 'tools' are specified", 200},
		{"parallel without tools", with(`"parallel_tool_calls":false`), 400, "only allowed when 'tools' are specified", 200},
		{"choice of an unknown tool", with(tools + `,"tool_choice":{"type":"function","function":{"name":"g"}}`), 400, "'g' not found", 400},
		{"unknown choice", with(tools + `,"tool_choice":"maybe"`), 400, "Invalid value: 'maybe'", 400},
		{"unknown format", with(`"response_format":{"type":"xml"}`), 400, "Invalid value: 'xml'", 200},
		{"schema without a name", with(`"response_format":{"type":"json_schema","json_schema":{"schema":{}}}`), 400, "json_schema.name", 400},
		{"schema too loose", with(`"response_format":{"type":"json_schema","json_schema":{"name":"s","strict":true,"schema":{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}}}`), 400, "Missing 'a'", 200},
		{"embedding model", `{"model":"text-embedding-3-small","messages":[` + user + `]}`, 404, "not a chat model", 400},
		{"unknown model", `{"model":"gpt-99","messages":[` + user + `]}`, 404, "does not exist", 400},
		{"a simulated model", `{"model":"sim-fast","messages":[` + user + `]}`, 200, "", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := fetch(t, "POST", s.URL("openai")+"/chat/completions", "k", c.body)
			if code != c.openAI || !strings.Contains(body, c.says) || code != 200 && !inItsWords("openai", code, body) {
				t.Errorf("openai: %d %s", code, body)
			}
			if a := last(t, s); (code != 200) != (a.End == EndRejected) || code != 200 && a.Reason == "" || a.Status != code || string(a.Body) != c.body {
				t.Errorf("logged as %s %q %d", a.End, a.Reason, a.Status)
			}
			checked(t, "openai", "chat/completions", c.body, c.openAI)
			routed := strings.Replace(c.body, `"gpt-4.1-mini"`, `"openai/gpt-4.1-mini"`, 1)
			checked(t, "openrouter", "chat/completions", routed, c.openRouter)
			code, body = fetch(t, "POST", s.URL("openrouter")+"/chat/completions", "k", routed)
			if code != c.openRouter || code != 200 && !inItsWords("openrouter", code, body) {
				t.Errorf("openrouter: %d %s", code, body)
			}
		})
	}
}

// checked holds Check to what is answered over a socket.
func checked(t *testing.T, provider, path, body string, code int) {
	t.Helper()
	switch r := Check(provider, path, []byte(body)); {
	case code == 200 && r != nil:
		t.Errorf("checked at %s: %d %s", provider, r.Status, r.Message)
	case code != 200 && (r == nil || r.Status != code || r.Message == ""):
		t.Errorf("checked at %s: %+v, want %d", provider, r, code)
	}
}

func TestChecksOnlyWhereModelsAreAsked(t *testing.T) {
	for provider, path := range map[string]string{"openai": "responses", "gemini": "models/gemini-3.8-flash", "perplexity": "search", "openrouter": "%", "nobody": "chat/completions"} {
		checked(t, provider, path, `{}`, 404)
	}
	checked(t, "gemini", "models/gemini-3.8-flash:streamGenerateContent?alt=sse", geminiAsk("hi", ""), 200)
	if r := Check("openai", "chat/completions", []byte(`{"model":"gpt-5","messages":[{"role":"user","content":"a"}],"max_tokens":5}`)); r == nil || r.Param != "max_tokens" {
		t.Errorf("%+v", r)
	}
}

// Signatures of thoughts are for the vendor that made them, and for its family of models.
func TestOpenRoutersVendorsKnowTheirSignatures(t *testing.T) {
	ask := func(model, details string) string {
		return `{"model":"` + model + `","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","reasoning_details":[` + details + `]},{"role":"user","content":"c"}]}`
	}
	const claude = `{"type":"reasoning.text","text":"t","signature":"c2ln","format":"anthropic-claude-v1"}`
	google := func(model string) string {
		return `{"type":"reasoning.encrypted","id":"c1","format":"google-gemini-v1","data":"` + Signature(model, "f", "{}") + `"}`
	}
	for _, c := range []struct {
		about, body string
		code        int
	}{
		{"its own", ask("anthropic/claude-haiku-5.5", claude), 200},
		{"of a variant", ask("~anthropic/claude-haiku-5.5:nitro", claude), 200},
		{"of another vendor", ask("google/gemini-3.8-flash", claude), 400},
		{"unsigned, of another vendor", ask("google/gemini-3.8-flash", `{"type":"reasoning.text","text":"t","format":"anthropic-claude-v1"}`), 200},
		{"of its family", ask("google/gemini-3.8-flash", google("gemini-3.5-flash")), 200},
		{"of another family", ask("google/gemini-4-argon", google("gemini-3.5-flash")), 400},
		{"who knows whose", ask("openrouter/auto", claude), 200},
		{"where nobody signs", ask("mistralai/mistral-large-4-0", claude), 200},
	} {
		t.Run(c.about, func(t *testing.T) { checked(t, "openrouter", "chat/completions", c.body, c.code) })
	}
}

func TestRefusesByHeadAndPath(t *testing.T) {
	s := start(t, Options{AcceptKey: func(provider, key string) bool { return key == "only "+provider || key == "k" }})
	body := prompt("sim-1", "hi", "")
	for _, c := range []struct {
		provider, method, path, key string
		code                        int
	}{
		{"openai", "POST", "/chat/completions", "k", 200},
		{"openai", "POST", "/chat/completions", "other", 401},
		{"openai", "POST", "/chat/completions", "", 401},
		{"openai", "GET", "/chat/completions", "k", 405},
		{"openai", "POST", "/completions", "k", 404},
		{"openai", "POST", "/", "k", 404},
		{"openai", "GET", "/key", "k", 404},
		{"openrouter", "POST", "/chat/completions", "only openrouter", 200},
		{"openrouter", "GET", "/key", "", 401},
		{"openrouter", "POST", "/responses", "k", 404},
		{"openrouter", "GET", "/models", "other", 200},
	} {
		if code, b := fetch(t, c.method, s.URL(c.provider)+c.path, c.key, body); code != c.code {
			t.Errorf("%s %s%s with key %q: %d %s", c.method, c.provider, c.path, c.key, code, b)
		}
	}
	c := dial(t, s)
	if _, err := c.Write([]byte("POST /openai/v1/chat/completions HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer k\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")); err != nil {
		t.Fatal(err)
	}
	if got := readWhole(t, c); !strings.Contains(got, "400 Bad Request") || !strings.Contains(got, "Content-Type") {
		t.Errorf("%q", got)
	}
}
