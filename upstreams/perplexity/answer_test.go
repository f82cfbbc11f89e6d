package perplexity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/metering"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// asked are the words of a request that was sent, by the folder its answers are in.
func asked(folder string) upstreams.Words {
	if folder == "sonar" {
		return &sonarWords{}
	}
	return &agentWords{model: "asked", functions: []string{"get_weather"}}
}

// recorded are the files of a folder that end so, without the ending.
func recorded(t testing.TB, folder, ending string, least int) (names []string) {
	t.Helper()
	paths, err := filepath.Glob("testdata/" + folder + "/*" + ending)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		names = append(names, folder+"/"+strings.TrimSuffix(filepath.Base(p), ending))
	}
	if len(names) < least {
		t.Fatalf("%s holds %d files %s", folder, len(names), ending)
	}
	return names
}

// TestRecordedAnswers says of each recorded answer what the client gets: testdata/*/*.want.json.
func TestRecordedAnswers(t *testing.T) {
	for _, folder := range []string{"agent", "sonar"} {
		for _, name := range recorded(t, folder, ".resp.json", 3) {
			got, err := asked(folder).Whole(upstreamstest.File(t, name+".resp.json"))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			wantAnswer(t, name, got)
			var lines bytes.Buffer
			if err := json.Indent(&lines, got, "", "  "); err != nil {
				t.Fatal(err)
			}
			upstreamstest.Golden(t, name+".want.json", lines.Bytes())
		}
	}
}

// wantAnswer reads an answer as the gateway does. The provider's word of what it cost must be there, and be money.
func wantAnswer(t testing.TB, name string, whole []byte) *openai.Answer {
	t.Helper()
	a, err := openai.ParseAnswer(whole)
	if err != nil {
		t.Fatalf("%s is no answer: %v: %s", name, err, whole)
	}
	if a.Usage == nil || a.UsageInvalid || a.Usage.Cost == "" {
		t.Fatalf("%s: usage %+v", name, a.Usage)
	}
	if _, err := metering.ParseUSD(a.Usage.Cost); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return a
}

// play reads an event stream, and returns the chunks and what ended them.
func play(t testing.TB, w upstreams.Words, r io.Reader) (chunks []string, err error) {
	t.Helper()
	return upstreamstest.Play(t, "perplexity", w, r)
}

// TestRecordedStreams says of each recorded stream what the client gets: testdata/*/*.want.jsonl.
func TestRecordedStreams(t *testing.T) {
	for _, folder := range []string{"agent", "sonar"} {
		for _, name := range recorded(t, folder, ".sse", 3) {
			chunks, err := play(t, asked(folder), bytes.NewReader(upstreamstest.File(t, name+".sse")))
			upstreamstest.Golden(t, name+".want.jsonl", []byte(strings.Join(chunks, "\n")+"\n"))
			a := upstreamstest.Accumulated(t, chunks)
			if strings.HasSuffix(name, "_failed") {
				if !fault.HasCode(err, "upstream_error") || err.Error() != "perplexity: model overloaded" {
					t.Errorf("%s: ended in %v", name, err)
				}
				continue
			}
			if err != io.EOF || !a.Finished() || a.Usage() == nil || a.Usage().Cost == "" {
				t.Errorf("%s: ended in %v, finished %v, usage %+v", name, err, a.Finished(), a.Usage())
			}
		}
	}
}

// A stream and a whole answer that say the same become the same message.
func TestStreamedIsWhole(t *testing.T) {
	for stream, whole := range map[string]string{"agent/stream": "agent/plain", "sonar/stream_full": "sonar/plain"} {
		folder := filepath.Dir(stream)
		raw := upstreamstest.File(t, whole+".resp.json")
		raw = bytes.ReplaceAll(raw, []byte("[1][2]"), []byte("[1]"))
		body, err := asked(folder).Whole(raw)
		if err != nil {
			t.Fatal(err)
		}
		want := wantAnswer(t, whole, body)
		chunks, err := play(t, asked(folder), bytes.NewReader(upstreamstest.File(t, stream+".sse")))
		if err != io.EOF {
			t.Fatal(err)
		}
		got := upstreamstest.Accumulated(t, chunks)
		for _, path := range []string{"content", "annotations", "tool_calls"} {
			if g, w := gjson.GetBytes(got.Message(), path).Raw, gjson.GetBytes(want.Choices[0].Message, path).Raw; g != w {
				t.Errorf("%s: %s is %s, whole %s", stream, path, g, w)
			}
		}
		upstreamstest.Same(t, stream, got.Sources().SearchResults, want.Sources.SearchResults)
		upstreamstest.Same(t, stream, got.Sources().Citations, want.Sources.Citations)
		if folder == "agent" {
			if diff := cmp.Diff(want.Usage, got.Usage()); diff != "" {
				t.Errorf("%s: %s", stream, diff)
			}
		}
	}
}

