package gemini_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/gemini"
	"threadhub/upstreams/upstreamstest"
)

// wire is how Gemini says what the suite has it say.
var wire = upstreamstest.Wire{
	Path:          "models/m:generateContent",
	StreamPath:    "models/m:streamGenerateContent?alt=sse",
	Authorization: "X-Goog-Api-Key",
	Answer: func(text string) string {
		return `{"candidates":[{"content":{"parts":[{"text":` + strconv.Quote(text) + `}],"role":"model"},"finishReason":"STOP","index":0}],` + usage + `}`
	},
	Delta: func(text string) string {
		return `{"candidates":[{"content":{"parts":[{"text":` + strconv.Quote(text) + `}],"role":"model"},"index":0}],` + usage + `}`
	},
	Last:    `{"candidates":[{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"STOP","index":0}],` + usage + `}`,
	Endless: true,
	Marks:   []string{`"finishReason"`, `"blockReason"`},
}

const usage = `"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5},"modelVersion":"m","responseId":"r"`

var subject = upstreamstest.Subject{
	New:    gemini.New,
	Header: map[string]string{"X-Gemini-Service-Tier": "standard", "Retry-After": "2"},
	Wire:   &wire,
	More:   `,"logprobs":true,"web_search_options":{}`,
	Check:  upstreamstest.Check{Folder: "testdata/check", Path: "models", Models: 3, Refused: []string{"400_api_key", "400_location"}},
	Embeds: upstreamstest.Embeds{
		Path:   "models/m:batchEmbedContents",
		Body:   `{"requests":[{"model":"models/m","content":{"parts":[{"text":"one"}]},"outputDimensionality":4},{"model":"models/m","content":{"parts":[{"text":"two"}]},"outputDimensionality":4}]}`,
		Answer: `{"embeddings":[{"values":[0.1,-0.25,0.5,1]},{"values":[1,0,0,0]}]}`,
		Told:   `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-0.25,0.5,1]},{"object":"embedding","index":1,"embedding":[1,0,0,0]}],"model":"m","usage":null}`,
	},
	Lists: upstreamstest.Lists{
		Path: "models",
		Entry: func(name string) string {
			return `{"name":` + string(gjson.AppendJSONString(nil, "models/"+name)) + `,"supportedGenerationMethods":["generateContent"]}`
		},
		List:     func(entries string) string { return `{"models":[` + entries + `]}` },
		Recorded: "check/models.resp.json",
		Want: []upstreams.Model{
			{ID: "gemini-4-argon", Window: 1048576, MaxOutput: 65536, Chat: new(true), Embeddings: new(false), Reasoning: new(true)},
			{ID: "gemini-3.8-flash", Window: 1048576, MaxOutput: 65536, Chat: new(true), Embeddings: new(false), Reasoning: new(true)},
			{ID: "gemini-embedding-2", Window: 8192, Chat: new(false), Embeddings: new(true)},
		},
	},
}

