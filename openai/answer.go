package openai

import (
	"slices"

	"threadhub/internal/fault"
)

// Answer is a whole chat completion: the provider's bytes, and what the gateway has to know about them.
type Answer struct {
	Raw     []byte // the body: as received, but that runs of bytes that are not UTF-8 are U+FFFD
	ID      string
	Model   string   // the model that answered
	Vendor  string   // who, by OpenRouter's word, that is from; "" if nobody says
	Choices []Choice // by index; none is unusual but allowed
	Usage   *Usage   // nil if the provider gave none, or none that can be
	// UsageInvalid says that it gave one that cannot be.
	UsageInvalid bool
	Sources      Sources // of the first choice
}

// Choice is one of the answers of a completion.
type Choice struct {
	Index        int
	Message      []byte // the message object as in Answer.Raw
	FinishReason string // "" if null
}

// Text returns the text of the choice.
func (c *Choice) Text() string { return ContentText(c.Message) }

// Empty reports whether the answer holds no choice at all.
func (a *Answer) Empty() bool { return len(a.Choices) == 0 }

// TextBytes returns the bytes of text in all choices, of every kind that counts as output: for estimates.
func (a *Answer) TextBytes() int64 {
	var n int64
	for i := range a.Choices {
		n += generated(a.Choices[i].Message)
	}
	return n
}

// generated adds up the strings a model produced in a message: all but its role and what names things.
func generated(message []byte) (n int64) {
	walk(message, func(m Member) {
		v := m.Value.of(message)
		switch string(m.Name) {
		case "content", "refusal", "reasoning", "reasoning_content":
			if isString(v) {
				n += textLen(body(v))
			} else {
				n += int64(len(ContentText(message)))
			}
		case "tool_calls":
			each(v, func(_ int, call []byte) { n += generatedCall(call) })
		case "function_call":
			n += generatedFunction(v)
		case "audio":
			t, _ := find(v, "transcript")
			n += textLen(body(t.Value.of(v)))
		}
	})
	return n
}

func generatedCall(call []byte) (n int64) {
	walk(call, func(m Member) {
		if name := string(m.Name); name == "function" || name == "custom" {
			n += generatedFunction(m.Value.of(call))
		}
	})
	return n
}

func generatedFunction(f []byte) (n int64) {
	walk(f, func(m Member) {
		switch string(m.Name) {
		case "name", "arguments", "input":
			n += textLen(body(m.Value.of(f)))
		}
	})
	return n
}

// ParseAnswer reads a whole answer. Errors are faults: Upstream with the code upstream_protocol for what is no chat
// completion; Upstream or RateLimited, with the provider's code or upstream_error, for an error the provider put into an
// answer with status 200, at the top or in a choice.
func ParseAnswer(raw []byte) (*Answer, error) {
	raw = repair(raw)
	s := scanner{b: raw}
	s.space()
	from := s.i
	s.value()
	s.finish()
	if s.failed() {
		return nil, protocol("the provider's answer is not valid JSON: %s at byte %d", s.wrong, s.at)
	}
	if raw[from] != '{' {
		return nil, protocol("the provider's answer is not an object")
	}
	a := &Answer{Raw: raw}
	var failure, choices, usage []byte
	walk(raw, func(m Member) {
		v := m.Value.of(raw)
		switch string(m.Name) {
		case "id":
			a.ID = text(v)
		case "model":
			a.Model = text(v)
		case "provider":
			a.Vendor = text(v)
		case "error":
			failure = v
		case "choices":
			choices = v
		case "usage":
			usage = v
		case "citations":
			keepList(&a.Sources.Citations, v)
		case "search_results":
			keepList(&a.Sources.SearchResults, v)
		}
	})
	if len(failure) > 0 && !isNull(failure) {
		return nil, reported(failure)
	}
	if !isArray(choices) {
		return nil, protocol("the provider's answer has no choices")
	}
	var wrong *fault.Error
	each(choices, func(n int, v []byte) {
		c, err := parseChoice(n, v)
		if err != nil && wrong == nil {
			wrong = err
		}
		a.Choices = append(a.Choices, c)
	})
	if wrong != nil {
		return nil, wrong
	}
	slices.SortStableFunc(a.Choices, func(a, b Choice) int { return a.Index - b.Index })
	if len(a.Choices) > 0 {
		a.Sources = a.Sources.orAnnotated(annotationsOf(a.Choices[0].Message))
	}
	var err error
	a.Usage, err = ParseUsage(usage)
	a.UsageInvalid = err != nil
	return a, nil
}

func parseChoice(n int, v []byte) (Choice, *fault.Error) {
	c := Choice{Index: n}
	var failure []byte
	var wrong *fault.Error
	if !isObject(v) {
		return c, protocol("choice %d of the provider's answer is not an object", n)
	}
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "index":
			i, ok := whole(w)
			if !ok && !isNull(w) || i < 0 || i >= maxChoices {
				wrong = protocol("choice %d of the provider's answer has an impossible index", n)
			}
			if ok {
				c.Index = int(i)
			}
		case "message":
			c.Message = w
		case "finish_reason":
			c.FinishReason = text(w)
		case "error":
			failure = w
		}
	})
	switch {
	case len(failure) > 0 && !isNull(failure):
		return c, reported(failure)
	case c.FinishReason == "error":
		return c, reported(nil)
	case wrong == nil && !isObject(c.Message):
		wrong = protocol("choice %d of the provider's answer has no message", n)
	}
	return c, wrong
}
