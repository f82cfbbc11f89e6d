package threads

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
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
	var is, live bool
	err = tx.QueryRowContext(ctx, `SELECT count(*) > 0, coalesce(max(deleted_at IS NULL), false) FROM threads WHERE org_id = $1 AND thread_id = $2`,
		r.Org, r.Thread).Scan(&is, &live)
	if err != nil {
		return err
	}
	sourced := true
	if r.Fork != nil {
		err = tx.QueryRowContext(ctx, `SELECT count(*) > 0 FROM threads WHERE org_id = $1 AND thread_id = $2 AND deleted_at IS NULL`, r.Org, r.Fork.From).Scan(&sourced)
		if err != nil {
			return err
		}
	}
	if !sourced || headText(seq, chain) != r.head() || r.makes() && is || !r.makes() && !live {
		return db.ErrRefused
	}
	return nil
}

func createSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO threads (org_id, thread_id, user_id, title, description, words, visibility, created_at, canon)
VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, now()), $9) ON CONFLICT DO NOTHING`,
		r.Org, r.Thread, r.User, r.Title, r.Description, titleWords(r.Title, r.Description), cmp.Or(r.Visibility, "org"),
		db.At(db.SQLite, r.CreatedAt), openai.CanonVersion)
	return err
}

func appendSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	for i := range r.Messages {
		m := &r.Messages[i]
		words, err := indexSQLite(ctx, tx, m.words)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta, created_at, words)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, ''), nullif($11, ''), coalesce($12, now()), $13)`,
			r.Org, r.Thread, m.Seq, r.Call, m.Role, string(m.Raw), m.Own, m.Chain, m.Status, m.Reason, string(m.Meta), db.At(db.SQLite, m.CreatedAt), words)
		if err != nil {
			return err
		}
	}
	return nil
}

// indexSQLite puts words into the index and returns the row they are in; null if there are none.
func indexSQLite(ctx context.Context, tx *sql.Tx, words string) (row sql.NullInt64, err error) {
	if words == "" {
		return row, nil
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO message_words (words) VALUES ($1)`, words)
	if err != nil {
		return row, err
	}
	row.Valid = true
	row.Int64, err = res.LastInsertId()
	return row, err
}

func answerSQLite(ctx context.Context, tx *sql.Tx, r *Answer) error {
	m := &r.Message
	words, err := indexSQLite(ctx, tx, m.words)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta, words)
SELECT org_id, thread_id, first_seq + n_in, call_id, $1, $2, $3, $4, $5, nullif($6, ''), nullif($7, ''), $8
FROM calls WHERE org_id = $9 AND call_id = $10 AND thread_id IS NOT NULL`,
		m.Role, string(m.Raw), m.Own, m.Chain, m.Status, m.Reason, string(m.Meta), words, r.Org, r.Call)
	return err
}

// clearSQLite takes the messages of threads and their words away, some at a time: everybody else who writes waits for
// each transaction. Then it has the index written anew: a row that is deleted from it is only marked, and its words are
// in the file until then.
func (s *Store) clearSQLite(ctx context.Context, org id.Org, due []id.Thread, keep time.Duration) error {
	for _, thread := range due {
		for more := true; more; {
			err := s.db.Purge(ctx, org, func(tx db.Tx) (err error) {
				more, err = clearSome(ctx, tx, org, thread, keep)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return s.mergeSQLite(ctx, org)
}

func clearSome(ctx context.Context, tx db.Tx, org id.Org, thread id.Thread, keep time.Duration) (more bool, err error) {
	const some = `SELECT rowid FROM messages WHERE org_id = $1 AND thread_id = $2
  AND EXISTS (SELECT 1 FROM threads WHERE ` + long + `) ORDER BY seq LIMIT $4`
	args := []any{org, thread, keep, clearMessages}
	// A fork's copies have their words in the rows of what they are copies of.
	_, err = tx.Exec(ctx, `DELETE FROM message_words WHERE rowid IN (SELECT m.words FROM messages m WHERE m.rowid IN (`+some+`)
  AND NOT EXISTS (SELECT 1 FROM messages o WHERE o.words = m.words AND (o.org_id <> $1 OR o.thread_id <> $2)))`, args...)
	if err != nil {
		return false, err
	}
	n, err := tx.Exec(ctx, `DELETE FROM messages WHERE rowid IN (`+some+`)`, args...)
	return n == clearMessages, err
}

// mergePages is how many pages of the index are written in one transaction.
const mergePages = 500

// mergeSQLite merges all of the index into one: the first step says so by its sign, and the others go on with it until one
// finds nothing to do (SQLite, FTS5, 6.6: the merge command).
func (s *Store) mergeSQLite(ctx context.Context, org id.Org) error {
	for pages := -mergePages; ; pages = mergePages {
		var before, after int64
		err := s.db.Purge(ctx, org, func(tx db.Tx) error {
			if err := tx.QueryRow(ctx, `SELECT total_changes()`, nil, &before); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO message_words (message_words, rank) VALUES ('merge', $1)`, pages); err != nil {
				return err
			}
			return tx.QueryRow(ctx, `SELECT total_changes()`, nil, &after)
		})
		if err != nil || after-before < 2 {
			return err
		}
	}
}
