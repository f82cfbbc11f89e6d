package orgs

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// burgle opens the store as somebody does who has every right in it, and has taken away what keeps a log as it is.
func (w *world) burgle(t *testing.T) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", w.url
	if w.store.Dialect() == db.SQLite {
		driver, dsn = "sqlite", db.SQLiteDSN(db.SQLitePath(w.url), false)
	}
	conn, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if driver == "sqlite" {
		doSQL(t, conn, `DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete`)
	}
	return conn
}

func doSQL(t *testing.T, conn *sql.DB, sql string, args ...any) {
	t.Helper()
	if _, err := conn.ExecContext(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func verify(t *testing.T, s *Service, org id.Org) AuditReport {
	t.Helper()
	r, err := s.VerifyAudit(t.Context(), org)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// actions are what the log says was done, the oldest first.
func actions(t *testing.T, s *Service, org id.Org) (list []string) {
	t.Helper()
	lines, err := s.Audit(t.Context(), org, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		list = append(list, l.Action)
	}
	slices.Reverse(list)
	return list
}

func TestEveryChangeIsWrittenDown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := seed(t, s, SeedSpec{Org: "acme", Email: "ann@secret.example", Role: Admin})
		by := Actor{k.User, k.Key}
		_, made, err := s.CreateKey(t.Context(), k.Org, by, KeySpec{User: k.User, Name: "ci"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time changes nothing
			if err := s.RevokeKey(t.Context(), k.Org, by, made.ID); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.PutProviderKey(t.Context(), k.Org, by, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk-CANARY-0123456789abcdef")}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Rotate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteProviderKey(t.Context(), k.Org, by, "openai", ""); err != nil {
			t.Fatal(err)
		}
		seed(t, s, SeedSpec{Org: "acme", Email: "ann@secret.example", Role: Member, Seats: 3})

		want := []string{
			"org.create", "user.create", "key.create", "key.create", "key.delete", "provider_key.put", "data_key.rotate",
			"provider_key.delete", "org.update", "user.update", "key.create",
		}
		if got := actions(t, s, k.Org); !slices.Equal(got, want) {
			t.Fatalf("written down: %v\nwant %v", got, want)
		}
		lines, err := s.Audit(t.Context(), k.Org, 6, 3)
		if err != nil || len(lines) != 3 || lines[0].Seq != 5 || lines[2].Seq != 3 {
			t.Fatalf("a page: %+v, %v", lines, err)
		}
		if l := lines[0]; l.User != k.User || l.Key != k.Key || l.Target != string(made.ID) || !l.At.Equal(w.now().Truncate(time.Microsecond)) {
			t.Errorf("the revocation is written down as %+v", l)
		}
		if l := lines[2]; l.User != "" || l.Key != "" {
			t.Errorf("what the operator did is written down as %+v", l)
		}
		if r := verify(t, s, k.Org); !r.OK() || r.Lines != int64(len(want)) || len(r.Head) == 0 {
			t.Errorf("the log as it was written: %+v", r)
		}
		all, err := s.Audit(t.Context(), k.Org, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(all)
		if err != nil || bytes.Contains(text, []byte("CANARY")) || bytes.Contains(text, []byte("secret.example")) {
			t.Errorf("the log holds a secret, or an address: %s, %v", text, err)
		}
		other := member(t, s, "globex")
		if got := actions(t, s, other.Org); !slices.Equal(got, []string{"org.create", "user.create", "key.create"}) {
			t.Errorf("another org's log: %v", got)
		}
		_, err = s.VerifyAudit(t.Context(), "org_nobody")
		hasCode(t, err, fault.NotFound, "org_not_found")
	})
}

// A log longer than a page, so that what is wrong may be on a later one.
const tampered = auditPage + 7

func TestTamperingIsFound(t *testing.T) {
	const row = ` WHERE org_id = 'ORG' AND seq = `
	last, later := fmt.Sprint(tampered), fmt.Sprint(auditPage+5)
	swap := func(column string) string {
		return `UPDATE audit SET ` + column + ` = CASE seq WHEN 5 THEN (SELECT ` + column + ` FROM audit` + row + `6) ELSE (SELECT ` + column +
			` FROM audit` + row + `5) END WHERE org_id = 'ORG' AND seq IN (5, 6)`
	}
	cases := map[string]struct {
		sql []string
		bad int64
	}{
		"another time":           {[]string{`UPDATE audit SET at = (SELECT at FROM audit WHERE org_id = 'org_globex' AND seq = 1)` + row + `5`}, 5},
		"another user":           {[]string{`UPDATE audit SET user_id = 'usr_b'` + row + `5`}, 5},
		"another key":            {[]string{`UPDATE audit SET key_id = 'k'` + row + `5`}, 5},
		"another action":         {[]string{`UPDATE audit SET action = 'key.delete'` + row + last}, tampered},
		"another target":         {[]string{`UPDATE audit SET target = 'x'` + row + `1`}, 1},
		"another detail":         {[]string{`UPDATE audit SET detail = '{"n": 9}'` + row + later}, auditPage + 5},
		"a part moved over":      {[]string{`UPDATE audit SET action = 'note.add2', target = ''` + row + `9`}, 9},
		"another hash":           {[]string{`UPDATE audit SET hash = (SELECT hash FROM audit` + row + `7)` + row + `8`}, 8},
		"a line taken out":       {[]string{`DELETE FROM audit` + row + later}, auditPage + 5},
		"the first taken out":    {[]string{`DELETE FROM audit` + row + `1`}, 1},
		"the last taken off":     {[]string{`DELETE FROM audit` + row + last}, tampered},
		"all taken away":         {[]string{`DELETE FROM audit WHERE org_id = 'ORG'`}, 1},
		"two lines swapped":      {[]string{swap("target"), swap("hash")}, 5},
		"a line put in front":    {[]string{`INSERT INTO audit SELECT org_id, 0, at, user_id, key_id, action, target, detail, hash FROM audit` + row + `1`}, 0},
		"a line put at the end":  {[]string{`INSERT INTO audit SELECT org_id, seq + 1, at, user_id, key_id, action, target, detail, hash FROM audit` + row + last}, tampered + 1},
		"another org's line":     {[]string{`UPDATE audit SET hash = (SELECT hash FROM audit WHERE org_id = 'org_globex' AND seq = 1)` + row + `1`}, 1},
		"the head put back":      {[]string{`DELETE FROM audit` + row + last, `UPDATE orgs SET audit_seq = audit_seq - 1 WHERE org_id = 'ORG'`}, tampered - 1},
		"the head made up":       {[]string{`UPDATE orgs SET audit_head = (SELECT hash FROM audit` + row + last + `) WHERE org_id = 'ORG'`}, tampered},
		"the head of an org":     {[]string{`UPDATE orgs SET audit_head = (SELECT audit_head FROM orgs WHERE org_id = 'org_globex') WHERE org_id = 'ORG'`}, tampered},
		"the head forgotten":     {[]string{`UPDATE orgs SET audit_seq = 0, audit_head = EMPTY WHERE org_id = 'ORG'`}, 1},
		"the head taken forward": {[]string{`UPDATE orgs SET audit_seq = audit_seq + 1 WHERE org_id = 'ORG'`}, tampered + 1},
	}
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		other := member(t, s, "globex")
		w.advance(time.Second)
		conn := w.burgle(t)
		empty := "''"
		if w.store.Dialect() == db.SQLite {
			empty = "x''"
		}
		n := 0
		for name, c := range cases {
			n++
			org := member(t, s, fmt.Sprint("acme_", n)).Org
			note(t, s, org, 4, tampered+1) // three lines are there already
			if r := verify(t, s, org); !r.OK() || r.Lines != tampered {
				t.Fatalf("%s, before: %+v", name, r)
			}
			for _, sql := range c.sql {
				doSQL(t, conn, strings.NewReplacer("ORG", string(org), "EMPTY", empty).Replace(sql))
			}
			if r := verify(t, s, org); r.OK() || r.Bad != c.bad {
				t.Errorf("%s: %+v, want line %d", name, r, c.bad)
			}
			_ = writeNotes(t, s, org, 9000, 9002) // what may still be added must not make it good
			if r := verify(t, s, org); r.OK() {
				t.Errorf("%s, after a new line: %+v", name, r)
			}
		}
		if r := verify(t, s, other.Org); !r.OK() {
			t.Errorf("another org's log: %+v", r)
		}
	})
}

// note writes lines that stand for changes.
func note(t *testing.T, s *Service, org id.Org, from, to int) {
	t.Helper()
	if err := writeNotes(t, s, org, from, to); err != nil {
		t.Fatal(err)
	}
}

func writeNotes(t *testing.T, s *Service, org id.Org, from, to int) error {
	t.Helper()
	return s.change(t.Context(), org, Actor{"usr_a", "key_a"}, func(db.Tx) (all []Entry, err error) {
		for n := from; n < to; n++ {
			all = append(all, Entry{"note.add", fmt.Sprint(n), map[string]int{"n": n}})
		}
		return all, nil
	})
}

// No audit line, no change: whichever way an org is changed.
func TestWithoutALineNothingChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := seed(t, s, SeedSpec{Org: "acme", Email: "ann@example.com", Role: Admin})
		put(t, s, k.Org, "openai", "sk-key")
		had := thingsOf(t, s, k)
		put(t, s, k.Org, "perplexity", "pplx-key")
		conn := w.burgle(t)
		for how, c := range map[string]struct {
			begin, end string
			code       string
		}{
			"refused": {refuseInserts(w.store.Dialect(), "audit"), allowInserts(w.store.Dialect(), "audit"), ""},
			"locked":  {`LOCK TABLE audit IN ACCESS EXCLUSIVE MODE`, "", "busy"},
		} {
			if how == "locked" && w.store.Dialect() == db.SQLite {
				c.begin, c.code = `UPDATE secrets SET kek_id = kek_id`, "storage_unavailable" // its lock is the file's
			}
			tx, err := conn.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.ExecContext(t.Context(), c.begin); err != nil {
				t.Fatal(err)
			}
			if how == "refused" {
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			before := w.everything(t, conn, k.Org)
			for name, change := range changes(s, k, had) {
				if how == "locked" && name != "create a key" {
					continue // each waits for as long as a lock is waited for
				}
				err := change(t.Context())
				if err == nil || c.code != "" && fault.From(err).Code != c.code {
					t.Errorf("%s, %s: %v", how, name, err)
				}
				if how == "locked" && !fault.Is(err, fault.Unavailable) {
					t.Errorf("%s, %s: not 503: %v", how, name, err)
				}
			}
			_ = tx.Rollback()
			if after := w.everything(t, conn, k.Org); after != before {
				t.Errorf("%s: changed without a line:\n%s\nto\n%s", how, before, after)
			}
			if c.end != "" {
				doSQL(t, conn, c.end)
			}
		}
		for name, change := range changes(s, k, had) {
			before := verify(t, s, k.Org).Lines
			if err := change(t.Context()); err != nil {
				t.Errorf("%s, when lines are taken again: %v", name, err)
			}
			if r := verify(t, s, k.Org); !strings.HasSuffix(name, "n org") && name != "seed another org" && r.Lines == before || !r.OK() {
				t.Errorf("%s left no line: %+v", name, r)
			}
		}
	})
}

