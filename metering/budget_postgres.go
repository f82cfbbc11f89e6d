package metering

import (
	"threadhub/internal/db"
	"threadhub/internal/seedbug"
)

// periodStart is when the period of budget b began in which call c was opened.
const periodStart = `CASE b.period WHEN 'total' THEN timestamptz 'epoch' ELSE date_trunc(b.period, c.opened_at, 'UTC') END`

// lockPostgres holds the calls that are to hold more, before any budget: whoever ends one does it in this order, too.
func lockPostgres(rows []*Booking) db.Statement {
	org, call := bookedCalls(rows)
	return db.Statement{
		SQL: `SELECT FROM unnest($1::text[], $2::text[]) AS u (org_id, call_id)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.state = 'open' ORDER BY c.org_id, c.call_id FOR UPDATE OF c`,
		Args: []any{org, call},
	}
}

func bookedCalls(rows []*Booking) (org, call []string) {
	org, call = make([]string, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		org[i], call[i] = string(r.Org), string(r.Call)
	}
	return org, call
}

// beginPostgres makes the rows that budgets do not have yet in the periods of calls that this transaction opened.
func beginPostgres(rows []*Booking) db.Statement {
	org, call := bookedCalls(rows)
	return db.Statement{
		SQL: `INSERT INTO used (org_id, budget_id, period_start, used_pico)
SELECT DISTINCT b.org_id, b.budget_id, ` + periodStart + `, 0
FROM unnest($1::text[], $2::text[]) AS u (org_id, call_id)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
JOIN budgets b ON b.mode = 'hard' AND ` + counts + `
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING`,
		Args: []any{org, call},
	}
}

// bookPostgres makes all bookings of a group: one UPDATE for each budget, whatever the number of calls.
//
// The rows of used are locked first, in one order everywhere, and by one statement of a transaction only, so that two
// processes never wait for each other in a circle. What calls give back goes in front. What they want to take is added up in
// the order of the group; a call for which one of its budgets has no room, beside all that came before it, takes back its
// own row, as threads.fence does, and takes nothing. What a call changes is told by this transaction's marks (open_xid,
// close_xid, ledger.xid), so that a unit that is run again changes nothing.
func bookPostgres(rows []*Booking) db.Statement {
	n := len(rows)
	org, call := bookedCalls(rows)
	kind, epoch, hold := make([]int32, n), make([]int32, n), make([]int64, n)
	for i, r := range rows {
		r.reset()
		kind[i], epoch[i], hold[i] = int32(r.kind), int32(r.epoch), int64(r.hold)
	}
	return db.Statement{
		SQL: `WITH u AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::bigint[]) WITH ORDINALITY AS u (org_id, call_id, kind, epoch, hold_pico, at)
), booked AS MATERIALIZED (
  SELECT u.at, u.kind, u.hold_pico AS wanted, b.org_id, c.call_id, b.budget_id, b.scope, b.scope_id, b.period, b.limit_pico, s.period_start, s.used_pico,
    CASE u.kind
      WHEN 0 THEN (SELECT coalesce(sum(l.cost_pico), 0) FROM ledger l WHERE l.org_id = c.org_id AND l.call_id = c.call_id AND l.xid = pg_current_xact_id())
        - CASE WHEN c.close_xid = pg_current_xact_id() AND $6 THEN c.hold_pico ELSE 0 END
      WHEN 1 THEN CASE WHEN c.state = 'open' AND c.epoch = u.epoch THEN greatest(u.hold_pico - c.hold_pico, 0) ELSE 0 END
      ELSE CASE WHEN c.open_xid = pg_current_xact_id() THEN c.hold_pico ELSE 0 END
    END AS delta
  FROM u
  JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id
  JOIN budgets b ON b.mode = 'hard' AND ` + counts + `
  JOIN used s ON s.org_id = b.org_id AND s.budget_id = b.budget_id AND s.period_start = ` + periodStart + `
  ORDER BY s.org_id, s.budget_id, s.period_start, u.kind, u.at
  FOR UPDATE OF s
), summed AS (
  SELECT *, sum(delta) OVER (PARTITION BY org_id, budget_id, period_start ORDER BY kind, at) AS upto FROM booked
), refused AS MATERIALIZED (
  SELECT DISTINCT at, kind, org_id, call_id FROM summed WHERE kind > 0 AND delta > 0 AND used_pico + CASE WHEN $7 THEN delta ELSE upto END > limit_pico
), taken AS (
  UPDATE used s SET used_pico = s.used_pico + t.delta
  FROM (SELECT b.org_id, b.budget_id, b.period_start, sum(b.delta) AS delta FROM booked b WHERE NOT EXISTS (SELECT FROM refused r WHERE r.at = b.at) GROUP BY 1, 2, 3) t
  WHERE s.org_id = t.org_id AND s.budget_id = t.budget_id AND s.period_start = t.period_start
  RETURNING s.org_id, s.budget_id, s.period_start, s.used_pico
), back AS (
  DELETE FROM calls c USING refused r WHERE r.kind = 2 AND c.org_id = r.org_id AND c.call_id = r.call_id
), raised AS (
  UPDATE calls c SET hold_pico = r.wanted
  FROM (SELECT DISTINCT b.org_id, b.call_id, b.wanted FROM booked b
    WHERE b.kind = 1 AND b.delta > 0 AND NOT EXISTS (SELECT FROM refused x WHERE x.at = b.at)) r
  WHERE c.org_id = r.org_id AND c.call_id = r.call_id AND c.state = 'open'
)
SELECT b.budget_id, b.scope, b.scope_id, b.period, b.period_start, b.limit_pico, CAST(coalesce(t.used_pico, b.used_pico) AS text), CAST(b.delta AS bigint), b.at,
  EXISTS (SELECT FROM refused r WHERE r.at = b.at)
FROM booked b LEFT JOIN taken t USING (org_id, budget_id, period_start)
WHERE b.kind > 0`,
		Args: []any{org, call, kind, epoch, hold, !seedbug.On("hold-kept"), seedbug.On("blind-group")},
		Each: func(row db.Row) error {
			var l Level
			var at int64
			var refused bool
			if err := scanLevel(row, &l, &at, &refused); err != nil {
				return err
			}
			rows[at-1].told(l, refused)
			return nil
		},
	}
}

// told notes one of the budgets of a booking, as it stands after the group. Of a booking that was refused, those that
// would have no room for it alone are over; if all would, it was refused for the sake of others in the group.
func (k *Booking) told(l Level, refused bool) {
	k.Levels = append(k.Levels, l)
	if !refused {
		return
	}
	if l.Needs > l.Left() {
		k.Over = append(k.Over, l)
	}
	k.Again = len(k.Over) == 0
}
