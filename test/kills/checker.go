// Package kills shows what is left when the gateway is killed under load: nothing that was acknowledged is lost, nothing
// is there twice, every call is settled, and every request a provider saw has its line in the ledger.
//
// A run starts the real binary again and again, on either store, and has it killed by SIGKILL, at each step of a request
// in turn (internal/chaos) and at random moments, while a crowd of clients (load.go) asks for streams and whole answers,
// in threads and without. Providers are played in the test's own process, which survives: their log, and the clients' own,
// are the evidence that the store is checked against (checker.go). The checker is tested by planting what it must see,
// and the suite by a gateway that drops its records.
//
// It shows that the process may die at any instant. It does not show that the machine may: what was written is still in
// the kernel's memory after a SIGKILL.
package kills

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"threadhub/internal/id"
	"threadhub/simulator"
)

// Evidence is what three witnesses say of the same time: the store, the providers, and the clients. The store is read
// when no call is open any more.
type Evidence struct {
	Orgs  []*Rows
	Seen  []simulator.Attempt
	Asked []*Exchange
	Reads []Read // by one reader, one after the other

	Embedded bool // the store is this process's own: even what a killed gateway streamed is kept
}

// Read is a thread as somebody read it over the API while it grew, without pending messages.
type Read struct {
	Org      id.Org
	Thread   id.Thread
	Messages []Message // only Seq, Role, Text and Status
}

// Rule names a kind of violation.
type Rule string

const (
	Gap      Rule = "gap"      // sequences of a thread are 0..n-1
	Twice    Rule = "twice"    // a message sent once is stored at most once, in its own thread of its own org
	Repeat   Rule = "repeat"   // an SDK's repeat of a turn that is complete adds no second turn
	Input    Rule = "input"    // an acknowledged input is stored exactly once, where its client was told
	Answer   Rule = "answer"   // an acknowledged answer is stored, complete, equal to what was seen and to what was sent
	Prefix   Rule = "prefix"   // what a client saw of an answer is a prefix of what is stored
	End      Rule = "end"      // a stream ends in [DONE] or an error, once
	Reading  Rule = "reading"  // a read is a prefix of the thread, and no later read goes back
	Turn     Rule = "turn"     // each message is part of exactly one call's turn: its input, then one answer
	Roles    Rule = "roles"    // user and assistant alternate; only an incomplete answer is followed by another
	Open     Rule = "open"     // no call is open
	Parent   Rule = "parent"   // a row's parent is there, in the same org
	Attempts Rule = "attempts" // each request a provider saw has one attempt, and the attempt says no more than happened
	Ledger   Rule = "ledger"   // each attempt has exactly one line of use
	Usage    Rule = "usage"    // a line says what the provider said; if it said nothing, that it is an estimate
	Spending Rule = "spending" // what a hard budget has used is what its calls have cost and hold, and no more than its limit
)

// Violation is one thing that must not be.
type Violation struct {
	Rule Rule
	Of   *Exchange // whose promise was broken, where it is one client's
	Text string
}

func (v Violation) String() string { return string(v.Rule) + ": " + v.Text }

// Check returns all that is wrong with e.
func Check(e Evidence) []Violation {
	c := index(e)
	for _, r := range e.Orgs {
		c.parents(r)
		c.sequences(r)
		c.turns(r)
		c.money(r)
		c.budgets(r)
	}
	c.providers()
	c.strangers()
	for _, x := range e.Asked {
		c.input(x)
		c.answer(x)
	}
	c.reads()
	return c.found
}

// place is where a message stands.
type place struct {
	org    id.Org
	thread id.Thread
	seq    int
}

// named is a call within its org.
type named struct {
	org  id.Org
	call id.Request
}

type checker struct {
	Evidence
	found []Violation

	threads  map[place]bool // seq 0
	messages map[place]Message
	texts    map[string][]place // of user messages, over all orgs
	calls    map[named]Call
	attempts map[string]Attempt // by the name both sides use
	seen     map[string]simulator.Attempt
}

