package perplexity

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// chat is a chat request of the OpenAI dialect, taken apart. Its values are JSON as the client wrote it, and share one
// copy of the body; "" is what was not there, or null.
type chat struct {
	model    string // its name, not JSON
	messages []message
	current  int // the last message of a user that says anything: with it begins what is asked now
	fields   []field
	recalls  bool // a model's own message is told
	lost     upstreams.Losses
	err      error // the first of what may not be left out
}

// field is a top-level member, and whether it has found its place.
type field struct {
	name, value string
	taken       bool
}

// message is one message.
type message struct {
	role, name          string // not JSON
	content, refusal    string
	calls, call, callID string // tool_calls; function_call of older clients; tool_call_id
	details             string // reasoning_details: Google's signatures may be in them
}

// read takes the body of a request apart that openai.ParseChat has read before.
func read(r *upstreams.Request) *chat {
	c := &chat{lost: upstreams.Losses{Policy: r.Unsupported}}
	for key, v := range members(gjson.ParseBytes(r.Body)) {
		switch {
		case !given(v):
		case key.Str == "model":
			c.model = v.Str
		case key.Str == "messages":
			for _, m := range elements(v) {
				c.messages = append(c.messages, c.message(m))
			}
		case key.Str == "stream" || key.Str == "stream_options": // ours
		default:
			c.fields = append(c.fields, field{name: key.Str, value: v.Raw})
		}
	}
	for i := range c.messages {
		m := &c.messages[i]
		if m.role == "user" && speaks(m.content) {
			c.current = i
		}
		google := strings.HasPrefix(c.model, googleVendor) && m.role == "assistant"
		if m.details != "" && says(m.details) && !(google && upstreams.OnlySignatures(gjson.Parse(m.details))) {
			c.recalls = m.role == "assistant"
			c.dropped("messages.reasoning_details", unsupported)
			c.recalls = false
		}
	}
	return c
}

// speaks reports whether there is anything in a content but empty texts.
func speaks(content string) bool {
	some := isString(content) && says(content)
	for _, part := range elements(gjson.Parse(content)) {
		some = some || !slices.Contains(textual, part.Get("type").Str) || part.Get("text").Str != ""
	}
	return some
}

func (c *chat) message(v gjson.Result) (m message) {
	var others []string // have no place
	for key, v := range members(v) {
		if !given(v) {
			continue
		}
		switch key.Str {
		case "role":
			m.role = v.Str
		case "content":
			m.content = v.Raw
		case "refusal":
			m.refusal = v.Raw
		case "tool_calls":
			m.calls = v.Raw
		case "function_call":
			m.call = v.Raw
		case "tool_call_id":
			m.callID = v.Raw
			if id, _ := upstreams.CallID(v.Str); id != v.Str { // another gateway's signature is in it
				m.callID = string(quoted(nil, id))
			}
		case "name":
			m.name = v.Str
		case "reasoning_details":
			m.details = v.Raw
		default:
			if says(v.Raw) {
				others = append(others, key.Str)
			}
		}
	}
	c.recalls = m.role == "assistant"
	defer func() { c.recalls = false }()
	for _, name := range others {
		c.dropped("messages."+name, unsupported)
	}
	if m.name != "" && m.role != "function" {
		c.dropped("messages.name", unsupported)
	}
	return m
}

// says reports whether a value holds anything.
func says(value string) bool { return value != `""` && value != "[]" && value != "{}" }

// take returns the value of a top-level member that has found its place.
func (c *chat) take(name string) string {
	for i := range c.fields {
		if f := &c.fields[i]; f.name == name {
			f.taken = true
			return f.value
		}
	}
	return ""
}

// Why something is left out.
const (
	unsupported = "unsupported" // the provider has nothing like it
	unknown     = "unknown"     // nor have we heard of it
	toldAsText  = "told_as_text"
	notSearched = "not_searched"
)

// dropped leaves out what the answer is right without. The name may be a stranger's, and goes into a header. What a model
// left in an answer the client does not ask for: that it is left out is told, and nothing more.
func (c *chat) dropped(name, reason string) {
	if c.recalls {
		c.lost.Warn("dropped=" + clean(name) + ";reason=" + reason)
		return
	}
	if err := c.lost.Hint(clean(name), reason); c.err == nil {
		c.err = err
	}
}

func clean(name string) string {
	const limit = 64
	name = strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '?'
	}, name)
	return name[:min(len(name), limit)]
}

// contracts are the members an answer has to keep: a client that set one of them would get something else than it asked
// for. idle are the values of members of Perplexity's own that ask for nothing.
var (
	contracts = []string{"audio", "logprobs", "modalities", "n", "top_logprobs"}
	idle      = map[string][]string{
		"enable_search_classifier":         {"false"},
		"return_images":                    {"false"},
		"return_related_questions":         {"false"},
		"search_mode":                      {`"web"`},
		"image_results_enhanced_relevance": {"false"},
	}
)

// known are the names whose loss is the provider's doing and not a slip of the client.
var known = []string{
	"frequency_penalty", "image_domain_filter", "image_format_filter", "logit_bias", "metadata", "moderation",
	"parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options",
	"prompt_cache_retention", "return_images", "return_related_questions", "safety_identifier", "search_language_filter",
	"search_mode", "seed", "service_tier", "stop", "store", "stream_mode", "top_k", "user", "verbosity",
}

// rest deals with what has found no place. Its error is the first of all that may not be left out.
func (c *chat) rest() error {
	for _, f := range c.fields {
		switch {
		case f.taken || slices.Contains(idle[f.name], f.value) || upstreams.Idle(f.name, f.value):
		case slices.Contains(contracts, f.name):
			if err := c.cannot(f.name, "perplexity has no %s", f.name); err != nil {
				return err
			}
		case slices.Contains(known, f.name):
			c.dropped(f.name, unsupported)
		default:
			c.dropped(f.name, unknown)
		}
	}
	return c.err
}

// cannot is the error for what cannot be carried and few would want left out; nil where it is left out all the same.
func (c *chat) cannot(param, format string, args ...any) error {
	return c.lost.Contract(refused(param, format, args...))
}

// refused is the error for what cannot be carried and cannot be left out.
func refused(param, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithCode("unsupported_parameter").WithParam(param)
}

// place is the name of a member of message i, as the API names it.
func place(i int, member string) string { return fmt.Sprintf("messages[%d]%s", i, member) }

// past reports whether message i is history. What cannot be carried of it is left out: the thread goes on, at whichever
// provider it began. What is asked now is refused instead.
func (c *chat) past(i int) bool { return i < c.current }

// takeTokens returns the limit of the answer: the newer member's, else the older one's.
func (c *chat) takeTokens() string {
	older := c.take("max_tokens")
	if newer := c.take("max_completion_tokens"); newer != "" {
		return newer
	}
	return older
}
