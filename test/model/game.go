package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Steps counts what was played, by kind. Safe for concurrent use.
type Steps struct {
	mu    sync.Mutex
	kinds map[string]int
	total atomic.Int64
}

func (s *Steps) add(kind string) {
	s.total.Add(1)
	s.note(kind)
}

// note counts something that is no step of its own.
func (s *Steps) note(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kinds == nil {
		s.kinds = map[string]int{}
	}
	s.kinds[kind]++
}

// Total is how many steps there were: requests sent.
func (s *Steps) Total() int { return int(s.total.Load()) }

// String lists them.
func (s *Steps) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for k, n := range s.kinds {
		list = append(list, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(list)
	return fmt.Sprintf("%d steps: %s", s.Total(), strings.Join(list, ", "))
}

// Run plays on a house until so many steps are played, several games at a time, and fails t where gateway and model
// disagree, or if it were fewer.
func Run(t *testing.T, h *House, steps, players int) {
	t.Helper()
	played := &Steps{}
	var all sync.WaitGroup
	for range players {
		all.Go(func() {
			t.Run("player", func(t *testing.T) {
				var first error // what several at once do need not happen again when it is played again
				defer func() {
					if first != nil {
						t.Logf("as it was first seen: %v", first)
					}
				}()
				for played.Total() < steps {
					rapid.Check(t, func(t *rapid.T) {
						if err := (&Game{House: h, Steps: played, Until: steps}).Play(t); err != nil {
							if first == nil {
								first = err
							}
							t.Log(err)
							t.Fatal("the gateway and the model disagree") // the same words each time, by which rapid knows it again
						}
					})
				}
			})
		})
	}
	all.Wait()
	t.Log(played)
	if played.Total() < steps {
		t.Errorf("only %d steps were played, not %d", played.Total(), steps)
	}
}

// Game is random clients at random threads of a house.
type Game struct {
	House *House
	Rules Rules
	Steps *Steps
	Until int // steps; a game that begins later is not played
}

// disagreement ends a game: the gateway and the model say different things.
type disagreement struct{ error }

// Play plays one game to its end, and returns how gateway and model disagree; nil if they do not.
func (g *Game) Play(t *rapid.T) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case disagreement:
			err = v.error
		default:
			panic(v)
		}
	}()
	if g.Steps.Total() >= g.Until {
		return nil
	}
	p := &play{Game: g, t: t}
	p.thread = p.newThread()
	t.Repeat(map[string]func(*rapid.T){
		"thin": p.one(p.thin), "full": p.one(p.full), "trimming": p.one(p.trimming), "editing": p.one(p.editing),
		"regenerating": p.one(p.regenerating), "retrying": p.one(p.retrying), "elsewhere": p.one(p.elsewhere), "adding": p.one(p.adding),
		"at once": p.burst, "crash": p.crash, "another thread": p.another, "again": p.one(p.again),
		"forking": p.one(p.forking),
	})
	return nil
}

// play is one game under way. Its actions draw from its own t: rapid gives each action the same one.
type play struct {
	*Game
	t       *rapid.T
	threads []*thread
	thread  *thread // the one that is talked in
	turns   int
}

// thread is one thread as the model has it.
type thread struct {
	id       string
	messages []Message
	read     []json.RawMessage // the messages as they were read, and found to be right: they may not change
	last     *request          // what was asked last; nil: nothing
	story    []string          // for people who have to find out what went wrong
}

func (p *play) fail(format string, args ...any) {
	lines := slices.Clone(p.thread.story[max(0, len(p.thread.story)-12):])
	for i, l := range lines {
		lines[i] = clip(l)
	}
	story := strings.Join(lines, "\n  ")
	panic(disagreement{fmt.Errorf("%s\nin thread %s:\n  %s", fmt.Sprintf(format, args...), p.thread.id, story)})
}

// clip shortens what long threads make long.
func clip(s string) string {
	const most = 400
	if len(s) <= most {
		return s
	}
	return s[:most/2] + " … " + s[len(s)-most/2:]
}

func (p *play) newThread() *thread {
	t := &thread{id: fmt.Sprintf("game-%d", p.House.names.Add(1))}
	p.threads = append(p.threads, t)
	return t
}

// maxThreads is how many a game talks in.
const maxThreads = 3

