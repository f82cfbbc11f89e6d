package gateway

import (
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/seal"
	"threadhub/orgs"
)

// What a provider cannot be told is left out or refused as the key says, else as the rule does, else by what it is.
func TestOnUnsupported(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		if _, err := h.orgs.PutProviderKey(t.Context(), h.admin.Org, orgs.Actor{}, orgs.ProviderKeySpec{Provider: "gemini", Key: seal.NewSecret("gemini-key-of-the-house")}); err != nil {
			t.Fatal(err)
		}
		h.do("PUT", "/api/router/rules", `{"rules":[
			{"id":"loose","when":"tags.kind == 'loose'","targets":["gemini"],"on_unsupported":"drop"},
			{"id":"strict","when":"tags.kind == 'strict'","targets":["gemini"],"on_unsupported":"reject"},
			{"id":"rest","targets":["gemini"]}]}`).want(t, 200)
		keys := map[string][]string{"": nil}
		for _, word := range []string{"drop", "reject"} {
			keys[word] = as(h.made("/api/keys", `{"on_unsupported":"`+word+`"}`)["api_key"].(string))
		}
		const hint, contract = `,"seed":1,"logit_bias":{"1":2}`, `,"n":9`
		const hintDropped, contractDropped = "dropped=logit_bias;reason=unsupported", "dropped=n;reason=unsupported"
		for _, c := range []struct{ key, rule, members, param, warning string }{
			{"", "rest", hint, "", hintDropped},
			{"", "rest", contract, "n", ""},
			{"", "loose", hint, "", hintDropped},
			{"", "loose", contract, "", contractDropped},
			{"", "strict", hint, "logit_bias", ""},
			{"", "strict", contract, "n", ""},
			{"drop", "rest", contract, "", contractDropped},
			{"drop", "strict", contract, "", contractDropped}, // the key's word goes first
			{"drop", "strict", hint, "", hintDropped},
			{"reject", "loose", hint, "logit_bias", ""},
			{"reject", "loose", contract, "n", ""},
			{"reject", "", hint, "logit_bias", ""}, // no rule: the request names the provider
			{"drop", "", contract, "", contractDropped},
			{"", "", contract, "n", ""},
		} {
			model := "auto"
			if c.rule == "" {
				model = "gemini/gemini-3.8-flash"
			}
			for _, stream := range []string{"", `,"stream":true`} {
				asked := len(h.attempts())
				r := h.do("POST", "/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"hi"}]`+c.members+stream+`}`,
					append([]string{"X-Threadhub-Tag-Kind", c.rule}, keys[c.key]...)...)
				if got := r.header.Get("X-Threadhub-Warning"); got != c.warning {
					t.Errorf("%+v%s: warned of %q", c, stream, got)
				}
				e := gjson.GetBytes(r.body, "error")
				if refused := c.param != ""; refused != (r.status == 400) || e.Get("param").Str != c.param || refused && e.Get("code").Str != "unsupported_parameter" {
					t.Errorf("%+v%s: %d %s", c, stream, r.status, r.body)
				}
				if n := len(h.attempts()) - asked; (n == 1) != (r.status == 200) {
					t.Errorf("%+v%s: the provider was asked %d times", c, stream, n)
				}
				if r.status == 200 {
					if got := h.call(r)["warnings"].([]any); len(got) != 1 || got[0] != c.warning {
						t.Errorf("%+v%s: the call tells of %v", c, stream, got)
					}
				}
			}
		}
		dry := h.do("POST", "/api/router/choose", `{"message":"hi"}`, keys["drop"]...).want(t, 200).json(t)
		if dry["on_unsupported"] != "drop" {
			t.Errorf("the dry run says %v", dry)
		}
	})
}

func TestOnUnsupportedOfAKey(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		key := h.made("/api/keys", `{"on_unsupported":"reject"}`)
		path := "/api/keys/" + key["id"].(string)
		is := func(want any) {
			t.Helper()
			if got := h.do("GET", path, "").want(t, 200).json(t)["on_unsupported"]; got != want {
				t.Errorf("it is %v, want %v", got, want)
			}
		}
		is("reject")
		h.do("PATCH", path, `{"name":"other"}`).want(t, 200)
		is("reject")
		h.do("PATCH", path, `{"on_unsupported":"drop"}`).want(t, 200)
		is("drop")
		h.do("PATCH", path, `{"on_unsupported":null}`).want(t, 200)
		is(nil)
		if got := h.made("/api/keys", `{}`)["on_unsupported"]; got != nil {
			t.Errorf("without a word it is %v", got)
		}
		for body, code := range map[string]string{`{"on_unsupported":"ignore"}`: "invalid_value", `{"on_unsupported":true}`: "invalid_type"} {
			for _, r := range []heard{h.do("POST", "/api/keys", body), h.do("PATCH", path, body)} {
				if e := gjson.GetBytes(r.want(t, 400).body, "error"); e.Get("code").Str != code || e.Get("param").Str != "on_unsupported" {
					t.Errorf("%s: %s", body, r.body)
				}
			}
		}
		for _, body := range []string{`{"rules":[{"id":"a","targets":["openai"],"on_unsupported":"ignore"}]}`} {
			if e := gjson.GetBytes(h.do("PUT", "/api/router/rules", body).want(t, 400).body, "error"); e.Get("param").Str != "rules[0].on_unsupported" {
				t.Errorf("%s: %s", body, e.Raw)
			}
		}
	})
}
