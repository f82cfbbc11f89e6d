package simulator

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// embedding is one request for embeddings and what is answered, before it takes a provider's form.
type embedding struct {
	x      *exchange
	model  string
	texts  []string // what is embedded; of token ids, the ids as text
	tokens int64    // all of them together
	dims   int
	packed bool // as base64 of little-endian float32

	usage Usage
}

// answers finishes e once its script is known, and returns the vectors.
func (e *embedding) answers() [][]float32 {
	p := e.x.plan
	if p.fault == "wrong_model" {
		e.model = "sim-other"
	}
	n := e.tokens
	if p.prompt >= 0 {
		n = p.prompt
	}
	e.usage.Prompt, e.usage.Total = n, n
	vectors := make([][]float32, len(e.texts))
	for i, text := range e.texts {
		vectors[i] = vector(text, e.dims)
	}
	if p.fault == "fewer" {
		vectors = vectors[:len(vectors)-1]
	}
	return vectors
}

// vector embeds a text: each word has a direction of its own, and a text points to where its words point together. So
// texts that share words are alike.
func vector(text string, dims int) []float32 {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return strings.ContainsRune(" \t\r\n.,;:!?\"'()", r) })
	if len(words) == 0 {
		words = []string{text}
	}
	sum := make([]float64, dims)
	for _, w := range words {
		h := fnv.New64a()
		_, _ = h.Write([]byte(w))
		seed := h.Sum64()
		for d := range sum {
			sum[d] += float64(int64(scramble(seed+uint64(d)))) / (1 << 63)
		}
	}
	length := 0.0
	for _, f := range sum {
		length += f * f
	}
	length = math.Sqrt(length)
	out := make([]float32, dims)
	for d, f := range sum {
		out[d] = float32(f / length)
	}
	return out
}

// scramble is splitmix64.
func scramble(v uint64) uint64 {
	v += 0x9e3779b97f4a7c15
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}

// array appends a vector as JSON numbers.
func array(b []byte, v []float32) []byte {
	b = append(b, '[')
	for i, f := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(f), 'g', -1, 32)
	}
	return append(b, ']')
}

