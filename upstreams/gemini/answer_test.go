package gemini

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// asked is a request that was sent, for model, with everything in it that an answer may need.
func asked() *words {
	return &words{model: "gemini-asked", logprobs: true, dialect: still()}
}

// TestRecordedAnswers says of each recorded answer what the client gets: testdata/generate/*.want.json.
func TestRecordedAnswers(t *testing.T) {
	paths, err := filepath.Glob("testdata/generate/*.resp.json")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d answers, %v", len(paths), err)
	}
	for _, path := range paths {
		name := "generate/" + strings.TrimSuffix(filepath.Base(path), ".resp.json")
		got, err := asked().Whole(upstreamstest.File(t, name+".resp.json"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := openai.ParseAnswer(got); err != nil {
			t.Errorf("%s is no answer: %v", name, err)
		}
		var lines bytes.Buffer
		if err := json.Indent(&lines, got, "", "  "); err != nil {
			t.Fatal(err)
		}
		upstreamstest.Golden(t, name+".want.json", lines.Bytes())
	}
}

func TestGrounding(t *testing.T) {
	got, err := (&words{model: "m", dialect: still()}).Whole(upstreamstest.File(t, "mapping/09_grounding.in.gemini.json"))
	if err != nil {
		t.Fatal(err)
	}
	got = bytes.Replace(got, []byte(`,"native_finish_reason":"STOP"`), nil, 1)
	got = bytes.Replace(got, []byte(`,"num_search_queries":1`), nil, 1)
	upstreamstest.Same(t, "grounding", got, upstreamstest.File(t, "mapping/09_grounding.expect.openai.json"))
}

// TestGroundingAsGeminiTellsIt has a client ask for Gemini's own account of what it found, which others are spared.
func TestGroundingAsGeminiTellsIt(t *testing.T) {
	whole := upstreamstest.File(t, "mapping/09_grounding.in.gemini.json")
	const streamed = "stream/grounding.sse"
	for asked, tells := range map[string]bool{`true`: true, `false`: false, `null`: false} {
		r := upstreams.Request{
			Model: "gemini-3.8-flash",
			Body:  []byte(`{"model":"gemini-3.8-flash","messages":[{"role":"user","content":"x"}],"extra_body":{"google":{"grounding_metadata":` + asked + `}}}`),
		}
		translated := func() *words {
			w, err := still().translate(&r)
			if err != nil {
				t.Fatal(err)
			}
			return w.(*words)
		}
		got, err := translated().Whole(whole)
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := play(t, translated(), bytes.NewReader(upstreamstest.File(t, streamed)))
		if err != io.EOF {
			t.Fatal(err)
		}
		message := upstreamstest.Accumulated(t, chunks).Message()
		for _, has := range []struct {
			how        string
			said, want gjson.Result
		}{
			{"whole", gjson.GetBytes(got, "choices.0.message"), gjson.GetBytes(whole, "candidates.0.groundingMetadata")},
			{"streamed", gjson.ParseBytes(message), lastGrounding(t, streamed)},
		} {
			told := has.said.Get("extra_content.google.grounding_metadata")
			if !has.said.Get("annotations.0").Exists() {
				t.Errorf("%s: there are no annotations: %s", has.how, has.said.Raw)
			}
			if !tells && told.Exists() {
				t.Errorf("%s, asked for %s: was told %s", has.how, asked, told.Raw)
			}
			if tells && told.Raw != compact(has.want.Raw) {
				t.Errorf("%s: was told %s, want %s", has.how, told.Raw, has.want.Raw)
			}
		}
	}
}

// lastGrounding is the last groundingMetadata of a recorded stream.
func lastGrounding(t *testing.T, name string) (last gjson.Result) {
	t.Helper()
	for line := range strings.Lines(string(upstreamstest.File(t, name))) {
		if g := gjson.Get(strings.TrimPrefix(line, "data: "), "candidates.0.groundingMetadata"); g.Exists() {
			last = g
		}
	}
	return last
}

// play reads an event stream, and returns the chunks and what ended them.
func play(t testing.TB, w *words, r io.Reader) (chunks []string, err error) {
	t.Helper()
	return upstreamstest.Play(t, "gemini", w, r)
}

// TestRecordedStreams says of each recorded stream what the client gets: testdata/stream/*.chunks.
func TestRecordedStreams(t *testing.T) {
	for name, code := range map[string]string{
		"continuation": "", "cut": "upstream_truncated", "grounding": "", "max_tokens": "", "n2": "", "plain": "", "plain_lf": "",
		"prompt_blocked": "", "safety": "", "thinking": "", "tool": "",
	} {
		chunks, err := play(t, asked(), bytes.NewReader(upstreamstest.File(t, "stream/"+name+".sse")))
		if code == "" && err != io.EOF || code != "" && !fault.HasCode(err, code) {
			t.Errorf("%s: ended in %v", name, err)
		}
		if a := upstreamstest.Accumulated(t, chunks); code == "" && (!a.Finished() || a.Usage() == nil) {
			t.Errorf("%s: no end or no usage", name)
		}
		upstreamstest.Golden(t, "stream/"+name+".chunks", []byte(strings.Join(chunks, "\n")+"\n"))
	}
}

func TestStreamOfTheMapping(t *testing.T) {
	chunks, err := play(t, asked(), bytes.NewReader(upstreamstest.File(t, "mapping/07_stream.in.gemini.sse")))
	if err != io.EOF {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(upstreamstest.File(t, "mapping/07_stream.expect.openai.sse"))), "\n\n")
	if len(want) != len(chunks)+1 {
		t.Fatalf("%d chunks, want %d", len(chunks), len(want)-1)
	}
	for i, c := range chunks {
		c = strings.Replace(c, "call_GEN000000000000000000001", "call_GEN000000000000000000003", 1)
		c = strings.Replace(c, `,"native_finish_reason":"STOP"`, "", 1)
		upstreamstest.Same(t, "chunk", []byte(c), []byte(strings.TrimPrefix(want[i], "data: ")))
	}
}

