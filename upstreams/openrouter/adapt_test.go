package openrouter_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/seal"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/openrouter"
	"threadhub/upstreams/upstreamstest"
)

// chat asks OpenRouter, which answers with raw, and returns the answer and the request it got.
func chat(t *testing.T, o upstreams.Options, body, raw string, header http.Header) (*upstreams.Answer, *upstreamstest.Conn) {
	t.Helper()
	asked := make(chan *upstreamstest.Conn, 1)
	o.BaseURL = upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		asked <- c
		c.Send(raw)
		c.Close()
	}).URL
	u, err := openrouter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	a, err := u.Chat(t.Context(), &upstreams.Request{
		Body: []byte(body), Stream: strings.Contains(raw, "event-stream"), Key: seal.NewSecret(upstreamstest.Key), Header: header,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, <-asked
}

func recording(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the client wrote is what OpenRouter gets, unless the operator said otherwise; and even then only what must be added is
// added, where nothing else says it.
func TestParametersAreRequired(t *testing.T) {
	const all, tools = `"require_parameters":true`, `"tools":[{"type":"function","function":{"name":"f"}}]`
	for body, want := range map[string]string{
		`{"model":"m","messages":[],` + tools + `}`:                                          `{"provider":{` + all + `},"model":"m","messages":[],` + tools + `}`,
		"\n { \"model\":\"m\", \"logprobs\" : true}":                                         "\n {\"provider\":{" + all + "}, \"model\":\"m\", \"logprobs\" : true}",
		`{"model":"m","functions":[{"name":"f"}]}`:                                           `{"provider":{` + all + `},"model":"m","functions":[{"name":"f"}]}`,
		`{"response_format":{"type":"json_schema"},"provider":{ "sort":"price" }}`:           `{"response_format":{"type":"json_schema"},"provider":{` + all + `, "sort":"price" }}`,
		`{` + tools + `,"provider":{ },"messages":[{"content":"\"provider\":{"}]}`:           `{` + tools + `,"provider":{` + all + ` },"messages":[{"content":"\"provider\":{"}]}`,
		`{` + tools + `,"provider": null }`:                                                  `{` + tools + `,"provider": {` + all + `} }`,
		`{` + tools + `,"provider":{"require_parameters":false}}`:                            "",
		`{` + tools + `,"provider":"x"}`:                                                     "",
		`{"model":"m","messages":[{"role":"user","content":"tools logprobs"}]}`:              "",
		`{"model":"m","tools":[],"logprobs":false,"response_format":{"type":"json_object"}}`: "",
	} {
		for adapt, want := range map[bool]string{false: body, true: want} {
			if want == "" {
				want = body
			}
			_, got := chat(t, upstreams.Options{Adapt: adapt}, body, upstreamstest.Reply("200 OK", upstreamstest.Answer("x"), upstreamstest.JSON), nil)
			if string(got.Body) != want || !json.Valid(got.Body) {
				t.Errorf("adapt %v: OpenRouter got %s, want %s", adapt, got.Body, want)
			}
		}
	}
}

// Reasoning is told under both names where the operator wants it, and every other byte stays.
func TestReasoningUnderBothNames(t *testing.T) {
	for _, name := range []string{"chat/reasoning.resp.json", "chat/reasoning_claude.resp.json", "chat/plain.resp.json"} {
		raw := recording(t, name)
		for _, adapt := range []bool{false, true} {
			a, _ := chat(t, upstreams.Options{Adapt: adapt}, `{}`, upstreamstest.Reply("200 OK", raw, upstreamstest.JSON), nil)
			thought := gjson.Get(raw, "choices.0.message.reasoning").Raw
			want := raw
			if adapt && thought != "null" {
				want = strings.Replace(raw, `"reasoning": `+thought, `"reasoning": `+thought+`,"reasoning_content":`+thought, 1)
			}
			if string(a.Body) != want {
				t.Errorf("%s, adapt %v: %s", name, adapt, a.Body)
			}
		}
	}
	var all openai.Accumulator
	a, _ := chat(t, upstreams.Options{Adapt: true}, `{}`, upstreamstest.EventStream+recording(t, "stream/reasoning.sse"), nil)
	defer a.Stream.Close()
	for {
		p, err := a.Stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if _, bad := all.Add(p); err != nil || bad != nil {
			t.Fatal(err, bad)
		}
	}
	m := gjson.ParseBytes(all.Message())
	if m.Get("reasoning").Str != "17*23" || m.Get("reasoning_content").Str != "17*23" || m.Get("reasoning_details.0.text").Str != "17*23" {
		t.Errorf("the message is %s", all.Message())
	}
	for in, want := range map[string]string{
		`{"choices":[{"delta":{"reasoning":"a\"\u00e9"}},{"index":1,"delta":{"reasoning":"b","content":null}}],"x":"\"reasoning\""}`: `{"choices":[{"delta":{"reasoning":"a\"\u00e9","reasoning_content":"a\"\u00e9"}},{"index":1,"delta":{"reasoning":"b","reasoning_content":"b","content":null}}],"x":"\"reasoning\""}`,
		`{"choices":[{"delta":{"reasoning":"a","reasoning_content":"b"}}]}`:                                                          "",
		`{"choices":[{"delta":{"reasoning":""}},{"delta":{"reasoning":null}},{"delta":{"reasoning":7}},7]}`:                          "",
		`{"choices":{"reasoning":"a"},"reasoning":"b"}`:                                                                              "",
	} {
		a, _ := chat(t, upstreams.Options{Adapt: true}, `{}`, upstreamstest.Reply("200 OK", in, upstreamstest.JSON), nil)
		if want == "" {
			want = in
		}
		if string(a.Body) != want {
			t.Errorf("%s became %s", in, a.Body)
		}
	}
}

// OpenRouter is told which app asks: by the client, or else by the operator.
func TestWhoAsks(t *testing.T) {
	operators := upstreams.Options{Referer: "https://threadhub.example", Title: "Threadhub"}
	for about, c := range map[string]struct {
		options upstreams.Options
		client  http.Header
		want    map[string]string
	}{
		"nobody says":          {want: map[string]string{"Http-Referer": "", "X-Openrouter-Title": "", "X-Title": ""}},
		"the operator says":    {operators, nil, map[string]string{"Http-Referer": "https://threadhub.example", "X-Openrouter-Title": "Threadhub", "X-Title": ""}},
		"the client says":      {operators, http.Header{"Http-Referer": {"https://app.example"}, "X-Openrouter-Title": {"App"}}, map[string]string{"Http-Referer": "https://app.example", "X-Openrouter-Title": "App"}},
		"by the older name":    {operators, http.Header{"X-Title": {"App"}}, map[string]string{"Http-Referer": "https://threadhub.example", "X-Openrouter-Title": "", "X-Title": "App"}},
		"not what it must not": {operators, http.Header{"X-Openrouter-Title": {"a\r\nb"}}, map[string]string{"X-Openrouter-Title": "Threadhub"}},
	} {
		_, got := chat(t, c.options, `{}`, upstreamstest.Reply("200 OK", upstreamstest.Answer("x"), upstreamstest.JSON), c.client)
		for name, want := range c.want {
			if v := got.Request.Header.Get(name); v != want {
				t.Errorf("%s: %s is %q, want %q", about, name, v, want)
			}
		}
	}
}

// BenchmarkAdapt is what the operator may want, of a request of 20 KB and of a chunk that holds reasoning. Where nothing is
// to be added it is a look.
func BenchmarkAdapt(b *testing.B) {
	text := strings.Repeat("some words that are said, ", 760)
	for name, body := range map[string]string{
		"request":      `{"model":"m","messages":[{"role":"user","content":"` + text + `"}],"tools":[{"type":"function","function":{"name":"f"}}]}`,
		"same request": `{"model":"m","messages":[{"role":"user","content":"` + text + `"}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				openrouter.RequireParameters([]byte(body))
			}
		})
	}
	for name, chunk := range map[string]string{
		"chunk":      `{"id":"gen-1","provider":"P","model":"m","object":"chat.completion.chunk","created":1,"choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"hm","reasoning_details":[{"type":"reasoning.text","text":"hm","format":"x","index":0}]},"finish_reason":null}]}`,
		"same chunk": `{"id":"gen-1","provider":"P","model":"m","object":"chat.completion.chunk","created":1,"choices":[{"index":0,"delta":{"role":"assistant","content":" some words"},"finish_reason":null}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				openrouter.RepeatReasoning([]byte(chunk))
			}
		})
	}
}
