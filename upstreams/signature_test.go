package upstreams

import (
	"testing"

	"github.com/tidwall/gjson"
)

// TestCallSignature knows the forms in which clients that were another gateway's send signatures back.
func TestCallSignature(t *testing.T) {
	const long = "EpAC99pabHwTS7Rsr29G29Bga6Gbp35HAsXViurx"
	detail := func(members string) string { return `[{"type":"reasoning.encrypted",` + members + `}]` }
	for _, c := range []struct {
		about, call, details string
		second               bool
		id, signature        string
	}{
		{"none", `{"id":"a"}`, "", false, "a", ""},
		{"Google's and ours", `{"id":"a","extra_content":{"google":{"thought_signature":"QQ=="}}}`, "", false, "a", `"QQ=="`},
		{"Portkey's", `{"id":"a","function":{"thought_signature":"QQ=="}}`, "", false, "a", `"QQ=="`},
		{"LiteLLM's client's", `{"id":"a","provider_specific_fields":{"thought_signature":"QQ=="}}`, "", false, "a", `"QQ=="`},
		{"LiteLLM's client's, within", `{"id":"a","function":{"provider_specific_fields":{"thought_signature":"QQ=="}}}`, "", false, "a", `"QQ=="`},
		{"LiteLLM's", `{"id":"call_1__thought__Q+/="}`, "", false, "call_1", `"Q+/="`},
		{"LiteLLM's, broken", `{"id":"call_1__thought__a b"}`, "", false, "call_1", ""},
		{"Bifrost's", `{"id":"f_ts_` + long + `"}`, "", false, "f", `"` + long + `"`},
		{"a name like Bifrost's", `{"id":"search_ts_backup"}`, "", false, "search_ts_backup", ""},
		{"Bifrost's older", `{"id":"a"}`, detail(`"id":"tool_call_a","signature":"QQ=="`), true, "a", `"QQ=="`},
		{"OpenRouter's", `{"id":"a"}`, detail(`"format":"google-gemini-v1","id":"a","data":"QQ=="`), true, "a", `"QQ=="`},
		{"OpenRouter's, of another call", `{"id":"a"}`, detail(`"format":"google-gemini-v1","id":"b","data":"QQ=="`), false, "a", ""},
		{"OpenRouter's, of no call", `{"id":"a"}`, detail(`"format":"google-gemini-v1","data":"QQ=="`), false, "a", `"QQ=="`},
		{"OpenRouter's, of no call, for the second", `{"id":"a"}`, detail(`"format":"google-gemini-v1","data":"QQ=="`), true, "a", ""},
		{"another vendor's", `{"id":"a"}`, detail(`"format":"anthropic-claude-v1","id":"a","data":"QQ=="`), false, "a", ""},
		{"what is given plainly goes before what is hidden", `{"id":"a__thought__Qg==","extra_content":{"google":{"thought_signature":"QQ=="}}}`, "", false, "a", `"QQ=="`},
		{"what is no signature", `{"id":"a","extra_content":{"google":{"thought_signature":"\u0041"}}}`, "", false, "a", ""},
	} {
		id, signature := CallSignature(gjson.Parse(c.call), gjson.Parse(c.details), !c.second)
		if id != c.id || signature != c.signature {
			t.Errorf("%s: %q with %q, want %q with %q", c.about, id, signature, c.id, c.signature)
		}
	}
}

func TestSigned(t *testing.T) {
	const f = `"function":{"name":"f","arguments":"{}"}`
	call := gjson.Parse(`{"id":"a",` + f + `}`)
	got := Signed([]byte(`{"role":"assistant","tool_calls":[{"id":"a",` + f + `,"extra_content":{"google":{"thought_signature":"QQ=="}}},{"id":"b"},` +
		`{"id":"","extra_content":{"google":{"thought_signature":"Qg=="}}},{"id":"c","extra_content":{"google":{"thought_signature":"no base64"}}}]}`))
	if len(got) != 1 || got[CallName(call)] != "QQ==" {
		t.Errorf("signed are %v", got)
	}
	for _, none := range []string{`{}`, `{"tool_calls":[{"id":"a"}]}`, `{"content":"\"thought_signature\""}`, `{"tool_calls":{"thought_signature":1}}`} {
		if got := Signed([]byte(none)); got != nil {
			t.Errorf("%s is signed with %v", none, got)
		}
	}
	s := Signatures{Known: map[string]string{CallName(call): "QQ==", "x": "y"}}
	if got := s.Of(call); got != `"QQ=="` || s.Unknown != nil {
		t.Errorf("%s, and %v are not known", got, s.Unknown)
	}
	if got := s.Of(gjson.Parse(`{"id":"b"}`)); got != "" || len(s.Unknown) != 1 || s.Of(gjson.Parse(`{}`)) != "" || len(s.Unknown) != 1 {
		t.Errorf("%s, and %v are not known", got, s.Unknown)
	}
}

// A call is known however its client writes it, and no other call is taken for it.
func TestCallName(t *testing.T) {
	name := func(text string) string { return CallName(gjson.Parse(text)) }
	first := name(`{"id":"call_0","type":"function","function":{"name":"f","arguments":"{\"a\":1,\"b\":[2.50,\"x\"]}"}}`)
	for _, same := range []string{
		`{"function":{"arguments":"{ \"b\" : [2.50, \"\\u0078\"], \"a\": 1 }","name":"f"},"id":"call_0"}`,
		`{"id":"call_0","function":{"name":"f","arguments":{"b":[2.50,"x"],"a":1}},"extra_content":{}}`,
		`{"id":"call_0__thought__QQ==","function":{"name":"f","arguments":"{\"a\":1,\"b\":[2.50,\"x\"]}"}}`,
	} {
		if name(same) != first {
			t.Errorf("%s is another call", same)
		}
	}
	for _, other := range []string{
		`{"id":"call_1","function":{"name":"f","arguments":"{\"a\":1,\"b\":[2.50,\"x\"]}"}}`,
		`{"id":"call_0","function":{"name":"g","arguments":"{\"a\":1,\"b\":[2.50,\"x\"]}"}}`,
		`{"id":"call_0","function":{"name":"f","arguments":"{\"a\":2,\"b\":[2.50,\"x\"]}"}}`,
		`{"id":"call_0","function":{"name":"f"}}`, `{"id":"call_0"}`,
	} {
		if name(other) == first {
			t.Errorf("%s is the same call", other)
		}
	}
	if name(`{"id":"a","function":{"name":"f","arguments":""}}`) != name(`{"id":"a","function":{"name":"f","arguments":"{}"}}`) {
		t.Error("no arguments are others than none")
	}
	if name(`{"id":"a","custom":{"name":"f","input":"x"}}`) == name(`{"id":"a","custom":{"name":"f","input":"y"}}`) {
		t.Error("a custom tool's input does not count")
	}
	if name(`{"function":{"name":"f"}}`) != "" {
		t.Error("a call without an id has a name")
	}
}
