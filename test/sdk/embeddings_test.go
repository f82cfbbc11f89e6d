package sdk

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/tidwall/gjson"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

// question is one request for embeddings, or, without an input, for the list of models and one of them.
type question struct {
	BaseURL    string            `json:"base_url"`
	Key        string            `json:"key"`
	Model      string            `json:"model"`
	Input      any               `json:"input,omitempty"`
	Dimensions int64             `json:"dimensions,omitempty"`
	Encoding   string            `json:"encoding_format,omitempty"` // "": the SDK's own choice
	Header     map[string]string `json:"header,omitempty"`          // of the client, with all it asks for
}

// reply is what the SDK's caller sees.
type reply struct {
	RequestID string      `json:"request_id"`
	Model     string      `json:"model"`
	Vectors   [][]float64 `json:"vectors"`
	Packed    []string    `json:"packed"`
	Indexes   []int64     `json:"indexes"`
	Warning   string      `json:"warning"`
	Usage     struct {
		Prompt int64 `json:"prompt_tokens"`
		Total  int64 `json:"total_tokens"`
	} `json:"usage"`
	Names []string  `json:"names"` // of models
	Err   *sdkError `json:"err"`
}

// embedder is what the suite knows of a provider's embeddings.
type embedder struct {
	model   string
	status  string // how the cost of a call is known
	price   int64  // pico-dollars a token; 0: the provider says what a call cost
	refused string // "code param" of the refusal of dimensions it has not
	vectors func(body string) [][]float32
}

var embedders = map[string]embedder{
	"openai":     {"text-embedding-3-small", "computed", 20_000, "invalid_request dimensions", numbersAt("data.#.embedding")},
	"openrouter": {"openai/text-embedding-3-large", "reported", 0, "invalid_request ", numbersAt("data.#.embedding")},
	"gemini":     {"gemini-embedding-2", "estimated", 200_000, "invalid_request ", numbersAt("embeddings.#.values")},
	"perplexity": {"pplx-embed-v1-0.6b", "reported", 0, "invalid_parameter ", signedBytes},
}

// numbersAt reads the provider's own answer: numbers, or as base64 of float32.
func numbersAt(path string) func(string) [][]float32 {
	return func(body string) (all [][]float32) {
		for _, v := range gjson.Get(body, path).Array() {
			if v.Type == gjson.String {
				all = append(all, unpacked(v.Str))
				continue
			}
			one := []float32{}
			for _, n := range v.Array() {
				one = append(one, float32(n.Num))
			}
			all = append(all, one)
		}
		return all
	}
}

// signedBytes reads Perplexity's.
func signedBytes(body string) (all [][]float32) {
	for _, v := range gjson.Get(body, "data.#.embedding").Array() {
		raw, _ := base64.StdEncoding.DecodeString(v.Str)
		one := []float32{}
		for _, b := range raw {
			one = append(one, float32(int8(b))/127)
		}
		all = append(all, one)
	}
	return all
}

func unpacked(text string) []float32 {
	raw, _ := base64.StdEncoding.DecodeString(text)
	all := make([]float32, len(raw)/4)
	for i := range all {
		all[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return all
}

// OpenAI's SDKs get embeddings from each of the providers as they would from OpenAI, in their own choice of encoding and in
// others, on both stores; and what the gateway has written down of each call is what the provider saw.
func TestEmbeddings(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() {
		rig.CloseIdle()
		http.DefaultClient.CloseIdleConnections()
	})
	rig.Binary(t)
	libraries := map[string]func(*testing.T, []question) []reply{"go": goEmbeddings, "node": nodeEmbeddings}
	t.Run("on", func(t *testing.T) {
		for _, store := range stores {
			t.Run(store, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, store)
				for _, lib := range slices.Sorted(maps.Keys(libraries)) {
					t.Run(lib, func(t *testing.T) {
						for _, provider := range providers {
							embeddings(t, w, lib, provider, libraries[lib])
						}
						listOfModels(t, w, libraries[lib])
					})
				}
			})
		}
	})
}

