package calls

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/db"
	"threadhub/internal/id"
)

// ClaimFor is how long an Idempotency-Key stands for its call.
const ClaimFor = 24 * time.Hour

// Claimed is the call that has a claim: it is open, or complete, in which case there is a Replay of it, or it was over in
// the unit that opened it. A call that failed or was cut gave its claim back when it was closed.
type Claimed struct {
	Call     id.Request
	Open     bool
	Owner    id.Owner
	Alive    bool // the process that opened it still has it, and lives
	Thread   id.Thread
	BodyHash []byte
	Kind     string
	Seq      int // of its newest input message
}

// Claimed returns the call of an API key that has the claim; nil if none does. A claim whose time is over is given back.
func (s *Store) Claimed(ctx context.Context, org id.Org, key id.Key, claim string) (*Claimed, error) {
	var c *Claimed
	var over bool
	err := s.db.Query(ctx, org, db.Query{
		SQL: `SELECT call_id, state = 'open', owner, ` + ownerLives + `, thread_id, body_hash, facts, first_seq + n_in - 1, state <> 'open' AND claim_until <= now()
FROM calls WHERE org_id = $1 AND key_id = $2 AND claim = $3`,
		Args: []any{org, key, claim},
		Each: func(row db.Row) error {
			c = &Claimed{}
			var thread sql.NullString
			var facts []byte
			if err := row.Scan(&c.Call, &c.Open, &c.Owner, &c.Alive, &thread, &c.BodyHash, &facts, &c.Seq, &over); err != nil {
				return err
			}
			var f Facts
			err := json.Unmarshal(facts, &f)
			c.Thread, c.Kind = id.Thread(thread.String), f.Kind
			return err
		},
	})
	if err != nil || c == nil || !over {
		return c, err
	}
	_, err = s.Expire(ctx, org)
	return nil, err
}

// Replay is what a client was given, for whoever repeats its request. It is kept for as long as the claim stands.
type Replay struct {
	Org    id.Org
	Call   id.Request
	Header [][2]string // what of the answer's header is the answer's own
	Stream bool
	Body   []byte // the body; of a stream all its events, [DONE] too; empty where the answer is a message of a thread
}

// Keep adds r to a unit that closes its call. It is kept only if the call is complete and has a claim.
func (s *Store) Keep(u *db.Unit, r *Replay) {
	if r.Body == nil {
		r.Body = []byte{} // no null
	}
	s.keep.Put(u, r, len(r.Body)+256)
}

const keepWhere = ` c.claim IS NOT NULL AND c.outcome = 'complete' ON CONFLICT DO NOTHING`

func keepPostgres(rows []*Replay) db.Statement {
	n := len(rows)
	org, call, head, body, stream := texts(n), texts(n), texts(n), make([][]byte, n), make([]bool, n)
	for i, r := range rows {
		org[i], call[i], head[i], body[i], stream[i] = string(r.Org), string(r.Call), r.head(), r.Body, r.Stream
	}
	return db.Statement{
		SQL: `INSERT INTO replays (org_id, call_id, head, body, stream, expires_at)
SELECT u.org_id, u.call_id, u.head, u.body, u.stream, c.claim_until
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::boolean[]) AS u (org_id, call_id, head, body, stream)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.close_xid = pg_current_xact_id() WHERE` + keepWhere,
		Args: []any{org, call, head, body, stream},
	}
}

func keepSQLite(ctx context.Context, tx *sql.Tx, r *Replay) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO replays (org_id, call_id, head, body, stream, expires_at)
SELECT c.org_id, c.call_id, $3, $4, $5, c.claim_until FROM calls c WHERE c.org_id = $1 AND c.call_id = $2 AND`+keepWhere,
		r.Org, r.Call, r.head(), r.Body, r.Stream)
	return err
}

func (r *Replay) head() string {
	b, _ := json.Marshal(r.Header) // texts
	return string(b)
}

// Past adds to another room's transaction a call that is over with it, under its claim, and what its client is given. It
// reports whether it did: if not, another call has the claim, and the transaction is to be undone.
func (s *Store) Past(ctx context.Context, tx db.Tx, o *Opening, r *Replay) (bool, error) {
	n, err := tx.Exec(ctx, `INSERT INTO calls (org_id, call_id, key_id, user_id, team_id, owner, body_hash, facts, claim, claim_until, state, outcome, closed_at)
VALUES ($1, $2, $3, $4, nullif($5, ''), $6, $7, $8, $9, now() + CAST($10 AS interval), 'closed', 'complete', now()) ON CONFLICT DO NOTHING`,
		o.Org, o.ID, o.Key, o.User, o.Team, o.Owner, o.BodyHash, o.Facts.json(), o.Claim, ClaimFor)
	if err != nil || n == 0 {
		return false, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO replays (org_id, call_id, head, body, stream, expires_at) VALUES ($1, $2, $3, $4, $5, now() + CAST($6 AS interval))`,
		r.Org, r.Call, r.head(), r.Body, r.Stream, ClaimFor)
	return err == nil, err
}

// Replay returns what the client of a call was given; nil if it is not kept.
func (s *Store) Replay(ctx context.Context, org id.Org, call id.Request) (*Replay, error) {
	var r *Replay
	err := s.db.Query(ctx, org, db.Query{
		SQL:  `SELECT head, body, stream FROM replays WHERE org_id = $1 AND call_id = $2`,
		Args: []any{org, call},
		Each: func(row db.Row) error {
			r = &Replay{Org: org, Call: call}
			var head string
			if err := row.Scan(&head, &r.Body, &r.Stream); err != nil {
				return err
			}
			return json.Unmarshal([]byte(head), &r.Header)
		},
	})
	return r, err
}

// Expire gives back an org's claims whose time is over, with what was kept for them, and returns how many there were.
func (s *Store) Expire(ctx context.Context, org id.Org) (n int64, err error) {
	err = s.db.Write(ctx, org, func(tx db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM replays WHERE org_id = $1 AND expires_at <= now()`, org); err != nil {
			return err
		}
		n, err = tx.Exec(ctx, `UPDATE calls SET claim = NULL WHERE org_id = $1 AND claim IS NOT NULL AND state = 'closed' AND claim_until <= now()`, org)
		return err
	})
	return n, err
}

// Janitor gives back the claims whose time is over. Any number of processes may do so at once.
type Janitor struct {
	Calls *Store
	Orgs  func(context.Context) ([]id.Org, error) // all of them
	Log   *slog.Logger
}

const janitorEvery = time.Hour

// Run does it now, and then once an hour until ctx ends.
func (j Janitor) Run(ctx context.Context) {
	tick := time.NewTicker(janitorEvery)
	defer tick.Stop()
	for {
		chaos.Point("janitor")
		if err := j.round(ctx); err != nil && ctx.Err() == nil {
			j.Log.Warn("what was kept for repeats of requests could not be cleared away yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (j Janitor) round(ctx context.Context) error {
	all, err := j.Orgs(ctx)
	for _, org := range all {
		if _, e := j.Calls.Expire(ctx, org); e != nil {
			err = e
		}
	}
	return err
}
