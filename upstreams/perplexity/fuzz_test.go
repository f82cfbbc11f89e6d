package perplexity

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// FuzzRequest translates whatever openai.ParseChat takes: into JSON, with warnings that fit into a header, or into a
// refusal.
func FuzzRequest(f *testing.F) {
	f.Add(upstreamstest.File(f, "mapping/10_pplx.in.openai.json"))
	f.Add(upstreamstest.File(f, "sonar/plain.req.json"))
	for _, body := range []string{
		user("google/x", `,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none","response_format":{"type":"json_schema","json_schema":{"schema":{}}}`),
		`{"model":"a/b","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":"data:image/png;base64,AA=="}]},{"role":"assistant","content":[],"tool_calls":[{"id":"1","custom":{"input":"x"}}]},{"role":"tool","tool_call_id":"1","content":7},{"role":"function","content":{}}]}`,
		`{"model":"sonar","messages":[{"role":"assistant","content":[1,"x",{"type":"text"}],"tool_calls":{},"function_call":[]},{"role":"system","content":null}],"web_search_options":true,"tools":"x","tool_choice":7}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := openai.ParseChat(body)
		if err != nil {
			return
		}
		r := &upstreams.Request{Body: body, Model: c.Model, Stream: c.Stream}
		before := bytes.Clone(body)
		agent, err1 := translateAgent(r, searchChoices[""])
		sonar, err2 := translateSonar(r)
		if !bytes.Equal(body, before) {
			t.Fatal("the body has changed")
		}
		for _, err := range []error{err1, err2} {
			if e := fault.From(err); err != nil && (e.Kind != fault.Invalid || e.Param == "" || e.Code == "") {
				t.Fatalf("%+v", e)
			}
		}
		for _, w := range []upstreams.Words{agent, sonar} {
			if w == nil {
				continue
			}
			if !json.Valid(w.Body()) {
				t.Fatalf("%s became %s", body, w.Body())
			}
			if text := strings.Join(w.Warnings(), ", "); len(text) > 4<<10 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("warned of %q", text)
			}
		}
	})
}

// FuzzWhole reads whatever JSON comes for an answer: as an answer, or as a fault of the provider's.
func FuzzWhole(f *testing.F) {
	for _, folder := range []string{"agent", "sonar"} {
		for _, name := range recorded(f, folder, ".resp.json", 3) {
			f.Add(upstreamstest.File(f, name+".resp.json"))
		}
	}
	f.Add([]byte(`{"status":"completed","output":[{"type":"message","content":[{"text":"[1]` + "`[1]" + `"},7]},{"type":"search_results","results":[7,{"id":1,"url":"u"}]},{"type":"function_call","name":"get_weather"}],"usage":{"cost":7}}`))
	f.Add([]byte(`{"choices":[7,{"index":0,"message":{"content":"<think>a"}},{"message":7}],"citations":[7],"usage":{"reasoning_tokens":-9e99,"completion_tokens":1}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) || bytes.TrimLeft(body, " \t\r\n")[0] != '{' {
			return // the upstream has seen to that
		}
		for _, folder := range []string{"agent", "sonar"} {
			out, err := asked(folder).Whole(body)
			var said upstreams.Complaint
			if err != nil && !errors.As(err, &said) && !fault.Is(err, fault.Upstream) {
				t.Fatalf("%s: %v", folder, err)
			}
			if out != nil && !json.Valid(out) {
				t.Fatalf("%s: %s became %s", folder, body, out)
			}
			if err == nil {
				if _, err := openai.ParseAnswer(out); err != nil && !fault.Is(err, fault.Upstream) {
					t.Fatalf("%s: %v", folder, err)
				}
			}
		}
	})
}
