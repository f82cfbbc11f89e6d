package metering

import (
	"context"
	"errors"
	"log/slog"
	"math/big"
	"sync"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Standing is where a budget stands, counted from the ledger and the calls that are open.
type Standing struct {
	Budget
	Start time.Time // of the present period
	End   time.Time // zero: never
	Spent Sum
	Held  Sum // by calls under way

	booked *Sum // as the row of a hard budget has it; nil: there is none
}

// forever is the end of a period that has none.
var forever = time.Unix(1<<33, 0)

// standingSQL reads one budget, in one snapshot. A line is written after its call was opened, by clocks that may differ by
// less than a day.
const standingSQL = `SELECT CAST(s.used_pico AS text), spent.usd, spent.pico, held.usd, held.pico
FROM budgets b
LEFT JOIN used s ON s.org_id = b.org_id AND s.budget_id = b.budget_id AND s.period_start = $3,
(SELECT CAST(coalesce(sum(l.cost_pico / 1000000000000), 0) AS bigint) AS usd, CAST(coalesce(sum(l.cost_pico % 1000000000000), 0) AS bigint) AS pico
  FROM ledger l JOIN calls c ON c.org_id = l.org_id AND c.call_id = l.call_id JOIN budgets b ON ` + counts + `
  WHERE b.org_id = $1 AND b.budget_id = $2 AND l.org_id = $1 AND l.at >= $5 AND c.opened_at >= $3 AND c.opened_at < $4) spent,
(SELECT CAST(coalesce(sum(c.hold_pico / 1000000000000), 0) AS bigint) AS usd, CAST(coalesce(sum(c.hold_pico % 1000000000000), 0) AS bigint) AS pico
  FROM calls c JOIN budgets b ON ` + counts + `
  WHERE b.org_id = $1 AND b.budget_id = $2 AND c.org_id = $1 AND c.state = 'open' AND c.opened_at >= $3 AND c.opened_at < $4) held
WHERE b.org_id = $1 AND b.budget_id = $2`

// query reads s, whose Budget and Start are set.
func (s *Standing) query(d db.Dialect, org id.Org) db.Query {
	s.End = s.Period.End(s.Start)
	end := s.End
	if end.IsZero() {
		end = forever
	}
	return db.Query{
		SQL:  standingSQL,
		Args: []any{string(org), string(s.ID), db.At(d, s.Start), db.At(d, end), db.At(d, s.Start.AddDate(0, 0, -1))},
		Each: func(r db.Row) error {
			var booked *string
			var spent, held [2]int64
			if err := r.Scan(&booked, &spent[0], &spent[1], &held[0], &held[1]); err != nil {
				return err
			}
			s.Spent, s.Held, s.booked = sumOf(spent), sumOf(held), nil
			if booked == nil {
				return nil
			}
			s.booked = new(Sum)
			return s.booked.Scan(*booked)
		},
	}
}

// sumOf is dollars and the rest of them together.
func sumOf(parts [2]int64) (s Sum) {
	s.pico.SetInt64(parts[0])
	s.pico.Mul(&s.pico, big.NewInt(int64(usd)))
	return s.Plus(SumOf(PicoUSD(parts[1])))
}

// Standings says where each of an org's budgets stands at now.
func (b *Budgets) Standings(ctx context.Context, org id.Org, list []Budget, now time.Time) ([]Standing, error) {
	all := make([]Standing, len(list))
	queries := make([]db.Query, len(list))
	for i, of := range list {
		all[i] = Standing{Budget: of, Start: of.Period.Start(now)}
		queries[i] = all[i].query(b.db.Dialect(), org)
	}
	if len(list) == 0 {
		return all, nil
	}
	return all, b.db.Query(ctx, org, queries...)
}

// Count makes, in the transaction that makes a budget or makes it hard, its row for the present period. Calls of which that
// transaction knows nothing yet may be under way, and processes that know nothing of the budget: Check, which is told,
// counts again until all have heard.
func (b *Budgets) Count(ctx context.Context, tx db.Tx, org id.Org, of Budget, now time.Time) error {
	b.touch(org, heard)
	if !of.Hard {
		_, err := tx.Exec(ctx, `DELETE FROM used WHERE org_id = $1 AND budget_id = $2`, string(org), string(of.ID))
		return err
	}
	_, err := recount(ctx, tx, org, &Standing{Budget: of, Start: of.Period.Start(now)})
	return err
}

// Drop removes, in the transaction that removes a budget, what it has used.
func (b *Budgets) Drop(ctx context.Context, tx db.Tx, org id.Org, of id.Budget) error {
	_, err := tx.Exec(ctx, `DELETE FROM used WHERE org_id = $1 AND budget_id = $2`, string(org), string(of))
	return err
}

// recount puts right the row of a hard budget for one period, and returns by how much it was wrong. It holds the row, so
// whatever changes what it counts has either been committed, or waits for the row and changes it after.
func recount(ctx context.Context, tx db.Tx, org id.Org, s *Standing) (off Sum, err error) {
	at := db.At(tx.Dialect(), s.Start)
	_, err = tx.Exec(ctx, `INSERT INTO used (org_id, budget_id, period_start, used_pico) VALUES ($1, $2, $3, '0') ON CONFLICT DO NOTHING`, string(org), string(s.ID), at)
	if err == nil {
		_, err = tx.Exec(ctx, `UPDATE used SET used_pico = used_pico WHERE org_id = $1 AND budget_id = $2 AND period_start = $3`, string(org), string(s.ID), at)
	}
	if err != nil {
		return off, err
	}
	s.booked = nil
	q := s.query(tx.Dialect(), org)
	if err := tx.Query(ctx, q.SQL, q.Args, q.Each); err != nil {
		return off, err
	}
	if s.booked == nil { // the budget is gone
		_, err := tx.Exec(ctx, `DELETE FROM used WHERE org_id = $1 AND budget_id = $2`, string(org), string(s.ID))
		return off, err
	}
	is := s.Spent.Plus(s.Held)
	if off = s.booked.Minus(is); off.Cmp(Sum{}) == 0 {
		return off, nil
	}
	set := `UPDATE used SET used_pico = $4 WHERE org_id = $1 AND budget_id = $2 AND period_start = $3`
	if tx.Dialect() == db.Postgres {
		set = `UPDATE used SET used_pico = $4::text::numeric WHERE org_id = $1 AND budget_id = $2 AND period_start = $3`
	}
	_, err = tx.Exec(ctx, set, string(org), string(s.ID), at, is.digits())
	return off, err
}

// Drift is a hard budget whose row did not say what the ledger and the open calls say.
type Drift struct {
	Org   id.Org
	ID    id.Budget
	Start time.Time
	Off   Sum  // by how much it was too high
	Young bool // not everybody may have known of the budget: it is no bug
}

// Check compares the rows of an org's hard budgets, of their present periods and those before, with what they stand for,
// and puts right what differs. That is a bug, but where a budget is new.
func (b *Budgets) Check(ctx context.Context, org id.Org, now time.Time) ([]Drift, error) {
	var all []*Standing
	var queries []db.Query
	young := map[id.Budget]bool{}
	err := b.db.Query(ctx, org, db.Query{
		SQL:  `SELECT budget_id, scope, scope_id, period, limit_pico, updated_at FROM budgets WHERE org_id = $1 AND mode = 'hard'`,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			of := Budget{Hard: true}
			var limit int64
			var updated db.Time
			err := r.Scan(&of.ID, &of.Scope, &of.Of, &of.Period, &limit, &updated)
			of.Limit, young[of.ID] = PicoUSD(limit), now.Sub(updated.Time) < heard
			this := of.Period.Start(now)
			all = append(all, &Standing{Budget: of, Start: this})
			if of.Period != Total {
				all = append(all, &Standing{Budget: of, Start: of.Period.Start(this.Add(-time.Second))})
			}
			return err
		},
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	for _, s := range all {
		queries = append(queries, s.query(b.db.Dialect(), org))
	}
	if err := b.db.Query(ctx, org, queries...); err != nil {
		return nil, err
	}
	var found []Drift
	for _, s := range all {
		if s.booked == nil || s.booked.Cmp(s.Spent.Plus(s.Held)) == 0 {
			continue
		}
		d := Drift{Org: org, ID: s.ID, Start: s.Start, Young: young[s.ID]}
		err := b.db.Write(ctx, org, func(tx db.Tx) (err error) {
			d.Off, err = recount(ctx, tx, org, s)
			return err
		})
		if err != nil {
			return found, err
		}
		if d.Off.Cmp(Sum{}) == 0 {
			continue
		}
		if !d.Young {
			b.drift.Add(1)
		}
		found = append(found, d)
	}
	return found, nil
}

// Drifts is how many rows Check has found to be wrong, and put right.
func (b *Budgets) Drifts() int64 { return b.drift.Load() }

// due takes the orgs to check.
func (b *Budgets) due(now time.Time) (list []id.Org) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for org, until := range b.moved {
		list = append(list, org)
		if now.After(until) {
			delete(b.moved, org)
		}
	}
	return list
}

const (
	checkEvery = time.Minute
	softEvery  = 10 * time.Second

	// heard is by when every process has heard of a budget, and what it had begun before has ended.
	heard = 2 * time.Minute
)

// Checker checks the hard budgets that this process booked in, each minute, and keeps count of soft ones. Whoever books in
// a budget checks it, so nobody looks at orgs where nothing moves.
type Checker struct {
	Budgets *Budgets
	Every   time.Duration // 0: a minute
	Log     *slog.Logger
	Panics  *contain.Panics
}

// Run does that until ctx ends.
func (c Checker) Run(ctx context.Context) {
	if c.Every == 0 {
		c.Every = checkEvery
	}
	tick := time.NewTicker(min(softEvery, c.Every))
	defer tick.Stop()
	checked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.Panics.Run("budgets", func() {
			chaos.Point("budgets")
			if err := c.Budgets.countSoft(ctx, time.Now()); err != nil && ctx.Err() == nil {
				c.Log.Warn("what soft budgets have spent could not be counted", "error", err)
			}
			if time.Since(checked) >= c.Every {
				checked = time.Now()
				c.check(ctx)
			}
		})
	}
}