func index(e Evidence) *checker {
	c := &checker{
		Evidence: e, threads: map[place]bool{}, messages: map[place]Message{}, texts: map[string][]place{},
		calls: map[named]Call{}, attempts: map[string]Attempt{}, seen: map[string]simulator.Attempt{},
	}
	for _, r := range e.Orgs {
		for _, t := range r.Threads {
			c.threads[place{r.Org, t, 0}] = true
		}
		for _, m := range r.Messages {
			at := place{r.Org, m.Thread, m.Seq}
			if _, is := c.messages[at]; is {
				c.say(Gap, nil, "two messages at %v", at)
			}
			c.messages[at] = m
			if m.Role == "user" {
				c.texts[m.Text] = append(c.texts[m.Text], at)
			}
		}
		for _, call := range r.Calls {
			c.calls[named{r.Org, call.ID}] = call
		}
		for _, a := range r.Attempts {
			c.attempts[attemptName(a.Call, a.N)] = a
		}
	}
	for _, a := range e.Seen {
		if _, is := c.seen[a.Name]; is {
			c.say(Attempts, nil, "a provider was asked twice for %s", a.Name)
		}
		c.seen[a.Name] = a
	}
	return c
}

func attemptName(call id.Request, n int) string { return string(call) + "-" + strconv.Itoa(n) }

func (c *checker) say(rule Rule, of *Exchange, format string, args ...any) {
	c.found = append(c.found, Violation{rule, of, fmt.Sprintf(format, args...)})
}

func (c *checker) parents(r *Rows) {
	for _, m := range r.Messages {
		if !c.threads[place{r.Org, m.Thread, 0}] {
			c.say(Parent, nil, "message %d of %s has no thread", m.Seq, m.Thread)
		}
		if call, ok := c.calls[named{r.Org, m.Call}]; !ok || call.Thread != m.Thread {
			c.say(Parent, nil, "message %d of %s is of the call %s, which is not there or of another thread", m.Seq, m.Thread, m.Call)
		}
	}
	for _, a := range r.Attempts {
		if _, ok := c.calls[named{r.Org, a.Call}]; !ok {
			c.say(Parent, nil, "an attempt of %s, which is not there", a.Call)
		}
	}
	for _, l := range r.Lines {
		if _, ok := c.attempts[attemptName(l.Call, l.N)]; !ok {
			c.say(Parent, nil, "a ledger line of %s, which is not there", attemptName(l.Call, l.N))
		}
	}
}

// sequences counts: r.Messages come by thread and sequence.
func (c *checker) sequences(r *Rows) {
	next := map[id.Thread]int{}
	for _, m := range r.Messages {
		if m.Seq != next[m.Thread] {
			c.say(Gap, nil, "%s has sequence %d where %d is due", m.Thread, m.Seq, next[m.Thread])
		}
		next[m.Thread] = m.Seq + 1
	}
}

// turns checks that every message is what its call says there is at its place, that answers are what the provider sent,
// and that roles alternate.
func (c *checker) turns(r *Rows) {
	for _, call := range r.Calls {
		if call.State != "closed" {
			c.say(Open, nil, "%s is %s", call.ID, call.State)
			continue
		}
		if (call.Outcome == "complete") != (call.Reason == "") {
			c.say(Turn, nil, "%s is %s with the reason %q", call.ID, call.Outcome, call.Reason)
		}
		if call.Thread != "" {
			c.turn(r.Org, call)
		}
	}
	for _, m := range r.Messages {
		call := c.calls[named{r.Org, m.Call}]
		if m.Seq < call.FirstSeq || m.Seq > call.FirstSeq+call.NIn {
			c.say(Turn, nil, "message %d of %s is outside its call's turn", m.Seq, m.Thread)
		}
		before, ok := c.messages[place{r.Org, m.Thread, m.Seq - 1}]
		switch {
		case m.Role == "assistant" && ok && before.Role == "assistant" && before.Status == "complete":
			c.say(Roles, nil, "%s has two answers at %d", m.Thread, m.Seq)
		case m.Role == "assistant" && !ok, m.Role == "user" && ok && before.Role == "user":
			c.say(Roles, nil, "%s has a message by %s at %d, out of turn", m.Thread, m.Role, m.Seq)
		}
	}
}

// tidy makes two texts one that differ in how what is no text was replaced.
func tidy(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\ufffd", "\xff"), "\ufffd")
}

