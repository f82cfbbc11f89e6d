package gateway

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/openai"
	"threadhub/orgs"
)

// What a call may cost is held in the hard budgets that it counts in by the transaction that opens it, and settled by the
// one that records it (metering.Budgets, docs/decisions/0025). Here is what asks for both, and what becomes of a call that
// has no room. An org without budgets pays for a look into a cache.

// BudgetBook knows which budgets an org has.
type BudgetBook interface {
	Budgets(ctx context.Context, org id.Org) ([]orgs.Budget, error)
	// KnownBudgets is Budgets without asking anybody; not ok where it would have to.
	KnownBudgets(org id.Org) ([]orgs.Budget, bool)
}

// budgetOf is a budget as metering reckons with it.
func budgetOf(b orgs.Budget) metering.Budget {
	return metering.Budget{
		ID: b.ID, Scope: string(b.Scope), Of: b.Of, Period: metering.Period(b.Period), Limit: metering.PicoUSD(b.LimitPico), Hard: b.Hard,
	}
}

// counted finds the budgets that e counts in.
func (g *Gateway) counted(ctx context.Context, e *exchange) error {
	e.nearing = nil
	if g.opts.BudgetBook == nil || g.opts.Budgets == nil {
		return nil
	}
	all, err := g.opts.BudgetBook.Budgets(ctx, e.caller.Org)
	if err != nil {
		return err
	}
	e.budgets = e.budgets[:0]
	for _, b := range all {
		if b.Counts(e.caller, e.thread) {
			e.budgets = append(e.budgets, budgetOf(b))
		}
	}
	return nil
}

// bound reports whether a hard budget binds e.
func (e *exchange) bound() bool {
	return slices.ContainsFunc(e.budgets, func(b metering.Budget) bool { return b.Hard })
}

// reserve is admit for all that is asked for: what it may cost, and whether it is known that no budget has room for it.
func (g *Gateway) reserve(ctx context.Context, e *exchange) error {
	if err := g.counted(ctx, e); err != nil {
		return err
	}
	e.hold = g.worst(e, e.maxTokens())
	if !e.bound() || e.opening != nil && e.opening.Result == calls.Won { // a further attempt: see beginFurther
		return nil
	}
	if e.over = g.opts.Budgets.Full(e.caller.Org, e.budgets, e.hold, time.Now()); len(e.over) > 0 {
		return g.overBudget(e.over)
	}
	return nil
}

// maxTokens is how long an answer may be, in tokens; 0: as the model likes.
func (e *exchange) maxTokens() int64 {
	switch {
	case e.req == nil:
		return 0
	case e.atMost > 0 && (e.req.MaxTokens == 0 || e.atMost < e.req.MaxTokens):
		return e.atMost
	}
	return e.req.MaxTokens
}

// worst is what e may cost at its target. Of what no hard budget binds it is a first guess, and nothing where nobody knows
// the price.
func (g *Gateway) worst(e *exchange, maxTokens int64) metering.PicoUSD {
	model, _ := g.opts.Catalogue.Lookup(e.target.Provider, e.target.Model)
	ask := metering.Ask{Bytes: int64(len(e.sent().Raw)) + threadBytes(e), MaxTokens: maxTokens, N: 1, Requests: 1}
	if e.embed != nil {
		ask.Inputs = e.embed.Inputs
	} else {
		ask.N, ask.Requests = int(e.req.N), g.requests(e.target)
	}
	switch {
	case e.bound():
	case e.embed != nil:
		hold, _ := metering.HoldEmbeddings(model, ask.Bytes, ask.Inputs)
		return hold
	default:
		hold, _ := metering.Hold(model, ask.Bytes, ask.MaxTokens, ask.N, ask.Requests)
		return hold
	}
	if !model.Priced() {
		model = g.opts.Fallback.Unpriced(e.target.Provider, e.target.Model, g.opts.Windows[e.target.Provider])
	}
	if e.req != nil {
		e.measure(&ask)
	}
	ask.Searches = ask.Searches || e.target.Provider == "perplexity" && e.req != nil
	ask.Fills = ask.Fills || ask.Searches // what is found is read
	return metering.Worst(model, ask)
}

// What makes a model read more than the bytes it is sent, as it stands in JSON. Within texts the quotes are escaped.
var (
	pictures = []byte(`"image_url"`)
	fillers  = [][]byte{[]byte(`"file"`), []byte(`"file_data"`), []byte(`"video_url"`), []byte(`"input_audio"`)}
	searches = [][]byte{[]byte(`"web_search`), []byte(`"google_search`), []byte(`"googleSearch`), []byte(`"plugins"`), []byte(`:online"`)}
)