// TestAnswers holds what no recording shows.
func TestAnswers(t *testing.T) {
	const usage = `"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2}`
	part := func(finish, parts string) string {
		return `{"candidates":[{"content":{"parts":[` + parts + `]},"finishReason":"` + finish + `"}],` + usage + `}`
	}
	const call = `{"functionCall":{"id":"c","name":"f","args":{"a":1}}}`
	for _, c := range []struct {
		about, body  string
		finish, code string
	}{
		{"a stop", part("STOP", `{"text":"a"}`), "stop", ""},
		{"a call", part("STOP", call), "tool_calls", ""},
		{"a call that is cut", part("MAX_TOKENS", call), "length", ""},
		{"a call that is filtered", part("SAFETY", call), "content_filter", ""},
		{"what nobody knows", part("SOMETHING_NEW", `{"text":"a"}`), "stop", ""},
		{"no picture", part("NO_IMAGE", ""), "stop", ""},
		{"another language", part("LANGUAGE", ""), "content_filter", ""},
		{"a call that is none", part("MALFORMED_FUNCTION_CALL", ""), "", "upstream_malformed"},
		{"a call that is none after thoughts", part("UNEXPECTED_TOOL_CALL", `{"text":"hm","thought":true}`), "", "upstream_malformed"},
		{"a call that is none after text", part("MALFORMED_FUNCTION_CALL", `{"text":"a"}`), "stop", ""},
		{"no candidate", `{"candidates":[],` + usage + `}`, "", "upstream_protocol upstream_truncated"},
		{"nothing", `{}`, "", "upstream_protocol upstream_truncated"},
		{"an empty candidate", `{"candidates":[{}]}`, "", "upstream_protocol upstream_truncated"},
		{"a candidate that is none", `{"candidates":[1]}`, "", "upstream_protocol"},
		{"an index that cannot be", `{"candidates":[{"index":-1}]}`, "", "upstream_protocol"},
		{"an index beyond all sense", `{"candidates":[{"index":1e9}]}`, "", "upstream_protocol"},
	} {
		a, err := asked().Whole([]byte(c.body))
		chunks, streamed := play(t, asked(), strings.NewReader("data: "+c.body+"\n\n"))
		whole := fault.From(err)
		if c.code != "" {
			inStream := fault.From(streamed)
			if whole == nil || !strings.Contains(c.code, whole.Code) || !strings.Contains(c.code, inStream.Code) || whole.Kind != fault.Upstream {
				t.Errorf("%s: ended in %v and %v", c.about, err, streamed)
			}
			if c.code == "upstream_malformed" && (!bytes.Contains(a, []byte(`"completion_tokens":2`)) || upstreamstest.Accumulated(t, chunks).Usage() == nil) {
				t.Errorf("%s: its usage is lost: %s, %s", c.about, a, chunks)
			}
			continue
		}
		if err != nil || !errors.Is(streamed, io.EOF) {
			t.Errorf("%s: %v, %v", c.about, err, streamed)
			continue
		}
		answer, err := openai.ParseAnswer(a)
		if err != nil {
			t.Fatal(err)
		}
		if got, too := answer.Choices[0].FinishReason, upstreamstest.Accumulated(t, chunks).FinishReason(); got != c.finish || too != c.finish {
			t.Errorf("%s: ended by %s and %s, want %s", c.about, got, too, c.finish)
		}
	}
}