// sent is what the provider sent for a call, in its last attempt.
func (c *checker) sent(call id.Request) string {
	text := ""
	for n := 0; ; n++ {
		name := attemptName(call, n)
		a, seen := c.seen[name]
		if _, made := c.attempts[name]; !made && !seen {
			return tidy(text)
		}
		if seen { // one that reached nobody is between those that did
			text = a.Text
		}
	}
}

func (c *checker) turn(org id.Org, call Call) {
	for i := range call.NIn {
		m, ok := c.messages[place{org, call.Thread, call.FirstSeq + i}]
		if !ok || m.Call != call.ID || m.Role != "user" {
			c.say(Turn, nil, "%s has no input at %d of %s", call.ID, call.FirstSeq+i, call.Thread)
		}
	}
	m, ok := c.messages[place{org, call.Thread, call.FirstSeq + call.NIn}]
	switch {
	case !ok || m.Call != call.ID || m.Role != "assistant":
		c.say(Turn, nil, "%s is closed without an answer at %d of %s", call.ID, call.FirstSeq+call.NIn, call.Thread)
	case (m.Status == "complete") != (call.Outcome == "complete") || m.Reason != call.Reason:
		c.say(Turn, nil, "%s ended %s (%s), its answer is %s (%s)", call.ID, call.Outcome, call.Reason, m.Status, m.Reason)
	}
	sent := c.sent(call.ID)
	switch {
	case call.Outcome == "complete" && tidy(m.Text) != sent:
		c.say(Answer, nil, "the answer of %s: stored %.120q, sent by the provider %.120q", call.ID, m.Text, sent)
	case !strings.HasPrefix(sent, tidy(m.Text)):
		c.say(Prefix, nil, "the cut answer of %s: stored %.120q, sent by the provider %.120q", call.ID, m.Text, sent)
	}
}

// money checks an org's ledger against its attempts and what the providers said they used.
func (c *checker) money(r *Rows) {
	lines := map[string][]Line{}
	for _, l := range r.Lines {
		if l.Kind == "use" {
			name := attemptName(l.Call, l.N)
			lines[name] = append(lines[name], l)
		}
	}
	for _, a := range r.Attempts {
		name := attemptName(a.Call, a.N)
		if n := len(lines[name]); n != 1 {
			c.say(Ledger, nil, "%s has %d lines of use", name, n)
			continue
		}
		l := lines[name][0]
		switch free := l.CostPico == 0 && l.Input+l.Output == 0; {
		case a.State == "ok":
			c.usage(name, a, l)
		case l.Status == "estimated", l.CostPico == 0 && l.MaybeBilled:
		case a.State == "cut" && c.sofar(name, l):
		case free && !a.MaybeBilled && c.refused(name):
		default:
			c.say(Usage, nil, "%s is %s, its line is %s and not marked as an estimate", name, a.State, l.Status)
		}
		if a.State == "unknown" && !(a.MaybeBilled && l.MaybeBilled) {
			c.say(Usage, nil, "nobody knows what became of %s, yet it is not marked maybe_billed", name)
		}
	}
}

// refused reports whether no model can have worked for an attempt.
func (c *checker) refused(name string) bool {
	s, seen := c.seen[name]
	return !seen || s.Status >= 400 || s.Text == "" && strings.HasPrefix(s.Fault, "error_")
}

// sofar reports whether l says what a provider that tells its usage as it goes may have told before it was cut.
func (c *checker) sofar(name string, l Line) bool {
	u := c.seen[name].Usage
	return u != nil && l.Input+l.Cached+l.CacheWrite == u.Prompt && l.Output+l.Reasoning <= u.Completion
}

// price is what a model costs, in pico-dollars a token.
type price struct{ input, cached, output int64 }

// prices are those of the models that are asked at providers which do not say what they charge. Thoughts are output.
var prices = map[string]price{
	"gpt-4.1":          {2_000_000, 500_000, 8_000_000},
	"gpt-4.1-mini":     {400_000, 100_000, 1_600_000},
	"gemini-3.5-flash": {1_500_000, 150_000, 9_000_000},
}

func (p price) of(u *simulator.Usage) int64 {
	return (u.Prompt-u.Cached)*p.input + u.Cached*p.cached + u.Completion*p.output
}

