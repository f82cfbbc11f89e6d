package orgs

import (
	"context"
	"slices"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Budget is how much an org, or a part of it, may spend in a period. What that means for calls, and what is spent of it, is
// metering's.
type Budget struct {
	ID        id.Budget
	Scope     Scope
	Of        string // the id of what it is for; of an org its own
	Period    string // day, week, month or total
	LimitPico int64  // pico-dollars
	Hard      bool   // no call is begun that might go beyond it
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Scope is what a budget is for.
type Scope string

const (
	ForOrg    Scope = "org"
	ForTeam   Scope = "team"
	ForUser   Scope = "user"
	ForKey    Scope = "key"
	ForThread Scope = "thread"
)

// Counts reports whether a call of the caller in thread, "" for none, counts in b.
func (b Budget) Counts(c Caller, thread id.Thread) bool {
	switch b.Scope {
	case ForOrg:
		return true
	case ForTeam:
		return c.Team != "" && b.Of == string(c.Team)
	case ForUser:
		return b.Of == string(c.User)
	case ForKey:
		return b.Of == string(c.Key)
	case ForThread:
		return thread != "" && b.Of == string(thread)
	}
	return false
}

// Periods are the periods there are budgets for.
var periods = []string{"day", "week", "month", "total"}

// MaxLimit is the largest limit of a budget, four million dollars: what is spent beyond it can still be reckoned with.
const MaxLimit = 4_000_000 * 1_000_000_000_000

// maxBudgets is how many budgets an org may have: they are all looked through at each of its calls.
const maxBudgets = 1000

const budgetsSQL = `SELECT budget_id, scope, scope_id, period, limit_pico, mode = 'hard', created_at, updated_at FROM budgets WHERE org_id = $1`

func scanBudget(r db.Row) (b Budget, err error) {
	var created, updated db.Time
	err = r.Scan(&b.ID, &b.Scope, &b.Of, &b.Period, &b.LimitPico, &b.Hard, &created, &updated)
	b.CreatedAt, b.UpdatedAt = created.Time, updated.Time
	return b, err
}

// Budgets returns all budgets of the org, as this process knows them: others' changes come by the bus, and within KeyTTL in
// any case. They must not be changed.
func (s *Service) Budgets(ctx context.Context, org id.Org) ([]Budget, error) {
	if list, ok := s.budgets.hit(org); ok {
		return list, nil
	}
	return s.budgets.load(ctx, org, func(ctx context.Context) ([]Budget, error) { return s.readBudgets(ctx, org) })
}

// KnownBudgets is Budgets without asking the store; not ok where it would have to be asked.
func (s *Service) KnownBudgets(org id.Org) ([]Budget, bool) { return s.budgets.hit(org) }

func (s *Service) readBudgets(ctx context.Context, org id.Org) (list []Budget, err error) {
	err = s.store.Query(ctx, org, db.Query{
		SQL: budgetsSQL + ` ORDER BY created_at, budget_id`, Args: []any{string(org)},
		Each: func(r db.Row) error {
			b, err := scanBudget(r)
			list = append(list, b)
			return err
		},
	})
	return list, err
}

// ListBudgets returns up to limit of the org's budgets as they are stored, newest first: to admins all, to others those that
// their own calls count in, but for threads'.
func (s *Service) ListBudgets(ctx context.Context, org id.Org, who Caller, after Cursor, limit int) ([]Budget, error) {
	return listed(ctx, s, org, after, limit, budgetsSQL+` AND ($2 OR scope = 'org' OR scope = 'team' AND scope_id = $3 OR scope = 'user' AND scope_id = $4 OR scope = 'key' AND scope_id = $5)`,
		"budget_id", []any{who.Role == Admin, string(who.Team), string(who.User), string(who.Key)}, scanBudget)
}

// Budget returns one of the org's budgets. Errors: fault.NotFound, budget_not_found.
func (s *Service) Budget(ctx context.Context, org id.Org, budget id.Budget) (Budget, error) {
	return single(ctx, s, org, NoBudget(), budgetsSQL+` AND budget_id = $2`, string(budget), scanBudget)
}

// NoBudget is a budget that is not there, or not for the one who asks.
func NoBudget() *fault.Error {
	return fault.New(fault.NotFound, "there is no such budget").WithCode("budget_not_found")
}

// PutBudget makes a budget, or changes the limit and the mode of the one that is there for the same scope, thing and
// period. Whether a thread is there is for others to say. then is run in the same transaction. Errors: fault.Invalid,
// invalid_value; fault.NotFound where the org has no such team, user or API key; fault.Conflict, too_many_budgets.
func (s *Service) PutBudget(ctx context.Context, org id.Org, by Actor, spec Budget, then ...Then[Budget]) (b Budget, err error) {
	if err := spec.check(org); err != nil {
		return Budget{}, err
	}
	err = s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		if err := s.budgetOf(ctx, tx, org, spec); err != nil {
			return nil, err
		}
		var created, updated db.Time
		b = spec
		b.ID = id.NewBudget()
		mode := map[bool]string{true: "hard", false: "soft"}[b.Hard]
		err := tx.QueryRow(ctx, `INSERT INTO budgets (org_id, budget_id, scope, scope_id, period, limit_pico, mode) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (org_id, scope, scope_id, period) DO UPDATE SET limit_pico = excluded.limit_pico, mode = excluded.mode, updated_at = now()
			RETURNING budget_id, created_at, updated_at`,
			[]any{string(org), string(b.ID), string(b.Scope), b.Of, b.Period, b.LimitPico, mode}, &b.ID, &created, &updated)
		b.CreatedAt, b.UpdatedAt = created.Time, updated.Time
		if err == nil {
			err = after(tx, b, then)
		}
		return []Entry{{"budget.put", string(b.ID), map[string]any{"scope": b.Scope, "id": b.Of, "period": b.Period, "limit_pico": b.LimitPico, "mode": mode}}}, err
	})
	s.tell(ctx, topicBudgets, string(org), err)
	return b, err
}

