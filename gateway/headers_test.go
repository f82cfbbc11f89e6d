package gateway

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
	"threadhub/upstreams/openai"
	"threadhub/upstreams/perplexity"
	"threadhub/upstreams/upstreamstest"
)

// playing makes every request to one of a house's providers go to a server that answers as reply says.
func (h *house) playing(provider string, upstream func(upstreams.Options) (*upstreams.Client, error), reply func(*upstreamstest.Conn)) {
	h.t.Helper()
	client, err := upstream(upstreams.Options{BaseURL: upstreamstest.Serve(h.t, reply).URL})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { client.Close() })
	h.opts.Upstreams[provider] = client
}

// An answer tells of both hops, each under its own names: what the provider says of itself is not taken for ours.
func TestHeadersOfBothHops(t *testing.T) {
	t.Parallel()
	told := []string{
		"x-request-id: req_theirs", "openai-processing-ms: 987654", "x-ratelimit-limit-requests: 500", "X-RateLimit-Remaining-Tokens: 199998",
		"x-ratelimit-reset-tokens: 6m0s", "retry-after: 7",
	}
	kept := []string{"openai-organization: org-secret", "Set-Cookie: __cf_bm=1", "Server: cloudflare", "x-threadhub-cost-usd: 1000", "x-thread-id: theirs", "openai-version: 2020-10-01"}
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.playing("openai", openai.New, func(c *upstreamstest.Conn) {
			head := append(append([]string{}, told...), kept...)
			switch {
			case strings.Contains(string(c.Body), "refuse"):
				c.Send(upstreamstest.Reply("429 Too Many Requests", `{"error":{"message":"m","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`, append(head, upstreamstest.JSON)...))
			case gjson.GetBytes(c.Body, "stream").Bool():
				c.Send(strings.Replace(upstreamstest.Chunked, "\r\n\r\n", "\r\n"+strings.Join(head, "\r\n")+"\r\n\r\n", 1) +
					upstreamstest.Chunk(upstreamstest.Data(upstreamstest.Delta("hi"))+upstreamstest.Done) + upstreamstest.LastChunk)
			default:
				c.Send(upstreamstest.Reply("200 OK", upstreamstest.Answer("hi"), append(head, upstreamstest.JSON)...))
			}
		})
		for text, status := range map[string]int{"whole": 200, "stream": 200, "refuse": 429} {
			more := ""
			if text == "stream" {
				more = `,"stream":true`
			}
			r := h.chat(text, more).want(t, status)
			for name, want := range map[string]string{
				"X-Upstream-X-Request-Id": "req_theirs", "X-Upstream-Openai-Processing-Ms": "987654", "X-Upstream-X-Ratelimit-Limit-Requests": "500",
				"X-Upstream-X-Ratelimit-Remaining-Tokens": "199998", "X-Upstream-X-Ratelimit-Reset-Tokens": "6m0s", "X-Upstream-Retry-After": "7",
				"X-Threadhub-Provider": "openai", "X-Threadhub-Model": "gpt-5-mini", "X-Threadhub-Route": "explicit", "X-Threadhub-Attempts": "1",
			} {
				if got := r.header.Get(name); got != want {
					t.Errorf("%s: %s is %q, want %q", text, name, got, want)
				}
			}
			if id := r.header.Get("X-Request-Id"); id == "" || id == "req_theirs" {
				t.Errorf("%s: our own id is %q", text, id)
			}
			if ms, err := strconv.Atoi(r.header.Get("Openai-Processing-Ms")); err != nil || ms > 60_000 {
				t.Errorf("%s: it took %q ms", text, r.header.Get("Openai-Processing-Ms"))
			}
			for _, secret := range []string{"org-secret", "cf_bm", "cloudflare", "[1000]", "[theirs]", "2020-10-01"} {
				if got := fmt.Sprint(r.header); strings.Contains(got, secret) {
					t.Errorf("%s: %s is in %s", text, secret, got)
				}
			}
			for name := range r.header {
				// We have no limits to tell of; theirs are not the client's.
				if strings.HasPrefix(name, "X-Ratelimit") || text != "refuse" && name == "Retry-After" || name == "X-Thread-Id" {
					t.Errorf("%s: there is %s", text, name)
				}
			}
			if got := h.call(r)["attempts"].([]any)[0].(map[string]any)["upstream_request_id"]; got != "req_theirs" {
				t.Errorf("%s: the call tells of the provider's request %v", text, got)
			}
		}
	})
}

