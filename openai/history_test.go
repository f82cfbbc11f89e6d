package openai

import (
	"encoding/json"
	"strings"
	"testing"
)

// told is one message on its way upstream again.
func told(kin Kinship, raw string) Told {
	var m struct{ Role string }
	if err := json.Unmarshal([]byte(raw), &m); err != nil {
		panic(err)
	}
	return Told{Raw: []byte(raw), Role: m.Role, Kin: kin}
}

func cut(t Told) Told {
	t.Cut = true
	return t
}

func isTold(t *testing.T, about string, in []Told, next []Message, want, warnings string) {
	t.Helper()
	heard(t, about, in, next, nil, want, warnings)
}

func heard(t *testing.T, about string, in []Told, next []Message, parts map[string][]string, want, warnings string) {
	t.Helper()
	out, warned := History(in, next, parts)
	var texts []string
	for _, m := range out {
		if !json.Valid(m) {
			t.Errorf("%s: %s", about, m)
		}
		texts = append(texts, string(m))
	}
	if got := strings.Join(texts, "\n"); got != want {
		t.Errorf("%s:\n got %s\nwant %s", about, got, want)
	}
	if got := strings.Join(warned, ", "); got != warnings {
		t.Errorf("%s: warned of %q, want %q", about, got, warnings)
	}
}

// TestHistoryByKinship says what of a message is told to whom, and what is warned of.
func TestHistoryByKinship(t *testing.T) {
	f := func(in, relative, foreign string, warnings ...string) {
		t.Helper()
		isTold(t, in, []Told{told(Own, in)}, nil, in, "")
		isTold(t, in, []Told{told(Relative, in)}, nil, relative, warnings[0])
		isTold(t, in, []Told{told(Foreign, in)}, nil, foreign, warnings[len(warnings)-1])
	}
	same := func(in string) { t.Helper(); f(in, in, in, "") }
	same(`{ "role" : "user", "content" : "a", "name":"ann" }`)
	same(`{"role":"user","content":[{"type":"text","text":"x","cache_control":{}}],"odd":1}`)
	same(`{ "role":"assistant" , "content":"a\u00e9","refusal":null}`)
	same(`{"role":"assistant","content":"x","refusal":null,"annotations":[]}`)
	f(`{"role":"assistant", "content" : "\u00e9" ,"reasoning":"r","reasoning_details":[{}],"refusal":"no","annotations":[{"a":1}],"citations":null,"odd, thing\n":1}`,
		`{"role":"assistant","content":"\u00e9","refusal":"no","annotations":[{"a":1}]}`, `{"role":"assistant","content":"\u00e9","refusal":"no","annotations":[{"a":1}]}`,
		"dropped=messages.reasoning;reason=other_model, dropped=messages.reasoning_details;reason=other_model, dropped=messages.other;reason=other_model")
	drawn := `{"role":"assistant","content":null,"images":[{"type":"image_url","image_url":{"url":"u"},"index":0,"extra_content":{"google":{}}}],"extra_content":{"google":{"thought_signature":"s"}}}`
	f(drawn, `{"role":"assistant","content":null,"images":[{"type":"image_url","image_url":{"url":"u"}}]}`, `{"role":"assistant","content":null,"images":[{"type":"image_url","image_url":{"url":"u"}}]}`,
		"dropped=messages.images.index;reason=other_model, dropped=messages.images.extra_content;reason=other_model, dropped=messages.extra_content;reason=other_model")
}

// Sound has an id that means something to who made it only, and nobody wants it back.
func TestHistoryOfSound(t *testing.T) {
	spoken := `{"role":"assistant","content":null,"audio":{"id":"a","data":"zz","transcript":"t\u00e9","expires_at":1}}`
	isTold(t, "its own", []Told{told(Own, spoken)}, nil, `{"role":"assistant","content":null,"audio":{"id":"a"}}`, "")
	isTold(t, "another's", []Told{told(Foreign, spoken)}, nil, `{"role":"assistant","content":"t\u00e9"}`, "changed=messages.audio;reason=transcript")
	isTold(t, "without a content", []Told{told(Foreign, `{"role":"assistant","audio":{"transcript":"t"} }`)}, nil, `{"role":"assistant","content":"t"}`, "changed=messages.audio;reason=transcript")
	isTold(t, "beside a text", []Told{told(Foreign, `{"role":"assistant","content":"x","audio":{"id":"a","transcript":"t"}}`)}, nil, `{"role":"assistant","content":"x"}`, "")
	isTold(t, "without a transcript", []Told{told(Foreign, `{"role":"assistant","content":null,"audio":{"id":"a"}}`)}, nil, ``, "dropped=messages.audio;reason=other_model")
	isTold(t, "none", []Told{told(Foreign, `{"role":"assistant","content":"x","audio":null}`)}, nil, `{"role":"assistant","content":"x"}`, "")
}

