package calls

import (
	"context"
	"database/sql"

	"threadhub/internal/db"
	"threadhub/internal/seedbug"
)

// The SQLite forms: one row at a time, in the writer's transaction. A unit that is refused is undone by its savepoint,
// and a commit is never in doubt: the process that would ask is gone with it.

func openSQLite(ctx context.Context, tx *sql.Tx, r *Opening) error {
	res, err := tx.ExecContext(ctx, `INSERT INTO calls (org_id, call_id, key_id, user_id, team_id, thread_id, owner, first_seq, n_in, fp, body_hash, hold_pico, facts, claim, claim_until)
VALUES ($1, $2, $3, $4, nullif($5, ''), nullif($6, ''), $7, $8, $9, $10, $11, $12, $13, nullif($14, ''), CASE WHEN $14 <> '' THEN now() + CAST($15 AS interval) END)
ON CONFLICT DO NOTHING`,
		r.Org, r.ID, r.Key, r.User, r.Team, r.Thread, r.Owner, r.FirstSeq, r.NIn, r.Finger, r.BodyHash, r.HoldPico, r.Facts.json(), r.Claim, ClaimFor)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	r.Result = Stale // until calls.opened; what threads refuses stays so
	if n == 0 {
		r.Result = Busy
		var claimed bool
		err := tx.QueryRowContext(ctx, `SELECT count(*) > 0 FROM calls WHERE org_id = $1 AND key_id = $2 AND claim = $3`, r.Org, r.Key, r.Claim).Scan(&claimed)
		if err != nil {
			return err
		}
		if claimed {
			r.Result = Repeats
		}
		return db.ErrRefused
	}
	return nil
}

func beginSQLite(ctx context.Context, tx *sql.Tx, r *Opening) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO attempts (org_id, call_id, n, provider, model, key_name) VALUES ($1, $2, 0, $3, $4, $5)`,
		r.Org, r.ID, r.Provider, r.Model, r.KeyName)
	return err
}

func passSQLite(ctx context.Context, tx *sql.Tx, r *Opening) error {
	_, err := tx.ExecContext(ctx, `UPDATE calls SET state = 'closed', outcome = 'complete', closed_at = now() WHERE org_id = $1 AND call_id = $2`,
		r.Org, r.ID)
	return err
}

func openedSQLite(_ context.Context, _ *sql.Tx, r *Opening) error {
	r.Result = Won
	return nil
}

func closeSQLite(ctx context.Context, tx *sql.Tx, r *Closing) error {
	r.Recorded = false
	fence := `epoch = $7`
	if seedbug.On("no-epoch") {
		fence = `epoch >= $7`
	}
	res, err := tx.ExecContext(ctx, `UPDATE calls SET state = 'closed', outcome = $1, reason = nullif($2, ''), record_id = $3,
  facts = json_patch(facts, $4), claim = CASE WHEN $1 = 'complete' THEN claim END, closed_at = now()
WHERE org_id = $5 AND call_id = $6 AND `+fence+` AND state = 'open'`,
		r.Outcome, r.Reason, r.RecordID, r.Facts.json(), r.Org, r.ID, r.Epoch)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		if err == nil {
			err = alreadyRecorded(ctx, tx, r)
		}
		return err
	}
	return nil
}

// alreadyRecorded tells a repeat of the record that closed the call from one that came too late.
func alreadyRecorded(ctx context.Context, tx *sql.Tx, r *Closing) error {
	err := tx.QueryRowContext(ctx, `SELECT count(*) > 0 FROM calls WHERE org_id = $1 AND call_id = $2 AND record_id = $3`,
		r.Org, r.ID, r.RecordID).Scan(&r.Recorded)
	if err != nil {
		return err
	}
	return db.ErrRefused
}

func endSQLite(ctx context.Context, tx *sql.Tx, r *Closing) error {
	for _, a := range r.Attempts {
		_, err := tx.ExecContext(ctx, `UPDATE attempts SET state = $1, status = nullif($2, 0), code = nullif($3, ''), upstream_id = nullif($4, ''),
  maybe_billed = $5, first_ms = nullif($6, 0), total_ms = $7, ended_at = now() WHERE org_id = $8 AND call_id = $9 AND n = $10`,
			a.State, a.Status, a.Code, a.UpstreamID, a.MaybeBilled, a.FirstMS, a.TotalMS, r.Org, r.ID, a.N)
		if err != nil {
			return err
		}
	}
	return nil
}

func recordedSQLite(_ context.Context, _ *sql.Tx, r *Closing) error {
	r.Recorded = true
	return nil
}
