package gateway

import (
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/orgs"
	"threadhub/threads"
)

// budgets is people for routes that also need the budgets' own room.
func budgets(f func(*Gateway, *request)) func(*Gateway, *request) {
	return people(func(g *Gateway, x *request) {
		if g.opts.Budgets == nil {
			x.fail(fault.New(fault.Unavailable, "there is no place for budgets"))
			return
		}
		f(g, x)
	})
}

// budgetShape is a budget as the API shows it, with where it stands in its present period.
type budgetShape struct {
	Budget    id.Budget        `json:"budget_id"`
	Org       id.Org           `json:"org_id"`
	Scope     orgs.Scope       `json:"scope"`
	Of        string           `json:"id"`
	Period    string           `json:"period"`
	Mode      string           `json:"mode"`
	Limit     metering.PicoUSD `json:"limit_usd"`
	Spent     metering.Sum     `json:"spent_usd"`
	Held      metering.Sum     `json:"held_usd"` // for calls under way
	Left      metering.Sum     `json:"left_usd"` // may be less than nothing
	Start     time.Time        `json:"period_start"`
	Renews    *time.Time       `json:"renews_at"` // null: never
	CreatedAt time.Time        `json:"created_at"`
	UpdatedAt time.Time        `json:"updated_at"`
}

func shapeOfBudget(org id.Org, b orgs.Budget, s metering.Standing) budgetShape {
	mode := "soft"
	if b.Hard {
		mode = "hard"
	}
	return budgetShape{
		Budget: b.ID, Org: org, Scope: b.Scope, Of: b.Of, Period: b.Period, Mode: mode, Limit: s.Limit, Spent: s.Spent, Held: s.Held,
		Left: metering.SumOf(s.Limit).Minus(s.Spent).Minus(s.Held), Start: s.Start, Renews: timeOrNull(s.End), CreatedAt: b.CreatedAt.UTC(), UpdatedAt: b.UpdatedAt.UTC(),
	}
}

// standing shows budgets with where they stand.
func (g *Gateway) standing(x *request, list []orgs.Budget) ([]budgetShape, error) {
	of := make([]metering.Budget, len(list))
	for i, b := range list {
		of[i] = budgetOf(b)
	}
	all, err := g.opts.Budgets.Standings(x.ctx, x.caller.Org, of, time.Now())
	if err != nil {
		return nil, err
	}
	shapes := make([]budgetShape, len(list))
	for i, b := range list {
		shapes[i] = shapeOfBudget(x.caller.Org, b, all[i])
	}
	return shapes, nil
}

func (g *Gateway) replyBudget(x *request, b orgs.Budget, err error) {
	if err != nil {
		x.fail(err)
		return
	}
	shapes, err := g.standing(x, []orgs.Budget{b})
	if err != nil {
		x.fail(err)
		return
	}
	x.json(200, shapes[0])
}

// putBudget answers PUT /api/budgets with {scope, id, period, limit_usd, mode}: there is one budget for each scope, id and
// period, and another limit or mode changes it. Of an org the id may be left out.
func (g *Gateway) putBudget(x *request) {
	spec, err := g.budgetSpec(x)
	if err != nil {
		x.fail(err)
		return
	}
	now := time.Now()
	b, err := g.opts.People.PutBudget(x.ctx, x.caller.Org, x.actor(), spec, func(tx db.Tx, b orgs.Budget) error {
		return g.opts.Budgets.Count(x.ctx, tx, x.caller.Org, budgetOf(b), now)
	})
	g.opts.Budgets.Forget(x.caller.Org)
	g.replyBudget(x, b, err)
}