// An answer that says nothing is refused by providers, whoever gave it.
func TestHistoryOfNothing(t *testing.T) {
	user := told(Own, `{"role":"user","content":"q"}`)
	for _, in := range []string{
		`{"role":"assistant","content":""}`, `{"role":"assistant","content":null,"refusal":null}`, `{"role":"assistant","content":[]}`,
		`{"role":"assistant","content":[{"type":"text","text":""},{"type":"refusal","refusal":""}]}`, `{"role":"assistant"}`, `{"role":"assistant","content":"","tool_calls":[]}`,
	} {
		for _, kin := range []Kinship{Own, Relative, Foreign} {
			isTold(t, in, []Told{user, told(kin, in), user}, nil, string(user.Raw)+"\n"+string(user.Raw), "")
		}
	}
	isTold(t, "only thoughts", []Told{user, told(Own, `{"role":"assistant","content":null,"reasoning_content":"r"}`)}, nil, string(user.Raw), "dropped=messages.reasoning_content;reason=no_text")
	signed := `{"role":"assistant","content":"","extra_content":{"google":{"thought_signature":"s"}}}`
	isTold(t, "only a signature", []Told{user, told(Own, signed)}, nil, string(user.Raw)+"\n"+signed, "")
}

const (
	callA   = `{"id":"a","type":"function","function":{"name":"f","arguments":"{\"a\" : 1}"}}`
	callB   = `{"id":"b","type":"function","function":{"name":"g","arguments":"{\"b"}}`
	resultA = `{"role":"tool","tool_call_id":"a","content":"1"}`
	resultB = `{"role":"tool","tool_call_id":"b","content":"2"}`
	notB    = `{"role":"tool","tool_call_id":"b","content":"The tool was not run: the conversation went on without its result."}`
)

func calling(content string, calls ...string) string {
	return `{"role":"assistant","content":` + content + `,"tool_calls":[` + strings.Join(calls, ",") + `]}`
}

