package calls

import (
	"context"
	"database/sql"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// ownerLives says of a row of calls whether the process that opened it still has it, and its lease is not over.
const ownerLives = `epoch = 0 AND EXISTS (SELECT 1 FROM incarnations i WHERE i.owner = calls.owner AND i.lease_until >= now())`

// Repeatable is a call whose answer a repeat of its request may be given that has no Idempotency-Key.
type Repeatable struct {
	Call id.Request
	Open bool
}

// Alike returns the newest call of an API key with this finger and hash that is open, its process alive, or was complete
// no longer than AdoptFor ago; nil if there is none. Whether it is still to be given away Adopt tells.
func (s *Store) Alike(ctx context.Context, org id.Org, key id.Key, finger int64, hash []byte) (*Repeatable, error) {
	var c *Repeatable
	err := s.db.Query(ctx, org, db.Query{
		SQL: `SELECT call_id, state = 'open' FROM calls WHERE org_id = $1 AND fp = $2 AND key_id = $3 AND body_hash = $4
AND (state = 'open' AND ` + ownerLives + ` OR outcome = 'complete' AND closed_at >= now() - CAST($5 AS interval))
ORDER BY opened_at DESC, call_id DESC LIMIT 1`,
		Args: []any{org, finger, key, hash, AdoptFor},
		Each: func(row db.Row) error {
			c = &Repeatable{}
			return row.Scan(&c.Call, &c.Open)
		},
	})
	return c, err
}

const (
	adopted       = `coalesce(CAST(facts ->> 'retry' AS integer), 0)`
	notAdopted    = ` WHERE org_id = $1 AND call_id = $2 AND ` + adopted + ` <> CAST($3 AS integer)`
	adoptPostgres = `UPDATE calls SET facts = facts || jsonb_build_object('retry', greatest(` + adopted + `, CAST($3 AS integer)))` + notAdopted
	adoptSQLite   = `UPDATE calls SET facts = json_patch(facts, json_object('retry', max(` + adopted + `, $3)))` + notAdopted
)

// Adopt gives a call's answer away to the repeat of its request with that number, from 1, and reports whether this is the
// one: of any number of first repeats, in any process, one is. A second one is given it too, as the first may have lost
// it; and so is a first one that comes after the second, which waited on its way and is heard by nobody.
func (s *Store) Adopt(ctx context.Context, org id.Org, call id.Request, retry int) (first bool, err error) {
	adopt := adoptPostgres
	if s.db.Dialect() == db.SQLite {
		adopt = adoptSQLite
	}
	err = s.db.Write(ctx, org, func(tx db.Tx) error {
		n, err := tx.Exec(ctx, adopt, org, call, retry)
		first = n == 1
		return err
	})
	return first && err == nil, err
}

// End is how a call ended, for whoever hears its answer from another process.
type End struct {
	Closed  bool
	Outcome Outcome // "" while it is open
	Settled bool    // nothing more comes: its process died, or has had the time to tell its end
}

// tellingTakes is more than a process takes, after a call is closed, to tell the others of its end.
const tellingTakes = 5 * time.Second

// Ended returns how a call stands. Errors: fault.NotFound.
func (s *Store) Ended(ctx context.Context, org id.Org, call id.Request) (End, error) {
	var e End
	found := false
	err := s.db.Query(ctx, org, db.Query{
		SQL: `SELECT state = 'closed', outcome, state = 'closed' AND (coalesce(reason = 'gateway_lost', false) OR closed_at <= now() - CAST($3 AS interval) OR NOT (` + ownerLives + `))
FROM calls WHERE org_id = $1 AND call_id = $2`,
		Args: []any{org, call, tellingTakes},
		Each: func(row db.Row) error {
			found = true
			var outcome sql.NullString
			err := row.Scan(&e.Closed, &outcome, &e.Settled)
			e.Outcome = Outcome(outcome.String)
			return err
		},
	})
	if err == nil && !found {
		err = Absent()
	}
	return e, err
}
