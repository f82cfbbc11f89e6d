package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/upstreams"
)

func TestForward(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		asked := map[string]*actor{"openai": {}, "openrouter": {}}
		for name, a := range asked {
			a.play(func([]byte) (*upstreams.Answer, error) {
				return wholeAnswer(line{"assistant", "says " + name}.json()), nil
			})
		}
		h.opts.Upstreams = map[string]upstreams.Upstream{"openai": asked["openai"], "openrouter": asked["openrouter"]}
		h.do("POST", "/api/threads", `{}`)
		shown := func() string { return saidAll(gjson.ParseBytes(asked["openrouter"].shown)) }
		forward := func(body string, status int) gjson.Result {
			t.Helper()
			return gjson.ParseBytes(h.do("POST", "/api/threads/t/forward", body).want(t, status).body)
		}

		h.chat("one", "", "X-Thread-Id", "t").want(t, 200)
		// A second answer to what was said last.
		r := forward(`{"provider":"openrouter","model":"a/b","reason":"a second opinion"}`, 200)
		for member, want := range map[string]string{
			"thread_id": "t", "sequence": "2", "role": "assistant", "content": "says openrouter", "status": "complete",
			"provider": "openrouter", "model_requested": "openrouter/a/b", "route": "forward", "reason": "a second opinion",
		} {
			if got := r.Get(member).String(); got != want {
				t.Errorf("%s is %q, want %q", member, got, want)
			}
		}
		if got := shown(); got != "user: one" {
			t.Errorf("shown %s", got)
		}
		// Something new.
		r = forward(`{"provider":"openrouter","model":"a/b","content":"two"}`, 200)
		if r.Get("sequence").Int() != 4 || r.Get("reason").Str != "forwarded to openrouter" {
			t.Errorf("%s", r.Raw)
		}
		if got, want := shown(), "user: one | assistant: says openai | assistant: says openrouter | user: two"; got != want {
			t.Errorf("shown %s, want %s", got, want)
		}
		// What has no answer yet.
		h.do("POST", "/api/threads/t/messages", `{"role":"user","content":"three"}`).want(t, 201)
		forward(`{"provider":"openrouter","model":"a/b","max_tokens":7}`, 200)
		want := []string{
			"user:one:complete", "assistant:says openai:complete", "assistant:says openrouter:complete", "user:two:complete",
			"assistant:says openrouter:complete", "user:three:complete", "assistant:says openrouter:complete",
		}
		if diff := cmp.Diff(want, h.messages("t")); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}

		for body, param := range map[string]string{
			`{}`: "provider", `{"provider":"nobody"}`: "provider", `{"provider":"openrouter","model":1}`: "model",
			`{"provider":"openrouter","model":"m","content":7}`: "messages[0].content", `{"provider":"openrouter","stream":true}`: "stream",
			`{"provider":"openrouter","model":"m","content":"x","max_tokens":"y"}`: "max_completion_tokens",
		} {
			if r := forward(body, 400); r.Get("error.param").Str != param {
				t.Errorf("%s: %s", body, r.Raw)
			}
		}
		if got := h.messages("t"); len(got) != len(want) {
			t.Errorf("refused requests left %v", got)
		}

		h.do("POST", "/api/threads", `{"title":"empty"}`)
		empty := gjson.GetBytes(h.do("GET", "/api/threads", "").body, "data.0.id").Str
		if r := h.do("POST", "/api/threads/"+empty+"/forward", `{"provider":"openrouter","model":"m"}`).want(t, 409); r.code() != "nothing_to_answer" {
			t.Errorf("%s", r.body)
		}
		asked["openrouter"].play(func([]byte) (*upstreams.Answer, error) { return nil, fmt.Errorf("broken") })
		forward(`{"provider":"openrouter","model":"m"}`, 500)
		if got := h.messages("t"); got[len(got)-1] != "assistant::incomplete:internal_error" {
			t.Errorf("a forward that failed left %v", got[len(got)-1])
		}
	})
}

// blindStore shows nothing while it is told not to.
type blindStore struct {
	db.Store
	blind atomic.Bool
}

func (s *blindStore) Query(ctx context.Context, org id.Org, qs ...db.Query) error {
	if s.blind.Load() {
		return fault.New(fault.Unavailable, "the store is away").WithCode("storage_unavailable")
	}
	return s.Store.Query(ctx, org, qs...)
}

// An answer that is stored and paid for is given, whatever cannot be read after; it is what the thread has.
func TestAForwardedAnswerStandsOnNoFurtherRead(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		store := &blindStore{Store: h.store}
		h.threads.Use(store)
		a := &actor{}
		h.opts.Upstreams = map[string]upstreams.Upstream{"openrouter": a}
		h.do("POST", "/api/threads/"+string(h.newThread(""))+"/messages", `{"content":"x"}`).want(t, 201)
		thread := gjson.GetBytes(h.do("GET", "/api/threads", "").body, "data.0.id").Str
		for _, blind := range []bool{false, true} {
			a.play(func([]byte) (*upstreams.Answer, error) {
				store.blind.Store(blind)
				return wholeAnswer(line{"assistant", "heard"}.json()), nil
			})
			r := h.do("POST", "/api/threads/"+thread+"/forward", `{"provider":"openrouter","model":"a/b"}`)
			store.blind.Store(false)
			var shown, stored map[string]any
			all := gjson.GetBytes(h.do("GET", "/api/threads/"+thread, "").want(t, 200).body, "messages").Array()
			if err := errors.Join(json.Unmarshal(r.want(t, 200).body, &shown), json.Unmarshal([]byte(all[len(all)-1].Raw), &stored)); err != nil {
				t.Fatal(err)
			}
			stored["thread_id"] = thread
			if blind { // the store's clock cannot be asked
				stored["created_at"] = shown["created_at"]
			}
			if diff := cmp.Diff(stored, shown); diff != "" {
				t.Errorf("blind %v: (-stored +shown)\n%s", blind, diff)
			}
		}
	})
}
