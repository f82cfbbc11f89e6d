package gateway

import (
	"slices"
	"testing"

	"threadhub/internal/id"
)

// A thread may begin with its system messages alone: nothing in it is compared yet, and it goes on like any other.
func TestAThreadOfSystemMessagesAlone(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		made, _ := h.do("POST", "/api/threads/", `{}`).want(t, 201).json(t)["thread_id"].(string)
		for _, text := range []string{"one", "two"} {
			h.do("POST", "/api/threads/"+made+"/messages", `{"role":"system","content":"`+text+`"}`).want(t, 201)
		}
		body := `{"model":"openai/gpt-5-mini","messages":[{"role":"system","content":"three"},{"role":"user","content":"[[sim text=\"ok\"]] hi"}]}`
		h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", made).want(t, 200)
		want := []string{"system:one:complete", "system:two:complete", "system:three:complete", `user:[[sim text="ok"]] hi:complete`, "assistant:ok:complete"}
		if got := h.messages(id.Thread(made)); !slices.Equal(got, want) {
			t.Errorf("the thread reads %q", got)
		}
	})
}