// another goes on in another thread.
func (p *play) another(t *rapid.T) {
	if len(p.threads) < maxThreads && chance(t, 50) {
		p.thread = p.newThread()
		if chance(t, 20) { // a client that brings a long conversation with it
			most := 40
			if chance(t, 20) { // and one that is longer than what a gateway may read of it at once
				most = 400
			}
			p.do(p.ask("importing", p.conversation(rapid.IntRange(10, most).Draw(t, "length"), append(words[:len(words):len(words)], "c", "d", "e", "f", "g")...)))
		}
		return
	}
	p.thread = rapid.SampledFrom(p.threads).Draw(t, "thread")
}

// one makes an action of a client that asks one thing.
func (p *play) one(make func() *request) func(*rapid.T) {
	return func(t *rapid.T) {
		p.move()
		p.do(make())
	}
}

// move leaves a thread that has become long: what it can show, it has shown, and each step in it takes its time.
func (p *play) move() {
	if p.held() > 60 && chance(p.t, 25) {
		p.threads = slices.DeleteFunc(p.threads, func(t *thread) bool { return t == p.thread })
		p.thread = p.newThread()
	}
}

// do sends q, and compares.
func (p *play) do(q *request) {
	p.Steps.add(q.kind)
	q.send(p.thread.id)
	if q.err != nil {
		p.fail("%s: %v", q, q.err)
	}
	p.turns++
	e := p.Rules.effect(p.thread.messages, q, p.turns, p.House.checkpoints != nil)
	p.thread.story = append(p.thread.story, fmt.Sprintf("%s | %d %s", q, q.status, q.header.Get("X-Threadhub-Thread-Mode")))
	if err := e.agrees(q); err != nil {
		p.fail("%v\nthe thread held\n  %s", err, show(p.thread.messages))
	}
	p.take(q, e)
	p.compare(p.thread)
}

// take makes the effect of q the state of the thread.
func (p *play) take(q *request, e effect) {
	p.thread.messages = e.after
	if !q.add && !q.part {
		p.thread.last = q
	}
	switch {
	case e.Status == 409:
		p.Steps.note("(refused as diverged)")
	case e.Mode != "":
		p.Steps.note("(" + e.Mode + ")")
		if len(e.after) > 0 && e.after[len(e.after)-1].Cut {
			p.Steps.note("(left incomplete)")
		}
	}
	if e.forked == nil {
		return
	}
	name := q.thread()
	if name == "" || name == p.thread.id {
		p.fail("%s: a fork whose thread is called %q", q, name)
	}
	f := &thread{id: name, messages: e.forked, story: append(slices.Clone(p.thread.story), "forked as "+name)}
	p.threads = append(p.threads, f)
	p.compare(f)
}

// compare reads the thread back.
func (p *play) compare(t *thread) {
	if len(t.messages) == 0 {
		return // nobody has made it yet
	}
	got, body, err := p.House.read(t.id)
	if err == nil {
		err = right(got, t.messages, t.read)
	}
	if err != nil {
		p.fail("%v\nthe thread should hold\n  %s\nand reads\n  %s", err, show(t.messages), body)
	}
	t.read = got
}

// read returns the messages of a thread as the API shows them, without an answer that is still being made.
func (h *House) read(thread string) (list []json.RawMessage, body []byte, err error) {
	r, err := h.live[0].ask("GET", "/api/threads/"+thread, nil)
	if err != nil {
		return nil, nil, err
	}
	if r.status != 200 {
		return nil, r.body, fmt.Errorf("reading %s: status %d", thread, r.status)
	}
	var shape struct{ Messages []json.RawMessage }
	if err := json.Unmarshal(r.body, &shape); err != nil {
		return nil, r.body, err
	}
	list = shape.Messages
	if n := len(list); n > 0 && bytes.Contains(list[n-1], []byte(`"status":"pending"`)) {
		list = list[:n-1]
	}
	return list, r.body, nil
}

// right compares messages that were read with the model's: gapless, what is said, whether it is whole, and every member
// as its client wrote it. known are the first of them as they were found to be right before.
func right(got []json.RawMessage, want []Message, known []json.RawMessage) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d messages are stored, not %d", len(got), len(want))
	}
	for i, w := range want {
		if i < len(known) {
			if !bytes.Equal(got[i], known[i]) {
				return fmt.Errorf("message %d was %s and is %s", i, known[i], got[i])
			}
			continue
		}
		if err := rightMessage(i, got[i], w); err != nil {
			return err
		}
	}
	return nil
}

