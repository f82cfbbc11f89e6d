package simulator

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// pplxEmbedders are Perplexity's models that embed: how many dimensions they have, and pico-dollars a token.
var pplxEmbedders = map[string]struct {
	dims  int
	price int64
}{"pplx-embed-v1-0.6b": {1024, 4000}, "pplx-embed-v1-4b": {2560, 30000}}

// maxTexts is how many texts Perplexity embeds in one request.
const maxTexts = 512

// embeddings answers POST /v1/embeddings: signed bytes, or bits, and never numbers.
func (p perplexity) embeddings(x *exchange) error {
	root, f := readBody(x.body)
	if f == nil {
		f = mistakes(typed(nil, root, "Embeddings", []string{"body"}, false))
	}
	if f != nil {
		return p.refuse(x, *f)
	}
	e := &embedding{x: x, model: root.Get("model").Str, dims: int(root.Get("dimensions").Int())}
	if f := e.texted(root.Get("input")); f != nil {
		return p.refuse(x, *f)
	}
	if err := e.begin(); err != nil {
		return p.refuse(x, *failed("simulator_script", "the simulator does not understand the directive: %v", err))
	}
	if did, err := x.early(); did {
		return err
	}
	m, ok := pplxEmbedders[e.model]
	if strings.HasPrefix(e.model, "sim-") {
		m, ok = pplxEmbedders["pplx-embed-v1-0.6b"], true
	}
	format := otherwise(root.Get("encoding_format").Str, "base64_int8")
	switch {
	case !ok:
		return p.refuse(x, *failed("invalid_model", "model %q is not supported", e.model))
	case format != "base64_int8" && format != "base64_binary":
		return p.refuse(x, *failed("invalid_parameter", "encoding_format %q is not supported", format))
	case root.Get("dimensions").Type == gjson.Number && (e.dims < 128 || e.dims > m.dims):
		return p.refuse(x, *failed("invalid_parameter", "dimensions must be between 128 and %d", m.dims))
	}
	e.dims = or(e.dims, m.dims)
	vectors := e.answers()
	if x.plan.fault == "error_200" {
		return p.json(x, []byte(`{"error":{"message":"embedding failed","type":"internal_server_error","code":500}}`))
	}
	e.usage.CostPico = e.usage.Prompt * m.price
	paid := string(cost(nil, e.usage.CostPico))
	raw, honest := e.told(`,"cost":{"currency":"USD","input_cost":` + paid + `,"total_cost":` + paid + `}`)
	b := list([]byte{'{'}, vectors, func(b []byte, v []float32) []byte { return quote(b, squeezed(v, format == "base64_binary")) })
	b = quote(append(b, `,"model":`...), e.model)
	if raw != "" {
		b = append(append(b, `,"usage":`...), raw...)
	}
	return e.whole(head{status: 200, fields: field("Content-Type", "application/json")}, append(b, '}'), raw, honest)
}

// texted reads a text, or a list of texts.
func (e *embedding) texted(v gjson.Result) *failure {
	all := []gjson.Result{v}
	switch {
	case !v.Exists():
		return mistakes([]mistyped{{[]string{"body", "input"}, "Field required", "missing"}})
	case v.IsArray():
		all = v.Array()
	}
	switch n := len(all); {
	case n == 0:
		return failed("invalid_input", "input must not be empty")
	case n > maxTexts:
		return failed("invalid_input", "input must not have more than %d texts", maxTexts)
	}
	for i, t := range all {
		if t.Type != gjson.String {
			return mistakes([]mistyped{{[]string{"body", "input", strconv.Itoa(i)}, "Input should be a valid string", "string_type"}})
		}
		if t.Str == "" {
			return failed("invalid_input", "input[%d] must not be empty", i)
		}
		e.texts, e.tokens = append(e.texts, t.Str), e.tokens+tokens(t.Str)
	}
	return nil
}

// squeezed is a vector in signed bytes, the largest number a 127, or in bits, both in base64.
func squeezed(v []float32, bits bool) string {
	most := float32(0)
	for _, f := range v {
		most = max(most, float32(math.Abs(float64(f))))
	}
	out := make([]byte, len(v))
	for i, f := range v {
		if !bits {
			out[i] = byte(int8(math.Round(float64(f / most * 127))))
		} else if f > 0 {
			out[i/8] |= 1 << (i % 8)
		}
	}
	if bits {
		out = out[:(len(v)+7)/8]
	}
	return base64.StdEncoding.EncodeToString(out)
}
