package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func fixtures(t testing.TB, pattern string, least int) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) < least {
		t.Fatalf("%s: %d files, %v; want %d", pattern, len(files), err, least)
	}
	out := map[string][]byte{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(filepath.ToSlash(file), "testdata/")] = b
	}
	return out
}

// A file that no test goes through is in none of these places.
func TestEveryFileIsUsed(t *testing.T) {
	used := map[string]bool{}
	for _, pattern := range []string{"*/*/*.req.json", "*/chat/*.resp.json", "*/stream/*.sse"} {
		for name := range fixtures(t, pattern, 1) {
			used[name] = true
		}
	}
	err := fs.WalkDir(os.DirFS("testdata"), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !used[path] && !strings.HasPrefix(path, "fuzz/") {
			t.Errorf("testdata/%s is used by no test", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRequestFixtures(t *testing.T) {
	for name, raw := range fixtures(t, "*/*/*.req.json", 20) {
		c, err := ParseChat(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if out := c.Splice(Edits{}); &out[0] != &raw[0] || len(out) != len(raw) {
			t.Errorf("%s: copied though nothing changed", name)
		}
		if out := c.Splice(Edits{Model: c.Model, At: 1}); &out[0] != &raw[0] {
			t.Errorf("%s: copied though the model is the same", name)
		}
		var want struct {
			Model    string
			Messages []struct{ Role string }
			Stream   bool
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if c.Model != want.Model || c.Stream != want.Stream || len(c.Messages) != len(want.Messages) {
			t.Errorf("%s: %q %v %d messages, want %+v", name, c.Model, c.Stream, len(c.Messages), want)
		}
		for i, m := range c.Messages {
			if m.Role != want.Messages[i].Role {
				t.Errorf("%s: role %q, want %q", name, m.Role, want.Messages[i].Role)
			}
			if _, _, err := Canon(m.Raw); err != nil {
				t.Errorf("%s: message %d: %v", name, i, err)
			}
		}
	}
}

func TestParseChat(t *testing.T) {
	raw := []byte(` {"mod\u0065l" : "gpt\u002d5","messages":[ {"role":"\u0075ser","content":[{"type":"text","text":"a\n"},{"type":"image_url","image_url":{}},` +
		`{"type":"text","text":"b"}]}, {"content":null,"role":"assistant"}],"stream":true,"stream_options":{"include_usage":true},"n":2.0,` +
		`"max_tokens":5,"max_completion_tokens":7,"tools":[{}],"response_format":{"type":"text"},"metadata":{"thread_id":"a:b"},"thread_id":"a:b","x":null}`)
	c, err := ParseChat(raw)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(c.Model, len(c.Messages), c.Messages[0].Role, c.Messages[1].Role, c.Stream, c.IncludeUsage, c.Thread, c.N, c.MaxTokens, c.HasTools, c.HasResponseFormat, c.Images)
	if want := "gpt-5 2 user assistant true true a:b 2 7 true true 1\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s := string(c.Messages[1].Raw); s != `{"content":null,"role":"assistant"}` {
		t.Errorf("raw message %s", s)
	}
	if s := c.Messages[0].Text(); s != "a\n\nb" {
		t.Errorf("text %q", s)
	}

	c, err = ParseChat([]byte(`{"model":"m","messages":[{"role":"user"}],"stream":null,"stream_options":null,"n":null,"max_tokens":null,"max_completion_tokens":null,` +
		`"tools":[ ],"response_format":null,"metadata":null,"thread_id":null}`))
	if err != nil {
		t.Fatal("null is absent:", err)
	}
	got = fmt.Sprintf("%v %v %q %v %v %v %v %v", c.Stream, c.IncludeUsage, c.Thread, c.N, c.MaxTokens, c.HasTools, c.HasResponseFormat, c.Images)
	if want := `false false "" 1 0 false false 0`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseChatErrors(t *testing.T) {
	const ok = `"messages":[{"role":"user","content":"x"}]`
	f := func(in, code, param string) {
		t.Helper()
		c, err := ParseChat([]byte(in))
		if e := fault.From(err); err == nil || c != nil || e.Kind != fault.Invalid || e.Code != code || e.Param != param || e.Message == "" {
			t.Errorf("%.100s: %+v; want %s %s", in, fault.From(err), code, param)
		}
	}
	with := func(member, code, param string) {
		t.Helper()
		f(`{"model":"m",`+ok+`,`+member+`}`, code, param)
	}
	message := func(m, code, param string) {
		t.Helper()
		f(`{"model":"m","messages":[{"role":"user","content":"x"},`+m+`]}`, code, param)
	}
	f(``, "invalid_json", "")
	f(`{"model":1,}`, "invalid_json", "") // that it is JSON comes first
	f(`{"model":"m","messages":[{"role":"x"}`, "invalid_json", "")
	f(`{"model":"m",`+ok+`}{}`, "invalid_json", "")
	f("\xEF\xBB\xBF"+`{"model":"m",`+ok+`}`, "invalid_json", "")
	f(`[]`, "invalid_type", "")
	f(`"x"`, "invalid_type", "")
	f(`{}`, "missing_required_parameter", "model")
	f(`{"Model":"m",`+ok+`}`, "unknown_parameter", "Model")
	f(`{"model":"m","MODEL":"n",`+ok+`}`, "unknown_parameter", "MODEL")
	f(`{"model":"m","\u017ftream":true,`+ok+`}`, "unknown_parameter", "ſtream") // which Go's encoding/json takes for stream
	f(`{"model":null,`+ok+`}`, "missing_required_parameter", "model")
	f(`{"model":"",`+ok+`}`, "missing_required_parameter", "model")
	f(`{"model":["m"],`+ok+`}`, "invalid_type", "model")
	f(`{"model":"m","model":"n",`+ok+`}`, "duplicate_parameter", "model")
	f(`{"model":"m","mod\u0065l":"n",`+ok+`}`, "duplicate_parameter", "model")
	f(`{"model":"m",`+ok+`,`+ok+`}`, "duplicate_parameter", "messages")
	f(`{"model":"m"}`, "missing_required_parameter", "messages")
	f(`{"model":"m","messages":null}`, "missing_required_parameter", "messages")
	f(`{"model":"m","messages":{}}`, "invalid_type", "messages")
	f(`{"model":"m","messages":"x"}`, "invalid_type", "messages")
	f(`{"model":"m","messages":[ ]}`, "empty_array", "messages")
	f(`{"model":"m","messages":["x"]}`, "invalid_type", "messages[0]")
	message(`[]`, "invalid_type", "messages[1]")
	message(`{}`, "missing_required_parameter", "messages[1].role")
	message(`{"Role":"user"}`, "missing_required_parameter", "messages[1].role")
	message(`{"role":null}`, "invalid_type", "messages[1].role")
	message(`{"role":"bot"}`, "invalid_value", "messages[1].role")
	message(`{"role":"User"}`, "invalid_value", "messages[1].role")
	message(`{"role":"user","role":"system"}`, "duplicate_parameter", "messages[1].role")
	message(`{"role":"user","r\u006fle":"user"}`, "duplicate_parameter", "messages[1].role")
	message(`{"role":"user","content":"a","content":"b"}`, "duplicate_parameter", "messages[1].content")
	message(`{"role":"assistant","tool_calls":[],"tool_calls":[]}`, "duplicate_parameter", "messages[1].tool_calls")
	message(`{"role":"user","content":1}`, "invalid_type", "messages[1].content")
	message(`{"role":"user","content":{}}`, "invalid_type", "messages[1].content")
	message(`{"role":"user","content":true}`, "invalid_type", "messages[1].content")
	with(`"stream":1`, "invalid_type", "stream")
	with(`"stream":"true"`, "invalid_type", "stream")
	with(`"stream_options":{}`, "invalid_value", "stream_options")
	with(`"stream":false,"stream_options":{"include_usage":true}`, "invalid_value", "stream_options")
	with(`"stream":true,"stream_options":[]`, "invalid_type", "stream_options")
	with(`"stream":true,"stream_options":{"include_usage":1}`, "invalid_type", "stream_options.include_usage")
	with(`"stream":true,"stream_options":{"include_usage":true,"include_usage":false}`, "duplicate_parameter", "stream_options.include_usage")
	with(`"n":0`, "invalid_value", "n")
	with(`"n":129`, "invalid_value", "n")
	with(`"n":1.5`, "invalid_type", "n")
	with(`"n":"1"`, "invalid_type", "n")
	with(`"max_tokens":0`, "invalid_value", "max_tokens")
	with(`"max_tokens":-5`, "invalid_value", "max_tokens")
	with(`"max_tokens":4294967296`, "invalid_value", "max_tokens")
	with(`"max_tokens":"5","max_completion_tokens":5`, "invalid_type", "max_tokens")
	with(`"max_completion_tokens":1e999999`, "invalid_type", "max_completion_tokens")
	with(`"thread_id":1`, "invalid_type", "thread_id")
	with(`"thread_id":"."`, "invalid_value", "thread_id")
	with(`"thread_id":""`, "invalid_value", "thread_id")
	with(`"thread_id":"a b"`, "invalid_value", "thread_id")
	with(`"thread_id":"`+strings.Repeat("a", 129)+`"`, "invalid_value", "thread_id")
	with(`"metadata":[]`, "invalid_type", "metadata")
	with(`"metadata":{"thread_id":7}`, "invalid_type", "metadata.thread_id")
	with(`"metadata":{"thread_id":".."}`, "invalid_value", "metadata.thread_id")
	with(`"metadata":{"thread_id":"a","thread_id":"a"}`, "duplicate_parameter", "metadata.thread_id")
	with(`"metadata":{"thread_id":"a"},"thread_id":"b"`, "invalid_value", "thread_id")
}

func FuzzParseChat(f *testing.F) {
	for _, raw := range fixtures(f, "*/*/*.req.json", 20) {
		f.Add(raw)
	}
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":"\ud800"}],"metadata":{"thread_id":"t"},"stream":true,"stream_options":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseChat(raw)
		if err != nil {
			if e := fault.From(err); e.Kind != fault.Invalid || e.Code == "" || e.Message == "" {
				t.Fatalf("%q: %#v", raw, err)
			}
			return
		}
		var v1 struct { // decodes names in any case, and takes the last of two
			Model    string
			Messages []map[string]any
			Stream   bool
		}
		if err := json.Unmarshal(raw, &v1); err != nil {
			t.Fatalf("%q: accepted, but %v", raw, err)
		}
		if v1.Model != c.Model || v1.Stream != c.Stream || len(v1.Messages) != len(c.Messages) {
			t.Fatalf("%q: %+v against %q %v", raw, v1, c.Model, c.Stream)
		}
		if out := c.Splice(Edits{}); !c.strip && !bytes.Equal(out, raw) {
			t.Fatalf("%q became %q", raw, out)
		}
		out := c.Splice(Edits{Model: "other", IncludeUsage: true, History: [][]byte{[]byte(`{"role":"user","content":"h"}`)}, At: len(raw) % 3, Drop: []int{len(raw) % 5}})
		d, err := ParseChat(out)
		if err != nil {
			t.Fatalf("%q spliced to %q: %v", raw, out, err)
		}
		if d.Model != "other" || d.Thread != "" || d.strip || d.IncludeUsage != c.Stream {
			t.Fatalf("%q spliced to %q", raw, out)
		}
		for _, m := range c.Messages {
			if _, _, err := Canon(m.Raw); err != nil {
				t.Fatalf("%q: %v", m.Raw, err)
			}
		}
	})
}

// chat20k is a request of about 20 KB, in 21 messages.
func chat20k() []byte {
	var b strings.Builder
	b.WriteString(`{"model":"gpt-5.4-mini","messages":[{"role":"system","content":"You are terse."}`)
	for i := range 20 {
		role := [...]string{"user", "assistant"}[i%2]
		fmt.Fprintf(&b, `,{"role":%q,"content":"%s"}`, role, strings.Repeat(`Some text, with a \"quote\" and a line end.\n`, 22))
	}
	b.WriteString(`],"temperature":0.7,"stream":true,"user":"u-1"}`)
	return []byte(b.String())
}

func BenchmarkParseChat20KB(b *testing.B) {
	raw := chat20k()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseChat(raw); err != nil {
			b.Fatal(err)
		}
	}
}
