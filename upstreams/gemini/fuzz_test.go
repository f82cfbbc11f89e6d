package gemini

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
)

// seeds adds the files that fit pattern.
func seeds(f *testing.F, pattern string) {
	paths, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no %s: %v", pattern, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzRequest puts what the gateway takes into Gemini's words: that is JSON with contents, or the client is told what to
// change.
func FuzzRequest(f *testing.F) {
	seeds(f, "mapping/*.in.openai.json")
	for _, body := range []string{
		chatOf("gemini-2.5-flash", hi+`,{"role":"assistant","tool_calls":[{"id":"a__thought__QQ==","function":{"name":"f","arguments":"[1]"}}]},{"role":"tool","tool_call_id":"a","content":[{"type":"text","text":"1"},{"type":"image_url","image_url":"data:image/png;base64,QQ=="}]}`, `"stop":"x","seed":1e18`),
		chatOf("gemma-4", `{"role":"system","content":"s"},{"role":"function","name":"f","content":"{\"a\":1}"}`, `"extra_body":{"google":{"thinking_config":{},"safety_settings":[]}}`),
		chatOf("gemini-3.8-flash", `{"role":"user","content":[{"type":"file","file":{"file_data":"https://x/y.pdf"}},{"type":"input_audio","input_audio":{"data":"QQ==","format":"wav"}}]}`, `"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"const":{"const":[1]}}}}}],"tool_choice":"required","web_search_options":{},"modalities":["text","image"]`),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := openai.ParseChat(body)
		if err != nil {
			return
		}
		w, err := still().translate(&upstreams.Request{Body: body, Model: r.Model, Stream: r.Stream})
		if err != nil {
			if e := fault.From(err); e.Kind != fault.Invalid && e.Kind != fault.TooLarge || e.Code == "" {
				t.Fatalf("%#v", err)
			}
			return
		}
		var got struct{ Contents []struct{ Parts []any } }
		if err := json.Unmarshal(w.Body(), &got); err != nil || len(got.Contents) == 0 || len(got.Contents[0].Parts) == 0 {
			t.Fatalf("%v: %s", err, w.Body())
		}
		if strings.Count(w.Path(), "/") != 1 || strings.ContainsAny(w.Path(), " \r\n#") {
			t.Fatalf("asked at %q", w.Path())
		}
		for _, text := range w.Warnings() {
			if strings.ContainsAny(text, "\r\n,\"") || len(text) > 200 {
				t.Fatalf("the warning %q", text)
			}
		}
	})
}

// FuzzAnswer reads any JSON as a whole answer.
func FuzzAnswer(f *testing.F) {
	seeds(f, "generate/*.resp.json")
	f.Add([]byte(`{"candidates":[{"content":{"parts":[{"text":"\ud83d"},{"text":"\ude00"},{"functionCall":{"args":{"a":"<\u0000"}}}]},"finishReason":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if text := bytes.TrimSpace(body); !json.Valid(body) || text[0] != '{' { // the client has seen to that
			return
		}
		got, err := asked().Whole(body)
		if err != nil {
			if !fault.Is(err, fault.Upstream) || got != nil && !json.Valid(got) {
				t.Fatalf("%v: %s", err, got)
			}
			return
		}
		if !json.Valid(got) || !bytes.Contains(got, []byte(`"finish_reason":"`)) {
			t.Fatalf("%s", got)
		}
	})
}

// large is a request of about 20 KB as agents send them: a long history, calls and results, schemas.
func large() []byte {
	turn := `{"role":"user","content":"` + strings.Repeat("What is the weather in Riga? ", 20) + `"},` +
		`{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Riga\"}"},"extra_content":{"google":{"thought_signature":"` + strings.Repeat("QUJD", 100) + `"}}}]},` +
		`{"role":"tool","tool_call_id":"call_1","content":"{\"temp\":4}"},{"role":"assistant","content":"` + strings.Repeat("It rains. ", 60) + `"},`
	tool := `{"type":"function","function":{"name":"get_weather","description":"Current weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"unit":{"type":"string","enum":["c","f"]}},"required":["city"],"additionalProperties":false},"strict":true}}`
	return []byte(chatOf("gemini-3.8-flash", `{"role":"system","content":"Be brief."},`+strings.Repeat(turn, 9)+hi, `"tools":[`+strings.Repeat(tool+",", 9)+tool+`],"temperature":0.2,"max_tokens":100,"reasoning_effort":"low"`))
}

func BenchmarkRequest(b *testing.B) {
	r := &upstreams.Request{Body: large(), Model: "gemini-3.8-flash"}
	d := still()
	b.SetBytes(int64(len(r.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.translate(r); err != nil {
			b.Fatal(err)
		}
	}
}
