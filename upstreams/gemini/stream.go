package gemini

import (
	"strconv"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
)

// stream is the state of an answer that comes in pieces. Gemini has no end marker: the answer is whole when every
// candidate has said why it ended and then the bytes end.
type stream struct {
	head       []byte // what each chunk begins with, up to the choices
	candidates []candidate
	blocked    string // why the prompt was refused, a JSON string
	usage      gjson.Result
	told       bool         // what the answer took
	token      gjson.Result // with which the rest could be asked for, if that is how it ends

	b      []byte   // the chunks of this event
	ends   []int    // where in b they end
	chunks [][]byte // and as they are given out
}

// Event is upstreams.Words's.
func (w *words) Event(_ string, data []byte) (chunks [][]byte, end bool, err error) {
	s := &w.stream
	s.b, s.ends = s.b[:0], s.ends[:0]
	if !gjson.ValidBytes(data) || data[0] != '{' {
		return nil, false, protocol("put something into its stream that is not a JSON object")
	}
	root := gjson.ParseBytes(data)
	if s.head == nil {
		o := object{b: []byte{'{'}}
		w.head(&o, root, "chat.completion.chunk")
		s.head = append(o.b, `,"choices":[`...)
	}
	root.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "usageMetadata":
			if v.IsObject() {
				s.usage = v // a running total
			}
		case "promptFeedback":
			if reason := text(v.Get("blockReason")); reason != "" {
				s.blocked = reason
			}
		case "candidates":
			each(v, func(_ int, v gjson.Result) bool {
				err = w.piece(v)
				return err == nil
			})
		}
		return err == nil
	})
	return s.flush(), false, err
}

// piece takes what an event brings of one candidate.
func (w *words) piece(v gjson.Result) error {
	s := &w.stream
	index := v.Get("index").Int()
	if !v.IsObject() || index < 0 || index >= maxCandidates {
		return protocol("sent a candidate that cannot be")
	}
	c := w.candidate(int(index))
	var logprobs gjson.Result
	if w.logprobs {
		logprobs = v.Get("logprobsResult")
	}
	each(v.Get("content.parts"), func(_ int, v gjson.Result) bool {
		p := takeApart(v)
		c.keep(p)
		switch {
		case p.call.IsObject():
			s.open(c)
			s.b = append(w.appendCall(append(s.b, `{"tool_calls":[`...), c, p, true), `]}`...)
			s.shut(nil)
		case p.data.IsObject():
			c.usable = true
			s.open(c)
			s.b = append(appendImage(append(s.b, `{"images":[`...), p), `]}`...)
			s.shut(nil)
		case p.text.Type != gjson.String || len(p.text.Raw) <= len(`""`):
		case p.thought:
			s.open(c)
			s.b = append(append(append(s.b, `{"reasoning_content":`...), p.text.Raw...), '}')
			s.shut(nil)
		default:
			c.usable = true
			c.text = append(c.text, p.text.Str...)
			s.open(c)
			s.b = append(append(append(s.b, `{"content":`...), p.text.Raw...), '}')
			s.shut(&logprobs)
		}
		return true
	})
	if logprobs.IsObject() { // no text to go along with
		s.open(c)
		s.b = append(s.b, `{}`...)
		s.shut(&logprobs)
	}
	if g := v.Get("groundingMetadata"); g.IsObject() {
		c.grounding = g
	}
	c.cites(v.Get("citationMetadata"))
	if reason := v.Get("finishReason"); reason.Type == gjson.String && c.finish == "" {
		c.finish = reason.Str
	}
	if token := v.Get("continuationToken"); token.Exists() {
		s.token = token
	}
	return nil
}

// candidate returns the state of a candidate. One that is new begins with a chunk that says who speaks.
func (w *words) candidate(index int) *candidate {
	s := &w.stream
	for i := range s.candidates {
		if s.candidates[i].index == index {
			return &s.candidates[i]
		}
	}
	s.candidates = append(s.candidates, candidate{index: index})
	c := &s.candidates[len(s.candidates)-1]
	s.open(c)
	s.b = append(s.b, `{"role":"assistant","content":""}`...)
	s.shut(nil)
	return c
}

