package gateway

import (
	"context"
	"testing"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

// What strangers may send: each its own answer, and never a 500.
func TestStrangersInput(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		message := func(model, content, more string) string {
			return `{"model":"` + model + `","messages":[{"role":"user","content":` + content + `}]` + more + `}`
		}
		h.chat("hello", "", "X-Thread-Id", "nul").want(t, 200)
		for name, tt := range map[string]struct {
			method, path, body string
			header             []string
			status             int
		}{
			"a provider without a key":    {"POST", "/v1/chat/completions", message("gemini/gemini-3.5-flash", `"x"`, ""), nil, 400},
			"a model with a NUL":          {"POST", "/v1/chat/completions", message(`openai/a\u0000b`, `"x"`, ""), nil, 400},
			"a model with half a pair":    {"POST", "/v1/chat/completions", message(`openai/a\ud800b`, `"x"`, ""), nil, 400},
			"a content with a NUL":        {"POST", "/v1/chat/completions", message("openai/gpt-5-mini", `"a\u0000b\ud800"`, ""), []string{"X-Thread-Id", "nul"}, 200},
			"a content that is not UTF-8": {"POST", "/v1/chat/completions", message("openai/gpt-5-mini", "\"\xff\"", ""), []string{"X-Thread-Id", "bad"}, 400},
			"many choices":                {"POST", "/v1/chat/completions", message("openai/gpt-5-mini", `"x"`, `,"n":9223372036854775807`), nil, 400},
			"a number too large":          {"POST", "/v1/chat/completions", message("openai/gpt-5-mini", `"x"`, `,"max_tokens":1e400`), nil, 400},
			"a request id with a NUL":     {"GET", "/v1/requests/a%00b", "", nil, 404},
			"a request id not UTF-8":      {"GET", "/v1/requests/a%ffb", "", nil, 404},
			"a thread id with a NUL":      {"GET", "/api/threads/a%00b", "", nil, 404},
			"a provider with a NUL":       {"PUT", "/api/orgs/" + string(h.admin.Org) + "/providers/a%00b", `{"api_key":"sk-1234567890123456"}`, nil, 404},
			"a message not UTF-8":         {"POST", "/api/threads/nul/messages", "{\"content\":\"\xff\"}", nil, 400},
			"a message with a NUL":        {"POST", "/api/threads/nul/messages", `{"content":"a\u0000\ud800"}`, nil, 201},
			"a message of numbers":        {"POST", "/api/threads/nul/messages", `{"content":[1,2]}`, nil, 400},
			"a title with half a pair":    {"POST", "/api/threads", `{"title":"\ud800","description":"` + "\xff" + `"}`, nil, 201},
			"a far cursor":                {"GET", "/api/threads?cursor=OTIyMzM3MjAzNjg1NDc3NTgwNyBh", "", nil, 200},
			"a cursor before all time":    {"GET", "/api/threads?cursor=LTkyMjMzNzIwMzY4NTQ3NzU4MDggYQ", "", nil, 200},
			"a cursor that is none":       {"GET", "/api/threads?cursor=%00%ff", "", nil, 400},
			"a limit too large":           {"GET", "/api/threads?limit=99999999999999999999", "", nil, 400},
		} {
			if r := h.do(tt.method, tt.path, tt.body, tt.header...); r.status != tt.status {
				t.Errorf("%s: %d, want %d: %s", name, r.status, tt.status, r.body)
			}
		}
	})
}

// away is a store that answers nothing that is read of an org.
type away struct{ db.Store }

func (away) Query(context.Context, id.Org, ...db.Query) error {
	return fault.New(fault.Unavailable, "not there").WithCode("storage_unavailable")
}

func TestAStoreThatIsAwayIsNot404(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	r := h.chat("hello", "", "X-Thread-Id", "mine").want(t, 200)
	h.threads.Use(away{h.store})
	if got := h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), ""); got.status != 503 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
}

// A client that asked for a new thread must learn its name even when its call fails, or it could not try again in it.
func TestAFailedCallNamesItsThread(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	r := h.chat("[[sim status=500]]", "", "X-Thread-Id", "new")
	if r.status < 500 || r.header.Get("X-Thread-Id") == "" || r.header.Get("X-Threadhub-Thread-Seq") != "0" {
		t.Errorf("status %d, headers %v: %s", r.status, r.header, r.body)
	}
	// Whoever complains to the provider about it needs the provider's own name for it.
	all := h.attempts()
	if got, want := r.header.Get("X-Upstream-X-Request-Id"), all[len(all)-1].RequestID; got != want || want == "" {
		t.Errorf("the provider's request id is %q, want %q", got, want)
	}
}
