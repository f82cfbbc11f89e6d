package openai

import (
	"strings"
	"testing"
	"unicode/utf8"

	"threadhub/internal/fault"
)

func TestAppendError(t *testing.T) {
	if got := string(AppendError([]byte("x"), "a\"b", "invalid_request_error", "", "")); got != `x{"error":{"message":"a\"b","type":"invalid_request_error","param":null,"code":null}}` {
		t.Error(got)
	}
	if got := string(AppendError(nil, "m", "t", "messages[0]", "c")); got != `{"error":{"message":"m","type":"t","param":"messages[0]","code":"c"}}` {
		t.Error(got)
	}
}

func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain text, nothing to hide": "plain text, nothing to hide",
		"Incorrect API key provided: sk-proj-abc********wxyz. You": "Incorrect API key provided: [masked] You",
		"sk-or-v1-0123456789abcdef, th_AbCdEfGhIjKl_secret":        "[masked], [masked]",
		"key AIzaSyA-1234567890_abc and pplx-0123456789abcdef":     "key [masked] and [masked]",
		"pplx-embed-v1-0.6b, pplx-abc********wxyz":                 "pplx-embed-v1-0.6b, [masked]",
		"Authorization: Bearer abc.def-ghi, next":                  "Authorization: [masked], next",
		"GET /v1beta/models?key=abc123&alt=sse":                    "GET /v1beta/models?[masked]&alt=sse",
		"token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc":              "token [masked]",
		"a\x00b\nc\u0085d\u2028e":                                  "a b c d e",
		"bad \xff utf8":                                            "bad \uFFFD utf8",
		"the task-list and disk-space, with_under":                 "the task-list and disk-space, with_under",
	} {
		if got := Scrub(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	long := Scrub(strings.Repeat("é", 100_000))
	if n := utf8.RuneCountInString(long); n != 512 || !utf8.ValidString(long) {
		t.Errorf("%d runes", n)
	}
	// A key that lies across the cut is masked whole first.
	if got := Scrub(strings.Repeat("x ", 250) + "sk-" + strings.Repeat("a", 100)); strings.Contains(got, "sk-") {
		t.Error(got)
	}
}

func TestReported(t *testing.T) {
	f := func(in string, kind fault.Kind, code, message string, final bool) {
		t.Helper()
		e := reported([]byte(in))
		if e.Kind != kind || e.Code != code || e.Message != message || e.Final != final {
			t.Errorf("%s: %+v", in, e)
		}
	}
	f(`{"message":"The server had an error","type":"server_error","param":null,"code":null}`, fault.Upstream, "upstream_error", "the provider failed: The server had an error", false)
	f(`{"message":"Rate limit","type":"tokens","code":"rate_limit_exceeded"}`, fault.RateLimited, "rate_limit_exceeded", "the provider failed: Rate limit", false)
	f(`{"message":"m","code":429}`, fault.RateLimited, "rate_limit_exceeded", "the provider failed: m", false)
	f(`{"message":"m","code":"429"}`, fault.RateLimited, "rate_limit_exceeded", "the provider failed: m", false)
	f(`{"message":"m","code":502,"metadata":{"error_type":"provider_unavailable"}}`, fault.Upstream, "upstream_error", "the provider failed: m", false)
	f(`{"message":"m","metadata":{"error_type":"rate_limit_exceeded"}}`, fault.RateLimited, "rate_limit_exceeded", "the provider failed: m", false)
	f(`{"message":"quota","code":"insufficient_quota"}`, fault.RateLimited, "insufficient_quota", "the provider failed: quota", true)
	f(`{"message":"m","code":"context_length_exceeded"}`, fault.Upstream, "context_length_exceeded", "the provider failed: m", false)
	f(`{"message":"key sk-0123456789abc","code":"sk-0123456789abc"}`, fault.Upstream, "upstream_error", "the provider failed: key [masked]", false)
	f(`{"message":{},"code":[]}`, fault.Upstream, "upstream_error", "the provider failed without saying why", false)
	f(`"overloaded"`, fault.Upstream, "upstream_error", "the provider failed: overloaded", false)
	f(`7`, fault.Upstream, "upstream_error", "the provider failed without saying why", false)
}
