package simulator

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// embedForm is how one provider is asked for the embeddings of two texts, and where they are in its answer.
type embedForm struct {
	provider, path string
	ask            func(first, last string) string
	vectors        string
	usage          string // "": it tells none
}

var embedForms = []embedForm{
	{"openai", "/embeddings", family("text-embedding-3-small"), "data.#.embedding", "usage.prompt_tokens"},
	{"openrouter", "/embeddings", family("qwen/qwen3-embedding-8b"), "data.#.embedding", "usage.prompt_tokens"},
	{"perplexity", "/v1/embeddings", family("pplx-embed-v1-0.6b"), "data.#.embedding", "usage.prompt_tokens"},
	{"gemini", "/models/gemini-embedding-2:batchEmbedContents", func(first, last string) string {
		one := func(text string) string {
			return `{"model":"models/gemini-embedding-2","content":{"parts":[{"text":` + asked(text) + `}]}}`
		}
		return `{"requests":[` + one(first) + "," + one(last) + `]}`
	}, "embeddings.#.values", ""},
}

func family(model string) func(first, last string) string {
	return func(first, last string) string {
		return `{"model":"` + model + `","input":[` + asked(first) + "," + asked(last) + `]}`
	}
}

// embed asks one provider, with a key where it looks for it.
func embed(t *testing.T, s *Simulator, provider, path, body string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequest("POST", s.URL(provider)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	if provider == "gemini" {
		req.Header.Set("X-Goog-Api-Key", "k-0123456789")
	} else {
		req.Header.Set("Authorization", "Bearer k-0123456789")
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func TestEmbeddings(t *testing.T) {
	s := start(t, Options{})
	for _, f := range embedForms {
		resp, body, err := embed(t, s, f.provider, f.path, f.ask("a cat sat", "a dog sat"))
		if err != nil || resp.StatusCode != 200 || len(gjson.Get(body, f.vectors).Array()) != 2 {
			t.Fatalf("%s: %v %v %.300s", f.provider, resp, err, body)
		}
		a := last(t, s)
		if a.Path != f.path || a.End != EndComplete || a.Stream || a.Events[0] != body || a.Model == "" {
			t.Errorf("%s: logged as %+v", f.provider, a)
		}
		if n := gjson.Get(body, f.usage).Int(); f.usage != "" && (n != 6 || a.Usage.Prompt != n) || f.usage == "" && a.Usage != nil {
			t.Errorf("%s: usage %d, logged %+v", f.provider, n, a.Usage)
		}
		if paid := a.Usage != nil && a.Usage.CostPico > 0; paid != (f.provider == "openrouter" || f.provider == "perplexity") {
			t.Errorf("%s: it costs %+v", f.provider, a.Usage)
		}
		_, again, _ := embed(t, s, f.provider, f.path, f.ask("a cat sat", "a cat sat"))
		if gjson.Get(again, f.vectors+"|0").Raw != gjson.Get(body, f.vectors+"|0").Raw || gjson.Get(again, f.vectors+"|1").Raw != gjson.Get(again, f.vectors+"|0").Raw {
			t.Errorf("%s: the same text has two embeddings", f.provider)
		}
	}

	// What is alike points the same way, and each vector is of length 1.
	dot := func(a, b string) (sum float64) {
		x, y := vector(a, 256), vector(b, 256)
		for i := range x {
			sum += float64(x[i]) * float64(y[i])
		}
		return sum
	}
	if one, near, far := dot("a cat sat", "a cat sat"), dot("a cat sat", "the cat sat"), dot("a cat sat", "money matters"); math.Abs(one-1) > 1e-5 || near < 0.4 || far > 0.4 {
		t.Errorf("a text and itself: %v, alike: %v, not alike: %v", one, near, far)
	}
}

func TestEmbeddingsShapes(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ provider, path, ask, like string }{
		{"openai", "/embeddings", `{"model":"text-embedding-3-small","input":["one","two"],"dimensions":4}`, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}`},
		{"openai", "/embeddings", `{"model":"text-embedding-3-small","input":[[9906,1917],[15339]],"encoding_format":"base64"}`, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AA"}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}`},
		{"openrouter", "/embeddings", `{"model":"openai/text-embedding-3-small","input":"one"}`, `{"id":"gen-emb-1","object":"list","data":[{"object":"embedding","embedding":[0.01],"index":0}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2,"cost":4e-08}}`},
		{"perplexity", "/v1/embeddings", `{"model":"pplx-embed-v1-0.6b","input":["one"],"dimensions":128,"encoding_format":"base64_int8"}`, `{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":"AA"}],"usage":{"prompt_tokens":1,"total_tokens":1,"cost":{"currency":"USD","input_cost":4e-09,"total_cost":4e-09}}}`},
		{"gemini", "/models/gemini-embedding-2:batchEmbedContents", `{"requests":[{"model":"models/gemini-embedding-2","content":{"parts":[{"text":"one"}]},"outputDimensionality":4,"taskType":"RETRIEVAL_DOCUMENT"}]}`, `{"embeddings":[{"values":[0.1]}]}`},
		{"gemini", "/models/gemini-embedding-2:embedContent", `{"content":{"parts":[{"text":"one"}]}}`, `{"embedding":{"values":[0.1]}}`},
	} {
		_, body, err := embed(t, s, c.provider, c.path, c.ask)
		if err != nil {
			t.Fatal(err)
		}
		same(t, c.provider+c.path, shape(t, body), shape(t, c.like))
	}

	_, numbers, _ := embed(t, s, "openai", "/embeddings", `{"model":"text-embedding-3-small","input":"x","dimensions":3}`)
	_, packed, _ := embed(t, s, "openai", "/embeddings", `{"model":"text-embedding-3-small","input":"x","dimensions":3,"encoding_format":"base64"}`)
	raw, err := base64.StdEncoding.DecodeString(gjson.Get(packed, "data.0.embedding").Str)
	if err != nil || len(raw) != 12 {
		t.Fatalf("%v: %s", err, packed)
	}
	for i, v := range gjson.Get(numbers, "data.0.embedding").Array() {
		if float32(v.Num) != math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])) {
			t.Errorf("number %d is %s, and packed another", i, v.Raw)
		}
	}
	_, body, _ := embed(t, s, "perplexity", "/v1/embeddings", `{"model":"pplx-embed-v1-4b","input":"x","dimensions":130,"encoding_format":"base64_binary"}`)
	if raw, _ := base64.StdEncoding.DecodeString(gjson.Get(body, "data.0.embedding").Str); len(raw) != 17 {
		t.Errorf("130 bits in %d bytes", len(raw))
	}
}

