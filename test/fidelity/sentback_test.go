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

// What a model of another provider left in an answer, and a full client sends back to OpenAI, gets there: OpenAI's refusal is
// the client's to read. A client that sends only what is new does not meet it (docs/decisions/0022).
func TestAnswersSentBackToOpenAI(t *testing.T) {
	w := newWorld(t, rig.Stores["sqlite"](t))
	ask := func(thread, model, messages, more string) *rig.Reply {
		t.Helper()
		r, err := w.Do(t.Context(), "POST", "/v1/chat/completions", w.key, fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, model, messages, more), "X-Thread-Id", thread)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const first, next = `{"role":"user","content":"hi"}`, `{"role":"user","content":"and now?"}`
	for _, thin := range []bool{false, true} {
		thread := fmt.Sprint("sent-back-", thin)
		r := ask(thread, "gemini/gemini-3.8-flash", first, `,"reasoning_effort":"high"`)
		answer := gjson.GetBytes(r.Body, "choices.0.message")
		if r.Status != 200 || !answer.Get("reasoning_content").Exists() {
			t.Fatalf("status %d: %s", r.Status, r.Body)
		}
		if thin {
			if r = ask(thread, "openai/gpt-4.1-mini", next, ""); r.Status != 200 || !strings.Contains(r.Header.Get("X-Threadhub-Warning"), "messages.reasoning_content") {
				t.Errorf("thin: status %d, warned of %q: %s", r.Status, r.Header.Get("X-Threadhub-Warning"), r.Body)
			}
			continue
		}
		messages := first + "," + answer.Raw + "," + next
		r = ask(thread, "openai/gpt-4.1-mini", messages, "")
		if param := gjson.GetBytes(r.Body, "error.param").Str; r.Status != 400 || !strings.HasPrefix(param, "messages[1].") || gjson.GetBytes(r.Body, "error.code").Str != "unknown_parameter" {
			t.Errorf("full: status %d: %s", r.Status, r.Body)
		}
		var seen string
		testkit.Eventually(t, 10*time.Second, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			seen = string(w.ended[r.Header.Get("X-Request-Id")+"-0"].Body)
			return seen != ""
		}, "OpenAI has seen nothing")
		if !strings.Contains(seen, `"messages":[`+messages+`]`) {
			t.Errorf("OpenAI was sent %s, of %s", seen, messages)
		}
		clean := first + `,{"role":"assistant","content":` + answer.Get("content").Raw + `},` + next
		if r = ask(thread, "openai/gpt-4.1-mini", clean, ""); r.Status != 200 {
			t.Errorf("without the member: status %d: %s", r.Status, r.Body)
		}
		stored, err := w.Do(t.Context(), "GET", "/api/threads/"+thread, w.key, "")
		if err != nil {
			t.Fatal(err)
		}
		var roles []string
		for _, m := range gjson.GetBytes(stored.Body, "messages").Array() {
			roles = append(roles, m.Get("role").Str+" "+m.Get("status").Str)
		}
		if got := strings.Join(roles, ", "); strings.Count(got, "user") != 2 {
			t.Errorf("the thread holds %s", got)
		}
	}
}
