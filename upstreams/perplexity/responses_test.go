package perplexity

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3/responses"
	"github.com/tidwall/gjson"
	"threadhub/upstreams/upstreamstest"
)

// apart is where the Agent API and the Responses API differ in what we send, by the place in the request. Everything else
// is a request of the Responses API.
var apart = []string{
	"preset",                                // stands for a prompt, tools and steps
	"max_steps",                             // of the model's work with its tools
	"language_preference",                   //
	"response_format.",                      // as in chat; there it is text.format
	"tools.web_search.filters.",             // there only allowed_domains
	"tools.web_search.max_results",          //
	"input.function_call.thought_signature", // what Google's models sign their calls with
}

// The Agent API's requests are those of the Responses API, but for what apart names: OpenAI's own types take them, and
// write them again as they were.
func TestRequestsAreResponses(t *testing.T) {
	var seen []string
	for _, body := range []string{
		string(upstreamstest.File(t, "mapping/10_pplx.in.openai.json")),
		user("sonar-pro", `,"stream":true,"language_preference":"et","max_steps":3,"num_search_results":4,"search_recency_filter":"week","web_search_options":{"search_context_size":"high","user_location":{"country":"EE","region":"Harju"}}`),
		`{"model":"google/gemini-3.8-flash","max_tokens":9,"temperature":0.5,"top_p":0.5,"reasoning_effort":"high","messages":[{"role":"developer","content":"d"},
			{"role":"user","content":[{"type":"text","text":"t"},{"type":"image_url","image_url":{"url":"https://a.example/b.png"}}]},
			{"role":"assistant","content":"a","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"x\":1}"},"extra_content":{"google":{"thought_signature":"s"}}},{"id":"d","type":"function","function":{"name":"f","arguments":"{}"}}]},
			{"role":"tool","tool_call_id":"c","content":"r"},{"role":"tool","tool_call_id":"d","content":[{"type":"text","text":"r"}]}],
			"tools":[{"type":"function","function":{"name":"f","description":"F","parameters":{"type":"object","properties":{"x":{"type":"integer"}}},"strict":true}}],
			"tool_choice":{"type":"function","function":{"name":"f"}},"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object"}}}}`,
		user("m/m", `,"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g","parameters":{"type":"object"}}}],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"f"}}]}}`),
		user("m/m", `,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"required"`),
	} {
		w, err := toAgent(t, body)
		if err != nil {
			t.Fatal(err)
		}
		var theirs responses.ResponseNewParams
		if err := json.Unmarshal(w.Body(), &theirs); err != nil {
			t.Fatalf("%v: %s", err, w.Body())
		}
		if choice := gjson.GetBytes(w.Body(), "tool_choice"); choice.Get("name").Exists() {
			// Their union takes this for the choice of a hosted tool, and loses the name.
			var function responses.ToolChoiceFunctionParam
			if err := json.Unmarshal([]byte(choice.Raw), &function); err != nil || function.Name != choice.Get("name").Str {
				t.Errorf("%s: %v", choice.Raw, err)
			}
			theirs.ToolChoice = responses.ResponseNewParamsToolChoiceUnion{OfFunctionTool: &function}
		}
		again, err := json.Marshal(theirs)
		if err != nil {
			t.Fatal(err)
		}
		got, want := flat(again), flat(w.Body())
		for path := range want {
			for _, a := range apart {
				if path == a || strings.HasSuffix(a, ".") && strings.HasPrefix(path, a) {
					delete(want, path)
					seen = append(seen, a)
				}
			}
		}
		delete(want, "stream") // a parameter of the call there
		for path := range got {
			if _, ours := flat(w.Body())[path]; ours {
				if _, stays := want[path]; !stays {
					delete(got, path)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-ours +theirs)\n%s", diff)
		}
	}
	for _, a := range apart {
		if !slices.Contains(seen, a) {
			t.Errorf("%s is in no request", a)
		}
	}
}

// flat is an object as its leaves, by their paths. In lists the type of an element stands for its place.
func flat(object []byte) map[string][]string {
	leaves := map[string][]string{}
	var walk func(path string, v gjson.Result)
	walk = func(path string, v gjson.Result) {
		if !v.IsObject() && !v.IsArray() {
			leaves[path] = append(leaves[path], v.Raw)
			return
		}
		for name, e := range members(v) {
			walk(strings.TrimPrefix(path+"."+name.Str, "."), e)
		}
		for _, e := range elements(v) {
			walk(strings.TrimSuffix(path+"."+e.Get("type").Str, "."), e)
		}
	}
	walk("", gjson.ParseBytes(object))
	return leaves
}
