package histories

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
)

// What can be wrong with an outcome.
var (
	ErrRefused = errors.New("it is refused")
	ErrTaken   = errors.New("it is not refused, and should be")
	ErrLost    = errors.New("something is lost, and no warning names it")
	ErrThere   = errors.New("something is there that must not be")
	ErrOrder   = errors.New("it is told in another order")
	ErrLink    = errors.New("a call and its result do not belong together")
	ErrSigned  = errors.New("a signature is not where it belongs")
)

// Judge says what is wrong with what became of a conversation; nil if nothing is.
func Judge(c *Conversation, o Outcome) error {
	if o.Err != nil || o.Refusal != nil || c.Wrong != "" {
		return c.refused(o)
	}
	return errors.Join(c.pieced(o), c.ordered(o), c.linked(o), c.signed(o))
}

// refused judges a conversation that was refused, or should have been.
func (c *Conversation) refused(o Outcome) error {
	switch f := fault.From(o.Err); {
	case o.Err != nil && (f.Kind != fault.Invalid || f.Param == ""):
		return fmt.Errorf("%w, and not by the name of what is wrong: %w", ErrRefused, o.Err)
	case o.Err != nil && c.Wrong == "" && !c.Refusable:
		return fmt.Errorf("%w: %w", ErrRefused, o.Err)
	case o.Err != nil:
		return nil //nolint:nilerr // the refusal is right
	case o.Refusal != nil && !(c.Wrong != "" && c.To.speaksChat()):
		return fmt.Errorf("%w by the provider: %d %s", ErrRefused, o.Refusal.Status, o.Refusal.Message)
	case o.Refusal == nil && !c.To.Older: // that tells of calls as text
		return fmt.Errorf("%w: it has %s", ErrTaken, c.Wrong)
	}
	return nil
}

// warned reports whether a warning names one of fields.
func (o *Outcome) warned(fields []string) bool {
	return slices.ContainsFunc(o.Warnings, func(w string) bool {
		_, rest, _ := strings.Cut(w, "=")
		field, _, _ := strings.Cut(rest, ";reason=")
		return slices.Contains(fields, field)
	})
}

// pieced looks for each piece.
func (c *Conversation) pieced(o Outcome) error {
	for _, p := range c.pieces {
		must, never, excuse := c.due(p)
		switch there := bytes.Contains(o.Body, []byte(p.mark)); {
		case there && never:
			return fmt.Errorf("%w: %s %s of message %d", ErrThere, p.kind, p.mark, p.at)
		case p.spoken && never:
		case !there && (must || !o.warned(excuse)):
			return fmt.Errorf("%w: %s %s of message %d", ErrLost, p.kind, p.mark, p.at)
		case !there && c.wants(p) && p.kind != "shown by a tool":
			return fmt.Errorf("%w: %s %s of message %d is asked about, and left out", ErrTaken, p.kind, p.mark, p.at)
		}
	}
	return nil
}

// due says whether the target must or must not be told p, and else under which names it may be missing.
func (c *Conversation) due(p piece) (must, never bool, excuse []string) {
	if p.by == nil {
		if c.To.takes(p.kind) && !(p.kind == "call" && p.cut) {
			return true, false, nil
		}
		return false, false, p.excuse
	}
	own := c.To.kin(*p.by) && !p.cut
	switch {
	case p.spoken:
		return !own, own, nil // its own model has the id
	case own:
		return p.back, false, p.excuse
	case c.To.takes(p.kind):
		return !p.cut, false, p.excuse
	}
	return false, strings.HasPrefix(p.kind, "signature"), p.excuse
}

// ordered looks whether what is told of one message comes before what is told of a later one. Instructions go first where
// the provider has a place for them.
func (c *Conversation) ordered(o Outcome) error {
	type found struct{ piece, place int }
	var list []found
	for i, p := range c.pieces {
		if at := bytes.Index(o.Body, []byte(p.mark)); at >= 0 && !p.loose && p.kind != "call" { // ids may come again
			list = append(list, found{i, at})
		}
	}
	slices.SortFunc(list, func(a, b found) int { return cmp.Compare(a.place, b.place) })
	for i := range len(list) - 1 {
		if a, b := c.pieces[list[i].piece], c.pieces[list[i+1].piece]; a.at > b.at {
			return fmt.Errorf("%w: %s %s of message %d before %s %s of message %d", ErrOrder, a.kind, a.mark, a.at, b.kind, b.mark, b.at)
		}
	}
	return nil
}

// step is a call or a result as a provider is told of it.
type step struct {
	turn               int // the content or message it is in
	first              bool
	id, name, raw, sig string
	result             bool
}