func rightMessage(seq int, got json.RawMessage, want Message) error {
	var m struct {
		Sequence int
		Status   string
		Reason   string `json:"incomplete_reason"`
	}
	if err := json.Unmarshal(got, &m); err != nil {
		return err
	}
	s, err := read(got)
	if err != nil {
		return err
	}
	status := "complete"
	if want.Cut {
		status = "incomplete"
	}
	if m.Sequence != seq || !s.equal(want.Saying) || m.Status != status || (m.Reason != "") != want.Cut {
		return fmt.Errorf("message %d is %s, not %s", seq, got, show([]Message{want}))
	}
	if want.Wrote == "" {
		return nil
	}
	var written, shown map[string]json.RawMessage
	if err := json.Unmarshal([]byte(want.Wrote), &written); err != nil {
		return err
	}
	if err := json.Unmarshal(got, &shown); err != nil {
		return err
	}
	for name, v := range written {
		if ours[name] {
			continue
		}
		var b bytes.Buffer // white space apart
		if err := json.Compact(&b, v); err != nil {
			return err
		}
		if string(shown[name]) != b.String() {
			return fmt.Errorf("member %s of message %d is shown as %s, and was written as %s", name, seq, shown[name], v)
		}
	}
	return nil
}

// ours are the members that the API shows of its own.
var ours = map[string]bool{"message_id": true, "sequence": true, "status": true}

func show(list []Message) string {
	var b strings.Builder
	for i, m := range list {
		if i > 0 && m.Turn != list[i-1].Turn {
			b.WriteString(" /")
		}
		b.WriteString(" " + m.String())
		if m.Cut {
			b.WriteString("…")
		}
	}
	return strings.TrimSpace(b.String())
}

// The clients. Each makes a request from what the thread holds.

// The words are few so that equal ones meet often.
var (
	words   = []string{"a", "b", "ab"}
	systems = []string{"s1", "s2"}
)

func (p *play) user() Saying {
	s := Saying{Role: "user", Parts: []string{pick(p.t, words...)}}
	switch n := rapid.IntRange(0, 99).Draw(p.t, "user"); {
	case n < 5:
		s.Parts = append(s.Parts, image+"https://example.com/1.png")
	case n < 8:
		s.Parts = append(s.Parts, pick(p.t, words...))
	}
	return s
}

func (p *play) system() Written {
	return write(p.t, Saying{Role: pick(p.t, "system", "developer"), Parts: []string{pick(p.t, systems...)}})
}

// assistant is what a model might say.
func (p *play) assistant() Saying {
	s := Saying{Role: "assistant"}
	if chance(p.t, 15) {
		n := pick(p.t, "1", "2")
		s.Calls = []Call{{"call_" + n, "look", pick(p.t, `{}`, `{"x":1}`, `{"x":1,"y":[2]}`)}}
		if chance(p.t, 70) {
			return s
		}
	}
	s.Parts = []string{pick(p.t, words...)}
	return s
}

// fresh is what a client says next: an answer to the tools that were called, or something new.
func (p *play) fresh() (list []Written) {
	var calls []Call
	if m := p.thread.messages; len(m) > 0 {
		calls = m[len(m)-1].Calls
	}
	if len(calls) > 0 && chance(p.t, 80) {
		for _, c := range calls {
			list = append(list, write(p.t, Saying{Role: "tool", Parts: []string{pick(p.t, words...)}, Answers: c.ID}))
		}
		return list
	}
	for range rapid.IntRange(1, 2).Draw(p.t, "new") {
		list = append(list, write(p.t, p.user()))
	}
	return list
}

// conversation is n messages that take turns, of these words.
func (p *play) conversation(n int, words ...string) (list []Written) {
	for i := range n {
		list = append(list, write(p.t, Saying{Role: []string{"user", "assistant"}[i%2], Parts: []string{pick(p.t, words...)}}))
	}
	return list
}

