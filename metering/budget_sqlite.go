package metering

import (
	"context"
	"database/sql"
	"errors"

	"threadhub/internal/db"
	"threadhub/internal/seedbug"
)

// nothingSQLite is what has to be done before bookSQLite: nobody else is at work.
func nothingSQLite(context.Context, *sql.Tx, *Booking) error { return nil }

// bookSQLite makes one booking. Where a budget has no room its unit is undone.
func bookSQLite(ctx context.Context, tx *sql.Tx, k *Booking) error {
	k.reset()
	c, err := k.callSQLite(ctx, tx)
	if err != nil || len(c.levels) == 0 {
		return err
	}
	for i := range c.levels {
		l := &c.levels[i]
		there, err := usedSQLite(ctx, tx, k, l)
		if err != nil {
			return err
		}
		if !there && k.kind != holds {
			l.ID = "" // the budget was not there, or not hard, when the call was opened
			continue
		}
		if l.Needs = c.delta; k.kind != settles && l.Needs > 0 && l.Needs > l.Left() {
			k.Over = append(k.Over, *l)
		}
	}
	if len(k.Over) > 0 {
		return db.ErrRefused
	}
	for _, l := range c.levels {
		if l.ID == "" {
			continue
		}
		l.Used = l.Used.Plus(c.change)
		_, err := tx.ExecContext(ctx, `INSERT INTO used (org_id, budget_id, period_start, used_pico) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, budget_id, period_start) DO UPDATE SET used_pico = excluded.used_pico`,
			string(k.Org), string(l.ID), db.At(db.SQLite, l.Start), l.Used.digits())
		if err != nil {
			return err
		}
		if k.kind != settles {
			k.Levels = append(k.Levels, l)
		}
	}
	if k.kind == raises && c.delta > 0 && len(k.Levels) > 0 {
		_, err = tx.ExecContext(ctx, `UPDATE calls SET hold_pico = $1 WHERE org_id = $2 AND call_id = $3 AND state = 'open'`, int64(k.hold), string(k.Org), string(k.Call))
	}
	return err
}

// bookedCall is a call with the hard budgets that it counts in.
type bookedCall struct {
	levels []Level
	delta  PicoUSD // what it takes
	change Sum     // the same, or what it changes by its end
}

func (k *Booking) callSQLite(ctx context.Context, tx *sql.Tx) (c bookedCall, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT b.budget_id, b.scope, b.scope_id, b.period, b.limit_pico, c.hold_pico, c.opened_at, c.state = 'open' AND c.epoch = $3
FROM calls c JOIN budgets b ON b.mode = 'hard' AND `+counts+` WHERE c.org_id = $1 AND c.call_id = $2`, string(k.Org), string(k.Call), k.epoch)
	if err != nil {
		return c, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		l := Level{Budget: Budget{Hard: true}}
		var hold, limit int64
		var opened db.Time
		var ours bool
		if err := rows.Scan(&l.ID, &l.Scope, &l.Of, &l.Period, &limit, &hold, &opened, &ours); err != nil {
			return c, err
		}
		l.Limit, l.Start = PicoUSD(limit), l.Period.Start(opened.Time)
		c.levels = append(c.levels, l)
		c.delta, c.change = k.changes(PicoUSD(hold), ours)
	}
	return c, rows.Err()
}

// changes is what a booking takes, and what it changes, of a call that holds hold. ours says that it is open, and that the
// booking knows its epoch.
func (k *Booking) changes(hold PicoUSD, ours bool) (delta PicoUSD, change Sum) {
	switch {
	case k.kind == holds:
		delta = hold
	case k.kind == raises && ours:
		delta = max(0, k.hold-hold)
	case k.kind == settles:
		late := true
		for _, l := range k.lines {
			if l.written {
				change = change.Plus(SumOf(l.Charge.Cost))
			}
			late = late && l.Kind != Use && l.Kind != ""
		}
		if !late && !seedbug.On("hold-kept") { // the unit closed it: else it would have been undone before
			change = change.Minus(SumOf(hold))
		}
		return 0, change
	}
	return delta, SumOf(delta)
}

// usedSQLite reads what a budget has used in its period, and whether it has a row for that.
func usedSQLite(ctx context.Context, tx *sql.Tx, k *Booking, l *Level) (there bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT used_pico FROM used WHERE org_id = $1 AND budget_id = $2 AND period_start = $3`,
		string(k.Org), string(l.ID), db.At(db.SQLite, l.Start)).Scan(&l.Used)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