// measure looks for what else bounds the cost of a chat.
func (e *exchange) measure(a *metering.Ask) {
	look := func(sent []byte) {
		a.Images += bytes.Count(sent, pictures)
		has := func(what []byte) bool { return bytes.Contains(sent, what) }
		a.Fills = a.Fills || slices.ContainsFunc(fillers, has)
		a.Searches = a.Searches || slices.ContainsFunc(searches, has)
	}
	look(e.req.Raw)
	for _, m := range e.history {
		look(m)
	}
	for _, m := range e.instead {
		look(m)
	}
}

// hold adds to the unit that opens e what e holds in the budgets that bind it.
func (g *Gateway) hold(u *db.Unit, e *exchange) {
	e.booking = nil
	if e.bound() {
		e.booking = &metering.Booking{Org: e.caller.Org, Call: e.id}
		g.opts.Budgets.Hold(u, e.booking)
	}
}

// crowded reports whether the unit that was to open e found no room beside others of its group, and may have it alone.
func (e *exchange) crowded() bool {
	return e.booking != nil && e.booking.Again && e.opening.Result == calls.Stale
}

// afforded says what the budgets said to e: an error if one of them has no room.
func (g *Gateway) afforded(e *exchange) error {
	if e.booking == nil {
		g.near(e, nil)
		return nil
	}
	if e.opening.Result == calls.Stale && len(e.booking.Over) > 0 {
		g.opts.Budgets.Refused(e.caller.Org, e.booking.Over, time.Now())
		e.over = e.booking.Over
		return g.overBudget(e.over)
	}
	if e.opening.Result == calls.Won {
		g.near(e, e.booking.Levels)
	}
	return nil
}

// leastAnswer is the shortest answer, in tokens, that an answer is lowered to for a budget's sake.
const leastAnswer = 16

// lowered reports whether e, for which err says that a budget has no room, may be tried with a shorter answer: its client
// has allowed that, and there is one that fits.
func (g *Gateway) lowered(e *exchange, err error) bool {
	if !e.spare || e.req == nil || e.atMost > 0 || len(e.over) == 0 || !fault.Is(err, fault.Payment) {
		return false
	}
	left := e.over[0].Left()
	for _, l := range e.over {
		left = min(left, l.Left())
	}
	low, high := int64(leastAnswer), cmp.Or(e.req.MaxTokens, openai.MaxTokensLimit)
	if high <= low || g.worst(e, low) > left {
		return false
	}
	for low+1 < high {
		if middle := low + (high-low)/2; g.worst(e, middle) <= left {
			low = middle
		} else {
			high = middle
		}
	}
	e.atMost = low
	g.metrics.budget.lowered.Inc()
	return true
}

// spares reads what the client wants of an answer for which a budget has too little left.
func (x *request) spares() (bool, error) {
	header, err := x.only("X-Threadhub-On-Budget")
	switch {
	case err != nil:
		return false, err
	case header == "lower":
		return true, nil
	case header == "" || header == "refuse":
		return false, nil
	}
	return false, fault.New(fault.Invalid, "X-Threadhub-On-Budget is \"lower\" or \"refuse\"").WithParam("X-Threadhub-On-Budget")
}

// more has e hold more, durably, before an attempt that makes it cost more than it holds: false if no budget has room for it.
func (g *Gateway) more(ctx context.Context, e *exchange, hold metering.PicoUSD) bool {
	k := &metering.Booking{Org: e.caller.Org, Call: e.id}
	u := &db.Unit{Org: e.caller.Org}
	g.opts.Budgets.More(u, k, 0, hold)
	err := g.opts.Store.Commit(ctx, u)
	if err == nil && k.Again {
		u.Alone = true
		err = g.opts.Store.Commit(ctx, u)
	}
	chaos.Point("more")
	switch {
	case err != nil:
		g.opts.Log.Warn("what a further attempt may cost could not be reserved, and it is not made", "request_id", e.id, "error", err)
	case len(k.Over) > 0:
		g.refusedFor(k.Over)
		g.opts.Log.Info("a budget has no room for a further attempt, and it is not made", "request_id", e.id, "budget", k.Over[0].ID)
	default:
		e.opening.HoldPico = int64(hold)
		return true
	}
	return false
}