// list appends the members object and data, as the family has them; put appends one vector.
func list(b []byte, vectors [][]float32, put func([]byte, []float32) []byte) []byte {
	b = append(b, `"object":"list","data":[`...)
	for i, v := range vectors {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"object":"embedding","index":`...), int64(i), 10)
		b = append(put(append(b, `,"embedding":`...), v), '}')
	}
	return append(b, ']')
}

// put is list's for the encodings of OpenAI.
func (e *embedding) put(b []byte, v []float32) []byte {
	if !e.packed {
		return array(b, v)
	}
	raw := make([]byte, 0, 4*len(v))
	for _, f := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	return quote(b, base64.StdEncoding.EncodeToString(raw))
}

// told is the usage as the answer says it, and what of it is honest; "" if none is told. more are members beside it.
func (e *embedding) told(more string) (raw string, honest *Usage) {
	p := e.x.plan
	switch p.fault {
	case "no_usage":
		return "", nil
	case "zero_usage", "hostile_usage":
		raw = p.fake()
		return raw, p.believable(raw)
	}
	b := strconv.AppendInt([]byte(`{"prompt_tokens":`), e.usage.Prompt, 10)
	b = strconv.AppendInt(append(b, `,"total_tokens":`...), e.usage.Total, 10)
	return string(b) + more + "}", &e.usage
}

// whole answers with a body that tells this usage.
func (e *embedding) whole(h head, body []byte, raw string, honest *Usage) error {
	return e.x.whole(h, string(body), func(s *sender) { s.raw, s.usage = raw, honest })
}

// begin notes the model in the log and finds the script: in the last text, or one that was armed.
func (e *embedding) begin() error {
	e.x.rec.update(func(a *Attempt) { a.Model = e.model })
	last := len(e.texts) - 1
	said, err := e.x.direct(e.texts[last])
	e.texts[last] = said
	return err
}

// Bounds of OpenAI's.
const (
	maxEmbedded       = 2048   // entries
	maxEmbeddedTokens = 8192   // of each
	maxEmbeddedSum    = 300000 // of all
)

// embedders are OpenAI's models that embed, with how many dimensions they have.
var embedders = map[string]int{"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}

var embeddingMembers = set("model", "input", "dimensions", "encoding_format", "user")

// embedding reads and checks a request for embeddings, all but its model. The lenient one takes members it does not know,
// and objects for input.
func (r rules) embedding(x *exchange) (*embedding, *failure) {
	if !utf8.Valid(x.body) || !gjson.ValidBytes(x.body) {
		return nil, bad("", "", "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "+
			"library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)")
	}
	root := gjson.ParseBytes(x.body)
	if !root.IsObject() {
		return nil, bad("", "", "Invalid type for request body: expected an object.")
	}
	var unknown string
	root.ForEach(func(k, _ gjson.Result) bool {
		if r.strict && !embeddingMembers[k.Str] {
			unknown = k.Str
		}
		return unknown == ""
	})
	if unknown != "" {
		return nil, bad("", "", "Unrecognized request argument supplied: %s", unknown)
	}
	e := &embedding{x: x, model: root.Get("model").String()}
	if v := root.Get("model"); v.Type != gjson.String || v.Str == "" {
		return nil, bad("", "", "you must provide a model parameter")
	}
	if v := root.Get("user"); v.Exists() && v.Type != gjson.String && v.Type != gjson.Null {
		return nil, wrongType("user", "a string", v)
	}
	switch v := root.Get("encoding_format"); {
	case !v.Exists() || v.Type == gjson.Null:
	case v.Type == gjson.String && (v.Str == "float" || v.Str == "base64"):
		e.packed = v.Str == "base64"
	default:
		return nil, bad("encoding_format", "", "Invalid value: '%s'. Supported values are: 'float' and 'base64'.", v.String())
	}
	if v := root.Get("dimensions"); v.Exists() && v.Type != gjson.Null {
		if v.Type != gjson.Number || v.Num != math.Trunc(v.Num) {
			return nil, wrongType("dimensions", "an integer", v)
		}
		if e.dims = int(v.Int()); e.dims < 1 {
			return nil, bad("dimensions", "integer_below_min_value", "Invalid 'dimensions': integer below minimum value. Expected a value >= 1, but got %d instead.", e.dims)
		}
	}
	return e, e.input(root.Get("input"), r.strict)
}

func (e *embedding) input(v gjson.Result, strict bool) *failure {
	invalid := bad("", "", "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.")
	add := func(text string, n int64) *failure {
		if strict && n > maxEmbeddedTokens {
			return bad("", "", "This model's maximum context length is %d tokens, however you requested %d tokens (%d in your prompt; 0 for the completion). "+
				"Please reduce your prompt; or completion length.", maxEmbeddedTokens, n, n)
		}
		e.texts, e.tokens = append(e.texts, text), e.tokens+n
		return nil
	}
	one := func(v gjson.Result) *failure {
		switch {
		case v.Type == gjson.String && v.Str != "":
			return add(v.Str, tokens(v.Str))
		case v.IsArray() && allTokens(v):
			return add(v.Raw, int64(len(v.Array())))
		case v.IsObject() && !strict:
			return add(v.Raw, tokens(v.Raw))
		}
		return invalid
	}
	var f *failure
	switch {
	case !v.Exists():
		return bad("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	case v.Type == gjson.String, v.IsArray() && allTokens(v):
		f = one(v)
	case !v.IsArray() || len(v.Array()) == 0:
		f = invalid
	default:
		if n := len(v.Array()); strict && n > maxEmbedded {
			return bad("input", "array_above_max_length", "Invalid 'input': array too long. Expected an array with maximum length %d, but got an array with length %d instead.", maxEmbedded, n)
		}
		for _, item := range v.Array() {
			if item.IsArray() != v.Get("0").IsArray() {
				return invalid
			}
			if f = one(item); f != nil {
				break
			}
		}
	}
	if f == nil && strict && e.tokens > maxEmbeddedSum {
		f = bad("", "max_tokens_per_request", "Requested %d tokens, max %d tokens per request", e.tokens, maxEmbeddedSum)
	}
	return f
}

// allTokens reports whether v is a list of token ids, and not empty.
func allTokens(v gjson.Result) bool {
	all := len(v.Array()) > 0
	for _, t := range v.Array() {
		all = all && t.Type == gjson.Number && t.Num >= 0 && t.Num == math.Trunc(t.Num)
	}
	return all
}

// size gives e the dimensions it was asked for, of a model that has so many.
func (e *embedding) size(most int) *failure {
	if e.dims > most {
		return bad("dimensions", "", "Invalid value for 'dimensions' = %d. Must be less than or equal to %d.", e.dims, most)
	}
	e.dims = or(e.dims, most)
	return nil
}

// simDims is how many dimensions the models have that are named sim-….
const simDims = 64

// embeddings answers POST /embeddings.
func (o openAI) embeddings(x *exchange) error {
	if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
		return o.refuse(x, *bad("", "", "Invalid Content-Type header (%s). Expected application/json.", t))
	}
	e, f := openAIRules.embedding(x)
	if f != nil {
		return o.refuse(x, *f)
	}
	if err := e.begin(); err != nil {
		return o.refuse(x, *bad("input", "simulator_script", "The simulator does not understand the directive: %v", err))
	}
	if did, err := x.early(); did {
		return err
	}
	most := embedders[e.model]
	switch {
	case strings.HasPrefix(e.model, "sim-"):
		most = simDims
	case !o.knows(e.model):
		return o.refuse(x, noModel(e.model))
	case most == 0:
		return o.refuse(x, failure{status: 403, message: "You are not allowed to generate embeddings from this model"})
	}
	if f := e.size(most); f != nil {
		return o.refuse(x, *f)
	}
	vectors := e.answers()
	if x.plan.fault == "error_200" {
		return o.json(x, (&openAIWriter{chat: &chat{x: x}}).failure(nil, true))
	}
	b := list([]byte{'{'}, vectors, e.put)
	b = quote(append(b, `,"model":`...), e.model)
	raw, honest := e.told("")
	if raw != "" {
		b = append(append(b, `,"usage":`...), raw...)
	}
	return e.whole(head{status: 200, fields: field("Content-Type", "application/json") + o.fields(x, true)}, append(b, '}'), raw, honest)
}

// routedEmbedders are OpenRouter's models that embed.
var routedEmbedders = []routed{
	{"openai/text-embedding-3-small", 20000, 0, 0},
	{"openai/text-embedding-3-large", 130000, 0, 0},
	{"google/gemini-embedding-001", 150000, 0, 0},
	{"qwen/qwen3-embedding-8b", 10000, 0, 0},
}

// embeddings answers POST /embeddings.
func (o openRouter) embeddings(x *exchange) error {
	if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
		return o.refuse(x, failure{status: 400, message: "Invalid Content-Type: expected application/json"})
	}
	e, f := openRouterRules.embedding(x)
	if f != nil {
		return o.refuse(x, *f)
	}
	if err := e.begin(); err != nil {
		return o.refuse(x, failure{status: 400, message: "The simulator does not understand the directive: " + err.Error()})
	}
	if did, err := x.early(); did {
		return err
	}
	price, known := int64(1000000), strings.Contains("/"+e.model, "/sim-")
	for _, m := range routedEmbedders {
		if m.id == e.model {
			price, known = m.input, true
		}
	}
	if _, chats := o.find(e.model); !known && chats {
		return o.refuse(x, failure{status: 400, message: e.model + " is not an embedding model"})
	} else if !known {
		return o.refuse(x, failure{status: 400, message: e.model + " is not a valid model ID"})
	}
	if f := e.size(or(embedders[strings.TrimPrefix(e.model, "openai/")], simDims)); f != nil {
		return o.refuse(x, *f)
	}
	vectors := e.answers()
	x.id = "gen-emb-" + random(20)
	if x.plan.fault == "error_200" {
		return o.json(x, (&openRouterWriter{chat: &chat{x: x}}).failure(nil, true))
	}
	e.usage.CostPico = e.usage.Prompt * price
	raw, honest := e.told(string(cost([]byte(`,"cost":`), e.usage.CostPico)))
	b := append(quote([]byte(`{"id":`), x.id), ',')
	b = quote(append(list(b, vectors, e.put), `,"model":`...), e.model)
	if raw != "" {
		b = append(append(b, `,"usage":`...), raw...)
	}
	return e.whole(head{status: 200, fields: field("Content-Type", "application/json") + field("X-Generation-Id", x.id)}, append(b, '}'), raw, honest)
}
