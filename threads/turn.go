package threads

import (
	"bytes"
	"encoding/json"

	"threadhub/internal/fault"
	"threadhub/internal/id"
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
	Thread    id.Thread
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

// incoming is a message of the request with its hashes.
type incoming struct {
	role    string
	raw     []byte
	own     [32]byte
	chained bool
	chain   []byte // over the request's chained messages up to it
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
	old := chainedOf(stored)
	matched, from, err := match(old, in)
	if err != nil {
		return nil, err
	}
	if matched > 0 {
		t.Mode = Deduplicated
	}
	t.addNew(stored, in, matched)
	if !hasAssistant(in) {
		t.History, t.At = history(stored, old, from, in), leadingSystem(in)
	}
	return t, nil
}

// match returns how many of the request's chained messages the thread has already, at its end, and the index in old of
// the first of them (len(old) if none).
func match(old []*Message, in []incoming) (matched, from int, err error) {
	var chainedIn []incoming
	for _, m := range in {
		if m.chained {
			chainedIn = append(chainedIn, m)
		}
	}
	if len(old) == 0 || len(chainedIn) == 0 {
		return 0, len(old), nil
	}
	head := old[len(old)-1].Chain
	for i := len(chainedIn) - 1; i >= 0; i-- {
		if bytes.Equal(chainedIn[i].chain, head) {
			return i + 1, 0, nil
		}
	}
	for n := min(len(chainedIn), len(old)-1); n > 0; n-- {
		if sameOwn(old[len(old)-n:], chainedIn[:n]) {
			return n, len(old) - n, nil
		}
	}
	if !hasAssistant(in) {
		return 0, len(old), nil
	}
	common := 0
	for common < len(chainedIn) && common < len(old) && bytes.Equal(chainedIn[common].chain, old[common].Chain) {
		common++
	}
	if common > 0 {
		seq := old[common-1].Seq + 1
		if common < len(old) {
			seq = old[common].Seq
		}
		return 0, 0, fault.New(fault.Conflict,
			"the request differs from the thread at sequence %d; send only what is new, or the thread's own messages", seq).
			WithCode("thread_diverged").WithParam("messages").NoRetry()
	}
	return 0, len(old), nil
}

func sameOwn(old []*Message, in []incoming) bool {
	for i, m := range old {
		if !bytes.Equal(m.Own, in[i].own[:]) {
			return false
		}
	}
	return true
}

// addNew numbers and hashes what must be stored: the chained messages after the first matched, and system messages the
// thread does not have. An incomplete answer that the client resends right after its match is ours already.
func (t *Turn) addNew(stored []*Message, in []incoming, matched int) {
	known := map[string]bool{}
	for _, m := range stored {
		if !m.chained() {
			known[string(m.Own)] = true
		}
	}
	t.Chain = t.PrevChain
	seen, fresh := 0, false
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
		case !fresh && matched > 0 && m.role == "assistant" && known[string(m.own[:])]:
			continue
		default:
			fresh = true
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
func history(stored, old []*Message, from int, in []incoming) []*Message {
	end := len(stored) // stored messages before the match
	if from < len(old) {
		for i, m := range stored {
			if m == old[from] {
				end = i
				break
			}
		}
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
	chain := []byte{}
	for i, m := range request {
		own, chained, err := openai.Canon(m.Raw)
		if err != nil {
			return nil, err
		}
		if chained {
			c := openai.Chain(chain, own)
			chain = c[:]
		}
		in[i] = incoming{role: m.Role, raw: m.Raw, own: own, chained: chained, chain: chain}
	}
	return in, nil
}

func chainedOf(stored []*Message) []*Message {
	var c []*Message
	for _, m := range stored {
		if m.chained() {
			c = append(c, m)
		}
	}
	return c
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
