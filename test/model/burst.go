package model

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"pgregory.net/rapid"
)

// burst is several clients at once in one thread. What they were told and what the thread holds then must be what one
// after the other would have come to, in some order.
func (p *play) burst(t *rapid.T) {
	p.move()
	var list []*request
	for range rapid.IntRange(2, 4).Draw(t, "clients") {
		q := rapid.SampledFrom([]func() *request{p.thin, p.thin, p.full, p.trimming, p.regenerating, p.adding, p.retrying}).Draw(t, "client")()
		q.kind = "at once: " + q.kind
		if q.script != nil {
			q.script.pause = time.Duration(rapid.IntRange(0, 2).Draw(t, "pause")) * time.Millisecond
		}
		list = append(list, q)
	}
	if list[0].script != nil && chance(t, 10) {
		list[0].kind, list[0].dies, list[0].on = "at once: crash", true, p.House.doomed(false)
	}
	made := p.held() > 0 // else there may be nothing to read yet
	var all sync.WaitGroup
	for _, q := range list {
		p.Steps.add(q.kind)
		all.Go(func() {
			q.send(p.thread.id)
			if q.dies {
				q.on.die()
			}
		})
	}
	var seen []json.RawMessage
	var readErr error
	if made {
		all.Go(func() { seen, _, readErr = p.House.read(p.thread.id) })
	}
	all.Wait()
	for _, q := range list {
		if q.err != nil {
			p.fail("%s: %v", q, q.err)
		}
		p.thread.story = append(p.thread.story, fmt.Sprintf("at once: %s | %+v", q, q.outcome()))
	}
	if readErr != nil {
		p.fail("while others wrote: %v", readErr)
	}
	p.settled(p.thread.id)
	for _, q := range list {
		if id := q.thread(); id != "" && id != p.thread.id {
			p.settled(id)
		}
	}
	steps, why := p.explain(list)
	if steps == nil {
		p.fail("no order explains these %d requests at once\n  %s\nthe thread held\n  %s", len(list), strings.Join(why, "\n  "), show(p.thread.messages))
	}
	for _, s := range steps {
		if s.q.outcome().Code == "thread_locked" {
			p.Steps.note("(refused as locked)")
			continue
		}
		p.take(s.q, s.e)
	}
	if made {
		if err := right(seen, p.thread.messages[:min(len(seen), p.held())], p.thread.read); err != nil {
			p.fail("while others wrote, the thread read\n  %s\nand then\n  %s\n%v", seen, show(p.thread.messages), err)
		}
	}
	p.compare(p.thread)
}

// step is a request in its place, and what it does there.
type step struct {
	q *request
	e effect
}

// explain finds an order in which the requests have the effects that were seen; nil, and where it got stuck, if there is
// none.
func (p *play) explain(list []*request) (steps []step, why []string) {
	first := p.turns + 1
	p.turns += len(list)
	done := make([]bool, len(list))
	var try func(messages []Message) bool
	try = func(messages []Message) bool {
		if len(steps) == len(list) {
			return true
		}
		for i, q := range list {
			if done[i] {
				continue
			}
			e, err := p.fits(messages, steps, q, first+i)
			if err != nil {
				why = append(why, fmt.Sprintf("%d steps in: %v", len(steps), err))
				continue
			}
			done[i] = true
			steps = append(steps, step{q, e})
			if try(e.after) {
				return true
			}
			steps = steps[:len(steps)-1]
			done[i] = false
		}
		return false
	}
	if !try(p.thread.messages) {
		return nil, why
	}
	return steps, nil
}

// fits is the effect of q after these steps; an error if it is not what was seen. What is refused or forked as diverged
// writes nothing into its thread, and another process may have decided that while the turn before it was still open.
func (p *play) fits(messages []Message, steps []step, q *request, turn int) (effect, error) {
	if p.locked(q) || q.adopts() {
		return effect{after: messages}, nil
	}
	e := p.Rules.effect(messages, q, turn, p.House.checkpoints != nil)
	err := e.agrees(q)
	if err == nil || len(steps) == 0 {
		return e, err
	}
	if last := steps[len(steps)-1]; last.e.Asked > 0 && last.e.forked == nil && last.q.on != q.on {
		open := p.Rules.effect(messages[:len(messages)-1], q, turn, p.House.checkpoints != nil)
		if (open.Code == "thread_diverged" || open.forked != nil) && open.agrees(q) == nil {
			open.after = messages
			return open, nil
		}
	}
	return e, err
}

// adopts reports whether q was given the answer of the request beside it that it repeats: it writes nothing then, and nobody
// is asked.
func (q *request) adopts() bool {
	return q.retry > 0 && q.header.Get("Idempotent-Replayed") != "" && len(q.seen) == 0
}

// locked reports whether q was told to come again, as may happen where several processes want one thread: it read the
// thread three times, and each time it had moved on.
func (p *play) locked(q *request) bool {
	o := q.outcome()
	return o.Code == "thread_locked" && o.Status == 409 && o.Asked == 0 && q.header.Get("Retry-After") == "1" && (len(p.House.live) > 1 || strings.Contains(q.kind, "crash"))
}