func TestEmbeddingsThatAreRefused(t *testing.T) {
	s := start(t, Options{})
	texts := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`"x",`, n), ",") + "]" }
	long := `"` + strings.Repeat("word", maxEmbeddedTokens) + `x"`
	family := func(input, more string) string {
		return `{"model":"text-embedding-3-small","input":` + input + more + `}`
	}
	pplx := func(input, more string) string { return `{"model":"pplx-embed-v1-0.6b","input":` + input + more + `}` }
	part := func(text, more string) string {
		return `{"model":"models/gemini-embedding-2","content":{"parts":[{"text":` + text + `}]}` + more + `}`
	}
	batch := func(requests ...string) string { return `{"requests":[` + strings.Join(requests, ",") + `]}` }
	const gemini = "/models/gemini-embedding-2:batchEmbedContents"
	for _, c := range []struct {
		provider, path, body string
		status               int
		says                 string
	}{
		{"openai", "/embeddings", family(`"x"`, `,"user":"u"`), 200, ""},
		{"openai", "/embeddings", family(texts(maxEmbedded), ""), 200, ""},
		{"openai", "/embeddings", family(texts(maxEmbedded+1), ""), 400, "array too long"},
		{"openai", "/embeddings", family(long, ""), 400, "maximum context length is 8192 tokens"},
		{"openai", "/embeddings", family("["+strings.Repeat(`"`+strings.Repeat("word", 8000)+`",`, 37)+`"`+strings.Repeat("word", 8000)+`"]`, ""), 400, "max 300000 tokens per request"},
		{"openai", "/embeddings", family(`""`, ""), 400, "'$.input' is invalid"},
		{"openai", "/embeddings", family(`["a",""]`, ""), 400, "'$.input' is invalid"},
		{"openai", "/embeddings", family(`[]`, ""), 400, "'$.input' is invalid"},
		{"openai", "/embeddings", family(`["a",1]`, ""), 400, "'$.input' is invalid"},
		{"openai", "/embeddings", family(`[[1],"a"]`, ""), 400, "'$.input' is invalid"},
		{"openai", "/embeddings", family(`[{"content":[]}]`, ""), 400, "'$.input' is invalid"},
		{"openai", "/embeddings", `{"model":"text-embedding-3-small"}`, 400, "Missing required parameter: 'input'"},
		{"openai", "/embeddings", `{"input":"x"}`, 400, "you must provide a model parameter"},
		{"openai", "/embeddings", `{"input"`, 400, "could not parse"},
		{"openai", "/embeddings", family(`"x"`, `,"thread_id":"t"`), 400, "Unrecognized request argument supplied: thread_id"},
		{"openai", "/embeddings", family(`"x"`, `,"dimensions":1537`), 400, "Must be less than or equal to 1536"},
		{"openai", "/embeddings", family(`"x"`, `,"dimensions":0`), 400, "below minimum value"},
		{"openai", "/embeddings", family(`"x"`, `,"dimensions":"4"`), 400, "expected an integer"},
		{"openai", "/embeddings", family(`"x"`, `,"encoding_format":"base64_int8"`), 400, "Supported values are: 'float' and 'base64'"},
		{"openai", "/embeddings", `{"model":"gpt-4.1-mini","input":"x"}`, 403, "not allowed to generate embeddings from this model"},
		{"openai", "/embeddings", `{"model":"nosuch","input":"x"}`, 404, "does not exist"},
		{"openrouter", "/embeddings", `{"model":"qwen/qwen3-embedding-8b","input":[{"content":[]}],"input_type":"query"}`, 200, ""},
		{"openrouter", "/embeddings", `{"model":"openai/gpt-6-luna","input":"x"}`, 400, "not an embedding model"},
		{"openrouter", "/embeddings", `{"model":"nosuch","input":"x"}`, 400, "not a valid model ID"},
		{"openrouter", "/embeddings", `{"model":"sim-1","input":""}`, 400, "is invalid"},
		{"perplexity", "/v1/embeddings", pplx(`"x"`, ""), 200, ""},
		{"perplexity", "/v1/embeddings", pplx(`"x"`, `,"user":"u"`), 422, "Extra inputs are not permitted"},
		{"perplexity", "/v1/embeddings", pplx(`[1,2]`, ""), 422, "valid string"},
		{"perplexity", "/v1/embeddings", pplx(`[]`, ""), 400, "must not be empty"},
		{"perplexity", "/v1/embeddings", pplx("["+strings.Repeat(`"x",`, maxTexts-1)+`"x"]`, ""), 200, ""},
		{"perplexity", "/v1/embeddings", pplx("["+strings.Repeat(`"x",`, maxTexts)+`"x"]`, ""), 400, "more than 512 texts"},
		{"perplexity", "/v1/embeddings", pplx(`["a",""]`, ""), 400, "input[1] must not be empty"},
		{"perplexity", "/v1/embeddings", pplx(`"x"`, `,"dimensions":127`), 400, "between 128 and 1024"},
		{"perplexity", "/v1/embeddings", pplx(`"x"`, `,"dimensions":1025`), 400, "between 128 and 1024"},
		{"perplexity", "/v1/embeddings", pplx(`"x"`, `,"encoding_format":"float"`), 400, "is not supported"},
		{"perplexity", "/v1/embeddings", `{"model":"sonar","input":"x"}`, 400, "is not supported"},
		{"perplexity", "/v1/embeddings", `{"model":"sonar"}`, 422, "Field required"},
		{"gemini", gemini, batch(part(`"x"`, `,"taskType":"RETRIEVAL_QUERY","title":"t"`)), 200, ""},
		{"gemini", gemini, batch(strings.Split(strings.TrimSuffix(strings.Repeat(part(`"x"`, "")+"|", maxBatch+1), "|"), "|")...), 400, "at most 100 requests"},
		{"gemini", gemini, batch(), 400, "at least one request"},
		{"gemini", gemini, batch(part(`""`, "")), 400, "contents is not specified"},
		{"gemini", gemini, batch(`{"content":{"parts":[{"text":"x"}]}}`), 400, "does not match"},
		{"gemini", gemini, batch(`{"model":"models/other","content":{"parts":[{"text":"x"}]}}`), 400, "does not match"},
		{"gemini", gemini, batch(part(`"x"`, `,"dimensions":4`)), 400, `Unknown name \"dimensions\"`},
		{"gemini", gemini, batch(part(`"x"`, `,"outputDimensionality":0`)), 400, "between 1 and 3072"},
		{"gemini", gemini, batch(part(`"x"`, `,"taskType":"NOTHING"`)), 400, "TaskType"},
		{"gemini", gemini, `{"input":"x"}`, 400, `Unknown name \"input\"`},
		{"gemini", "/models/gemini-3.8-flash:batchEmbedContents", batch(`{"model":"models/gemini-3.8-flash","content":{"parts":[{"text":"x"}]}}`), 404, "not found"},
		{"gemini", "/models/gemini-embedding-2:embedContent", `{"content":{"parts":[]}}`, 400, "contents is not specified"},
	} {
		resp, body, err := embed(t, s, c.provider, c.path, c.body)
		if err != nil || resp.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %.120s: %v %v %.300s", c.provider, c.body, resp, err, body)
		}
	}
}