// copied is the thread from one sequence on as a client has it: with or without what was cut short, with its own system
// messages.
func (p *play) copied(from, to int) (list []Written) {
	cut, sys := rapid.IntRange(0, 100).Draw(p.t, "keeps cut answers"), chance(p.t, 50)
	for _, m := range p.thread.messages[from:to] {
		switch {
		case m.system() && !sys:
		case m.Cut && (!chance(p.t, cut) || m.empty() && !chance(p.t, 30)):
		default:
			list = append(list, write(p.t, m.Saying))
		}
	}
	return list
}

// withSystem puts system messages in, mostly in front.
func (p *play) withSystem(list []Written) []Written {
	for chance(p.t, 20) {
		at := 0
		if chance(p.t, 15) {
			at = rapid.IntRange(0, len(list)).Draw(p.t, "at")
		}
		list = slices.Insert(list, at, p.system())
	}
	return list
}

// ask makes the request of a client that says this.
func (p *play) ask(kind string, messages []Written) *request {
	q := &request{
		kind: kind, messages: p.withSystem(messages), stream: chance(p.t, 50), where: rapid.IntRange(0, 2).Draw(p.t, "where"),
		fork: chance(p.t, 30), on: p.gateway(),
		script: &script{answer: p.assistant(), n: 1, comes: all},
	}
	if chance(p.t, 10) {
		q.script.n = 2
	}
	switch n := rapid.IntRange(0, 99).Draw(p.t, "ends"); {
	case n < 12 && len(q.script.answer.Calls) == 0:
		q.script.comes = rapid.IntRange(1, 2).Draw(p.t, "comes")
	case n < 20:
		q.script.comes = 0
	}
	return q
}

// gateway is any of those that live.
func (p *play) gateway() *process {
	return p.House.live[rapid.IntRange(0, len(p.House.live)-1).Draw(p.t, "gateway")]
}

func (p *play) held() int { return len(p.thread.messages) }

func (p *play) thin() *request { return p.ask("thin", p.fresh()) }

func (p *play) full() *request {
	return p.ask("full", append(p.copied(0, p.held()), p.fresh()...))
}

func (p *play) trimming() *request {
	from := rapid.IntRange(0, p.held()).Draw(p.t, "from")
	return p.ask("trimming", append(p.copied(from, p.held()), p.fresh()...))
}

func (p *play) editing() *request {
	list := p.copied(0, p.held())
	if len(list) > 0 {
		at := rapid.IntRange(0, len(list)-1).Draw(p.t, "edited")
		s := list[at].Saying
		if s.Answers == "" {
			s.Parts = []string{pick(p.t, words...)}
		}
		list[at] = write(p.t, s)
		if chance(p.t, 70) {
			list = list[:at+1]
		}
	}
	if len(list) == 0 || chance(p.t, 50) {
		list = append(list, p.fresh()...)
	}
	return p.ask("editing", list)
}

func (p *play) regenerating() *request {
	list := p.copied(0, p.held())
	if n := len(list); n > 1 {
		list = list[:max(1, n-rapid.IntRange(1, 4).Draw(p.t, "fewer"))]
	}
	if !speaks(list) {
		list = append(list, p.fresh()...)
	}
	return p.ask("regenerating", list)
}

// speaks reports whether there is more than system messages.
func speaks(list []Written) bool { return len(talk(list)) > 0 }

// again sends what was asked last once more, in other bytes, though it may have been answered.
func (p *play) again() *request {
	if p.thread.last == nil {
		return p.thin()
	}
	var list []Written
	for _, m := range p.thread.last.messages {
		list = append(list, write(p.t, m.Saying))
	}
	q := p.ask("asking again", list)
	return q
}

// retrying is an SDK: a request that got no whole answer is sent once more, byte for byte.
func (p *play) retrying() *request {
	last := p.thread.last
	if last == nil || last.outcome().Done {
		q := p.thin()
		q.script.comes = rapid.IntRange(0, 1).Draw(p.t, "comes") // so that there is something to retry
		if len(q.script.answer.Calls) > 0 {
			q.script.comes = 0
		}
		return q
	}
	q := p.ask("retrying", nil)
	q.messages, q.stream, q.where, q.fork, q.retry = last.messages, last.stream, last.where, last.fork, last.retry+1
	return q
}

