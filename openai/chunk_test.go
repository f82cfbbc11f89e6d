package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"threadhub/internal/fault"
	"threadhub/internal/sse"
)

// payloads returns the data of an event stream up to its end marker.
func payloads(t testing.TB, stream []byte) (out [][]byte) {
	t.Helper()
	r := sse.NewReader(bytes.NewReader(stream), 0)
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) || string(e.Data) == "[DONE]" {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Clone(e.Data))
	}
}

// accumulate adds chunks, and writes down what they were: t text, f finish, u usage only, - none of these.
func accumulate(chunks [][]byte) (*Accumulator, string, error) {
	a, kinds := &Accumulator{}, ""
	for _, p := range chunks {
		c, err := a.Add(p)
		if err != nil {
			return a, kinds, err
		}
		k := ""
		if c.HasText {
			k += "t"
		}
		if c.Finish {
			k += "f"
		}
		if c.UsageOnly {
			k += "u"
		}
		if k == "" {
			k = "-"
		}
		kinds += k
	}
	return a, kinds, nil
}

func TestStreamFixtures(t *testing.T) {
	type want struct {
		kinds, message, finish, err string
		prompt, completion          int64
	}
	m := func(s string) string { return `{"role":"assistant","content":` + s + `}` }
	tools := func(s string) string { return `{"role":"assistant","content":null,"tool_calls":[` + s + `]}` }
	wants := map[string]want{
		"openai/stream/audio.sse":                {"tttt-f", `{"role":"assistant","content":null,"audio":{"id":"audio_68f0","transcript":"beep","expires_at":1794704400}}`, "stop", "", 0, 0},
		"openai/stream/content_filter.sse":       {"-tfu", m(`"The recipe"`), "content_filter", "", 37, 2},
		"openai/stream/cut_clean_no_done.sse":    {"-ttf", m(`"All done"`), "stop", "", 0, 0},
		"openai/stream/error_event.sse":          {"-tt", m(`"Half an"`), "", "rate_limit_exceeded", 0, 0},
		"openai/stream/error_mid.sse":            {"-tt", m(`"Half an"`), "", "upstream_error", 0, 0},
		"openai/stream/length.sse":               {"-fu", m(`""`), "length", "", 12, 100},
		"openai/stream/logprobs.sse":             {"-ttf", m(`"Hi there"`), "stop", "", 0, 0},
		"openai/stream/moderation.sse":           {"-ttf-u", m(`"Fine."`), "stop", "", 9, 3},
		"openai/stream/plain.sse":                {"", "", "stop", "", 0, 0},
		"openai/stream/refusal.sse":              {"-tttfu", `{"role":"assistant","content":null,"refusal":"I'm sorry, I can't help with that."}`, "stop", "", 48, 11},
		"openai/stream/text_then_tool.sse":       {"", "", "tool_calls", "", 90, 22},
		"openai/stream/tool_custom.sse":          {"tttfu", tools(`{"id":"call_c7Vt2Ym9Qe4Ls1Bn8Kd3Xw6Z","type":"custom","custom":{"name":"calc","input":"2+3"}}`), "tool_calls", "", 77, 41},
		"openai/stream/tool_parallel.sse":        {"", "", "tool_calls", "", 0, 0},
		"openai/stream/tool_single.sse":          {"", "", "tool_calls", "", 0, 0},
		"openai/stream/unicode.sse":              {"-tttttttttttttfu", "", "stop", "", 12, 20},
		"openai/stream/usage.sse":                {"-ttfu", m(`"Tere!"`), "stop", "", 9, 3},
		"openai/stream/usage_no_obfuscation.sse": {"-ttfu", m(`"Tere!"`), "stop", "", 1310, 3},
		"openai/stream/web_search.sse": {
			"-t-fu", `{"role":"assistant","content":"Go 1.26 is current.","annotations":[{"type":"url_citation","url_citation":{"start_index":0,"end_index":18,"title":"Release History","url":"https://go.dev/doc/devel/release?utm_source=openai"}}]}`,
			"stop", "", 9, 31,
		},
		"openrouter/stream/annotations.sse": {
			"t-fu", `{"role":"assistant","content":"Go 1.26","annotations":[{"type":"url_citation","url_citation":{"url":"https://go.dev/doc/devel/release","title":"Release History","content":"x","start_index":0,"end_index":7}}]}`,
			"stop", "", 900, 20,
		},
		"openrouter/stream/comments_only.sse":             {"", m(`""`), "", "", 0, 0},
		"openrouter/stream/error_first.sse":               {"", m(`""`), "", "rate_limit_exceeded", 0, 0},
		"openrouter/stream/error_mid_numeric.sse":         {"tt", m(`"Half an"`), "", "upstream_error", 0, 0},
		"openrouter/stream/plain_usage_empty_choices.sse": {"tttfu", m(`"Hello 👋"`), "stop", "", 8, 10},
		"openrouter/stream/plain_usage_with_choice.sse":   {"ttfu", m(`"Hello"`), "stop", "", 8, 10},
		"openrouter/stream/reasoning.sse": {
			"tt-tfu", `{"role":"assistant","content":"391","reasoning":"17*23","reasoning_details":[{"type":"reasoning.text","text":"17*23","format":"anthropic-claude-v1","index":0,"signature":"9dXPH2xm03u1haS71+Xb/XPaYiPStX6z+WTKQ26AH7HmA5QuV8jl9g=="}]}`,
			"stop", "", 20, 60,
		},
		"openrouter/stream/tool_call.sse": {"tttfu", tools(`{"id":"call_R1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Riga\"}"}}`), "tool_calls", "", 58, 17},
	}
	files := fixtures(t, "*/stream/*.sse", len(wants))
	for name, raw := range files {
		w, ok := wants[name]
		if !ok {
			t.Errorf("%s: nothing expected", name)
			continue
		}
		chunks := payloads(t, raw)
		a, kinds, err := accumulate(chunks)
		if w.err == "" && err != nil || w.err != "" && !fault.HasCode(err, w.err) {
			t.Errorf("%s: %v", name, err)
		}
		if w.kinds != "" && kinds != w.kinds {
			t.Errorf("%s: chunks %s, want %s", name, kinds, w.kinds)
		}
		if a.FinishReason() != w.finish || a.Finished() != (w.finish != "") {
			t.Errorf("%s: finish %q", name, a.FinishReason())
		}
		if got := string(a.Message()); w.message != "" && got != w.message {
			t.Errorf("%s:\n got %s\nwant %s", name, got, w.message)
		}
		if w.prompt > 0 {
			if u := a.Usage(); u == nil || u.Input+u.Cached+u.CacheWrite != w.prompt || u.Output+u.Reasoning != w.completion {
				t.Errorf("%s: usage %+v", name, u)
			}
		}
		if u := a.Usage(); u != nil && u.Sum() != u.Total {
			t.Errorf("%s: the classes of %+v do not add up", name, u)
		}
		compareWithOracle(t, name, chunks, a)
	}
}