func (b *Budget) check(org id.Org) error {
	invalid := func(param, format string, args ...any) error {
		return fault.New(fault.Invalid, format, args...).WithCode("invalid_value").WithParam(param)
	}
	if b.Scope == ForOrg && b.Of == "" {
		b.Of = string(org)
	}
	switch {
	case !slices.Contains([]Scope{ForOrg, ForTeam, ForUser, ForKey, ForThread}, b.Scope):
		return invalid("scope", `scope is "org", "team", "user", "key" or "thread"`)
	case b.Of == "":
		return invalid("id", "id is missing: of the %s that the budget is for", b.Scope)
	case !slices.Contains(periods, b.Period):
		return invalid("period", `period is "day", "week", "month" or "total"`)
	case b.LimitPico < 0 || b.LimitPico > MaxLimit:
		return invalid("limit_usd", "limit_usd is from 0 to 4000000")
	}
	return nil
}

// budgetOf refuses a budget for what the org does not have, and one too many.
func (s *Service) budgetOf(ctx context.Context, tx db.Tx, org id.Org, b Budget) (err error) {
	switch b.Scope {
	case ForOrg:
		if b.Of != string(org) {
			return noOrg()
		}
	case ForTeam:
		_, err = teamIn(ctx, tx, org, id.Team(b.Of))
	case ForUser:
		_, err = userIn(ctx, tx, org, id.User(b.Of))
	case ForKey:
		_, err = keyIn(ctx, tx, org, id.Key(b.Of))
	}
	if err != nil {
		return err
	}
	var others int
	err = tx.QueryRow(ctx, `SELECT count(*) FROM budgets WHERE org_id = $1 AND NOT (scope = $2 AND scope_id = $3 AND period = $4)`,
		[]any{string(org), string(b.Scope), b.Of, b.Period}, &others)
	if err == nil && others >= maxBudgets {
		return fault.New(fault.Conflict, "an org has up to %d budgets; delete one first", maxBudgets).WithCode("too_many_budgets").NoRetry()
	}
	return err
}

// DeleteBudget takes a budget away. then is run in the same transaction. Errors: fault.NotFound, budget_not_found.
func (s *Service) DeleteBudget(ctx context.Context, org id.Org, by Actor, budget id.Budget, then ...Then[Budget]) error {
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		b, err := singleIn(ctx, tx, org, NoBudget(), budgetsSQL+` AND budget_id = $2`, string(budget), scanBudget)
		if err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM budgets WHERE org_id = $1 AND budget_id = $2`, string(org), string(budget)); err != nil {
			return nil, err
		}
		return []Entry{{"budget.delete", string(b.ID), map[string]any{"scope": b.Scope, "id": b.Of, "period": b.Period}}}, after(tx, b, then)
	})
	s.tell(ctx, topicBudgets, string(org), err)
	return err
}