// Calls are told with their results, and the other way around.
func TestHistoryOfCalls(t *testing.T) {
	user := `{"role":"user","content":"q"}`
	system := Message{Role: "system", Raw: []byte(`{"role":"system","content":"s"}`)}
	next := func(raw ...string) (list []Message) {
		list = append(list, system)
		for _, r := range raw {
			list = append(list, Message{Role: told(Own, r).Role, Raw: []byte(r)})
		}
		return list
	}
	all := func(raw ...string) string { return strings.Join(raw, "\n") }
	own := func(raw ...string) (list []Told) {
		for _, r := range raw {
			list = append(list, told(Own, r))
		}
		return list
	}
	both := calling("null", callA, callB)
	isTold(t, "with their results", own(user, both, resultB, resultA, user), nil, all(user, both, resultB, resultA, user), "")
	isTold(t, "with results that come now", own(user, both, resultB), next(resultA), all(user, both, resultB), "")
	isTold(t, "one never got its result", own(user, both, resultA, user), nil, all(user, both, notB, resultA, user), "added=messages.tool;reason=no_result")
	isTold(t, "one got no result now", own(user, both), next(resultA, user), all(user, both, notB), "added=messages.tool;reason=no_result")
	isTold(t, "a result too late", own(user, calling("null", callB)), next(user, resultB), all(user, calling("null", callB), notB), "added=messages.tool;reason=no_result")
	isTold(t, "results of nothing", own(user, resultA, both, resultA, resultB, resultA, user, resultB), nil, all(user, both, resultA, resultB, user), "dropped=messages.tool;reason=no_call")
	isTold(t, "calls without a name to answer", own(user, calling(`"x"`, `{"type":"function","function":{"name":"f"}}`)), nil, all(user, `{"role":"assistant","content":"x"}`), "dropped=messages.tool_calls;reason=no_id")

	half := func(content string) []Told {
		return []Told{told(Own, user), cut(told(Own, calling(content, callA, callB)))}
	}
	isTold(t, "cut", half(`"Let me"`), next(user), all(user, `{"role":"assistant","content":"Let me"}`), "dropped=messages.tool_calls;reason=incomplete")
	isTold(t, "cut, and nothing else said", half("null"), next(user), user, "dropped=messages.tool_calls;reason=incomplete")
	isTold(t, "cut, and one of them run", half("null"), next(resultA), all(user, calling("null", callA)), "dropped=messages.tool_calls;reason=incomplete")
	isTold(t, "cut, with what belongs to a whole one", []Told{cut(told(Own, `{"role":"assistant","content":"x","reasoning_details":[{"signature":"ha"}],"extra_content":{"google":{}}}`))}, nil,
		`{"role":"assistant","content":"x"}`, "dropped=messages.reasoning_details;reason=incomplete, dropped=messages.extra_content;reason=incomplete")

	foreign := func(raw ...string) []Told {
		return append(own(user), told(Foreign, calling("null", raw...)))
	}
	isTold(t, "of another provider", foreign(`{"id":"a","index":0,"type":"function","function":{"name":"f","arguments":""},"extra_content":{"google":{}}}`), next(resultA),
		all(user, calling("null", `{"id":"a","type":"function","function":{"name":"f","arguments":""}}`)), "dropped=messages.tool_calls.extra_content;reason=other_model")
	isTold(t, "with names not all take", foreign(`{"id":"a","type":"function","function":{"name":"ns.f:é","arguments":"{}"}}`, `{"id":"b","type":"custom","custom":{"name":"`+strings.Repeat("n", 70)+`","input":"ns.f"}}`), next(resultA, resultB),
		all(user, calling("null", `{"id":"a","type":"function","function":{"name":"ns_f___","arguments":"{}"}}`, `{"id":"b","type":"custom","custom":{"name":"`+strings.Repeat("n", 64)+`","input":"ns.f"}}`)),
		"changed=messages.tool_calls.name;reason=other_model")
	relative := append(own(user), told(Relative, calling("null", `{"id":"a","type":"function","function":{"name":"ns.f","arguments":"{}"}}`)))
	isTold(t, "with names its own provider takes", relative, next(resultA), all(user, string(relative[1].Raw)), "")
}

// Older clients have functions, of which one is called at a time, by its name.
func TestHistoryOfFunctions(t *testing.T) {
	user := told(Own, `{"role":"user","content":"q"}`)
	call := `{"role":"assistant","content":null,"function_call":{"name":"f.1","arguments":"{}"}}`
	result := `{"role":"function","name":"f.1","content":"1"}`
	isTold(t, "with its result", []Told{user, told(Own, call), told(Own, result)}, nil, string(user.Raw)+"\n"+call+"\n"+result, "")
	isTold(t, "another's", []Told{user, told(Foreign, call), told(Own, result)}, nil, string(user.Raw)+"\n"+strings.ReplaceAll(call+"\n"+result, ".", "_"), "changed=messages.tool_calls.name;reason=other_model")
	isTold(t, "without", []Told{user, told(Own, call), user}, nil, string(user.Raw)+"\n"+call+"\n"+strings.Replace(notB, `"tool","tool_call_id":"b"`, `"function","name":"f.1"`, 1)+"\n"+string(user.Raw), "added=messages.function;reason=no_result")
	isTold(t, "cut", []Told{user, cut(told(Own, call)), user}, nil, string(user.Raw)+"\n"+string(user.Raw), "dropped=messages.function_call;reason=incomplete")
	isTold(t, "a result alone", []Told{user, told(Own, result)}, nil, string(user.Raw), "dropped=messages.function;reason=no_call")
}

