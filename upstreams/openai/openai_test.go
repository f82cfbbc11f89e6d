package openai_test

import (
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
	"threadhub/upstreams"
	"threadhub/upstreams/openai"
	"threadhub/upstreams/upstreamstest"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

var subject = upstreamstest.Subject{
	New:     openai.New,
	Forward: map[string]string{"OpenAI-Beta": "x=v1"},
	Header: map[string]string{
		"X-Request-Id":                 "req_985c403d3b2cec2358f250aab26a1933",
		"Openai-Processing-Ms":         "17",
		"X-Ratelimit-Limit-Requests":   "500",
		"X-Ratelimit-Remaining-Tokens": "199998",
		"X-Ratelimit-Reset-Tokens":     "6m0s",
		"Retry-After":                  "2",
	},
	ID:     "X-Request-Id",
	Check:  upstreamstest.Check{Folder: "testdata/check", Path: "models", Models: 5, Narrow: true},
	Embeds: upstreamstest.Embeds{Answer: upstreamstest.Embedded},
	Lists: upstreamstest.Lists{
		Path: "models", Entry: upstreamstest.ModelEntry, List: upstreamstest.ModelList, Recorded: "check/models.resp.json",
		Want: []upstreams.Model{
			{ID: "gpt-6-luna", Created: 1789000000},
			{ID: "gpt-4.1-mini", Created: 1744318173},
			{ID: "gpt-4o-mini-search-preview", Created: 1741391161, Shutdown: "2026-12-31"},
			{ID: "text-embedding-3-small", Created: 1705948997},
			{ID: "ft:gpt-4.1-mini:acme::AbC123", Created: 1771000000},
		},
	},
}

func TestUpstream(t *testing.T) { upstreamstest.Run(t, subject) }

func TestErrors(t *testing.T) {
	type f = upstreamstest.Fault
	rejected := f{Kind: fault.Upstream, Code: "upstream_auth", Message: "key was refused", Final: true}
	subject.Errors(t, "testdata/errors", map[string]f{
		"400_context_length":        {Kind: fault.Invalid, Code: "context_length_exceeded", Param: "messages", Message: "maximum context length is 1047576"},
		"400_empty_messages":        {Kind: fault.Invalid, Code: "empty_array", Param: "messages", Message: "empty array"},
		"400_null_code":             {Kind: fault.Invalid, Param: "dimensions", Message: "expected a smaller integer"},
		"400_unsupported_parameter": {Kind: fault.Invalid, Code: "unsupported_parameter", Param: "max_tokens", Message: "Use 'max_completion_tokens' instead"},
		"400_unsupported_value":     {Kind: fault.Invalid, Code: "unsupported_value", Param: "temperature", Message: "does not support 0.2"},
		"401_invalid_key":           rejected,
		"401_missing_key":           rejected,
		"403_region":                {Kind: fault.Denied, Code: "permission_denied", Message: "openai: Country, region, or territory not supported", Final: true},
		"403_model":                 {Kind: fault.NotFound, Code: "model_not_found", Param: "model", Message: "may not use this model"},
		"404_model":                 {Kind: fault.NotFound, Code: "model_not_found", Message: "does not exist or you do not have access"},
		"404_url":                   {Kind: fault.NotFound, Message: "Invalid URL"},
		"429_quota":                 {Kind: fault.RateLimited, Code: "insufficient_quota", Message: "quota is used up", Final: true},
		"429_tokens":                {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "tokens per min", Retry: 1234 * time.Millisecond},
		"500":                       {Kind: fault.Upstream, Code: "upstream_error", Message: "The server had an error"},
		"502_html":                  {Kind: fault.Upstream, Code: "upstream_error", Message: "the provider failed"},
	})
}

func TestStreams(t *testing.T) {
	type f = upstreamstest.Fault
	subject.Streams(t, "testdata/stream", map[string]f{
		"audio":                {},
		"content_filter":       {},
		"cut_clean_no_done":    {Kind: fault.Upstream, Code: "upstream_truncated"},
		"error_event":          {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "during generation"},
		"error_mid":            {Kind: fault.Upstream, Code: "upstream_error", Message: "The server had an error"},
		"length":               {},
		"logprobs":             {},
		"moderation":           {},
		"plain":                {},
		"refusal":              {},
		"text_then_tool":       {},
		"tool_custom":          {},
		"tool_parallel":        {},
		"tool_single":          {},
		"unicode":              {},
		"usage":                {},
		"usage_no_obfuscation": {},
		"web_search":           {},
	})
}

// What other servers have been seen to do to event streams is read as the standard says, and what is no stream is an
// error.
func TestOddStreams(t *testing.T) {
	type f = upstreamstest.Fault
	subject.Streams(t, "../../internal/sse/testdata", map[string]f{
		"bom_crlf":             {},
		"cr_only":              {},
		"empty":                {Kind: fault.Upstream, Code: "upstream_truncated"},
		"fields_and_comments":  {},
		"json_instead":         {Kind: fault.Invalid, Param: "stream", Message: "stream not supported"},
		"long_line":            {},
		"multi_line_data":      {},
		"no_final_blank_line":  {},
		"no_space_after_colon": {},
	})
}

func TestAnswers(t *testing.T) {
	type f = upstreamstest.Fault
	subject.Answers(t, "testdata/chat", map[string]f{
		"audio_out": {}, "content_filter": {}, "empty_choices": {}, "image": {}, "json_schema": {}, "length": {}, "length_all_reasoning": {},
		"logprobs": {}, "moderation": {}, "n2": {}, "plain": {}, "reasoning": {}, "refusal": {}, "tool_custom": {}, "tool_parallel": {},
		"tool_results": {}, "tool_single": {}, "unicode": {}, "web_search": {},
	})
}

func FuzzStream(f *testing.F)     { subject.FuzzStream(f, "testdata/stream") }
func FuzzRefusal(f *testing.F)    { subject.FuzzRefusal(f, "testdata/errors") }
func BenchmarkChunk(b *testing.B) { subject.BenchmarkChunk(b) }
func BenchmarkSent(b *testing.B)  { subject.BenchmarkSent(b) }

func TestEveryFileIsUsed(t *testing.T) {
	upstreamstest.Unused(t, "chat/*.resp.json", "check/models.resp.json", "embeddings/*.resp.json", "embeddings/*.req.json", "errors/*.http", "stream/*.sse")
}

func TestEmbeddings(t *testing.T) { subject.Embedded(t, "testdata/embeddings") }
