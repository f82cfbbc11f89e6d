package perplexity

import "strings"

// thinking tells a model's thoughts, which it puts between <think> and </think> at the head of its answer, from what it
// says. White space around them is neither's.
type thinking struct {
	state thought
	hold  string // not told yet
	told  bool   // some of the thought is
}

type thought uint8

const (
	undecided thought = iota // the first tag may still come
	inThought
	afterThought // white space before the answer
	saying
)

const thinkBegin, thinkEnd, space = "<think>", "</think>", " \t\r\n"

// saying reports whether all that follows is the answer.
func (t *thinking) saying() bool { return t.state == saying }

// add takes the next piece and returns what is sure of it.
func (t *thinking) add(text string) (thought, content string) {
	t.hold += text
	if t.state == undecided {
		head := strings.TrimLeft(t.hold, space)
		switch {
		case strings.HasPrefix(head, thinkBegin):
			t.state, t.hold = inThought, head[len(thinkBegin):]
		case !strings.HasPrefix(thinkBegin, head):
			t.state = saying
		}
	}
	if t.state == inThought {
		thought = t.think()
	}
	if t.state == afterThought {
		if t.hold = strings.TrimLeft(t.hold, space); t.hold != "" {
			t.state = saying
		}
	}
	if t.state == saying {
		content, t.hold = t.hold, ""
	}
	return thought, content
}

// think returns what is sure to be thought: all but white space, and what may be the beginning of the end, at the end.
func (t *thinking) think() (thought string) {
	if !t.told {
		t.hold = strings.TrimLeft(t.hold, space)
	}
	thought, rest, found := strings.Cut(t.hold, thinkEnd)
	if found {
		t.state, t.hold = afterThought, rest
		return strings.TrimRight(thought, space)
	}
	for n := min(len(thinkEnd), len(thought)); n > 0; n-- {
		if strings.HasSuffix(thought, thinkEnd[:n]) {
			thought = thought[:len(thought)-n]
			break
		}
	}
	thought = strings.TrimRight(thought, space)
	t.hold = t.hold[len(thought):]
	t.told = t.told || thought != ""
	return thought
}

// end returns what was held back.
func (t *thinking) end() (thought, content string) {
	switch t.state {
	case undecided:
		content = t.hold
	case inThought:
		if thought = strings.TrimRight(t.hold, space); !t.told {
			thought = strings.TrimLeft(thought, space)
		}
	}
	t.hold = ""
	return thought, content
}
