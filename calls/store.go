package calls

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

const callColumns = `org_id, call_id, key_id, user_id, team_id, thread_id, epoch, state, outcome, reason, first_seq, n_in, hold_pico, facts, opened_at, closed_at`

// Call returns the call with its attempts. Errors: fault.NotFound, also for another org's.
func (s *Store) Call(ctx context.Context, org id.Org, call id.Request) (*Call, error) {
	var c *Call
	var attempts []Attempt
	err := s.db.Query(ctx, org,
		db.Query{
			SQL:  `SELECT ` + callColumns + ` FROM calls WHERE org_id = $1 AND call_id = $2`,
			Args: []any{org, call},
			Each: func(row db.Row) (err error) { c, err = scanCall(row); return err },
		},
		db.Query{
			SQL: `SELECT n, provider, model, key_name, state, status, code, upstream_id, maybe_billed, first_ms, total_ms, started_at, ended_at
FROM attempts WHERE org_id = $1 AND call_id = $2 ORDER BY n`,
			Args: []any{org, call},
			Each: func(row db.Row) error {
				a, err := scanAttempt(row)
				attempts = append(attempts, a)
				return err
			},
		})
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, Absent()
	}
	c.Attempts = attempts
	return c, nil
}

// Absent is the answer for a call that is not there, or not for this caller to know of: the same bytes whatever the id.
func Absent() error {
	return fault.New(fault.NotFound, "there is no such request").WithCode("request_not_found")
}

// Holder returns the open call that holds thread's turn, or nil.
func (s *Store) Holder(ctx context.Context, org id.Org, thread id.Thread) (*Call, error) {
	var c *Call
	err := s.db.Query(ctx, org, db.Query{
		SQL:  `SELECT ` + callColumns + ` FROM calls WHERE org_id = $1 AND thread_id = $2 AND state = 'open'`,
		Args: []any{org, thread},
		Each: func(row db.Row) (err error) { c, err = scanCall(row); return err },
	})
	return c, err
}

func scanCall(row db.Row) (*Call, error) {
	var c Call
	var team, thread, outcome, reason sql.NullString
	var facts []byte
	var opened, closed db.Time
	err := row.Scan(&c.Org, &c.ID, &c.Key, &c.User, &team, &thread, &c.Epoch, &c.State, &outcome, &reason,
		&c.FirstSeq, &c.NIn, &c.HoldPico, &facts, &opened, &closed)
	if err != nil {
		return nil, err
	}
	c.Team, c.Thread, c.Outcome, c.Reason = id.Team(team.String), id.Thread(thread.String), Outcome(outcome.String), reason.String
	c.OpenedAt, c.ClosedAt = opened.Time, closed.Time
	if err := json.Unmarshal(facts, &c.Facts); err != nil {
		return nil, fmt.Errorf("calls: facts of %s: %w", c.ID, err)
	}
	return &c, nil
}

func scanAttempt(row db.Row) (Attempt, error) {
	var a Attempt
	var status, first, total sql.NullInt64
	var code, upstream sql.NullString
	var started, ended db.Time
	err := row.Scan(&a.N, &a.Provider, &a.Model, &a.KeyName, &a.State, &status, &code, &upstream, &a.MaybeBilled, &first, &total, &started, &ended)
	a.Status, a.Code, a.UpstreamID, a.FirstMS, a.TotalMS = int(status.Int64), code.String, upstream.String, first.Int64, total.Int64
	a.StartedAt, a.EndedAt = started.Time, ended.Time
	return a, err
}
