package simulator

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

func content(r *reply) string { return gjson.Get(r.body, "choices.0.message.content").String() }

func TestTheAnswerDependsOnTheRequest(t *testing.T) {
	s := start(t, Options{Note: "This answer is simulated."})
	r := ask(t, s, "openai", `{"model":"sim-1","messages":[{"role":"system","content":"x"},{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}]}`, soon)
	if got := content(r); got != "You said: one\ntwo. I can see 2 messages. This answer is simulated." {
		t.Errorf("%q", got)
	}
	for do, want := range map[string]string{`text="hello \"you\""`: `hello "you"`, "text=hi": "hi", "size=100": filler(100)} {
		r := ask(t, s, "openai", prompt("sim-1", "[[sim "+do+"]] whatever", ""), soon)
		if got := content(r); got != want {
			t.Errorf("%s: %q", do, got)
		}
	}
	r = ask(t, s, "openai", prompt("sim-1", "a [[sim finish=content_filter prompt_tokens=2000 completion_tokens=9 cached_tokens=128 reasoning_tokens=4]] b", ""), soon)
	u := last(t, s).Usage
	if !strings.HasPrefix(content(r), "You said: a b.") || gjson.Get(r.body, "choices.0.finish_reason").String() != "content_filter" ||
		*u != (Usage{Prompt: 2000, Completion: 9, Total: 2009, Cached: 128, Reasoning: 4}) {
		t.Errorf("%s %+v", r.body, u)
	}
}

func TestTheTokenLimitIsKept(t *testing.T) {
	s := start(t, Options{})
	for _, model := range []string{"gpt-4.1-mini", "gpt-5.4"} {
		for _, limit := range []string{"1", "7", "40"} {
			for _, stream := range []string{"", `,"stream":true,"stream_options":{"include_usage":true}`} {
				ask(t, s, "openai", prompt(model, "[[sim size=5000]]", `,"max_completion_tokens":`+limit+stream), soon)
				a := last(t, s)
				if max := gjson.Parse(limit).Int(); a.Usage == nil || a.Usage.Completion > max || int64(len(a.Text)) > 4*max {
					t.Errorf("%s: %d bytes, %+v within %s tokens", model, len(a.Text), a.Usage, limit)
				}
			}
		}
	}
}

func TestAStreamSaysWhatAWholeAnswerSays(t *testing.T) {
	s := start(t, Options{})
	for _, provider := range []string{"openai", "openrouter"} {
		for _, text := range []string{"hi", "👩‍👩‍👧‍👦 你好 é \x00\"\\\n\u2028 end", "[[sim size=20000]]", "[[sim chunks=64]]", "[[sim chunks=3 text=ab]]", "please refuse"} {
			whole := ask(t, s, provider, prompt("sim-1", text, ""), soon)
			a := last(t, s)
			r := ask(t, s, provider, prompt("sim-1", text, `,"stream":true,"stream_options":{"include_usage":true}`), soon)
			b := last(t, s)
			if !r.done() || r.cut || content(whole) != strings.Join(r.texts, "") || a.Text != b.Text || b.Text != content(whole) {
				t.Errorf("%q: %q and %q", text, content(whole), r.texts)
			}
			if a.Usage == nil || b.Usage == nil || *a.Usage != *b.Usage {
				t.Errorf("%q: usage %+v and %+v", text, a.Usage, b.Usage)
			}
			for _, d := range r.data[:len(r.data)-1] {
				if !json.Valid([]byte(d)) || !utf8.ValidString(d) {
					t.Errorf("%q is not JSON", d)
				}
			}
			if strings.Contains(text, "chunks=64") && len(r.texts) != 64 {
				t.Errorf("%d pieces", len(r.texts))
			}
		}
	}
}

func TestPiecesAreTheText(t *testing.T) {
	for _, text := range []string{"", "a", "õ", "abc", "\xff\xfe", strings.Repeat("你好 ", 3000)} {
		for _, n := range []int{0, 1, 2, 3, 5, 64} {
			list := pieces(text, n)
			if strings.Join(list, "") != text {
				t.Errorf("%q in %d: %q", text, n, list)
			}
			if want := min(n, utf8.RuneCountInString(text)); n > 0 && len(list) != want || len(list) > 400 {
				t.Errorf("%d pieces of %d runes, asked for %d", len(list), utf8.RuneCountInString(text), n)
			}
		}
	}
}

func TestChoicesTakeTurns(t *testing.T) {
	s := start(t, Options{})
	r := ask(t, s, "openai", prompt("sim-1", "hi", `,"n":3,"stream":true`), soon)
	var order strings.Builder
	for _, d := range r.data {
		order.WriteString(gjson.Get(d, "choices.0.index").String())
	}
	a := last(t, s)
	if !strings.Contains(order.String(), "012012012") || len(a.Choices) != 3 || a.Choices[2] != a.Text+" Choice 3." {
		t.Errorf("%s %q", order.String(), a.Choices)
	}
}