func embeddings(t *testing.T, w *world, lib, provider string, ask func(*testing.T, []question) []reply) {
	p := embedders[provider]
	mark := func(about string) string { return fmt.Sprintf("mark-%s-%s-%s-end", lib, provider, about) }
	base := question{BaseURL: w.gw.URL + "/v1", Key: w.writer.Key, Model: provider + "/" + p.model}
	abouts := []string{"one", "several", "numbers", "small", "threaded", "packed"}
	var questions []question
	for _, about := range abouts {
		q := base
		q.Input = []string{mark(about), mark(about) + " and a second", "and a third 你好 \u2028 \"x\""}
		switch about {
		case "one":
			q.Input = mark(about)
		case "numbers":
			q.Encoding = "float"
		case "small":
			q.Dimensions = 130
		case "threaded": // as clients are set up that talk, too
			q.Header = map[string]string{"X-Thread-Id": "t-" + mark(about)}
		case "packed":
			if lib == "go" {
				continue // this SDK cannot read them
			}
			q.Encoding = "base64"
		}
		questions = append(questions, q)
	}
	bad := base
	bad.Input, bad.Dimensions = mark("bad"), 99999
	questions = append(questions, bad)
	replies := ask(t, questions)

	for i, r := range replies[:len(replies)-1] {
		q, about := questions[i], abouts[i]
		inputs := 3
		if about == "one" {
			inputs = 1
		}
		if r.Err != nil {
			t.Errorf("%s, %s: raised %+v", provider, about, *r.Err)
			continue
		}
		a := w.embedded(t, mark(about))
		want := p.vectors(a.Events[0])
		for k := range want {
			got := []float32{}
			if about == "packed" {
				got = unpacked(r.Packed[k])
			} else if k < len(r.Vectors) {
				for _, f := range r.Vectors[k] {
					got = append(got, float32(f))
				}
			}
			if !slices.Equal(got, want[k]) || len(got) == 0 || q.Dimensions > 0 && int64(len(got)) != q.Dimensions || r.Indexes[k] != int64(k) {
				t.Errorf("%s, %s: embedding %d has %d numbers, the provider gave %d, or others", provider, about, k, len(got), len(want[k]))
			}
		}
		if len(want) != inputs || len(r.Indexes) != inputs || !strings.HasSuffix(p.model, r.Model) || r.Usage.Prompt == 0 || r.Usage.Total != r.Usage.Prompt {
			t.Errorf("%s, %s: %d embeddings of %d, model %s, usage %+v", provider, about, len(r.Indexes), len(want), r.Model, r.Usage)
		}
		if dropped := r.Warning == "dropped=thread_id;reason=embeddings"; dropped != (about == "threaded") {
			t.Errorf("%s, %s: warned of %q", provider, about, r.Warning)
		}
		w.auditEmbeddings(t, provider, r, a)
	}
	w.gw.Must(t, 404, "GET", "/api/threads/t-"+mark("threaded"), w.writer.Key, nil)

	last := replies[len(replies)-1]
	if last.Err == nil || last.Err.Class != "BadRequestError" && last.Err.Class != "400" || last.Err.Code+" "+last.Err.Param != p.refused {
		t.Errorf("%s: of dimensions it has not: %+v", provider, last.Err)
	}
}

// embedded is the provider's attempt with that mark, once it has ended.
func (w *world) embedded(t *testing.T, mark string) (found simulator.Attempt) {
	t.Helper()
	testkit.Eventually(t, settled, func() bool {
		for _, a := range w.sim.Log() {
			if bytes.Contains(a.Body, []byte(mark)) && a.End != "" {
				found = a
				return true
			}
		}
		return false
	}, "the provider has not seen %s", mark)
	if found.End != simulator.EndComplete {
		t.Errorf("%s: the provider says %s: %s", mark, found.End, found.Reason)
	}
	return found
}

// auditEmbeddings holds what is written down of a call against what the provider saw.
func (w *world) auditEmbeddings(t *testing.T, provider string, r reply, a simulator.Attempt) {
	t.Helper()
	p := embedders[provider]
	if callID(a) != r.RequestID || a.KeyHash != simulator.KeyHash("sk-"+provider+"-of-"+w.writer.Org) {
		t.Errorf("%s: the attempt is %s, the client's call %s", provider, a.Name, r.RequestID)
	}
	c := w.readCall(t, r.RequestID)
	pico := p.price * r.Usage.Prompt
	if a.Usage != nil && a.Usage.CostPico > 0 {
		pico = a.Usage.CostPico
	}
	if c.Status != "complete" || c.Stream || c.Thread != nil || c.Provider != provider || c.Model != p.model || len(c.Attempts) != 1 {
		t.Errorf("%s: the call is %+v", provider, c)
		return
	}
	one := c.Attempts[0]
	if c.CostStatus == nil || *c.CostStatus != p.status || c.CostUSD == nil || !isDollars(*c.CostUSD, pico) || one.CostUSD == nil || *one.CostUSD != *c.CostUSD {
		t.Errorf("%s: it cost %v (%v), want %d pico-dollars (%s)", provider, c.CostUSD, c.CostStatus, pico, p.status)
	}
	if a.Usage != nil && a.Usage.Prompt != r.Usage.Prompt || c.Usage.Prompt != r.Usage.Prompt || c.Usage.Completion != 0 {
		t.Errorf("%s: the client was told of %d tokens, the call has %d, the provider said %+v", provider, r.Usage.Prompt, c.Usage.Prompt, a.Usage)
	}
}