// things are there to be changed.
type things struct {
	user          id.User
	team, renamed id.Team
	key           id.Key
}

func thingsOf(t *testing.T, s *Service, k Seeded) things {
	t.Helper()
	by := Actor{k.User, k.Key}
	u := must[UserInfo](t)(s.CreateUser(t.Context(), k.Org, by, UserSpec{Email: "gone@example.com"}))
	a := must[Team](t)(s.CreateTeam(t.Context(), k.Org, by, "a"))
	b := must[Team](t)(s.CreateTeam(t.Context(), k.Org, by, "b"))
	_, key, err := s.CreateKey(t.Context(), k.Org, by, KeySpec{User: k.User})
	if err != nil {
		t.Fatal(err)
	}
	return things{u.ID, a.ID, b.ID, key.ID}
}

// changes are all ways to change an org; each works once.
func changes(s *Service, k Seeded, had things) map[string]func(context.Context) error {
	by := Actor{k.User, k.Key}
	return map[string]func(context.Context) error{
		"seed a user": func(ctx context.Context) error {
			_, err := s.Seed(ctx, SeedSpec{Org: "acme", Email: "bob@example.com"})
			return err
		},
		"seed another org": func(ctx context.Context) error {
			_, err := s.Seed(ctx, SeedSpec{Org: "globex", Email: "bob@example.com"})
			return err
		},
		"create a key": func(ctx context.Context) error {
			_, _, err := s.CreateKey(ctx, k.Org, by, KeySpec{User: k.User})
			return err
		},
		"revoke a key": func(ctx context.Context) error { return s.RevokeKey(ctx, k.Org, by, k.Key) },
		"put a provider key": func(ctx context.Context) error {
			_, err := s.PutProviderKey(ctx, k.Org, by, ProviderKeySpec{Provider: "gemini", Key: seal.NewSecret("sk-other")})
			return err
		},
		"put another priority": func(ctx context.Context) error {
			_, err := s.PutProviderKey(ctx, k.Org, by, ProviderKeySpec{Provider: "perplexity", Priority: new(7)})
			return err
		},
		"try a provider key": func(ctx context.Context) error {
			_, err := s.TryProviderKey(ctx, k.Org, by, "perplexity", "", seal.Secret{})
			return err
		},
		"try another provider key": func(ctx context.Context) error {
			_, err := s.TryProviderKey(ctx, k.Org, by, "openai", "spare", seal.NewSecret("sk-another"))
			return err
		},
		"delete a provider key": func(ctx context.Context) error { return s.DeleteProviderKey(ctx, k.Org, by, "openai", "") },
		"create a user": func(ctx context.Context) error {
			return second(s.CreateUser(ctx, k.Org, by, UserSpec{Email: "cleo@example.com"}))
		},
		"change a user": func(ctx context.Context) error {
			return second(s.UpdateUser(ctx, k.Org, by, k.User, UserChange{Name: ptr("Ann")}))
		},
		"delete a user": func(ctx context.Context) error { return s.DeleteUser(ctx, k.Org, by, had.user) },
		"create a team": func(ctx context.Context) error { return second(s.CreateTeam(ctx, k.Org, by, "new")) },
		"rename a team": func(ctx context.Context) error { return second(s.RenameTeam(ctx, k.Org, by, had.renamed, "other")) },
		"delete a team": func(ctx context.Context) error { return s.DeleteTeam(ctx, k.Org, by, had.team) },
		"change a key": func(ctx context.Context) error {
			return second(s.UpdateKey(ctx, k.Org, by, had.key, KeyChange{Name: ptr("other")}))
		},
		"change the org": func(ctx context.Context) error {
			return second(s.UpdateOrg(ctx, k.Org, by, OrgChange{WindowPolicy: ptr(WindowRefuse)}))
		},
		"create an org": func(ctx context.Context) error {
			return second(s.CreateOrg(ctx, k.Org, by, OrgSpec{Name: "initech", Email: "d@example.com"}))
		},
		"rotate": func(ctx context.Context) error {
			_, err := s.Rotate(ctx, nil)
			return err
		},
	}
}

