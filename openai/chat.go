package openai

import (
	"bytes"
	"fmt"

	"threadhub/internal/fault"
)

// MaxTokensLimit is the largest answer a request may ask for: far beyond any model, and small enough to reckon with.
const MaxTokensLimit = 1<<31 - 1

// ChatRequest is a request for a chat completion: the bytes as they came, and what the gateway has to know about them.
// The rest is the provider's business. It shares the body's memory and is read only once made.
type ChatRequest struct {
	Request
	Messages []Message
	Stream   bool
	// IncludeUsage says that the client asked for the usage chunk.
	IncludeUsage      bool
	N                 int64 // choices asked for; 1 if the body does not say
	MaxTokens         int64 // max_completion_tokens, else max_tokens; 0 if the body does not say
	HasTools          bool  // there are tools, or the older functions
	HasResponseFormat bool
	HasExtras         bool // an assistant message has members that OpenAI's answers have not (Shed)
	Images            int  // image_url parts in all messages

	inline        [16]Member // room for members of a usual request
	open          int        // the byte after the opening brace
	streamOptions Span       // the member's value; empty if absent
}

// Message is one message of a request.
type Message struct {
	Raw  []byte // the object as written
	Role string // one of the six roles
	at   Span
}

// Text returns the text of the message: its content, or its text parts joined by newlines; "" if there is none.
func (m *Message) Text() string { return ContentText(m.Raw) }

// ParseChat looks through a request once. Errors are fault.Invalid with a code and, where one member is at fault, its
// name: invalid_json for what is not JSON (see Scan), missing_required_parameter, invalid_type, invalid_value,
// duplicate_parameter, unknown_parameter. Members it does not know are left alone; names count in their exact case, and
// a known name in another case is refused, because there are servers that would take it for the known one. null for a
// member that may be left out is the same as leaving it out.
func ParseChat(raw []byte) (*ChatRequest, error) {
	c := &ChatRequest{Request: Request{Raw: raw}, N: 1}
	c.members = c.inline[:0]
	s := scanner{b: raw}
	s.space()
	if s.peek() != '{' {
		s.value()
		s.finish()
		if err := s.fault(); err != nil {
			return nil, err
		}
		return nil, invalidType("", "the body must be a JSON object")
	}
	s.enter()
	c.open = s.i
	var names nameSet
	for n := 0; ; n++ {
		key, name, ok := s.key(n)
		if !ok {
			break
		}
		m := Member{Name: name, Key: key}
		if names.add(c.members, m.Name) {
			c.fail(duplicate(string(m.Name)))
		}
		if string(m.Name) == "messages" && s.peek() == '[' {
			from := s.i
			c.messages(&s)
			m.Value = Span{from, s.i}
		} else {
			m.Value = s.value()
		}
		c.members = append(c.members, m)
		if n == MaxMembers {
			s.failAt(key[0], "more than %d members", MaxMembers)
		}
	}
	s.finish()
	if err := s.fault(); err != nil {
		return nil, err
	}
	c.read()
	if c.wrong != nil {
		return nil, c.wrong
	}
	return c, nil
}

func invalidType(param, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...).WithCode("invalid_type").WithParam(param)
}

func invalidValue(param, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...).WithCode("invalid_value").WithParam(param)
}

func missing(param, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...).WithCode("missing_required_parameter").WithParam(param)
}

// messages reads the array the scanner stands before.
func (c *ChatRequest) messages(s *scanner) {
	s.enter()
	for n := 0; s.element(n); n++ {
		if s.peek() != '{' {
			s.value()
			c.fail(invalidType(place(n, ""), "each message must be an object"))
			continue
		}
		c.message(s, n)
	}
}

// place is the name of a member of message n, as the API names it.
func place(n int, member string) string { return fmt.Sprintf("messages[%d]%s", n, member) }

