package perplexity

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/openai"
	"threadhub/upstreams"
)

// embeddingsPath is where embeddings are made, whichever API answers chats.
const embeddingsPath = "v1/embeddings"

// embedding is one request for embeddings in Perplexity's words, and what reads its answer. Perplexity has no floating
// point numbers to give: an embedding is signed bytes in base64, which become numbers between -1 and 1.
type embedding struct {
	dimensions int64 // 0: as many as the model gives
	packed     bool  // the client wants its numbers packed
	body       []byte
	warnings   []string
}

// translateEmbeddings puts r into Perplexity's words. Its texts stay as the client wrote them.
func translateEmbeddings(r *upstreams.Request) (upstreams.Wording, error) {
	asked, err := openai.ParseEmbeddings(r.Body)
	if err != nil {
		return nil, err
	}
	e := &embedding{dimensions: asked.Dimensions, packed: asked.Encoding == "base64"}
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
	out := append(make([]byte, 0, len(r.Body)+64), '{')
	out = append(member(quoted(member(out, "model"), r.Model), "input"), '[')
	for _, text := range asked.Texts() {
		out = append(comma(out), text...)
	}
	out = append(out, ']')
	if e.dimensions > 0 {
		out = strconv.AppendInt(member(out, "dimensions"), e.dimensions, 10)
	}
	e.body = append(raw(out, "encoding_format", `"base64_int8"`), '}')
	return e, nil
}

func (e *embedding) Path() string       { return embeddingsPath }
func (e *embedding) Body() []byte       { return e.body }
func (e *embedding) Warnings() []string { return e.warnings }

// Whole is Wording's.
func (e *embedding) Whole(body []byte) ([]byte, error) {
	root := gjson.ParseBytes(body)
	out := append(make([]byte, 0, 4*len(body)), `{"object":"list","data":[`...)
	for i, v := range elements(root.Get("data")) {
		index := strconv.Itoa(i)
		if given(v.Get("index")) {
			index = v.Get("index").Raw
		}
		vector, err := e.vector(v.Get("embedding").Str)
		if err != nil {
			return nil, err
		}
		out = append(comma(out), `{"object":"embedding"`...)
		out = member(raw(out, "index", index), "embedding")
		out = append(openai.AppendVector(out, vector, e.packed), '}')
	}
	out = append(out, ']')
	out = raw(out, "model", orEmpty(root.Get("model").Raw))
	return append(raw(out, "usage", embeddingUsage(root.Get("usage"))), '}'), nil
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

// embeddingUsage is a usage in OpenAI's form, with the cost as in that of an answer.
func embeddingUsage(u gjson.Result) string {
	if !u.IsObject() {
		return "null"
	}
	out := raw([]byte{'{'}, "prompt_tokens", u.Get("prompt_tokens").Raw)
	out = raw(out, "total_tokens", u.Get("total_tokens").Raw)
	return string(append(appendCost(out, u.Get("cost")), '}'))
}
