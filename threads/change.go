package threads

import (
	"context"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Change is what shall be different about a thread. What is nil stays.
type Change struct {
	Title        *string
	Description  *string
	Visibility   *string // org, private
	WindowPolicy *Policy // "": as the org
}

// Owns reports whether who may decide who sees t, and delete it: its user and admins may.
func (v Viewer) Owns(t *Thread) bool { return v.Admin || v.User == t.User }

// NotYours is the answer to whoever sees a thread but does not own it.
func NotYours(what string) error {
	return fault.New(fault.Denied, "only the user who made a thread and admins may %s", what).WithCode("permission_denied").NoRetry()
}

// Change changes a thread and returns it as it then is. Errors: fault.NotFound where who sees no such thread; fault.Denied
// where the visibility is not who's to change.
func (s *Store) Change(ctx context.Context, org id.Org, thread id.Thread, who Viewer, c Change) (*Thread, error) {
	var t *Thread
	err := s.db.Write(ctx, org, func(tx db.Tx) error {
		// Words are made of title and description together: whoever else changes one of them waits.
		n, err := tx.Exec(ctx, `UPDATE threads SET title = title WHERE org_id = $1 AND thread_id = $2 AND deleted_at IS NULL`, org, thread)
		if err != nil {
			return err
		}
		if n == 0 {
			return Absent()
		}
		if t, err = threadIn(ctx, tx, org, thread); err != nil {
			return err
		}
		switch {
		case !who.sees(t):
			return Absent()
		case c.Visibility != nil && !who.Owns(t):
			return NotYours("change who sees it")
		}
		return c.write(ctx, tx, t)
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// write changes t and its row.
func (c Change) write(ctx context.Context, tx db.Tx, t *Thread) error {
	for to, from := range map[*string]*string{&t.Title: c.Title, &t.Description: c.Description, &t.Visibility: c.Visibility} {
		if from != nil {
			*to = *from
		}
	}
	if c.WindowPolicy != nil {
		t.WindowPolicy = *c.WindowPolicy
	}
	_, err := tx.Exec(ctx, `UPDATE threads SET title = $1, description = $2, words = $3, visibility = $4, window_policy = nullif($5, '')
WHERE org_id = $6 AND thread_id = $7`,
		t.Title, t.Description, titleWords(t.Title, t.Description), t.Visibility, t.WindowPolicy, t.Org, t.ID)
	return err
}
