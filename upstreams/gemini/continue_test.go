package gemini

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// longAsked is a request for a long answer, as it was sent.
func longAsked(limit int64) *words {
	w := asked()
	w.body = []byte(`{"contents":[{"role":"user","parts":[{"text":"Write a very long book."}]}],"generationConfig":{"maxOutputTokens":60000}}`)
	w.long.limit = limit
	return w
}

// The recorded pieces of a long answer are one answer, asked for as it was recorded, and what they took is added up.
func TestRecordedContinuation(t *testing.T) {
	w := longAsked(60000)
	first, second := upstreamstest.File(t, "generate/continuation_1.resp.json"), upstreamstest.File(t, "generate/continuation_2.resp.json")
	if !w.Continue(first) {
		t.Fatal("it does not go on")
	}
	upstreamstest.Same(t, "the second request", w.Body(), upstreamstest.File(t, "generate/continuation_2.req.json"))
	if w.Continue(second) {
		t.Fatal("it goes on after its end")
	}
	got, err := w.Whole(second)
	if err != nil {
		t.Fatal(err)
	}
	a, err := openai.ParseAnswer(got)
	if err != nil {
		t.Fatal(err)
	}
	if c := a.Choices[0]; c.Text() != "Chapter 1 ... ... the end." || c.FinishReason != "stop" || len(a.Choices) != 1 {
		t.Errorf("said %q, and ended in %s", c.Text(), c.FinishReason)
	}
	// 900 + 33,668 read, 33,000 of it from the cache; 31,768 + 9,000 written, and 1,000 thought
	if u := *a.Usage; u.Input != 1568 || u.Cached != 33000 || u.Output != 40768 || u.Reasoning != 1000 {
		t.Errorf("used %+v", u)
	}
	if !strings.Contains(string(got), "EpAC99pabHwTS7Rsr29G29Bga6Gbp35HAsXViurx") {
		t.Errorf("the signature is lost: %s", got)
	}
}