func (g *Gateway) budgetSpec(x *request) (orgs.Budget, error) {
	f := x.fields("scope", "id", "period", "limit_usd", "mode")
	scope, of, period, limit, mode := f.text("scope"), f.text("id"), f.text("period"), f.text("limit_usd"), f.text("mode")
	b := orgs.Budget{Scope: orgs.Scope(or(scope)), Of: or(of), Period: or(period), Hard: or(mode) == "hard"}
	if f.err != nil {
		return b, f.err
	}
	for _, m := range []struct {
		name  string
		value *string
	}{{"scope", scope}, {"period", period}, {"limit_usd", limit}, {"mode", mode}} {
		if m.value == nil {
			return b, fault.New(fault.Invalid, "%s is missing", m.name).WithCode("missing_required_parameter").WithParam(m.name)
		}
	}
	usd, err := metering.ParseUSD(*limit)
	switch {
	case err != nil || usd < 0:
		return b, fault.New(fault.Invalid, "limit_usd is an amount of dollars, like \"1.25\"").WithCode("invalid_value").WithParam("limit_usd")
	case *mode != "hard" && *mode != "soft":
		return b, fault.New(fault.Invalid, "mode is \"hard\" or \"soft\"").WithCode("invalid_value").WithParam("mode")
	}
	b.LimitPico = int64(usd)
	return b, g.scopeThere(x, b.Scope, b.Of)
}

// scopeThere reports, as the common 404, a thing that is not there for the caller to have a budget for. The others are looked
// for again where the budget is made.
func (g *Gateway) scopeThere(x *request, scope orgs.Scope, of string) (err error) {
	switch org := x.caller.Org; {
	case of == "":
	case scope == orgs.ForOrg:
		err = x.ownOrg(of)
	case scope == orgs.ForTeam:
		_, err = g.opts.People.Team(x.ctx, org, id.Team(of))
	case scope == orgs.ForUser:
		_, err = g.opts.People.User(x.ctx, org, id.User(of))
	case scope == orgs.ForKey:
		var k orgs.KeyInfo
		if k, err = g.opts.People.Key(x.ctx, org, id.Key(of)); err == nil && !x.keysOf(k.User) {
			err = orgs.NoKey()
		}
	case scope == orgs.ForThread && !id.ValidThread(of):
		err = threads.Absent()
	case scope == orgs.ForThread:
		_, err = g.visible(x, id.Thread(of))
	}
	return err
}

// foreignScope is Route.foreign where the body names what a budget is for.
func (g *Gateway) foreignScope(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	scope, of := gjson.GetBytes(x.body(), "scope"), gjson.GetBytes(x.body(), "id")
	if scope.Type != gjson.String || of.Type != gjson.String {
		return nil
	}
	return g.scopeThere(x, orgs.Scope(scope.Str), of.Str)
}

// listBudgets answers GET /api/budgets?limit=&cursor=: to admins all, to others those that their own calls count in, but for
// threads'.
func (g *Gateway) listBudgets(x *request) {
	at := map[id.Budget]budgetShape{}
	listPage(x,
		func(after orgs.Cursor, limit int) ([]orgs.Budget, error) {
			list, err := g.opts.People.ListBudgets(x.ctx, x.caller.Org, x.caller, after, limit)
			if err != nil {
				return nil, err
			}
			shapes, err := g.standing(x, list)
			for _, s := range shapes {
				at[s.Budget] = s
			}
			return list, err
		},
		func(b orgs.Budget) orgs.Cursor { return orgs.Cursor{CreatedAt: b.CreatedAt, ID: string(b.ID)} },
		func(b orgs.Budget) budgetShape { return at[b.ID] })
}

// budget returns the budget that the path names, if it is there for the caller.
func (g *Gateway) budget(x *request) (orgs.Budget, error) {
	b, err := g.opts.People.Budget(x.ctx, x.caller.Org, id.Budget(x.param("id")))
	if err == nil && x.caller.Role != orgs.Admin && !b.Counts(x.caller, "") {
		return orgs.Budget{}, orgs.NoBudget()
	}
	return b, err
}

// getBudget answers GET /api/budgets/{id}.
func (g *Gateway) getBudget(x *request) {
	b, err := g.budget(x)
	g.replyBudget(x, b, err)
}

// deleteBudget answers DELETE /api/budgets/{id}.
func (g *Gateway) deleteBudget(x *request) {
	budget := id.Budget(x.param("id"))
	err := g.opts.People.DeleteBudget(x.ctx, x.caller.Org, x.actor(), budget, func(tx db.Tx, b orgs.Budget) error {
		return g.opts.Budgets.Drop(x.ctx, tx, x.caller.Org, b.ID)
	})
	g.opts.Budgets.Forget(x.caller.Org)
	x.deleted(string(budget), err)
}

// foreignBudget is Route.foreign where the path names a budget.
func (g *Gateway) foreignBudget(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	_, err := g.budget(x)
	return err
}
