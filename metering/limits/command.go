package limits

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/id"
)

//go:embed take.lua
var takeText string

var takeScript = redis.NewScript(takeText)

// command is one of the script's: what this process says of some levels of an org, and what calls want of them.
type command struct {
	org     id.Org
	of      *shared
	n       int64
	asked   int64 // when, by our clock
	levels  []said
	waiters []*waiter
	keys    []string
	args    []any

	reply []int64
	err   error
}

// said is what a command says of a level.
type said struct {
	*share
	used, back, stated int64
	lot, usedAlone     int64 // what of used was used without Redis, and all that was
}

// probe is the org whose level is asked for to find out whether Redis is back. No org has this name.
const probe id.Org = "probe"

// build makes the command that decides for waiters, and tells of their levels, or of more. r.mu is held.
func (r *Redis) build(org id.Org, s *shared, waiters []*waiter, more []*share) *command {
	r.n++
	c := &command{org: org, of: s, n: r.n, asked: r.clock(), waiters: waiters}
	replicas := r.replicas()
	at := map[*share]int{}
	usual := map[*share]int64{}
	for _, b := range more {
		at[b] = len(c.levels) + 1
		c.levels = append(c.levels, said{share: b})
	}
	for _, w := range waiters {
		for _, want := range w.wants {
			b := r.level(org, s, want.Level)
			if at[b] == 0 {
				at[b] = len(c.levels) + 1
				c.levels = append(c.levels, said{share: b})
			}
			usual[b] = max(usual[b], want.N)
		}
	}
	now := int64(0)
	if r.o.redisTime != nil {
		now = r.o.redisTime()
	}
	c.args = append(c.args, now, r.owner, c.n, holdsFor)
	for i := range c.levels {
		b := &c.levels[i]
		limit := b.level.Limit
		drain, ahead := limit, min(leaseCalls*usual[b.share], limit/leasePart)
		if b.level.Kind == Streams {
			drain = 0
		}
		if usual[b.share] > 0 { // what is leased goes back and is leased anew
			b.leased = 0
		}
		b.stated = b.holds(c.asked)
		b.lot, b.usedAlone = b.share.usedSince(c.asked, replicas), b.share.usedAlone
		b.used, b.back = b.share.used+b.lot, b.share.back
		b.known.pass(c.asked, limit)
		c.keys = append(c.keys, b.key)
		c.args = append(c.args, limit, drain, b.stated, b.used, b.told, b.back, b.toldBack, b.known.debt, b.acked, c.asked-b.ackedAt, ahead)
	}
	for _, w := range waiters {
		c.args = append(c.args, len(w.wants))
		for _, want := range w.wants {
			c.args = append(c.args, at[s.buckets[want.name()]], want.N)
		}
	}
	return c
}

// holds is what a level's share of this process is.
func (b *share) holds(now int64) int64 {
	if now >= b.until {
		b.leased = 0
	}
	return b.held + b.leased
}

// apply takes note of what Redis has replied. r.mu is held.
func (r *Redis) apply(c *command) {
	r.note(c.err)
	for _, w := range c.waiters {
		w.err = c.err
	}
	if c.err == nil {
		r.applyLevels(c)
		calls := c.reply[1+3*len(c.levels):]
		for i, w := range c.waiters {
			w.refused = int(calls[i])
			r.applyCall(c, w)
		}
	}
	for _, w := range c.waiters {
		w.decided = true
		close(w.done)
	}
}

func (r *Redis) applyLevels(c *command) {
	for i, b := range c.levels {
		owed, others, extra := c.reply[1+3*i], c.reply[2+3*i], c.reply[3+3*i]
		s := b.share
		s.known, s.others = meter{owed, c.asked}, others
		s.told, s.toldBack = b.used, b.back
		if s.alone { // it is told now, but for what was used since the command was made
			s.used += b.lot + s.usedAlone - b.usedAlone
			s.alone, s.usedAlone = false, 0
		}
		s.stated, s.acked, s.ackedAt = b.stated+extra, c.n, c.asked
		if extra > 0 {
			s.leased, s.until = extra, c.asked+leaseFor
		}
	}
}

// applyCall gives a call what Redis let it have, unless it has not waited.
func (r *Redis) applyCall(c *command, w *waiter) {
	of := make([]*share, len(w.wants))
	for i, want := range w.wants {
		b := r.level(c.org, c.of, want.Level)
		of[i] = b
		if w.refused == 0 {
			b.stated += want.N
			if !w.gone {
				b.take(want)
			}
		}
	}
	now := r.clock()
	w.rooms = rooms(of, w.wants, now)
	if w.refused > 0 {
		want, b := w.wants[w.refused-1], of[w.refused-1]
		w.over = max(1, over(want.Level, b.known.debt, b.others+b.held+b.used-b.told, want.N))
	}
}