// listOfModels has the SDK list the models: those of all providers, and what is in no catalogue.
func listOfModels(t *testing.T, w *world, ask func(*testing.T, []question) []reply) {
	r := ask(t, []question{{BaseURL: w.gw.URL + "/v1", Key: w.writer.Key, Model: "openrouter/qwen/qwen3-embedding-8b"}})[0]
	if r.Err != nil || r.Model != "openrouter/qwen/qwen3-embedding-8b" {
		t.Errorf("one model: %q, %+v", r.Model, r.Err)
	}
	for _, name := range []string{"auto", "openai/text-embedding-3-small", "gemini/gemini-4-carbon", "perplexity/openai/gpt-6-astra", "openrouter/auto", "gpt-4.1-mini"} {
		if !slices.Contains(r.Names, name) {
			t.Errorf("%s is not among %d models", name, len(r.Names))
		}
	}
}

// goEmbeddings asks with OpenAI's Go SDK.
func goEmbeddings(t *testing.T, questions []question) (replies []reply) {
	for _, q := range questions {
		opts := []option.RequestOption{option.WithBaseURL(q.BaseURL), option.WithAPIKey(q.Key)}
		for name, value := range q.Header {
			opts = append(opts, option.WithHeader(name, value))
		}
		client := openai.NewClient(opts...)
		if q.Input == nil {
			replies = append(replies, goModels(t, client, q.Model))
			continue
		}
		params := openai.EmbeddingNewParams{Model: q.Model, EncodingFormat: openai.EmbeddingNewParamsEncodingFormat(q.Encoding)}
		switch in := q.Input.(type) {
		case string:
			params.Input.OfString = openai.String(in)
		case []string:
			params.Input.OfArrayOfStrings = in
		}
		if q.Dimensions > 0 {
			params.Dimensions = openai.Int(q.Dimensions)
		}
		var raw *http.Response
		answer, err := client.Embeddings.New(context.Background(), params, option.WithResponseInto(&raw))
		var r reply
		if raw != nil {
			r.RequestID, r.Warning = raw.Header.Get("X-Request-Id"), raw.Header.Get("X-Threadhub-Warning")
		}
		var refused *openai.Error
		switch {
		case errors.As(err, &refused):
			r.Err = &sdkError{Class: fmt.Sprint(refused.StatusCode), Status: refused.StatusCode, Code: refused.Code, Param: refused.Param}
		case err != nil:
			t.Fatal(err)
		default:
			r.Model, r.Usage.Prompt, r.Usage.Total = answer.Model, answer.Usage.PromptTokens, answer.Usage.TotalTokens
			for _, e := range answer.Data {
				r.Vectors, r.Indexes = append(r.Vectors, e.Embedding), append(r.Indexes, e.Index)
			}
		}
		replies = append(replies, r)
	}
	return replies
}

func goModels(t *testing.T, client openai.Client, name string) (r reply) {
	pages := client.Models.ListAutoPaging(context.Background())
	for pages.Next() {
		r.Names = append(r.Names, pages.Current().ID)
	}
	if err := pages.Err(); err != nil {
		t.Fatal(err)
	}
	one, err := client.Models.Get(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	r.Model = one.ID
	return r
}

// nodeEmbeddings asks with OpenAI's Node SDK.
func nodeEmbeddings(t *testing.T, questions []question) (replies []reply) {
	in, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", filepath.Join(nodeFolder(t, "embeddings.mjs"), "embeddings.mjs"))
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &replies)
	}
	if err != nil || len(replies) != len(questions) {
		t.Fatalf("node: %v\n%s\n%.500s", err, &stderr, out)
	}
	return replies
}
