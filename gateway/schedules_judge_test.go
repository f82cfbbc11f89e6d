package gateway

import (
	"context"
	"encoding/json"
	"strings"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/metering"
)

// What must hold of every schedule, by the rows of its store. The judge reads them in words of its own.

const scheduledOrg id.Org = "org_a" // that of fakeOrgs

// asked is told before a provider is asked for attempt n of a call.
func (p *play) asked(call id.Request, n int) *seenCall {
	p.mu.Lock()
	c := p.calls[call]
	p.mu.Unlock()
	if c == nil {
		p.say("the provider is asked for a call of which the store has never heard")
		return &seenCall{asked: map[int]bool{}, tokens: map[int][2]int64{}}
	}
	stored, err := p.truth.Call(context.Background(), scheduledOrg, call)
	switch {
	case err != nil:
		p.say("the provider is asked for call %d before it is stored: %v", c.n, err)
	case n >= len(stored.Attempts):
		p.say("the provider is asked for attempt %d of call %d before that is stored", n, c.n)
	case c.asked[n]:
		p.say("the provider is asked twice for attempt %d of call %d", n, c.n)
	case c.relayed:
		p.say("the provider is asked again for call %d, of which a client has an answer", c.n)
	case c.unsafe:
		p.say("the provider is asked again for call %d, which may be billed", c.n)
	}
	c.asked[n] = true
	return c
}

// heard is told when a client has a piece more of its answer.
func (p *play) heard(c *client) {
	p.mu.Lock()
	if seen := p.calls[c.call]; seen != nil && c.seen != "" {
		seen.relayed = true
	}
	p.mu.Unlock()
	if !c.whole {
		return
	}
	stored, err := p.truth.Call(context.Background(), scheduledOrg, c.call)
	switch {
	case err != nil:
		p.say("client %d has the whole answer of a call that is not there: %v", c.n, err)
	case stored.State != "closed" || stored.Outcome != calls.Complete:
		p.say("client %d has a whole answer, and its call is %s %s", c.n, stored.State, stored.Outcome)
	}
}

// open counts the processes with open calls.
func (p *play) open() (n int) {
	err := p.base.Walk(context.Background(), func(tx db.Tx) error {
		return tx.Query(context.Background(), `SELECT DISTINCT owner FROM calls WHERE state = 'open'`, nil, func(db.Row) error { n++; return nil })
	})
	if err != nil {
		p.say("who has open calls: %v", err)
	}
	return n
}

// kept is a message as the judge reads it.
type keptMessage struct {
	seq          int
	call         id.Request
	role, status string
	text         string
}

func (p *play) messages(thread id.Thread) (list []keptMessage) {
	err := p.base.Query(context.Background(), scheduledOrg, db.Query{
		SQL:  `SELECT seq, call_id, role, CAST(status AS text), raw FROM messages WHERE org_id = $1 AND thread_id = $2 ORDER BY seq`,
		Args: []any{scheduledOrg, thread},
		Each: func(row db.Row) error {
			var m keptMessage
			var raw []byte
			if err := row.Scan(&m.seq, &m.call, &m.role, &m.status, &raw); err != nil {
				return err
			}
			var said struct{ Content string }
			err := json.Unmarshal(raw, &said)
			m.text = said.Content
			list = append(list, m)
			return err
		},
	})
	if err != nil {
		p.say("the thread %s: %v", thread, err)
	}
	return list
}

// fenced is what says who closed a call, and what is kept of it.
type fencedCall struct {
	epoch           int
	record          string
	claimed, replay bool
}

func (p *play) fenced(call id.Request) (f fencedCall) {
	err := p.base.Query(context.Background(), scheduledOrg, db.Query{
		SQL: `SELECT epoch, coalesce(record_id, ''), claim IS NOT NULL, EXISTS (SELECT 1 FROM replays r WHERE r.org_id = c.org_id AND r.call_id = c.call_id)
FROM calls c WHERE org_id = $1 AND call_id = $2`,
		Args: []any{scheduledOrg, call},
		Each: func(row db.Row) error { return row.Scan(&f.epoch, &f.record, &f.claimed, &f.replay) },
	})
	if err != nil {
		p.say("the row of a call: %v", err)
	}
	return f
}

// judge looks at all that a schedule has left.
func (p *play) judge() {
	threads := map[id.Thread][]keptMessage{}
	for _, call := range p.order {
		seen := p.calls[call]
		c, err := p.truth.Call(context.Background(), scheduledOrg, call)
		if fault.Is(err, fault.NotFound) { // it was never opened
			continue
		}
		if err != nil {
			p.say("call %d: %v", seen.n, err)
			continue
		}
		if c.Thread != "" && threads[c.Thread] == nil {
			threads[c.Thread] = p.messages(c.Thread)
		}
		p.note("call %d is %s %s, with %d attempts", seen.n, c.Outcome, c.Reason, len(c.Attempts))
		seen.stored = c
		p.closed(seen, c)
		p.paid(seen, c)
		p.turn(seen, c, threads[c.Thread])
	}
	for thread, list := range threads {
		p.note("the thread has %d messages", len(list))
		p.gapless(thread, list)
	}
	for _, c := range p.clients {
		p.told(c, threads[id.Thread(c.thread)])
	}
	for _, pr := range p.procs {
		if n := pr.panics.Caught(); n > 0 {
			p.say("%d panics", n)
		}
	}
	if m, ok := p.base.(*memory); ok && len(m.mistakes) > 0 {
		p.say("%q", m.mistakes)
	}
}

