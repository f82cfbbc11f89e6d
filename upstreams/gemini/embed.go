package gemini

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/openai"
	"threadhub/upstreams"
)

// maxBatch is how many texts Gemini takes in one batchEmbedContents.
const maxBatch = 100

// full is how many dimensions gemini-embedding-001 has. With fewer its embeddings are not of the length 1, as OpenAI's are.
const full = 3072

// embedding is a request for embeddings in Gemini's words, and what reads its answer. It is a batch, also of one text, or
// several: Gemini answers in the order of the batch.
type embedding struct {
	model      string
	inputs     int   // of all batches
	dimensions int64 // 0: as many as the model gives
	packed     bool  // the client wants its numbers packed
	bodies     [][]byte
	warnings   []string

	asked  int    // batches that were answered
	answer []byte // the client's, as far as it is there
	tokens int64  // that they took
	silent bool   // one of them did not tell
}

// translateEmbeddings puts r into Gemini's words. Each text stands in a request of its own, as the client wrote it.
func translateEmbeddings(r *upstreams.Request) (upstreams.Wording, error) {
	asked, err := openai.ParseEmbeddings(r.Body)
	if err != nil {
		return nil, err
	}
	t := translation{Losses: upstreams.Losses{Policy: r.Unsupported}}
	model := strings.TrimPrefix(r.Model, "models/")
	e := &embedding{model: model, inputs: asked.Inputs, dimensions: asked.Dimensions, packed: asked.Encoding == "base64"}
	switch {
	case asked.Kind != openai.TextInput:
		t.fail(cannot("input", "gemini embeds texts only, no token ids and no objects"))
	case asked.Encoding != "" && asked.Encoding != "float" && !e.packed:
		t.unsupported("encoding_format", "encoding_format is \"float\" or \"base64\" for gemini")
	}
	for name, value := range asked.Others() {
		reason := "unknown"
		if name == "user" || name == "metadata" {
			reason = "unsupported"
		}
		if !upstreams.Idle(name, value) {
			t.dropped(name, reason)
		}
	}
	if 0 < e.dimensions && e.dimensions < full && model == "gemini-embedding-001" {
		t.Warn("partial=dimensions;reason=not_normalised")
	}
	if t.err != nil {
		return nil, t.err
	}
	e.warnings = t.Warnings
	for batch := range slices.Chunk(asked.Texts(), maxBatch) {
		body := e.request(batch)
		if len(body) > maxRequest {
			return nil, tooLarge()
		}
		e.bodies = append(e.bodies, body)
	}
	return e, nil
}

func (e *embedding) request(texts [][]byte) []byte {
	name := string(gjson.AppendJSONString(nil, "models/"+e.model))
	out := []byte(`{"requests":[`)
	for i, text := range texts {
		if i > 0 {
			out = append(out, ',')
		}
		o := object{b: append(out, '{')}
		o.raw("model", name)
		o.key("content")
		o.b = append(append(append(o.b, `{"parts":[{"text":`...), text...), `}]}`...)
		if e.dimensions > 0 {
			o.raw("outputDimensionality", strconv.FormatInt(e.dimensions, 10))
		}
		out = append(o.b, '}')
	}
	return append(out, `]}`...)
}

// Path is upstreams.Wording's.
func (e *embedding) Path() string { return address(e.model, "batchEmbedContents") }

// Body is upstreams.Wording's.
func (e *embedding) Body() []byte { return e.bodies[e.asked] }

// Warnings is upstreams.Wording's.
func (e *embedding) Warnings() []string { return e.warnings }

// Next is upstreams.Batcher's.
func (e *embedding) Next(answer []byte) (more bool, err error) {
	if e.asked+1 >= len(e.bodies) {
		return false, nil
	}
	if err := e.take(answer); err != nil {
		return false, err
	}
	e.asked++
	return true, nil
}

// Spent is upstreams.Batcher's.
func (e *embedding) Spent() []byte {
	if e.silent || e.asked == 0 {
		return nil
	}
	return append(e.usage([]byte(`{"usage":`)), '}')
}

// Whole is upstreams.Wording's.
func (e *embedding) Whole(body []byte) ([]byte, error) {
	if err := e.take(body); err != nil {
		return e.Spent(), err
	}
	out := gjson.AppendJSONString(append(e.answer, `],"model":`...), e.model)
	return append(e.usage(append(out, `,"usage":`...)), '}'), nil
}

// take takes the answer to a batch.
func (e *embedding) take(body []byte) error {
	root := gjson.ParseBytes(body)
	from := e.asked * maxBatch
	out := slices.Grow(e.answer, len(body)+64*min(e.inputs, maxBatch))
	if from == 0 {
		out = append(out, `{"object":"list","data":[`...)
	}
	got, wrong := 0, error(nil)
	each(root.Get("embeddings"), func(i int, v gjson.Result) bool {
		if got++; from+got > 1 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(append(out, `{"object":"embedding","index":`...), int64(from+i), 10)
		out, wrong = e.vector(append(out, `,"embedding":`...), v.Get("values"))
		out = append(out, '}')
		return wrong == nil
	})
	switch {
	case wrong != nil:
		return wrong
	case got != min(e.inputs-from, maxBatch):
		return protocol("answered with more or fewer embeddings than there are texts")
	}
	e.answer = out
	n := root.Get("usageMetadata.promptTokenCount")
	e.silent = e.silent || n.Type != gjson.Number
	e.tokens = plus(e.tokens, count(n))
	return nil
}

// usage appends what the batches took. Gemini mostly does not tell what it counted: then it is null.
func (e *embedding) usage(dst []byte) []byte {
	if e.silent {
		return append(dst, "null"...)
	}
	dst = strconv.AppendInt(append(dst, `{"prompt_tokens":`...), e.tokens, 10)
	return append(strconv.AppendInt(append(dst, `,"total_tokens":`...), e.tokens, 10), '}')
}

// vector appends one embedding: each number as Gemini wrote it, or all of them packed.
func (e *embedding) vector(dst []byte, values gjson.Result) ([]byte, error) {
	numbers, packed, from := true, []float32(nil), len(dst)
	count := int64(0)
	each(values, func(_ int, v gjson.Result) bool {
		count++
		if e.packed {
			packed = append(packed, float32(v.Num))
		} else {
			dst = append(append(dst, ','), v.Raw...)
		}
		numbers = numbers && v.Type == gjson.Number
		return numbers
	})
	switch {
	case !numbers || count == 0:
		return nil, protocol("answered with an embedding that is none")
	case e.dimensions > 0 && count != e.dimensions:
		return nil, protocol("answered with embeddings of another size than it was asked for")
	case e.packed:
		return openai.AppendVector(dst, packed, true), nil
	}
	dst[from] = '['
	return append(dst, ']'), nil
}
