package threads

import (
	"cmp"
	"context"
	"database/sql"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// A fork is a thread of its own that begins with copies of another one's messages: the same bytes, times, provenance and
// hashes, under the same sequences and the calls that made them. The source may be written to meanwhile: what was stored
// does not change. It keeps the source's title, description and visibility, and belongs to whoever made it.

// forkedRow and forkedMessages are the copies that a fork begins with: a thread's row, and messages below a sequence. n is
// the new thread, s the source.
const (
	forkedRow = `INSERT INTO threads (org_id, thread_id, user_id, title, description, visibility, window_policy, words, canon, forked_from, forked_seq)
SELECT s.org_id, n.thread_id, n.user_id, s.title, s.description, s.visibility, s.window_policy, s.words, s.canon, s.thread_id, n.upto - 1`
	forkedMessages = `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta, words, created_at)
SELECT s.org_id, n.thread_id, s.seq, s.call_id, s.role, s.raw, s.own, s.chain, s.status, s.reason, s.meta, s.words, s.created_at`
)

func forkPostgres(rows []*Input) db.Statement {
	n := len(rows)
	org, call, thread, user, from := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	upto := make([]int32, n)
	for i, r := range rows {
		org[i], call[i], thread[i], user[i] = string(r.Org), string(r.Call), string(r.Thread), string(r.User)
		from[i], upto[i] = string(r.Fork.From), int32(r.Fork.Upto)
	}
	return db.Statement{
		SQL: `WITH n AS (
  SELECT u.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[]) AS u (org_id, call_id, thread_id, user_id, source, upto)
  JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
), made AS (
` + forkedRow + ` FROM n JOIN threads s ON s.org_id = n.org_id AND s.thread_id = n.source AND s.deleted_at IS NULL
)
` + forkedMessages + ` FROM n JOIN messages s ON s.org_id = n.org_id AND s.thread_id = n.source AND s.seq < n.upto`,
		Args: []any{org, call, thread, user, from, upto},
	}
}

// forkOne makes one fork: $1 the new thread, $2 its user, $3 the sequence up to which, $4 the org, $5 the source.
var forkOne = []string{
	forkedRow + oneFork + `JOIN threads AS s ON s.org_id = $4 AND s.thread_id = $5 AND s.deleted_at IS NULL`,
	forkedMessages + oneFork + `JOIN messages AS s ON s.org_id = $4 AND s.thread_id = $5 AND s.seq < n.upto`,
}

const oneFork = ` FROM (SELECT CAST($1 AS text) AS thread_id, CAST($2 AS text) AS user_id, CAST($3 AS integer) AS upto) AS n `

func forkSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	for _, q := range forkOne {
		if _, err := tx.ExecContext(ctx, q, r.Thread, r.User, r.Fork.Upto, r.Org, r.Fork.From); err != nil {
			return err
		}
	}
	return nil
}

// ForkSpec is a thread to be made of another one.
type ForkSpec struct {
	User id.User
	Last *int // the last message to take over; nil: the newest
	// What the new thread does not take from the source; nil: as it is there.
	Title, Description, Visibility *string
}

// ForkFrom makes a thread of another one. Errors: fault.NotFound as for Thread; fault.Invalid when the source has no message
// Last.
func (s *Store) ForkFrom(ctx context.Context, org id.Org, source id.Thread, who Viewer, spec ForkSpec) (*Thread, error) {
	if _, err := s.Thread(ctx, org, source, who); err != nil {
		return nil, err
	}
	head, err := s.Head(ctx, org, source)
	if err != nil {
		return nil, err
	}
	upto := 0
	if head != nil {
		upto = head.Seq + 1
	}
	if spec.Last != nil {
		if *spec.Last < 0 || *spec.Last >= upto {
			return nil, fault.New(fault.Invalid, "the thread has no message with the sequence %d", *spec.Last).WithCode("invalid_value").WithParam("sequence")
		}
		upto = *spec.Last + 1
	}
	var made *Thread
	t := id.NewThread()
	err = s.db.Write(ctx, org, func(tx db.Tx) error {
		for _, q := range forkOne {
			if _, err := tx.Exec(ctx, q, t, spec.User, upto, org, source); err != nil {
				return err
			}
		}
		var err error
		made, err = threadIn(ctx, tx, org, t)
		if err != nil || made == nil { // nil: the source has just been deleted for good
			return cmp.Or(err, Absent())
		}
		return Change{Title: spec.Title, Description: spec.Description, Visibility: spec.Visibility}.write(ctx, tx, made)
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}