func (c *checker) usage(name string, a Attempt, l Line) {
	u := c.seen[name].Usage
	price, computed := prices[c.seen[name].Model]
	switch {
	case u == nil, c.seen[name].Fault != "" && l.Status == "estimated": // whether it had to be is its row's to say
		if l.Status != "estimated" && l.Status != "unpriced" {
			c.say(Usage, nil, "the provider told no usage of %s that is one, its line is %s", name, l.Status)
		}
	case l.Input+l.Cached+l.CacheWrite != u.Prompt || l.Cached != u.Cached || l.CacheWrite != u.CacheWrite ||
		l.Output+l.Reasoning != u.Completion || l.Reasoning != u.Reasoning:
		c.say(Usage, nil, "%s used %+v, its line says %+v", name, *u, l)
	case c.seen[name].Fault == "zero_usage":
	case a.Provider == "openrouter" || a.Provider == "perplexity":
		if u.CostPico <= 0 || l.CostPico != u.CostPico || l.Status != "reported" {
			c.say(Usage, nil, "%s said that %s cost %d, its line says %d, %s", a.Provider, name, u.CostPico, l.CostPico, l.Status)
		}
	case !computed || l.CostPico != price.of(u) || l.Status != "computed":
		c.say(Usage, nil, "%s used %+v of %s, its line says %d, %s", name, *u, c.seen[name].Model, l.CostPico, l.Status)
	}
}

// providers compares attempts with what the providers saw, both ways.
func (c *checker) providers() {
	for name, s := range c.seen {
		a, ok := c.attempts[name]
		switch {
		case !ok:
			c.say(Attempts, nil, "a provider was asked for %q, of which the store knows nothing", name)
		case a.Provider != s.Provider:
			c.say(Attempts, nil, "%s went to %s, the store says %s", name, s.Provider, a.Provider)
		case a.State == "ok" && s.End != simulator.EndComplete && s.Fault == "":
			c.say(Attempts, nil, "%s is ok in the store, and ended as %s", name, s.End)
		}
	}
	for name, a := range c.attempts {
		_, seen := c.seen[name]
		switch {
		case a.State == "begun":
			c.say(Attempts, nil, "%s has no end", name)
		case !seen && a.State != "unknown" && a.State != "failed":
			c.say(Attempts, nil, "%s is %s, and no provider saw it", name, a.State)
		}
	}
}

// strangers finds messages nobody sent, and those that are stored twice or in a foreign place.
func (c *checker) strangers() {
	home, tries := map[string]*Exchange{}, map[string]int{}
	for _, x := range c.Asked {
		home[x.Text] = x
		tries[x.Text]++
	}
	for text, at := range c.texts {
		x, ok := home[text]
		if !ok {
			c.say(Twice, nil, "nobody sent what is stored at %v: %.80q", at, text)
			continue
		}
		switch {
		case len(at) == 1:
		case len(at) <= tries[text] && c.answered(at[:len(at)-1]):
			c.say(Repeat, x, "its turn was complete at %v, and it was added again at %v: %.80q", at[0], at[1:], text)
		default:
			c.say(Twice, x, "stored %d times, at %v: %.80q", len(at), at, text)
		}
		for _, p := range at {
			if p.org != x.Org || p.thread != x.Thread {
				c.say(Twice, x, "sent to %s of %s, stored at %v: %.80q", x.Thread, x.Org, p, text)
			}
		}
	}
}

// answered reports whether the turns that begin at places all came to a complete answer.
func (c *checker) answered(places []place) bool {
	for _, p := range places {
		p.seq++
		for c.messages[p].Role == "assistant" && c.messages[p].Status == "incomplete" {
			p.seq++
		}
		if m := c.messages[p]; m.Role != "assistant" || m.Status != "complete" {
			return false
		}
	}
	return true
}

