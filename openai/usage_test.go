package openai

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/fault"
)

func TestParseUsage(t *testing.T) {
	f := func(in string, want *Usage) {
		t.Helper()
		got, err := ParseUsage([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", in, d)
		}
	}
	f(``, nil)
	f(`null`, nil)
	f(`{}`, nil)
	f(`{"prompt_tokens":null,"total_tokens":7}`, nil)
	f(`{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`, &Usage{}) // said to be nothing is not unsaid
	f(` {"prompt_tokens":9,"completion_tokens":3,"total_tokens":12} `, &Usage{Input: 9, Output: 3, Total: 12})
	f(`{"prompt_tokens":12.0,"completion_tokens":1e2}`, &Usage{Input: 12, Output: 100, Total: 112})
	f(`{"prompt_tokens":8,"total_tokens":8}`, &Usage{Input: 8, Total: 8})
	f(`{"prompt_tokens":100,"completion_tokens":50,"total_tokens":999,"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":44}}`,
		&Usage{Input: 9, Cached: 60, CacheWrite: 30, AudioInput: 1, Output: 6, Reasoning: 44, Total: 999})
	f(`{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8,"cache_write_tokens":8},"completion_tokens_details":{"reasoning_tokens":8}}`,
		&Usage{Cached: 8, CacheWrite: 2, Reasoning: 5, Total: 15}) // details cut to what they are of
	f(`{"prompt_tokens":100,"completion_tokens":50,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":20,"cached_tokens_details":{"audio_tokens":15},"tool_tokens":7,"text_tokens":80},"completion_tokens_details":{"audio_tokens":12,"image_tokens":30,"reasoning_tokens":5},"num_search_queries":3}`,
		&Usage{Input: 28, Cached: 60, AudioInput: 5, ToolInput: 7, Output: 3, Reasoning: 5, AudioOutput: 12, ImageOutput: 30, Total: 150, Searches: 3})
	f(`{"prompt_tokens":10,"completion_tokens":10,"prompt_tokens_details":{"audio_tokens":8,"tool_tokens":8},"completion_tokens_details":{"audio_tokens":8,"image_tokens":8}}`,
		&Usage{AudioInput: 8, ToolInput: 2, AudioOutput: 8, ImageOutput: 2, Total: 20})
	f(`{"prompt_tokens":58,"completion_tokens":17,"total_tokens":155}`, &Usage{Input: 58, Output: 17, Reasoning: 80, Total: 155}) // thoughts in the total alone
	f(`{"prompt_tokens":9,"completion_tokens":3,"total_tokens":42,"completion_tokens_details":{"reasoning_tokens":30}}`, &Usage{Input: 9, Output: 3, Reasoning: 30, Total: 42})
	f(`{"prompt_tokens":9,"completion_tokens":3,"total_tokens":13,"completion_tokens_details":{"reasoning_tokens":0}}`, &Usage{Input: 9, Output: 3, Total: 13}) // a total that does not add up is not believed
	f(`{"prompt_tokens":9,"completion_tokens":3,"total_tokens":2}`, &Usage{Input: 9, Output: 3, Total: 2})
	f(`{"prompt_tokens":1,"completion_tokens":1,"server_tool_use_details":{"web_search_requests":2}}`, &Usage{Input: 1, Output: 1, Total: 2, Searches: 2})
	f(`{"prompt_tokens":1,"completion_tokens":1,"server_tool_use":{"web_search_requests":2},"server_tool_use_details":null}`, &Usage{Input: 1, Output: 1, Total: 2, Searches: 2})
	f(`{"prompt_tokens":1,"completion_tokens":1,"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":0.5}}`, &Usage{Input: 1, Output: 1, Total: 2, Cost: "0", UpstreamCost: "0.5", BYOK: true})
	f(`{"prompt_tokens":1,"completion_tokens":1,"cost":0.1,"is_byok":false,"cost_details":{"upstream_inference_cost":0.5}}`, &Usage{Input: 1, Output: 1, Total: 2, Cost: "0.1"})
	f(`{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":null,"completion_tokens_details":null,"cost":null,"cost_details":null}`, &Usage{Input: 1, Output: 1, Total: 2})
	f(`{"prompt_tokens":1,"completion_tokens":1,"cost":0.00042,"cost_details":{"upstream_inference_cost":1.92e-05}}`,
		&Usage{Input: 1, Output: 1, Total: 2, Cost: "0.00042", UpstreamCost: "1.92e-05"})
	f(`{"prompt_tokens":1,"completion_tokens":1,"cost":"0.10"}`, &Usage{Input: 1, Output: 1, Total: 2, Cost: "0.10"})
	f(`{"prompt_tokens":1,"completion_tokens":1,"cost":0}`, &Usage{Input: 1, Output: 1, Total: 2, Cost: "0"})
	f(`{"prompt_tokens":1,"completion_tokens":1,"cost":{"input_tokens_cost":0.1,"total_cost":0.006}}`, &Usage{Input: 1, Output: 1, Total: 2, Cost: "0.006"})

	for _, in := range []string{
		`[]`, `7`, `"x"`, `{"prompt_tokens":1`, `{"prompt_tokens":-1}`, `{"prompt_tokens":1e30}`, `{"prompt_tokens":100000001}`, `{"prompt_tokens":"9"}`,
		`{"prompt_tokens":1.5}`, `{"prompt_tokens":true}`, `{"prompt_tokens":{}}`, `{"prompt_tokens":1e999999}`, `{"prompt_tokens":18446744073709551617}`,
		`{"prompt_tokens":1,"completion_tokens":-1}`, `{"prompt_tokens":1,"total_tokens":-1}`, `{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":-5}}`,
		`{"prompt_tokens":1,"completion_tokens_details":{"reasoning_tokens":"x"}}`, `{"prompt_tokens":1,"completion_tokens_details":{"image_tokens":-1}}`,
		`{"prompt_tokens":1,"num_search_queries":1.5}`, `{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens_details":{"audio_tokens":"1"}}}`, `{"prompt_tokens":1,"cost":-1}`, `{"prompt_tokens":1,"cost":"free"}`, `{"prompt_tokens":1,"cost":"NaN"}`,
		`{"prompt_tokens":1,"cost":"0x10"}`, `{"prompt_tokens":1,"cost":1e30}`, `{"prompt_tokens":1,"cost":true}`, `{"prompt_tokens":1,"cost_details":{"upstream_inference_cost":-0.1}}`,
	} {
		if u, err := ParseUsage([]byte(in)); u != nil || !fault.Is(err, fault.Upstream) || !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("%s: %+v, %v", in, u, err)
		}
	}
}

