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
// does not change. It keeps what it is not given of the source's title, description and visibility, and belongs to whoever
// made it.

// forkedRow and forkedMessages are the copies that a fork begins with: a thread's row, and messages below a sequence. n is
// the new thread, s the source.
const (
	forkedRow = `INSERT INTO threads (org_id, thread_id, user_id, title, description, visibility, window_policy, words, canon, forked_from, forked_seq)
SELECT s.org_id, n.thread_id, n.user_id, coalesce(n.title, s.title), coalesce(n.description, s.description), coalesce(n.visibility, s.visibility),
  s.window_policy, coalesce(n.words, s.words), s.canon, s.thread_id, n.upto - 1`
	forkedMessages = `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta, words, created_at)
SELECT s.org_id, n.thread_id, s.seq, s.call_id, s.role, s.raw, s.own, s.chain, s.status, s.reason, s.meta, s.words, s.created_at`
)

func forkPostgres(rows []*Input) db.Statement {
	n := len(rows)
	org, call, thread, user, from := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	upto := make([]int32, n)
	title, description, visibility, words := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	for i, r := range rows {
		org[i], call[i], thread[i], user[i] = string(r.Org), string(r.Call), string(r.Thread), string(r.User)
		from[i], upto[i] = string(r.Fork.From), int32(r.Fork.Upto)
		title[i], description[i], visibility[i], words[i] = r.Fork.Title, r.Fork.Description, r.Fork.Visibility, r.Fork.words()
	}
	return db.Statement{
		SQL: `WITH n AS (
  SELECT u.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::text[], $8::text[], $9::text[], $10::text[])
    AS u (org_id, call_id, thread_id, user_id, source, upto, title, description, visibility, words)
  JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
), made AS (
` + forkedRow + ` FROM n JOIN threads s ON s.org_id = n.org_id AND s.thread_id = n.source AND s.deleted_at IS NULL
)
` + forkedMessages + ` FROM n JOIN messages s ON s.org_id = n.org_id AND s.thread_id = n.source AND s.seq < n.upto`,
		Args: []any{org, call, thread, user, from, upto, title, description, visibility, words},
	}
}

// forkSQLite makes one fork: $1 the new thread, $2 its user, $3 the sequence up to which, $4 the org, $5 the source, and
// what it does not take from there.
func forkSQLite(ctx context.Context, tx *sql.Tx, r *Input) error {
	f := r.Fork
	_, err := tx.ExecContext(ctx, forkedRow+` FROM (SELECT $1 AS thread_id, $2 AS user_id, $3 AS upto, $6 AS title, $7 AS description, $8 AS visibility, $9 AS words) AS n
JOIN threads AS s ON s.org_id = $4 AND s.thread_id = $5 AND s.deleted_at IS NULL`,
		r.Thread, r.User, f.Upto, r.Org, f.From, f.Title, f.Description, f.Visibility, f.words())
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, forkedMessages+` FROM (SELECT $1 AS thread_id, $2 AS upto) AS n
JOIN messages AS s ON s.org_id = $3 AND s.thread_id = $4 AND s.seq < n.upto`, r.Thread, f.Upto, r.Org, f.From)
	return err
}

// ForkSpec is a thread to be made of another one.
type ForkSpec struct {
	Last *int // the last message to take over; nil: the newest
	// What the new thread does not take from the source; nil: as it is there.
	Title, Description, Visibility *string
}

// ForkOf is what a unit that makes a thread of source is given. Errors: fault.NotFound as for Thread; fault.Invalid when the
// source has no message Last.
func (s *Store) ForkOf(ctx context.Context, org id.Org, source id.Thread, who Viewer, spec ForkSpec) (*Fork, error) {
	t, err := s.Thread(ctx, org, source, who)
	if err != nil {
		return nil, err
	}
	head, err := s.Head(ctx, org, source)
	if err != nil {
		return nil, err
	}
	f := &Fork{From: source, Visibility: spec.Visibility}
	if head != nil {
		f.Upto = head.Seq + 1
	}
	if spec.Last != nil {
		if *spec.Last < 0 || *spec.Last >= f.Upto {
			return nil, fault.New(fault.Invalid, "the thread has no message with the sequence %d", *spec.Last).WithCode("invalid_value").WithParam("sequence")
		}
		f.Upto = *spec.Last + 1
	}
	if spec.Title != nil || spec.Description != nil {
		f.Title, f.Description = cmp.Or(spec.Title, &t.Title), cmp.Or(spec.Description, &t.Description)
	}
	return f, nil
}