// steps are the calls and results in what is sent, in order.
func (c *Conversation) steps(body []byte) (list []step) {
	switch {
	case c.To.speaksChat():
		for i, m := range gjson.GetBytes(body, "messages").Array() {
			for _, v := range m.Get("tool_calls").Array() {
				list = append(list, step{turn: i, id: v.Get("id").Str, name: v.Get("function.name").Str + v.Get("custom.name").Str, raw: v.Raw})
			}
			if m.Get("role").Str == "tool" {
				list = append(list, step{turn: i, id: m.Get("tool_call_id").Str, raw: m.Raw, result: true})
			}
		}
	case c.To.Provider == "gemini":
		for i, content := range gjson.GetBytes(body, "contents").Array() {
			first := true
			for _, part := range content.Get("parts").Array() {
				if v := part.Get("functionCall"); v.Exists() {
					list = append(list, step{turn: i, first: first, id: v.Get("id").Str, name: v.Get("name").Str, raw: v.Raw, sig: part.Get("thoughtSignature").Str})
					first = false
				}
				if v := part.Get("functionResponse"); v.Exists() {
					list = append(list, step{turn: i, id: v.Get("id").Str, name: v.Get("name").Str, raw: v.Raw, result: true})
				}
			}
		}
	default:
		for i, v := range gjson.GetBytes(body, "input").Array() {
			switch v.Get("type").Str {
			case "function_call":
				list = append(list, step{turn: i, id: v.Get("call_id").Str, name: v.Get("name").Str, raw: v.Raw, sig: v.Get("thought_signature").Str})
			case "function_call_output":
				list = append(list, step{turn: i, id: v.Get("call_id").Str, raw: v.Raw, result: true})
			}
		}
	}
	return list
}

// find is the step of a kind that holds a mark.
func find(list []step, result bool, mark string) (step, bool) {
	i := slices.IndexFunc(list, func(s step) bool { return s.result == result && strings.Contains(s.raw, mark) })
	if i < 0 {
		return step{}, false
	}
	return list[i], true
}

// fitted makes a name of Gemini's one that all providers take.
var fitted = strings.NewReplacer(".", "_", ":", "_")

// notRun is in the result of a call that nobody answered.
const notRun = "The tool was not run"

// linked looks whether each call and its result name each other, and have the right name.
func (c *Conversation) linked(o Outcome) error {
	if c.To.Older {
		return c.linkedByWords(o)
	}
	list := c.steps(o.Body)
	for _, call := range c.calls {
		made, ok := find(list, false, call.args)
		switch ran := call.result != "" && call.result != none; {
		case call.cut && !ran && ok:
			return fmt.Errorf("%w: call %s, which may be half of one", ErrThere, made.raw)
		case call.cut && !ran:
			continue // pieced has seen to it that a warning says so
		case !ok:
			return fmt.Errorf("%w: no call with %s", ErrLink, call.args)
		}
		mark := call.result
		if mark == "" {
			mark = notRun
		}
		answered := slices.ContainsFunc(list, func(s step) bool {
			return s.result && strings.Contains(s.raw, mark) && s.id == made.id && s.turn > made.turn && (s.name == "" || s.name == made.name)
		})
		if !answered {
			return fmt.Errorf("%w: call %s has no result %s", ErrLink, made.raw, mark)
		}
		if !slices.Contains([]string{call.name, "_" + call.name, fitted.Replace(call.name)}, made.name) {
			return fmt.Errorf("%w: %s is called as %s", ErrLink, call.name, made.name)
		}
	}
	return nil
}

// linkedByWords is linked where calls and results are told as text: "[name(arguments)]" and "[name: result]".
func (c *Conversation) linkedByWords(o Outcome) error {
	for _, call := range c.calls {
		name := fitted.Replace(call.name)
		for before, mark := range map[string]string{"[" + name + "(": call.args, "[" + name + ": ": call.result} {
			at := bytes.Index(o.Body, []byte(mark))
			if mark == "" || mark == none || at < 0 && call.cut { // pieced has seen to it that it is there if it must
				continue
			}
			const near = 100 // a text may begin before its mark
			if at < 0 || !bytes.Contains(o.Body[max(0, at-near):at], []byte(before)) {
				return fmt.Errorf("%w: %s is not told with %s", ErrLink, call.name, mark)
			}
		}
	}
	return nil
}

// placeholder stands for the signature of a call that another model made.
const placeholder = "skip_thought_signature_validator"

// signed looks whether signatures stand on the calls they were given for, and the placeholder where one is missing: on
// the first call of each step of the turn under way, for those models that want one.
func (c *Conversation) signed(o Outcome) error {
	if c.To.speaksChat() || c.To.Older {
		return nil
	}
	list := c.steps(o.Body)
	turn := -1
	for i, content := range gjson.GetBytes(o.Body, "contents").Array() {
		for _, part := range content.Get("parts").Array() {
			if content.Get("role").Str == "user" && !part.Get("functionResponse").Exists() {
				turn = i
			}
		}
	}
	for _, call := range c.calls {
		made, ok := find(list, false, call.args)
		if !ok {
			continue
		}
		want := ""
		if c.To.kin(call.by) && !call.cut {
			want = call.signature
		}
		if want == "" && c.To.demands() && made.first && made.turn > turn {
			want = placeholder
		}
		if made.sig != want {
			return fmt.Errorf("%w: call %s has %q, want %q", ErrSigned, made.raw, made.sig, want)
		}
	}
	return nil
}
