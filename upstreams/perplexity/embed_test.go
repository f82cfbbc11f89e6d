package perplexity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

func TestEmbeddings(t *testing.T) {
	body := func(input, more string) string { return `{"model":"m","input":` + input + more + `}` }
	sent := func(input, more string) string {
		return `{"model":"m","input":` + input + more + `,"encoding_format":"base64_int8"}`
	}
	upstreamstest.Embeddings(t, translateEmbeddings, [][4]string{
		{"one text", body(`"one \u00e9"`, ""), sent(`["one é"]`, ""), ""},
		{"several", body(`["one","two"]`, `,"dimensions":128`), sent(`["one","two"]`, `,"dimensions":128`), ""},
		{"in base64", body(`"one"`, `,"encoding_format":"base64"`), sent(`["one"]`, ""), ""},
		{"in numbers", body(`"one"`, `,"encoding_format":"float"`), sent(`["one"]`, ""), ""},
		{"in something else", body(`"one"`, `,"encoding_format":"binary"`), "unsupported_parameter encoding_format", ""},
		{"hints", body(`"one"`, `,"user":"u","input_type":"query","nothing":null`), sent(`["one"]`, ""), "dropped=user;reason=unsupported, dropped=input_type;reason=unknown"},
		{"a hint with an odd name", body(`"one"`, `,"a\r\nb":1`), sent(`["one"]`, ""), "dropped=a??b;reason=unknown"},
		{"tokens", body(`[1,2]`, ""), "unsupported_parameter input", ""},
		{"lists of tokens", body(`[[1],[2]]`, ""), "unsupported_parameter input", ""},
		{"objects", body(`[{"content":[]}]`, ""), "unsupported_parameter input", ""},
	})
}

