package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
)

func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// fillOrg writes one row of everything for an org. Ids other than the org's are the same in every org.
var fillOrg = []string{
	"INSERT INTO orgs (org_id, name, tier, seats) VALUES ('$org', 'n', 't', 1)",
	"INSERT INTO org_keys (org_id, version, kek_id, wrapped) VALUES ('$org', 1, 'k', '')",
	"INSERT INTO teams (org_id, team_id, name) VALUES ('$org', 'team', 'n')",
	"INSERT INTO users (org_id, user_id, team_id, email, role) VALUES ('$org', 'user', 'team', 'a@b', 'admin')",
	"INSERT INTO api_keys (org_id, key_id, user_id, hash) VALUES ('$org', 'key_of_$org', 'user', '')",
	"INSERT INTO provider_keys (org_id, provider, version, dek_version, sealed, masked) VALUES ('$org', 'openai', 1, 1, '', '')",
	"INSERT INTO calls (org_id, call_id, key_id, user_id, thread_id, owner, claim) VALUES ('$org', 'call', 'key', 'user', 'thread', 'own', 'claim')",
	"INSERT INTO calls (org_id, call_id, key_id, user_id, owner, state) VALUES ('$org', 'done', 'key', 'user', 'own', 'closed')",
	"INSERT INTO replays (org_id, call_id, head, body, stream, expires_at) VALUES ('$org', 'call', '[]', '', false, now())",
	"INSERT INTO attempts (org_id, call_id, n, provider, model) VALUES ('$org', 'call', 0, 'openai', 'm')",
	"INSERT INTO threads (org_id, thread_id, user_id, canon) VALUES ('$org', 'thread', 'user', 1)",
	"INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, words) VALUES ('$org', 'thread', 0, 'call', 'user', '{}', '', '', 'complete', 'hello')",
	"INSERT INTO ledger (org_id, call_id, n, kind, key_id, user_id, provider, model, cost_pico, status, price_version) VALUES ('$org', 'call', 0, 'use', 'key', 'user', 'openai', 'm', 1, 'computed', '1')",
	"INSERT INTO audit (org_id, seq, at, user_id, key_id, action, target, detail, hash) VALUES ('$org', 1, now(), 'user', 'key', 'a', 't', '{}', '')",
	"INSERT INTO router_rules (org_id, version, body) VALUES ('$org', 1, '{}')",
	"INSERT INTO router_hits (org_id, rule, hits) VALUES ('$org', 'rule', 1)",
	"INSERT INTO limits (org_id, scope, scope_id) VALUES ('$org', 'org', '$org')",
	"INSERT INTO budgets (org_id, budget_id, scope, scope_id, period, limit_pico, mode) VALUES ('$org', 'budget', 'org', '$org', 'day', 1, 'hard')",
	"INSERT INTO used (org_id, budget_id, period_start, used_pico) VALUES ('$org', 'budget', 'epoch', 1)",
}

func replaceOrg(sql, org string) string {
	out := []byte(nil)
	for i := 0; i < len(sql); i++ {
		if len(sql)-i >= 4 && sql[i:i+4] == "$org" {
			out, i = append(out, org...), i+3
			continue
		}
		out = append(out, sql[i])
	}
	return string(out)
}

// inTx runs f in a transaction of role that is bound by settings, and rolls it back.
func inTx(t *testing.T, c *pgx.Conn, role, orgs, key string, f func(ctx context.Context, tx pgx.Tx)) {
	t.Helper()
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "SELECT set_config('role', $1, true)", role); err != nil {
		t.Fatal(err)
	}
	if orgs != "" || key != "" {
		if _, err := tx.Exec(t.Context(), "SELECT set_config('app.orgs', $1, true), set_config('app.key_id', $2, true)", orgs, key); err != nil {
			t.Fatal(err)
		}
	}
	f(t.Context(), tx)
}

// attempt runs sql behind a savepoint and returns its SQLSTATE and how many rows it touched.
func attempt(t *testing.T, tx pgx.Tx, sql string) (state string, n int64) {
	t.Helper()
	inner, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inner.Rollback(t.Context()) }()
	tag, err := inner.Exec(t.Context(), sql)
	if err != nil && sqlState(err) == "" {
		t.Fatalf("%s: %v", sql, err)
	}
	return sqlState(err), tag.RowsAffected()
}

