package threads

import (
	"slices"

	"threadhub/internal/fault"
	"threadhub/openai"
)

// Policy is what becomes of a history that does not fit the model's window.
type Policy string

const (
	Cut    Policy = "cut"    // the oldest messages are left out
	Refuse Policy = "refuse" // the call is refused
)

// Valid reports whether p is one of the two.
func (p Policy) Valid() bool { return p == Cut || p == Refuse }

// Window is what a provider may be shown: so many tokens of messages, by openai.EstimateTokens. 0 means no bound.
type Window struct {
	Tokens int64
	Policy Policy // ""; Cut
}

// Fit chooses what the provider is shown of the thread and of the request: system messages and the newest turn in any
// case, and of the rest as much as the window holds, from the newest back. A tool call and its results stay together, as
// the APIs refuse one without the other, and what is shown begins with a user's message. A request that says all of the
// conversation itself is cut in the same way: Drop names its messages.
//
// It may be called again for another window. It does not fail for a newest turn that is too large by itself: the provider says what it thinks of that. Errors:
// fault.Invalid context_length_exceeded under Refuse.
func (t *Turn) Fit(request []openai.Message, w Window) error {
	t.Drop, t.Omitted = slices.Clone(t.never), 0
	if t.thin {
		return t.fitHistory(request, w)
	}
	return t.fitRequest(request, w)
}

// HistoryTokens estimates, before Fit, the tokens of what of the thread goes before the request: of as much as was read
// to decide on the turn, its newest messages.
func (t *Turn) HistoryTokens() (n int64, err error) {
	if !t.thin || t.before == 0 {
		return 0, nil
	}
	newest, err := t.th.newest(1) // and what else is there
	for _, m := range newest {
		if m.Seq < t.before {
			n += openai.EstimateTokens(m.Raw)
		}
	}
	return n, err
}

// fitHistory goes back through the thread from where the request begins, as far as there is room.
func (t *Turn) fitHistory(request []openai.Message, w Window) error {
	system, err := t.standing(request)
	if err != nil {
		return err
	}
	room := newRoom(w)
	for i := range request {
		room.take(request[i].Raw)
	}
	for _, m := range system {
		room.take(m.Raw)
	}
	back := backwards{th: t.th, seq: t.before}
	var shown []*Message         // newest first
	must := answersTool(request) // then the newest turn begins in the thread, with a user's message
	for {
		unit, err := back.unit()
		if err != nil {
			return err
		}
		if len(unit) == 0 {
			break
		}
		if must {
			room.spend(unit) // be there room or not
		} else if !room.fits(unit) {
			if shown, err = t.leaveOut(w, shown); err != nil {
				return err
			}
			break
		}
		shown = append(shown, unit...)
		must = must && unit[len(unit)-1].Role != "user"
	}
	slices.Reverse(shown)
	t.History = append(system, shown...)
	return nil
}

// standing are the system messages that go before a request that has none of its own.
func (t *Turn) standing(request []openai.Message) ([]*Message, error) {
	for i := range request {
		if isSystem(request[i].Role) {
			return nil, nil
		}
	}
	stored, err := t.th.lastSystem()
	return stored[:len(stored):len(stored)], err
}

// leaveOut counts what is older than shown, which is newest first, and takes from shown what no conversation begins with.
func (t *Turn) leaveOut(w Window, shown []*Message) ([]*Message, error) {
	if w.Policy == Refuse {
		return nil, tooLong(w)
	}
	for len(shown) > 0 && shown[len(shown)-1].Role != "user" {
		shown = shown[:len(shown)-1]
	}
	first := t.before
	if len(shown) > 0 {
		first = shown[len(shown)-1].Seq
	}
	systems, err := t.th.systemsBelow(first)
	t.Omitted = first - systems
	return shown, err
}

// answersTool reports whether a request begins with the result of a tool that the thread asked for.
func answersTool(request []openai.Message) bool {
	for i := range request {
		if !isSystem(request[i].Role) {
			return isResult(request[i].Role)
		}
	}
	return false
}

func isResult(role string) bool { return role == "tool" || role == "function" }

func tooLong(w Window) error {
	return fault.New(fault.Invalid, "the conversation is longer than the %d tokens of input that the model has room for, and the thread's window_policy is to refuse; "+
		"send a model with a larger window, or set window_policy to cut", w.Tokens).WithCode("context_length_exceeded").WithParam("messages").NoRetry()
}

// backwards reads a thread from its end, without system messages, and without incomplete answers that say nothing or were
// followed by another answer to the same turn.
type backwards struct {
	th   rows
	seq  int // what comes next is below it
	page []*Message
	next string // the role of the message after the one that comes next
}

// unit returns the next message, newest first, and with results of tools the message that asked for them.
func (b *backwards) unit() (unit []*Message, err error) {
	for {
		m, err := b.message()
		if m == nil || err != nil {
			return unit, err
		}
		if unit = append(unit, m); !isResult(m.Role) {
			return unit, nil
		}
	}
}

func (b *backwards) message() (*Message, error) {
	for {
		if len(b.page) == 0 {
			if b.seq <= 0 {
				return nil, nil
			}
			var err error
			if b.page, err = b.th.before(b.seq); err != nil || len(b.page) == 0 {
				return nil, err
			}
		}
		m := b.page[len(b.page)-1]
		b.page, b.seq = b.page[:len(b.page)-1], m.Seq
		if isSystem(m.Role) {
			continue
		}
		next := b.next
		b.next = m.Role
		if m.Status == Incomplete && (emptyAnswer(m) || next == "assistant") {
			continue
		}
		return m, nil
	}
}

// fitRequest names the oldest of a request's messages that must go.
func (t *Turn) fitRequest(request []openai.Message, w Window) error {
	room := newRoom(w)
	cost := make([]int64, len(request))
	for i := range request {
		if !slices.Contains(t.Drop, i) {
			cost[i] = openai.EstimateTokens(request[i].Raw)
			room.left -= cost[i]
		}
	}
	if room.endless || room.left >= 0 {
		return nil
	}
	if w.Policy == Refuse {
		return tooLong(w)
	}
	for i := 0; i < t.newest && (room.left < 0 || request[i].Role != "user"); i++ {
		if !isSystem(request[i].Role) && cost[i] > 0 {
			t.Drop = append(t.Drop, i)
			room.left += cost[i]
			t.Omitted++
		}
	}
	return nil
}

// room is what is left of a window.
type room struct {
	left    int64
	endless bool
}

func newRoom(w Window) room { return room{left: w.Tokens, endless: w.Tokens <= 0} }

func (r *room) take(raw []byte) { r.left -= openai.EstimateTokens(raw) }

func (r *room) spend(unit []*Message) {
	for _, m := range unit {
		r.take(m.Raw)
	}
}

// fits takes a unit, if there is room for all of it.
func (r *room) fits(unit []*Message) bool {
	left := *r
	left.spend(unit)
	if left.left < 0 && !r.endless {
		return false
	}
	*r = left
	return true
}
