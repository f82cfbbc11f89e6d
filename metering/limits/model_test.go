package limits

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
)

// The model is each level's history: who took what, when. It reckons anew each time, from the beginning.
type model struct {
	level Level
	log   []entry
	held  int64
	back  int64 // when a request was last given back, which other processes may not know for the length of a lease
}

type entry struct{ ms, n int64 } // n taken at that time; less than nothing: given back

// debt is what is owed at a time, in 60,000ths.
func (m *model) debt(now int64) (debt int64) {
	last := int64(0)
	for _, e := range append(m.log, entry{now, 0}) {
		debt = max(0, debt-m.level.Limit*(e.ms-last)) // of a minute's limit, each ms a 60,000th
		debt = max(0, debt+e.n*60_000)
		last = e.ms
	}
	return debt
}

func (m *model) fits(now, n int64) bool {
	return m.debt(now)+(m.held+n)*60_000 <= m.level.Limit*60_000
}

func (m *model) add(now, n int64) {
	if n != 0 {
		m.log = append(m.log, entry{now, n})
	}
}

// running is a call of the model.
type running struct {
	grant *Grant
	wants []Want
	at    Limiter
}

// Any sequence of calls, ends and time: what is let in is what the model lets in. Where something is leased, what is refused
// is less than that short of the limit.
func TestModel(t *testing.T) {
	for name, open := range backends {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			rapid.Check(t, func(t *rapid.T) {
				w.org = newOrg()
				w.pass(time.Hour) // nothing of the run before is left
				game := newGame(t, w)
				t.Repeat(map[string]func(*rapid.T){
					"take":   game.take,
					"settle": game.settle,
					"return": game.giveBack,
					"pass":   game.pass,
				})
				game.end(t)
			})
		})
	}
}

// game is a run of the model beside a world.
type game struct {
	w      *world
	levels []*model
	calls  []*running
}

func newGame(t *rapid.T, w *world) *game {
	g := &game{w: w}
	for i, l := range []Level{requests(0), requests(0).of(Org, "o"), tokens(0), tokens(0).at("m"), streams(0)} {
		l.Limit = rapid.SampledFrom([]int64{1, 2, 7, 60, 99, 150, 1000}).Draw(t, "limit")
		g.levels = append(g.levels, &model{level: l})
		_ = i
	}
	return g
}

func (g *game) now() int64 { return g.w.ms.Load() }

// lease is what of a level may be leased beside what is used.
func (g *game) lease(l Level) int64 { return l.Limit / leasePart * int64(len(g.w.all)) }

func (g *game) take(t *rapid.T) {
	c := &running{at: g.w.process()}
	fits, sure := true, true
	for _, m := range g.levels {
		if !rapid.Bool().Draw(t, "of it") {
			continue
		}
		n := int64(1)
		if m.level.Kind == Tokens {
			n = rapid.Int64Range(1, m.level.Limit).Draw(t, "n")
		}
		c.wants = append(c.wants, m.level.want(n))
		fits = fits && m.fits(g.now(), n)
		sure = sure && m.fits(g.now(), n+g.lease(m.level)) && (len(g.w.all) == 1 || g.now()-m.back >= leaseFor)
	}
	c.grant = NewGrant(c.at, g.w.org)
	_, err := c.grant.Take(t.Context(), c.wants)
	switch {
	case err != nil && !fault.HasCode(err, "rate_limit_exceeded"):
		t.Fatalf("%v", err)
	case err == nil && !fits:
		t.Fatalf("%v was let in", c.wants)
	case err != nil && sure:
		t.Fatalf("%v was refused: %v", c.wants, err)
	case err != nil:
		return
	}
	g.calls = append(g.calls, c)
	g.each(c, func(m *model, want Want) {
		if m.level.Kind == Requests {
			m.add(g.now(), want.N)
		} else {
			m.held += want.N
		}
	})
}

func (g *game) each(c *running, f func(*model, Want)) {
	for _, want := range c.wants {
		for _, m := range g.levels {
			if m.level == want.Level {
				f(m, want)
			}
		}
	}
}

// draw takes a call out of those that run; nil if none does.
func (g *game) draw(t *rapid.T) *running {
	if len(g.calls) == 0 {
		t.Skip("no call runs")
	}
	i := rapid.IntRange(0, len(g.calls)-1).Draw(t, "call")
	c := g.calls[i]
	g.calls = append(g.calls[:i:i], g.calls[i+1:]...)
	return c
}