func (c *ChatRequest) message(s *scanner, n int) {
	from := s.i
	var role, content Span
	var seen [len(onceInMessage)]bool
	extras := false
	s.enter()
	for k := 0; ; k++ {
		_, name, ok := s.key(k)
		if !ok {
			break
		}
		for i, once := range onceInMessage {
			if string(name) == once {
				if seen[i] {
					c.fail(duplicate(once).WithParam(place(n, "."+once)))
				}
				seen[i] = true
			}
		}
		switch string(name) {
		case "role":
			role = s.value()
		case "content":
			if s.peek() == '[' {
				content = c.parts(s)
			} else {
				content = s.value()
			}
		case "tool_calls":
			if s.peek() == '[' {
				extras = calls(s) || extras
			} else {
				s.value()
			}
		default:
			extras = extras || extra("", string(name))
			s.value()
		}
	}
	if s.failed() {
		return
	}
	m := Message{Raw: s.b[from:s.i:s.i], at: Span{from, s.i}}
	switch v := role.of(s.b); {
	case role.empty():
		c.fail(missing(place(n, ".role"), "message %d has no role", n))
	case !isString(v):
		c.fail(invalidType(place(n, ".role"), "the role of message %d must be a string", n))
	default:
		if m.Role = knownRole(v); m.Role == "" {
			c.fail(invalidValue(place(n, ".role"), "message %d has the unknown role %q", n, clip(text(v))))
		}
	}
	if v := content.of(s.b); !content.empty() && !isString(v) && !isArray(v) && !isNull(v) {
		c.fail(invalidType(place(n, ".content"), "the content of message %d must be a string or an array of parts", n))
	}
	c.HasExtras = c.HasExtras || extras && m.Role == "assistant"
	c.Messages = append(c.Messages, m)
}

// onceInMessage are the members that make a message what it is: given twice, servers would not agree on them.
var onceInMessage = [...]string{"role", "content", "tool_calls", "tool_call_id"}

// knownRole returns the role without making a new string; "" if there is no such role.
func knownRole(v []byte) string {
	switch string(unquote(v)) {
	case "user":
		return "user"
	case "assistant":
		return "assistant"
	case "system":
		return "system"
	case "developer":
		return "developer"
	case "tool":
		return "tool"
	case "function":
		return "function"
	}
	return ""
}

// parts reads an array of content parts, and counts images.
func (c *ChatRequest) parts(s *scanner) Span {
	from := s.i
	s.enter()
	for n := 0; s.element(n); n++ {
		if s.peek() != '{' {
			s.value() // the provider says what it thinks of it
			continue
		}
		s.enter()
		for k := 0; ; k++ {
			_, name, ok := s.key(k)
			if !ok {
				break
			}
			v := s.value()
			if !s.failed() && string(name) == "type" && string(unquote(v.of(s.b))) == "image_url" {
				c.Images++
			}
		}
	}
	return Span{from, s.i}
}

// calls reads an array of tool calls, and reports whether one of them has an extra.
func calls(s *scanner) (extras bool) {
	s.enter()
	for n := 0; s.element(n); n++ {
		if s.peek() != '{' {
			s.value() // as of parts
			continue
		}
		s.enter()
		for k := 0; ; k++ {
			_, name, ok := s.key(k)
			if !ok {
				break
			}
			extras = extras || extra(inCalls, string(name))
			s.value()
		}
	}
	return extras
}

// ours are the members the gateway acts upon.
var ours = [...]string{
	"model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "thread_id", "metadata",
	"tools", "functions", "response_format",
}

// read takes what we look at from the top-level members.
func (c *ChatRequest) read() {
	var messages, stream, maxTokens, metadata, threadID Span
	for i := range c.members {
		m := &c.members[i]
		v := m.Value.of(c.Raw)
		switch string(m.Name) {
		case "model":
			c.model = m.Value
		case "messages":
			messages = m.Value
		case "stream":
			stream = m.Value
		case "stream_options":
			c.streamOptions = m.Value
		case "n":
			c.readN(v)
		case "max_completion_tokens":
			if n := c.readTokens("max_completion_tokens", v); n > 0 {
				c.MaxTokens = n
			}
		case "max_tokens":
			maxTokens = m.Value
		case "thread_id":
			threadID = m.Value
		case "metadata":
			metadata = m.Value
		case "tools", "functions":
			c.HasTools = c.HasTools || isArray(v) && len(bytes.Trim(v, "[] \t\r\n")) > 0
		case "response_format":
			c.HasResponseFormat = !isNull(v)
		default:
			c.refuseOtherCase(m.Name, ours[:])
		}
	}
	if n := c.readTokens("max_tokens", maxTokens.of(c.Raw)); c.MaxTokens == 0 {
		c.MaxTokens = n
	}
	c.readModel()
	c.readMessages(messages)
	c.readStream(stream.of(c.Raw))
	c.readThread(threadID, metadata)
}