const insufficient = "42501" // no privilege, and a row that breaks a policy

// Row-level security in force, as the gateway meets it.
func TestIsolation(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	c := connect(t, url)
	for _, org := range []string{"org_a", "org_b", "org_c"} {
		for _, s := range fillOrg {
			if _, err := c.Exec(t.Context(), replaceOrg(s, org)); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	var tables []string
	for _, r := range rows(t, open(t, url), `SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'org_id' ORDER BY 1`) {
		tables = append(tables, r[0])
	}
	if len(tables) != 18 {
		t.Fatalf("tables with an org: %v", tables)
	}
	seen := func(tx pgx.Tx, table string) []string {
		t.Helper()
		r, err := tx.Query(t.Context(), "SELECT DISTINCT org_id FROM "+table+" ORDER BY 1")
		if err != nil {
			t.Fatal(err)
		}
		orgs, err := pgx.CollectRows(r, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		return orgs
	}

	t.Run("who sees what", func(t *testing.T) {
		for orgs, want := range map[string][]string{
			"": {}, "org_a": {"org_a"}, "org_b": {"org_b"}, "org_a,org_c": {"org_a", "org_c"}, "org_nobody": {}, ",": {}, "*": {}, "org_%": {},
		} {
			inTx(t, c, db.AppRole, orgs, "", func(_ context.Context, tx pgx.Tx) {
				for _, table := range tables {
					if diff := cmp.Diff(want, seen(tx, table)); diff != "" {
						t.Errorf("app.orgs = %q, %s: (-want +got)\n%s", orgs, table, diff)
					}
				}
			})
		}
	})
	t.Run("after another transaction", func(t *testing.T) {
		// The setting is now '' on this session, not NULL.
		inTx(t, c, db.AppRole, "", "", func(_ context.Context, tx pgx.Tx) {
			for _, table := range tables {
				if got := seen(tx, table); len(got) != 0 {
					t.Errorf("%s shows %v", table, got)
				}
			}
		})
	})
	t.Run("writes stay in the org", func(t *testing.T) {
		inTx(t, c, db.AppRole, "org_a", "", func(_ context.Context, tx pgx.Tx) {
			for _, s := range fillOrg {
				if state, _ := attempt(t, tx, replaceOrg(s, "org_b")); state != insufficient {
					t.Errorf("%s for org_b: %q", s, state)
				}
				if state, _ := attempt(t, tx, replaceOrg(s, "org_new")); state != insufficient {
					t.Errorf("%s for a new org: %q", s, state)
				}
			}
			for _, table := range tables {
				if slices.Contains([]string{"audit", "ledger", "messages", "replays"}, table) {
					continue
				}
				if state, n := attempt(t, tx, "UPDATE "+table+" SET org_id = org_id WHERE org_id <> 'org_a'"); state != "" || n != 0 {
					t.Errorf("%s: changed %d rows of others, %q", table, n, state)
				}
			}
			if state, _ := attempt(t, tx, "UPDATE attempts SET org_id = 'org_b'"); state != insufficient {
				t.Errorf("a row was given to another org: %q", state)
			}
			if state, n := attempt(t, tx, "DELETE FROM calls WHERE org_id <> 'org_a'"); state != "" || n != 0 {
				t.Errorf("deleted %d calls of others, %q", n, state)
			}
		})
	})
	t.Run("the same ids in two orgs", func(t *testing.T) {
		inTx(t, c, db.AppRole, "org_new", "", func(_ context.Context, tx pgx.Tx) {
			for _, s := range fillOrg {
				if _, err := tx.Exec(t.Context(), replaceOrg(s, "org_new")); err != nil {
					t.Errorf("%s: %v", s, err) // a conflict would tell that another org has the id
				}
			}
		})
	})
	t.Run("insert only", func(t *testing.T) {
		inTx(t, c, db.AppRole, "org_a", "", func(_ context.Context, tx pgx.Tx) {
			for _, table := range []string{"audit", "ledger", "messages"} {
				for _, s := range []string{"UPDATE " + table + " SET org_id = org_id", "DELETE FROM " + table, "TRUNCATE " + table} {
					if state, _ := attempt(t, tx, s); state != insufficient {
						t.Errorf("%s: %q", s, state)
					}
				}
			}
		})
	})
	t.Run("a shown key", func(t *testing.T) {
		inTx(t, c, db.AppRole, "", "key_of_org_b", func(ctx context.Context, tx pgx.Tx) {
			var org string
			var n int
			if err := tx.QueryRow(ctx, "SELECT min(org_id), count(*) FROM api_keys").Scan(&org, &n); err != nil || org != "org_b" || n != 1 {
				t.Errorf("%d keys, of %s: %v", n, org, err)
			}
			for _, table := range tables {
				if table == "api_keys" {
					continue
				}
				if got := seen(tx, table); len(got) != 0 {
					t.Errorf("%s shows %v", table, got)
				}
			}
			if state, n := attempt(t, tx, "UPDATE api_keys SET revoked_at = now()"); state != "" || n != 0 {
				t.Errorf("changed %d keys, %q", n, state)
			}
		})
	})
	t.Run("the settler", func(t *testing.T) {
		inTx(t, c, db.SettlerRole, "", "", func(ctx context.Context, tx pgx.Tx) {
			for table, want := range map[string]int{"orgs": 3, "calls": 3} { // each org has another call, which is closed
				var n int
				if err := tx.QueryRow(ctx, "SELECT count(org_id) FROM "+table).Scan(&n); err != nil || n != want {
					t.Errorf("%s: %d rows, want %d: %v", table, n, want, err)
				}
			}
			if _, err := tx.Exec(ctx, "SELECT org_id, call_id, owner, epoch, state FROM calls WHERE state = 'open'"); err != nil {
				t.Error(err)
			}
			for _, r := range rows(t, open(t, url), `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'`) {
				granted := r[0] == "orgs" && r[1] == "org_id" ||
					r[0] == "calls" && slices.Contains([]string{"org_id", "call_id", "owner", "epoch", "state"}, r[1])
				state, _ := attempt(t, tx, fmt.Sprintf("SELECT %s FROM %s", r[1], r[0]))
				if want := map[bool]string{true: "", false: insufficient}[granted]; state != want {
					t.Errorf("%s.%s: %q, want %q", r[0], r[1], state, want)
				}
			}
			for _, s := range []string{"UPDATE calls SET epoch = 1", "DELETE FROM calls", "INSERT INTO orgs (org_id) VALUES ('x')"} {
				if state, _ := attempt(t, tx, s); state != insufficient {
					t.Errorf("%s: %q", s, state)
				}
			}
		})
	})
	t.Run("who searches", func(t *testing.T) {
		for words, want := range map[string][]string{"'hello'": {"org_a"}, "'hel':*": {"org_a"}, "'bye'": {}, "": {}} {
			inTx(t, c, db.SearchRole, "org_a", "", func(ctx context.Context, tx pgx.Tx) {
				if _, err := tx.Exec(ctx, "SELECT set_config('app.words', $1, true)", words); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, seen(tx, "messages")); diff != "" {
					t.Errorf("%q: (-want +got)\n%s", words, diff)
				}
				if state, _ := attempt(t, tx, "SELECT raw FROM messages"); state != insufficient {
					t.Errorf("reads text: %q", state)
				}
			})
		}
	})
	t.Run("the janitor", func(t *testing.T) {
		inTx(t, c, db.JanitorRole, "org_a", "", func(ctx context.Context, tx pgx.Tx) {
			for _, s := range []string{"DELETE FROM messages", "DELETE FROM threads"} {
				if state, n := attempt(t, tx, s); state != "" || n != 0 {
					t.Errorf("%s: %q, %d rows of threads that are not deleted", s, state, n)
				}
			}
		})
		if _, err := c.Exec(t.Context(), "UPDATE threads SET deleted_at = now()"); err != nil {
			t.Fatal(err)
		}
		inTx(t, c, db.JanitorRole, "org_a", "", func(ctx context.Context, tx pgx.Tx) {
			for _, s := range []string{"DELETE FROM messages", "DELETE FROM threads"} {
				if state, n := attempt(t, tx, s); state != "" || n != 1 {
					t.Errorf("%s: %q, %d rows, want the one of org_a", s, state, n)
				}
			}
		})
	})
}
