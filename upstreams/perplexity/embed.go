package perplexity

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/openai"
	"threadhub/upstreams"
)

// embeddingsPath is where embeddings are made, whichever API answers chats.
const embeddingsPath = "v1/embeddings"

// maxBatch is how many texts Perplexity takes in one request.
const maxBatch = 512

// embedding is a request for embeddings in Perplexity's words, or several, and what reads its answer. Perplexity has no
// floating point numbers to give: an embedding is signed bytes in base64, which become numbers between -1 and 1.
type embedding struct {
	inputs     int   // of all batches
	dimensions int64 // 0: as many as the model gives
	packed     bool  // the client wants its numbers packed
	bodies     [][]byte
	warnings   []string

	asked  int            // batches that were answered
	answer []byte         // the client's, as far as it is there
	usages []gjson.Result // of what was answered
}

// translateEmbeddings puts r into Perplexity's words. Its texts stay as the client wrote them.
func translateEmbeddings(r *upstreams.Request) (upstreams.Wording, error) {
	asked, err := openai.ParseEmbeddings(r.Body)
	if err != nil {
		return nil, err
	}
	e := &embedding{dimensions: asked.Dimensions, packed: asked.Encoding == "base64", inputs: asked.Inputs}
	if asked.Kind != openai.TextInput {
		return nil, refused("input", "perplexity embeds texts only, no token ids and no objects")
	}
	c := chat{lost: upstreams.Losses{Policy: r.Unsupported}}
	if asked.Encoding != "" && asked.Encoding != "float" && !e.packed {
		if err := c.cannot("encoding_format", "encoding_format is \"float\" or \"base64\" for perplexity"); err != nil {
			return nil, err
		}
	}
	for name, value := range asked.Others() {
		switch {
		case upstreams.Idle(name, value):
		case slices.Contains(known, name):
			c.dropped(name, unsupported)
		default:
			c.dropped(name, unknown)
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	e.warnings = c.lost.Warnings
	for batch := range slices.Chunk(asked.Texts(), maxBatch) {
		e.bodies = append(e.bodies, e.request(r.Model, batch))
	}
	return e, nil
}

func (e *embedding) request(model string, texts [][]byte) []byte {
	out := append(member(quoted(member([]byte{'{'}, "model"), model), "input"), '[')
	for _, text := range texts {
		out = append(comma(out), text...)
	}
	out = append(out, ']')
	if e.dimensions > 0 {
		out = strconv.AppendInt(member(out, "dimensions"), e.dimensions, 10)
	}
	return append(raw(out, "encoding_format", `"base64_int8"`), '}')
}

func (e *embedding) Path() string       { return embeddingsPath }
func (e *embedding) Body() []byte       { return e.bodies[e.asked] }
func (e *embedding) Warnings() []string { return e.warnings }

// Next is upstreams.Batcher's. What is wrong with an answer is found before another is asked for.
func (e *embedding) Next(answer []byte) (more bool, err error) {
	if e.asked+1 >= len(e.bodies) {
		return false, nil
	}
	root := gjson.ParseBytes(answer)
	e.usages = append(e.usages, root.Get("usage"))
	if err := e.take(root); err != nil {
		return false, err
	}
	e.asked++
	return true, nil
}

// Spent is upstreams.Batcher's.
func (e *embedding) Spent() []byte {
	if usage := embeddingUsage(e.usages); usage != "null" {
		return append(raw([]byte{'{'}, "usage", usage), '}')
	}
	return nil
}

// Whole is Wording's.
func (e *embedding) Whole(body []byte) ([]byte, error) {
	root := gjson.ParseBytes(body)
	if err := e.take(root); err != nil {
		return e.Spent(), err
	}
	out := raw(append(e.answer, ']'), "model", orEmpty(root.Get("model").Raw))
	return append(raw(out, "usage", embeddingUsage(append(e.usages, root.Get("usage")))), '}'), nil
}

// take takes the answer to a batch. One of several has to hold what it was asked for, and nothing else: of a single one
// that is for the gateway to find, as with all providers.
func (e *embedding) take(root gjson.Result) error {
	from := e.asked * maxBatch
	asked := min(e.inputs-from, maxBatch)
	got, out := 0, e.answer
	if from == 0 {
		out = append(make([]byte, 0, 4*len(root.Raw)), `{"object":"list","data":[`...)
	}
	for i, v := range elements(root.Get("data")) {
		got++
		index := strconv.Itoa(from + i)
		if at := v.Get("index"); len(e.bodies) > 1 && given(at) {
			if at.Type != gjson.Number || at.Num < 0 || at.Num >= float64(asked) || at.Num != float64(at.Int()) {
				return protocol("answered with an embedding of a text that it was not asked for")
			}
			index = strconv.Itoa(from + int(at.Int()))
		} else if given(at) {
			index = at.Raw
		}
		vector, err := e.vector(v.Get("embedding").Str)
		if err != nil {
			return err
		}
		out = append(comma(out), `{"object":"embedding"`...)
		out = member(raw(out, "index", index), "embedding")
		out = append(openai.AppendVector(out, vector, e.packed), '}')
	}
	if len(e.bodies) > 1 && got != asked {
		return protocol("answered with more or fewer embeddings than there are texts")
	}
	e.answer = out
	return nil
}

// vector reads one embedding. Bytes run from -127 to 127.
func (e *embedding) vector(text string) ([]float32, error) {
	packed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	switch {
	case err != nil || len(packed) == 0:
		return nil, protocol("answered with an embedding that is none")
	case e.dimensions > 0 && int64(len(packed)) != e.dimensions:
		return nil, protocol("answered with embeddings of another size than it was asked for")
	}
	vector := make([]float32, len(packed))
	for i, b := range packed {
		vector[i] = float32(int8(b)) / 127
	}
	return vector, nil
}

// embeddingUsage is a usage in OpenAI's form, with the cost as in that of an answer: the only one there is, or what several
// are together. It is null if one of them does not tell.
func embeddingUsage(all []gjson.Result) string {
	var prompt, total int64
	var input, paid float64
	priced := true
	for _, u := range all {
		if !u.IsObject() {
			return "null"
		}
		prompt, total = plus(prompt, u.Get("prompt_tokens")), plus(total, u.Get("total_tokens"))
		cost := u.Get("cost")
		input, paid = input+cost.Get("input_cost").Num, paid+cost.Get("total_cost").Num
		priced = priced && cost.Get("total_cost").Type == gjson.Number
	}
	switch len(all) {
	case 0:
		return "null"
	case 1:
		u := all[0]
		out := raw([]byte{'{'}, "prompt_tokens", u.Get("prompt_tokens").Raw)
		out = raw(out, "total_tokens", u.Get("total_tokens").Raw)
		return string(append(appendCost(out, u.Get("cost")), '}'))
	}
	out := strconv.AppendInt(member([]byte{'{'}, "prompt_tokens"), prompt, 10)
	out = strconv.AppendInt(member(out, "total_tokens"), total, 10)
	if priced {
		cost := raw([]byte{'{'}, "currency", all[0].Get("cost.currency").Raw)
		cost = raw(raw(cost, "input_cost", dollars(input)), "total_cost", dollars(paid))
		out = appendCost(out, gjson.ParseBytes(append(cost, '}')))
	}
	return string(append(out, '}'))
}

// plus adds a count. What cannot be one makes the sum one that cannot be: it is not for a sum to hide.
func plus(sum int64, v gjson.Result) int64 {
	if n := v.Int(); sum >= 0 && n >= 0 && n <= openai.MaxUsage && v.Num == float64(n) {
		return sum + n
	}
	return -1
}

// dollars is a sum without what adding has made of its last digits; nothing for what is no number.
func dollars(sum float64) string {
	if math.IsInf(sum, 0) || math.IsNaN(sum) {
		return ""
	}
	return strconv.FormatFloat(sum, 'g', 15, 64)
}