// compareWithOracle decodes the chunks with encoding/json and joins what it finds.
func compareWithOracle(t *testing.T, name string, chunks [][]byte, a *Accumulator) {
	t.Helper()
	var content, refusal, reasoning string
	args := map[int]string{}
	var id, model string
	for _, p := range chunks {
		var c struct {
			ID, Model string
			Error     any
			Choices   []struct {
				Delta struct {
					Content, Refusal, Reasoning string
					ToolCalls                   []struct {
						Index    int
						Function struct{ Name, Arguments string }
						Custom   struct{ Name, Input string }
					} `json:"tool_calls"`
				}
			}
		}
		if err := json.Unmarshal(p, &c); err != nil {
			t.Fatal(err)
		}
		if c.Error != nil {
			break
		}
		id, model = c.ID, c.Model
		for _, c := range c.Choices {
			content += c.Delta.Content
			refusal += c.Delta.Refusal
			reasoning += c.Delta.Reasoning
			for _, call := range c.Delta.ToolCalls {
				args[call.Index] += call.Function.Name + call.Function.Arguments + call.Custom.Name + call.Custom.Input
			}
		}
	}
	if a.ID() != id || a.Model() != model {
		t.Errorf("%s: id %q, model %q", name, a.ID(), a.Model())
	}
	var got struct {
		Content, Refusal, Reasoning string
		ToolCalls                   []struct {
			Function struct{ Name, Arguments string }
			Custom   struct{ Name, Input string }
		} `json:"tool_calls"`
	}
	if err := json.Unmarshal(a.Message(), &got); err != nil {
		t.Fatalf("%s: %v in %s", name, err, a.Message())
	}
	n := len(content) + len(refusal) + len(reasoning)
	if got.Content != content || got.Refusal != refusal || got.Reasoning != reasoning || len(got.ToolCalls) != len(args) {
		t.Errorf("%s: %+v, want %q %q %q %v", name, got, content, refusal, reasoning, args)
	}
	for i, call := range got.ToolCalls {
		if s := call.Function.Name + call.Function.Arguments + call.Custom.Name + call.Custom.Input; s != args[i] {
			t.Errorf("%s: call %d is %s, want %s", name, i, s, args[i])
		}
		n += len(args[i])
	}
	if n > 0 && a.TextBytes() != int64(n) {
		t.Errorf("%s: %d bytes of text, want %d", name, a.TextBytes(), n)
	}
	if a.Empty() != (n == 0 && a.TextBytes() == 0) {
		t.Errorf("%s: empty is %v", name, a.Empty())
	}
}

