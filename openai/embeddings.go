package openai

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"strconv"

	"threadhub/internal/fault"
)

// MaxInputs is how many embeddings one request may ask for (OpenAI API reference, embeddings).
const MaxInputs = 2048

// InputKind is what the input of a request for embeddings is made of.
type InputKind uint8

const (
	TextInput   InputKind = iota // one text, or a list of them
	TokenInput                   // one list of token ids, or a list of such lists
	ObjectInput                  // a list of objects, as some of OpenRouter's models take for images
)

// EmbeddingsRequest is a request for embeddings: the bytes as they came, and what the gateway has to know about them.
// It shares the body's memory and is read only once made.
type EmbeddingsRequest struct {
	Request
	Kind       InputKind
	Inputs     int    // how many embeddings it asks for: 1 to MaxInputs
	Dimensions int64  // of each of them; 0 if the body does not say
	Encoding   string // of them in the answer: "float", "base64", or what else the client wrote; "" if it did not

	input Span
}

// oursEmbedding are the members the gateway acts upon.
var oursEmbedding = [...]string{"model", "input", "dimensions", "encoding_format", "thread_id", "metadata"}

// ParseEmbeddings looks through a request for embeddings. Its errors are those of ParseChat, and for an input that is
// empty or too long empty_array, invalid_value and array_above_max_length. How large an embedding may be, and what the
// members it does not know mean, is the provider's business.
func ParseEmbeddings(raw []byte) (*EmbeddingsRequest, error) {
	r := &EmbeddingsRequest{Request: Request{Raw: raw}}
	var err error
	if r.members, err = Scan(raw, nil); err != nil {
		return nil, err
	}
	s := scanner{b: raw}
	if s.space(); s.peek() != '{' {
		return nil, invalidType("", "the body must be a JSON object")
	}
	var metadata, threadID Span
	for i := range r.members {
		m := &r.members[i]
		v := m.Value.of(raw)
		switch string(m.Name) {
		case "model":
			r.model = m.Value
		case "input":
			r.input = m.Value
		case "dimensions":
			r.readDimensions(v)
		case "encoding_format":
			if !isString(v) && !isNull(v) {
				r.fail(invalidType("encoding_format", "encoding_format must be a string"))
			}
			r.Encoding = text(v)
		case "thread_id":
			threadID = m.Value
		case "metadata":
			metadata = m.Value
		default:
			r.refuseOtherCase(m.Name, oursEmbedding[:])
		}
	}
	r.readModel()
	r.readInput(r.input.of(raw))
	r.readThread(threadID, metadata)
	if r.wrong != nil {
		return nil, r.wrong
	}
	return r, nil
}

func (r *EmbeddingsRequest) readDimensions(v []byte) {
	if isNull(v) {
		return
	}
	n, ok := whole(v)
	switch {
	case !ok:
		r.fail(invalidType("dimensions", "dimensions must be an integer"))
	case n < 1 || n > math.MaxInt32:
		r.fail(invalidValue("dimensions", "dimensions must be between 1 and %d", math.MaxInt32))
	default:
		r.Dimensions = n
	}
}

const inputForms = "input must be a string, an array of strings, an array of token ids, or an array of such arrays"

func (r *EmbeddingsRequest) readInput(v []byte) {
	switch {
	case len(v) == 0 || isNull(v):
		r.fail(missing("input", "you must provide an input parameter"))
		return
	case isString(v):
		r.Inputs = 1
		r.checkText("input", v)
		return
	case !isArray(v):
		r.fail(invalidType("input", inputForms))
		return
	}
	count, numbers := 0, false
	each(v, func(n int, e []byte) {
		count++
		at := fmt.Sprintf("input[%d]", n)
		kind, number := TextInput, false
		switch {
		case isString(e):
			r.checkText(at, e)
		case isArray(e):
			kind = TokenInput
			r.checkTokens(at, e)
		case isObject(e):
			kind = ObjectInput
		default:
			kind, number = TokenInput, true
			r.checkToken(at, e)
		}
		if n == 0 {
			r.Kind, numbers = kind, number
		} else if kind != r.Kind || number != numbers {
			r.fail(invalidType(at, "the elements of input must all be of one kind: %s", inputForms))
		}
	})
	if r.Inputs = count; numbers {
		r.Inputs = 1
	}
	switch {
	case count == 0:
		r.fail(fault.New(fault.Invalid, "input must not be an empty array").WithCode("empty_array").WithParam("input"))
	case r.Inputs > MaxInputs:
		r.fail(fault.New(fault.Invalid, "input may have up to %d elements, and has %d", MaxInputs, count).
			WithCode("array_above_max_length").WithParam("input"))
	}
}

