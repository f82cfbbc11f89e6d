package openai

// message writes the choice as an assistant message.
func (c *choice) message() []byte {
	out := make([]byte, 0, 64+len(c.content)+len(c.refusal)+len(c.reasoning)+len(c.thoughts))
	out = append(out, `{"role":"assistant","content":`...)
	if len(c.content) == 0 && (len(c.calls) > 0 || c.function != nil || len(c.refusal) > 0 || c.audio != nil) {
		out = append(out, "null"...)
	} else {
		out = appendBody(out, c.content)
	}
	out = appendTextMember(out, `,"refusal":`, c.refusal)
	out = appendTextMember(out, `,"reasoning":`, c.reasoning)
	out = appendTextMember(out, `,"reasoning_content":`, c.thoughts)
	if len(c.details) > 0 {
		out = append(out, `,"reasoning_details":[`...)
		for i := range c.details {
			out = c.details[i].append(comma(out, i))
		}
		out = append(out, ']')
	}
	if len(c.calls) > 0 {
		out = append(out, `,"tool_calls":[`...)
		for i := range c.calls {
			out = c.calls[i].append(comma(out, i))
		}
		out = append(out, ']')
	}
	if c.function != nil {
		out = c.function.appendInner(append(out, `,"function_call":`...), `,"arguments":`)
	}
	out = appendList(out, `,"annotations":[`, c.annotations)
	out = appendList(out, `,"images":[`, c.images)
	if c.audio != nil {
		out = appendBody(append(out, `,"audio":{"id":`...), c.audio.id)
		out = appendTextMember(out, `,"transcript":`, c.audio.transcript)
		if len(c.audio.expires) > 0 {
			out = append(append(out, `,"expires_at":`...), c.audio.expires...)
		}
		out = append(out, '}')
	}
	out = appendExtra(out, c.extra)
	return append(out, '}')
}

// appendExtra appends extra_content, if there is one.
func appendExtra(dst, extra []byte) []byte {
	if len(extra) == 0 {
		return dst
	}
	return append(append(dst, `,"extra_content":`...), extra...)
}

// appendBody appends the body of a JSON string with its quotes.
func appendBody(dst, body []byte) []byte {
	return append(append(append(dst, '"'), body...), '"')
}

// appendTextMember appends a member, if its text is not empty.
func appendTextMember(dst []byte, name string, body []byte) []byte {
	if len(body) == 0 {
		return dst
	}
	return appendBody(append(dst, name...), body)
}

func appendList(dst []byte, name string, items [][]byte) []byte {
	if len(items) == 0 {
		return dst
	}
	dst = append(dst, name...)
	for i, v := range items {
		dst = append(comma(dst, i), v...)
	}
	return append(dst, ']')
}

// comma appends a comma before all but the first item.
func comma(dst []byte, i int) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	return dst
}

func (t *call) append(dst []byte) []byte {
	dst = appendBody(append(dst, `{"id":`...), t.id)
	if t.customized {
		dst = appendBody(append(dst, `,"type":`...), kindOr(t.kind, "custom"))
		dst = t.appendInner(append(dst, `,"custom":`...), `,"input":`)
	} else {
		dst = appendBody(append(dst, `,"type":`...), kindOr(t.kind, "function"))
		dst = t.appendInner(append(dst, `,"function":`...), `,"arguments":`)
	}
	return append(appendExtra(dst, t.extra), '}')
}

func kindOr(kind []byte, usual string) []byte {
	if len(kind) > 0 {
		return kind
	}
	return []byte(usual)
}

func (t *call) appendInner(dst []byte, args string) []byte {
	dst = appendBody(append(dst, `{"name":`...), t.name)
	dst = appendBody(append(dst, args...), t.args)
	return append(dst, '}')
}

func (d *detail) append(dst []byte) []byte {
	dst = append(dst, '{')
	for i, m := range d.members {
		dst = append(comma(dst, i), m.name...)
		dst = append(dst, ':')
		if m.text {
			dst = appendBody(dst, m.value)
		} else {
			dst = append(dst, m.value...)
		}
	}
	return append(dst, '}')
}