// input checks an acknowledged input. A repeat whose first try left the input there is told the sequence before its
// answer, like all others, and stores nothing.
func (c *checker) input(x *Exchange) {
	if errors.Is(x.Err, errUntrue) {
		c.say(End, x, "%s: %v", x.Request, x.Err)
	}
	if !x.Head {
		return
	}
	call, ok := c.calls[named{x.Org, x.Request}]
	switch {
	case !ok:
		c.say(Input, x, "%s was acknowledged, and there is no such call", x.Request)
	case call.Thread != x.Thread:
		c.say(Input, x, "%s was sent to thread %q, it is in %q", x.Request, x.Thread, call.Thread)
	case x.Thread == "":
	case len(c.texts[x.Text]) == 0:
		c.say(Input, x, "%s was acknowledged, and its message is not stored", x.Request)
	case call.NIn == 1 && !slices.Contains(c.texts[x.Text], place{x.Org, x.Thread, x.Seq}):
		c.say(Input, x, "%s was told sequence %d, its message is at %v", x.Request, x.Seq, c.texts[x.Text])
	case call.NIn == 0 && x.Try == 0:
		c.say(Input, x, "%s brought a message and stored none", x.Request)
	case call.FirstSeq+call.NIn != x.Seq+1:
		c.say(Input, x, "%s was told sequence %d, its answer is at %d", x.Request, x.Seq, call.FirstSeq+call.NIn)
	}
}

// answer compares what a client saw with what is stored; what is stored with what the provider sent, turn has compared.
func (c *checker) answer(x *Exchange) {
	call, ok := c.calls[named{x.Org, x.Request}]
	if !x.Head || !ok {
		return // input has said it
	}
	sent := c.sent(x.Request)
	stored := sent // a plain call's answer is kept by nobody
	if x.Thread != "" {
		m := c.messages[place{x.Org, x.Thread, call.FirstSeq + call.NIn}]
		if m.Call != x.Request {
			m.Text = ""
		}
		stored = m.Text
	}
	switch {
	case x.Done && call.Outcome != "complete":
		c.say(Answer, x, "the answer of %s was acknowledged, and the call is %s (%s)", x.Request, call.Outcome, call.Reason)
	case x.Done && x.Seen != stored && (x.Thread != "" || tidy(x.Seen) != stored):
		c.say(Answer, x, "the answer of %s: seen %.120q, stored %.120q", x.Request, x.Seen, stored)
	case strings.HasPrefix(stored, x.Seen), x.Thread == "" && strings.HasPrefix(stored, tidy(x.Seen)):
	case call.Reason == "gateway_lost" && !c.Embedded && strings.HasPrefix(x.Seen, stored):
	default:
		c.say(Prefix, x, "the answer of %s: seen %.120q, stored %.120q", x.Request, x.Seen, stored)
	}
}

func (c *checker) reads() {
	longest := map[place]int{}
	for _, r := range c.Reads {
		for i, m := range r.Messages {
			have := c.messages[place{r.Org, r.Thread, i}]
			if m.Seq != i || m.Role != have.Role || m.Text != have.Text || m.Status != have.Status {
				c.say(Reading, nil, "a read of %s had %v at %d, the thread has %v", r.Thread, m, i, have)
				break
			}
		}
		at := place{r.Org, r.Thread, 0}
		if len(r.Messages) < longest[at] {
			c.say(Reading, nil, "a read of %s had %d messages, an earlier one had %d", r.Thread, len(r.Messages), longest[at])
		}
		longest[at] = max(longest[at], len(r.Messages))
	}
}

// budgets adds up what the calls of each budget and period have cost, and what those that are open hold.
func (c *checker) budgets(r *Rows) {
	cost := map[id.Request]int64{}
	for _, l := range r.Lines {
		cost[l.Call] += l.CostPico
	}
	for _, u := range r.Used {
		i := slices.IndexFunc(r.Budgets, func(b Budget) bool { return b.ID == u.Budget })
		if i < 0 {
			c.say(Parent, nil, "the budget %s, of which %d are used, is not there", u.Budget, u.Pico)
			continue
		}
		b, sum := r.Budgets[i], int64(0)
		for _, call := range r.Calls {
			of := map[string]string{"org": string(r.Org), "user": string(call.User), "key": string(call.Key), "thread": string(call.Thread)}
			if of[b.Scope] != b.Of || call.OpenedAt.Before(u.Start) || b.Period == "day" && !call.OpenedAt.Before(u.Start.AddDate(0, 0, 1)) {
				continue
			}
			sum += cost[call.ID]
			if call.State == "open" {
				sum += call.HoldPico
			}
		}
		if sum != u.Pico || u.Pico > b.LimitPico {
			c.say(Spending, nil, "of the budget for the %s %s and the %s %d are used, its calls make %d, its limit is %d", b.Scope, b.Of, b.Period, u.Pico, sum, b.LimitPico)
		}
	}
}