// settles adds to a unit that writes lines of a call what they change in budgets, unless it is known that none binds it.
func (r *recorder) settles(u *db.Unit, org id.Org, call id.Request, lines ...*metering.Line) {
	if r.budgets == nil {
		return
	}
	if all, known := r.book.KnownBudgets(org); known && !slices.ContainsFunc(all, func(b orgs.Budget) bool {
		l := lines[0]
		return b.Hard && b.Counts(orgs.Caller{Org: l.Org, User: l.User, Team: l.Team, Key: l.Key}, l.Thread)
	}) {
		return
	}
	r.budgets.Settle(u, org, call, lines...)
}

// overBudget is what a client is told when a budget has no room: of those, the one that has least left.
func (g *Gateway) overBudget(over []metering.Level) error {
	g.refusedFor(over)
	l := slices.MinFunc(over, func(a, b metering.Level) int { return cmp.Compare(a.Left(), b.Left()) })
	renews, until := l.Period.End(l.Start), "it does not renew"
	if !renews.IsZero() {
		until = "it renews at " + renews.Format(time.RFC3339)
	}
	of := l.Scope
	if l.Scope != string(orgs.ForOrg) {
		of += " " + l.Of
	}
	return fault.New(fault.Payment, "the budget of %s for the %s has no room for this call: of %s USD %s are spent or held for calls under way, and this one may cost %s; %s",
		of, periodName(l.Period), l.Limit, l.Used, l.Needs, until).
		WithCode("budget_exceeded").NoRetry().WithDetails(map[string]any{"budget": levelShape{
		ID: l.ID, Scope: l.Scope, Of: l.Of, Period: l.Period, Limit: l.Limit, Used: l.Used, Needed: l.Needs, Renews: timeOrNull(renews),
	}})
}

func periodName(p metering.Period) string {
	if p == metering.Total {
		return "whole time"
	}
	return string(p)
}

// levelShape is a budget as an error shows it.
type levelShape struct {
	ID     id.Budget        `json:"budget_id"`
	Scope  string           `json:"scope"`
	Of     string           `json:"id"`
	Period metering.Period  `json:"period"`
	Limit  metering.PicoUSD `json:"limit_usd"`
	Used   metering.Sum     `json:"used_usd"` // spent, and held for calls under way
	Needed metering.PicoUSD `json:"needed_usd"`
	Renews *time.Time       `json:"renews_at"`
}

func (g *Gateway) refusedFor(over []metering.Level) {
	for _, l := range over {
		g.metrics.budget.refused.WithLabelValues(l.Scope).Inc()
	}
}

// nearAt are the parts of a budget, in percent, from which on clients are warned.
var nearAt = []int64{100, 90, 80}

// near warns e's client of budgets that are nearly used up: hard ones as they stand with this call, soft ones as they were
// counted a moment ago.
func (g *Gateway) near(e *exchange, levels []metering.Level) {
	e.nearing = nil
	warn := func(b metering.Budget, used metering.Sum) {
		percent := used.Percent(b.Limit)
		for _, at := range nearAt {
			if percent >= at {
				mode := map[bool]string{true: "hard", false: "soft"}[b.Hard]
				e.nearing = append(e.nearing, fmt.Sprintf("budget=%s/%s;%s=%d%%", b.Scope, b.Period, mode, at))
				g.metrics.budget.near.WithLabelValues(mode, fmt.Sprint(at)).Inc()
				return
			}
		}
	}
	for _, l := range levels {
		warn(l.Budget, l.Used)
	}
	if g.opts.Budgets == nil || len(e.budgets) == 0 {
		return
	}
	for _, s := range g.opts.Budgets.Soft(e.caller.Org, e.budgets, time.Now()) {
		warn(s.Budget, s.Spent)
	}
}

// newMax is the member that bounds an answer of a request that has none: OpenAI's own newest models refuse the older name,
// and others may not know the newer one.
func newMax(provider string) string {
	if provider == "openai" {
		return "max_completion_tokens"
	}
	return "max_tokens"
}

// loweredWarning says that the answer may be shorter than the client asked for.
const loweredWarning = "changed=max_tokens;reason=budget"

// priceAnyway puts the fallback's price on what nobody has a price for, where a hard budget binds the call: budgets count
// money, and what they did not count would be without a limit.
func (g *Gateway) priceAnyway(c metering.Charge, bound bool) metering.Charge {
	if !bound {
		return c
	}
	return g.opts.Fallback.Price(c)
}