func (g *game) settle(t *rapid.T) {
	c := g.draw(t)
	used := rapid.Int64Range(0, 2000).Draw(t, "used")
	c.grant.Settle(used)
	g.w.tell()
	g.each(c, func(m *model, want Want) {
		if m.level.Kind == Requests {
			return
		}
		m.held -= want.N
		if m.level.Kind == Tokens {
			m.add(g.now(), used)
		}
	})
}

func (g *game) giveBack(t *rapid.T) {
	c := g.draw(t)
	c.grant.Return()
	g.w.tell()
	g.each(c, func(m *model, want Want) {
		if m.level.Kind == Requests {
			m.add(g.now(), -want.N)
			m.back = g.now()
		} else {
			m.held -= want.N
		}
	})
}

func (g *game) pass(t *rapid.T) {
	g.w.pass(time.Duration(rapid.SampledFrom([]int64{1, 17, 400, 999, 1000, 8571, 31_000, 60_000}).Draw(t, "ms")) * time.Millisecond)
}

// end lets all calls end. When all is paid, all of each level can be had, and no more.
func (g *game) end(t *rapid.T) {
	for _, c := range g.calls {
		c.grant.Settle(0)
	}
	g.w.tell()
	g.w.pass(48 * time.Hour) // more was used than there was
	for _, m := range g.levels {
		grant := NewGrant(g.w.process(), g.w.org)
		if _, err := grant.Take(t.Context(), []Want{m.level.want(m.level.Limit)}); err != nil {
			t.Fatalf("in the end: %v", err)
		}
		g.w.tell()
		if _, err := NewGrant(g.w.process(), g.w.org).Take(t.Context(), []Want{m.level.want(1)}); err == nil {
			t.Fatalf("one more than %+v", m.level)
		}
		grant.Return()
	}
	g.w.tell()
}

// Any sequence of faults between processes and Redis, and in it: nobody is refused but by a limit, no window gets more than
// the limit, what is forgiven in it, and what shares may give out besides, and when all is well again the limit is as it was.
func TestModelWithFaults(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	const processes = 2
	w := newWorld(t, client, processes)
	var all []*Redis
	var wires []*wire
	for _, l := range w.all {
		all = append(all, l.(*Redis))
		wires = append(wires, tap(l.(*Redis)))
	}
	rapid.Check(t, func(t *rapid.T) {
		w.org = newOrg()
		for _, wire := range wires {
			wire.set(nil)
		}
		w.pass(time.Hour)
		level := requests(rapid.SampledFrom([]int64{1, 10, 60, 1000}).Draw(t, "limit"))
		var let []int64 // when
		begun := w.ms.Load()
		losses := int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 3, 30}).Draw(t, "times") {
					switch _, err := w.process().Take(t.Context(), w.org, []Want{level.want(1)}); {
					case err == nil:
						let = append(let, w.ms.Load())
					case !fault.HasCode(err, "rate_limit_exceeded"):
						t.Fatal(err)
					}
				}
			},
			"pass": func(t *rapid.T) {
				w.ms.Add(rapid.SampledFrom([]int64{1, 100, 999, 5000, 31_000}).Draw(t, "ms"))
			},
			"tick": func(t *rapid.T) { all[rapid.IntRange(0, processes-1).Draw(t, "process")].tick() },
			"cut": func(t *rapid.T) {
				how := rapid.SampledFrom([]func([]*command, func([]*command)){lost, unheard}).Draw(t, "how")
				wires[rapid.IntRange(0, processes-1).Draw(t, "process")].set(how)
			},
			"mend": func(t *rapid.T) { wires[rapid.IntRange(0, processes-1).Draw(t, "process")].set(nil) },
			"flush": func(t *rapid.T) {
				losses++
				if err := client.FlushDB(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			},
		})
		// In the window from one that was let in to another: a limit at once, what is forgiven, and beside it what shares and
		// what was lost with Redis let in. A window that is cut off by nothing has all of them.
		n := int64(len(let))
		if n > 0 {
			most := level.Limit + level.Limit*(w.ms.Load()-begun)/60_000 + 1
			most += processes*(level.Limit/processes+1) + level.Limit*(w.ms.Load()-begun)/60_000 // shares
			most += losses * level.Limit
			if n > most {
				t.Fatalf("%d were let in, where %d is the most there may be", n, most)
			}
		}
		for _, wire := range wires {
			wire.set(nil)
		}
		for range 3 {
			w.pass(time.Minute)
		}
		grant := NewGrant(w.process(), w.org)
		if _, err := grant.Take(t.Context(), []Want{level.want(level.Limit)}); err != nil {
			t.Fatalf("when all was well again: %v", err)
		}
		w.tell()
		if _, err := w.process().Take(t.Context(), w.org, []Want{level.want(1)}); err == nil {
			t.Fatal("and one more than the limit")
		}
	})
}