// delta makes a chunk of one choice.
func delta(d string) []byte { return []byte(`{"choices":[{"index":0,"delta":` + d + `}]}`) }

func messageOf(t *testing.T, chunks ...[]byte) string {
	t.Helper()
	a, _, err := accumulate(chunks)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(a.Message()) {
		t.Fatalf("not JSON: %s", a.Message())
	}
	return string(a.Message())
}

func TestAccumulatorMessages(t *testing.T) {
	f := func(want string, deltas ...string) {
		t.Helper()
		var chunks [][]byte
		for _, d := range deltas {
			chunks = append(chunks, delta(d))
		}
		if got := messageOf(t, chunks...); got != want {
			t.Errorf("%v:\n got %s\nwant %s", deltas, got, want)
		}
	}
	f(`{"role":"assistant","content":""}`)
	f(`{"role":"assistant","content":""}`, `{"role":"assistant","content":null}`, `null`, `{}`)
	f(`{"role":"assistant","content":"\ud83d\ude00"}`, `{"content":"\ud83d"}`, `{"content":"\ude00"}`)
	f(`{"role":"assistant","content":"\ud800x\u0000\"\\"}`, `{"content":"\ud800"}`, `{"content":"x\u0000"}`, `{"content":"\"\\"}`)
	f("{\"role\":\"assistant\",\"content\":\"a\uFFFDb\"}", "{\"content\":\"a\xff\xfeb\"}")
	f(`{"role":"assistant","content":"ab"}`, `{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`)
	f(`{"role":"assistant","content":"x","reasoning_content":"hm"}`, `{"reasoning_content":"h"}`, `{"reasoning_content":"m"}`, `{"content":"x"}`)
	f(`{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}}`, `{"function_call":{"name":"f","arguments":"{"}}`, `{"function_call":{"arguments":"}"}}`)
	f(`{"role":"assistant","content":"","images":[{"i":1},{"i":2}]}`, `{"images":[{"i":1}]}`, `{"images":[{"i":1},{"i":2}]}`)
	f(`{"role":"assistant","content":"","annotations":[{"a":1},{"a":2}]}`, `{"annotations":[{"a":1}]}`, `{"annotations":[{"a":1},{"a":2}]}`) // the list so far

	call := func(id, name, args string) string {
		return `{"id":"` + id + `","type":"function","function":{"name":"` + name + `","arguments":"` + args + `"}}`
	}
	two := `{"role":"assistant","content":null,"tool_calls":[` + call("a", "f", "1") + `,` + call("b", "g", "2") + `]}`
	f(two, `{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":""}}]}`, `{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"1"}},{"index":1,"function":{"arguments":"2"}}]}`)
	f(two, `{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"1"}}]}`, `{"tool_calls":[{"id":"b","function":{"name":"g"}}]}`, `{"tool_calls":[{"function":{"arguments":"2"}}]}`) // no index: by id
	f(two, `{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"1"}},{"id":"b","function":{"name":"g","arguments":"2"}}]}`)
	f(`{"role":"assistant","content":null,"tool_calls":[`+call("a", "f", "12")+`]}`, // name and id again with each fragment
		`{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"1"}}]}`, `{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"2"}}]}`)
	f(`{"role":"assistant","content":null,"tool_calls":[`+call("a", "f", `{\"k\":\"v\"}`)+`]}`, `{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":{"k":"v"}}}]}`)

	f(`{"role":"assistant","content":"x","extra_content":{"google":{"thought_signature":"B"}}}`,
		`{"extra_content":{"google":{"thought_signature":"A"}}}`, `{"content":"x","extra_content":null}`, `{"extra_content":{"google":{"thought_signature":"B"}}}`, `{"extra_content":"odd"}`)
	f(`{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":1}},`+call("b", "g", "2")+`]}`,
		`{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"},"extra_content":{"google":1}}]}`, `{"tool_calls":[{"index":0,"function":{"arguments":"}"}},{"index":1,"id":"b","function":{"name":"g","arguments":"2"}}]}`)

	f(`{"role":"assistant","content":"","reasoning_details":[{"type":"reasoning.summary","summary":"ab","id":"r","index":0},{"type":"reasoning.encrypted","data":"x","id":"t1","index":0},{"type":"reasoning.encrypted","data":"y","id":"t2","index":0}]}`,
		`{"reasoning_details":[{"type":"reasoning.summary","summary":"a","id":null,"index":0}]}`, `{"reasoning_details":[{"type":"reasoning.summary","summary":"b","id":"r","index":0}]}`,
		`{"reasoning_details":[{"type":"reasoning.encrypted","data":"x","id":"t1","index":0},{"type":"reasoning.encrypted","data":"y","id":"t2","index":0}]}`)
	f(`{"role":"assistant","content":"","reasoning_details":[{"type":"reasoning.text","text":"ab"},{"type":"reasoning.encrypted","data":"x"},{"type":"reasoning.text","text":"c"}]}`,
		`{"reasoning_details":[{"type":"reasoning.text","text":"a"}]}`, `{"reasoning_details":[{"type":"reasoning.text","text":"b"},{"type":"reasoning.encrypted","data":"x"}]}`, `{"reasoning_details":[{"type":"reasoning.text","text":"c"}]}`)
}

func TestArgumentsSplitAtAnyByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		args := `{"city":"Rīga \"x\" \\ 😀","n":12345678901234567890}`
		want := args
		var chunks [][]byte
		for i := 0; args != ""; i++ {
			n := rapid.IntRange(1, len([]rune(args))).Draw(t, "n")
			piece := string([]rune(args)[:n])
			args = args[len(piece):]
			chunks = append(chunks, delta(`{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":`+string(appendString(nil, piece))+`}}]}`))
		}
		a, _, err := accumulate(chunks)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			ToolCalls []struct{ Function struct{ Arguments string } } `json:"tool_calls"`
		}
		if err := json.Unmarshal(a.Message(), &got); err != nil || got.ToolCalls[0].Function.Arguments != want {
			t.Fatalf("%s, %v", a.Message(), err)
		}
	})
}

func TestChoicesStayApart(t *testing.T) {
	chunk := func(i int, d, finish string) []byte {
		return fmt.Appendf(nil, `{"id":"x","model":"m","choices":[{"index":%d,"delta":%s,"finish_reason":%s}]}`, i, d, finish)
	}
	a, kinds, err := accumulate([][]byte{
		chunk(1, `{"content":"b1"}`, "null"), chunk(0, `{"content":"a1"}`, "null"), chunk(2, `{"content":"c"}`, `"length"`), chunk(1, `{"content":"b2"}`, `"stop"`),
		chunk(0, `{"content":"a2"}`, `""`), chunk(0, `{}`, `"stop"`),
	})
	if err != nil {
		t.Fatal(err)
	}
	if kinds != "tttftftf" {
		t.Errorf("kinds %s", kinds)
	}
	if got := string(a.Message()); got != `{"role":"assistant","content":"a1a2"}` {
		t.Error(got)
	}
	if got := fmt.Sprintf("%s", a.Others()); got != `[{"role":"assistant","content":"b1b2"} {"role":"assistant","content":"c"}]` {
		t.Error(got)
	}
	if a.FinishReason() != "stop" || !a.Finished() || a.TextBytes() != 9 {
		t.Errorf("%q %v %d", a.FinishReason(), a.Finished(), a.TextBytes())
	}
}