// The list comes in pages, and holds models that are for neither chats nor embeddings.
func TestPagesOfTheList(t *testing.T) {
	var asked []string
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		asked = append(asked, c.Request.URL.RawQuery)
		page := `{"models":[{"name":"models/b","supportedGenerationMethods":["embedContent"]},{"name":"models/veo","supportedGenerationMethods":["predictLongRunning"]}]}`
		if c.Request.URL.Query().Get("pageToken") == "" {
			page = `{"models":[{"name":"models/a","supportedGenerationMethods":["generateContent"]}],"nextPageToken":"a&b=c /é"}`
		}
		c.Send(upstreamstest.Reply("200 OK", page, upstreamstest.JSON))
	})
	u, err := gemini.New(upstreams.Options{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	models, err := u.List(t.Context(), seal.NewSecret(upstreamstest.Key))
	if err != nil || len(models) != 2 || models[0].ID != "a" || models[1].ID != "b" {
		t.Errorf("%+v, %v", models, err)
	}
	if got := strings.Join(asked, " "); got != "pageSize=1000 pageSize=1000&pageToken=a%26b%3Dc+%2F%C3%A9" {
		t.Errorf("asked with %s", got)
	}
}

// A list that has no end is read for ten pages, or until it has as many models as anybody needs.
func TestPagesWithoutEnd(t *testing.T) {
	for about, c := range map[string]struct {
		entries       int // on each page
		next          string
		pages, models int
	}{
		"small pages":            {3, "next", 10, 30},
		"large pages":            {3000, "next", 2, 5000},
		"what is no page's name": {3, strings.Repeat("n", 1025), 1, 3},
		"the longest name":       {3, strings.Repeat("n", 1024), 10, 30},
	} {
		pages := 0
		server := upstreamstest.Serve(t, func(conn *upstreamstest.Conn) {
			page := []string{}
			for i := range c.entries {
				page = append(page, fmt.Sprintf(`{"name":"models/m-%d-%d","supportedGenerationMethods":["generateContent"]}`, pages, i))
			}
			pages++
			conn.Send(upstreamstest.Reply("200 OK", `{"models":[`+strings.Join(page, ",")+`],"nextPageToken":"`+c.next+`"}`, upstreamstest.JSON))
		})
		u, err := gemini.New(upstreams.Options{BaseURL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		models, err := u.List(t.Context(), seal.NewSecret(upstreamstest.Key))
		if err != nil || len(models) != c.models || pages != c.pages {
			t.Errorf("%s: %d models on %d pages, %v", about, len(models), pages, err)
		}
		u.Close()
	}
}

func TestUpstream(t *testing.T) { upstreamstest.Run(t, subject) }

func TestErrors(t *testing.T) {
	type f = upstreamstest.Fault
	rejected := f{Kind: fault.Upstream, Code: "upstream_auth", Message: "key was refused", Final: true}
	subject.Errors(t, "testdata/errors", map[string]f{
		"400_api_key":   rejected,
		"400_array":     {Kind: fault.Invalid, Message: "Invalid reasoning_effort: minimal."},
		"400_field":     {Kind: fault.Invalid, Message: `Unknown name "foo" at 'generation_config'`},
		"400_location":  {Kind: fault.Denied, Code: "permission_denied", Message: "gemini: User location is not supported", Final: true},
		"400_signature": {Kind: fault.Invalid, Message: "missing a thought_signature"},
		"401_oauth":     rejected,
		"403_leaked":    {Kind: fault.Denied, Code: "permission_denied", Message: "may not do this: Your API key was reported as leaked.", Final: true},
		"403_no_key":    {Kind: fault.Denied, Code: "permission_denied", Message: "may not do this: Method doesn't allow unregistered callers", Final: true},
		"404_model":     {Kind: fault.NotFound, Code: "model_not_found", Param: "model", Message: "gemini-9-ultra is not found"},
		"429_bare":      {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "Resource exhausted"},
		"429_day":       {Kind: fault.RateLimited, Code: "insufficient_quota", Message: "quota is used up", Final: true},
		"429_minute":    {Kind: fault.RateLimited, Code: "rate_limit_exceeded", Message: "Please retry in 34.4s", Retry: 34400 * time.Millisecond},
		"499":           {Kind: fault.Upstream, Code: "upstream_error", Message: "cancelled"},
		"500":           {Kind: fault.Upstream, Code: "upstream_error", Message: "Please retry or report in (link)"},
		"503":           {Kind: fault.Upstream, Code: "upstream_error", Message: "overloaded"},
		"504":           {Kind: fault.Timeout, Code: "upstream_timeout", Message: "Deadline expired"},
	})
}

// What Google says of a key, a place and the way to pay is told apart by its words where nothing else does.
func TestPreconditions(t *testing.T) {
	type f = upstreamstest.Fault
	rejected := f{Kind: fault.Upstream, Code: "upstream_auth", Message: "key was refused", Final: true}
	for text, want := range map[string]f{
		"INVALID_ARGUMENT API key expired. Please renew the API key.":         rejected,
		"INVALID_ARGUMENT API key not valid. Please pass a valid API key.":    rejected,
		"INVALID_ARGUMENT Unknown name \\\"API key expired\\\"":               {Kind: fault.Invalid, Message: "Unknown name"},
		"FAILED_PRECONDITION Please enable billing on your project.":          rejected,
		"FAILED_PRECONDITION The free tier is not available in your country.": {Kind: fault.Denied, Code: "permission_denied", Message: "your country", Final: true},
		"FAILED_PRECONDITION The cached content has another model.":           {Kind: fault.Invalid, Message: "cached content"},
	} {
		status, message, _ := strings.Cut(text, " ")
		_, err := ask(t, upstreamstest.Replies(t, upstreamstest.Reply("400 Bad Request", `{"error":{"code":400,"message":"`+message+`","status":"`+status+`"}}`, upstreamstest.JSON)), "m", "a", false)
		got := fault.From(err)
		if got == nil || got.Kind != want.Kind || got.Code != want.Code || got.Final != want.Final || !strings.Contains(got.Message, want.Message) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

func TestStreams(t *testing.T) {
	type f = upstreamstest.Fault
	subject.Streams(t, "testdata/stream", map[string]f{
		"continuation":   {},
		"cut":            {Kind: fault.Upstream, Code: "upstream_truncated"},
		"error_mid":      {Kind: fault.Upstream, Code: "upstream_error", Message: "The model is overloaded"},
		"error_mid_raw":  {Kind: fault.Upstream, Code: "upstream_error", Message: "Internal error encountered"},
		"grounding":      {},
		"max_tokens":     {},
		"n2":             {},
		"plain":          {},
		"plain_lf":       {},
		"prompt_blocked": {},
		"safety":         {},
		"thinking":       {},
		"tool":           {},
	})
}

func FuzzStream(f *testing.F)     { subject.FuzzStream(f, "testdata/stream") }
func FuzzRefusal(f *testing.F)    { subject.FuzzRefusal(f, "testdata/errors") }
func BenchmarkChunk(b *testing.B) { subject.BenchmarkChunk(b) }
func BenchmarkSent(b *testing.B)  { subject.BenchmarkSent(b) }

// A stream that was asked for without alt=sse is one array that grows. Nobody here asks so, and what has gone wrong then is
// not taken for a stream.
func TestNoEventStream(t *testing.T) {
	raw, err := os.ReadFile("testdata/stream/no_alt_sse.resp.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{upstreamstest.JSON, "Content-Type: text/event-stream"} {
		a, err := ask(t, upstreamstest.Replies(t, upstreamstest.Reply("200 OK", string(raw), kind)), "m", "a", true)
		if err == nil {
			_, err = a.Stream.Next()
			a.Stream.Close()
		}
		if !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// ask asks Gemini, played by server, for model.
func ask(t *testing.T, server *upstreamstest.Server, model, attempt string, stream bool) (*upstreams.Answer, error) {
	t.Helper()
	c, err := gemini.New(upstreams.Options{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &upstreams.Request{
		Body: []byte(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`), Model: model, Stream: stream,
		Key: seal.NewSecret(upstreamstest.Key), Attempt: attempt,
	}
	if err := c.Translate(r); err != nil {
		t.Fatal(err)
	}
	return c.Chat(t.Context(), r)
}

// An error that stands between the events as it is counts only when all of it is there, and nothing before it is an end.
func TestCutBesideAnError(t *testing.T) {
	raw, err := os.ReadFile("testdata/stream/error_mid_raw.sse")
	if err != nil {
		t.Fatal(err)
	}
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		n, _ := strconv.Atoi(c.Request.Header.Get("X-Client-Request-Id"))
		c.Send(upstreamstest.EventStream + string(raw[:n]))
		c.Close()
	})
	whole := strings.LastIndexByte(string(raw), '}') + 1
	for n := range len(raw) + 1 {
		a, err := ask(t, server, "m", strconv.Itoa(n), true)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = a.Stream.Next()
		}
		a.Stream.Close()
		if f := fault.From(err); errors.Is(err, io.EOF) || n >= whole != strings.Contains(f.Message, "Internal error encountered") {
			t.Errorf("after byte %d it ended in %v", n, err)
		}
	}
}

// The name of a model cannot lead anywhere else.
func TestNamesStayInTheirPlace(t *testing.T) {
	asked := make(chan string, 1)
	server := upstreamstest.Serve(t, func(c *upstreamstest.Conn) {
		asked <- c.Request.RequestURI
		c.Send(upstreamstest.Reply("200 OK", wire.Answer("x"), upstreamstest.JSON))
	})
	for model, want := range map[string]string{
		"gemini-2.5-flash":        "/v1/models/gemini-2.5-flash:generateContent",
		"models/gemini-2.5-flash": "/v1/models/gemini-2.5-flash:generateContent",
		"a/../../b?key=x#y":       "/v1/models/a%2F..%2F..%2Fb%3Fkey=x%23y:generateContent",
		"x:countTokens":           "/v1/models/x%3AcountTokens:generateContent",
		"..":                      "/v1/models/..:generateContent",
		"a%2Fb%3f é":              "/v1/models/a%252Fb%253f%20%C3%A9:generateContent",
	} {
		if _, err := ask(t, server, model, "a", false); err != nil {
			t.Error(err)
		}
		if got := <-asked; got != want {
			t.Errorf("%s is asked at %s, want %s", model, got, want)
		}
	}
}

// An answer that is of no use was worked for all the same.
func TestUsageOfNoUse(t *testing.T) {
	body := `{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL"}],` + usage + `}`
	_, err := ask(t, upstreamstest.Replies(t, upstreamstest.Reply("200 OK", body, upstreamstest.JSON)), "m", "a", false)
	f := upstreams.FailureOf(err)
	if !fault.HasCode(err, "upstream_malformed") || !strings.Contains(string(f.Body), `"usage":{"prompt_tokens":3,"completion_tokens":2`) {
		t.Errorf("%v with %s", err, f.Body)
	}
	a, err := ask(t, upstreamstest.Replies(t, upstreamstest.EventStream+upstreamstest.Data(body)), "m", "a", true)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stream.Close()
	var all openai.Accumulator
	for {
		p, err := a.Stream.Next()
		if err != nil {
			if !fault.HasCode(err, "upstream_malformed") {
				t.Error(err)
			}
			break
		}
		if _, err := all.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if u := all.Usage(); u == nil || u.Output != 2 {
		t.Errorf("the stream used %+v", u)
	}
}
