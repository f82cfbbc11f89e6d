package openai

import (
	"slices"

	"threadhub/internal/fault"
)

// What one answer may consist of. The API allows 128 choices and 128 tools; lists that grow beyond all sense are an
// attack or a loop.
const (
	maxChoices = 128
	maxCalls   = 1024
	maxItems   = 4096
)

// Chunk is what one piece of a stream is, for those who relay it.
type Chunk struct {
	Payload []byte // the payload as given, but that runs of bytes that are not UTF-8 are U+FFFD
	HasText bool   // it adds something the model wrote: text, reasoning, a refusal, a tool call
	Finish  bool   // it is the first to give a choice's finish reason
	// UsageOnly: the chunk exists for its usage alone, and is to be left out where the client did not ask for it.
	// Either it has no choices, or (OpenRouter) it repeats the end of choices that are over.
	UsageOnly bool
	UsageSpan [2]int // the usage object within Payload; zero if there is none, or null

	repeats Span // of UsageOnly: the choices that are over, within Payload
}

// WithCost returns the payload as AppendUsageCost does, in the API's own form: what is there for its usage alone repeats no
// choices.
func (c *Chunk) WithCost(costUSD, status string, warnings []string) []byte {
	payload, usage := c.Payload, c.UsageSpan
	if !c.repeats.empty() {
		const none = "[]"
		payload = slices.Concat(payload[:c.repeats[0]], []byte(none), payload[c.repeats[1]:])
		if usage[0] > c.repeats[0] {
			shorter := c.repeats[1] - c.repeats[0] - len(none)
			usage[0], usage[1] = usage[0]-shorter, usage[1]-shorter
		}
	}
	return AppendUsageCost(payload, usage, costUSD, status, warnings)
}

// Accumulator adds the chunks of a stream up to the message they make. The zero value is ready. Strings are joined as
// they were escaped, so that the halves of a surrogate pair that came in two chunks become whole, and what no decoder
// could hold (lone halves, NUL) stays. How much may come is for the caller to limit, by TextBytes.
type Accumulator struct {
	id, model    string
	vendor       string
	choices      []choice
	usage        *Usage
	usageInvalid bool
	sources      Sources
	text         int64 // bytes the model wrote
	any          bool  // it brought anything at all

	// Of the chunk under way:
	brought bool // a delta has something in it
	media   bool // sound or pictures, which do not count as text
}

// Add takes the payload of the next data event; it does not keep it. Errors are faults, after which the stream is over
// and what was added before stands: Upstream with upstream_protocol for what is no chunk, or, for an error the provider
// put into the stream, Upstream or RateLimited with the provider's code or upstream_error.
func (a *Accumulator) Add(payload []byte) (Chunk, error) {
	payload = repair(payload)
	c := Chunk{Payload: payload}
	a.brought, a.media = false, false
	s := scanner{b: payload}
	s.space()
	if s.peek() != '{' {
		return c, protocol("the provider sent an event that is not a JSON object")
	}
	// The first walk proves the whole payload, so that a broken one adds nothing.
	var id, model, vendor, choices, usage, failure, citations, results Span
	s.enter()
	for n := 0; ; n++ {
		_, name, ok := s.key(n)
		if !ok {
			break
		}
		v := s.value()
		switch string(name) {
		case "id":
			id = v
		case "model":
			model = v
		case "provider":
			vendor = v
		case "choices":
			choices = v
		case "usage":
			usage = v
		case "error":
			failure = v
		case "citations":
			citations = v
		case "search_results":
			results = v
		}
	}
	s.finish()
	if s.failed() {
		return c, protocol("the provider sent an event that is not valid JSON: %s at byte %d", s.wrong, s.at)
	}
	if v := failure.of(payload); len(v) > 0 && !isNull(v) {
		return c, reported(v)
	}
	keepString(&a.id, id.of(payload))
	keepString(&a.model, model.of(payload))
	keepString(&a.vendor, vendor.of(payload))
	keepList(&a.sources.Citations, citations.of(payload))
	keepList(&a.sources.SearchResults, results.of(payload))
	before := a.text
	open, some, err := a.addChoices(&c, choices.of(payload))
	a.any = a.any || a.brought
	c.HasText = a.text > before || a.media
	if err != nil {
		return c, err
	}
	if isObject(usage.of(payload)) {
		c.UsageSpan = usage
		c.UsageOnly = !a.brought && !c.Finish && (!some || !open)
		if c.UsageOnly && some {
			c.repeats = choices
		}
		u, err := ParseUsage(usage.of(payload))
		a.usage, a.usageInvalid = u, err != nil
	}
	return c, nil
}

