package calls

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"slices"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Further is the attempt's row of an ATTEMPT unit: one more attempt of an open call, durable before it is made. It ends
// the one before it.
type Further struct {
	Org      id.Org
	ID       id.Request
	Epoch    int
	Before   AttemptEnd
	N        int // after Before's
	Provider string
	Model    string
	KeyName  string
	HoldPico int64 // of the whole call from now on
	Aim      Aim

	Begun bool // set by the commit: false means that another closed the call, the lease is lost
}

// Aim is those of a call's facts that another attempt changes. Members are told also where they are empty: the facts of
// the attempt before may not be.
type Aim struct {
	Provider      string   `json:"provider"`
	Model         string   `json:"model"`
	Why           string   `json:"why"`
	InputBytes    int64    `json:"input_bytes"`
	ThreadOmitted int      `json:"thread_omitted"`
	Warnings      []string `json:"warnings"`
}

// Set puts a into facts.
func (a Aim) Set(f *Facts) {
	f.Provider, f.Model, f.Why, f.InputBytes = a.Provider, a.Model, a.Why, a.InputBytes
	f.ThreadOmitted, f.Warnings = a.ThreadOmitted, a.Warnings
}

func (a Aim) json() string {
	b, _ := json.Marshal(a) // texts and numbers
	return string(b)
}

// Further adds f to u.
func (s *Store) Further(u *db.Unit, f *Further) { s.further.Put(u, f, 512) }

// furtherPostgres changes nothing of a call that is not open, or that another process has taken over. Run again, it finds
// what it did.
func furtherPostgres(rows []*Further) db.Statement {
	slices.SortFunc(rows, func(a, b *Further) int { return cmp.Or(cmp.Compare(a.Org, b.Org), cmp.Compare(a.ID, b.ID)) })
	n := len(rows)
	org, call, provider, model, key, aim := texts(n), texts(n), texts(n), texts(n), texts(n), texts(n)
	state, code, upstream := texts(n), texts(n), texts(n)
	epoch, at, status := make([]int32, n), make([]int32, n), make([]int32, n)
	hold, first, total := make([]int64, n), make([]int64, n), make([]int64, n)
	billed := make([]bool, n)
	of := make(map[string]*Further, n)
	for i, r := range rows {
		r.Begun = false
		of[string(r.Org)+"/"+string(r.ID)] = r
		org[i], call[i], epoch[i], at[i] = string(r.Org), string(r.ID), int32(r.Epoch), int32(r.N)
		provider[i], model[i], key[i], hold[i], aim[i] = r.Provider, r.Model, r.KeyName, r.HoldPico, r.Aim.json()
		b := r.Before
		state[i], status[i], code[i], upstream[i], billed[i] = string(b.State), int32(b.Status), b.Code, b.UpstreamID, b.MaybeBilled
		first[i], total[i] = b.FirstMS, b.TotalMS
	}
	return db.Statement{
		SQL: `WITH u AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[],
    $10::text[], $11::int[], $12::text[], $13::text[], $14::boolean[], $15::bigint[], $16::bigint[])
  AS u (org_id, call_id, epoch, n, provider, model, key_name, hold_pico, aim, state, status, code, upstream_id, maybe_billed, first_ms, total_ms)
), ours AS (
  UPDATE calls c SET hold_pico = u.hold_pico, facts = c.facts || u.aim::jsonb
  FROM u WHERE c.org_id = u.org_id AND c.call_id = u.call_id AND c.epoch = u.epoch AND c.state = 'open'
  RETURNING c.org_id, c.call_id
), ended AS (
  UPDATE attempts a SET state = u.state::attempt_state, status = nullif(u.status, 0), code = nullif(u.code, ''), upstream_id = nullif(u.upstream_id, ''),
    maybe_billed = u.maybe_billed, first_ms = nullif(u.first_ms, 0), total_ms = u.total_ms, ended_at = now()
  FROM u JOIN ours USING (org_id, call_id) WHERE a.org_id = u.org_id AND a.call_id = u.call_id AND a.n = u.n - 1
), begun AS (
  INSERT INTO attempts (org_id, call_id, n, provider, model, key_name)
  SELECT u.org_id, u.call_id, u.n, u.provider, u.model, u.key_name FROM u JOIN ours USING (org_id, call_id)
  ON CONFLICT DO NOTHING
)
SELECT org_id, call_id FROM ours`,
		Args: []any{org, call, epoch, at, provider, model, key, hold, aim, state, status, code, upstream, billed, first, total},
		Each: func(row db.Row) error {
			var org, call string
			if err := row.Scan(&org, &call); err != nil {
				return err
			}
			of[org+"/"+call].Begun = true
			return nil
		},
	}
}

func furtherSQLite(ctx context.Context, tx *sql.Tx, r *Further) error {
	r.Begun = false
	res, err := tx.ExecContext(ctx, `UPDATE calls SET hold_pico = $1, facts = json_patch(facts, $2)
WHERE org_id = $3 AND call_id = $4 AND epoch = $5 AND state = 'open'`, r.HoldPico, r.Aim.json(), r.Org, r.ID, r.Epoch)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return cmp.Or(err, db.ErrRefused)
	}
	if err := endSQLite(ctx, tx, &Closing{Org: r.Org, ID: r.ID, Attempts: []AttemptEnd{r.Before}}); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO attempts (org_id, call_id, n, provider, model, key_name) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		r.Org, r.ID, r.N, r.Provider, r.Model, r.KeyName)
	r.Begun = err == nil
	return err
}
