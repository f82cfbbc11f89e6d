package threads

import (
	"bytes"
	"encoding/json"
	"slices"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/openai"
)

// Mode is what a request's messages were to the thread, as told in X-Threadhub-Thread-Mode.
type Mode string

const (
	Appended     Mode = "appended"     // a thin client: all of it is new, history goes before it
	Deduplicated Mode = "deduplicated" // it repeated what the thread has; only the rest is new
	Forked       Mode = "forked"       // it differed inside the thread, and goes on in a new one
)

// Turn is what one request adds to a thread and what the provider is shown of it.
type Turn struct {
	Create    bool
	Fork      *Fork // the thread is made from another one; nil: it is not
	PrevSeq   int
	PrevChain []byte
	New       []Message // input to be stored, numbered from PrevSeq+1
	Chain     []byte    // after New: what the answer's own chain goes on from
	Mode      Mode

	// History goes before the request's messages upstream, after the first At of them (its system messages). Fit sets it.
	History []*Message
	At      int

	// Drop are the request's own messages that the provider is not shown: answers that never came, and what does not fit.
	// Fit adds the latter.
	Drop    []int
	Omitted int // how many messages, of History's thread or of the request, were left out to fit

	th     rows
	never  []int      // Drop, before Fit
	again  []incoming // the answers of the thread that the request repeats
	thin   bool       // the thread goes before the request
	before int        // thin: the sequence of the first message that the request repeats, or the one after the last
	newest int        // else: the request's message with which its newest turn begins
}

// Fork says where a new thread comes from.
type Fork struct {
	From id.Thread
	Upto int // its messages below this sequence are the new thread's too

	// What the new thread does not take from there; nil: as it is there. Title and Description are given both or neither:
	// words are made of the two together.
	Title, Description, Visibility *string
}

// words are what searches find the new thread by; nil: as the other one.
func (f *Fork) words() *string {
	if f.Title == nil {
		return nil
	}
	words := titleWords(*f.Title, *f.Description)
	return &words
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
	at      int // in the request
}

// rows is a thread as a decision looks at it. A thread may be long: what is asked for is about as much as the request has
// itself. Lists are in sequence; they may have more than was asked for.
type rows interface {
	head() *Message                        // the newest message; nil: there is none
	newest(n int) ([]*Message, error)      // the last n, or all
	from(seq, n int) ([]*Message, error)   // the first n from seq on, or all
	places(own [32]byte) ([]int, error)    // where messages that say this are stored; of many, some of the newest
	answered(own [][]byte) (bool, error)   // whether a complete answer is stored that says one of these
	before(seq int) ([]*Message, error)    // some of the last below seq, with their bytes; none only if there is none
	known(own [32]byte) (seq int, ok bool) // where an equal system message of the request's is stored
	lastSystem() ([]*Message, error)       // the system messages of the last call that stored any
	systemsBelow(seq int) (int, error)     // how many system messages there are below seq
}

// decide says what of a request is new in a thread. The rules, in order, compare user, assistant and tool messages that
// are complete:
//
//  1. the request begins with the whole thread: the rest is new;
//  2. it begins with a later stretch of the thread that runs to its end (a client that trims): the rest is new;
//  3. it has no assistant message: all of it is new, and the thread goes before it;
//  4. it begins with some other stretch of the thread, or repeats an answer of it: where it leaves the thread it goes on in
//     a new one, if fork says so, else fault.Conflict thread_diverged;
//  5. it shares nothing: all of it is new.
//
// System messages never count: equal ones are not stored again. A request without an assistant message is shown the
// history that its match leaves before it, so that a thin client that repeats a turn which got no answer gets the same
// turn again.
func decide(th rows, in []incoming, fork bool) (*Turn, error) {
	t := &Turn{th: th, PrevSeq: -1, PrevChain: []byte{}, Mode: Appended, thin: !hasAssistant(in), At: leadingSystem(in)}
	if head := th.head(); head != nil {
		t.PrevSeq, t.PrevChain = head.Seq, head.Chain
	}
	found, err := match(th, in)
	if err != nil {
		return nil, err
	}
	t.before = t.PrevSeq + 1
	switch {
	case found.diverged != nil && !fork:
		return nil, fault.New(fault.Conflict,
			"the request differs from the thread at sequence %d; send only what is new, or the thread's own messages, or X-Thread-On-Diverge: fork", found.diverged.Seq).
			WithCode("thread_diverged").WithParam("messages").NoRetry()
	case found.diverged != nil:
		t.Mode, t.Fork = Forked, &Fork{Upto: found.diverged.Seq}
		t.PrevSeq, t.PrevChain = found.diverged.Seq-1, found.chain
	case found.n > 0:
		t.Mode, t.before = Deduplicated, found.from
	}
	t.addNew(in, found.n)
	return t, nil
}