// The faults of whole answers are played for embeddings too.
func TestEmbeddingsFaults(t *testing.T) {
	for _, f := range embedForms {
		s := start(t, Options{})
		play := func(do string) (*http.Response, string, error) {
			return embed(t, s, f.provider, f.path, f.ask("one", "[[sim "+do+"]] two"))
		}
		for do, status := range map[string]int{"status=503": 503, "status=429": 429, "fault=html": 502, "fault=redirect": 302} {
			if resp, body, err := play(do); err != nil || resp.StatusCode != status {
				t.Errorf("%s, %s: %v, %v, %s", f.provider, do, resp, err, body)
			}
		}
		for _, fault := range []string{"reset", "close", "cut_raw", "cl_long", "garbage_head"} {
			if resp, body, err := play("fault=" + fault); err == nil {
				t.Errorf("%s, %s: %v, %s", f.provider, fault, resp, body)
			}
		}
		for _, fault := range []string{"cut", "garbage", "empty"} {
			if _, body, err := play("fault=" + fault); err != nil || gjson.Valid(body) {
				t.Errorf("%s, %s: %v, %s", f.provider, fault, err, body)
			}
		}
		if _, body, err := play("fault=fewer"); err != nil || len(gjson.Get(body, f.vectors).Array()) != 1 {
			t.Errorf("%s, fewer: %v, %.200s", f.provider, err, body)
		}
		if _, body, err := play("fault=error_200"); err != nil || !gjson.Get(body, "error").Exists() {
			t.Errorf("%s, an error: %v, %.200s", f.provider, err, body)
		}
		if _, body, err := play("fault=hostile_usage"); err != nil || !strings.Contains(body, "-1") {
			t.Errorf("%s, hostile usage: %v, %.200s", f.provider, err, body)
		}
		if _, body, err := play("fault=no_usage"); err != nil || strings.Contains(body, "usage") {
			t.Errorf("%s, no usage: %v, %.200s", f.provider, err, body)
		}
		if _, body, err := play("prompt_tokens=77"); err != nil || !strings.Contains(body, "77") || last(t, s).Usage.Prompt != 77 {
			t.Errorf("%s, told usage: %v, %.200s", f.provider, err, body)
		}
		for _, want := range []int{503, 200} {
			if resp, _, err := play("status=503 times=1"); err != nil || resp.StatusCode != want {
				t.Errorf("%s: %v, %v, want %d", f.provider, resp, err, want)
			}
		}
		if err := s.Play(Script{Provider: f.provider, Times: 1, Do: "status=500"}); err != nil {
			t.Fatal(err)
		}
		if resp, _, err := embed(t, s, f.provider, f.path, f.ask("one", "two")); err != nil || resp.StatusCode != 500 {
			t.Errorf("%s: a script that names no path was not played: %v, %v", f.provider, resp, err)
		}
		if resp, body, _ := play("fault=nonsense"); resp.StatusCode != 400 || !strings.Contains(body, "does not understand the directive") {
			t.Errorf("%s: %s", f.provider, body)
		}
	}
}

func BenchmarkVector(b *testing.B) {
	text := fmt.Sprint(strings.Repeat("some words of a text ", 20))
	b.ReportAllocs()
	for b.Loop() {
		vector(text, 1536)
	}
}