// An end that the API has no word for is told as stop, with a warning; and so are more calls than were wanted at a time.
func TestRemarks(t *testing.T) {
	const call = `{"functionCall":{"name":"f"}}`
	const single = `"parallel_tool_calls":false,"tools":[{"type":"function","function":{"name":"f"}}]`
	for _, c := range []struct{ asked, finish, parts, want string }{
		{"", "STOP", `{"text":"a"}`, ""},
		{"", "MAX_TOKENS", `{"text":"a"}`, ""},
		{"", "SAFETY", "", ""},
		{"", "OTHER", `{"text":"a"}`, "changed=finish_reason;reason=OTHER"},
		{"", "NO_IMAGE", "", "changed=finish_reason;reason=NO_IMAGE"},
		{"", "MALFORMED_FUNCTION_CALL", `{"text":"a"}`, "changed=finish_reason;reason=MALFORMED_FUNCTION_CALL"},
		{"", `NEW\r\nX-Evil: 1`, `{"text":"a"}`, "changed=finish_reason;reason=other"},
		{single, "STOP", call, ""},
		{single, "STOP", call + "," + call, "dropped=parallel_tool_calls;reason=unsupported"},
		{"", "STOP", call + "," + call, ""},
	} {
		body := `{"candidates":[{"content":{"parts":[` + c.parts + `]},"finishReason":"` + c.finish + `"}]}`
		for _, streamed := range []bool{false, true} {
			w, err := translated(t, chatOf("gemini-3.8-flash", hi, c.asked))
			if err != nil {
				t.Fatal(err)
			}
			if streamed {
				if _, err := play(t, w, strings.NewReader("data: "+body+"\n\n")); !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			} else if _, err := w.Whole([]byte(body)); err != nil {
				t.Error(err)
			}
			if got := strings.Join(w.Warnings(), ", "); got != c.want {
				t.Errorf("%s, streamed %v: warned of %q, want %q", body, streamed, got, c.want)
			}
		}
	}
}

// TestThereAndBack gives an answer back as a client, or a thread, would: signatures stand where they stood.
func TestThereAndBack(t *testing.T) {
	for name, want := range map[string]string{
		"stream/tool.sse":                      `{"functionCall":{"id":"call_GEN000000000000000000001","name":"get_weather","args":{"city":"Tartu"}},"thoughtSignature":"EpACroULo`,
		"stream/thinking.sse":                  `{"text":"There are three.","thoughtSignature":"EpACdL2oADHK092a`,
		"generate/tool_parallel.resp.json":     `{"functionCall":{"id":"fc-7d1k2m","name":"get_weather","args":{"city":"Riga"}},"thoughtSignature":"EpACulz`,
		"generate/thinking.resp.json":          `{"text":"Three.","thoughtSignature":"EpACYbN0`,
		"generate/image_out.resp.json":         `"thoughtSignature":"EpAC/v3Ekw`,
		"generate/server_tool_parts.resp.json": `"toolType": "GOOGLE_SEARCH_WEB"`,
	} {
		var message []byte
		if strings.HasSuffix(name, ".sse") {
			chunks, err := play(t, asked(), bytes.NewReader(upstreamstest.File(t, name)))
			if err != io.EOF {
				t.Fatal(err)
			}
			message = upstreamstest.Accumulated(t, chunks).Message()
		} else {
			got, err := asked().Whole(upstreamstest.File(t, name))
			if err != nil {
				t.Fatal(err)
			}
			a, err := openai.ParseAnswer(got)
			if err != nil {
				t.Fatal(err)
			}
			message = a.Choices[0].Message
		}
		back := string(message)
		for _, id := range gjson.GetBytes(message, "tool_calls.#.id").Array() {
			back += `,{"role":"tool","tool_call_id":` + id.Raw + `,"content":"1"}`
		}
		w, err := translated(t, chatOf("gemini-3.8-flash", hi+","+back, ""))
		if err != nil || !strings.Contains(string(w.Body()), want) {
			t.Errorf("%s came back as %s, %v", name, w.Body(), err)
		}
		told, _ := openai.History([]openai.Told{{Raw: message, Role: "assistant", Kin: openai.Foreign}}, nil, nil)
		clean, err := translated(t, chatOf("gemini-3.8-flash", hi+","+string(bytes.Join(told, []byte(","))), ""))
		if err != nil || strings.Contains(string(clean.Body()), "EpAC") {
			t.Errorf("%s keeps a signature for others: %s, %v", name, clean.Body(), err)
		}
	}
}