func TestUsageInStreams(t *testing.T) {
	const u1, u2 = `{"prompt_tokens":1,"completion_tokens":1}`, `{"prompt_tokens":2,"completion_tokens":2}`
	chunk := func(choices, usage string) []byte {
		return []byte(`{"usage":` + usage + `,"choices":[` + choices + `]}`)
	}
	f := func(want *Usage, invalid bool, kinds string, chunks ...[]byte) {
		t.Helper()
		a, got, err := accumulate(chunks)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, a.Usage()); d != "" || a.UsageInvalid() != invalid || got != kinds {
			t.Errorf("%s: %s, invalid %v, kinds %s", chunks, d, a.UsageInvalid(), got)
		}
	}
	text, end := `{"delta":{"content":"x"}}`, `{"delta":{"content":""},"finish_reason":"stop"}`
	f(nil, false, "tf", chunk(text, "null"), chunk(end, "null"))
	f(&Usage{Input: 1, Output: 1, Total: 2}, false, "tfu", chunk(text, "null"), chunk(end, "null"), chunk("", u1))
	f(&Usage{Input: 2, Output: 2, Total: 4}, false, "tfuu", chunk(text, "null"), chunk(end, "null"), chunk("", u1), chunk("", u2)) // the last counts
	f(&Usage{}, false, "u", chunk("", `{"prompt_tokens":0,"completion_tokens":0}`))
	f(nil, true, "uu", chunk("", u1), chunk("", `{"prompt_tokens":-1}`))
	f(&Usage{Input: 1, Output: 1, Total: 2}, false, "tfu", chunk(text, "null"), chunk(end, "null"), chunk(end, u1)) // OpenRouter says the end twice
	f(&Usage{Input: 1, Output: 1, Total: 2}, false, "tf", chunk(text, "null"), chunk(end, u1))                      // usage with the end itself: not to be left out
	f(&Usage{Input: 1, Output: 1, Total: 2}, false, "t-f", chunk(text, u1), chunk(`{"delta":{}}`, u1), chunk(end, u1))
	f(&Usage{Input: 1, Output: 1, Total: 2}, false, "f-", chunk(end, "null"), chunk(`{"delta":{"annotations":[{"a":1}]},"finish_reason":"stop"}`, u1)) // it brings more than usage

	a := &Accumulator{}
	p := chunk(text, u1)
	c, err := a.Add(p)
	if err != nil || string(Span(c.UsageSpan).of(c.Payload)) != u1 || &c.Payload[0] != &p[0] {
		t.Errorf("%+v, %v", c, err)
	}
	if c, _ := a.Add(chunk(text, "null")); c.UsageSpan != [2]int{} {
		t.Errorf("%+v", c)
	}
	// Where bytes are replaced, the span is one of the new payload.
	c, err = a.Add([]byte("{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}],\"usage\":" + u2 + "}"))
	if err != nil || string(Span(c.UsageSpan).of(c.Payload)) != u2 || !json.Valid(c.Payload) {
		t.Errorf("%s %+v, %v", c.Payload, c, err)
	}
}

func TestBadChunks(t *testing.T) {
	f := func(in string, kind fault.Kind, code string) {
		t.Helper()
		a := &Accumulator{}
		if _, err := a.Add(delta(`{"content":"before"}`)); err != nil {
			t.Fatal(err)
		}
		_, err := a.Add([]byte(in))
		if !fault.Is(err, kind) || !fault.HasCode(err, code) {
			t.Errorf("%.60s: %v", in, err)
		}
		if got := string(a.Message()); got != `{"role":"assistant","content":"before"}` || a.TextBytes() != 6 {
			t.Errorf("%.60s: left %s", in, got)
		}
	}
	for _, in := range []string{
		``, `[DONE]`, `x`, `[]`, `"x"`, `null`, `{"choices":[{"delta":{"content":"cut`, `{"choices":[{"delta":{"content":"x"}}]`, `{"choices":[{"delta":{"content":"x"}}]}}`, "{\"choices\":[{\"delta\":{\"content\":\"\n\"}}]}",
		`{"choices":[7]}`, `{"choices":[{"delta":{"content":"x"},"index":-1}]}`, `{"choices":[{"index":128,"delta":{"content":"x"}}]}`, `{"choices":[{"index":"0"}]}`, strings.Repeat("[", 1_000_000),
		`{"choices":[{"index":0,"delta":{"tool_calls":[7]}}]}`, `{"choices":[{"index":0,"delta":{"tool_calls":[{"index":-1}]}}]}`, `{"choices":[{"index":0,"delta":{"tool_calls":[{"index":4096}]}}]}`,
		`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":"0"}]}}]}`, `{"choices":[{"index":0,"delta":{"reasoning_details":["x"]}}]}`,
	} {
		f(in, fault.Upstream, "upstream_protocol")
	}
	f(`{"error":{"message":"m","code":null}}`, fault.Upstream, "upstream_error")
	f(`{"error":"overloaded","choices":[{"delta":{"content":"x"}}]}`, fault.Upstream, "upstream_error")
	f(`{"choices":[{"delta":{"content":"x"},"finish_reason":"error"}]}`, fault.Upstream, "upstream_error")
	f(`{"choices":[{"delta":{"content":"x"},"error":{"code":429}}]}`, fault.RateLimited, "rate_limit_exceeded")
	if got := messageOf(t, []byte(`{}`), []byte(` {"choices":null,"error":null,"usage":null} `), []byte(`{"choices":[]}`)); got != `{"role":"assistant","content":""}` {
		t.Error(got)
	}
}

