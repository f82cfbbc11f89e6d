package threads

import (
	"context"
	"database/sql"
	"errors"

	"threadhub/internal/db"
	"threadhub/openai"
)

// The SQLite forms: one row at a time, in a unit whose call has been opened or closed before them.

func fenceSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	seq, chain := -1, []byte{}
	err := tx.QueryRowContext(ctx, `SELECT seq, chain FROM messages WHERE org_id = $1 AND thread_id = $2 ORDER BY seq DESC LIMIT 1`,
		r.Org, r.Thread).Scan(&seq, &chain)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if headText(seq, chain) != r.head() {
		return db.ErrRefused
	}
	return nil
}

func createSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO threads (org_id, thread_id, user_id, title, canon) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		r.Org, r.Thread, r.User, r.Title, openai.CanonVersion)
	return err
}

func appendSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	for _, m := range r.Messages {
		_, err := tx.ExecContext(ctx, `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'complete')`,
			r.Org, r.Thread, m.Seq, r.Call, m.Role, string(m.Raw), m.Own, m.Chain)
		if err != nil {
			return err
		}
	}
	return nil
}

func answerSQLite(ctx context.Context, tx *sql.Tx, r *Answer) error {
	m := &r.Message
	_, err := tx.ExecContext(ctx, `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta)
SELECT org_id, thread_id, first_seq + n_in, call_id, $1, $2, $3, $4, $5, nullif($6, ''), nullif($7, '')
FROM calls WHERE org_id = $8 AND call_id = $9 AND thread_id IS NOT NULL`,
		m.Role, string(m.Raw), m.Own, m.Chain, m.Status, m.Reason, string(m.Meta), r.Org, r.Call)
	return err
}
