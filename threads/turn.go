package threads

import (
	"bytes"
	"encoding/json"
	"slices"

	"threadhub/internal/fault"
	"threadhub/openai"
)

// Mode is what a request's messages were to the thread, as told in X-Threadhub-Thread-Mode.
type Mode string

const (
	Appended     Mode = "appended"     // a thin client: all of it is new, history goes before it
	Deduplicated Mode = "deduplicated" // it repeated what the thread has; only the rest is new
)

// Turn is what one request adds to a thread and what the provider is shown of it.
type Turn struct {
	Create    bool
	PrevSeq   int
	PrevChain []byte
	New       []Message // input to be stored, numbered from PrevSeq+1
	Chain     []byte    // after New: what the answer's own chain goes on from
	Mode      Mode

	// History goes before the request's messages upstream, after the first At of them (its system messages).
	History []*Message
	At      int
}

// FirstSeq is the sequence of the first new message, and of the answer if there is none.
func (t *Turn) FirstSeq() int { return t.PrevSeq + 1 }

// NewestSeq is the sequence of the newest input message: the answer's is one more.
func (t *Turn) NewestSeq() int { return t.PrevSeq + len(t.New) }

// incoming is a message of the request with its hash.
type incoming struct {
	role    string
	raw     []byte
	own     [32]byte
	chained bool
}

// Decide says what of a request is new in the thread whose messages are stored, in sequence. The rules, in order, compare
// user, assistant and tool messages that are complete:
//
//  1. the request begins with the whole thread: the rest is new;
//  2. it begins with a later stretch of the thread that runs to its end (a client that trims): the rest is new;
//  3. it has no assistant message: all of it is new, and the thread goes before it;
//  4. it shares its beginning with the thread but not all of it: fault.Conflict thread_diverged;
//  5. it shares nothing: all of it is new.
//
// System messages never count: equal ones are not stored again. A request without an assistant message is shown the
// history that its match leaves before it, so that a thin client that repeats a turn which got no answer gets the same
// turn again.
func Decide(stored []*Message, request []openai.Message) (*Turn, error) {
	in, err := hashed(request)
	if err != nil {
		return nil, err
	}
	t := &Turn{PrevSeq: -1, PrevChain: []byte{}, Mode: Appended}
	if n := len(stored); n > 0 {
		t.PrevSeq, t.PrevChain = stored[n-1].Seq, stored[n-1].Chain
	}
	matched, from, err := match(stored, in)
	if err != nil {
		return nil, err
	}
	if matched > 0 {
		t.Mode = Deduplicated
	}
	t.addNew(stored, in, matched)
	if !hasAssistant(in) {
		t.History, t.At = history(stored, from, in), leadingSystem(in)
	}
	return t, nil
}

// match returns how many of the request's messages, system ones not counted, the thread has already, at its end, and the
// first of them (nil if none).
func match(stored []*Message, in []incoming) (matched int, from *Message, err error) {
	var asked []incoming
	for _, m := range in {
		if m.chained {
			asked = append(asked, m)
		}
	}
	var told []*Message
	for _, m := range stored {
		if !isSystem(m.Role) {
			told = append(told, m)
		}
	}
	if len(asked) == 0 {
		return 0, nil, nil
	}
	for i, m := range told {
		if !bytes.Equal(m.Own, asked[0].own[:]) {
			continue
		}
		if n, end := align(told[i:], asked); end == len(told[i:]) {
			return n, m, nil
		}
	}
	if !hasAssistant(in) {
		return 0, nil, nil
	}
	if n, end := align(told, asked); n > 0 {
		return 0, nil, fault.New(fault.Conflict,
			"the request differs from the thread at sequence %d; send only what is new, or the thread's own messages", told[end].Seq).
			WithCode("thread_diverged").WithParam("messages").NoRetry()
	}
	return 0, nil, nil
}

// align goes along both for as long as they say the same, and returns how far it came in each: n in asked, end in told.
// Incomplete answers in told are passed over, with their copies in asked if the client sends them back.
func align(told []*Message, asked []incoming) (n, end int) {
	for ; end < len(told); end++ {
		m := told[end]
		same := n < len(asked) && bytes.Equal(m.Own, asked[n].own[:])
		switch {
		case m.chained() && !same:
			return n, end
		case m.chained(), same && !copyOfNext(told[end+1:], asked[n:]):
			n++
		}
	}
	return n, end
}