func TestToolsAreCalledAndHeard(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ name, text, more, finish string }{
		{"asked for", "please call the tool", "", "tool_calls"},
		{"required", "hi", `,"tool_choice":"required"`, "tool_calls"},
		{"named, on a model that then says stop", "hi", `,"tool_choice":{"type":"function","function":{"name":"get_weather"}}`, "stop"},
	} {
		r := ask(t, s, "openai", prompt("gpt-4.1-mini", c.text, c.more+`,"tools":[`+weather+`]`), soon)
		call := gjson.Get(r.body, "choices.0.message.tool_calls.0")
		if call.Get("function.arguments").String() != `{"city":"Tartu","unit":"c"}` || len(call.Get("id").String()) != 29 ||
			gjson.Get(r.body, "choices.0.finish_reason").String() != c.finish || gjson.Get(r.body, "choices.0.message.content").Type != gjson.Null {
			t.Errorf("%s: %s", c.name, r.body)
		}
	}
	for more, n := range map[string]int64{"": 2, `,"parallel_tool_calls":false`: 1, `,"tool_choice":"none"`: 0} {
		r := ask(t, s, "openai", prompt("sim-1", "call both tools", more+`,"tools":[`+weather+`]`), soon)
		if got := gjson.Get(r.body, "choices.0.message.tool_calls.#").Int(); got != n {
			t.Errorf("%s: %d calls", more, got)
		}
	}
	r := ask(t, s, "openai", fixture(t, "openai/tool_results.req.json"), soon)
	if got := content(r); got != `The tool said: {"temp":4,"sky":"rain"}; 6 degrees, cloudy; Error: unknown zone.` {
		t.Errorf("%q", got)
	}
}

func TestJSONAnswersFitTheirSchema(t *testing.T) {
	s := start(t, Options{})
	r := ask(t, s, "openai", fixture(t, "openai/json_schema.req.json"), soon)
	if got := content(r); got != `{"city":"sample","founded":7,"kind":"capital","tags":[{"t":"sample"}]}` {
		t.Errorf("%s", got)
	}
	r = ask(t, s, "openai", prompt("sim-1", `a "quote"`, `,"response_format":{"type":"json_object"}`), soon)
	if got := content(r); got != `{"answer":"You said: a \"quote\""}` {
		t.Errorf("%s", got)
	}
	for schema, want := range map[string]string{
		`{}`:                                         `"w"`,
		`{"type":"boolean"}`:                         `true`,
		`{"type":"number"}`:                          `7.5`,
		`{"type":"integer","minimum":10}`:            `10`,
		`{"type":"integer","maximum":3}`:             `3`,
		`{"type":"string","minLength":3}`:            `"wwx"`,
		`{"const":{"a":1}}`:                          `{"a":1}`,
		`{"type":"array","items":{"type":"null"}}`:   `[null]`,
		`{"anyOf":[{"type":"null"},{"enum":["x"]}]}`: `null`,
	} {
		if got := string(example(nil, gjson.Parse(schema), gjson.Parse(schema), "w", 0)); got != want {
			t.Errorf("%s: %s", schema, got)
		}
	}
	// A schema that refers to itself must come to an end, also where it never could.
	for _, schema := range []string{
		`{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"]}`,
		`{"type":"array","items":{"$ref":"#"}}`, `{"$ref":"#"}`,
		`{"type":"object","properties":{"me":{"$ref":"#"}},"required":["me"]}`,
	} {
		got := example(nil, gjson.Parse(schema), gjson.Parse(schema), "w", 0)
		if !json.Valid(got) || len(got) > 10_000 {
			t.Errorf("%s: %s", schema, got)
		}
	}
}

func TestCostsAreExact(t *testing.T) {
	for pico, want := range map[int64]string{
		0: "0", 1: "1e-12", 432_000: "4.32e-7", 1_000_000: "0.000001", 276_000_000: "0.000276", 1_000_000_000_000: "1", 2_500_000_000_000: "2.5",
	} {
		if got := string(cost(nil, pico)); got != want {
			t.Errorf("%d: %s, want %s", pico, got, want)
		}
	}
	s := start(t, Options{})
	r := ask(t, s, "openrouter", prompt("anthropic/claude-sonnet-5.5", "[[sim prompt_tokens=1000 completion_tokens=10 cached_tokens=500]]", `,"stream":true`), soon)
	a := last(t, s)
	if a.Usage == nil || a.Usage.CostPico != 500*2_000_000+500*100_000+10*10_000_000 || !strings.Contains(r.body, `"cost":0.00115,`) {
		t.Errorf("%+v %s", a.Usage, a.UsageRaw)
	}
}

func TestPace(t *testing.T) {
	s := start(t, Options{})
	r := ask(t, s, "openai", prompt("sim-1", "[[sim head=10ms first=30ms delay=5ms chunks=9]]", `,"stream":true`), soon)
	if r.took < 80*time.Millisecond || len(r.texts) != 9 {
		t.Errorf("%d pieces in %v", len(r.texts), r.took)
	}
	r = ask(t, s, "openai", prompt("sim-1", "[[sim head=10ms first=30ms]]", ""), soon)
	if r.took < 40*time.Millisecond || r.code != 200 {
		t.Errorf("whole: %d in %v", r.code, r.took)
	}
	r = ask(t, s, "openai", prompt("sim-1", "[[sim frame=7]]", `,"stream":true`), soon)
	if !r.done() || !strings.Contains(string(r.raw), "\r\n7\r\n") {
		t.Errorf("%q", r.raw)
	}
}
