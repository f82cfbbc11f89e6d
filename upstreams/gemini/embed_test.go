package gemini

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

func TestEmbeddings(t *testing.T) {
	one := func(text, more string) string {
		return `{"model":"models/m","content":{"parts":[{"text":` + text + `}]}` + more + `}`
	}
	batch := func(requests ...string) string { return `{"requests":[` + strings.Join(requests, ",") + `]}` }
	body := func(input, more string) string { return `{"model":"m","input":` + input + more + `}` }
	many := strings.TrimSuffix(strings.Repeat(`"x",`, maxBatch), ",")
	upstreamstest.Embeddings(t, translateEmbeddings, [][4]string{
		{"one text", body(`"one \u00e9"`, ""), batch(one(`"one é"`, "")), ""},
		{"several", body(`["one","two"]`, `,"dimensions":128`), batch(one(`"one"`, `,"outputDimensionality":128`), one(`"two"`, `,"outputDimensionality":128`)), ""},
		{"in base64", body(`"one"`, `,"encoding_format":"base64"`), batch(one(`"one"`, "")), ""},
		{"in numbers", body(`"one"`, `,"encoding_format":"float"`), batch(one(`"one"`, "")), ""},
		{"in something else", body(`"one"`, `,"encoding_format":"base64_int8"`), "unsupported_parameter encoding_format", ""},
		{"hints", body(`"one"`, `,"user":"u","input_type":"query","nothing":null`), batch(one(`"one"`, "")), "dropped=user;reason=unsupported, dropped=input_type;reason=unknown"},
		{"a hint with an odd name", body(`"one"`, `,"a\r\nb":1`), batch(one(`"one"`, "")), "dropped=other;reason=unknown"},
		{"tokens", body(`[1,2]`, ""), "unsupported_parameter input", ""},
		{"lists of tokens", body(`[[1],[2]]`, ""), "unsupported_parameter input", ""},
		{"objects", body(`[{"content":[]}]`, ""), "unsupported_parameter input", ""},
		{"as many as there may be", body("["+many+"]", ""), batch(strings.Split(strings.TrimSuffix(strings.Repeat(one(`"x"`, "")+"\n", maxBatch), "\n"), "\n")...), ""},
		{"more than there may be in one", body("["+many+`,"y"]`, ""), batch(strings.Split(strings.TrimSuffix(strings.Repeat(one(`"x"`, "")+"\n", maxBatch), "\n"), "\n")...), ""},
		{"more than there may be in all", body("["+strings.Repeat(`"x",`, openai.MaxInputs)+`"x"]`, ""), "array_above_max_length input", ""},
		{"more bytes than there may be", body(`"`+strings.Repeat("x", maxRequest)+`"`, ""), "request_too_large ", ""},
	})
}