// matched is how a request and a thread agree.
type matched struct {
	n    int // so many of the request's chained messages the thread has already
	from int // the sequence of the first of them

	diverged *Message // the first that the request does not have; nil if it has all to the thread's end, or none
	chain    []byte   // before diverged
}

func match(th rows, in []incoming) (matched, error) {
	asked := chained(in)
	head := th.head()
	if len(asked) == 0 || head == nil {
		return matched{}, nil
	}
	if n := matchWhole(head, asked); n > 0 {
		return matched{n: n}, nil
	}
	tail, err := th.newest(len(asked))
	if err != nil {
		return matched{}, err
	}
	// A stretch that the request repeats has no more complete messages than the request.
	for n := len(asked); !startsThread(tail) && complete(tail) < len(asked); {
		n *= 2
		if tail, err = th.newest(n); err != nil {
			return matched{}, err
		}
	}
	if n, from := matchStretch(conversation(tail), asked); n > 0 {
		return matched{n: n, from: from.Seq}, nil
	}
	if !hasAssistant(in) {
		return matched{}, nil
	}
	if m, err := matchInside(th, asked); err != nil || m.diverged != nil {
		return m, err
	}
	return matchAnswers(th, asked)
}

// matchWhole is the usual case of a client that resends everything: the chain over the thread is the chain over the
// request's beginning, whatever the length of both. Where an assistant message follows, the rows must tell whether it is
// the copy of an incomplete answer.
func matchWhole(head *Message, asked []incoming) (n int) {
	var chain []byte
	for i, m := range asked {
		c := openai.Chain(chain, m.own)
		if chain = c[:]; bytes.Equal(chain, head.Chain) && !hasAssistant(asked[i+1:]) {
			return i + 1
		}
	}
	return 0
}

// alignments bounds how many messages are compared to find a stretch: texts that repeat themselves could make it the
// square of their number.
const alignments = 1 << 20

// matchStretch returns the longest end of told with which asked begins.
func matchStretch(told []*Message, asked []incoming) (n int, from *Message) {
	left := alignments
	for i, m := range told {
		if !bytes.Equal(m.Own, asked[0].own[:]) {
			continue
		}
		n, end := align(told[i:], asked)
		if end == len(told[i:]) {
			return n, m
		}
		if left -= end + 1; left < 0 {
			return 0, nil
		}
	}
	return 0, nil
}

// matchInside finds where asked leaves the thread, which it is known not to follow to its end: at the end of the longest
// stretch that it begins with, of equals the newest. A copy of the thread's middle is old, and not a new conversation.
func matchInside(th rows, asked []incoming) (best matched, err error) {
	places, err := th.places(asked[0].own)
	if err != nil {
		return best, err
	}
	for _, seq := range places { // the newest first
		m, shared, err := leaves(th, seq, asked)
		if err != nil {
			return best, err
		}
		if shared > 0 && m.n > best.n {
			best = m
		}
	}
	return best, nil
}

// matchAnswers finds that asked, which begins with no stretch of the thread, is a copy of it all the same, with another
// beginning: it repeats an answer. What users say is not enough for that, as many conversations hold the same words of
// theirs; nor are answers that say nothing. Such a copy leaves the thread at its first message.
func matchAnswers(th rows, asked []incoming) (matched, error) {
	var own [][]byte
	for i := range asked {
		if m := &asked[i]; m.role == "assistant" && m.own != emptyOwn {
			own = append(own, m.own[:])
		}
	}
	repeats, err := th.answered(own)
	if err != nil || !repeats {
		return matched{}, err
	}
	m, _, err := leaves(th, 0, asked)
	return m, err
}

// leaves follows asked from the message at seq on to the first that it does not have, and tells how many complete messages
// it passed.
func leaves(th rows, seq int, asked []incoming) (m matched, shared int, err error) {
	for n := len(asked) + 1; ; n *= 2 {
		some, err := th.from(seq, n)
		if err != nil {
			return matched{}, 0, err
		}
		told := conversation(some)
		same, end := align(told, asked)
		switch {
		case end < len(told):
			m := matched{n: same, diverged: told[end], chain: []byte{}}
			if at := m.diverged.Seq - seq; at > 0 {
				m.chain = some[at-1].Chain
			}
			return m, complete(told[:end]), nil
		case len(some) < n: // cannot be: it would have been a stretch to the end
			return matched{}, 0, nil
		}
	}
}

