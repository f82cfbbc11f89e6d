package tenancy

import (
	"fmt"
	"strings"
	"testing"

	"threadhub/gateway"
)

// made makes a key of the org's admin with these members, and returns it.
func (w *world) made(t *testing.T, o *tenant, members map[string]any) string {
	t.Helper()
	var key struct {
		APIKey string `json:"api_key"`
	}
	if err := w.Must(t, 201, "POST", "/api/keys", o.keys["admin"], members).JSON(&key); err != nil {
		t.Fatal(err)
	}
	return key.APIKey
}

// A key for reading alone reads what its admin reads and does nothing else, whichever way it comes in.
func TestAReadOnlyKeyOnlyReads(t *testing.T) {
	tab := readTable(t)
	needs := map[string]gateway.Permission{}
	for _, r := range gateway.New(gateway.Options{}).Routes() {
		needs[r.Method+" "+r.Pattern] = r.Needs
	}
	eachStore(t, func(t *testing.T, w *world) {
		o := w.orgs[0]
		key := w.made(t, o, map[string]any{"name": "reader", "read_only": true})
		before := w.rows(t)
		for _, c := range tab.cells(func(string, int) bool { return true }) {
			if c.asker != "admin" {
				continue
			}
			want := tab.want(c)
			// Of whom a key would be is not looked at: own, foreign and absent are refused alike.
			if needs[c.route] > gateway.Read && (want != 404 || c.route == "POST /api/keys") {
				want = 403
			}
			if c.route == "GET /v1/requests/{id}/stream" && want == 400 { // a stream is its own key's to resume
				want = 404
			}
			a := c.ask(t, o)
			for name, carrier := range carriers {
				r := w.by(t, c, a, "", append([]string{carrier[0], carrier[1] + key}, a.header...)...)
				if r.Status != want {
					t.Errorf("%s, a read-only key by %s: %d, want %d: %.200s", c, name, r.Status, want, r.Body)
				}
				if r.Status == 403 && errorObject(t, c.String(), r).Code != "permission_denied" {
					t.Errorf("%s, a read-only key by %s: %s", c, name, r.Body)
				}
			}
		}
		for i := range w.orgs {
			if changes := before[i].changes(w.rows(t)[i]); changes != "" {
				t.Errorf("a read-only key changed rows:\n%s", changes)
			}
		}
	})
}

// A key for some models or providers is good for these and no others, whichever way it comes in and however the model is
// asked for.
func TestAKeyIsGoodForItsModelsAlone(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		o := w.orgs[0]
		w.Must(t, 200, "PUT", "/api/orgs/"+o.id+"/providers/openrouter", o.keys["admin"], map[string]string{"api_key": "sk-of-the-other"})
		thread := o.threads["admin"]
		for scope, key := range map[string]string{
			"model":    w.made(t, o, map[string]any{"models": []string{"openai/sim-1"}}),
			"pattern":  w.made(t, o, map[string]any{"models": []string{"openai/sim-*"}}),
			"provider": w.made(t, o, map[string]any{"providers": []string{"openai"}}),
			"both":     w.made(t, o, map[string]any{"providers": []string{"openai"}, "models": []string{"*/sim-1"}}),
		} {
			for name, carrier := range carriers {
				as := []string{carrier[0], carrier[1] + key}
				what := fmt.Sprintf("a key for a %s, by %s", scope, name)
				w.Must(t, 200, "POST", "/v1/chat/completions", "", chatBody("openai/sim-1", "hi"), as...)
				before, sent := w.rows(t), len(w.sim.Log())
				for _, c := range []struct{ path, body string }{
					{"/v1/chat/completions", chatBody("openrouter/sim-1", "hi")},
					{"/v1/chat/completions", strings.Replace(chatBody("openrouter/sim-1", "hi"), "{", `{"stream":true,`, 1)},
					{"/v1/chat/completions", strings.Replace(chatBody("openrouter/sim-1", "hi"), "{", `{"thread_id":"`+thread+`",`, 1)},
					{"/v1/embeddings", `{"model":"openrouter/sim-1","input":"hi"}`},
					{"/api/threads/" + thread + "/forward", `{"provider":"openrouter","model":"sim-1","content":"hi"}`},
				} {
					r, err := w.Do(t.Context(), "POST", c.path, "", c.body, as...)
					if err != nil {
						t.Fatal(err)
					}
					if told := errorObject(t, what, r); r.Status != 403 || told.Code != "model_not_allowed" || told.Param != "model" {
						t.Errorf("%s: %s with %s: %d %s", what, c.path, c.body, r.Status, r.Body)
					}
				}
				for i := range w.orgs {
					if changes := before[i].changes(w.rows(t)[i]); changes != "" {
						t.Errorf("%s: refusals changed rows:\n%s", what, changes)
					}
				}
				if n := len(w.sim.Log()); n != sent {
					t.Errorf("%s: the provider was asked %d times", what, n-sent)
				}
				r := w.Must(t, 200, "GET", "/v1/models", "", nil, as...)
				if strings.Contains(string(r.Body), `"openrouter/`) {
					t.Errorf("%s: models it is not good for are listed: %.300s", what, r.Body)
				}
				// Nobody gets more out of a key than was put into it.
				for _, body := range []string{`{}`, `{"providers":["openai"]}`} {
					r, err := w.Do(t.Context(), "POST", "/api/keys", "", body, as...)
					if err != nil {
						t.Fatal(err)
					}
					if told := errorObject(t, what, r); r.Status != 403 || told.Code != "key_restricted" {
						t.Errorf("%s: made another: %d %s", what, r.Status, r.Body)
					}
				}
			}
		}
	})
}