func (r *EmbeddingsRequest) checkText(at string, v []byte) {
	if len(body(v)) == 0 {
		r.fail(invalidValue(at, "%s must not be an empty string", at))
	}
}

func (r *EmbeddingsRequest) checkTokens(at string, list []byte) {
	count := 0
	each(list, func(n int, v []byte) {
		count++
		r.checkToken(at, v)
	})
	if count == 0 {
		r.fail(fault.New(fault.Invalid, "%s must not be an empty array", at).WithCode("empty_array").WithParam(at))
	}
}

func (r *EmbeddingsRequest) checkToken(at string, v []byte) {
	if n, ok := whole(v); !ok || n < 0 {
		r.fail(invalidType(at, "%s: %s", at, inputForms))
	}
}

// Texts returns the texts of a TextInput as they were written, quotes and escapes included.
func (r *EmbeddingsRequest) Texts() [][]byte {
	v := r.input.of(r.Raw)
	if isString(v) {
		return [][]byte{v}
	}
	texts := make([][]byte, 0, r.Inputs)
	each(v, func(_ int, e []byte) { texts = append(texts, e) })
	return texts
}

// InputBytes returns how many bytes of text there are to embed: what an estimate counts. A token counts as the four bytes
// it stands for, an object as it is written.
func (r *EmbeddingsRequest) InputBytes() (n int64) {
	v := r.input.of(r.Raw)
	count := func(e []byte) {
		switch {
		case isString(e):
			n += textLen(body(e))
		case isObject(e):
			n += int64(len(e))
		default:
			n += bytesPerToken
		}
	}
	if !isArray(v) {
		count(v)
		return n
	}
	each(v, func(_ int, e []byte) {
		if isArray(e) {
			each(e, func(_ int, token []byte) { count(token) })
			return
		}
		count(e)
	})
	return n
}

// Others yields the members that neither the gateway nor every provider knows: their names, and their values as JSON.
func (r *EmbeddingsRequest) Others() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, m := range r.members {
			switch string(m.Name) {
			case "model", "input", "dimensions", "encoding_format", "thread_id":
				continue
			case "metadata":
				if _, nothing := removeInner(nil, r.Raw, m.Value); nothing {
					continue
				}
			}
			if !yield(string(m.Name), string(m.Value.of(r.Raw))) {
				return
			}
		}
	}
}

// Splice returns the body with the provider's name for the model and without thread_id, as ChatRequest's does.
func (r *EmbeddingsRequest) Splice(model string) []byte {
	return splice(r.Raw, r.removeThread(r.editModel(nil, model)))
}

// Embeddings is an answer with embeddings: the provider's bytes, and what the gateway has to know about them.
type Embeddings struct {
	Raw   []byte
	Model string // the model that answered
	Usage *Usage // nil if the provider gave none, or none that can be

	noUsage Span // where the answer says that it knows of no usage: null
}

