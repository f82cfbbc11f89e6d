package openai

import "testing"

func TestForProvider(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := string(ForProvider([]byte(in), false)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
		if got := ForProvider([]byte(in), true); string(got) != in {
			t.Errorf("%s: with extras %s", in, got)
		}
	}
	same := func(in string) { t.Helper(); f(in, in) }
	same(`{ "role" : "user", "content" : "a", "name":"ann" }`)
	same(`{"role":"assistant","content":null,"refusal":null,"tool_calls":[ {"id":"c","type":"function","function":{"name":"f","arguments":"{}"}} ]}`)
	same(`{"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"x"}]}`)
	same(`{"role":"assistant","audio":{"id":"a"}}`)
	f(`{"role":"assistant","content":"x","refusal":null,"annotations":[]}`, `{"role":"assistant","content":"x"}`)
	f(`{"role":"assistant", "content" : "\u00e9" ,"reasoning":"r","reasoning_details":[{}],"refusal":"no"}`, `{"role":"assistant","content":"\u00e9","refusal":"no"}`)
	f(`{"role":"assistant","content":null,"audio":null}`, `{"role":"assistant","content":null}`)
	f(`{"role":"assistant","audio":{"id":"a","data":"zz","transcript":"t","expires_at":1}}`, `{"role":"assistant","audio":{"id":"a"}}`)
	f(`{"role":"assistant","content":"","tool_calls":[{"id":"c","index":0,"type":"function","function":{"name":"f","arguments":"{\"a\" : 1}"},"extra_content":{"google":{}}},{"id":"d","custom":{}}]}`,
		`{"role":"assistant","content":"","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\" : 1}"}},{"id":"d","custom":{}}]}`)
}