// align goes along both for as long as they say the same, and returns how far it came in each: n in asked, end in told.
// Incomplete answers in told are passed over, with their copies in asked if the client sends them back. What may be either
// is read both ways: of the readings that come farthest, the one that finds most counts.
func align(told []*Message, asked []incoming) (n, end int) {
	at := []int{0} // where the readings stand in asked, the lowest first
	for ; end < len(told); end++ {
		m := told[end]
		var next []int
		for _, n := range at {
			if !m.chained() && (len(next) == 0 || next[len(next)-1] < n) {
				next = append(next, n)
			}
			if n < len(asked) && bytes.Equal(m.Own, asked[n].own[:]) {
				next = append(next, n+1)
			}
		}
		if len(next) == 0 {
			break
		}
		at = next
	}
	return at[len(at)-1], end
}

// addNew numbers and hashes what must be stored: the chained messages after the first repeated ones, and system messages
// the thread does not have.
func (t *Turn) addNew(in []incoming, repeated int) {
	t.Chain, t.newest = t.PrevChain, -1
	added := map[[32]byte]bool{}
	seen := 0
	for _, m := range in {
		switch {
		case !m.chained:
			if seq, stored := t.th.known(m.own); stored && seq <= t.PrevSeq || added[m.own] { // a fork has only what is before it
				continue
			}
			added[m.own] = true
		case seen < repeated:
			seen++
			switch {
			case m.role == "assistant" && m.own == emptyOwn: // ours, or the client's own: providers refuse both
				t.never = append(t.never, m.at)
				t.Drop = t.never
			case m.role == "assistant":
				t.again = append(t.again, m)
			}
			continue
		default:
			c := openai.Chain(t.Chain, m.own)
			t.Chain = c[:]
			if t.newest < 0 {
				t.newest = m.at
			}
		}
		t.New = append(t.New, Message{
			Seq: t.PrevSeq + 1 + len(t.New), Role: m.role, Raw: m.raw, Own: bytes.Clone(m.own[:]), Chain: t.Chain, Status: Complete,
		})
	}
	if last := lastUserRun(in); repeated == 0 || t.newest < 0 || t.newest > last {
		t.newest = last // all is new, or nothing: the newest turn is what the user said last
	}
}

// Stored is what the thread has for those of the request's messages that repeat its answers, by their places in the
// request. They say the same, but may hold what the client left out: members that only the provider knows.
func (t *Turn) Stored() (map[int]*Message, error) {
	stored := map[int]*Message{}
	left := t.again
	for seq := t.PrevSeq + 1; seq > 0 && len(left) > 0; { // what is repeated runs to PrevSeq, in this order
		page, err := t.th.before(seq)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for i := len(page) - 1; i >= 0 && len(left) > 0; i-- {
			last := left[len(left)-1]
			if m := page[i]; bytes.Equal(m.Own, last.own[:]) {
				stored[last.at] = m
				left = left[:len(left)-1]
			}
		}
		seq = page[0].Seq
	}
	return stored, nil
}

// emptyOwn is the hash of an answer that never came.
var emptyOwn, _, _ = openai.Canon([]byte(EmptyAnswer))

// lastUserRun is where the last user messages of the request begin, those that stand together at least; 0 without any.
func lastUserRun(in []incoming) int {
	for i := len(in) - 1; i >= 0; i-- {
		if in[i].role != "user" {
			continue
		}
		for i > 0 && in[i-1].role == "user" {
			i--
		}
		return i
	}
	return 0
}

func hashed(request []openai.Message) ([]incoming, error) {
	in := make([]incoming, len(request))
	for i, m := range request {
		own, chained, err := openai.Canon(m.Raw)
		if err != nil {
			return nil, err
		}
		in[i] = incoming{role: m.Role, raw: m.Raw, own: own, chained: chained, at: i}
	}
	return in, nil
}

// chained are the messages of a request that count.
func chained(in []incoming) []incoming {
	out := make([]incoming, 0, len(in))
	for _, m := range in {
		if m.chained {
			out = append(out, m)
		}
	}
	return out
}

// conversation are the messages of a thread but for the system's.
func conversation(all []*Message) []*Message {
	out := make([]*Message, 0, len(all))
	for _, m := range all {
		if !isSystem(m.Role) {
			out = append(out, m)
		}
	}
	return out
}

func complete(all []*Message) (n int) {
	for _, m := range all {
		if m.chained() {
			n++
		}
	}
	return n
}

func startsThread(all []*Message) bool { return len(all) == 0 || all[0].Seq == 0 }

// hasAssistant reports whether a request has an assistant message: then it shows the provider its own words only.
func hasAssistant(in []incoming) bool {
	return slices.ContainsFunc(in, func(m incoming) bool { return m.role == "assistant" })
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