// What a provider refuses it is not shown, unless it has taken it before.
func TestHistoryForAStrictProvider(t *testing.T) {
	parts := map[string][]string{"user": {"text", "image_url"}, "assistant": {"text"}, "tool": {"text"}, "system": {"text"}}
	f := func(in, want, warnings string) {
		t.Helper()
		heard(t, in, []Told{told(Foreign, in)}, nil, parts, want, warnings)
		for _, kin := range []Kinship{Own, Relative} {
			heard(t, in, []Told{told(kin, in)}, nil, parts, in, "")
		}
		heard(t, in, []Told{told(Foreign, in)}, nil, nil, in, "")
	}
	f(`{"role":"user" ,"name":"ann","content":"a"}`, `{"role":"user" ,"name":"ann","content":"a"}`, "")
	f(`{"role":"user","content":[{"type":"text","text":"a"}, {"type":"image_url","image_url":{"url":"u"}}]}`, `{"role":"user","content":[{"type":"text","text":"a"}, {"type":"image_url","image_url":{"url":"u"}}]}`, "")
	f(`{"role":"user","content":[{"type":"video_url","video_url":{}},{"type":"text","text":"a"},{"type":"odd thing"}],"cache_control":{"a":1},"odd":null}`, `{"role":"user","content":[{"type":"text","text":"a"}]}`,
		"dropped=messages.content.video_url;reason=unsupported, dropped=messages.content.other;reason=unsupported, dropped=messages.cache_control;reason=unsupported")
	f(`{"role":"user","content":[{"type":"video_url","video_url":{}}]}`, ``, "dropped=messages.content.video_url;reason=unsupported")
	f(`{"role":"system","content":[{"type":"image_url","image_url":{}}]}`, `{"role":"system","content":""}`, "dropped=messages.content.image_url;reason=unsupported")

	call := told(Own, calling("null", callA))
	result := `{"role":"tool","tool_call_id":"a","is_error":true,"content":[{"type":"image_url","image_url":{"url":"u"}}]}`
	heard(t, "a result", []Told{call, told(Foreign, result)}, nil, parts, string(call.Raw)+"\n"+`{"role":"tool","tool_call_id":"a","content":""}`,
		"dropped=messages.is_error;reason=unsupported, dropped=messages.content.image_url;reason=unsupported")
	heard(t, "an answer", []Told{told(Foreign, `{"role":"assistant","content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"a"}]}`)}, nil, parts,
		`{"role":"assistant","content":[{"type":"text","text":"a"}]}`, "dropped=messages.content.thinking;reason=unsupported")
	heard(t, "what it drew and cites", []Told{told(Foreign, `{"role":"assistant","content":"a","images":[{}],"annotations":[{}]}`)}, nil, parts,
		`{"role":"assistant","content":"a"}`, "dropped=messages.images;reason=other_model, dropped=messages.annotations;reason=other_model")
	heard(t, "what it drew alone", []Told{told(Foreign, `{"role":"assistant","content":null,"images":[{}]}`)}, nil, parts, ``, "dropped=messages.images;reason=other_model")
}

func TestWithoutThoughts(t *testing.T) {
	for in, want := range map[string]string{
		`{"role":"assistant","content":""}`: `{"role":"assistant","content":""}`,
		`{"role":"assistant","content":"a","reasoning_content":"r","annotations":[{}],"tool_calls":[{"id":"c","function":{"name":"ns.f"},"extra_content":{"google":{"thought_signature":"s"}}}],"extra_content":{"google":{"thought_signature":"s"}}}`: `{"role":"assistant","content":"a","annotations":[{}],"tool_calls":[{"id":"c","function":{"name":"ns.f"}}]}`,
		`{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"},"reasoning":"r"}`:                                                                                                                                            `{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}}`,
	} {
		got, warnings := WithoutThoughts([]byte(in))
		if string(got) != want || (len(warnings) == 0) != (in == want) {
			t.Errorf("%s: %s, warned of %q", in, got, warnings)
		}
	}
}

// A provider that invents members does not fill the header.
func TestHistoryWarnsOfFew(t *testing.T) {
	var more strings.Builder
	for i := range 500 {
		more.WriteString(`,"x` + strings.Repeat("y", i) + `":1`)
	}
	if _, warnings := History([]Told{told(Foreign, `{"role":"assistant","content":"a"`+more.String()+`}`)}, nil, nil); len(warnings) != maxWarnings {
		t.Errorf("%d warnings", len(warnings))
	}
}
