package gemini

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/openai"
	"threadhub/upstreams/upstreamstest"
)

// totals finds what Gemini says an answer took.
var totals = regexp.MustCompile(`"totalTokenCount":\s*([0-9]+)`)

// TestUsage says of each recorded answer and stream what was used, in classes that add up to Gemini's own total.
func TestUsage(t *testing.T) {
	type u = openai.Usage
	want := map[string]u{
		"generate/cached_usage":      {Input: 1024, Cached: 4096, Output: 1},
		"generate/code_execution":    {Input: 11, Output: 20},
		"generate/continuation_1":    {Input: 900, Output: 31768, Reasoning: 1000},
		"generate/continuation_2":    {Input: 668, Cached: 33000, Output: 9000},
		"generate/grounding":         {Input: 8, ToolInput: 60, Output: 14, Reasoning: 40, Searches: 1},
		"generate/image":             {Input: 1035, AudioInput: 32, Output: 2},
		"generate/image_out":         {Input: 9, Output: 5, ImageOutput: 1290},
		"generate/json_schema":       {Input: 40, Output: 22},
		"generate/logprobs":          {Input: 3, Output: 1},
		"generate/max_tokens":        {Input: 8, Output: 5, Reasoning: 90},
		"generate/max_tokens_empty":  {Input: 8, Reasoning: 61},
		"generate/no_index_no_role":  {Input: 2, Output: 1},
		"generate/plain":             {Input: 19, Output: 8},
		"generate/prompt_blocked":    {Input: 23},
		"generate/recitation":        {Input: 12, Output: 4},
		"generate/safety":            {Input: 23},
		"generate/server_tool_parts": {Input: 90, Output: 30, Reasoning: 200},
		"generate/thinking":          {Input: 11, Output: 2, Reasoning: 64},
		"generate/tool":              {Input: 58, Output: 17, Reasoning: 80},
		"generate/tool_parallel":     {Input: 77, Output: 42, Reasoning: 120},
		"generate/unicode":           {Input: 21, Output: 17},
		"stream/continuation":        {Input: 900, Output: 64536, Reasoning: 1000},
		"stream/cut":                 {Input: 8, Output: 1},
		"stream/error_mid":           {Input: 8, Output: 1},
		"stream/error_mid_raw":       {Input: 8, Output: 1},
		"stream/grounding":           {Input: 8, ToolInput: 60, Output: 14, Reasoning: 40, Searches: 1},
		"stream/max_tokens":          {Input: 8, Output: 4, Reasoning: 90},
		"stream/n2":                  {Input: 5, Output: 6},
		"stream/plain":               {Input: 4, Output: 7},
		"stream/plain_lf":            {Input: 4, Output: 2},
		"stream/prompt_blocked":      {Input: 23},
		"stream/safety":              {Input: 23, Output: 2},
		"stream/thinking":            {Input: 11, Output: 5, Reasoning: 64},
		"stream/tool":                {Input: 29, Output: 15, Reasoning: 804},
	}
	for _, pattern := range []string{"generate/*.resp.json", "stream/*.sse"} {
		paths, err := filepath.Glob("testdata/" + pattern)
		if err != nil || len(paths) == 0 {
			t.Fatal(pattern, err)
		}
		for _, path := range paths {
			file := strings.TrimPrefix(filepath.ToSlash(path), "testdata/")
			name, _, _ := strings.Cut(file, ".")
			raw := upstreamstest.File(t, file)
			var got *openai.Usage
			if strings.HasSuffix(file, ".sse") {
				chunks, _ := play(t, asked(), bytes.NewReader(raw))
				got = upstreamstest.Accumulated(t, chunks).Usage()
			} else {
				whole, err := asked().Whole(raw)
				if err != nil {
					t.Fatal(name, err)
				}
				if got, err = openai.ParseUsage([]byte(gjson.GetBytes(whole, "usage").Raw)); err != nil {
					t.Fatal(name, err)
				}
			}
			said := totals.FindAllSubmatch(raw, -1)
			total, _ := strconv.ParseInt(string(said[len(said)-1][1]), 10, 64)
			expected, ok := want[name]
			expected.Total = total
			if diff := cmp.Diff(&expected, got); diff != "" || !ok || got.Sum() != total {
				t.Errorf("%s: adds up to %d, Gemini says %d: (-want +got)\n%s", name, got.Sum(), total, diff)
			}
			delete(want, name)
		}
	}
	for name := range want {
		t.Errorf("%s: there is no such file", name)
	}
}

// What no recording has: sound that came from the cache is not heard twice, and a total that does not add up stays as it was said.
func TestUsageOfSound(t *testing.T) {
	for metadata, want := range map[string]openai.Usage{
		`{"promptTokenCount":100,"cachedContentTokenCount":60,"promptTokensDetails":[{"modality":"TEXT","tokenCount":40},{"modality":"AUDIO","tokenCount":60}],
			"cacheTokensDetails":[{"modality":"AUDIO","tokenCount":45},{"modality":"TEXT","tokenCount":15}],"candidatesTokenCount":7,"candidatesTokensDetails":[{"modality":"AUDIO","tokenCount":5}],"totalTokenCount":107}`: {
			Input: 25, Cached: 60, AudioInput: 15, Output: 2, AudioOutput: 5, Total: 107,
		},
		`{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":50}`: {Input: 3, Output: 2, Total: 50},
		`{"promptTokenCount":3,"totalTokenCount":3}`:                           {Input: 3, Total: 3},
		`{}`: {},
	} {
		got, err := openai.ParseUsage(used(metadata))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", metadata, diff)
		}
	}
}

// used is a usageMetadata as the API shows it.
func used(metadata string) []byte {
	var u usage
	u.add(gjson.Parse(metadata))
	return u.append(nil, 0)
}

// Counts that are none are not taken for nothing: the usage is then no usage, and the call is charged by an estimate.
func TestUsageThatCountsNothing(t *testing.T) {
	for _, n := range []string{`-1`, `1e30`, `"12"`, `1.5`, `[1]`, `null`, `{}`, `true`} {
		for _, metadata := range []string{
			`{"promptTokenCount":` + n + `,"candidatesTokenCount":2,"totalTokenCount":5}`,
			`{"promptTokenCount":3,"candidatesTokenCount":` + n + `}`,
		} {
			if got, err := openai.ParseUsage(used(metadata)); err == nil {
				t.Errorf("%s is taken for %+v", metadata, got)
			}
		}
	}
}