// closed holds that a call is closed, by who has it, and that its claim stands for an answer.
func (p *play) closed(seen *seenCall, c *calls.Call) {
	f := p.fenced(c.ID)
	own := f.record == string(c.ID)
	p.seen["call "+string(c.Outcome)]++
	switch {
	case c.State != "closed":
		p.say("call %d is %s", seen.n, c.State)
	case (c.Outcome == calls.Complete) != (c.Reason == ""):
		p.say("call %d is %s with the reason %q", seen.n, c.Outcome, c.Reason)
	case seen.broke && c.Outcome == calls.Complete:
		p.say("call %d is complete, and its answer broke off", seen.n)
	case own != (f.epoch == 0):
		p.say("call %d was taken over %d times, and closed by the record %s", seen.n, f.epoch, f.record)
	case f.claimed != f.replay, f.claimed && c.Outcome != calls.Complete:
		p.say("call %d is %s, has its claim: %v, and an answer for repeats: %v", seen.n, c.Outcome, f.claimed, f.replay)
	}
}

// paid holds that every attempt has ended and has its line, and that the lines say what it cost.
func (p *play) paid(seen *seenCall, c *calls.Call) {
	lines, err := metering.Lines(context.Background(), p.base, scheduledOrg, c.ID)
	if err != nil {
		p.say("the lines of call %d: %v", seen.n, err)
	}
	uses, lates, tokens := map[int]int{}, map[int]int{}, map[int][2]int64{}
	for _, l := range lines {
		if l.Kind == metering.Use {
			uses[l.N]++
		} else {
			lates[l.N]++
			p.seen["late line"]++
		}
		t := tokens[l.N]
		tokens[l.N] = [2]int64{t[0] + l.Charge.Input, t[1] + l.Charge.Output}
		if l.N >= len(c.Attempts) {
			p.say("call %d has a line of attempt %d, which was never made", seen.n, l.N)
		}
	}
	if len(c.Attempts) > 1 {
		p.seen["several attempts"]++
	}
	for n, a := range c.Attempts {
		switch told, is := seen.tokens[n]; {
		case a.N != n || a.State == calls.Begun:
			p.say("attempt %d of call %d is %d, and %s", n, seen.n, a.N, a.State)
		case uses[n] != 1 || lates[n] > 1:
			p.say("attempt %d of call %d has %d lines and %d late ones", n, seen.n, uses[n], lates[n])
		case is && (c.Reason != reasonLost || lates[n] > 0 || !seen.pr.dead) && tokens[n] != told:
			p.say("attempt %d of call %d cost %v, and its lines say %v", n, seen.n, told, tokens[n])
		}
	}
}

// turn holds that a call's messages stand where it says.
func (p *play) turn(seen *seenCall, c *calls.Call, list []keptMessage) {
	if c.Thread == "" {
		return
	}
	at := c.FirstSeq + c.NIn
	if at >= len(list) {
		p.say("call %d has no answer at %d", seen.n, at)
		return
	}
	for _, m := range list[c.FirstSeq:at] {
		if m.call != c.ID || m.role != "user" {
			p.say("call %d has at %d what is another's", seen.n, m.seq)
		}
	}
	if a := list[at]; a.call != c.ID || a.role != "assistant" || (a.status == "complete") != (c.Outcome == calls.Complete) {
		p.say("call %d is %s, and at %d there is %+v", seen.n, c.Outcome, at, a)
	}
}

// gapless holds that a thread has no gap, and nothing twice: the same is there again only when something else was said
// between.
func (p *play) gapless(thread id.Thread, list []keptMessage) {
	last := ""
	for i, m := range list {
		if m.seq != i {
			p.say("%s has %d where %d is due", thread, m.seq, i)
		}
		if m.role != "user" {
			continue
		}
		if m.text == last && !p.repeated(m.text) {
			p.say("%s has %q twice", thread, m.text)
		}
		last = m.text
	}
}

// repeated reports whether text was asked again without a key: then it may be another message that says the same.
func (p *play) repeated(text string) bool {
	for _, c := range p.clients {
		if c.text == text && c.retry {
			return true
		}
	}
	return false
}

// told holds that a client was told the truth.
func (p *play) told(c *client, list []keptMessage) {
	if c.status == 500 || c.code == "internal_error" {
		p.say("client %d was told %d: %s", c.n, c.status, c.raw)
	}
	p.note("client %d was told %d %s %q", c.n, c.status, c.code, c.seen)
	if c.whole {
		p.seen["whole answer"]++
	}
	if c.code != "" && !c.cut {
		p.seen["told "+c.code]++
	}
	seen := p.calls[c.call]
	for _, m := range list {
		if m.call != c.call || m.role != "assistant" || seen.stored.Reason == reasonLost { // of what is lost a part may be
			continue
		}
		if c.whole && m.text != c.seen || !strings.HasPrefix(m.text, c.seen) {
			p.say("client %d has seen %q, and the thread has %q", c.n, c.seen, m.text)
		}
	}
	for _, o := range p.clients[:c.n] {
		if c.key != "" && o.key == c.key && o.whole && c.whole && (o.seen != c.seen || o.call != c.call) {
			p.say("clients %d and %d, under one key, were given %q and %q", o.n, c.n, o.seen, c.seen)
		}
	}
}