// copyOfNext reports whether asked begins with the next complete message of told, and so not with an incomplete answer
// that says the same and stands before it.
func copyOfNext(told []*Message, asked []incoming) bool {
	for _, m := range told {
		if m.chained() {
			return bytes.Equal(m.Own, asked[0].own[:]) && (len(asked) < 2 || !bytes.Equal(m.Own, asked[1].own[:]))
		}
	}
	return false
}

// addNew numbers and hashes what must be stored: the chained messages after the first matched, and system messages the
// thread does not have.
func (t *Turn) addNew(stored []*Message, in []incoming, matched int) {
	known := map[string]bool{}
	for _, m := range stored {
		if isSystem(m.Role) {
			known[string(m.Own)] = true
		}
	}
	t.Chain = t.PrevChain
	seen := 0
	for _, m := range in {
		switch {
		case !m.chained:
			if known[string(m.own[:])] {
				continue
			}
			known[string(m.own[:])] = true
		case seen < matched:
			seen++
			continue
		default:
			c := openai.Chain(t.Chain, m.own)
			t.Chain = c[:]
		}
		t.New = append(t.New, Message{
			Seq: t.PrevSeq + 1 + len(t.New), Role: m.role, Raw: m.raw, Own: bytes.Clone(m.own[:]), Chain: t.Chain, Status: Complete,
		})
	}
}

// history is what goes before a thin request: the thread up to the match, without its system messages if the request has
// its own, else with its newest ones in front.
func history(stored []*Message, from *Message, in []incoming) []*Message {
	end := len(stored) // stored messages before the match
	if i := slices.Index(stored, from); i >= 0 {
		end = i
	}
	var h []*Message
	if !hasSystem(in) {
		h = newestSystem(stored)
	}
	for i, m := range stored[:end] {
		if isSystem(m.Role) || m.Status == Incomplete && (emptyAnswer(m) || retried(stored, i)) {
			continue
		}
		h = append(h, m)
	}
	return h
}

// newestSystem returns the system messages of the last call that stored any: they stand for the older ones.
func newestSystem(stored []*Message) []*Message {
	var h []*Message
	for i := len(stored) - 1; i >= 0; i-- {
		m := stored[i]
		if !isSystem(m.Role) {
			continue
		}
		if len(h) > 0 && m.Call != h[0].Call {
			break
		}
		h = append([]*Message{m}, h...)
	}
	return h
}

// retried reports whether the incomplete answer at i was followed by another answer to the same turn.
func retried(stored []*Message, i int) bool {
	for _, m := range stored[i+1:] {
		if !isSystem(m.Role) {
			return m.Role == "assistant"
		}
	}
	return false
}

func hashed(request []openai.Message) ([]incoming, error) {
	in := make([]incoming, len(request))
	for i, m := range request {
		own, chained, err := openai.Canon(m.Raw)
		if err != nil {
			return nil, err
		}
		in[i] = incoming{role: m.Role, raw: m.Raw, own: own, chained: chained}
	}
	return in, nil
}

func hasAssistant(in []incoming) bool {
	return hasRole(in, func(r string) bool { return r == "assistant" })
}
func hasSystem(in []incoming) bool { return hasRole(in, isSystem) }

func hasRole(in []incoming, is func(string) bool) bool {
	for _, m := range in {
		if is(m.role) {
			return true
		}
	}
	return false
}

func leadingSystem(in []incoming) int {
	for i, m := range in {
		if !isSystem(m.role) {
			return i
		}
	}
	return len(in)
}

// NewAnswer is the message an answer becomes. before is the thread's chain up to it; an incomplete answer takes no part
// in the chain.
func NewAnswer(raw []byte, status Status, reason string, before []byte, p Provenance) Message {
	m := Message{Role: "assistant", Raw: raw, Status: status, Reason: reason, Chain: before}
	if own, _, err := openai.Canon(raw); err == nil {
		m.Own = own[:]
		if status == Complete {
			c := openai.Chain(before, own)
			m.Chain = c[:]
		}
	} else {
		m.Own = []byte{} // the provider's own message, and not one that a client could send back
	}
	m.Meta, _ = json.Marshal(p) // its raw members are valid JSON: they were cut out of it
	return m
}

// After numbers and hashes m as the message that follows head, nil being the beginning.
func (m *Message) After(head *Message) {
	m.Seq, m.Chain = 0, []byte{}
	if head != nil {
		m.Seq, m.Chain = head.Seq+1, head.Chain
	}
	own, chained, err := openai.Canon(m.Raw)
	m.Own = own[:]
	if err == nil && chained {
		c := openai.Chain(m.Chain, own)
		m.Chain = c[:]
	}
}
