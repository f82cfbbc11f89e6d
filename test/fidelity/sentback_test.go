package fidelity

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/testkit"
	"threadhub/test/rig"
)

// What a model of another provider left in an answer does not keep a client from going on at OpenAI: one that sends all of
// it back is told in a warning what OpenAI is not sent, as is one that sends only what is new (docs/decisions/0022).
func TestAnswersSentBackToOpenAI(t *testing.T) {
	w := newWorld(t, rig.Stores["sqlite"](t))
	ask := func(thread, model, messages, more string) *rig.Reply {
		t.Helper()
		var header []string
		if thread != "" {
			header = []string{"X-Thread-Id", thread}
		}
		r, err := w.Do(t.Context(), "POST", "/v1/chat/completions", w.key, fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, model, messages, more), header...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const first, next = `{"role":"user","content":"hi"}`, ` {"content":"and now?" ,"role":"user"}`
	for name, thin := range map[string]bool{"": false, "full": false, "thin": true} {
		r := ask(name, "gemini/gemini-3.8-flash", first, `,"reasoning_effort":"high"`)
		answer := gjson.GetBytes(r.Body, "choices.0.message").Raw
		if r.Status != 200 || !gjson.Get(answer, "reasoning_content").Exists() {
			t.Fatalf("status %d: %s", r.Status, r.Body)
		}
		thought := gjson.Get(answer, "reasoning_content").Raw
		answer = strings.Replace(answer, `"reasoning_content":`+thought, `"reasoning_content" : `+thought, 1) // as no gateway writes it
		messages := next
		if !thin {
			messages = first + ",\n" + answer + "," + next
		}
		r = ask(name, "openai/gpt-4.1-mini", messages, "")
		if warned := r.Header.Get("X-Threadhub-Warning"); r.Status != 200 || !strings.Contains(warned, "dropped=messages.reasoning_content;reason=other_model") {
			t.Fatalf("%q: status %d, warned of %q: %s", name, r.Status, warned, r.Body)
		}
		var seen string
		testkit.Eventually(t, 10*time.Second, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			seen = string(w.ended[r.Header.Get("X-Request-Id")+"-0"].Body)
			return seen != ""
		}, "OpenAI has seen nothing")
		said, _, cut := strings.Cut(answer, `,"reasoning_content"`) // and what Google signed follows it
		if !thin && (!cut || !strings.Contains(seen, `"messages":[`+first+",\n"+said+"},"+next+`]`)) {
			t.Errorf("%q: OpenAI was sent %s, of %s", name, seen, messages)
		}
		if name == "" {
			continue
		}
		stored, err := w.Do(t.Context(), "GET", "/api/threads/"+name, w.key, "")
		if err != nil {
			t.Fatal(err)
		}
		list := gjson.GetBytes(stored.Body, "messages").Array()
		if len(list) != 4 || list[1].Get("reasoning_content").Raw != thought {
			t.Errorf("the thread holds %s", stored.Body)
		}
	}

	// A member that the client made up goes through: the refusal is the client's to read.
	r := ask("", "openai/gpt-4.1-mini", first+`,{"role":"assistant","content":"x","odd":1,"extra_content":{"google":{}}},`+next, "")
	if param := gjson.GetBytes(r.Body, "error.param").Str; r.Status != 400 || param != "messages[1].odd" {
		t.Errorf("status %d: %s", r.Status, r.Body)
	}

	// Where nothing may be left out, it is refused before OpenAI is asked.
	made, err := w.Do(t.Context(), "POST", "/api/keys", w.key, `{"name":"exact","on_unsupported":"reject"}`)
	if err != nil || made.Status != 201 {
		t.Fatalf("%v, %s", err, made.Body)
	}
	exact, err := w.Do(t.Context(), "POST", "/v1/chat/completions", gjson.GetBytes(made.Body, "api_key").Str,
		`{"model":"openai/gpt-4.1-mini","messages":[`+first+`,{"role":"assistant","content":"x","images":[{}],"extra_content":{"google":{"a":1}}},`+next+`]}`)
	if err != nil {
		t.Fatal(err)
	}
	if e := gjson.GetBytes(exact.Body, "error"); exact.Status != 400 || e.Get("code").Str != "unsupported_parameter" || e.Get("param").Str != "messages.images" {
		t.Errorf("status %d: %s", exact.Status, exact.Body)
	}
}
