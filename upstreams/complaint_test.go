package upstreams

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

const canary = "sk-canary-4Zq8LrT2vX9pW6mK"

func testCall(t testing.TB) *call {
	c, err := NewClient(Dialect{Provider: "openai", BaseURL: "https://example.com"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &call{client: c, key: canary}
}

// FuzzComplaint puts bytes where a provider says what is wrong: whatever they are, the client gets one of our faults,
// with text it can be shown and without the key.
func FuzzComplaint(f *testing.F) {
	for _, body := range []string{
		`{"error":{"message":"no ` + canary + `","type":"t","param":"p","code":"c"}}`,
		`{"error":{"message":"m","code":429,"metadata":{"raw":"{\"error\":{\"message\":\"x\"}}","provider_name":"P","headers":{"X-RateLimit-Reset":"1"}}}}`,
		`{"error":{"error_type":"not_found","http_status":404,"availability":{"retry_after":5}}}`,
		`{"error":{"code":429,"message":"see https://x.y/` + canary + `","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.4s"},{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"PerDay"}]},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"},7]}}`,
		`{"error":"text"}`, `{"choices":[{"finish_reason":"error","error":{}}]}`, `[{"error":{"code":400}}]`, `{"error":{"code":"` + canary + `"}}`, `{`, "", "\xff",
	} {
		f.Add(body, 400)
		f.Add(body, 0)
	}
	f.Fuzz(func(t *testing.T, body string, status int) {
		k := testCall(t)
		if status != 0 {
			status = 400 + (status&0x7fffffff)%200
		}
		said, ok := embedded([]byte(body))
		if !ok {
			said = parseComplaint([]byte(body))
		}
		err := k.complain(status, said, nil)
		e := fault.From(err)
		if e.Kind == fault.Internal || e.Kind == fault.Unauthorized || e.Message == "" {
			t.Fatalf("%+v", e)
		}
		if out := fmt.Sprint(e.Message, e.Code, e.Param, err); strings.Contains(out, canary) || strings.ContainsAny(out, "\n\r\x00") || len(out) > 8000 {
			t.Fatalf("%q", out)
		}
		if e.Retry < 0 || e.Retry > time.Hour {
			t.Fatalf("wait %v", e.Retry)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"5", "0.5", "Wed, 21 Oct 2015 07:28:00 GMT", "1794700860000", "-1", "NaN", "Inf", "1e999", "0x10p5"} {
		f.Add(v)
	}
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		for _, name := range []string{"Retry-After", "Retry-After-Ms", "X-Ratelimit-Reset"} {
			if d := retryAfter(http.Header{name: {v}}, now); d < 0 || d > time.Hour {
				t.Fatalf("%s: %q is %v", name, v, d)
			}
		}
	})
}

func BenchmarkEmbedded(b *testing.B) {
	chunk := []byte(`{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, ok := embedded(chunk); ok {
			b.Fatal("an error")
		}
	}
}