// keepString sets s to the string v, unless v is none or empty, and without a new string where nothing changed: id and
// model come again with every chunk.
func keepString(s *string, v []byte) {
	if t := unquote(v); len(t) > 0 && *s != string(t) {
		*s = string(t)
	}
}

// addChoices adds what each choice brought. open says that one of them is not over yet, some that there is one at all.
func (a *Accumulator) addChoices(c *Chunk, v []byte) (open, some bool, err error) {
	var wrong *fault.Error
	each(v, func(_ int, item []byte) {
		some = true
		if wrong != nil {
			return
		}
		var p pieces
		if p, wrong = takeApart(item); wrong != nil {
			return
		}
		state := a.choice(p.index)
		over := state.finish != ""
		if wrong = state.add(a, p.delta); wrong != nil {
			return
		}
		if reason := finishReason(p.finish); reason != "" {
			c.Finish = c.Finish || !over
			state.finish = reason
			over = true
		}
		open = open || !over
	})
	if wrong != nil {
		return open, some, wrong
	}
	return open, some, nil
}

// pieces are the members of a choice in a chunk.
type pieces struct {
	index         int
	delta, finish []byte
}

func takeApart(v []byte) (p pieces, wrong *fault.Error) {
	if !isObject(v) {
		return p, protocol("the provider sent a choice that is not an object")
	}
	var failure []byte
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "index":
			n, ok := whole(w)
			if !ok && !isNull(w) || n < 0 || n >= maxChoices {
				wrong = protocol("the provider sent a choice with an impossible index")
				return
			}
			p.index = int(n)
		case "delta":
			p.delta = w
		case "finish_reason":
			p.finish = w
		case "error":
			failure = w
		}
	})
	if len(failure) > 0 && !isNull(failure) {
		return p, reported(failure)
	}
	if string(p.finish) == `"error"` {
		return p, reported(nil)
	}
	return p, wrong
}

// finishReason is text without a new string for the reasons there are.
func finishReason(v []byte) string {
	switch t := unquote(v); string(t) {
	case "":
		return ""
	case "stop":
		return "stop"
	case "length":
		return "length"
	case "tool_calls":
		return "tool_calls"
	case "content_filter":
		return "content_filter"
	default:
		return string(t)
	}
}

// choice returns the state of a choice, new if it has none yet. The pointer is good until the next call.
func (a *Accumulator) choice(index int) *choice {
	at, found := slices.BinarySearchFunc(a.choices, index, func(c choice, i int) int { return c.index - i })
	if !found {
		a.choices = slices.Insert(a.choices, at, choice{index: index})
	}
	return &a.choices[at]
}

// Message returns choice 0 (or the first there is) as an assistant message, a JSON object: role; content, null if there
// is none but something else instead; refusal, reasoning, reasoning_content, reasoning_details, tool_calls,
// function_call, annotations, images, audio (without its data) and extra_content as far as they came.
func (a *Accumulator) Message() []byte {
	if len(a.choices) == 0 {
		return (&choice{}).message()
	}
	return a.choices[0].message()
}

// Others returns the messages of the further choices, by index.
func (a *Accumulator) Others() [][]byte {
	var out [][]byte
	for i := 1; i < len(a.choices); i++ {
		out = append(out, a.choices[i].message())
	}
	return out
}

// Sources returns what choice 0 rests on, as the last lists that came have it.
func (a *Accumulator) Sources() Sources {
	if len(a.choices) == 0 {
		return a.sources
	}
	return a.sources.orAnnotated(a.choices[0].annotations)
}

// Usage returns the last usage that came; nil if none did, or the last one cannot be.
func (a *Accumulator) Usage() *Usage { return a.usage }

// UsageInvalid reports that the last usage cannot be.
func (a *Accumulator) UsageInvalid() bool { return a.usageInvalid }

// FinishReason returns why choice 0 ended; "" if it has not.
func (a *Accumulator) FinishReason() string {
	if len(a.choices) == 0 {
		return ""
	}
	return a.choices[0].finish
}

// Finished reports whether every choice that began has ended.
func (a *Accumulator) Finished() bool {
	for i := range a.choices {
		if a.choices[i].finish == "" {
			return false
		}
	}
	return len(a.choices) > 0
}

// ID returns the provider's id of the answer.
func (a *Accumulator) ID() string { return a.id }

// Model returns the model that answered.
func (a *Accumulator) Model() string { return a.model }

// Vendor returns who, by OpenRouter's word, the answer is from; "" if nobody says.
func (a *Accumulator) Vendor() string { return a.vendor }

// TextBytes returns the bytes of all text the model wrote so far, in all choices and of every kind; not those of sound and
// pictures.
func (a *Accumulator) TextBytes() int64 { return a.text }

// Empty reports whether nothing but roles and ends came so far.
func (a *Accumulator) Empty() bool { return !a.any }
