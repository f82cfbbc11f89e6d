package metering

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

// till is a store with the rooms that a call's money goes through.
type till struct {
	url     string
	store   db.Store
	calls   *calls.Store
	ledger  *Ledger
	budgets *Budgets
}

func openTill(t testing.TB, url string) *till {
	t.Helper()
	l := &till{url: url, calls: calls.New(), ledger: New(), budgets: NewBudgets()}
	shut, ended := l.calls.RecordStages()
	opened, begun := l.calls.OpenStages()
	store, err := db.Open(context.Background(), db.Options{
		URL: url, Timeout: 10 * time.Second,
		Stages: slices.Concat(shut, []db.Stage{l.ledger.Stage()}, ended, opened, l.budgets.Stages(), begun),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	l.store = store
	l.calls.Use(store)
	l.budgets.Use(store)
	return l
}

// org makes an org.
func (l *till) org(t testing.TB) id.Org {
	t.Helper()
	org := id.NewOrg()
	l.do(t, org, `INSERT INTO orgs (org_id, name, tier, seats) VALUES ($1, 'n', 't', 1)`, string(org))
	return org
}

// fataler is what both testing and rapid have.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func (l *till) do(t fataler, org id.Org, sql string, args ...any) {
	t.Helper()
	err := l.store.Write(context.Background(), org, func(tx db.Tx) error {
		_, err := tx.Exec(context.Background(), sql, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// budget makes or changes a budget as an admin does.
func (l *till) budget(t fataler, org id.Org, b Budget) Budget {
	t.Helper()
	mode := map[bool]string{true: "hard", false: "soft"}[b.Hard]
	if b.ID == "" {
		b.ID = id.NewBudget()
	}
	err := l.store.Write(context.Background(), org, func(tx db.Tx) error {
		_, err := tx.Exec(context.Background(), `INSERT INTO budgets (org_id, budget_id, scope, scope_id, period, limit_pico, mode) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (org_id, budget_id) DO UPDATE SET limit_pico = excluded.limit_pico, mode = excluded.mode`,
			string(org), string(b.ID), b.Scope, b.Of, string(b.Period), int64(b.Limit), mode)
		if err != nil {
			return err
		}
		return l.budgets.Count(context.Background(), tx, org, b, time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// customer is whose calls count where.
type customer struct {
	team   id.Team
	user   id.User
	key    id.Key
	thread id.Thread
}

func (l *till) opening(org id.Org, c customer, hold PicoUSD) (*calls.Opening, *Booking, *db.Unit) {
	o := &calls.Opening{Org: org, ID: id.NewRequest(), Key: c.key, User: c.user, Team: c.team, Thread: c.thread, Owner: "own_1", HoldPico: int64(hold), Provider: "openai", Model: "m"}
	k := &Booking{Org: org, Call: o.ID}
	u := &db.Unit{Org: org}
	l.calls.Open(u, o)
	l.budgets.Hold(u, k)
	return o, k, u
}

// commit commits u as the gateway does.
func (l *till) commit(t testing.TB, u *db.Unit, k *Booking) {
	t.Helper()
	for tries := 0; ; tries++ {
		err := l.store.Commit(context.Background(), u)
		switch {
		case fault.HasCode(err, "busy") && tries < 1000: // a loaded machine; the client would come back
			<-time.After(time.Millisecond)
			continue
		case err != nil:
			t.Error(err)
			return
		case k != nil && k.Again && !u.Alone:
			u.Alone = true
			continue
		case k != nil && k.Again:
			t.Error("a unit that was alone found others in its way")
		}
		return
	}
}

// open opens a call and says whether there was room for it.
func (l *till) open(t testing.TB, org id.Org, c customer, hold PicoUSD) (*calls.Opening, *Booking, bool) {
	t.Helper()
	o, k, u := l.opening(org, c, hold)
	l.commit(t, u, k)
	if won := o.Result == calls.Won; won && len(k.Over) > 0 || !won && len(k.Over) == 0 && c.thread == "" {
		t.Errorf("the call is %v, and over are %v", o.Result, k.Over)
	}
	return o, k, o.Result == calls.Won
}

func (l *till) closing(o *calls.Opening, epoch int, cost PicoUSD) (*calls.Closing, *db.Unit) {
	c := &calls.Closing{Org: o.Org, ID: o.ID, Epoch: epoch, RecordID: fmt.Sprint(o.ID, epoch), Outcome: calls.Complete}
	if cost == 0 {
		c.Outcome, c.Reason = calls.Failed, "upstream_error"
	}
	u := &db.Unit{Org: o.Org, Record: true}
	l.calls.Close(u, c)
	line := l.line(o, Use, cost)
	l.ledger.Put(u, line)
	l.budgets.Settle(u, o.Org, o.ID, line)
	return c, u
}

func (l *till) line(o *calls.Opening, kind string, cost PicoUSD) *Line {
	return &Line{Org: o.Org, Call: o.ID, Kind: kind, Key: o.Key, User: o.User, Team: o.Team, Thread: o.Thread, Provider: "openai", Model: "m", Charge: Charge{Cost: cost, Status: Computed, Version: "v"}}
}

func (l *till) record(t testing.TB, o *calls.Opening, cost PicoUSD) {
	t.Helper()
	c, u := l.closing(o, 0, cost)
	l.commit(t, u, nil)
	if !c.Recorded {
		t.Error("a call was not recorded")
	}
}

// eachTill runs f on both stores.
func eachTill(t *testing.T, f func(t *testing.T, l *till)) {
	for name, url := range map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, openTill(t, url(t)))
		})
	}
}

// account is what the store has of an org, read with the test's own SQL and reckoned with its own words: it must not share
// the product's idea of what counts where.
type account struct {
	calls   []callRow
	spent   map[id.Request]PicoUSD
	budgets []Budget
	used    map[place]Sum
}

type callRow struct {
	id id.Request
	customer
	open   bool
	hold   PicoUSD
	opened time.Time
}

type place struct {
	budget id.Budget
	start  time.Time
}

func (l *till) account(t fataler, org id.Org) account {
	t.Helper()
	a := account{spent: map[id.Request]PicoUSD{}, used: map[place]Sum{}}
	q := func(sql string, each func(db.Row) error) db.Query {
		return db.Query{SQL: sql, Args: []any{string(org)}, Each: each}
	}
	err := l.store.Query(context.Background(), org,
		q(`SELECT call_id, coalesce(team_id, ''), user_id, key_id, coalesce(thread_id, ''), state = 'open', hold_pico, opened_at FROM calls WHERE org_id = $1`, func(r db.Row) error {
			var c callRow
			var at db.Time
			err := r.Scan(&c.id, &c.team, &c.user, &c.key, &c.thread, &c.open, &c.hold, &at)
			c.opened = at.Time
			a.calls = append(a.calls, c)
			return err
		}),
		q(`SELECT call_id, cost_pico FROM ledger WHERE org_id = $1`, func(r db.Row) error {
			var call id.Request
			var cost PicoUSD
			err := r.Scan(&call, &cost)
			a.spent[call] += cost
			return err
		}),
		q(`SELECT budget_id, scope, scope_id, period, limit_pico, mode = 'hard' FROM budgets WHERE org_id = $1`, func(r db.Row) error {
			var b Budget
			err := r.Scan(&b.ID, &b.Scope, &b.Of, &b.Period, &b.Limit, &b.Hard)
			a.budgets = append(a.budgets, b)
			return err
		}),
		q(`SELECT budget_id, period_start, CAST(used_pico AS text) FROM used WHERE org_id = $1`, func(r db.Row) error {
			var p place
			var at db.Time
			var s Sum
			err := r.Scan(&p.budget, &at, &s)
			p.start = at.Time
			a.used[p] = s
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// in is whether a call counts in a budget, and in which of its periods.
func (c callRow) in(b Budget) (start time.Time, counts bool) {
	day := c.opened.UTC().Truncate(24 * time.Hour)
	start = map[Period]time.Time{
		Day: day, Week: day.AddDate(0, 0, -(int(day.Weekday())+6)%7), Month: day.AddDate(0, 0, 1-day.Day()), Total: time.Unix(0, 0).UTC(),
	}[b.Period]
	return start, b.Scope == "org" || b.Of == map[string]string{"team": string(c.team), "user": string(c.user), "key": string(c.key), "thread": string(c.thread)}[b.Scope]
}

// check says what of the rows is not what it should be.
func (a account) check() (wrong []string) {
	is := map[place]PicoUSD{}
	for _, c := range a.calls {
		for _, b := range a.budgets {
			start, counts := c.in(b)
			if !counts || !b.Hard {
				continue
			}
			is[place{b.ID, start}] += a.spent[c.id]
			if c.open {
				is[place{b.ID, start}] += c.hold
			}
		}
	}
	for p, used := range a.used {
		if used.Cmp(SumOf(is[p])) != 0 {
			wrong = append(wrong, fmt.Sprintf("%s has used %s in the period from %s, and counts %s", p.budget, used, p.start, is[p]))
		}
	}
	return wrong
}

// The rows of used, of all of an org's budgets, are what the ledger and the open calls add up to.
func (l *till) balanced(t fataler, org id.Org) {
	t.Helper()
	for _, wrong := range l.account(t, org).check() {
		t.Fatal(wrong)
	}
}

// Five hundred calls at once, on a budget for ten of them, and on one for ten and a half: ten are let in, on every level,
// and when they have ended there is room for what they did not spend.
func TestManyCallsAtOnce(t *testing.T) {
	const hold = PicoUSD(1_000_000)
	levels := map[string]customer{
		"org": {user: "usr", key: "key"}, "team": {team: "team", user: "usr", key: "key"}, "user": {user: "usr", key: "key"}, "key": {user: "usr", key: "key"},
		"thread": {user: "usr", key: "key", thread: "thread"},
	}
	eachTill(t, func(t *testing.T, l *till) {
		processes := []*till{l, l}
		if l.store.Dialect() == db.Postgres {
			processes[1] = openTill(t, l.url)
		}
		for scope, c := range levels {
			for _, limit := range []PicoUSD{10 * hold, 10*hold + hold/2} {
				org := l.org(t)
				clients := 500
				if scope == "thread" { // one at a time in any case, and so in many commits
					clients = 100
				}
				of := map[string]string{"org": string(org), "team": "team", "user": "usr", "key": "key", "thread": "thread"}[scope]
				l.budget(t, org, Budget{Scope: scope, Of: of, Period: Month, Limit: limit, Hard: true})
				var won, over atomic.Int64
				var open sync.Map
				var wg sync.WaitGroup
				turns := make(chan struct{}, 4) // of a thread: a process has those who want it stand in line
				for i := range clients {
					wg.Go(func() {
						l := processes[i%2]
						if scope == "thread" {
							turns <- struct{}{}
							defer func() { <-turns }()
						}
						for {
							o, k, ok := l.open(t, org, c, hold)
							switch {
							case ok:
								won.Add(1)
								if scope == "thread" { // one call of a thread at a time
									l.record(t, o, hold)
									return
								}
								open.Store(o, true)
							case len(k.Over) > 0:
								over.Add(1)
							default: // the turn is another's
								<-time.After(time.Duration(rand.IntN(3)) * time.Millisecond)
								continue
							}
							return
						}
					})
				}
				wg.Wait()
				if won.Load() != 10 || over.Load() != int64(clients)-10 {
					t.Errorf("%s, %s: %d were let in, %d refused", scope, limit, won.Load(), over.Load())
				}
				l.balanced(t, org)
				n := 0
				open.Range(func(o, _ any) bool { // one half failed, the other cost half
					l.record(t, o.(*calls.Opening), PicoUSD(n%2)*hold/2)
					n++
					return true
				})
				l.balanced(t, org)
				if n > 0 {
					for range 7 {
						if _, _, ok := l.open(t, org, c, hold); !ok {
							t.Errorf("%s, %s: there is no room for what was not spent", scope, limit)
						}
					}
				}
			}
		}
	})
}

// Calls of all sizes at once: whoever is refused would not have fitted at the end either.
func TestNobodyIsRefusedForOthers(t *testing.T) {
	eachTill(t, func(t *testing.T, l *till) {
		org := l.org(t)
		b := l.budget(t, org, Budget{Scope: "org", Of: string(org), Period: Day, Limit: 1000, Hard: true})
		for range 8 {
			var smallest atomic.Int64
			smallest.Store(math.MaxInt64)
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					hold := PicoUSD(1 + rand.IntN(60))
					if _, k, ok := l.open(t, org, customer{user: "usr", key: "key"}, hold); !ok && len(k.Over) > 0 {
						for was := smallest.Load(); int64(hold) < was && !smallest.CompareAndSwap(was, int64(hold)); was = smallest.Load() {
						}
					}
				})
			}
			wg.Wait()
			l.balanced(t, org)
			for p, used := range l.account(t, org).used {
				left := Level{Budget: b, Used: used}.Left()
				if p.budget == b.ID && (left < 0 || int64(left) >= smallest.Load()) {
					t.Errorf("%d are left, and %d were refused", left, smallest.Load())
				}
			}
			b.Limit += 500
			l.budget(t, org, b)
		}
	})
}

// game is the model: what a store of budgets must do, one step after the other, and what may come of several at once.
type game struct {
	*till
	t    *rapid.T
	tb   testing.TB
	org  id.Org
	open []*played
	past []*played
}

type played struct {
	*calls.Opening
	epoch   int
	closing *db.Unit // its record, once it is closed
	unit    *db.Unit // that opened it
}

var customers = []customer{
	{user: "ann", key: "ann1"},
	{user: "ann", key: "ann2", thread: "t1"},
	{team: "red", user: "bob", key: "bob1"},
	{team: "red", user: "cid", key: "cid1", thread: "t2"},
	{team: "blue", user: "dan", key: "dan1"},
	{team: "blue", user: "ann", key: "ann1", thread: "t3"},
}

func (g *game) customer() customer { return rapid.SampledFrom(customers).Draw(g.t, "customer") }

func (g *game) hold() PicoUSD { return PicoUSD(rapid.IntRange(0, 40).Draw(g.t, "hold")) }

// room is what the budgets leave for a call of c that is opened now (fresh), or was at opened.
func (g *game) room(c customer, opened time.Time, fresh bool) PicoUSD {
	a := g.account(g.t, g.org)
	left := PicoUSD(math.MaxInt64)
	for _, b := range a.budgets {
		start, counts := callRow{customer: c, opened: opened}.in(b)
		if used, ok := a.used[place{b.ID, start}]; counts && b.Hard && (ok || fresh) {
			left = min(left, Level{Budget: b, Used: used}.Left())
		}
	}
	return left
}

// Opens one call: it is let in exactly if all its budgets have room for it.
func (g *game) Open(*rapid.T) {
	c, hold := g.customer(), g.hold()
	room := g.room(c, time.Now(), true)
	o, k, u := g.opening(g.org, c, hold)
	g.commit(g.tb, u, k)
	busy := slices.ContainsFunc(g.open, func(p *played) bool { return c.thread != "" && p.Thread == c.thread })
	switch fits := hold <= room || hold == 0; {
	case busy && o.Result == calls.Won:
		g.t.Fatal("two calls have one turn")
	case busy:
	case fits != (o.Result == calls.Won), fits != (len(k.Over) == 0):
		g.t.Fatalf("a call of %d, with room for %d: %v, over %v", hold, room, o.Result, k.Over)
	}
	if o.Result == calls.Won {
		g.open = append(g.open, &played{Opening: o, unit: u})
	}
}

// Opens several at once, which may be one group: no more than there is room for, and nobody is refused who fits at the end.
func (g *game) Burst(*rapid.T) {
	n := rapid.IntRange(2, 8).Draw(g.t, "calls")
	made := make([]*played, n)
	books := make([]*Booking, n)
	before := g.account(g.t, g.org)
	var wg sync.WaitGroup
	for i := range n {
		c, hold := g.customer(), g.hold()
		c.thread = ""
		made[i] = &played{}
		made[i].Opening, books[i], made[i].unit = g.opening(g.org, c, hold)
		wg.Go(func() { g.commit(g.tb, made[i].unit, books[i]) })
	}
	wg.Wait()
	after := g.account(g.t, g.org)
	for _, b := range after.budgets {
		start, _ := callRow{opened: time.Now()}.in(b)
		at := place{b.ID, start}
		if used := after.used[at]; b.Hard && used.Cmp(SumOf(b.Limit)) > 0 && used.Cmp(before.used[at]) > 0 {
			g.t.Fatalf("of %s, whose limit is %s, %s are used, and were %s", b.ID, b.Limit, used, before.used[at])
		}
	}
	for i, p := range made {
		if p.Result == calls.Won {
			g.open = append(g.open, p)
			continue
		}
		c := customer{team: p.Team, user: p.User, key: p.Key}
		if room := g.room(c, time.Now(), true); PicoUSD(p.HoldPico) <= room || len(books[i].Over) == 0 {
			g.t.Fatalf("a call of %d was refused, and there is room for %d: %+v", p.HoldPico, room, books[i].Over)
		}
	}
}

func (g *game) pick() *played {
	if len(g.open) == 0 {
		g.t.Skip("no call is open")
	}
	return g.open[rapid.IntRange(0, len(g.open)-1).Draw(g.t, "call")]
}

// Holds more for a further attempt.
func (g *game) More(*rapid.T) {
	p, hold := g.pick(), g.hold()+20
	var opened time.Time
	for _, c := range g.account(g.t, g.org).calls {
		if c.id == p.ID {
			opened = c.opened
		}
	}
	room := g.room(customer{p.Team, p.User, p.Key, p.Thread}, opened, false)
	k, u := &Booking{Org: g.org, Call: p.ID}, &db.Unit{Org: g.org}
	g.budgets.More(u, k, p.epoch, hold)
	g.commit(g.tb, u, k)
	if more := hold - PicoUSD(p.HoldPico); more > 0 && (more <= room) != (len(k.Over) == 0) {
		g.t.Fatalf("%d more, with room for %d: over %v", more, room, k.Over)
	}
	if len(k.Over) == 0 && len(k.Levels) > 0 {
		p.HoldPico = max(p.HoldPico, int64(hold))
	}
	if rapid.Bool().Draw(g.t, "again") {
		g.commit(g.tb, u, k)
	}
}

// Ends a call: it failed, cost less than it held, or more than its provider had said it could.
func (g *game) Record(*rapid.T) {
	p := g.pick()
	cost := PicoUSD(rapid.SampledFrom([]int{0, 0, 1, 2, 3, 5}).Draw(g.t, "quarters")) * PicoUSD(p.HoldPico) / 4
	c, u := g.closing(p.Opening, p.epoch, cost)
	g.commit(g.tb, u, nil)
	if !c.Recorded {
		g.t.Fatal("a call was not recorded")
	}
	g.ended(p, u)
}

func (g *game) ended(p *played, u *db.Unit) {
	p.closing = u
	g.open = slices.DeleteFunc(g.open, func(o *played) bool { return o == p })
	g.past = append(g.past, p)
}

// A process died: another takes its call over and settles it by an estimate. It was not dead after all: its record comes
// too late, and what the call really cost becomes a line of its own.
func (g *game) Crash(*rapid.T) {
	p := g.pick()
	got, err := g.till.calls.TakeOver(context.Background(), "own_2", calls.Orphan{Org: g.org, ID: p.ID, Epoch: p.epoch})
	if err != nil || got == nil {
		g.t.Fatalf("taking over: %v, %v", got, err)
	}
	if got.HoldPico != p.HoldPico {
		g.t.Fatalf("the call holds %d, not %d", got.HoldPico, p.HoldPico)
	}
	estimate := PicoUSD(p.HoldPico) / 2
	c, u := g.closing(p.Opening, got.Epoch, estimate)
	g.commit(g.tb, u, nil)
	late, lu := g.closing(p.Opening, p.epoch, estimate+1)
	g.commit(g.tb, lu, nil)
	if !c.Recorded || late.Recorded {
		g.t.Fatalf("the settler recorded: %v, the late owner: %v", c.Recorded, late.Recorded)
	}
	line := g.line(p.Opening, Late, PicoUSD(rapid.IntRange(-5, 5).Draw(g.t, "late")))
	for range 2 {
		u := &db.Unit{Org: g.org, Record: true}
		g.ledger.Put(u, line)
		g.budgets.Settle(u, g.org, p.ID, line)
		g.commit(g.tb, u, nil)
	}
	g.ended(p, u)
}

// Runs a unit once more, as after a commit that was not answered. SQLite's commits always are.
func (g *game) Again(*rapid.T) {
	if g.store.Dialect() == db.Postgres && len(g.open) > 0 {
		p := g.pick()
		g.commit(g.tb, p.unit, nil)
		if p.Result != calls.Won {
			g.t.Fatalf("opened again: %v", p.Result)
		}
	}
	if len(g.past) > 0 {
		g.commit(g.tb, g.past[rapid.IntRange(0, len(g.past)-1).Draw(g.t, "past")].closing, nil)
	}
}

// A week goes by.
func (g *game) Week(*rapid.T) {
	week := 7 * 24 * time.Hour
	var starts []db.Time
	err := g.store.Write(context.Background(), g.org, func(tx db.Tx) error {
		starts = nil
		_, err := tx.Exec(context.Background(), `UPDATE calls SET opened_at = opened_at - CAST($2 AS interval) WHERE org_id = $1`, string(g.org), week)
		if err != nil {
			return err
		}
		err = tx.Query(context.Background(), `SELECT DISTINCT u.period_start FROM used u JOIN budgets b ON b.org_id = u.org_id AND b.budget_id = u.budget_id
			WHERE u.org_id = $1 AND b.period <> 'total' ORDER BY 1`, []any{string(g.org)}, func(r db.Row) error {
			var at db.Time
			err := r.Scan(&at)
			starts = append(starts, at)
			return err
		})
		for _, at := range starts {
			if err == nil {
				_, err = tx.Exec(context.Background(), `UPDATE used SET period_start = $3 WHERE org_id = $1 AND period_start = $2`,
					string(g.org), db.At(tx.Dialect(), at.Time), db.At(tx.Dialect(), at.Add(-week)))
			}
		}
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

// An admin makes a budget, changes one, or takes one away.
func (g *game) Admin(*rapid.T) {
	a := g.account(g.t, g.org)
	limit := PicoUSD(rapid.IntRange(0, 200).Draw(g.t, "limit"))
	if len(a.budgets) > 0 && rapid.Bool().Draw(g.t, "change") {
		b := rapid.SampledFrom(a.budgets).Draw(g.t, "budget")
		if rapid.IntRange(0, 3).Draw(g.t, "drop") == 0 {
			err := g.store.Write(context.Background(), g.org, func(tx db.Tx) error {
				_, err := tx.Exec(context.Background(), `DELETE FROM budgets WHERE org_id = $1 AND budget_id = $2`, string(g.org), string(b.ID))
				if err != nil {
					return err
				}
				return g.budgets.Drop(context.Background(), tx, g.org, b.ID)
			})
			if err != nil {
				g.t.Fatal(err)
			}
			return
		}
		b.Limit, b.Hard = limit, rapid.IntRange(0, 3).Draw(g.t, "soft") > 0
		g.budget(g.t, g.org, b)
		return
	}
	all := map[string][]string{"org": {string(g.org)}, "team": {"red", "blue"}, "user": {"ann", "bob"}, "key": {"ann1", "cid1"}, "thread": {"t1", "t2"}}
	scope := rapid.SampledFrom([]string{"org", "team", "user", "key", "thread"}).Draw(g.t, "scope")
	b := Budget{Scope: scope, Of: rapid.SampledFrom(all[scope]).Draw(g.t, "of"), Period: rapid.SampledFrom([]Period{Day, Week, Total}).Draw(g.t, "period"), Limit: limit, Hard: true}
	if slices.ContainsFunc(a.budgets, func(o Budget) bool { return o.Scope == b.Scope && o.Of == b.Of && o.Period == b.Period }) {
		return
	}
	g.budget(g.t, g.org, b)
}

// Check finds nothing to put right.
func (g *game) Check(*rapid.T) {
	found, err := g.budgets.Check(context.Background(), g.org, time.Now())
	if err != nil || len(found) > 0 {
		g.t.Fatalf("the check found %+v, %v", found, err)
	}
}

// games are how many orgs are played, of some thirty steps each.
const games = 10

// Random steps of owners, settlers and admins, alone and at once: at each of them what hard budgets have used is what the
// ledger and the open calls say, and no call is opened beyond a limit.
func TestBudgetsModel(t *testing.T) {
	eachTill(t, func(t *testing.T, l *till) {
		run, failed := 0, false
		rapid.Check(t, func(rt *rapid.T) {
			if run++; run > games && !failed {
				return
			}
			whole := false
			defer func() { failed = failed || !whole }() // then rapid looks for a shorter one
			g := &game{till: l, t: rt, tb: t, org: l.org(t)}
			for range 3 {
				g.Admin(rt)
			}
			rt.Repeat(map[string]func(*rapid.T){
				"open": g.Open, "burst": g.Burst, "more": g.More, "record": g.Record, "crash": g.Crash, "again": g.Again, "week": g.Week, "admin": g.Admin, "check": g.Check,
				"": func(rt *rapid.T) { l.balanced(rt, g.org) },
			})
			whole = true
		})
	})
}
