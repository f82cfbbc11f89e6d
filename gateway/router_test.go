package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/orgs"
)

// noModels lists no concrete models.
type noModels struct{}

func (noModels) Models(context.Context, orgs.Caller) ([]Model, error) { return nil, nil }

func TestAuto(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Models: noModels{}}, func(t *testing.T, h *house) {
		ask := func(text, more string, header ...string) heard {
			return h.do("POST", "/v1/chat/completions", `{"model":"auto","messages":[{"role":"user","content":"`+text+`"}]`+more+`}`, header...).want(t, 200)
		}
		r := ask("Write JSON", "")
		for name, want := range map[string]string{"X-Threadhub-Provider": "openai", "X-Threadhub-Model": "gpt-5-mini", "X-Threadhub-Route": "default.structured"} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		call := h.call(r)
		if call["model_requested"] != "auto" || fmt.Sprint(call["route"]) != "map[id:default.structured reason:it asks for JSON, code or an API, or brings tools or a response format]" {
			t.Errorf("%v %v", call["model_requested"], call["route"])
		}
		// There is no key for perplexity: the next rule, and the reason says so.
		r = ask("Any news?", "", "X-Thread-Id", "t")
		if got := r.header.Get("X-Threadhub-Route"); got != "default.other" {
			t.Errorf("news went by %s", got)
		}
		answer := gjson.GetBytes(h.do("GET", "/api/threads/t", "").body, "messages.1")
		if answer.Get("route").Str != "default.other" || !strings.Contains(answer.Get("reason").Str, "default.news would have been used") || answer.Get("model_requested").Str != "auto" {
			t.Errorf("%s", answer.Raw)
		}
		models := gjson.GetBytes(h.do("GET", "/v1/models", "").body, "data.#.id").Raw
		if !strings.Contains(models, `"auto"`) {
			t.Error("auto is not listed")
		}
		hits := gjson.GetBytes(h.do("GET", "/api/router/rules", "").want(t, 200).body, "rules.#.hits").Raw
		if hits != "[0,1,0,0,1]" {
			t.Errorf("hits %s", hits)
		}
	})
}

func TestChooseIsADryRun(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		choose := func(body string, status int) gjson.Result {
			t.Helper()
			return gjson.ParseBytes(h.do("POST", "/api/router/choose", body).want(t, status).body)
		}
		c := choose(`{"message":"Any news?"}`, 200)
		if c.Get("provider").Str != "openrouter" || c.Get("model").Str != "openrouter/auto" || c.Get("rule").Str != "default.other" {
			t.Errorf("%s", c.Raw)
		}
		if got := c.Get("skipped.#.rule").Raw; got != `["default.news","default.structured","default.long","default.question"]` {
			t.Errorf("skipped %s", got)
		}
		if why := c.Get("skipped.0.why").Str; why != "there is no key for perplexity" {
			t.Errorf("news was passed over: %s", why)
		}
		if c := choose(`{"message":"Hello","context_size":11}`, 200); c.Get("skipped.2.why").Str != "there is no key for gemini" {
			t.Errorf("eleven messages: %s", c.Raw)
		}
		for range 6 {
			h.chat("hi", "", "X-Thread-Id", "long").want(t, 200)
		}
		sent := len(h.attempts())
		if c := choose(`{"message":"Hello","thread_id":"long"}`, 200); c.Get("skipped.2.why").Str != "there is no key for gemini" {
			t.Errorf("in a thread of twelve: %s", c.Raw)
		}
		if len(h.attempts()) != sent || len(h.messages("long")) != 12 {
			t.Error("a dry run did something")
		}
		for body, param := range map[string]string{
			`{}`: "message", `{"message":7}`: "message", `{"message":"x","context_size":-1}`: "context_size", `{"message":"x","context_size":"1"}`: "context_size",
			`{"message":"x","model":"y"}`: "model",
		} {
			if r := choose(body, 400); r.Get("error.param").Str != param {
				t.Errorf("%s: %s", body, r.Raw)
			}
		}
		choose(`{"message":"x","thread_id":"nosuch"}`, 404)
		choose(`{"message":"x","org_id":"org_other"}`, 404)
	})
}