// ParseEmbeddingsAnswer reads an answer to a request for so many embeddings, in one pass: it may be large. Errors are those
// of ParseAnswer: upstream_protocol also for an answer that holds more of them, or fewer, or one that is none.
func ParseEmbeddingsAnswer(raw []byte, inputs int) (*Embeddings, error) {
	raw = repair(raw)
	e := &Embeddings{Raw: raw}
	var failure, usage Span
	wrong := error(protocol("the provider's answer has no embeddings"))
	s := scanner{b: raw}
	if s.space(); s.peek() == '{' {
		s.enter()
		for n := 0; ; n++ {
			_, name, ok := s.key(n)
			if !ok {
				break
			}
			if string(name) == "data" && s.peek() == '[' {
				wrong = embeddings(&s, inputs)
				continue
			}
			at := s.value()
			switch {
			case s.failed():
			case string(name) == "model":
				e.Model = text(at.of(raw))
			case string(name) == "error":
				failure = at
			case string(name) == "usage":
				usage = at
			}
		}
	} else {
		s.value()
	}
	s.finish()
	if s.failed() {
		return nil, protocol("the provider's answer is not valid JSON: %s at byte %d", s.wrong, s.at)
	}
	if v := failure.of(raw); len(v) > 0 && !isNull(v) {
		return nil, reported(v)
	}
	if isNull(usage.of(raw)) {
		e.noUsage = usage
	}
	e.Usage, _ = ParseUsage(usage.of(raw)) // what cannot be is estimated
	return e, wrong
}

// embeddings reads the array the scanner stands before, and makes sure that each input has its embedding there.
func embeddings(s *scanner, inputs int) (wrong error) {
	there := make([]bool, inputs)
	s.enter()
	n := 0
	for ; s.element(n); n++ {
		at, ok := int64(n), false
		if s.peek() == '{' {
			at, ok = embedding(s, at)
		} else {
			s.value()
		}
		if ok = ok && at >= 0 && at < int64(inputs) && !there[at]; ok {
			there[at] = true
		} else if wrong == nil {
			wrong = protocol("element %d of the provider's answer is not the embedding of an input", n)
		}
	}
	if wrong == nil && n != inputs {
		wrong = protocol("the provider's answer holds %d embeddings for %d inputs", n, inputs)
	}
	return wrong
}

// embedding reads the object the scanner stands before: an embedding, and the index that it says it has.
func embedding(s *scanner, at int64) (index int64, ok bool) {
	index = at
	s.enter()
	for n := 0; ; n++ {
		_, name, more := s.key(n)
		if !more {
			return index, ok
		}
		v := s.value()
		switch {
		case s.failed():
		case string(name) == "index":
			if i, number := whole(v.of(s.b)); number {
				index = i
			}
		case string(name) == "embedding":
			ok = isVector(v.of(s.b))
		}
	}
}

// isVector reports whether v is an array of numbers, or a string, which is how they are packed.
func isVector(v []byte) bool {
	if isString(v) {
		return len(v) > len(`""`)
	}
	if !isArray(v) {
		return false
	}
	digits := false
	for _, c := range v[1 : len(v)-1] { // it is JSON: in an array of numbers no other bytes can be
		switch {
		case c-'0' <= 9:
			digits = true
		case c == '-', c == '+', c == '.', c == 'e', c == 'E', c == ',', c <= ' ':
		default:
			return false
		}
	}
	return digits
}

// WithUsage returns the answer with the usage that was estimated, where it says itself that it knows of none.
func (e *Embeddings) WithUsage(tokens int64) []byte {
	if e.noUsage.empty() {
		return e.Raw
	}
	usage := strconv.AppendInt([]byte(`{"prompt_tokens":`), tokens, 10)
	usage = append(strconv.AppendInt(append(usage, `,"total_tokens":`...), tokens, 10), '}')
	return splice(e.Raw, []edit{{at: e.noUsage, with: usage}})
}

// AppendVector appends an embedding as clients know it: an array of numbers, or packed, a string that holds them as
// little-endian float32 in base64.
func AppendVector(dst []byte, vector []float32, packed bool) []byte {
	if packed {
		raw := make([]byte, 0, 4*len(vector))
		for _, f := range vector {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
		}
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), raw), '"')
	}
	dst = append(dst, '[')
	for i, f := range vector {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendFloat(dst, float64(f), 'g', -1, 32)
	}
	return append(dst, ']')
}
