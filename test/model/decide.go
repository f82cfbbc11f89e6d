package model

import "slices"

// Message is one message of a thread.
type Message struct {
	Saying
	Wrote string // how its client wrote it; "" for an answer
	Cut   bool   // an answer of which not all came; one of which nothing came is empty, too
	Turn  int    // the request that brought it
}

// compared reports whether the message takes part in telling what of a request is new.
func (m Message) compared() bool { return !m.Cut && !m.system() }

// Verdict is what the contract says becomes of a request.
type Verdict struct {
	Differs int // the sequence at which the request and the thread differ; -1: they do not
	matched int // how many messages of the request, but for the system's, the thread has

	Mode  string
	New   []Message
	Seq   int       // X-Threadhub-Thread-Seq: the answer's is one more
	Shown []Written // to the provider; Raw is "" where the provider's own words come back to it
}

// Rules decide. They are written from the words of the contract and share no code with the gateway. The zero Rules are
// right; Broken names those that are not, to see whether anybody notices.
type Rules struct{ Broken []string }

// Breakable are the rules that can be broken, by what is then wrong.
var Breakable = []string{
	"system messages are stored again", "cut answers must be resent", "trimmed copies differ", "names the sequence before",
	"copies with another beginning are new", "empty answers are shown", "resent empty answers are shown", "old system messages stand", "answers tried again are shown",
	"forks keep what differs", "half calls are shown", "calls are shown alone", "results are shown alone",
}

func (r Rules) broken(name string) bool { return slices.Contains(r.Broken, name) }

// Decide says what of a request is new in the thread, and what its provider is shown.
//
// The messages compared are those of users, assistants and tools. A request that begins with the whole thread, or with a
// later stretch of it that runs to its end, is full: the rest is new. Else without an assistant message it is thin: all
// is new, and the thread goes before it. Else it has diverged where the stretch of the thread ends that it begins with,
// the longest there is; or at the thread's first message, if an answer of the thread is in it; or shares nothing, and all
// is new.
func (r Rules) Decide(thread []Message, request []Written) Verdict {
	asked := talk(request)
	matched, from := r.ending(thread, asked)
	if matched == 0 && says(request, "assistant") {
		if at, matched := r.differs(thread, asked); at >= 0 {
			return Verdict{Differs: at, matched: matched}
		}
	}
	v := r.verdict(thread, request, matched, from)
	if matched > 0 {
		v.Mode = "deduplicated"
	}
	return v
}

// Fork is what becomes of a request that differs where its thread is forked there: the new thread is what stands before
// that, and is then asked.
func (r Rules) Fork(thread []Message, differs Verdict, request []Written) (copied []Message, v Verdict) {
	at := differs.Differs
	if r.broken("forks keep what differs") {
		at++
	}
	copied = slices.Clone(thread[:at])
	v = r.verdict(copied, request, differs.matched, 0)
	v.Mode = "forked"
	return copied, v
}

func (r Rules) verdict(thread []Message, request []Written, matched, from int) Verdict {
	v := Verdict{Differs: -1, matched: matched, Mode: "appended"}
	v.New = r.added(thread, request, matched)
	v.Seq = len(thread) + len(v.New) - 1
	v.Shown = r.shown(thread, request, matched, from)
	return v
}

// talk is the request without its system messages.
func talk(request []Written) (list []Saying) {
	for _, m := range request {
		if !m.system() {
			list = append(list, m.Saying)
		}
	}
	return list
}

func says(request []Written, role string) bool {
	return slices.ContainsFunc(request, func(m Written) bool { return m.Role == role })
}

func speaksAsSystem(request []Written) bool {
	return slices.ContainsFunc(request, func(m Written) bool { return m.system() })
}

// walk goes along the messages, each position being how many of asked have been found so far. A message that is compared
// must be found next; one that was cut short may be, if the client sends it again. It returns where one can stand at the
// end: nowhere, if the request says something else.
func (r Rules) walk(messages []Message, asked []Saying, at map[int]bool) map[int]bool {
	for _, m := range messages {
		if m.system() {
			continue
		}
		next := map[int]bool{}
		for n := range at {
			if n < len(asked) && m.equal(asked[n]) {
				next[n+1] = true
			}
			if m.Cut && !r.broken("cut answers must be resent") {
				next[n] = true
			}
		}
		at = next
	}
	return at
}

func most(at map[int]bool) int {
	n := 0
	for p := range at {
		n = max(n, p)
	}
	return n
}

// ending finds the longest stretch of the thread that the request begins with and that runs to the thread's end. It
// returns how many messages of the request that is, and where in the thread it begins; 0 and the thread's end if there
// is none.
func (r Rules) ending(thread []Message, asked []Saying) (matched, from int) {
	for i, m := range thread {
		if m.system() || len(asked) == 0 || !m.equal(asked[0]) {
			continue
		}
		if i > 0 && r.broken("trimmed copies differ") && len(asked) > 1 {
			break
		}
		if ends := r.walk(thread[i+1:], asked, map[int]bool{1: true}); len(ends) > 0 {
			return most(ends), i
		}
	}
	return 0, len(thread)
}