func TestTooManyItems(t *testing.T) {
	for _, in := range []string{`"annotations":[{"i":%d}]`, `"images":[{"i":%d}]`, `"reasoning_details":[{"index":%d}]`} {
		a := &Accumulator{}
		var err error
		n := 0
		for ; err == nil && n < 10*maxItems; n++ {
			_, err = a.Add(delta(fmt.Sprintf("{"+in+"}", n)))
		}
		if !fault.HasCode(err, "upstream_protocol") || n != maxItems+1 {
			t.Errorf("%s: %v after %d", in, err, n)
		}
	}
}

func TestUsualChunksDoNotAllocate(t *testing.T) {
	a := &Accumulator{}
	p := []byte(usualChunk)
	if _, err := a.Add(p); err != nil {
		t.Fatal(err)
	}
	a.choices[0].content = make([]byte, 0, 1<<20)
	if n := testing.AllocsPerRun(1000, func() { _, _ = a.Add(p) }); n != 0 {
		t.Errorf("%v allocations a chunk", n)
	}
}

func FuzzAccumulator(f *testing.F) {
	for _, raw := range fixtures(f, "*/stream/*.sse", 20) {
		f.Add(bytes.Join(payloads(f, raw), []byte("\n")))
	}
	f.Add([]byte(`{"choices":[{"delta":{"content":"\ud83d"}}]}` + "\n" + `{"choices":[{"delta":{"content":"\ude00"}}],"usage":{"prompt_tokens":1}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		a := &Accumulator{}
		for p := range bytes.SplitSeq(in, []byte("\n")) {
			c, err := a.Add(p)
			if err != nil {
				if e := fault.From(err); e.Kind != fault.Upstream && e.Kind != fault.RateLimited || e.Code == "" {
					t.Fatalf("%q: %#v", p, err)
				}
				break
			}
			if !json.Valid(c.Payload) {
				t.Fatalf("accepted %q", p)
			}
			if c.UsageSpan != [2]int{} {
				if out := c.WithCost("1", "reported", []string{"a\"b"}); !json.Valid(out) {
					t.Fatalf("%q became %q", c.Payload, out)
				}
			}
		}
		for _, m := range append(a.Others(), a.Message()) {
			if !json.Valid(m) {
				t.Fatalf("%q gave the message %q", in, m)
			}
			if _, chained, err := Canon(m); err != nil || !chained {
				t.Fatalf("%q: %v", m, err)
			}
		}
	})
}

const usualChunk = `{"id":"chatcmpl-DIkB3ELCbZdxZhYvLRggq1eGkgckO","object":"chat.completion.chunk","created":1794700860,"model":"gpt-4.1-mini-2025-04-14","service_tier":"default","system_fingerprint":"fp_4c2851f862","choices":[{"index":0,"delta":{"content":" Hello"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"wRL"}`

func BenchmarkAdd(b *testing.B) {
	a := &Accumulator{}
	p := []byte(usualChunk)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Add(p); err != nil {
			b.Fatal(err)
		}
		if a.text > 1<<20 {
			a.text, a.choices[0].content = 0, a.choices[0].content[:0]
		}
	}
}