func TestRecordedEmbeddings(t *testing.T) {
	ask := func(more string) upstreams.Wording {
		t.Helper()
		w, err := translateEmbeddings(&upstreams.Request{
			Body: []byte(`{"model":"perplexity/pplx-embed-v1-0.6b","input":"one","dimensions":128` + more + `}`), Model: "pplx-embed-v1-0.6b",
		})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := ask("")
	upstreamstest.Same(t, "the request", w.Body(), upstreamstest.File(t, "embeddings/int8.req.json"))
	answer := upstreamstest.File(t, "embeddings/int8.resp.json")
	got, err := w.Whole(answer)
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Golden(t, "embeddings/int8.want.json", append(got, '\n'))
	packed, err := ask(`,"encoding_format":"base64"`).Whole(answer)
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Golden(t, "embeddings/int8.base64.want.json", append(packed, '\n'))

	// Both say what the bytes say, divided by 127.
	bytes, err := base64.StdEncoding.DecodeString(gjson.GetBytes(answer, "data.0.embedding").Str)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range gjson.GetBytes(got, "data.0.embedding").Array() {
		if float32(v.Num) != float32(int8(bytes[i]))/127 {
			t.Errorf("number %d is %s, its byte %d", i, v.Raw, int8(bytes[i]))
		}
	}
	a, err := openai.ParseEmbeddingsAnswer(packed, 1)
	if err != nil || a.Usage == nil || a.Usage.Cost != "4e-09" || a.Model != "pplx-embed-v1-0.6b" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestEmbeddingsAnswers(t *testing.T) {
	for about, body := range map[string]string{
		"no base64":           `{"data":[{"embedding":"?"}]}`,
		"nothing":             `{"data":[{"embedding":""}]}`,
		"numbers":             `{"data":[{"embedding":[1,2,3,4]}]}`,
		"one that is smaller": `{"data":[{"embedding":"AAA="}]}`,
		"one that is larger":  `{"data":[{"embedding":"AAAAAAAA"}]}`,
		"no object":           `{"data":[7]}`,
	} {
		e := &embedding{dimensions: 4}
		if got, err := e.Whole([]byte(body)); !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("%s: %s, %v", about, got, err)
		}
	}
	got, err := (&embedding{}).Whole([]byte(`{"data":[{"index":1,"embedding":"gA"},{"index":0,"embedding":"AQ=="}]}`))
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Same(t, "without a usage", got, []byte(`{"object":"list","data":[{"object":"embedding","index":1,"embedding":[-1.007874]},{"object":"embedding","index":0,"embedding":[0.007874016]}],"model":"","usage":null}`))
}

// TestEmbeddingsInBatches has more texts than Perplexity takes in one request.
func TestEmbeddingsInBatches(t *testing.T) {
	upstreamstest.Batches{
		New: New, Most: maxBatch, Texts: "input",
		Answer: func(of []float64) string {
			data := make([]string, len(of))
			for i, v := range of {
				data[i] = fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":%q}`, i, base64.StdEncoding.EncodeToString([]byte{byte(v), 1}))
			}
			return fmt.Sprintf(`{"object":"list","data":[%s],"model":"m","usage":{"prompt_tokens":%d,"total_tokens":%[2]d,"cost":{"currency":"USD","input_cost":0.1,"total_cost":0.1}}}`,
				strings.Join(data, ","), len(of))
		},
		Number: func(first float64) float64 { return math.Round(first * 127) },
	}.Run(t)
}

// An answer that says which of its texts an embedding is of means those of its own request.
func TestIndicesOfBatches(t *testing.T) {
	answer := func(n int, index func(i int) string) []byte {
		data := make([]string, n)
		for i := range data {
			data[i] = `{"index":` + index(i) + `,"embedding":"AQ=="}`
		}
		return []byte(`{"data":[` + strings.Join(data, ",") + `]}`)
	}
	two := func() *embedding { return &embedding{inputs: maxBatch + 2, bodies: make([][]byte, 2)} }
	backwards := func(n int) []byte { return answer(n, func(i int) string { return fmt.Sprint(n - 1 - i) }) }
	e := two()
	if more, err := e.Next(backwards(maxBatch)); !more || err != nil {
		t.Fatal(more, err)
	}
	got, err := e.Whole(backwards(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openai.ParseEmbeddingsAnswer(got, maxBatch+2); err != nil || gjson.GetBytes(got, "data.512.index").Int() != 513 {
		t.Errorf("%v: %.300s", err, got)
	}
	for _, index := range []string{"512", "-1", "0.5", `"0"`, "1e99"} {
		if _, err := two().Next(answer(maxBatch, func(int) string { return index })); !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("index %s: %v", index, err)
		}
	}
}

func TestUsageOfBatches(t *testing.T) {
	parse := func(all ...string) (list []gjson.Result) {
		for _, text := range all {
			list = append(list, gjson.Parse(text))
		}
		return list
	}
	one := func(tokens, cost string) string {
		return `{"prompt_tokens":` + tokens + `,"total_tokens":` + tokens + `,"cost":{"currency":"USD","input_cost":` + cost + `,"total_cost":` + cost + `}}`
	}
	for about, c := range map[string]struct {
		all  []gjson.Result
		want string
	}{
		"added":         {parse(one("3", "0.1"), one("4", "0.2")), `{"prompt_tokens":7,"total_tokens":7,"cost":0.3,"cost_details":{"currency":"USD","input_cost":0.3,"total_cost":0.3}}`},
		"one is silent": {parse(one("3", "0.1"), `null`), `null`},
		"one is absurd": {parse(one("3", "0.1"), one("-9", "0.1")), `{"prompt_tokens":-1,"total_tokens":-1,"cost":0.2,"cost_details":{"currency":"USD","input_cost":0.2,"total_cost":0.2}}`},
		"one is free":   {parse(one("3", "0.1"), `{"prompt_tokens":1,"total_tokens":1}`), `{"prompt_tokens":4,"total_tokens":4}`},
		"no number":     {parse(one("3", "1e999"), one("3", "1")), `{"prompt_tokens":6,"total_tokens":6,"cost_details":{"currency":"USD"}}`},
	} {
		if got := embeddingUsage(c.all); got != c.want {
			t.Errorf("%s: %s, want %s", about, got, c.want)
		}
	}
}

// FuzzEmbeddings puts what the gateway takes into Perplexity's words, and reads any JSON as an answer.
func FuzzEmbeddings(f *testing.F) {
	f.Add(upstreamstest.File(f, "embeddings/int8.resp.json"))
	f.Add([]byte(`{"model":"m","input":["a","\ud83d"],"dimensions":3,"encoding_format":"base64"}`))
	f.Add([]byte(`{"data":[{"index":"x","embedding":"AAAA"},7],"usage":{"prompt_tokens":-1,"cost":{"total_cost":"x"}},"model":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := openai.ParseEmbeddings(body); err == nil {
			w, err := translateEmbeddings(&upstreams.Request{Body: body, Model: "m"})
			if err == nil && !json.Valid(w.Body()) {
				t.Fatalf("%s became %s", body, w.Body())
			}
			if e := fault.From(err); err != nil && (e.Kind != fault.Invalid || e.Code == "" || e.Param == "") {
				t.Fatalf("%s: %v", body, err)
			}
		}
		if text := bytes.TrimSpace(body); !json.Valid(body) || text[0] != '{' { // the client has seen to that
			return
		}
		for _, e := range []*embedding{{}, {packed: true}, {dimensions: 3}} {
			got, err := e.Whole(body)
			if err != nil {
				if !fault.Is(err, fault.Upstream) {
					t.Fatalf("%s: %v", body, err)
				}
				continue
			}
			if !json.Valid(got) {
				t.Fatalf("%s became %s", body, got)
			}
			if _, err := openai.ParseEmbeddingsAnswer(got, 1); err != nil && !fault.Is(err, fault.Upstream) {
				t.Fatalf("%s became %s: %v", body, got, err)
			}
		}
	})
}

// A key or a rule says what becomes of what cannot be told.
func TestEmbeddingsByPolicy(t *testing.T) {
	upstreamstest.EmbeddingsByPolicy(t, translateEmbeddings)
}
