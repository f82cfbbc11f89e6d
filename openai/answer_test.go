package openai

import (
	"encoding/json"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func TestAnswerFixtures(t *testing.T) {
	for name, raw := range fixtures(t, "*/chat/*.resp.json", 25) {
		a, err := ParseAnswer(raw)
		if name == "openrouter/chat/error_200.resp.json" {
			if !fault.Is(err, fault.Upstream) || !fault.HasCode(err, "upstream_error") || err.Error() != "the provider failed: Provider returned error" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var want struct {
			ID, Model string
			Choices   []struct {
				Index        int
				FinishReason string `json:"finish_reason"`
				Message      struct {
					Content *string
				}
			}
			Usage struct {
				Prompt     int64 `json:"prompt_tokens"`
				Completion int64 `json:"completion_tokens"`
				Total      int64 `json:"total_tokens"`
				Cost       json.Number
			}
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if a.ID != want.ID || a.Model != want.Model || len(a.Choices) != len(want.Choices) || a.Empty() != (len(want.Choices) == 0) || &a.Raw[0] != &raw[0] {
			t.Errorf("%s: %q %q, %d choices; want %+v", name, a.ID, a.Model, len(a.Choices), want)
			continue
		}
		if u := a.Usage; u == nil || a.UsageInvalid || u.Sum() != want.Usage.Total || u.Total != u.Sum() || u.prompt() != want.Usage.Prompt || u.completion() < want.Usage.Completion || u.Cost != want.Usage.Cost.String() {
			t.Errorf("%s: usage %+v, want %+v", name, u, want.Usage)
		}
		for i, c := range a.Choices {
			w := want.Choices[i]
			text := ""
			if w.Message.Content != nil {
				text = *w.Message.Content
			}
			if c.Index != w.Index || c.FinishReason != w.FinishReason || c.Text() != text {
				t.Errorf("%s: choice %+v, want %+v", name, c, w)
			}
			if _, chained, err := Canon(c.Message); err != nil || !chained {
				t.Errorf("%s: %v", name, err)
			}
			for _, kin := range []Kinship{Own, Relative, Foreign} {
				for _, m := range upstreamAgain(c.Message, kin) {
					if !json.Valid(m) {
						t.Errorf("%s: %s", name, m)
					}
				}
			}
		}
		if a.TextBytes() == 0 && !a.Empty() && !strings.Contains(name, "length_all_reasoning") && !strings.Contains(name, "content_filter") {
			t.Errorf("%s: no text", name)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	a, err := ParseAnswer([]byte(`{"id":"x","choices":[{"index":1,"message":{"role":"assistant","content":"b"}},{"message":{"content":"a"},"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":-1}}`))
	if err != nil {
		t.Fatal(err)
	}
	if a.Choices[0].Text() != "a" || a.Choices[1].Text() != "b" || a.Choices[1].FinishReason != "" || a.Usage != nil || !a.UsageInvalid {
		t.Errorf("%+v", a)
	}
	a, err = ParseAnswer([]byte(`{"choices":[]}`))
	if err != nil || !a.Empty() || a.Usage != nil || a.UsageInvalid {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = ParseAnswer([]byte("{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"a\xff\xfeb\"}}]}"))
	if err != nil || a.Choices[0].Text() != "a\uFFFDb" || !json.Valid(a.Raw) {
		t.Errorf("invalid UTF-8: %+v, %v", a, err)
	}

	f := func(in string, kind fault.Kind, code string) {
		t.Helper()
		if a, err := ParseAnswer([]byte(in)); a != nil || !fault.Is(err, kind) || !fault.HasCode(err, code) {
			t.Errorf("%.60s: %v", in, err)
		}
	}
	f(``, fault.Upstream, "upstream_protocol")
	f(`<html>502</html>`, fault.Upstream, "upstream_protocol")
	f(`{"choices":[{"message":{"content":"cut`, fault.Upstream, "upstream_protocol")
	f(`[]`, fault.Upstream, "upstream_protocol")
	f(`{"object":"list","data":[]}`, fault.Upstream, "upstream_protocol")
	f(`{"choices":{}}`, fault.Upstream, "upstream_protocol")
	f(`{"choices":["x"]}`, fault.Upstream, "upstream_protocol")
	f(`{"choices":[{"index":0}]}`, fault.Upstream, "upstream_protocol")
	f(`{"choices":[{"index":-1,"message":{}}]}`, fault.Upstream, "upstream_protocol")
	f(`{"choices":[{"index":"0","message":{}}]}`, fault.Upstream, "upstream_protocol")
	f(`{"choices":[{"index":1e30,"message":{}}]}`, fault.Upstream, "upstream_protocol")
	f(strings.Repeat("[", 1_000_000), fault.Upstream, "upstream_protocol")
	f(`{"error":{"message":"m","code":"server_error"}}`, fault.Upstream, "server_error")
	f(`{"error":{"message":"m","code":429},"choices":[]}`, fault.RateLimited, "rate_limit_exceeded")
	f(`{"choices":[{"message":{"content":""},"error":{"code":502}}]}`, fault.Upstream, "upstream_error")
	f(`{"choices":[{"message":{"content":""},"finish_reason":"error"}]}`, fault.Upstream, "upstream_error")
}

// upstreamAgain is what goes upstream of an answer.
func upstreamAgain(message []byte, kin Kinship) [][]byte {
	out, _ := History([]Told{{Raw: message, Role: "assistant", Kin: kin}}, nil, nil)
	return out
}
