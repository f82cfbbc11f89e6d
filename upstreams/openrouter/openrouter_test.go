package openrouter_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/upstreams"
	"threadhub/upstreams/openrouter"
	"threadhub/upstreams/upstreamstest"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

var subject = upstreamstest.Subject{
	New: openrouter.New,
	Forward: map[string]string{
		"HTTP-Referer":            "https://example.com",
		"X-Title":                 "An App",
		"X-OpenRouter-Title":      "An App",
		"X-OpenRouter-Categories": "cli-agent",
		"X-Session-Id":            "s-1",
	},
	Header: map[string]string{
		"X-Generation-Id":       "gen-1794700800-7obIkcRWRuBmalP0LU8S",
		"X-Ratelimit-Remaining": "0",
	},
	ID:     "X-Generation-Id",
	Check:  upstreamstest.Check{Folder: "testdata/check", Path: "key", Models: 2},
	Embeds: upstreamstest.Embeds{Answer: upstreamstest.Embedded},
	Lists: upstreamstest.Lists{
		Path: "models", Entry: upstreamstest.ModelEntry, List: upstreamstest.ModelList, Recorded: "check/models.resp.json",
		Want: []upstreams.Model{
			{
				ID: "openai/gpt-6.1-sol", Created: 1792454400, Window: 1050000, MaxOutput: 128000, Input: []string{"text", "image", "file"},
				Output: []string{"text"}, Chat: new(true), Embeddings: new(false), Tools: new(true), Reasoning: new(true),
			},
			{
				ID: "openrouter/auto", Created: 1699401600, Window: 2000000, Input: []string{"text"}, Output: []string{"text"},
				Chat: new(true), Embeddings: new(false), Tools: new(false), Reasoning: new(false),
			},
		},
	},
}

