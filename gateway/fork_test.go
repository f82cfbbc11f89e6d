package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/id"
)

func TestForkThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("POST", "/api/threads", `{"title":"The source","visibility":"private"}`).want(t, 201)
		first := h.chat("one", "", "X-Thread-Id", "src")
		h.chat("two", "", "X-Thread-Id", "src").want(t, 200)
		before := h.messages("src")

		made := h.do("POST", "/api/threads/src/fork", `{"sequence":1,"title":"A fork"}`).want(t, 201)
		fork := gjson.GetBytes(made.body, "thread_id").Str
		if from := gjson.GetBytes(made.body, "forked_from"); from.Get("thread_id").Str != "src" || from.Get("sequence").Int() != 1 {
			t.Errorf("forked from %s", from.Raw)
		}
		if got := h.messages(id.Thread(fork)); fmt.Sprint(got) != fmt.Sprint(before[:2]) {
			t.Errorf("the fork has %v, the source begins with %v", got, before[:2])
		}
		copied := gjson.GetBytes(h.do("GET", "/api/threads/"+fork, "").body, "messages.1")
		if copied.Get("request_id").Str != first.header.Get("X-Request-Id") || copied.Get("provider").Str != "openai" {
			t.Errorf("the copy tells of its answer %s", copied.Raw)
		}
		r := h.chat("another two", "", "X-Thread-Id", fork).want(t, 200)
		if seq := r.header.Get("X-Threadhub-Thread-Seq"); seq != "2" {
			t.Errorf("the fork goes on at %s", seq)
		}
		if got := h.messages("src"); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("the source became %v", got)
		}

		all := h.do("POST", "/api/threads/src/fork", "").want(t, 201)
		if got := h.messages(id.Thread(gjson.GetBytes(all.body, "thread_id").Str)); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("a fork of all of it has %v", got)
		}
		// The full conversation is known again in the fork, as its hashes came along.
		whole := h.do("POST", "/v1/chat/completions", `{"model":"openai/gpt-5-mini","messages":`+asClient(h.do("GET", "/api/threads/"+fork, "").body, `{"role":"user","content":"three"}`)+`}`,
			"X-Thread-Id", fork).want(t, 200)
		if mode := whole.header.Get("X-Threadhub-Thread-Mode"); mode != "deduplicated" {
			t.Errorf("the fork's own messages are %s", mode)
		}

		for body, param := range map[string]string{
			`{"sequence":4}`: "sequence", `{"sequence":-1}`: "sequence", `{"sequence":"1"}`: "sequence", `{"sequence":1.5}`: "sequence",
			`{"visibility":"all"}`: "visibility", `{"at":1}`: "at", `{"title":7}`: "title",
		} {
			r := h.do("POST", "/api/threads/src/fork", body).want(t, 400)
			if got := gjson.GetBytes(r.body, "error.param").Str; got != param {
				t.Errorf("%s: %s", body, r.body)
			}
		}
	})
}

// asClient is what a client would send that has a thread and adds to it.
func asClient(thread []byte, more string) string {
	var list []string
	for _, m := range gjson.GetBytes(thread, "messages").Array() {
		list = append(list, fmt.Sprintf(`{"role":%q,"content":%s}`, m.Get("role").Str, m.Get("content").Raw))
	}
	return "[" + strings.Join(append(list, more), ",") + "]"
}

func TestOnDivergeSaysOneOfTwo(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		r := h.chat("hi", "", "X-Thread-Id", "t", "X-Thread-On-Diverge", "branch").want(t, 400)
		if param := gjson.GetBytes(r.body, "error.param").Str; param != "X-Thread-On-Diverge" {
			t.Errorf("%s", r.body)
		}
		if r.header.Get("X-Thread-Id") != "t" {
			t.Errorf("the refusal does not tell of the thread: %v", r.header)
		}
		h.do("GET", "/api/threads/t", "").want(t, 404)
		h.chat("hi", "", "X-Thread-Id", "t", "X-Thread-On-Diverge", "refuse").want(t, 200)
		if r := h.chat("hi", `,"n":0`, "X-Thread-Id", "new").want(t, 400); r.header.Get("X-Thread-Id") != "" {
			t.Errorf("there is a thread %q that was never made", r.header.Get("X-Thread-Id"))
		}
	})
}