// serve asks for the calls of an org that wait, until none does.
func (r *Redis) serve(org id.Org, s *shared) {
	for c := r.next(nil, org, s); c != nil; c = r.next(c, org, s) {
		r.carryOut(c)
	}
}

// next takes note of what has become of the last command, if there was one, and makes the one for those that wait; nil if
// nobody does.
func (r *Redis) next(last *command, org id.Org, s *shared) *command {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last != nil {
		r.apply(last)
	}
	s.queue = slices.DeleteFunc(s.queue, func(w *waiter) bool { return w.gone })
	if len(s.queue) == 0 {
		s.busy = false
		return nil
	}
	some := s.queue[:min(len(s.queue), together)]
	s.queue = slices.Clone(s.queue[len(some):])
	return r.build(org, s, some, nil)
}

// finish carries commands out and takes note of what has become of them.
func (r *Redis) finish(commands ...*command) {
	r.carryOut(commands...)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range commands {
		r.apply(c)
	}
}

// carryOut has Redis carry commands out, unless it is away: then it is only tried.
func (r *Redis) carryOut(commands ...*command) {
	for _, c := range commands {
		c.err = errNotSaid
	}
	if r.isAway() && commands[0].org != probe {
		return
	}
	r.o.Panics.Run("limits", func() { r.exec(commands) })
}

var errNotSaid = errors.New("limits: Redis was not asked")

// run has Redis run commands, in one round trip.
func (r *Redis) run(commands []*command) {
	run := func(commands []*command, how func(redis.Pipeliner, *command) *redis.Cmd) (unknown []*command) {
		pipe := r.client.Pipeline()
		replies := make([]*redis.Cmd, len(commands))
		for i, c := range commands {
			replies[i] = how(pipe, c)
		}
		_, _ = pipe.Exec(context.Background()) // each reply has its error
		for i, c := range commands {
			c.reply, c.err = replies[i].Int64Slice()
			switch {
			case redis.HasErrorPrefix(c.err, "NOSCRIPT"):
				unknown = append(unknown, c)
			case c.err == nil && (len(c.reply) != 1+3*len(c.levels)+len(c.waiters) || c.reply[0] != 0):
				c.err = fmt.Errorf("limits: command %d came late", c.n)
			}
		}
		return unknown
	}
	unknown := run(commands, func(p redis.Pipeliner, c *command) *redis.Cmd {
		return takeScript.EvalSha(context.Background(), p, c.keys, c.args...)
	})
	if len(unknown) > 0 {
		run(unknown, func(p redis.Pipeliner, c *command) *redis.Cmd {
			return takeScript.Eval(context.Background(), p, c.keys, c.args...)
		})
	}
}

// note counts failures. After some of them in a row Redis is away. r.mu is held.
func (r *Redis) note(err error) {
	if err == nil {
		r.failed = 0
		if r.away {
			r.o.Log.Info("limits are shared again")
		}
		r.away = false
		return
	}
	if r.failed++; r.failed >= failures && !r.away {
		r.away = true
		r.o.Log.Warn("limits are kept by shares of each process: Redis does not answer", "error", err)
	}
}

// tick tells Redis what has changed since it was last told, or finds out whether it is back.
func (r *Redis) tick() {
	if r.isAway() {
		r.finish(r.probe())
	}
	if r.isAway() {
		return
	}
	all := r.changed()
	for some := range slices.Chunk(all, together) {
		r.finish(some...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range all {
		if c.of.busy = len(c.of.queue) > 0; c.of.busy {
			go r.o.Panics.Run("limits", func() { r.serve(c.org, c.of) })
		}
	}
}

func (r *Redis) probe() *command {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &shared{buckets: map[name]*share{}}
	return r.build(probe, s, nil, []*share{r.level(probe, s, Level{Scope: Org, Kind: Streams, Limit: 1})})
}

// changed are the commands that tell what has changed of levels, of orgs for which no command is under way. It forgets
// levels that are as if they had never been.
func (r *Redis) changed() (all []*command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	for org, s := range r.orgs {
		if s.busy {
			continue
		}
		var news []*share
		for k, b := range s.buckets {
			switch {
			case b.news(now):
				news = append(news, b)
			case b.idle(now):
				delete(s.buckets, k)
			}
		}
		switch {
		case len(news) > 0:
			s.busy = true
			all = append(all, r.build(org, s, nil, news))
		case len(s.buckets) == 0:
			delete(r.orgs, org)
		}
	}
	return all
}

// news reports whether Redis does not know how the level stands with this process.
func (b *share) news(now int64) bool {
	holds := b.holds(now)
	return b.alone || b.used != b.told || b.back != b.toldBack || holds != b.stated || holds > 0 && now-b.ackedAt >= saidAgain
}

// idle reports whether there is nothing to remember of a level.
func (b *share) idle(now int64) bool {
	b.known.pass(now, b.level.Limit)
	return b.held == 0 && b.known.debt == 0 && now-b.touched >= idleFor
}
