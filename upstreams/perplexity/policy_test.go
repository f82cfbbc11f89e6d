package perplexity

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// under translates a request by a policy, for both APIs or for one.
func under(t *testing.T, policy upstreams.Policy, api, body string) (upstreams.Words, error) {
	t.Helper()
	r := request(t, body)
	r.Unsupported = policy
	if api == Sonar {
		return translateSonar(r)
	}
	return translateAgent(r, searchChoices[""])
}

// What is left out with a warning is refused by its name where nothing may be left out.
func TestRejectedHints(t *testing.T) {
	for _, c := range []struct{ apis, body, param string }{
		{"agent sonar", user("sonar", `,"seed":1`), "seed"},
		{"agent sonar", user("sonar", `,"new_thing":1`), "new_thing"},
		{"agent", user("sonar", `,"stop":["a"]`), "stop"},
		{"agent sonar", user("sonar", `,"reasoning_effort":"none"`), "reasoning_effort"},
		{"sonar", user("sonar", `,"tools":[{"type":"function","function":{"name":"f"}}]`), "tools"},
		{"agent sonar", `{"model":"sonar","messages":[{"role":"user","name":"bob","content":"hi"}]}`, "messages.name"},
		{"agent sonar", `{"model":"sonar","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]},{"role":"assistant","content":"a"},{"role":"user","content":"q"}]}`, "messages.content.input_audio"},
	} {
		for _, api := range strings.Fields(c.apis) {
			if w, err := under(t, upstreams.ByClass, api, c.body); err != nil || !strings.HasPrefix(strings.Join(w.Warnings(), ", "), "dropped="+c.param+";reason=") {
				t.Errorf("%s: %s: %v", api, c.body, err)
			}
			_, err := under(t, upstreams.Reject, api, c.body)
			if f := fault.From(err); err == nil || f.Kind != fault.Invalid || f.Code != "unsupported_parameter" || f.Param != c.param {
				t.Errorf("%s: %s: %v, want %s refused", api, c.body, err, c.param)
			}
		}
	}
	for _, api := range []string{Agent, Sonar} {
		idle := user("sonar", `,"n":1,"store":false,"logit_bias":{},"metadata":{},"parallel_tool_calls":true,"seed":null,"service_tier":"auto","return_images":false`)
		if w, err := under(t, upstreams.Reject, api, idle); err != nil || len(w.Warnings()) > 0 {
			t.Errorf("%s: what asks for nothing: %v", api, err)
		}
	}
}

// What is refused otherwise is left out, by its name, where that was asked for.
func TestDroppedContracts(t *testing.T) {
	parts := func(list string) string {
		return `{"model":"sonar","messages":[{"role":"user","content":[` + list + `]}]}`
	}
	const text = `{"type":"text","text":"x"}`
	for _, c := range []struct {
		apis, body, param string
		path, want        string // of what is sent, and its value there; "" if it must not be there
	}{
		{"agent sonar", user("sonar", `,"n":2`), "n", "n", ""},
		{"agent sonar", user("sonar", `,"logprobs":true`), "logprobs", "logprobs", ""},
		{"agent sonar", user("sonar", `,"modalities":["text","audio"]`), "modalities", "modalities", ""},
		{"agent sonar", user("sonar", `,"response_format":{"type":"json_object"}`), "response_format", "response_format", ""},
		{"agent", user("sonar", `,"tools":[{"type":"custom","custom":{"name":"c"}},{"type":"function","function":{"name":"f"}}]`), "tools[0]", "tools.#.type", `["web_search","function"]`},
		{"agent", user("sonar", `,"tool_choice":{"type":"custom","custom":{"name":"c"}}`), "tool_choice", "tool_choice", `{"type":"web_search"}`},
		{"sonar", user("sonar", `,"tool_choice":"required"`), "tool_choice", "tool_choice", ""},
		{"agent", parts(text + `,{"type":"input_audio","input_audio":{}}`), "messages[0].content[1]", "input.0.content", `[{"type":"input_text","text":"x"}]`},
		{"agent", parts(`{"type":"image_url","image_url":{"url":"http://a.example/b.png"}},` + text), "messages[0].content[0]", "input.0.content", `[{"type":"input_text","text":"x"}]`},
		{"sonar", parts(`{"type":"file","file":{"file_id":"file-1"}},` + text), "messages[0].content[0]", "messages", `[{"role":"user","content":"x"}]`},
	} {
		for _, api := range strings.Fields(c.apis) {
			for _, policy := range []upstreams.Policy{upstreams.ByClass, upstreams.Reject} {
				if _, err := under(t, policy, api, c.body); fault.From(err).Code != "unsupported_parameter" {
					t.Errorf("%s, %q: %s: %v", api, policy, c.body, err)
				}
			}
			w, err := under(t, upstreams.Drop, api, c.body)
			if err != nil {
				t.Errorf("%s: %s: %v", api, c.body, err)
				continue
			}
			if got := gjson.GetBytes(w.Body(), c.path).Raw; got != c.want || !json.Valid(w.Body()) {
				t.Errorf("%s: %s: %s is %s, want %q, in %s", api, c.body, c.path, got, c.want, w.Body())
			}
			if got, want := strings.Join(w.Warnings(), ", "), "dropped="+c.param+";reason=unsupported"; got != want {
				t.Errorf("%s: %s: warned of %q, want %q", api, c.body, got, want)
			}
		}
	}
}

// What is said now and would be nothing without what it loses is refused whatever the policy.
func TestNeverDropped(t *testing.T) {
	body := `{"model":"sonar","messages":[{"role":"user","content":"q"},{"role":"user","content":[{"type":"text","text":""},{"type":"input_audio","input_audio":{}}]}]}`
	for _, api := range []string{Agent, Sonar} {
		_, err := under(t, upstreams.Drop, api, body)
		if f := fault.From(err); err == nil || f.Code != "unsupported_parameter" || f.Param != "messages[1].content" {
			t.Errorf("%s: %v", api, err)
		}
	}
}
