package openai

import (
	"encoding/hex"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func canonOf(t *testing.T, in string) [32]byte {
	t.Helper()
	own, _, err := Canon([]byte(in))
	if err != nil {
		t.Fatalf("%s: %v", in, err)
	}
	return own
}

func TestCanonEqual(t *testing.T) {
	for _, same := range [][]string{
		{ // a string is one text part; marks on parts, names and unknown members do not count
			`{"role":"user","content":"a\"é"}`, ` { "content" : "a\u0022\u00e9" , "role" : "us\u0065r" } `, `{"role":"user","content":[{"type":"text","text":"a\"é"}]}`,
			`{"role":"user","content":[{"text":"a\"é","cache_control":{"type":"ephemeral"},"type":"text"}]}`, `{"role":"user","content":"a\"é","name":"ann","x":1}`,
			`{"role":"user","content":[{"type":"text","text":""},{"type":"text","text":"a\"é"}]}`,
		},
		{`{"role":"assistant"}`, `{"role":"assistant","content":null}`, `{"role":"assistant","content":""}`, `{"role":"assistant","content":[]}`, `{"role":"assistant","content":[{"type":"text","text":""}],"tool_calls":[],"refusal":null}`},
		{ // what the provider and the gateway add
			`{"role":"assistant","content":"x"}`, `{"role":"assistant","content":"x","refusal":null,"annotations":[{"type":"url_citation"}],"reasoning":"r","reasoning_content":"r","reasoning_details":[{}],"extra_content":{},"audio":null,"images":[]}`,
		},
		{ // arguments by value
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1,\"b\":[1.50,\"\\u00e9\"]}"}}]}`,
			`{"role":"assistant","tool_calls":[{"function":{"arguments":" { \"b\" : [ 15e-1 , \"é\" ] , \"a\" : 1.0 } ","name":"f"},"id":"c","index":0,"extra_content":{"google":1}}]}`,
			`{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":{"a":1,"b":[1.5,"é"]}}}]}`,
		},
		{`{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]}`, `{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":""}}]}`, `{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f"}}]}`},
		{ // no JSON: the text
			`{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"a\":"}}]}`, `{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\u0022a\u0022: "}}]}`,
		},
		{`{"role":"assistant","tool_calls":[{"id":"c","type":"custom","custom":{"name":"f","input":"2+3"}}]}`, `{"role":"assistant","tool_calls":[{"custom":{"input":"2+3","name":"f"},"id":"c"}]}`},
		{`{"role":"user","content":[{"type":"image_url","image_url":{"url":"u","detail":"low"}}]}`, `{"role":"user","content":[{"image_url":{"detail":"low","url":"\u0075"},"type":"image_url","cache_control":{"type":"ephemeral"}}]}`},
		{`{"role":"assistant","content":null,"refusal":"no"}`, `{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}`, `{"role":"assistant","content":[{"type":"refusal","refusal":"no"}],"refusal":"no"}`},
		{`{"role":"assistant","audio":{"id":"a"}}`, `{"role":"assistant","content":null,"audio":{"id":"a","data":"xx","transcript":"t","expires_at":1}}`},
		{`{"role":"user","content":[{"type":"x","n":0}]}`, `{"role":"user","content":[{"type":"x","n":-0.0}]}`, `{"role":"user","content":[{"type":"x","n":0e7}]}`},
		{`{"role":"user","content":[{"type":"x","n":120}]}`, `{"role":"user","content":[{"type":"x","n":1.2e2}]}`, `{"role":"user","content":[{"type":"x","n":12E+1}]}`, `{"role":"user","content":[{"type":"x","n":1200e-1}]}`},
	} {
		want := canonOf(t, same[0])
		for _, in := range same[1:] {
			if canonOf(t, in) != want {
				t.Errorf("differ:\n%s\n%s", same[0], in)
			}
		}
	}
}

