package kills

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Rows are all rows of one org that calls leave in the store, read with the checker's own SQL: it must not share the
// product's idea of what they mean.
type Rows struct {
	Org      id.Org
	Threads  []id.Thread
	Messages []Message // by thread and sequence
	Calls    []Call
	Attempts []Attempt
	Lines    []Line
	Budgets  []Budget
	Used     []Used
}

// Message is one row of messages. Text is the content of its JSON.
type Message struct {
	Thread id.Thread
	Seq    int
	Call   id.Request
	Role   string
	Text   string
	Status string
	Reason string
}

// Call is one row of calls. Thread is "" for a plain call.
type Call struct {
	ID       id.Request
	Thread   id.Thread
	State    string
	Outcome  string
	Reason   string
	FirstSeq int
	NIn      int
	Key      id.Key
	User     id.User
	HoldPico int64
	OpenedAt time.Time
}

// Budget is one row of budgets.
type Budget struct {
	ID                id.Budget
	Scope, Of, Period string
	LimitPico         int64
}

// Used is one row of used, of an amount that an int64 holds.
type Used struct {
	Budget id.Budget
	Start  time.Time
	Pico   int64
}

// Attempt is one row of attempts.
type Attempt struct {
	Call        id.Request
	N           int
	Provider    string
	State       string
	MaybeBilled bool
}

// Line is one row of the ledger.
type Line struct {
	Call                                         id.Request
	N                                            int
	Kind                                         string
	Input, Cached, CacheWrite, Output, Reasoning int64
	CostPico                                     int64
	Status                                       string
	MaybeBilled                                  bool
}

// Database reads the store of a house, by its URL, beside the gateway. It is opened for each look and closed after it: a file that
// somebody holds open is not recovered by the gateway that starts next, and that recovery is part of what is tested.
type Database struct{ URL string }

func (d Database) with(ctx context.Context, f func(db.Store) error) error {
	store, err := db.Open(ctx, db.Options{URL: d.URL, Timeout: 20 * time.Second, MaxConns: 2})
	if err != nil {
		return err
	}
	err = f(store)
	if cerr := store.Close(); err == nil {
		err = cerr
	}
	return err
}

// Read returns the rows of orgs, each read as that org and nobody else.
func (d Database) Read(ctx context.Context, orgs ...id.Org) (all []*Rows, err error) {
	err = d.with(ctx, func(store db.Store) error {
		for _, org := range orgs {
			r := &Rows{Org: org}
			if err := store.Query(ctx, org, r.queries()...); err != nil {
				return err
			}
			all = append(all, r)
		}
		return nil
	})
	return all, err
}

// buried returns when nothing the process that died at death had sent can still be carried out: Postgres finishes a
// transaction it has received, whoever waits for it or no longer does.
func (d Database) buried(ctx context.Context, death time.Time) error {
	if !strings.HasPrefix(d.URL, "postgres") {
		return nil
	}
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for left := 1; left > 0; {
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'threadhub' AND backend_start < $1`, death).Scan(&left)
		if err != nil {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
	return nil
}

// Orphans counts the calls of orgs that were opened before since and are still open.
func (d Database) Orphans(ctx context.Context, since time.Time, orgs ...id.Org) (n int, err error) {
	err = d.with(ctx, func(store db.Store) error {
		for _, org := range orgs {
			err := store.Query(ctx, org, db.Query{
				SQL:  `SELECT count(*) FROM calls WHERE org_id = $1 AND state = 'open' AND opened_at < $2`,
				Args: []any{org, db.At(store.Dialect(), since)},
				Each: func(row db.Row) error {
					var one int
					err := row.Scan(&one)
					n += one
					return err
				},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

func (r *Rows) queries() []db.Query {
	from := func(sql string, each func(db.Row) error) db.Query {
		return db.Query{SQL: sql, Args: []any{r.Org}, Each: each}
	}
	return []db.Query{
		from(`SELECT thread_id FROM threads WHERE org_id = $1`, func(row db.Row) error {
			var t id.Thread
			err := row.Scan(&t)
			r.Threads = append(r.Threads, t)
			return err
		}),
		from(`SELECT thread_id, seq, call_id, role, raw, CAST(status AS text), coalesce(reason, '')
FROM messages WHERE org_id = $1 ORDER BY thread_id, seq`, func(row db.Row) error {
			var m Message
			var raw string
			if err := row.Scan(&m.Thread, &m.Seq, &m.Call, &m.Role, &raw, &m.Status, &m.Reason); err != nil {
				return err
			}
			var said struct{ Content string }
			err := json.Unmarshal([]byte(raw), &said)
			m.Text = said.Content
			r.Messages = append(r.Messages, m)
			return err
		}),
		from(`SELECT call_id, coalesce(thread_id, ''), CAST(state AS text), coalesce(CAST(outcome AS text), ''), coalesce(reason, ''), first_seq, n_in,
  key_id, user_id, hold_pico, opened_at FROM calls WHERE org_id = $1`, func(row db.Row) error {
			var c Call
			var opened db.Time
			err := row.Scan(&c.ID, &c.Thread, &c.State, &c.Outcome, &c.Reason, &c.FirstSeq, &c.NIn, &c.Key, &c.User, &c.HoldPico, &opened)
			c.OpenedAt = opened.Time
			r.Calls = append(r.Calls, c)
			return err
		}),
		from(`SELECT call_id, n, provider, CAST(state AS text), maybe_billed FROM attempts WHERE org_id = $1`, func(row db.Row) error {
			var a Attempt
			err := row.Scan(&a.Call, &a.N, &a.Provider, &a.State, &a.MaybeBilled)
			r.Attempts = append(r.Attempts, a)
			return err
		}),
		from(`SELECT call_id, n, kind, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_pico,
  CAST(status AS text), maybe_billed FROM ledger WHERE org_id = $1`, func(row db.Row) error {
			var l Line
			err := row.Scan(&l.Call, &l.N, &l.Kind, &l.Input, &l.Cached, &l.CacheWrite, &l.Output, &l.Reasoning, &l.CostPico, &l.Status, &l.MaybeBilled)
			r.Lines = append(r.Lines, l)
			return err
		}),
		from(`SELECT budget_id, scope, scope_id, period, limit_pico FROM budgets WHERE org_id = $1`, func(row db.Row) error {
			var b Budget
			err := row.Scan(&b.ID, &b.Scope, &b.Of, &b.Period, &b.LimitPico)
			r.Budgets = append(r.Budgets, b)
			return err
		}),
		from(`SELECT budget_id, period_start, CAST(used_pico AS bigint) FROM used WHERE org_id = $1`, func(row db.Row) error {
			var u Used
			var start db.Time
			err := row.Scan(&u.Budget, &start, &u.Pico)
			u.Start = start.Time
			r.Used = append(r.Used, u)
			return err
		}),
	}
}