func (c Checker) check(ctx context.Context) {
	for _, org := range c.Budgets.due(time.Now()) {
		found, err := c.Budgets.Check(ctx, org, time.Now())
		if err != nil && ctx.Err() == nil {
			c.Budgets.touch(org, 0)
			c.Log.Warn("budgets could not be checked", "org", org, "error", err)
		}
		for _, d := range found {
			if d.Young {
				c.Log.Info("a new budget was counted again", "org", org, "budget", d.ID, "off_usd", d.Off)
				continue
			}
			c.Log.Error("a budget did not stand where the ledger and the open calls put it, and was put right", "org", org, "budget", d.ID, "period_start", d.Start, "off_usd", d.Off)
		}
	}
}

// spending is what soft budgets have spent, counted now and then while somebody asks.
type spending struct {
	mu     sync.Mutex
	wanted map[id.Org]map[id.Budget]Budget
	spent  map[id.Org]map[id.Budget]Standing
}

// Soft says what is known of the soft budgets among list, and has them counted: what it says is old by up to ten seconds
// and a count, and nothing where nobody asked before.
func (b *Budgets) Soft(org id.Org, list []Budget, now time.Time) (known []Standing) {
	s := &b.soft
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range list {
		if of.Hard {
			continue
		}
		if s.wanted == nil || len(s.wanted) > maxFull {
			s.wanted, s.spent = map[id.Org]map[id.Budget]Budget{}, map[id.Org]map[id.Budget]Standing{}
		}
		if s.wanted[org] == nil {
			s.wanted[org] = map[id.Budget]Budget{}
		}
		s.wanted[org][of.ID] = of
		if k, ok := s.spent[org][of.ID]; ok && k.Start.Equal(of.Period.Start(now)) {
			k.Budget = of
			known = append(known, k)
		}
	}
	return known
}

func (s *spending) forget(org id.Org) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wanted, org)
	delete(s.spent, org)
}

// countSoft counts the budgets that were asked for since it was called last.
func (b *Budgets) countSoft(ctx context.Context, now time.Time) error {
	s := &b.soft
	s.mu.Lock()
	wanted := s.wanted
	s.wanted = map[id.Org]map[id.Budget]Budget{}
	s.mu.Unlock()
	var errs []error
	for org, budgets := range wanted {
		list := make([]Budget, 0, len(budgets))
		for _, of := range budgets {
			list = append(list, of)
		}
		all, err := b.Standings(ctx, org, list, now)
		if err != nil {
			errs = append(errs, err)
			if fault.Is(err, fault.Unavailable) {
				break
			}
			continue
		}
		s.mu.Lock()
		if s.spent == nil {
			s.spent = map[id.Org]map[id.Budget]Standing{}
		}
		s.spent[org] = map[id.Budget]Standing{}
		for _, k := range all {
			s.spent[org][k.ID] = k
		}
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}