// differs finds the stretch of the thread that the request begins with: the longest, of equals the newest; or, if the
// request repeats an answer, the thread's beginning. It returns the first message that no reading of the request comes
// past, and how many it had found before; -1 if it shares nothing.
func (r Rules) differs(thread []Message, asked []Saying) (at, matched int) {
	at = -1
	for i, m := range thread {
		if m.system() || !m.equal(asked[0]) {
			continue
		}
		end, n := r.leaves(thread, i+1, asked, 1)
		if end >= 0 && n >= matched && slices.ContainsFunc(thread[i:end], Message.compared) {
			at, matched = end, n
		}
	}
	if at < 0 && repeats(thread, asked) && !r.broken("copies with another beginning are new") {
		at, matched = r.leaves(thread, 0, asked, 0)
	}
	if at >= 0 && r.broken("names the sequence before") {
		at--
	}
	return at, matched
}

// leaves goes along the thread from one message on, so many of asked having been found, to the first that asked does not
// have; -1 if there is none.
func (r Rules) leaves(thread []Message, from int, asked []Saying, found int) (at, matched int) {
	ends := map[int]bool{found: true}
	for j := from; j < len(thread); j++ {
		next := r.walk(thread[j:j+1], asked, ends)
		if len(next) == 0 {
			return j, most(ends)
		}
		ends = next
	}
	return -1, 0
}

// repeats reports whether an answer of the thread that says anything is among what is asked.
func repeats(thread []Message, asked []Saying) bool {
	return slices.ContainsFunc(thread, func(m Message) bool {
		return m.Role == "assistant" && m.compared() && !m.empty() && slices.ContainsFunc(asked, m.equal)
	})
}

// added is what of the request is stored: what is new of the conversation, and system messages the thread does not have.
func (r Rules) added(thread []Message, request []Written, matched int) (list []Message) {
	known := slices.DeleteFunc(slices.Clone(thread), func(m Message) bool { return !m.system() })
	for _, m := range request {
		n := Message{Saying: m.Saying, Wrote: m.Raw}
		if m.system() {
			if slices.ContainsFunc(known, func(k Message) bool { return k.equal(m.Saying) }) && !r.broken("system messages are stored again") {
				continue
			}
			known = append(known, n)
		} else if matched > 0 {
			matched--
			continue
		}
		list = append(list, n)
	}
	return list
}

// shown is what the provider gets: of a client that tells the conversation itself, what it says, but for answers that
// never came; else the thread before it, up to where the request begins.
func (r Rules) shown(thread []Message, request []Written, matched, from int) (list []Written) {
	if says(request, "assistant") {
		for _, m := range request {
			if !m.system() {
				matched--
			}
			if matched >= 0 && m.Role == "assistant" && m.empty() && !r.broken("resent empty answers are shown") {
				continue
			}
			list = append(list, m)
		}
		return list
	}
	rest := request
	if speaksAsSystem(request) {
		for len(rest) > 0 && rest[0].system() {
			list, rest = append(list, rest[0]), rest[1:]
		}
	} else {
		list = append(list, r.standing(thread)...)
	}
	var told []Message
	for i, m := range thread[:from] {
		if m.system() || m.Cut && triedAgain(thread, i) && !r.broken("answers tried again are shown") {
			continue
		}
		told = append(told, m)
	}
	return append(append(list, r.whole(told, rest)...), rest...)
}

// whole is what a thread has said as providers take it, before what is said now: each call of a tool with a result, each
// result with its call, and no answer that says nothing.
func (r Rules) whole(told []Message, now []Written) (list []Written) {
	var open []string
	for i, m := range told {
		w := Written{m.Saying, m.Wrote}
		var missing []Written
		switch at := slices.Index(open, m.Answers); m.Role {
		case "assistant":
			w.Raw = "" // whoever said it, what only others understand is not told
			w.Calls, open = nil, nil
			given := results(told[i+1:], now)
			for _, c := range m.Calls {
				switch answered := slices.Contains(given, c.ID); {
				case answered:
					open = append(open, c.ID)
				case m.Cut && !r.broken("half calls are shown"):
					continue
				case !m.Cut && !r.broken("calls are shown alone"):
					missing = append(missing, Written{Saying: Saying{Role: "tool", Parts: []string{notRun}, Answers: c.ID}})
				}
				w.Calls = append(w.Calls, c)
			}
			if w.empty() && !r.broken("empty answers are shown") {
				continue
			}
		case "tool":
			if at >= 0 {
				open = slices.Delete(open, at, at+1)
			} else if !r.broken("results are shown alone") {
				continue
			}
		default:
			open = nil
		}
		list = append(append(list, w), missing...)
	}
	return list
}

// notRun is the result of a call that has none.
const notRun = "The tool was not run: the conversation went on without its result."

// results are the calls that what follows an answer has the results of.
func results(told []Message, now []Written) (ids []string) {
	for _, m := range told {
		if m.Role != "tool" {
			return ids
		}
		ids = append(ids, m.Answers)
	}
	for _, m := range now {
		if m.Role != "tool" && !m.system() {
			return ids
		}
		if m.Role == "tool" {
			ids = append(ids, m.Answers)
		}
	}
	return ids
}

// standing are the system messages of the last request that stored any.
func (r Rules) standing(thread []Message) (list []Written) {
	turn := -1
	for _, m := range thread {
		if !m.system() {
			continue
		}
		if m.Turn != turn && !r.broken("old system messages stand") {
			list = nil
		}
		turn = m.Turn
		list = append(list, Written{m.Saying, m.Wrote})
	}
	return list
}

// triedAgain reports whether the cut answer at i was followed by another answer to the same turn.
func triedAgain(thread []Message, i int) bool {
	for _, m := range thread[i+1:] {
		if !m.system() {
			return m.Role == "assistant"
		}
	}
	return false
}
