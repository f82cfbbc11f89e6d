package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func TestParseEmbeddings(t *testing.T) {
	for _, c := range []struct {
		input  string
		kind   InputKind
		inputs int
		bytes  int64
	}{
		{`"one"`, TextInput, 1, 3},
		{`["one","tw\u00f6"]`, TextInput, 2, 7},
		{` [ "a" ] `, TextInput, 1, 1},
		{`[9906, 1917]`, TokenInput, 1, 8},
		{`[[9906,1917],[15339]]`, TokenInput, 2, 12},
		{`[0]`, TokenInput, 1, 4},
		{`[{"content":[]}]`, ObjectInput, 1, 14},
		{"[" + strings.Repeat(`"x",`, MaxInputs-1) + `"x"]`, TextInput, MaxInputs, MaxInputs},
		{"[" + strings.Repeat(`1,`, 5000) + `1]`, TokenInput, 1, 5001 * 4},
	} {
		r, err := ParseEmbeddings([]byte(`{"model":"m","input":` + c.input + `}`))
		if err != nil {
			t.Errorf("%.60s: %v", c.input, err)
			continue
		}
		if r.Kind != c.kind || r.Inputs != c.inputs || r.InputBytes() != c.bytes || r.Model != "m" {
			t.Errorf("%.60s: kind %d, %d inputs, %d bytes", c.input, r.Kind, r.Inputs, r.InputBytes())
		}
		if texts := r.Texts(); c.kind == TextInput && (len(texts) != c.inputs || !strings.Contains(c.input, string(texts[0]))) {
			t.Errorf("%.60s: its texts are %.60s", c.input, texts)
		}
	}

	r, err := ParseEmbeddings([]byte(`{"user":"u","dimensions":256,"model":"m","new":{"a":1},"input":"x","encoding_format":"base64","thread_id":"t1","nothing":null}`))
	if err != nil {
		t.Fatal(err)
	}
	others := ""
	for name, value := range r.Others() {
		others += name + "=" + value + " "
	}
	if r.Dimensions != 256 || r.Encoding != "base64" || r.Thread != "t1" || others != `user="u" new={"a":1} nothing=null ` {
		t.Errorf("%+v, others %s", r, others)
	}
}