func TestAppendUsage(t *testing.T) {
	u := &Usage{Input: 10, Cached: 60, CacheWrite: 30, Output: 6, Reasoning: 44, Total: 150}
	got := AppendUsage([]byte("x"), u)
	want := `x{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30},"completion_tokens_details":{"reasoning_tokens":44}}`
	if string(got) != want {
		t.Errorf("%s", got)
	}
	all := &Usage{
		Input: 1, Cached: 2, CacheWrite: 3, AudioInput: 4, ToolInput: 5, Output: 6, Reasoning: 7, AudioOutput: 8, ImageOutput: 9, Total: 45, Searches: 2,
	}
	for _, u := range []*Usage{u, all} {
		back, err := ParseUsage(AppendUsage(nil, u))
		if err != nil || *back != *u || u.Sum() != u.Total {
			t.Errorf("%+v, %v, want %+v", back, err, u)
		}
	}
}

func TestAppendUsageCost(t *testing.T) {
	f := func(before, usage, after, cost, want string) {
		t.Helper()
		payload := before + usage + after
		got := string(AppendUsageCost([]byte(payload), [2]int{len(before), len(before) + len(usage)}, cost, "computed", nil))
		if got != before+want+after || !json.Valid([]byte(got)) {
			t.Errorf("%s: %s, want %s", payload, got, want)
		}
	}
	f(`{"usage":`, `{"a":1}`, `,"x":2}`, "0.00125", `{"a":1,"cost_usd":"0.00125","cost_status":"computed"}`)
	f(``, `{ "a":1 }`, ``, "", `{ "a":1 ,"cost_usd":null,"cost_status":"computed"}`)
	f(``, `{ }`, ``, "1", `{ "cost_usd":"1","cost_status":"computed"}`)
	f(``, `{"cost_usd":"9","a":1,"cost_status":"x"}`, ``, "1", `{"a":1,"cost_usd":"1","cost_status":"computed"}`)
	f(``, `{"cost_usd":"9"}`, ``, "1", `{"cost_usd":"1","cost_status":"computed"}`)
	if got := string(AppendUsageCost([]byte(`{"usage":null}`), [2]int{}, "1", "x", []string{"y"})); got != `{"usage":null}` {
		t.Errorf("no usage: %s", got)
	}
}