// Models that embed have a list of their own; without it there is still the first.
func TestTheListOfModelsThatEmbed(t *testing.T) {
	status := "200 OK"
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		if strings.HasSuffix(c.Request.URL.Path, "/embeddings/models") {
			c.Send(upstreamstest.Reply(status, `{"data":[{"id":"qwen/embed","context_length":32768,"architecture":{"output_modalities":["embeddings"]}}]}`, upstreamstest.JSON))
		} else {
			c.Send(upstreamstest.Reply("200 OK", `{"data":[{"id":"a/b"},{"id":"qwen/embed"}]}`, upstreamstest.JSON))
		}
	})
	u, err := openrouter.New(upstreams.Options{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, want := range []int{2, 2} {
		models, err := u.List(t.Context(), seal.NewSecret("sk-or-v1-good"))
		if err != nil || len(models) != want {
			t.Errorf("%+v, %v", models, err)
		}
		status = "500 Error"
	}
}

// The list of models is anybody's: it proves nothing, and a key that was proved stays so without it.
func TestTheListProvesNothing(t *testing.T) {
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		switch {
		case strings.HasSuffix(c.Request.URL.Path, "/models"):
			c.Send(upstreamstest.Reply("500 Error", "", upstreamstest.JSON))
		case strings.HasSuffix(c.Request.Header.Get("Authorization"), "managing"):
			c.Send(upstreamstest.Reply("200 OK", `{"data":{"is_management_key":true}}`, upstreamstest.JSON))
		default:
			c.Send(upstreamstest.Reply("200 OK", `{"data":{"label":"sk-or-v1-0e6...1c96"}}`, upstreamstest.JSON))
		}
	})
	u, err := openrouter.New(upstreams.Options{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if p, err := u.Test(t.Context(), seal.NewSecret("sk-or-v1-good")); err != nil || p.Status != 200 || p.Models != -1 {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = u.Test(t.Context(), seal.NewSecret("sk-or-v1-managing"))
	if !fault.HasCode(err, "upstream_auth") || !strings.Contains(err.Error(), "managing the account") {
		t.Errorf("a key that only manages: %v", err)
	}
}

func TestUpstream(t *testing.T) { upstreamstest.Run(t, subject) }

func TestErrors(t *testing.T) {
	type f = upstreamstest.Fault
	rejected := f{Kind: fault.Upstream, Code: "upstream_auth", Message: "key was refused", Final: true}
	broke := f{Kind: fault.RateLimited, Code: "insufficient_quota", Message: "no credit left", Final: true}
	subject.Errors(t, "testdata/errors", map[string]f{
		"400":              {Kind: fault.Invalid, Message: "openai/gpt-99 is not a valid model ID"},
		"400_provider":     {Kind: fault.Invalid, Message: "Provider returned error (Google AI Studio: Invalid value at 'tools')"},
		"401":              rejected,
		"401_missing":      rejected,
		"402":              broke,
		"402_afford":       broke,
		"403_guardrail":    {Kind: fault.Invalid, Code: "content_policy_violation", Message: "blocked by guardrail"},
		"403_limit":        {Kind: fault.Denied, Code: "permission_denied", Message: "may not do this: Key limit exceeded", Final: true},
		"404_availability": {Kind: fault.NotFound, Code: "not_found", Message: "No allowed providers"},
		"404_endpoints":    {Kind: fault.NotFound, Message: "No endpoints found"},
		"408":              {Kind: fault.Upstream, Code: "upstream_error", Message: "timed out"},
		"413":              {Kind: fault.TooLarge, Message: "too large"},
		"422":              {Kind: fault.Invalid, Message: "Unprocessable"},
		"429_free":         {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "free-models-per-min", Retry: 37 * time.Second},
		"429_upstream":     {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "temporarily rate-limited upstream", Retry: 5 * time.Second},
		"500":              {Kind: fault.Upstream, Code: "upstream_error", Message: "Internal Server Error"},
		"502":              {Kind: fault.Upstream, Code: "upstream_error", Message: "openrouter: Provider returned error"},
		"503":              {Kind: fault.Upstream, Code: "upstream_error", Message: "temporarily unavailable", Retry: 10 * time.Second},
		"524":              {Kind: fault.Upstream, Code: "upstream_error", Message: "timed out"},
		"529":              {Kind: fault.Upstream, Code: "upstream_error", Message: "(Anthropic: Overloaded)"},
	})
}

// How long a vendor wants to be left alone OpenRouter may tell in the vendor's own error alone.
func TestWaitOfAVendor(t *testing.T) {
	for raw, want := range map[string]time.Duration{
		`{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.4s"}]}}`:  34400 * time.Millisecond,
		` [{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"5s"}]}}] `: 5 * time.Second,
		`{"error":{"message":"Quota"}}`: 0,
		`Quota`:                         0,
		`[1] Quota`:                     0,
	} {
		body, err := json.Marshal(map[string]any{"error": map[string]any{"code": 429, "message": "Provider returned error", "metadata": map[string]any{"provider_name": "V", "raw": raw}}})
		if err != nil {
			t.Fatal(err)
		}
		u, err := openrouter.New(upstreams.Options{BaseURL: upstreamstest.Replies(t, upstreamstest.Reply("429 Slow", string(body), upstreamstest.JSON)).URL})
		if err != nil {
			t.Fatal(err)
		}
		_, err = u.Chat(t.Context(), &upstreams.Request{Body: []byte(`{"model":"m","messages":[{"role":"user","content":"x"}]}`), Model: "m", Key: seal.NewSecret(upstreamstest.Key)})
		if f := fault.From(err); f == nil || f.Retry != want || !strings.Contains(f.Message, "(V: ") || !strings.HasSuffix(f.Message, "Quota)") {
			t.Errorf("%s: %+v, want a wait of %v", raw, f, want)
		}
		_ = u.Close()
	}
}

func TestStreams(t *testing.T) {
	type f = upstreamstest.Fault
	subject.Streams(t, "testdata/stream", map[string]f{
		"annotations":               {},
		"comments_only":             {Kind: fault.Upstream, Code: "upstream_truncated"},
		"error_first":               {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "free-models-per-day"},
		"error_mid_numeric":         {Kind: fault.Upstream, Code: "upstream_error", Message: "disconnected unexpectedly"},
		"plain_usage_empty_choices": {},
		"plain_usage_with_choice":   {},
		"reasoning":                 {},
		"tool_call":                 {},
	})
}

func TestAnswers(t *testing.T) {
	type f = upstreamstest.Fault
	subject.Answers(t, "testdata/chat", map[string]f{
		"annotations": {}, "byok": {}, "gemini_tool": {}, "images_out": {}, "metadata": {}, "perplexity_sonar": {}, "plain": {},
		"reasoning": {}, "reasoning_claude": {},
		"error_200": {Kind: fault.Upstream, Code: "upstream_error", Message: "Provider returned error"},
	})
}

func TestEmbeddings(t *testing.T) { subject.Embedded(t, "testdata/embeddings") }

func FuzzStream(f *testing.F)     { subject.FuzzStream(f, "testdata/stream") }
func FuzzRefusal(f *testing.F)    { subject.FuzzRefusal(f, "testdata/errors") }
func BenchmarkChunk(b *testing.B) { subject.BenchmarkChunk(b) }
func BenchmarkSent(b *testing.B)  { subject.BenchmarkSent(b) }

func TestEveryFileIsUsed(t *testing.T) {
	upstreamstest.Unused(t, "chat/*.resp.json", "check/key.resp.json", "check/models.resp.json", "embeddings/*.resp.json", "errors/*.http", "stream/*.sse")
}

func TestFamily(t *testing.T) {
	u, err := openrouter.New(upstreams.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for model, want := range map[string]string{
		"anthropic/claude-haiku-5.5": "anthropic", "~anthropic/claude-sonnet-latest": "anthropic", "google/gemini-3.8-flash:nitro": "google/gemini-3",
		"google/gemini-4-argon": "google/gemini-4", "google/gemma-4-31b-it": "google/gemma", "openrouter/auto": "openrouter",
	} {
		if got := u.Family(model); got != want {
			t.Errorf("%s is of %s, want %s", model, got, want)
		}
	}
}
