package perplexity

// chunks writes chunks of the OpenAI dialect. They are good until reset.
type chunks struct {
	head []byte // of every chunk, up to its choices
	out  []byte
	list [][]byte
}

func (c *chunks) reset() { c.out, c.list = c.out[:0], c.list[:0] }

// describe sets what every chunk says of the answer: JSON.
func (c *chunks) describe(id, created, model string) {
	c.head = append(c.head[:0], '{')
	c.head = raw(c.head, "id", orEmpty(id))
	c.head = raw(c.head, "object", `"chat.completion.chunk"`)
	c.head = raw(c.head, "created", seconds(created))
	c.head = append(raw(c.head, "model", orEmpty(model)), `,"choices":[`...)
}

// open begins a chunk with a delta, which the caller appends to c.out.
func (c *chunks) open() (from int) {
	from = len(c.out)
	c.out = append(append(c.out, c.head...), `{"index":0,"delta":{`...)
	return from
}

// close ends the delta of the chunk that began at from. finish is JSON; more are members of the chunk.
func (c *chunks) close(from int, finish string, more []byte) {
	c.out = append(append(c.out, `},"finish_reason":`...), finish...)
	c.out = append(c.out, `}]`...)
	if len(more) > 0 {
		c.out = append(append(c.out, ','), more...)
	}
	c.end(from)
}

func (c *chunks) end(from int) {
	c.out = append(c.out, '}')
	c.list = append(c.list, c.out[from:len(c.out):len(c.out)])
}

// role is the first chunk.
func (c *chunks) role() {
	from := c.open()
	c.out = append(c.out, `"role":"assistant","content":""`...)
	c.close(from, "null", nil)
}

// tell says two bodies of strings as one, in the member name.
func (c *chunks) tell(name, gap, text string) {
	from := c.open()
	c.out = append(member(c.out, name), '"')
	c.out = append(append(append(c.out, gap...), text...), '"')
	c.close(from, "null", nil)
}

// toolCall says a tool call, whole. element is as in a message; index is its place there.
func (c *chunks) toolCall(index string, element []byte) {
	from := c.open()
	c.out = append(append(append(c.out, `"tool_calls":[{"index":`...), index...), ',')
	c.out = append(append(c.out, element[1:]...), ']')
	c.close(from, "null", nil)
}

// last says where the answer is from, why it ended and what it took: usage is nil if nobody knows. more are members of
// the answer.
func (c *chunks) last(annotations, more []byte, finish string, usage []byte) {
	if len(annotations) > 0 || len(more) > 0 {
		from := c.open()
		c.out = list(c.out, "annotations", annotations)
		c.close(from, "null", more)
	}
	c.close(c.open(), `"`+finish+`"`, nil)
	c.took(usage)
}

// took says the usage, in a chunk without choices.
func (c *chunks) took(usage []byte) {
	if usage == nil {
		return
	}
	from := len(c.out)
	c.out = append(append(c.out, c.head...), `],"usage":`...)
	c.out = append(c.out, usage...)
	c.end(from)
}