// events feeds a stream's bytes, but not their end.
func (w *words) events(t *testing.T, raw string) (chunks []string) {
	t.Helper()
	for line := range strings.Lines(raw) {
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if !ok {
			continue
		}
		more, _, err := w.Event("", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range more {
			chunks = append(chunks, string(c))
		}
	}
	return chunks
}

func (w *words) end(t *testing.T) (chunks []string) {
	t.Helper()
	more, err := w.End()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range more {
		chunks = append(chunks, string(c))
	}
	return chunks
}

// A recorded stream that ends in CONTINUATION goes on with its last token, not with those on its way, and its pieces are
// one stream.
func TestContinuedStream(t *testing.T) {
	w := longAsked(0)
	raw := string(upstreamstest.File(t, "stream/continuation.sse"))
	chunks := w.events(t, raw)
	if !w.Continue(nil) {
		t.Fatal("it does not go on")
	}
	if got := gjson.GetBytes(w.Body(), "continuationToken").Str; !strings.HasPrefix(got, "KcURDm9N5C+RrkJhkxvS8hEubgGB") {
		t.Errorf("asked with the token %s", got)
	}
	if _, err := w.End(); err == nil {
		t.Error("a rest of which nothing came is a good end")
	}
	chunks = append(chunks, w.events(t, `data: {"candidates":[{"content":{"parts":[{"text":" and so on."}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":66436,"candidatesTokenCount":9,"totalTokenCount":66445,"cachedContentTokenCount":66000},"modelVersion":"gemini-4-argon","responseId":"other"}`)...)
	if w.Continue(nil) {
		t.Error("it goes on after its end")
	}
	chunks = append(chunks, w.end(t)...)
	a := upstreamstest.Accumulated(t, chunks)
	if text := openai.ContentText(a.Message()); text != "Chapter 1 ... and so on." || a.FinishReason() != "stop" {
		t.Errorf("said %q, and ended in %s", text, a.FinishReason())
	}
	if u := a.Usage(); u.Input+u.Cached != 900+66436 || u.Cached != 66000 || u.Output != 64536+9 || u.Reasoning != 1000 {
		t.Errorf("used %+v", u)
	}
	roles, ids := 0, map[string]bool{}
	for _, c := range chunks {
		if gjson.Get(c, "choices.0.delta.role").Exists() {
			roles++
		}
		ids[gjson.Get(c, "id").Str] = true
	}
	if roles != 1 || len(ids) != 1 {
		t.Errorf("%d chunks begin the answer, of %d names", roles, len(ids))
	}

	// The rest does not come: the answer ends as it was cut, and what it took is told.
	w = longAsked(0)
	chunks = w.events(t, raw)
	w.Continue(nil)
	w.GiveUp()
	a = upstreamstest.Accumulated(t, append(chunks, w.end(t)...))
	if a.FinishReason() != "length" || a.Usage().Output != 64536 {
		t.Errorf("ended in %s with %+v", a.FinishReason(), a.Usage())
	}
}

// piece is a whole answer that goes on.
func piece(text string, tokens int, more string) []byte {
	return fmt.Appendf(nil, `{"candidates":[{"content":{"parts":[{"text":%q}],"role":"model"},"finishReason":"CONTINUATION"%s}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":%d}}`, text, more, tokens)
}

const token = `,"continuationToken":"QUJD"`

// What goes on, and how long.
func TestContinuationIsBounded(t *testing.T) {
	for _, c := range []struct {
		about         string
		limit         int64
		tokens, times int
	}{
		{"no limit", 0, 10, maxRequests - 1},
		{"no limit, but ours", 0, maxTokens / 2, 1},
		{"within the client's", 25, 10, 2},
		{"to the client's", 20, 10, 1},
		{"far from the client's", 1 << 40, 10, maxRequests - 1},
		{"tokens that cannot be", 0, -5, 0},
	} {
		w := longAsked(c.limit)
		n := 0
		for n < 100 && w.Continue(piece("a", c.tokens, token)) {
			n++
		}
		if n != c.times {
			t.Errorf("%s: it went on %d times, want %d", c.about, n, c.times)
		}
		got, err := w.Whole(piece("z", c.tokens, token))
		if err != nil {
			t.Fatal(err)
		}
		a, err := openai.ParseAnswer(got)
		if err != nil || a.Choices[0].Text() != strings.Repeat("a", n)+"z" || a.Choices[0].FinishReason != "length" {
			t.Errorf("%s: %v, %s", c.about, err, got)
		}
		if c.tokens > 0 && (a.Usage.Output != int64((n+1)*c.tokens) || a.Usage.Input != int64(10*(n+1))) {
			t.Errorf("%s: used %+v", c.about, a.Usage)
		}
		if c.tokens < 0 && !a.UsageInvalid {
			t.Errorf("%s: used %+v", c.about, a.Usage)
		}
	}
	for about, body := range map[string]string{
		"no token":                       string(piece("a", 1, "")),
		"an empty token":                 string(piece("a", 1, `,"continuationToken":""`)),
		"a token that could be anything": string(piece("a", 1, `,"continuationToken":"\"}"`)),
		"an answer that is cut":          strings.Replace(string(piece("a", 1, token)), "CONTINUATION", "MAX_TOKENS", 1),
		"an answer that is not":          strings.Replace(string(piece("a", 1, token)), "CONTINUATION", "STOP", 1),
		"two candidates":                 strings.Replace(string(piece("a", 1, token)), `"candidates":[`, `"candidates":[{"content":{},"finishReason":"CONTINUATION","continuationToken":"QUJD","index":1},`, 1),
		"none":                           `{"promptFeedback":{"blockReason":"SAFETY"}}`,
		"nothing":                        `{}`,
	} {
		w := longAsked(0)
		if w.Continue([]byte(body)) {
			t.Errorf("%s goes on", about)
		}
		if about == "none" || about == "nothing" {
			continue
		}
		w = longAsked(0)
		w.events(t, "data: "+body)
		if w.Continue(nil) {
			t.Errorf("%s goes on in a stream", about)
		}
	}
	if longAsked(0).Continue(nil) {
		t.Error("a stream without an event goes on")
	}
}

// A count that cannot be is not made good by what is added to it.
func TestCountsThatCannotBeStaySo(t *testing.T) {
	w := longAsked(0)
	bad := bytes.Replace(piece("a", 5, token), []byte(`"promptTokenCount":10`), []byte(`"promptTokenCount":-10`), 1)
	if !w.Continue(bad) {
		t.Fatal("it does not go on")
	}
	got, err := w.Whole(bytes.Replace(piece("b", 5, ""), []byte("CONTINUATION"), []byte("STOP"), 1))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := openai.ParseAnswer(got); err != nil || !a.UsageInvalid {
		t.Errorf("%v: used %s", err, got)
	}
	for _, c := range [][3]int64{{1, 2, 3}, {-1, 5, -1}, {5, -7, -1}, {1 << 62, 1 << 62, 1<<63 - 1}, {0, 0, 0}} {
		if n := plus(c[0], c[1]); n != c[2] {
			t.Errorf("%d and %d are %d, want %d", c[0], c[1], n, c[2])
		}
	}
}

// What comes with an answer in pieces comes from all of them.
func TestPiecesOfEveryKind(t *testing.T) {
	w := longAsked(0)
	first := `{"candidates":[{"content":{"parts":[{"text":"think","thought":true},{"text":"a\ud83d"}],"role":"model"},"finishReason":"CONTINUATION","continuationToken":"QUJD",` +
		`"logprobsResult":{"chosenCandidates":[{"token":"a","logProbability":-1}],"topCandidates":[{"candidates":[{"token":"a","logProbability":-1}]}]}}],"responseId":"one","modelVersion":"m"}`
	second := `{"candidates":[{"content":{"parts":[{"text":"\ude00b"},{"functionCall":{"id":"c","name":"f"},"thoughtSignature":"QQ=="}],"role":"model"},"finishReason":"STOP",` +
		`"logprobsResult":{"chosenCandidates":[{"token":"b","logProbability":-2}]}}],"responseId":"two","modelVersion":"n"}`
	if !w.Continue([]byte(first)) {
		t.Fatal("it does not go on")
	}
	got, err := w.Whole([]byte(second))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"chatcmpl-one","object":"chat.completion","created":1794700800,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a\ud83d\ude00b","refusal":null,"reasoning_content":"think",` +
		`"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"QQ=="}}}]},` +
		`"logprobs":{"content":[{"token":"a","logprob":-1,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-1,"bytes":[97]}]},{"token":"b","logprob":-2,"bytes":[98],"top_logprobs":[]}],"refusal":null},` +
		`"finish_reason":"tool_calls","native_finish_reason":"STOP"}]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Nothing of use in what came last: what came first stands.
	w = longAsked(0)
	w.Continue([]byte(first))
	if got, err := w.Whole([]byte(`{"promptFeedback":{"blockReason":"SAFETY"}}`)); err != nil || gjson.GetBytes(got, "choices.0.finish_reason").Str != "length" {
		t.Errorf("%v, %s", err, got)
	}
}

func TestRequestsOfModels(t *testing.T) {
	for model, want := range map[string]int{
		"gemini-4-argon": maxRequests, "models/gemini-5-x": maxRequests, "gemini-3.8-flash": 1, "gemini-2.5-pro": 1, "gemma-4-31b-it": 1,
	} {
		if n := Requests(model); n != want {
			t.Errorf("%s: %d requests, want %d", model, n, want)
		}
	}
	var _ upstreams.Continuer = &words{}
}