// What Gemini's documents show is what the gateway sends, but for the task, which clients of OpenAI do not tell.
func TestRecordedEmbeddings(t *testing.T) {
	w, err := translateEmbeddings(&upstreams.Request{
		Body: []byte(`{"model":"gemini-embedding-2","input":["one","two"],"dimensions":4}`), Model: "models/gemini-embedding-2",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("\"outputDimensionality\": 4,", "\"outputDimensionality\": 4", `"taskType": "RETRIEVAL_DOCUMENT"`, "").
		Replace(string(upstreamstest.File(t, "embed/batch.req.json")))
	upstreamstest.Same(t, "the request", w.Body(), []byte(want))
	if w.Path() != "models/gemini-embedding-2:batchEmbedContents" {
		t.Errorf("asked at %s", w.Path())
	}
	got, err := w.Whole(upstreamstest.File(t, "embed/batch.resp.json"))
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Golden(t, "embed/batch.want.json", append(got, '\n'))
	if _, err := openai.ParseEmbeddingsAnswer(got, 2); err != nil {
		t.Error(err)
	}
}

// Embeddings that are cut short are not of the length 1, as they would be at OpenAI: whoever asks for such is told.
func TestEmbeddingsThatAreNotNormalised(t *testing.T) {
	for _, c := range []struct {
		model      string
		dimensions int
		warned     bool
	}{
		{"gemini-embedding-001", 768, true},
		{"models/gemini-embedding-001", 768, true},
		{"gemini-embedding-001", 3072, false},
		{"gemini-embedding-2", 768, false},
	} {
		w, err := translateEmbeddings(&upstreams.Request{Body: fmt.Appendf(nil, `{"model":"m","input":"x","dimensions":%d}`, c.dimensions), Model: c.model})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.Warnings(), ""); (got == "partial=dimensions;reason=not_normalised") != c.warned {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestEmbeddingsAnswers(t *testing.T) {
	answer := func(values ...string) string {
		for i, v := range values {
			values[i] = `{"values":` + v + `}`
		}
		return `{"embeddings":[` + strings.Join(values, ",") + `]}`
	}
	for _, packed := range []bool{false, true} {
		e := &embedding{model: "m", inputs: 2, dimensions: 2, packed: packed}
		for about, body := range map[string]string{
			"too few":                  answer("[1,2]"),
			"too many":                 answer("[1,2]", "[1,2]", "[1,2]"),
			"none":                     `{}`,
			"no list":                  `{"embeddings":{"values":[1,2]}}`,
			"one without numbers":      answer("[1,2]", "[]"),
			"one of no list":           answer("[1,2]", "7"),
			"one of words":             answer("[1,2]", `["NaN",1]`),
			"one of lists":             answer("[1,2]", `[[1],[2]]`),
			"one that is smaller":      answer("[1,2]", "[1]"),
			"one that is larger":       answer("[1,2]", "[1,2,3]"),
			"the form of a single one": string(upstreamstest.File(t, "embed/single.resp.json")),
		} {
			if got, err := e.Whole([]byte(body)); !fault.HasCode(err, "upstream_protocol") {
				t.Errorf("%s, packed %v: %s, %v", about, packed, got, err)
			}
		}
	}
	e := &embedding{model: "m", inputs: 1, packed: true}
	got, err := e.Whole([]byte(`{"embeddings":[{"values":[0.0123,-0.25,0.5,0.0625]}],"usageMetadata":{"promptTokenCount":7}}`))
	if err != nil {
		t.Fatal(err)
	}
	upstreamstest.Same(t, "packed", got, []byte(`{"object":"list","data":[{"object":"embedding","index":0,"embedding":"8IVJPAAAgL4AAAA/AACAPQ=="}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}`))
}

// TestEmbeddingsInBatches has more texts than Gemini takes in one request.
func TestEmbeddingsInBatches(t *testing.T) {
	upstreamstest.Batches{
		New: New, Most: maxBatch, Texts: "requests.#.content.parts.0.text",
		Answer: func(of []float64) string {
			values := make([]string, len(of))
			for i, v := range of {
				values[i] = fmt.Sprintf(`{"values":[%g,-1]}`, v)
			}
			return fmt.Sprintf(`{"embeddings":[%s],"usageMetadata":{"promptTokenCount":%d}}`, strings.Join(values, ","), len(of))
		},
		Number: func(first float64) float64 { return first },
	}.Run(t)
}

// Of several batches of which one is not counted the usage is not known.
func TestBatchesThatAreNotCounted(t *testing.T) {
	counted := []byte(`{"embeddings":[{"values":[1]}],"usageMetadata":{"promptTokenCount":1}}`)
	silent := []byte(`{"embeddings":[` + strings.TrimSuffix(strings.Repeat(`{"values":[1]},`, maxBatch), ",") + `]}`)
	e := &embedding{model: "m", inputs: maxBatch + 1, bodies: make([][]byte, 2)}
	if more, err := e.Next(silent); !more || err != nil || e.Spent() != nil {
		t.Fatal(more, err, string(e.Spent()))
	}
	if more, err := e.Next(counted); more || err != nil {
		t.Fatal(more, err)
	}
	got, err := e.Whole(counted)
	if err != nil || !bytes.HasSuffix(got, []byte(`"usage":null}`)) {
		t.Errorf("%v: %s", err, got)
	}
}

// FuzzEmbeddings puts what the gateway takes into Gemini's words, and reads any JSON as an answer.
func FuzzEmbeddings(f *testing.F) {
	seeds(f, "embed/*.resp.json")
	f.Add([]byte(`{"model":"m","input":["a","\ud83d"],"dimensions":3,"encoding_format":"base64"}`))
	f.Add([]byte(`{"embeddings":[{"values":[1e999,-0.0,1E+2]}],"usageMetadata":{"promptTokenCount":-1}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := openai.ParseEmbeddings(body); err == nil {
			w, err := translateEmbeddings(&upstreams.Request{Body: body, Model: "m"})
			if err == nil && !json.Valid(w.Body()) {
				t.Fatalf("%s became %s", body, w.Body())
			}
			if e := fault.From(err); err != nil && (e.Kind != fault.Invalid && e.Kind != fault.TooLarge || e.Code == "") {
				t.Fatalf("%s: %v", body, err)
			}
		}
		if text := bytes.TrimSpace(body); !json.Valid(body) || text[0] != '{' { // the client has seen to that
			return
		}
		for _, e := range []*embedding{{model: "m", inputs: 1}, {model: "m", inputs: 1, packed: true}} {
			got, err := e.Whole(body)
			if err != nil {
				if !fault.Is(err, fault.Upstream) {
					t.Fatalf("%s: %v", body, err)
				}
				continue
			}
			if _, err := openai.ParseEmbeddingsAnswer(got, 1); err != nil {
				t.Fatalf("%s became %s: %v", body, got, err)
			}
		}
	})
}

// A key or a rule says what becomes of what cannot be told.
func TestEmbeddingsByPolicy(t *testing.T) {
	upstreamstest.EmbeddingsByPolicy(t, translateEmbeddings)
}