func TestEmbeddingsThatAreRefused(t *testing.T) {
	for body, want := range map[string]string{ // code and param
		``:                                "invalid_json ",
		`[]`:                              "invalid_type ",
		`{"model":"m","input":"x"`:        "invalid_json ",
		`{"model":"m"}`:                   "missing_required_parameter input",
		`{"input":"x"}`:                   "missing_required_parameter model",
		`{"model":5,"input":"x"}`:         "invalid_type model",
		`{"model":"m","input":""}`:        "invalid_value input",
		`{"model":"m","input":[]}`:        "empty_array input",
		`{"model":"m","input":7}`:         "invalid_type input",
		`{"model":"m","input":{}}`:        "invalid_type input",
		`{"model":"m","input":true}`:      "invalid_type input",
		`{"model":"m","input":null}`:      "missing_required_parameter input",
		`{"model":"m","input":["a",""]}`:  "invalid_value input[1]",
		`{"model":"m","input":["a",1]}`:   "invalid_type input[1]",
		`{"model":"m","input":[1,"a"]}`:   "invalid_type input[1]",
		`{"model":"m","input":[1,[2]]}`:   "invalid_type input[1]",
		`{"model":"m","input":[[1],2]}`:   "invalid_type input[1]",
		`{"model":"m","input":[[1],[]]}`:  "empty_array input[1]",
		`{"model":"m","input":[[1,"a"]]}`: "invalid_type input[0]",
		`{"model":"m","input":[null]}`:    "invalid_type input[0]",
		`{"model":"m","input":[-1]}`:      "invalid_type input[0]",
		`{"model":"m","input":[1.5]}`:     "invalid_type input[0]",
		`{"model":"m","input":[{},"a"]}`:  "invalid_type input[1]",
		`{"model":"m","input":[` + strings.Repeat(`"x",`, MaxInputs) + `"x"]}`:            "array_above_max_length input",
		`{"model":"m","input":[` + strings.Repeat(`[1],`, MaxInputs) + `[1]]}`:            "array_above_max_length input",
		`{"model":"m","input":"x","dimensions":"4"}`:                                      "invalid_type dimensions",
		`{"model":"m","input":"x","dimensions":0}`:                                        "invalid_value dimensions",
		`{"model":"m","input":"x","dimensions":1e300}`:                                    "invalid_type dimensions",
		`{"model":"m","input":"x","encoding_format":1}`:                                   "invalid_type encoding_format",
		`{"model":"m","input":"x","model":"n"}`:                                           "duplicate_parameter model",
		`{"model":"m","input":"x","Input":"y"}`:                                           "unknown_parameter Input",
		`{"model":"m","input":"x","thread_id":7}`:                                         "invalid_type thread_id",
		`{"model":"m","input":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + `}`: "invalid_json ",
	} {
		_, err := ParseEmbeddings([]byte(body))
		f := fault.From(err)
		if err == nil || f.Kind != fault.Invalid || f.Code+" "+f.Param != want {
			t.Errorf("%.80s: %v, want %s", body, err, want)
		}
	}
}

func TestSpliceEmbeddings(t *testing.T) {
	for body, want := range map[string]string{
		`{ "input" : "x" , "model":"openai/m","new":1e2 }`:               `{ "input" : "x" , "model":"m","new":1e2 }`,
		`{"model":"m","input":"\u00e9é"}`:                                `{"model":"m","input":"\u00e9é"}`,
		`{"thread_id":"t","model":"a","input":"x"}`:                      `{"model":"m","input":"x"}`,
		`{"model":"a","metadata":{"thread_id":"t"},"input":"x"}`:         `{"model":"m","input":"x"}`,
		`{"model":"a","input":"x","metadata":{"a":"b","thread_id":"t"}}`: `{"model":"m","input":"x","metadata":{"a":"b"}}`,
	} {
		r, err := ParseEmbeddings([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if got := string(r.Splice("m")); got != want {
			t.Errorf("%s became %s, want %s", body, got, want)
		}
	}
}

func TestParseEmbeddingsAnswer(t *testing.T) {
	one := func(index, embedding string) string {
		return `{"object":"embedding","index":` + index + `,"embedding":` + embedding + `}`
	}
	answer := func(data, usage string) string {
		return `{"object":"list","data":[` + data + `],"model":"m-1","usage":` + usage + `}`
	}
	a, err := ParseEmbeddingsAnswer([]byte(answer(one("1", "[0.5, -1e-3]")+","+one("0", `"AAAA"`), `{"prompt_tokens":3,"total_tokens":3,"cost":4e-8}`)), 2)
	if err != nil || a.Model != "m-1" || a.Usage == nil || a.Usage.Input != 3 || a.Usage.Cost != "4e-8" || string(a.WithUsage(9)) != string(a.Raw) {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err = ParseEmbeddingsAnswer([]byte(answer(one("0", "[1]"), "null")), 1); err != nil || a.Usage != nil ||
		string(a.WithUsage(9)) != answer(one("0", "[1]"), `{"prompt_tokens":9,"total_tokens":9}`) {
		t.Errorf("%+v, %v: %s", a, err, a.WithUsage(9))
	}
	if a, err = ParseEmbeddingsAnswer([]byte(answer(one("0", "[1]"), `{"prompt_tokens":-1}`)), 1); err != nil || a.Usage != nil {
		t.Errorf("a usage that cannot be: %+v, %v", a, err)
	}
	if _, err = ParseEmbeddingsAnswer([]byte(`{"data":[{"embedding":[1]},{"embedding":[2]}]}`), 2); err != nil {
		t.Errorf("without indexes: %v", err)
	}

	for about, body := range map[string]string{
		"no data":                   `{"object":"list"}`,
		"no object":                 `[]`,
		"no JSON":                   `{"data":[`,
		"too few":                   answer(one("0", "[1]"), "null"),
		"too many":                  answer(one("0", "[1]")+","+one("1", "[1]")+","+one("2", "[1]"), "null"),
		"one twice":                 answer(one("0", "[1]")+","+one("0", "[1]"), "null"),
		"an index beyond":           answer(one("0", "[1]")+","+one("7", "[1]"), "null"),
		"an index below":            answer(one("0", "[1]")+","+one("-1", "[1]"), "null"),
		"an empty embedding":        answer(one("0", "[1]")+","+one("1", "[ ]"), "null"),
		"an empty string":           answer(one("0", "[1]")+","+one("1", `""`), "null"),
		"an embedding of words":     answer(one("0", "[1]")+","+one("1", `["a"]`), "null"),
		"an embedding of nothing":   answer(one("0", "[1]")+","+one("1", `[null]`), "null"),
		"an embedding in another":   answer(one("0", "[1]")+","+one("1", `[[1]]`), "null"),
		"an embedding of a number":  answer(one("0", "[1]")+","+one("1", `1`), "null"),
		"an element that is a word": answer(one("0", "[1]")+`,"x"`, "null"),
	} {
		if _, err := ParseEmbeddingsAnswer([]byte(body), 2); !fault.HasCode(err, "upstream_protocol") {
			t.Errorf("%s: %v", about, err)
		}
	}
	_, err = ParseEmbeddingsAnswer([]byte(`{"error":{"message":"no","code":"odd"}}`), 1)
	if f := fault.From(err); f.Kind != fault.Upstream || f.Code != "odd" {
		t.Errorf("an error for an answer: %v", err)
	}
}

func TestAppendVector(t *testing.T) {
	v := []float32{0.0123, -0.25, 0.5, 0.0625}
	if got := string(AppendVector(nil, v, false)); got != `[0.0123,-0.25,0.5,0.0625]` {
		t.Error(got)
	}
	if got := string(AppendVector(nil, v, true)); got != `"8IVJPAAAgL4AAAA/AACAPQ=="` { // as OpenAI packs these
		t.Error(got)
	}
	if got := string(AppendVector(nil, nil, false)); got != `[]` {
		t.Error(got)
	}
}

// FuzzEmbeddings reads any bytes as a request and as an answer: what is taken is JSON before and after it is changed.
func FuzzEmbeddings(f *testing.F) {
	for _, body := range []string{
		`{"model":"a","input":["x","y"],"thread_id":"t","metadata":{"thread_id":"t"}}`, `{"model":"a","input":[[1],[2,3]]}`, `{"model":"a","input":[{"content":[]}]}`,
		`{"data":[{"index":0,"embedding":[0.5,-1e-3]}],"usage":null}`, `{"data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":1}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		if r, err := ParseEmbeddings(body); err == nil {
			out := r.Splice("other")
			again, err := ParseEmbeddings(out)
			if err != nil || again.Model != "other" || again.Thread != "" || again.Inputs != r.Inputs || again.InputBytes() != r.InputBytes() {
				t.Fatalf("%s became %s: %v", body, out, err)
			}
			if r.Inputs < 1 || r.Inputs > MaxInputs || r.Kind == TextInput && len(r.Texts()) != r.Inputs {
				t.Fatalf("%s has %d inputs", body, r.Inputs)
			}
		} else if e := fault.From(err); e.Kind != fault.Invalid || e.Code == "" {
			t.Fatalf("%s: %#v", body, err)
		}
		if a, err := ParseEmbeddingsAnswer(body, 1); err == nil {
			if out := a.WithUsage(5); !json.Valid(out) {
				t.Fatalf("%s became %s", body, out)
			}
		} else if k := fault.From(err).Kind; k != fault.Upstream && k != fault.RateLimited {
			t.Fatalf("%s: %v", body, err)
		}
		if !bytes.Equal(body, before) {
			t.Fatal("the body has changed")
		}
	})
}

func BenchmarkEmbeddingsAnswer(b *testing.B) {
	vector := make([]float32, 1536)
	for i := range vector {
		vector[i] = float32(i) / 3e5
	}
	body := fmt.Appendf(nil, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":%s}],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}`, AppendVector(nil, vector, false))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEmbeddingsAnswer(body, 1); err != nil {
			b.Fatal(err)
		}
	}
}
