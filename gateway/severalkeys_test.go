package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"threadhub/simulator"
)

const providersOf = "/api/orgs/"

func (h *house) providers(rest string) string {
	return providersOf + string(h.admin.Org) + "/providers/" + rest
}

// status is what is told of one provider.
func (h *house) status(provider string) (p providerShape) {
	h.t.Helper()
	var all struct{ Data []providerShape }
	r := h.do("GET", h.providers("status"), "").want(h.t, 200)
	if err := json.Unmarshal(r.body, &all); err != nil {
		h.t.Fatal(err)
	}
	for _, p = range all.Data {
		if p.Provider == provider {
			return p
		}
	}
	h.t.Fatalf("no %s in %s", provider, r.body)
	return p
}

func slotNames(p providerShape) string {
	var list []string
	for _, k := range p.Keys {
		list = append(list, k.Name)
	}
	return strings.Join(list, " ")
}

func TestSeveralKeysForOneProvider(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		put := func(body string) heard { return h.do("PUT", h.providers("openai"), body) }
		usedKey := func() string {
			t.Helper()
			before := len(h.attempts())
			h.chat("hello", "").want(t, 200)
			return h.attempts()[before].KeyHash
		}
		put(`{"api_key":"sk-spare-0123456789abcdef","name":"spare","priority":5}`).want(t, 200)
		if got, want := usedKey(), simulator.KeyHash("sk-test-key-of-"+string(h.admin.Org)); got != want {
			t.Error("a key of a higher number was used first")
		}
		r := put(`{"name":"default","priority":9}`).want(t, 200).json(t)
		if r["name"] != "default" || r["priority"] != 9.0 || r["configured"] != true || r["last_used"] == nil {
			t.Errorf("%v", r)
		}
		if got := usedKey(); got != simulator.KeyHash("sk-spare-0123456789abcdef") {
			t.Error("the key with the lowest number was not used first")
		}
		p := h.status("openai")
		if slotNames(p) != "spare default" || *p.MaskedKey != "sk-…cdef" || p.LastUsed == nil || *p.LastUsed != *p.Keys[0].LastUsed || p.Keys[1].Priority != 9 {
			t.Errorf("%+v", p)
		}
		if p := h.status("gemini"); p.Configured || p.MaskedKey != nil || p.Keys == nil || len(p.Keys) != 0 {
			t.Errorf("a provider without keys: %+v", p)
		}

		for body, code := range map[string]string{
			`{"name":"nobody","priority":1}`:                     "404 provider_key_missing",
			`{"name":"spare","priority":1001}`:                   "400 invalid_priority",
			`{"name":"spare","priority":-1}`:                     "400 invalid_priority",
			`{"api_key":"sk-other","name":"two words"}`:          "400 invalid_key_name",
			`{"api_key":"sk-other","name":"a|b"}`:                "400 invalid_key_name",
			`{"api_key":"sk-other","name":"` + long(65) + `"}`:   "400 invalid_key_name",
			`{"api_key":"sk-other","name":"spare\u0000"}`:        "400 invalid_value",
			`{"api_key":"sk-other","name":"spare","slot":"a"}`:   "400 unknown_parameter",
			`{"api_key":"sk-other","priority":1,"priority":2}`:   "400 duplicate_parameter",
			`{"name":"spare","priority":1,"org_id":"org_other"}`: "404 not_found",
		} {
			if r := put(body); itoa(r.status)+" "+r.code() != code {
				t.Errorf("%s: %d %s", body, r.status, r.body)
			}
		}
		for _, n := range strings.Fields("a b c d e f g h i j k l m n") {
			put(`{"api_key":"sk-more-0123456789abcdef","name":"`+n+`","priority":100}`).want(t, 200)
		}
		if r := put(`{"api_key":"sk-more-0123456789abcdef","name":"o"}`); r.status != 409 || r.code() != "provider_keys_full" {
			t.Errorf("a seventeenth key: %d %s", r.status, r.body)
		}
		put(`{"api_key":"sk-more-0123456789abcdee","name":"a"}`).want(t, 200) // in the place of another: no one more
		if p := h.status("openai"); len(p.Keys) != 16 || p.Keys[2].Name != "a" || p.Keys[2].Priority != 100 {
			t.Errorf("%+v", p.Keys)
		}

		if r := h.do("DELETE", h.providers("openai?name=spare"), "").want(t, 200).json(t); r["name"] != "spare" || r["deleted"] != true {
			t.Errorf("%v", r)
		}
		if r := h.do("DELETE", h.providers("openai?name=spare"), ""); r.status != 404 || r.code() != "provider_key_missing" {
			t.Errorf("%d %s", r.status, r.body)
		}
		h.do("DELETE", h.providers("openai"), "").want(t, 200)
		if p := h.status("openai"); p.Configured || len(p.Keys) != 0 {
			t.Errorf("after the provider was deleted: %+v", p)
		}
		if p := h.status("openrouter"); !p.Configured {
			t.Error("another provider's key went along")
		}
	})
}

func long(n int) string { return strings.Repeat("x", n) }
