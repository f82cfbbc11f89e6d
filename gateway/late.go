package gateway

import (
	"context"

	"threadhub/internal/db"
	"threadhub/metering"
)

// late writes down what a call really cost that another process has closed meanwhile, by an estimate: a second line, the
// difference. It is written once, whoever repeats it.
func (g *Gateway) late(e *exchange) error {
	ctx := context.Background()
	lines, err := metering.Lines(ctx, g.opts.Store, e.caller.Org, e.id)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if l.N != e.n() || l.Kind != metering.Use {
			continue
		}
		l.Kind, l.MaybeBilled = metering.Late, false
		l.Charge = difference(e.charge, l.Charge)
		if l.Charge.Tokens == (metering.Tokens{}) && l.Charge.Cost == 0 {
			return nil
		}
		u := &db.Unit{Org: e.caller.Org, Record: true}
		g.opts.Ledger.Put(u, &l)
		return g.opts.Store.Commit(ctx, u)
	}
	return nil
}

// difference is what must be added to estimated to make it actual.
func difference(actual, estimated metering.Charge) metering.Charge {
	d := actual
	d.Tokens = actual.Tokens.Minus(estimated.Tokens)
	d.Cost -= estimated.Cost
	if actual.Computed != nil && estimated.Computed != nil {
		c := *actual.Computed - *estimated.Computed
		d.Computed = &c
	}
	return d
}