func TestRulesOfAnOrg(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Models: noModels{}}, func(t *testing.T, h *house) {
		put := func(body string, status int) heard { return h.do("PUT", "/api/router/rules", body).want(t, status) }
		rules := `{"rules":[
			{"id":"night","reason":"at night","when":"hour >= 0 && headers['x-team'] == 'red'","targets":["openrouter/anthropic/claude-sonnet-5.5"]},
			{"id":"tagged","reason":"tagged","when":"tags.kind == 'draft'","targets":["openai/gpt-6-luna"]},
			{"id":"pets","reason":"about pets","when":"mentions.pets","targets":["perplexity","openai"]},
			{"id":"rest","reason":"the rest","targets":["openrouter"]}],
			"aliases":{"fast":["openai/gpt-5-mini"],"gpt-4*":["openrouter/anthropic/claude-sonnet-5.5"]},"words":{"pets":["cat*","dog*"]}}`
		shown := gjson.ParseBytes(put(rules, 200).body)
		if shown.Get("version").Int() != 1 || shown.Get("default").Bool() {
			t.Errorf("%s", shown.Raw)
		}
		route := func(model, text, more string, header ...string) string {
			t.Helper()
			r := h.do("POST", "/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"`+text+`"}]`+more+`}`, header...).want(t, 200)
			return r.header.Get("X-Threadhub-Route") + " " + r.header.Get("X-Threadhub-Provider") + " " + r.header.Get("X-Threadhub-Model")
		}
		for _, tt := range []struct{ model, text, more, header, want string }{
			{"auto", "hello", "", "", "rest openrouter openrouter/auto"},
			{"auto", "hello", "", "X-Team", "night openrouter anthropic/claude-sonnet-5.5"},
			{"auto", "hello", `,"metadata":{"kind":"draft"}`, "", "tagged openai gpt-6-luna"},
			{"auto", "hello", "", "X-Threadhub-Tag-Kind", "tagged openai gpt-6-luna"},
			{"auto", "my cats", "", "", "pets openai gpt-5-mini"},
			{"fast", "hello", "", "", "alias openai gpt-5-mini"},
			{"gpt-4-turbo", "hello", "", "", "alias openrouter anthropic/claude-sonnet-5.5"},
			{"openai/gpt-5-mini", "hello", "", "", "explicit openai gpt-5-mini"},
		} {
			var header []string
			if tt.header != "" {
				header = []string{tt.header, map[string]string{"X-Team": "red", "X-Threadhub-Tag-Kind": "draft"}[tt.header]}
			}
			if got := route(tt.model, tt.text, tt.more, header...); got != tt.want {
				t.Errorf("%+v: %s", tt, got)
			}
		}
		got := gjson.ParseBytes(h.do("GET", "/api/router/rules", "").want(t, 200).body)
		if diff := cmp.Diff("[1,2,1,1]", got.Get("rules.#.hits").Raw); diff != "" {
			t.Errorf("hits (-want +got)\n%s", diff)
		}
		if models := gjson.GetBytes(h.do("GET", "/v1/models", "").body, "data.#.id").Raw; !strings.Contains(models, `"fast"`) || strings.Contains(models, "gpt-4*") {
			t.Error("aliases are not listed as they should be")
		}

		r := put(`{"rules":[{"id":"a","when":"messages >\n  nosuch","targets":["openai"]}]}`, 400)
		if p := gjson.GetBytes(r.body, "error"); p.Get("code").Str != "invalid_rule" || p.Get("param").Str != "rules[0].when" || !strings.Contains(p.Get("message").Str, "line 2, column 3") {
			t.Errorf("%s", r.body)
		}
		for body, param := range map[string]string{
			`{}`: "rules", `{"rules":{}}`: "rules", `{"rules":[{"id":"a","targets":["openai"],"if":"x"}]}`: "rules", `{"rules":[],"x":1}`: "x", `{"rules":[{"id":"a","targets":["openai"]}],"aliases":[]}`: "aliases",
		} {
			if got := gjson.GetBytes(put(body, 400).body, "error.param").Str; got != param {
				t.Errorf("%s: param %s", body, got)
			}
		}
		if v := gjson.GetBytes(h.do("GET", "/api/router/rules", "").body, "version").Int(); v != 1 {
			t.Errorf("what was refused made version %d", v)
		}
		h.do("DELETE", "/api/router/rules", "").want(t, 200)
		if got := route("auto", "hello", "", "X-Team", "red"); got != "default.other openrouter openrouter/auto" {
			t.Errorf("after the rules were taken back: %s", got)
		}
	})
}

// What a thread has before the request counts, whoever sends it.
func TestRulesCountTheThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("PUT", "/api/router/rules", `{"rules":[{"id":"large","when":"tokens > 200","targets":["openai"]},{"id":"rest","targets":["openrouter"]}]}`).want(t, 200)
		route := func(text string, header ...string) string {
			t.Helper()
			r := h.do("POST", "/v1/chat/completions", `{"model":"auto","messages":[{"role":"user","content":"`+text+`"}]}`, header...).want(t, 200)
			return r.header.Get("X-Threadhub-Route")
		}
		long := strings.Repeat("many words ", 80)
		if got := route("hi", "X-Thread-Id", "small") + " " + route("hi") + " " + route(long); got != "rest rest large" {
			t.Error(got)
		}
		if got := route(long, "X-Thread-Id", "t") + " " + route("hi", "X-Thread-Id", "t"); got != "large large" {
			t.Errorf("in a thread: %s", got)
		}
		for thread, want := range map[string]string{"t": "large", "small": "rest"} {
			r := h.do("POST", "/api/router/choose", `{"message":"hi","thread_id":"`+thread+`"}`).want(t, 200)
			if got := gjson.GetBytes(r.body, "rule").Str; got != want {
				t.Errorf("choose in %s: %s", thread, r.body)
			}
		}
	})
}

// A conditions' headers never hold a key.
func TestRulesSeeNoCredentials(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("PUT", "/api/router/rules", `{"rules":[{"id":"key","when":"headers.exists(n, headers[n].contains('th_'))","targets":["openai"]},{"id":"rest","targets":["openrouter"]}]}`).want(t, 200)
		r := h.do("POST", "/v1/chat/completions", `{"model":"auto","messages":[{"role":"user","content":"hi"}]}`).want(t, 200)
		if got := r.header.Get("X-Threadhub-Route"); got != "rest" {
			t.Errorf("a rule saw the key: %s", got)
		}
	})
}
