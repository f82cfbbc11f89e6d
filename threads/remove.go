package threads

import (
	"context"
	"database/sql"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Removal is a thread's row of a unit that deletes it. Its call holds the turn, so nobody is adding to the thread. What
// was said stays stored for a while, out of everybody's sight, and its id stays taken: see Janitor.
type Removal struct {
	Org    id.Org
	Thread id.Thread
	Call   id.Request
}

// Remove adds r to u. The Input that fences it names the head, and has no messages.
func (s *Store) Remove(u *db.Unit, r *Removal) { s.remove.Put(u, r, 0) }

func removePostgres(rows []*Removal) db.Statement {
	n := len(rows)
	org, call, thread := make([]string, n), make([]string, n), make([]string, n)
	for i, r := range rows {
		org[i], call[i], thread[i] = string(r.Org), string(r.Call), string(r.Thread)
	}
	return db.Statement{
		SQL: `UPDATE threads t SET deleted_at = now()
FROM unnest($1::text[], $2::text[], $3::text[]) AS u (org_id, call_id, thread_id)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
WHERE t.org_id = u.org_id AND t.thread_id = u.thread_id AND t.deleted_at IS NULL`,
		Args: []any{org, call, thread},
	}
}

func removeSQLite(ctx context.Context, tx *sql.Tx, r *Removal) error {
	_, err := tx.ExecContext(ctx, `UPDATE threads SET deleted_at = now() WHERE org_id = $1 AND thread_id = $2 AND deleted_at IS NULL`, r.Org, r.Thread)
	return err
}