func (p *play) elsewhere() *request {
	return p.ask("elsewhere", append(p.conversation(2*rapid.IntRange(1, 2).Draw(p.t, "turns"), words...), p.fresh()...))
}

// adding adds a message without a model.
func (p *play) adding() *request {
	if p.held() == 0 {
		return p.thin()
	}
	s := p.user()
	switch n := rapid.IntRange(0, 99).Draw(p.t, "role"); {
	case n < 20:
		s = Saying{Role: "assistant", Parts: []string{pick(p.t, words...)}}
	case n < 35:
		s = p.system().Saying
	}
	w := write(p.t, s)
	w.Raw = fmt.Sprintf(`{"role":%s,"content":%s}`, quote(s.Role), contentOf(w.Raw))
	return &request{kind: "adding", add: true, messages: []Written{w}, on: p.gateway()}
}

// forking makes a new thread of this one, without a model.
func (p *play) forking() *request {
	if p.held() == 0 {
		return p.thin()
	}
	return &request{kind: "forking", part: true, upto: rapid.IntRange(-1, p.held()-1).Draw(p.t, "upto"), on: p.gateway()}
}

// settled waits until no call holds a thread's turn.
func (p *play) settled(thread string) {
	p.until("the call of a dead process to be settled", func() (bool, error) {
		c, err := p.House.calls.Holder(context.Background(), p.House.Org, id.Thread(thread))
		return c == nil, err
	})
}

// until waits for what another process does.
func (p *play) until(what string, ok func() (bool, error)) {
	for end := time.Now().Add(p.House.patience); ; {
		done, err := ok()
		switch {
		case err != nil:
			p.fail("%v", err)
		case done:
			return
		case time.Now().After(end):
			p.fail("waited in vain for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// taken waits until no open call is a dead process's any more.
func (p *play) taken(dead *process) {
	p.until("the calls of a dead process to be taken over", func() (bool, error) {
		open := 0
		err := p.House.Store.Walk(context.Background(), func(tx db.Tx) error {
			return tx.QueryRow(context.Background(), `SELECT count(*) FROM calls WHERE state = 'open' AND owner = $1`, []any{dead.lease.Owner()}, &open)
		})
		return open == 0, err
	})
}

// crash is a request whose process dies before it records.
func (p *play) crash(t *rapid.T) {
	p.move()
	if chance(t, 40) {
		p.late()
		return
	}
	q := p.anyRequest()
	q.kind, q.dies = "crash", true
	q.on = p.House.doomed(false)
	p.Steps.add(q.kind)
	q.send(p.thread.id)
	q.on.die()
	p.after(q)
}

// late is a process that was thought dead and was not: it records when its call has been settled.
func (p *play) late() {
	q := p.anyRequest()
	q.kind, q.dies = "late owner", true
	q.on = p.House.doomed(true)
	m := q.on.store.(*mortal)
	p.Steps.add(q.kind)
	ended := make(chan struct{})
	go func() { defer close(ended); q.send(p.thread.id) }()
	select {
	case <-m.reached:
		if err := q.on.lease.Close(p.House.t.Context()); err != nil {
			p.fail("%v", err)
		}
		p.taken(q.on)
	case <-ended: // it was refused
	}
	close(m.late)
	<-ended
	q.on.die()
	p.after(q)
}

// after compares what a dead process has left.
func (p *play) after(q *request) {
	if q.err != nil {
		p.fail("%s: %v", q, q.err)
	}
	p.turns++
	e := p.Rules.effect(p.thread.messages, q, p.turns, p.House.checkpoints != nil)
	p.thread.story = append(p.thread.story, fmt.Sprintf("%s | %d %s", q, q.status, q.header.Get("X-Threadhub-Thread-Mode")))
	if err := e.agrees(q); err != nil {
		p.fail("%v\nthe thread held\n  %s", err, show(p.thread.messages))
	}
	p.settled(p.thread.id)
	if e.forked != nil {
		p.settled(q.thread())
	}
	p.take(q, e)
	p.compare(p.thread)
}

// anyRequest is what any client might ask.
func (p *play) anyRequest() *request {
	return rapid.SampledFrom([]func() *request{p.thin, p.full, p.trimming, p.editing, p.regenerating, p.retrying, p.again, p.elsewhere}).Draw(p.t, "client")()
}