// open begins a chunk of one choice, up to its delta, which the caller appends.
func (s *stream) open(c *candidate) {
	s.b = append(s.b, s.head...)
	s.b = strconv.AppendInt(append(s.b, `{"index":`...), int64(c.index), 10)
	s.b = append(s.b, `,"delta":`...)
}

// shut ends a chunk that ends no choice. logprobs, if there are any, go with it and are gone.
func (s *stream) shut(logprobs *gjson.Result) {
	if logprobs != nil && logprobs.IsObject() {
		s.b = appendLogprobs(append(s.b, `,"logprobs":`...), *logprobs)
		*logprobs = gjson.Result{}
	}
	s.b = append(s.b, `,"finish_reason":null}],"usage":null}`...)
	s.ends = append(s.ends, len(s.b))
}

// flush gives out the chunks of this event.
func (s *stream) flush() [][]byte {
	s.chunks = s.chunks[:0]
	from := 0
	for _, to := range s.ends {
		s.chunks = append(s.chunks, s.b[from:to:to])
		from = to
	}
	return s.chunks
}

// End is upstreams.Words's. An answer that is whole but of no use has its usage told before the error.
func (w *words) End() (chunks [][]byte, err error) {
	s := &w.stream
	s.b, s.ends = s.b[:0], s.ends[:0]
	if len(s.candidates) == 0 && s.blocked != "" {
		w.candidate(0)
	}
	if len(s.candidates) == 0 {
		return nil, truncated()
	}
	for i := range s.candidates {
		c := &s.candidates[i]
		if c.finish == "" && s.blocked == "" {
			return nil, truncated()
		}
		reason, broken := c.reason()
		if broken && !c.usable {
			s.b, s.ends, err = s.b[:0], s.ends[:0], malformed(c.finish)
			break
		}
		w.remark(c)
		w.extras(c)
		s.last(c, reason)
	}
	w.took()
	return s.flush(), err
}

// Used is upstreams.Words's. The usage runs along, and is the best that is known of an answer that was cut.
func (w *words) Used() [][]byte {
	s := &w.stream
	s.b, s.ends = s.b[:0], s.ends[:0]
	w.took()
	return s.flush()
}

// took writes the chunk that says what the answer took, once.
func (w *words) took() {
	s := &w.stream
	used := w.long.spent
	if used.add(s.usage); !used.given || s.told {
		return
	}
	s.told = true
	searches := 0
	for i := range s.candidates {
		searches += s.candidates[i].searches()
	}
	s.b = append(append(s.b, s.head...), `],"usage":`...)
	s.b = append(used.append(s.b, searches), '}')
	s.ends = append(s.ends, len(s.b))
}

// extras writes what can be told of a candidate only once it is there.
func (w *words) extras(c *candidate) {
	s := &w.stream
	if a := c.appendAnnotations(nil); a != nil {
		s.open(c)
		s.b = append(append(append(s.b, `{"annotations":`...), a...), '}')
		s.shut(nil)
	}
	found := w.found(c)
	if c.signature == "" && len(c.tools) == 0 && found == "" {
		return
	}
	s.open(c)
	o := object{b: append(s.b, '{')}
	o.extra(c.signature, c.tools, found)
	s.b = append(o.b, '}')
	s.shut(nil)
}

// last writes the chunk that ends a choice.
func (s *stream) last(c *candidate, reason string) {
	s.open(c)
	native := c.finish
	if native == "" {
		reason, native = "content_filter", gjson.Parse(s.blocked).Str
	}
	o := object{b: append(s.b, `{}`...), n: 1}
	o.finish(reason, native)
	s.b = append(o.b, `}],"usage":null}`...)
	s.ends = append(s.ends, len(s.b))
}

func truncated() error {
	return fault.New(fault.Upstream, "gemini ended its stream before the answer was complete").WithCode("upstream_truncated")
}