func (c *ChatRequest) readMessages(at Span) {
	switch v := at.of(c.Raw); {
	case at.empty() || isNull(v):
		c.fail(missing("messages", "you must provide a messages parameter"))
	case !isArray(v):
		c.fail(invalidType("messages", "messages must be an array"))
	case c.wrong == nil && len(c.Messages) == 0:
		c.fail(fault.New(fault.Invalid, "messages must hold at least one message").WithCode("empty_array").WithParam("messages"))
	}
}

func (c *ChatRequest) readN(v []byte) {
	if isNull(v) {
		return
	}
	n, ok := whole(v)
	switch {
	case !ok:
		c.fail(invalidType("n", "n must be an integer"))
	case n < 1 || n > 128:
		c.fail(invalidValue("n", "n must be between 1 and 128"))
	default:
		c.N = n
	}
}

// readTokens returns 0 for what is absent.
func (c *ChatRequest) readTokens(param string, v []byte) int64 {
	if len(v) == 0 || isNull(v) {
		return 0
	}
	n, ok := whole(v)
	switch {
	case !ok:
		c.fail(invalidType(param, "%s must be an integer", param))
	case n < 1 || n > MaxTokensLimit:
		c.fail(invalidValue(param, "%s must be between 1 and %d", param, MaxTokensLimit))
	default:
		return n
	}
	return 0
}

func (c *ChatRequest) readStream(v []byte) {
	var ok bool
	if c.Stream, ok = boolean(v); !ok {
		c.fail(invalidType("stream", "stream must be true or false"))
	}
	options := c.streamOptions.of(c.Raw)
	switch {
	case len(options) == 0 || isNull(options):
		return
	case !isObject(options):
		c.fail(invalidType("stream_options", "stream_options must be an object"))
		return
	case !c.Stream:
		c.fail(invalidValue("stream_options", "stream_options may only be given with stream: true"))
		return
	}
	include, twice := find(options, "include_usage")
	if twice {
		c.fail(duplicate("include_usage").WithParam("stream_options.include_usage"))
	}
	if c.IncludeUsage, ok = boolean(include.Value.of(options)); !ok {
		c.fail(invalidType("stream_options.include_usage", "include_usage must be true or false"))
	}
}

// boolean reads true and false; absent and null are false.
func boolean(v []byte) (value, ok bool) {
	switch string(v) {
	case "true":
		return true, true
	case "", "false", "null":
		return false, true
	}
	return false, false
}

// find returns the member name of the valid object, and whether it is there twice; the zero Member if it is not there.
func find(object []byte, name string) (found Member, twice bool) {
	walk(object, func(m Member) {
		if string(m.Name) == name {
			twice = !found.Value.empty()
			found = m
		}
	})
	return found, twice
}

// walk calls f for each member of an object; spans are within object. What is not an object has none.
func walk(object []byte, f func(Member)) {
	s := scanner{b: object}
	s.space()
	if s.peek() != '{' {
		return
	}
	s.enter()
	for n := 0; ; n++ {
		key, name, ok := s.key(n)
		if !ok {
			return
		}
		v := s.value()
		if s.failed() {
			return
		}
		f(Member{Name: name, Key: key, Value: v})
	}
}

// each calls f for each element of an array. What is not an array has none.
func each(array []byte, f func(n int, v []byte)) {
	s := scanner{b: array}
	s.space()
	if s.peek() != '[' {
		return
	}
	s.enter()
	for n := 0; s.element(n); n++ {
		v := s.value()
		if s.failed() {
			return
		}
		f(n, v.of(array))
	}
}

// ContentText returns the text of a message's content: the string, or its text parts joined by newlines.
func ContentText(message []byte) string {
	m, _ := find(message, "content")
	v := m.Value.of(message)
	if !isArray(v) {
		return text(v)
	}
	var out []byte
	each(v, func(_ int, part []byte) {
		t, _ := find(part, "text")
		if raw := body(t.Value.of(part)); raw != nil {
			if len(out) > 0 {
				out = append(out, '\n')
			}
			out = appendUnescaped(out, raw)
		}
	})
	return string(out)
}
