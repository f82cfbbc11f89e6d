package openai

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
)

func shed(t *testing.T, body string, e Edits, takes func(at int, name string, v []byte) bool) (out string, lost []string) {
	t.Helper()
	c, err := ParseChat([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	before := c.HasExtras
	lost = c.Shed(&e, takes)
	out = string(c.Splice(e))
	if !before && out != body && len(e.Drop) == 0 {
		t.Errorf("%s has nothing of others, and became %s", body, out)
	}
	return out, lost
}

func none(int, string, []byte) bool { return false }

// Every byte but those of the members stays, wherever they stand and however they are written.
func TestShed(t *testing.T) {
	const call = `{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}`
	for _, tt := range []struct{ message, left, lost string }{
		{`{"role":"assistant","content":"x"}`, `{"role":"assistant","content":"x"}`, ""},
		{`{"role":"assistant","content":"x","reasoning":"r"}`, `{"role":"assistant","content":"x"}`, "reasoning"},
		{`{"reasoning_content":"r","role":"assistant","content":"x"}`, `{"role":"assistant","content":"x"}`, "reasoning_content"},
		{`{ "role" : "assistant" ,  "reasoning_content" : "r" , "content" : "x" , "reasoning_details" : [] }`, `{ "role" : "assistant" ,  "content" : "x" }`, "reasoning_content"},
		{
			`{"role":"assistant","extra_content":{"google":{}},"content":"\u0078","odd":1.0,"refusal":null,"annotations":[]}`,
			`{"role":"assistant","content":"\u0078","odd":1.0,"refusal":null,"annotations":[]}`, "extra_content",
		},
		{`{"role":"assistant","content":"x","re\u0061soning":"r"}`, `{"role":"assistant","content":"x"}`, "reasoning"},
		{`{"role":"assistant","content":"x","reasoning":null,"images":[],"extra_content":{}}`, `{"role":"assistant","content":"x"}`, ""},
		{
			`{"role":"assistant","tool_calls":[` + call + `,"extra_content":{"a":1}},{"extra_content":{"a":1},` + call[1:] + `} ]}`,
			`{"role":"assistant","tool_calls":[` + call + `},` + call + `} ]}`, "tool_calls.extra_content",
		},
		{`{"role":"assistant","tool_calls":[` + call + `,"index":0,"images":[1]},7]}`, `{"role":"assistant","tool_calls":[` + call + `,"index":0,"images":[1]},7]}`, ""},
		{`{"role":"assistant","content":[{"type":"text","text":"x","extra_content":1}],"images":[1]}`, `{"role":"assistant","content":[{"type":"text","text":"x","extra_content":1}]}`, "images"},
		{`{"role":"assistant","content":"\"extra_content\":1"}`, `{"role":"assistant","content":"\"extra_content\":1"}`, ""},
		{`{"role":"user","content":"x","reasoning":"r"}`, `{"role":"user","content":"x","reasoning":"r"}`, ""},
		{`{"role":"tool","content":"x","tool_call_id":"c","extra_content":1}`, `{"role":"tool","content":"x","tool_call_id":"c","extra_content":1}`, ""},

		// What then says nothing goes.
		{`{"role":"assistant","content":null,"images":[1]}`, "", "images"},
		{`{"role":"assistant","content":"","reasoning_content":"r","refusal":null,"annotations":[]}`, "", "reasoning_content"},
		{`{"role":"assistant","content":[{"type":"text","text":""}],"tool_calls":[],"reasoning":"r","name":"n"}`, "", "reasoning"},
		{`{"role":"assistant","content":null,"refusal":"no","reasoning":"r"}`, `{"role":"assistant","content":null,"refusal":"no"}`, "reasoning"},
		{`{"role":"assistant","content":null,"odd":1,"reasoning":"r"}`, `{"role":"assistant","content":null,"odd":1}`, "reasoning"},
		{`{"role":"assistant","content":""}`, `{"role":"assistant","content":""}`, ""}, // the client's own affair
	} {
		const request = `{"model":"m", "messages" : [{"role":"user","content":"a"}, %s{"role":"user","content":"b"}],"x":1}`
		next := func(m string) string {
			if m == "" {
				return ""
			}
			return m + " , "
		}
		got, lost := shed(t, fmt.Sprintf(request, next(tt.message)), Edits{}, none)
		if want := fmt.Sprintf(request, next(tt.left)); got != want || strings.Join(lost, " ") != tt.lost {
			t.Errorf("%s\nbecame %s\nnot    %s\nand lost %q", tt.message, got, want, lost)
		}
	}
}

// It is asked for each member, and what another edit has taken or changed is let alone.
func TestShedAsks(t *testing.T) {
	const answer = `{"role":"assistant","content":"x","reasoning":"r","reasoning_details":[{"a":1}]}`
	body := `{"model":"m","messages":[` + strings.Join([]string{answer, answer, answer, answer}, ",") + `]}`
	var asked []string
	drop := make([]int, 1, 4)
	got, lost := shed(t, body, Edits{Drop: drop, Instead: map[int][]byte{1: []byte(`{"role":"assistant","reasoning":"kept"}`)}}, func(at int, name string, v []byte) bool {
		asked = append(asked, fmt.Sprint(at, " ", name, " ", string(v)))
		return at == 2 || name == "reasoning"
	})
	want := `{"model":"m","messages":[{"role":"assistant","reasoning":"kept"},` + answer + `,{"role":"assistant","content":"x","reasoning":"r"}]}`
	if got != want || !slices.Equal(lost, []string{"reasoning_details"}) {
		t.Errorf("got %s, lost %q", got, lost)
	}
	if diff := cmp.Diff([]string{`2 reasoning "r"`, `2 reasoning_details [{"a":1}]`, `3 reasoning "r"`, `3 reasoning_details [{"a":1}]`}, asked); diff != "" {
		t.Error(diff)
	}
}

// Of the message that an answer becomes all goes that OpenAI does not know.
func TestShedKnowsWhatAnswersHave(t *testing.T) {
	a := &Accumulator{}
	chunk := `{"choices":[{"index":0,"delta":{"role":"assistant","content":"x","refusal":"no","reasoning":"r","reasoning_content":"t","reasoning_details":[{"type":"reasoning.text","text":"t","index":0}],` +
		`"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}],` +
		`"annotations":[{"type":"url_citation"}],"images":[{"type":"image_url"}],"audio":{"id":"a"},"extra_content":{"google":{}},"odd":1}}]}`
	if _, err := a.Add([]byte(chunk)); err != nil {
		t.Fatal(err)
	}
	message := a.Message()
	got, lost := shed(t, `{"model":"m","messages":[`+string(message)+`]}`, Edits{}, none)
	known := map[string][]string{
		"messages.0":              {"role", "content", "refusal", "tool_calls", "annotations", "audio"},
		"messages.0.tool_calls.0": {"id", "type", "function"},
	}
	for place, names := range known {
		gjson.Get(got, place).ForEach(func(k, _ gjson.Result) bool {
			if !slices.Contains(names, k.Str) {
				t.Errorf("%s of %s is left", k.Str, place)
			}
			return true
		})
	}
	if len(lost) != 6 {
		t.Errorf("lost %q of %s", lost, message)
	}
}
