package perplexity

import (
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// sonarPath is where the older API was, for as long as it was.
const sonarPath = "chat/completions"

// carried are the members that the older API knows as we do, or that are its own.
var carried = [...]string{
	"temperature", "top_p", "top_k", "presence_penalty", "stop", "stream_mode", "search_mode", "search_language_filter",
	"return_images", "image_domain_filter", "image_format_filter", "return_related_questions", "enable_search_classifier",
	"disable_search", "language_preference", "num_search_results",
}

// sonar is a request on its way into the older API.
type sonar struct {
	*chat
	out   []byte
	turns []turn
	calls []call
}

// turn is what one side says before the other does. text is the body of a string, parts the same as elements of a
// content; only images make the parts differ from the text.
type turn struct {
	user, images bool
	text, parts  []byte
}

// call is a tool call of the conversation: bodies of strings.
type call struct{ id, name string }

func translateSonar(r *upstreams.Request) (upstreams.Words, error) {
	s := &sonar{chat: read(r)}
	s.out = append(make([]byte, 0, len(r.Body)+512), '{')
	s.out = quoted(member(s.out, "model"), s.model)
	if err := s.conversation(); err != nil {
		return nil, err
	}
	s.out = raw(s.out, "max_tokens", s.takeTokens())
	_, searches := presets[s.model]
	for _, name := range carried {
		v := s.take(name)
		s.out = raw(s.out, name, v)
		searches = searches && !(name == "disable_search" && v == "true")
	}
	for _, name := range filters {
		s.out = raw(s.out, name, s.take(name))
	}
	if v := s.take("frequency_penalty"); v != "0" && v != "0.0" { // 0 is refused, and is what is meant without it
		s.out = raw(s.out, "frequency_penalty", v)
	}
	s.effort()
	s.search()
	if err := s.format(); err != nil {
		return nil, err
	}
	if err := s.tools(); err != nil {
		return nil, err
	}
	s.out = raw(s.out, "stream", strconv.FormatBool(r.Stream))
	if err := s.rest(); err != nil {
		return nil, err
	}
	return &sonarWords{request: append(s.out, '}'), warnings: s.lost.Warnings, searches: searches}, nil
}

func (s *sonar) effort() {
	switch effort := s.take("reasoning_effort"); effort {
	case `"none"`:
		s.dropped("reasoning_effort", unsupported)
	case `"xhigh"`, `"max"`:
		s.out = raw(s.out, "reasoning_effort", `"high"`)
	default:
		s.out = raw(s.out, "reasoning_effort", effort)
	}
}

// search writes web_search_options, in which the older API has the location flat, too.
func (s *sonar) search() {
	options := s.take("web_search_options")
	if options == "" {
		return
	}
	s.out = append(member(s.out, "web_search_options"), '{')
	for key, v := range members(gjson.Parse(options)) {
		switch key.Str {
		case "user_location":
			s.out = append(member(s.out, key.Str), s.location(v)...)
		case "search_context_size", "search_type", "image_results_enhanced_relevance":
			s.out = raw(s.out, key.Str, v.Raw)
		default:
			s.dropped("web_search_options."+key.Str, unsupported)
		}
	}
	s.out = append(s.out, '}')
}

func (s *sonar) format() error {
	value := s.take("response_format")
	switch kind := gjson.Get(value, "type").Str; kind {
	case "", "text":
	case "json_schema", "regex":
		s.out = raw(s.out, "response_format", value)
	default:
		return s.cannot("response_format", "perplexity takes a response_format of type json_schema only, not %q", clean(kind))
	}
	return nil
}

// tools are left out: the models never called any. A client that must have a call is told.
func (s *sonar) tools() error {
	for _, name := range []string{"tool_choice", "function_call"} {
		if v := s.take(name); v != "" && v != `"auto"` && v != `"none"` {
			if err := s.cannot(name, "perplexity's Sonar models call no tools"); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"tools", "functions"} {
		if v := s.take(name); v != "" && says(v) {
			s.dropped(name, unsupported)
		}
	}
	return nil
}

// conversation writes the messages as the older API wants them: the system's first, then the user and the assistant in
// strict turns, and the user last.
func (s *sonar) conversation() error {
	var system []byte
	for i := range s.messages {
		m := &s.messages[i]
		switch m.role {
		case "system", "developer":
			system = m.instruct(system)
		case "assistant":
			s.recalls = true
			s.assistant(m)
			s.recalls = false
		case "tool", "function":
			s.result(m)
		default:
			if err := s.user(i, m); err != nil {
				return err
			}
		}
	}
	if len(s.turns) == 0 { // a conversation of instructions alone: the model is to act on them
		s.speak(true, string(system))
		system = nil
	}
	if len(s.turns) == 0 {
		s.speak(true, " ")
	}
	s.out = append(member(s.out, "messages"), '[')
	if len(system) > 0 {
		s.out = append(str(append(s.out, `{"role":"system"`...), "content", system), '}')
	}
	const opening, closing = "…", "Continue."
	if len(s.turns) > 0 && !s.turns[0].user { // older turns were cut off
		s.write(turn{user: true, text: []byte(opening)})
	}
	for _, t := range s.turns {
		s.write(t)
	}
	if n := len(s.turns); n > 0 && !s.turns[n-1].user {
		s.write(turn{user: true, text: []byte(closing)})
	}
	s.out = append(s.out, ']')
	return nil
}

func (s *sonar) write(t turn) {
	role := "assistant"
	if t.user {
		role = "user"
	}
	s.out = append(append(comma(s.out), `{"role":"`...), role...)
	s.out = append(s.out, '"')
	if t.images {
		s.out = append(list(s.out, "content", t.parts), '}')
		return
	}
	s.out = append(str(s.out, "content", t.text), '}')
}

// turn is the turn under way of a side.
func (s *sonar) turn(user bool) *turn {
	if n := len(s.turns); n == 0 || s.turns[n-1].user != user {
		s.turns = append(s.turns, turn{user: user})
	}
	return &s.turns[len(s.turns)-1]
}

// speak adds a text, the body of a string, to the turn of a side.
func (s *sonar) speak(user bool, text string) {
	if text == "" {
		return
	}
	t := s.turn(user)
	t.text = joined(t.text, text, paragraph)
	t.parts = append(comma(t.parts), `{"type":"text"`...)
	t.parts = append(str(t.parts, "text", text), '}')
}

func (s *sonar) user(i int, m *message) error {
	s.speak(true, body(m.content))
	some := false
	for n, part := range elements(gjson.Parse(m.content)) {
		switch kind := part.Get("type").Str; kind {
		case "text":
			s.lose(part, "type", "text")
			text := body(part.Get("text").Raw)
			s.speak(true, text)
			some = some || text != ""
		case "image_url", "file_url", "pdf_url", "video_url":
			some = true
			t := s.turn(true)
			t.parts, t.images = append(comma(t.parts), part.Raw...), true
		default:
			if s.past(i) {
				s.dropped("messages.content."+kind, unsupported)
			} else if err := s.cannot(place(i, ".content["+strconv.Itoa(n)+"]"), "perplexity takes no content of type %q", clean(kind)); err != nil {
				return err
			}
		}
	}
	if some {
		return nil
	}
	return s.emptied(i, m)
}

// assistant says what the model said, and tells of what it called.
func (s *sonar) assistant(m *message) {
	s.speak(false, string(s.spoken(m)))
	tell := func(id, name, args string) {
		s.calls = append(s.calls, call{id, name})
		s.dropped("messages.tool_calls", toldAsText)
		s.speak(false, "["+name+"("+body(args)+")]")
	}
	for _, c := range elements(gjson.Parse(m.calls)) {
		f, args := c.Get("function"), "arguments"
		if custom := c.Get("custom"); custom.IsObject() {
			f, args = custom, "input"
		}
		tell(body(c.Get("id").Raw), body(f.Get("name").Raw), arguments(f.Get(args)))
	}
	if f := gjson.Parse(m.call); f.IsObject() {
		name := body(f.Get("name").Raw)
		tell(name, name, arguments(f.Get("arguments")))
	}
}

// result tells what a tool answered, as if the user had.
func (s *sonar) result(m *message) {
	id := body(m.callID)
	if m.role == "function" {
		id = m.name
	}
	name := "tool"
	for _, c := range s.calls {
		if c.id == id {
			name = c.name
		}
	}
	s.speak(true, "["+name+": "+strings.TrimSpace(string(s.spoken(m)))+"]")
}
