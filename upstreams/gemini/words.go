package gemini

import (
	"strconv"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// words is one request in Gemini's words, and what reads its answer.
type words struct {
	path     string
	body     []byte
	warnings []string

	model     string
	renamed   map[string]string // names of functions as JSON, by those that Gemini was given for them
	logprobs  bool
	grounding bool // the client wants to see Gemini's own account of what it found
	single    bool // the client wants one call at a time, which Gemini cannot be told
	dialect   dialect

	searched int // how often the web was, for a whole answer
	long     long
	stream   stream
}

// Path is upstreams.Words's.
func (w *words) Path() string { return w.path }

// Body is upstreams.Words's.
func (w *words) Body() []byte { return w.body }

// Warnings is upstreams.Words's.
func (w *words) Warnings() []string { return w.warnings }

// Whole is upstreams.Words's. With an error for an answer that was worked for comes an object with its usage. body is nil
// where the rest of a long answer did not come.
func (w *words) Whole(body []byte) ([]byte, error) {
	answers, used := w.long.earlier, w.long.spent
	if body != nil {
		root := gjson.ParseBytes(body)
		answers = append(answers, root)
		used.add(root.Get("usageMetadata"))
	}
	out := make([]byte, 0, len(body)+256)
	o := object{b: append(out, '{')}
	w.head(&o, answers[0], "chat.completion")
	o.key("choices")
	var err error
	if o.b, err = w.choices(o.b, answers); err != nil {
		if !used.given {
			return nil, err
		}
		return append(used.append([]byte(`{"usage":`), w.searched), '}'), err
	}
	if used.given {
		o.key("usage")
		o.b = used.append(o.b, w.searched)
	}
	return append(o.b, '}'), nil
}

// remark warns of an end that the API has no word for, and of more calls than the client wanted at a time.
func (w *words) remark(c *candidate) {
	reason, _ := c.reason()
	if c.finish != "STOP" && c.finish != "" && (reason == "stop" || reason == "tool_calls") {
		w.warn("changed=finish_reason;reason=" + plain(c.finish))
	}
	if w.single && c.calls > 1 {
		w.warn("dropped=parallel_tool_calls;reason=unsupported")
	}
}

// warn adds a warning that is not there yet.
func (w *words) warn(text string) {
	all := upstreams.Losses{Warnings: w.warnings}
	all.Warn(text)
	w.warnings = all.Warnings
}

// head writes what an answer and each of its chunks begin with. The model is the one that answered.
func (w *words) head(o *object, root gjson.Result, kind string) {
	o.key("id")
	if id := text(root.Get("responseId")); len(id) > len(`""`) {
		o.b = append(append(o.b, `"chatcmpl-`...), id[1:]...)
	} else {
		o.b = append(append(append(o.b, `"chatcmpl-`...), w.dialect.fresh()...), '"')
	}
	o.raw("object", `"`+kind+`"`)
	o.raw("created", strconv.FormatInt(w.dialect.now().Unix(), 10))
	o.key("model")
	if model := text(root.Get("modelVersion")); len(model) > len(`""`) {
		o.b = append(o.b, model...)
	} else {
		o.b = gjson.AppendJSONString(o.b, w.model)
	}
}

// choices appends the candidates of an answer. Of several answers, which are one that came in pieces, each has one.
func (w *words) choices(dst []byte, answers []gjson.Result) ([]byte, error) {
	dst = append(dst, '[')
	root := answers[len(answers)-1]
	if len(answers) > 1 {
		var pieces []gjson.Result
		for _, root := range answers {
			each(root.Get("candidates"), func(_ int, v gjson.Result) bool {
				pieces = append(pieces, v)
				return false
			})
		}
		dst, err := w.choice(dst, pieces)
		return append(dst, ']'), err
	}
	var wrong error
	count := 0
	each(root.Get("candidates"), func(i int, v gjson.Result) bool {
		if i > 0 {
			dst = append(dst, ',')
		}
		count++
		dst, wrong = w.choice(dst, []gjson.Result{v})
		return wrong == nil
	})
	if wrong != nil {
		return nil, wrong
	}
	if count == 0 {
		blocked := text(root.Get("promptFeedback.blockReason"))
		if blocked == "" {
			return nil, protocol("answered without a candidate")
		}
		dst = append(dst, `{"index":0,"message":{"role":"assistant","content":null,"refusal":null},"logprobs":null,"finish_reason":"content_filter","native_finish_reason":`...)
		dst = append(append(dst, blocked...), '}')
	}
	return append(dst, ']'), nil
}

// choice appends one candidate of a whole answer, which may have come in pieces. The last of them says how it ended.
func (w *words) choice(dst []byte, pieces []gjson.Result) ([]byte, error) {
	v := pieces[len(pieces)-1]
	index := v.Get("index").Int()
	if !v.IsObject() || index < 0 || index >= maxCandidates {
		return nil, protocol("answered with a candidate that cannot be")
	}
	c := candidate{index: int(index), finish: v.Get("finishReason").Str, grounding: v.Get("groundingMetadata")}
	w.searched += c.searches()
	var content, thoughts, calls, images []byte
	take := func(_ int, v gjson.Result) bool {
		p := takeApart(v)
		c.keep(p)
		at := -1
		switch {
		case p.call.IsObject():
			calls = w.appendCall(comma(calls), &c, p, false)
		case p.data.IsObject():
			images = appendImage(comma(images), p)
		case p.text.Type == gjson.String && p.thought:
			thoughts = append(thoughts, p.text.Raw[1:len(p.text.Raw)-1]...)
		case p.text.Type == gjson.String:
			at = len(c.text)
			content = append(content, p.text.Raw[1:len(p.text.Raw)-1]...)
			c.text = append(c.text, p.text.Str...)
		}
		c.starts = append(c.starts, at)
		return true
	}
	var logprobs []gjson.Result
	for _, piece := range pieces {
		each(piece.Get("content.parts"), take)
		logprobs = append(logprobs, piece.Get("logprobsResult"))
		c.cites(piece.Get("citationMetadata"))
	}
	c.usable = len(content) > 0 || len(calls) > 0 || len(images) > 0
	w.remark(&c)
	reason, broken := c.reason()
	switch {
	case broken && !c.usable:
		return nil, malformed(c.finish)
	case c.finish == "" && !c.usable:
		return nil, protocol("answered with nothing")
	case c.finish == "":
		w.warn("changed=finish_reason;reason=absent")
	}
	o := object{b: append(dst, '{')}
	o.raw("index", strconv.Itoa(c.index))
	o.key("message")
	m := object{b: append(o.b, `{"role":"assistant"`...), n: 1}
	m.key("content")
	if len(content) == 0 && (len(calls) > 0 || reason == "content_filter") {
		m.b = append(m.b, "null"...)
	} else {
		m.b = append(append(append(m.b, '"'), content...), '"')
	}
	m.raw("refusal", "null")
	if len(thoughts) > 0 {
		m.key("reasoning_content")
		m.b = append(append(append(m.b, '"'), thoughts...), '"')
	}
	m.list("tool_calls", calls)
	m.list("images", images)
	if a := c.appendAnnotations(nil); a != nil {
		m.key("annotations")
		m.b = append(m.b, a...)
	}
	m.extra(c.signature, c.tools, w.found(&c))
	o.b = append(m.b, '}')
	o.key("logprobs")
	if w.logprobs {
		o.b = appendLogprobs(o.b, logprobs...)
	} else {
		o.b = append(o.b, "null"...)
	}
	o.finish(reason, c.finish)
	return append(o.b, '}'), nil
}

// finish writes why a choice ended, in the API's word and in Gemini's.
func (o *object) finish(reason, native string) {
	o.raw("finish_reason", `"`+reason+`"`)
	if native != "" {
		o.key("native_finish_reason")
		o.b = gjson.AppendJSONString(o.b, native)
	}
}

// list writes an array of items that are joined by commas; nothing if there are none.
func (o *object) list(name string, items []byte) {
	if len(items) > 0 {
		o.key(name)
		o.b = append(append(append(o.b, '['), items...), ']')
	}
}

// comma appends a comma to a list that is not empty.
func comma(list []byte) []byte {
	if len(list) > 0 {
		list = append(list, ',')
	}
	return list
}
