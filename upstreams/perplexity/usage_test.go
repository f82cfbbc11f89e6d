package perplexity

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/openai"
	"threadhub/upstreams/upstreamstest"
)

// TestUsage says of each recorded answer and stream what was used and what it cost, in classes that add up to what
// Perplexity says.
func TestUsage(t *testing.T) {
	type u = openai.Usage
	want := map[string]u{
		"agent/annotated":            {Input: 3905, Output: 242, Searches: 1, Cost: "0.004081"},
		"agent/function_call":        {Input: 80, Output: 20, Cost: "0.000018"},
		"agent/plain":                {Input: 3905, Output: 242, Searches: 1, Cost: "0.004081"},
		"agent/stream":               {Input: 3905, Output: 242, Searches: 1, Cost: "0.004081"},
		"agent/stream_function_call": {Input: 3905, Output: 242, Searches: 1, Cost: "0.004081"},
		"sonar/images":               {Input: 8, Output: 4, Cost: "0.005012"},
		"sonar/plain":                {Input: 12, Output: 20, Cost: "0.005032"},
		"sonar/reasoning_pro":        {Input: 15, ToolInput: 900, Output: 310, Reasoning: 210, Searches: 2, Cost: "0.02094"},
		"sonar/stream_concise":       {Input: 12, Output: 6, Cost: "0.005018"},
		"sonar/stream_full":          {Input: 12, Output: 14, Cost: "0.005026"},
		"sonar/stream_full_done":     {Input: 12, Output: 14, Cost: "0.005026"},
	}
	seen := 0
	for _, folder := range []string{"agent", "sonar"} {
		for _, ending := range []string{".resp.json", ".sse"} {
			for _, name := range recorded(t, folder, ending, 3) {
				raw := upstreamstest.File(t, name+ending)
				expected, told := want[name]
				if told {
					seen++
				}
				var got *openai.Usage
				if ending == ".sse" {
					chunks, _ := play(t, asked(folder), bytes.NewReader(raw))
					got = upstreamstest.Accumulated(t, chunks).Usage()
				} else {
					whole, err := asked(folder).Whole(raw)
					if err != nil {
						t.Fatal(name, err)
					}
					got = wantAnswer(t, name, whole).Usage
				}
				if !told {
					if got != nil || name != "agent/stream_failed" {
						t.Errorf("%s used %+v", name, got)
					}
					continue
				}
				// The older API counts reasoning, and what was read of the sources, beside its total.
				i := bytes.LastIndex(raw, []byte(`"usage"`))
				said := gjson.ParseBytes(raw[i+bytes.IndexByte(raw[i:], '{'):])
				expected.Total = said.Get("total_tokens").Int() + said.Get("reasoning_tokens").Int() + said.Get("citation_tokens").Int()
				got.Cost = strings.Replace(got.Cost, "1.8e-05", "0.000018", 1)
				if diff := cmp.Diff(&expected, got); diff != "" || got.Sum() != expected.Total {
					t.Errorf("%s: adds up to %d: (-want +got)\n%s", name, got.Sum(), diff)
				}
			}
		}
	}
	if seen != len(want) {
		t.Errorf("%d recordings of %d", seen, len(want))
	}
}

// Of a stream of the older API that was cut the tokens are known, and not what it cost: that comes with the end.
func TestUsageOfACutStream(t *testing.T) {
	raw := upstreamstest.File(t, "sonar/stream_full.sse")
	chunks, err := play(t, asked("sonar"), bytes.NewReader(raw[:bytes.Index(raw, []byte("chat.completion.done"))]))
	if err == nil {
		t.Fatal("a good end")
	}
	if u := upstreamstest.Accumulated(t, chunks).Usage(); u == nil || u.Input != 12 || u.Output == 0 || u.Cost != "" {
		t.Errorf("it used %+v", u)
	}
}
