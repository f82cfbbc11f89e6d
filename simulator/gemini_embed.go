package simulator

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// maxBatch is how many requests Gemini takes in one batch.
const maxBatch = 100

// embed answers embedContent and batchEmbedContents.
func (g gemini) embed(x *exchange, model, method string) error {
	if t := x.req.Header.Get("Content-Type"); !strings.HasPrefix(strings.ToLower(t), "application/json") {
		return g.refuse(x, *invalid("Invalid Content-Type header (%s). Expected application/json.", t))
	}
	e, f := readGeminiEmbedding(x, model, method == "batchEmbedContents")
	if f != nil {
		return g.refuse(x, *f)
	}
	if err := e.begin(); err != nil {
		return g.refuse(x, *invalid("The simulator does not understand the directive: %v", err))
	}
	if did, err := x.early(); did {
		return err
	}
	if m := g.find(model); m == nil || !m.embeds() && !strings.HasPrefix(model, "sim-") {
		return g.refuse(x, noGemini(model, "embedContent"))
	}
	vectors := e.answers()
	if x.plan.fault == "error_200" {
		return g.json(x, googleError(nil, (&geminiWriter{chat: &chat{x: x}}).mistake()))
	}
	b := []byte(`{"embeddings":[`)
	for i, v := range vectors {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(array(append(b, `{"values":`...), v), '}')
	}
	b = append(b, ']')
	if method != "batchEmbedContents" {
		b = append(array([]byte(`{"embedding":{"values":`), vectors[0]), '}')
	}
	raw, honest := e.toldByGoogle()
	if raw != "" {
		b = append(append(b, `,"usageMetadata":`...), raw...)
	}
	return e.whole(head{status: 200, fields: field("Content-Type", "application/json; charset=UTF-8") + googleFields}, []byte(pretty(append(b, '}'))), raw, honest)
}

// toldByGoogle is told: mostly nothing, unless a script says how many tokens there were.
func (e *embedding) toldByGoogle() (raw string, honest *Usage) {
	switch p := e.x.plan; {
	case p.fault == "zero_usage", p.fault == "hostile_usage":
		raw = p.fakeUsage("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
		return raw, p.believable(raw)
	case p.prompt >= 0 && p.fault != "no_usage":
		return fmt.Sprintf(`{"promptTokenCount":%d}`, e.usage.Prompt), &e.usage
	}
	return "", nil
}

// readGeminiEmbedding reads and checks a request for embeddings. All requests of a batch are for the same model, and have
// the same dimensions here.
func readGeminiEmbedding(x *exchange, model string, batch bool) (*embedding, *failure) {
	message := "EmbedContentRequest"
	if batch {
		message = "BatchEmbedContentsRequest"
	}
	if len(x.body) > maxInline {
		return nil, invalid("Request payload size exceeds the limit: %d bytes.", maxInline)
	}
	if !utf8.Valid(x.body) || !gjson.ValidBytes(x.body) {
		return nil, invalid("Invalid JSON payload received. Expected a value.\n%s\n^", clip(strings.ToValidUTF8(string(x.body), "?"), 40))
	}
	root := gjson.ParseBytes(x.body)
	if !root.IsObject() {
		return nil, invalid(`Invalid JSON payload received. Unknown name "": Root element must be a message.`)
	}
	if list := against(nil, root, message, ""); len(list) > 0 {
		return nil, violated(list)
	}
	all := []gjson.Result{root}
	if batch {
		all = get(root, "requests").Array()
	}
	switch n := len(all); {
	case n == 0:
		return nil, invalid("* BatchEmbedContentsRequest.requests: at least one request is needed")
	case n > maxBatch:
		return nil, invalid("* BatchEmbedContentsRequest.requests: at most %d requests can be in one batch", maxBatch)
	}
	e := &embedding{x: x, model: model}
	for i, r := range all {
		at := fmt.Sprintf("BatchEmbedContentsRequest.requests[%d]", i)
		if name := get(r, "model").Str; name != "models/"+model && (batch || name != "") {
			return nil, invalid("* %s.model: model does not match the one in the batch request", at)
		}
		var text strings.Builder
		for _, p := range get(r, "content", "parts").Array() {
			text.WriteString(get(p, "text").Str)
		}
		if text.Len() == 0 {
			return nil, invalid("* %s.content: contents is not specified", at)
		}
		if d := get(r, "outputDimensionality"); d.Exists() {
			if e.dims = int(d.Int()); e.dims < 1 || e.dims > 3072 {
				return nil, invalid("* %s.output_dimensionality: must be between 1 and 3072", at)
			}
		}
		e.texts, e.tokens = append(e.texts, text.String()), e.tokens+tokens(text.String())
	}
	e.dims = or(e.dims, 3072)
	return e, nil
}