func TestWarningsStandInTheUsage(t *testing.T) {
	const payload = `{"usage":{"a":1,"warnings":7}}`
	for want, warnings := range map[string][]string{
		`{"usage":{"a":1,"warnings":7,"cost_usd":"1","cost_status":"x"}}`:                          nil,
		`{"usage":{"a":1,"cost_usd":"1","cost_status":"x","warnings":["dropped=search","\"y\""]}}`: {"dropped=search", `"y"`},
	} {
		if got := string(AppendUsageCost([]byte(payload), [2]int{9, len(payload) - 1}, "1", "x", warnings)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A usage that comes with choices that are over (OpenRouter) is told as OpenAI tells it, wherever it stands.
func TestUsageChunksAreOpenAIs(t *testing.T) {
	const usage, end = `"usage":{"prompt_tokens":8,"completion_tokens":10}`, `[ {"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop","native_finish_reason":"x"}]`
	const priced = `"usage":{"prompt_tokens":8,"completion_tokens":10,"cost_usd":"1","cost_status":"reported"}`
	for last, want := range map[string]string{
		`{"id":"x", "choices" :` + end + `, ` + usage + `,"z":1}`: `{"id":"x", "choices" :[], ` + priced + `,"z":1}`,
		`{` + usage + `,"choices":` + end + `}`:                   `{` + priced + `,"choices":[]}`,
		`{"choices":[],` + usage + `}`:                            `{"choices":[],` + priced + `}`,
		`{` + usage + `}`:                                         `{` + priced + `}`,
	} {
		var a Accumulator
		if _, err := a.Add([]byte(`{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}`)); err != nil {
			t.Fatal(err)
		}
		c, err := a.Add([]byte(last))
		if err != nil || !c.UsageOnly || c.Finish {
			t.Fatalf("%s: %+v, %v", last, c, err)
		}
		if got := string(c.WithCost("1", "reported", nil)); got != want {
			t.Errorf("%s became %s", last, got)
		}
	}
	// What ends its choice is more than a usage.
	var a Accumulator
	c, err := a.Add([]byte(`{"choices":` + end + `,` + usage + `}`))
	if got := string(c.WithCost("1", "reported", nil)); err != nil || c.UsageOnly || got != `{"choices":`+end+`,`+priced+`}` {
		t.Errorf("%s, %v", got, err)
	}
}

func FuzzParseUsage(f *testing.F) {
	f.Add([]byte(`{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":60},"cost":1.2e-3}`))
	f.Add([]byte(`{"prompt_tokens":-1,"cost":{"total_cost":"7"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := ParseUsage(raw)
		if err != nil || u == nil {
			return
		}
		for _, n := range []int64{u.Input, u.Cached, u.CacheWrite, u.AudioInput, u.ToolInput, u.Output, u.Reasoning, u.AudioOutput, u.ImageOutput, u.Total, u.Searches} {
			if n < 0 || n > MaxUsage {
				t.Fatalf("%q: %+v", raw, u)
			}
		}
		var v struct {
			Prompt     float64 `json:"prompt_tokens"`
			Completion float64 `json:"completion_tokens"`
		}
		if json.Unmarshal(raw, &v) != nil {
			return // names in two cases, or types we do not look at
		}
		var names map[string]json.RawMessage
		if json.Unmarshal(raw, &names) == nil && len(names) <= 2 && names["prompt_tokens"] != nil && names["completion_tokens"] != nil && u.Sum() != int64(v.Prompt)+int64(v.Completion) {
			t.Fatalf("%q: classes add up to %d", raw, u.Sum())
		}
		for _, cost := range []string{u.Cost, u.UpstreamCost} {
			if cost != "" && !json.Valid([]byte(cost)) {
				t.Fatalf("%q: cost %q", raw, cost)
			}
		}
	})
}