// The head of a stream is with the client before the provider has said a word, warnings and all.
func TestTheHeadOfAStreamComesFirst(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		seen := make(chan struct{})
		h.playing("openrouter", perplexity.New, func(c *upstreamstest.Conn) {
			c.Send(strings.Replace(upstreamstest.Chunked, "\r\n\r\n", "\r\nx-request-id: req_theirs\r\n\r\n", 1))
			<-seen
			c.Close()
		})
		body := `{"model":"openrouter/sonar","messages":[{"role":"user","content":"hi"}],"seed":1,"user":"u","stream":true}`
		req, err := http.NewRequestWithContext(t.Context(), "POST", h.url+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
		req.Header.Set("X-Thread-Id", "new")
		resp, err := houseClient.Do(req) // returns with the head
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		for name, want := range map[string]string{
			"X-Threadhub-Warning":    "dropped=seed;reason=unsupported, dropped=user;reason=unsupported",
			"X-Threadhub-Thread-Seq": "0", "X-Threadhub-Thread-Mode": "appended", "X-Threadhub-Thread-Omitted": "0", "X-Threadhub-Provider": "openrouter",
			"X-Threadhub-Attempts": "1", "X-Upstream-X-Request-Id": "req_theirs", "Content-Type": "text/event-stream; charset=utf-8",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if got := resp.Header.Values("X-Threadhub-Warning"); len(got) != 1 {
			t.Errorf("%d headers of warnings", len(got))
		}
		for _, name := range []string{"X-Thread-Id", "X-Request-Id", "Openai-Processing-Ms"} {
			if resp.Header.Get(name) == "" {
				t.Errorf("there is no %s", name)
			}
		}
		for _, name := range []string{"X-Threadhub-Cost-Usd", "X-Threadhub-Cost-Status", "X-Threadhub-Overhead-Ms"} { // nobody knows yet
			if got := resp.Header.Get(name); got != "" {
				t.Errorf("%s is %q", name, got)
			}
		}
		close(seen)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		}
	})
}

// What an answer turned out to lack is kept with its call, also where it came to light after the head of a stream.
func TestLateWarningsAreKept(t *testing.T) {
	t.Parallel()
	const whole = `{"id":"resp_1","object":"response","created_at":1,"status":"completed","model":"perplexity/sonar","output":[{"type":"message",` +
		`"id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"hello","annotations":[]}]}],` +
		`"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}`
	const raw = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"item_id\":\"msg_1\",\"delta\":\"hello\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":" + whole + "}\n\n"
	const early, late = "dropped=seed;reason=unsupported", "dropped=search;reason=not_searched"
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.playing("openrouter", perplexity.New, func(c *upstreamstest.Conn) {
			if gjson.GetBytes(c.Body, "stream").Bool() {
				c.Send(upstreamstest.EventStream + raw)
			} else {
				c.Send(upstreamstest.Reply("200 OK", whole, upstreamstest.JSON))
			}
			c.Close()
		})
		for stream, header := range map[string]string{"": early + ", " + late, `,"stream":true`: early} {
			r := h.do("POST", "/v1/chat/completions", `{"model":"openrouter/sonar","messages":[{"role":"user","content":"hi"}],"seed":1,
				"tools":[{"type":"function","function":{"name":"get_weather"}}]`+stream+`}`).want(t, 200)
			if got := r.header.Get("X-Threadhub-Warning"); got != header {
				t.Errorf("%q: the header warns of %q", stream, got)
			}
			if got := fmt.Sprint(h.call(r)["warnings"]); got != "["+early+" "+late+"]" {
				t.Errorf("%q: the call tells of %s", stream, got)
			}
		}
	})
}