func refuseInserts(d db.Dialect, table string) string {
	if d == db.Postgres {
		return `REVOKE INSERT ON ` + table + ` FROM threadhub_app`
	}
	return `CREATE TRIGGER no_lines BEFORE INSERT ON ` + table + ` BEGIN SELECT RAISE(ABORT, 'no'); END`
}

func allowInserts(d db.Dialect, table string) string {
	if d == db.Postgres {
		return `GRANT INSERT ON ` + table + ` TO threadhub_app`
	}
	return `DROP TRIGGER no_lines`
}

// everything is what is stored of the org, and how many orgs there are.
func (w *world) everything(t *testing.T, conn *sql.DB, org id.Org) string {
	t.Helper()
	var b strings.Builder
	for table, sql := range map[string]string{
		"orgs":   `SELECT name || tier || seats || audit_seq FROM orgs ORDER BY 1`,
		"users":  `SELECT user_id || email || CAST(role AS text) || (disabled_at IS NULL) || (deleted_at IS NULL) || COALESCE(team_id, '') || name FROM users ORDER BY 1`,
		"teams":  `SELECT team_id || name FROM teams ORDER BY 1`,
		"keys":   `SELECT key_id || name || (revoked_at IS NULL) || (disabled_at IS NULL) || models || providers FROM api_keys ORDER BY 1`,
		"sealed": `SELECT provider || slot || priority || version || masked || dek_version FROM provider_keys ORDER BY 1`,
		"deks":   `SELECT version || kek_id FROM org_keys ORDER BY 1`,
	} {
		rows, err := conn.QueryContext(context.Background(), sql)
		if err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		var lines []string
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, table+" "+s)
		}
		_ = rows.Close()
		b.WriteString(strings.Join(lines, "\n") + "\n")
	}
	all := strings.Split(b.String(), "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// Whoever takes the last line off and makes the one before it the head cannot make its mark, and no line that follows
// makes up for that.
func TestAnOlderLineIsNoHead(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		org := member(t, s, "acme").Org
		conn := w.burgle(t)
		var older, head []byte
		if err := conn.QueryRowContext(t.Context(), `SELECT hash, audit_head FROM audit JOIN orgs USING (org_id) WHERE seq = 2`).Scan(&older, &head); err != nil {
			t.Fatal(err)
		}
		doSQL(t, conn, `DELETE FROM audit WHERE seq = 3`)
		doSQL(t, conn, `UPDATE orgs SET audit_seq = 2, audit_head = $1`, append(older, head[len(older):]...))
		for range 2 {
			if r := verify(t, s, org); r.OK() || r.Why != "the head is not as it was written" {
				t.Fatalf("%+v", r)
			}
			note(t, s, org, 1, 2)
		}
		if !strings.Contains(w.log.String(), "threadhub audit verify") {
			t.Error("the process's log tells nothing")
		}
	})
}

func TestAChangeThatSaysNothingIsNone(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := member(t, s, "acme")
		err := s.change(t.Context(), k.Org, Actor{}, func(tx db.Tx) ([]Entry, error) {
			_, err := tx.Exec(t.Context(), `UPDATE users SET role = 'admin' WHERE org_id = $1`, string(k.Org))
			return nil, err
		})
		if err != nil {
			t.Fatal(err)
		}
		if u, err := s.User(t.Context(), k.Org, k.User); err != nil || u.Role != Member {
			t.Errorf("%+v, %v", u, err)
		}
	})
}