// response is a whole answer of the Agent API.
func responseOf(status, more, output string) string {
	return `{"id":"resp_1","object":"response","created_at":1,"model":"m","status":"` + status + `"` + more + `,"output":[` + output + `],"usage":{"input_tokens":3,"output_tokens":2,"total_tokens":5,"cost":{"total_cost":0.5}}}`
}

// TestAnswers holds what no recording shows, whole and as the end of a stream that said nothing before.
func TestAnswers(t *testing.T) {
	text := func(text string) string {
		return `{"type":"message","role":"assistant","content":[{"type":"output_text","text":` + text + `,"annotations":[]}]}`
	}
	const (
		call    = `{"type":"function_call","id":"fc_1","call_id":"c","name":"get_weather","arguments":"{\"a\":1}"}`
		search  = `{"type":"function_call","call_id":"s","name":"search_web","arguments":"{}"}`
		results = `{"type":"search_results","results":[{"id":2,"url":"https://b.example/","title":"B"},{"id":1,"url":"https://a.example/"}]}`
	)
	for _, c := range []struct {
		about, body  string
		finish, code string
		want         map[string]string // of the message
	}{
		{"a stop", responseOf("completed", "", text(`"a"`)), "stop", "", map[string]string{"content": `"a"`}},
		{"a call", responseOf("completed", "", call), "tool_calls", "", map[string]string{
			"content": "null", "tool_calls.0.id": `"c"`, "tool_calls.0.function.arguments": `"{\"a\":1}"`,
		}},
		{"a call that is waited for", responseOf("requires_action", "", text(`"x"`)+","+call), "tool_calls", "", map[string]string{"content": `"x"`}},
		{"calls of the provider's own", responseOf("completed", "", search+","+results+","+text(`"x[web:2]"`)), "stop", "", map[string]string{
			"tool_calls": "", "annotations": `[{"type":"url_citation","url_citation":{"start_index":1,"end_index":8,"title":"B","url":"https://b.example/"}}]`,
		}},
		{"a call nobody offered", responseOf("requires_action", "", search), "", "upstream_protocol", nil},
		{"too many tokens", responseOf("incomplete", `,"incomplete_details":{"reason":"max_output_tokens"}`, text(`"a"`)), "length", "", nil},
		{"a call that is cut", responseOf("incomplete", `,"incomplete_details":{"reason":"max_output_tokens"}`, call), "length", "", nil},
		{"a filter", responseOf("incomplete", `,"incomplete_details":{"reason":"content_filter"}`, ""), "content_filter", "", nil},
		{"a refusal", responseOf("completed", "", `{"type":"message","content":[{"type":"refusal","refusal":"no"}]}`), "stop", "", map[string]string{
			"content": "null", "refusal": `"no"`,
		}},
		{"two messages", responseOf("completed", "", text(`"a"`)+","+results+","+text(`"b[1]"`)), "stop", "", map[string]string{
			"content": `"a\n\nb[1]"`, "annotations.0.url_citation.start_index": "4", "annotations.0.url_citation.title": `""`,
		}},
		{"thoughts", responseOf("completed", "", `{"type":"reasoning","summary":[{"type":"summary_text","text":"t"},{"type":"summary_text","text":"u"}]},`+text(`"a"`)), "stop", "", nil},
		{"text as it was escaped", responseOf("completed", "", text(`"\u00e9\ud83d\ude00 \u0000"`)), "stop", "", map[string]string{"content": `"\u00e9\ud83d\ude00 \u0000"`}},
		{"a failure", responseOf("failed", `,"error":{"message":"m","code":"c"}`, ""), "", "complaint", nil},
		{"a failure without words", responseOf("failed", "", ""), "", "complaint", nil},
		{"an answer that was called off", responseOf("cancelled", "", ""), "", "complaint", nil},
		{"an answer that is not over", responseOf("in_progress", "", ""), "", "upstream_protocol", nil},
	} {
		whole, err := asked("agent").Whole([]byte(c.body))
		event := `{"type":"response.completed","response":` + c.body + `}`
		chunks, streamed := play(t, asked("agent"), strings.NewReader("data: "+event+"\n\n"))
		var said upstreams.Complaint
		switch {
		case c.code == "complaint":
			if !errors.As(err, &said) || !fault.HasCode(streamed, "upstream_error") {
				t.Errorf("%s: %v, %v", c.about, err, streamed)
			}
			if gjson.GetBytes(whole, "usage.cost").Raw != "0.5" || upstreamstest.Accumulated(t, chunks).Usage().Cost != "0.5" {
				t.Errorf("%s: what it took is lost: %s, %s", c.about, whole, chunks)
			}
		case c.code != "":
			if !fault.HasCode(err, c.code) || !fault.HasCode(streamed, c.code) {
				t.Errorf("%s: %v, %v", c.about, err, streamed)
			}
		case err != nil || streamed != io.EOF:
			t.Errorf("%s: %v, %v", c.about, err, streamed)
		default:
			a, acc := wantAnswer(t, c.about, whole), upstreamstest.Accumulated(t, chunks)
			if a.Choices[0].FinishReason != c.finish || acc.FinishReason() != c.finish {
				t.Errorf("%s: ended by %s and %s, want %s", c.about, a.Choices[0].FinishReason, acc.FinishReason(), c.finish)
			}
			for path, want := range c.want {
				if got, too := gjson.GetBytes(a.Choices[0].Message, path).Raw, gjson.GetBytes(acc.Message(), path).Raw; got != want || too != want {
					t.Errorf("%s: %s is %s, streamed %s, want %s", c.about, path, got, too, want)
				}
			}
		}
	}
	for _, body := range []string{`{}`, `{"output":{}}`, `{"status":"completed"}`} {
		if _, err := asked("agent").Whole([]byte(body)); !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("%s: %v", body, err)
		}
		if _, err := asked("sonar").Whole([]byte(body)); !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A Sonar model that did not search says so beside its answer, whole and streamed, by either API.
func TestAnswersWithoutASearch(t *testing.T) {
	const (
		text    = `{"type":"message","content":[{"type":"output_text","text":"a"}]}`
		call    = `{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}`
		results = `{"type":"search_results","results":[{"id":1,"url":"https://a.example/"}]}`
		tool    = `,"tools":[{"type":"function","function":{"name":"f"}}]`
	)
	chat := func(kind, more string) string {
		return `{"id":"1","object":"` + kind + `","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"delta":{"content":"a"},"finish_reason":"stop"}]` + more + `}`
	}
	agent := func(output string) (whole, last string) {
		whole = responseOf("completed", "", output)
		return whole, `{"type":"response.completed","response":` + whole + `}`
	}
	older := func(more string) (whole, last string) {
		return chat("chat.completion", more), chat("chat.completion.done", more)
	}
	for _, c := range []struct {
		about, request string
		to             func(testing.TB, string) (upstreams.Words, error)
		answer         func(string) (whole, last string)
		of             string
		warned         bool
	}{
		{"a Sonar model", user("sonar", ""), toAgent, agent, text, true},
		{"one that searched", user("sonar", ""), toAgent, agent, results + "," + text, false},
		{"one that calls a function", user("sonar-pro", tool), toAgent, agent, call, false},
		{"one that was told not to", user("sonar", `,"disable_search":true`), toAgent, agent, text, false},
		{"another model", user("m/m", ""), toAgent, agent, text, false},
		{"the older API", user("sonar", ""), toSonar, older, "", true},
		{"the older API, searched", user("sonar", ""), toSonar, older, `,"citations":["https://a.example/"]`, false},
		{"the older API, told not to", user("sonar-pro", `,"disable_search":true`), toSonar, older, "", false},
		{"the older API, another model", user("m", ""), toSonar, older, "", false},
	} {
		whole, last := c.answer(c.of)
		want := ""
		if c.warned {
			want = "dropped=search;reason=not_searched"
		}
		w, err := c.to(t, c.request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Whole([]byte(whole)); err != nil || strings.Join(w.Warnings(), "") != want {
			t.Errorf("%s: warned of %q, %v", c.about, w.Warnings(), err)
		}
		if w, err = c.to(t, c.request); err != nil {
			t.Fatal(err)
		}
		if _, err := play(t, w, strings.NewReader("data: "+last+"\n\n")); err != io.EOF || strings.Join(w.Warnings(), "") != want {
			t.Errorf("%s, streamed: warned of %q, %v", c.about, w.Warnings(), err)
		}
	}
}

// TestStreams holds what no recording shows.
func TestStreams(t *testing.T) {
	frame := func(data string) string { return "data: " + data + "\n\n" }
	delta := func(item, text string) string {
		return frame(`{"type":"response.output_text.delta","item_id":"` + item + `","delta":"` + text + `"}`)
	}
	completed := func(output string) string {
		return frame(`{"type":"response.completed","response":` + responseOf("completed", "", output) + `}`)
	}
	for _, c := range []struct {
		about, stream, message string
	}{
		{"no beginning", delta("a", "x") + completed(""), `{"role":"assistant","content":"x"}`},
		{"a rest that no delta said", delta("a", "x") + completed(`{"type":"message","content":[{"type":"output_text","text":"xyz"}]}`), `{"role":"assistant","content":"xyz"}`},
		{"an end that says something else", delta("a", "x") + completed(`{"type":"message","content":[{"type":"output_text","text":"other"}]}`), `{"role":"assistant","content":"x"}`},
		{"two messages", delta("a", "x") + delta("a", "y") + delta("b", "z") + completed(""), `{"role":"assistant","content":"xy\n\nz"}`},
		{"a surrogate pair in two", delta("a", `\ud83d`) + delta("a", `\ude00`) + completed(""), `{"role":"assistant","content":"\ud83d\ude00"}`},
		{
			"thoughts", frame(`{"type":"response.reasoning_summary_text.delta","delta":"t"}`) + frame(`{"type":"response.reasoning.search_queries","thought":"u"}`) + delta("a", "x") + completed(""),
			`{"role":"assistant","content":"x","reasoning_content":"t\n\nu"}`,
		},
		{
			"summaries, and a thought between two texts", frame(`{"type":"response.reasoning_summary_text.delta","item_id":"r","summary_index":0,"delta":"t"}`) +
				frame(`{"type":"response.reasoning_summary_text.delta","item_id":"r","summary_index":1,"delta":"u"}`) + delta("a", "x") +
				frame(`{"type":"response.reasoning_text.delta","item_id":"s","delta":"v"}`) + delta("a", "y") + completed(""),
			`{"role":"assistant","content":"xy","reasoning_content":"t\n\nu\n\nv"}`,
		},
		{"what nobody knows", frame(`{"type":"response.skill.loaded","skill":{}}`) + delta("a", "x") + frame(`{"type":7}`) + completed(""), `{"role":"assistant","content":"x"}`},
		{"an event without a type", "event: response.output_text.delta\n" + frame(`{"delta":"x"}`) + completed(""), `{"role":"assistant","content":"x"}`},
		{
			"a call twice", frame(`{"type":"response.output_item.done","item":{"type":"function_call","call_id":"c","name":"get_weather","arguments":"{}","thought_signature":"s"}}`) +
				completed(`{"type":"function_call","call_id":"c","name":"get_weather","arguments":"{}"},{"type":"function_call","call_id":"d","name":"get_weather"}`),
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"get_weather","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}},` +
				`{"id":"d","type":"function","function":{"name":"get_weather","arguments":"{}"}}]}`,
		},
	} {
		chunks, err := play(t, asked("agent"), strings.NewReader(c.stream))
		if err != io.EOF {
			t.Errorf("%s: ended in %v", c.about, err)
		}
		if got := string(upstreamstest.Accumulated(t, chunks).Message()); got != c.message {
			t.Errorf("%s:\n got %s\nwant %s", c.about, got, c.message)
		}
	}
	for about, last := range map[string]string{
		"an error":                      frame(`{"type":"error","code":"rate_limit_exceeded","message":"m"}`),
		"a failure with its response":   frame(`{"type":"response.failed","response":` + responseOf("failed", `,"error":{"code":"rate_limit_exceeded"}`, "") + `}`),
		"a failure beside its response": frame(`{"type":"response.failed","error":{"code":"rate_limit_exceeded"},"response":` + responseOf("failed", "", "") + `}`),
	} {
		chunks, err := play(t, asked("agent"), strings.NewReader(delta("a", "x")+last))
		if !fault.HasCode(err, "rate_limit_exceeded") {
			t.Errorf("%s: %v", about, err)
		}
		if got := string(upstreamstest.Accumulated(t, chunks).Message()); got != `{"role":"assistant","content":"x"}` {
			t.Errorf("%s: %s", about, got)
		}
	}
	for _, junk := range []string{"hello", "[1]", `{"type":`} {
		for _, folder := range []string{"agent", "sonar"} {
			if _, err := play(t, asked(folder), strings.NewReader(frame(junk))); !fault.HasCode(err, "upstream_protocol") {
				t.Errorf("%s: %s ended in %v", folder, junk, err)
			}
		}
	}
}

func TestAnnotations(t *testing.T) {
	sources := []source{{id: 1, url: `"u1"`, title: `"t1"`}, {id: 12, url: `"u12"`, title: `"t12"`}}
	f := func(text string, want ...string) {
		t.Helper()
		var got []string
		for _, a := range gjson.Parse("[" + string(appendAnnotations(nil, text, sources)) + "]").Array() {
			c := a.Get("url_citation")
			from, to := c.Get("start_index").Int(), c.Get("end_index").Int()
			got = append(got, string([]rune(text)[from:to])+" "+c.Get("url").Str)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	f("")
	f("no mark")
	f("a[1]b[12].", "[1] u1", "[12] u12")
	f("héllo 👩‍👩‍👧[1]", "[1] u1")                       // characters are code points
	f("[web:1] [web:12]", "[web:1] u1", "[web:12] u12") // as some presets write it
	f("[1, 12] [web:1,web:12]", "[1, 12] u1", "[1, 12] u12", "[web:1,web:12] u1", "[web:1,web:12] u12")
	f("[1](https://example.com)", "[1] u1")
	f("[2][0][-1][1.0][x][][1][[1]]", "[1] u1", "[1] u1") // what is no source is no mark
	f("`a[1]` and ```\nb[1]\n``` [1]", "[1] u1")          // code is left alone
	f("an open ` is no code [1]", "[1] u1")
	f("[1")
	f("[" + strings.Repeat("1", 100) + "]")
	if got := strings.Count(string(appendAnnotations(nil, strings.Repeat("[1]", 5000), sources)), "url_citation\","); got != maxCitations {
		t.Errorf("%d citations of a loop", got)
	}
}

func TestThinking(t *testing.T) {
	f := func(text, thought, content string) {
		t.Helper()
		for n := 1; n <= len(text)+1; n++ { // in pieces of n bytes
			var th, co string
			var s thinking
			for i := 0; i < len(text); i += n {
				a, b := s.add(text[i:min(i+n, len(text))])
				th, co = th+a, co+b
			}
			a, b := s.end()
			if th, co = th+a, co+b; th != thought || co != content {
				t.Errorf("%q by %d: thought %q, content %q", text, n, th, co)
			}
		}
	}
	f("", "", "")
	f("plain", "", "plain")
	f("  <b>bold</b>", "", "  <b>bold</b>")
	f("<think>\na </b> < \n</think>\n\n b ", "a </b> <", "b ")
	f("\n<think>x</think>", "x", "")
	f("<think>\n\n</think>a", "", "a")
	f("<think>cut </thi", "cut </thi", "")
	f("<thin", "", "<thin")
	f("a<think>b</think>", "", "a<think>b</think>")
}

// A stream whose thoughts come in pieces is told as it comes, and apart.
func TestSonarThoughtsInStreams(t *testing.T) {
	var stream strings.Builder
	for i, piece := range []string{"<thi", "nk>a", "\\n", "b</thi", "nk>\\n", "c", "\\u00e9[1]"} {
		fmt.Fprintf(&stream, `data: {"id":"1","created":%d,"model":"m","object":"chat.completion.chunk","citations":["https://a.example/"],"choices":[{"index":0,"delta":{"role":"assistant","content":"%s"}}]}`+"\n\n", i, piece)
	}
	stream.WriteString(`data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}` + "\n\ndata: [DONE]\n\n")
	chunks, err := play(t, asked("sonar"), strings.NewReader(stream.String()))
	if err != io.EOF {
		t.Fatal(err)
	}
	a := upstreamstest.Accumulated(t, chunks)
	want := `{"role":"assistant","content":"c\u00e9[1]","reasoning_content":"a\nb","annotations":[{"type":"url_citation","url_citation":{"start_index":2,"end_index":5,"title":"","url":"https://a.example/"}}]}`
	if got := string(a.Message()); got != want || a.FinishReason() != "length" {
		t.Errorf("%s: got %s", a.FinishReason(), got)
	}
	for _, c := range chunks {
		if gjson.Get(c, "created").Int() != 0 || gjson.Get(c, "id").Str != "1" || !utf8.ValidString(c) {
			t.Errorf("a chunk of another answer: %s", c)
		}
	}
}

// A [DONE] after an answer that has not said why it ends is no end of it: a reason would be made up.
func TestSonarDoneAlone(t *testing.T) {
	piece := `data: {"id":"1","created":1,"model":"m","object":"chat.completion.chunk","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}` + "\n\n"
	for _, raw := range []string{"data: [DONE]\n\n", piece + "data: [DONE]\n\n"} {
		chunks, err := play(t, asked("sonar"), strings.NewReader(raw))
		if !fault.HasCode(err, "upstream_truncated") {
			t.Errorf("%s: %v", raw, err)
		}
		a := upstreamstest.Accumulated(t, chunks)
		if a.FinishReason() != "" || len(chunks) > 0 && a.Usage() == nil {
			t.Errorf("%s: %q with %+v", raw, a.FinishReason(), a.Usage())
		}
	}
}