func TestCanonDiffers(t *testing.T) {
	call := func(id, name, args string) string {
		return `{"role":"assistant","tool_calls":[{"id":"` + id + `","function":{"name":"` + name + `","arguments":"` + args + `"}}]}`
	}
	all := []string{
		`{"role":"user"}`, `{"role":"assistant"}`, `{"role":"tool"}`, `{"role":"system","content":"a"}`, `{"role":"developer","content":"a"}`,
		`{"role":"user","content":"a"}`, `{"role":"assistant","content":"a"}`, `{"role":"user","content":"a "}`, `{"role":"user","content":"A"}`,
		`{"role":"user","content":"e\u0301"}`, `{"role":"user","content":"é"}`, // no normal forms: other bytes, another text
		`{"role":"user","content":"ab"}`, `{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`,
		`{"role":"user","content":[{"type":"text","text":"b"},{"type":"text","text":"a"}]}`,
		`{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}`, `{"role":"user","content":[{"type":"image_url","image_url":{"url":"v"}}]}`,
		`{"role":"user","content":[{"type":"image_url","image_url":{"url":"u","detail":"low"}}]}`,
		`{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]}`,
		`{"role":"user","content":[{"type":"x","n":12345678901234567890}]}`, `{"role":"user","content":[{"type":"x","n":12345678901234567891}]}`,
		`{"role":"user","content":[{"type":"x","n":1}]}`, `{"role":"user","content":[{"type":"x","n":-1}]}`, `{"role":"user","content":[{"type":"x","n":10}]}`, `{"role":"user","content":[{"type":"x","n":"1"}]}`,
		`{"role":"user","content":[{"type":"x","n":1e999999999999}]}`, `{"role":"user","content":[{"type":"x","n":true}]}`, `{"role":"user","content":[{"type":"x","n":null}]}`,
		`{"role":"user","content":[{"type":"x","n":[]}]}`, `{"role":"user","content":[{"type":"x","n":{}}]}`, `{"role":"user","content":[{"type":"x","n":[[]]}]}`, `{"role":"user","content":[{"type":"x","n":[[],[]]}]}`,
		`{"role":"user","content":[{"type":"x","n":[[[]]]}]}`, `{"role":"user","content":[{"type":"x"}]}`, `{"role":"user","content":["x"]}`, `{"role":"user","content":7}`,
		`{"role":"assistant","refusal":"a"}`, `{"role":"assistant","content":"a","refusal":"a"}`, `{"role":"assistant","audio":{"id":"a"}}`, `{"role":"assistant","audio":{"id":"b"}}`,
		call("c", "f", "{}"), call("d", "f", "{}"), call("c", "g", "{}"), call("c", "f", "[]"), call("c", "f", `{\"a\":1}`), call("c", "f", `{\"a\":2}`), call("c", "f", `{\"a\":\"1\"}`), call("c", "f", `{\"a\":`),
		call("c", "f", `{\"cache_control\":1}`), // only on parts is it a mark
		`{"role":"assistant","content":"a","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]}`,
		`{"role":"assistant","tool_calls":[{"id":"c","custom":{"name":"f","input":"{}"}}]}`,
		`{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}},{"id":"d","function":{"name":"f","arguments":"{}"}}]}`,
		`{"role":"assistant","tool_calls":[{"id":"d","function":{"name":"f","arguments":"{}"}},{"id":"c","function":{"name":"f","arguments":"{}"}}]}`,
		`{"role":"assistant","function_call":{"name":"f","arguments":"{}"}}`, `{"role":"function","name":"f","content":"a"}`, `{"role":"function","name":"g","content":"a"}`,
		`{"role":"tool","tool_call_id":"c","content":"a"}`, `{"role":"tool","tool_call_id":"d","content":"a"}`,
	}
	seen := map[[32]byte]string{}
	for _, in := range all {
		own := canonOf(t, in)
		if old, twice := seen[own]; twice {
			t.Errorf("equal:\n%s\n%s", old, in)
		}
		seen[own] = in
	}
}

func TestCanonChained(t *testing.T) {
	for role, want := range map[string]bool{"user": true, "assistant": true, "tool": true, "function": true, "system": false, "developer": false} {
		_, got, err := Canon([]byte(`{"role":"` + role + `","content":"x"}`))
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", role, got, err)
		}
	}
}

func TestCanonErrors(t *testing.T) {
	for _, in := range []string{``, `null`, `[]`, `"x"`, `{}`, `{"role":1}`, `{"role":"user"}x`, `{"role":"user"`, "{\"role\":\"\xff\"}"} {
		if _, _, err := Canon([]byte(in)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// Hashes are stored: this test fails when they change, and CanonVersion must then change too.
func TestCanonIsStable(t *testing.T) {
	own := canonOf(t, `{"role":"assistant","content":[{"type":"text","text":"é"},{"type":"x","n":[1.50,{"b":null,"a":"s"}]}],"refusal":"r","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"k\":-2e3}"}}]}`)
	next := Chain(own[:], own)
	first := Chain(nil, own)
	got := hex.EncodeToString(own[:4]) + hex.EncodeToString(first[:4]) + hex.EncodeToString(next[:4])
	if want := "fb7993cfd62601b0e5f54005"; got != want || CanonVersion != 1 {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzCanon(f *testing.F) {
	for _, raw := range fixtures(f, "*/*/*.req.json", 20) {
		if c, err := ParseChat(raw); err == nil {
			for _, m := range c.Messages {
				f.Add(m.Raw)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		own, chained, err := Canon(raw)
		if err != nil {
			return
		}
		// White space, an unknown member and the way upstream change nothing.
		spaced := []byte(" " + strings.Replace(string(raw), "{", "{ \"\u2028\" :\n1e5 ,", 1) + "\n")
		if empty := strings.TrimLeft(string(raw)[strings.IndexByte(string(raw), '{')+1:], " \t\r\n"); empty[0] == '}' {
			return
		}
		again, sameChained, err := Canon(spaced)
		if err != nil || again != own || chained != sameChained {
			t.Fatalf("%q and %q differ (%v)", raw, spaced, err)
		}
		for _, kin := range []Kinship{Own, Relative, Foreign} {
			told, warnings := History([]Told{{Raw: raw, Role: memberText(raw, "role"), Kin: kin}}, nil, nil)
			for _, m := range told {
				if up, _, err := Canon(m); err != nil || len(told) == 1 && len(warnings) == 0 && up != own {
					t.Fatalf("%q and %q differ (%v)", raw, m, err)
				}
			}
		}
	})
}

func BenchmarkCanon1KB(b *testing.B) {
	c, err := ParseChat(chat20k())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(c.Messages[1].Raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Canon(c.Messages[1].Raw); err != nil {
			b.Fatal(err)
		}
	}
}