// A function whose name Gemini would not take is called by its own name, whole and in a stream; others keep theirs.
func TestNamesComeBack(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"3d"}},{"type":"function","function":{"name":"_x"}}]`
	const answer = `{"candidates":[{"content":{"parts":[{"functionCall":{"name":"_3d"}},{"functionCall":{"name":"_x"}}]},"finishReason":"STOP"}]}`
	w, err := translated(t, chatOf("gemini-3.8-flash", hi, tools))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := w.Whole([]byte(answer))
	if err != nil {
		t.Fatal(err)
	}
	if got := gjson.GetBytes(whole, "choices.0.message.tool_calls.#.function.name").Raw; got != `["3d","_x"]` {
		t.Errorf("called %s", got)
	}
	chunks, err := play(t, w, strings.NewReader("data: "+answer+"\n\n"))
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if got := gjson.GetBytes(upstreamstest.Accumulated(t, chunks).Message(), "tool_calls.#.function.name").Raw; got != `["3d","_x"]` {
		t.Errorf("called %s in a stream", got)
	}
}

// A whole answer that does not say why it ended has an end, and a client is told that the reason for it is ours.
func TestNoReason(t *testing.T) {
	w := asked()
	got, err := w.Whole([]byte(`{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}`))
	if err != nil || !bytes.Contains(got, []byte(`"finish_reason":"stop"}`)) || !slices.Equal(w.Warnings(), []string{"changed=finish_reason;reason=absent"}) {
		t.Errorf("%s, %v, %q", got, err, w.Warnings())
	}
}

// What the model wrote as it stands elsewhere is cited like what it found: by places in characters, in streams too.
func TestRecited(t *testing.T) {
	const sources = `"citationMetadata":{"citationSources":[{"startIndex":4,"endIndex":8,"uri":"https://a.example/"},{"endIndex":3,"uri":"https://b.example/","title":"B"},{"endIndex":3},{"endIndex":99,"uri":"https://c.example/"}]}`
	const want = `[{"type":"url_citation","url_citation":{"start_index":3,"end_index":7,"title":"","url":"https://a.example/"}},{"type":"url_citation","url_citation":{"start_index":0,"end_index":2,"title":"B","url":"https://b.example/"}}]`
	got, err := asked().Whole([]byte(`{"candidates":[{"content":{"parts":[{"text":"né was."}]},"finishReason":"STOP",` + sources + `}]}`))
	if a := gjson.GetBytes(got, "choices.0.message.annotations"); err != nil || a.Raw != want {
		t.Errorf("%v: %s", err, got)
	}
	stream := `data: {"candidates":[{"content":{"parts":[{"text":"né "}]},` + sources + `}]}` + "\n\n" + `data: {"candidates":[{"content":{"parts":[{"text":"was."}]},"finishReason":"STOP"}]}` + "\n\n"
	chunks, err := play(t, asked(), strings.NewReader(stream))
	if err != io.EOF {
		t.Fatal(err)
	}
	if m := upstreamstest.Accumulated(t, chunks).Message(); gjson.GetBytes(m, "annotations").Raw != want {
		t.Errorf("streamed: %s", m)
	}
}
