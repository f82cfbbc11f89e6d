package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

func open(t *testing.T, o db.Options) db.Store {
	t.Helper()
	s, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func eachStore(t *testing.T, f func(t *testing.T, s db.Store)) {
	t.Run("sqlite", func(t *testing.T) { f(t, open(t, db.Options{URL: testkit.SQLite(t)})) })
	t.Run("postgres", func(t *testing.T) { f(t, open(t, db.Options{URL: testkit.Postgres(t), MaxConns: 1})) })
}

func addOrg(ctx context.Context, s db.Store, org id.Org) error {
	return s.Write(ctx, org, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO orgs (org_id, name, tier, seats) VALUES ($1, $2, 'trial', 10)`, org, "name of "+string(org))
		return err
	})
}

func count(t *testing.T, read func(func(db.Tx) error) error) (n int) {
	t.Helper()
	err := read(func(tx db.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT count(*) FROM orgs`, nil, &n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestReadWriteAndTimes(t *testing.T) {
	eachStore(t, func(t *testing.T, s db.Store) {
		before := time.Now().Add(-time.Minute)
		if err := addOrg(t.Context(), s, "org_a"); err != nil {
			t.Fatal(err)
		}
		var name string
		var made, disabled db.Time
		err := s.Query(t.Context(), "org_a", db.Query{
			SQL: `SELECT name, created_at, disabled_at FROM orgs WHERE org_id = $1 AND created_at > now() - CAST($2 AS interval)`, Args: []any{"org_a", time.Hour},
			Each: func(r db.Row) error { return r.Scan(&name, &made, &disabled) },
		})
		if err != nil || name != "name of org_a" || made.Before(before) || made.After(time.Now().Add(time.Minute)) || !disabled.IsZero() {
			t.Errorf("read %q, %v, %v, %v", name, made, disabled, err)
		}
		failed := errors.New("no")
		err = s.Write(t.Context(), "org_a", func(tx db.Tx) error {
			if _, err := tx.Exec(t.Context(), `UPDATE orgs SET name = 'changed' WHERE org_id = 'org_a'`); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("a write that failed: %v", err)
		}
		err = s.Read(t.Context(), "org_a", func(tx db.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT name FROM orgs WHERE org_id = 'org_a'`, nil, &name)
		})
		if err != nil || name != "name of org_a" {
			t.Errorf("after it: %q, %v", name, err)
		}
		err = s.Read(t.Context(), "org_a", func(tx db.Tx) error {
			_, err := tx.Exec(t.Context(), `DELETE FROM orgs`)
			return err
		})
		if err == nil {
			t.Error("a read could write")
		}
		err = s.Read(t.Context(), "org_a", func(tx db.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT name FROM orgs WHERE org_id = 'org_none'`, nil, &name)
		})
		if !errors.Is(err, db.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
	})
}

// One connection serves every org in turn, with errors, panics and ends in between. What one transaction was bound to
// must never be what the next one sees.
func TestTheBindingEndsWithItsTransaction(t *testing.T) {
	s := open(t, db.Options{URL: testkit.Postgres(t), MaxConns: 1})
	for _, org := range []id.Org{"org_a", "org_b"} {
		if err := addOrg(t.Context(), s, org); err != nil {
			t.Fatal(err)
		}
	}
	in := func(org id.Org) func(func(db.Tx) error) error {
		return func(f func(db.Tx) error) error { return s.Read(t.Context(), org, f) }
	}
	spoil := []func(){
		func() {},
		func() { _ = s.Read(t.Context(), "org_a", func(db.Tx) error { return errors.New("no") }) },
		func() {
			_ = s.Read(t.Context(), "org_a", func(tx db.Tx) error {
				_, err := tx.Exec(t.Context(), `SELECT 1 / 0`)
				return err
			})
		},
		func() {
			defer func() { _ = recover() }()
			_ = s.Write(t.Context(), "org_a", func(db.Tx) error { panic("in a transaction") })
		},
		func() {
			ctx, cancel := context.WithCancel(t.Context())
			_ = s.Read(ctx, "org_a", func(tx db.Tx) error { cancel(); return tx.QueryRow(ctx, `SELECT 1`, nil, new(int)) })
		},
		func() { _ = s.Shown(t.Context(), "key", func(db.Tx) error { return nil }) },
		func() { _ = s.Walk(t.Context(), func(db.Tx) error { return nil }) },
	}
	for i, spoiled := range spoil {
		spoiled()
		if n := count(t, func(f func(db.Tx) error) error { return s.Shown(t.Context(), "key", f) }); n != 0 {
			t.Errorf("after case %d, bound to no org: %d orgs are seen", i, n)
		}
		if n := count(t, in("org_b")); n != 1 {
			t.Errorf("after case %d, bound to one org: %d orgs are seen", i, n)
		}
	}
	err := s.Write(t.Context(), "org_a", func(tx db.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO orgs (org_id, name, tier, seats) VALUES ('org_c', 'x', 'trial', 1)`)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("a row of another org: %v", err)
	}
}

func TestConflictsAreTriedAgain(t *testing.T) {
	s := open(t, db.Options{URL: testkit.Postgres(t)})
	for _, code := range []string{"40001", "40P01"} {
		tries := 0
		err := s.Write(t.Context(), "org_a", func(tx db.Tx) error {
			if tries++; tries < 3 {
				_, err := tx.Exec(t.Context(), fmt.Sprintf(`DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '%s'; END $$`, code))
				return err
			}
			return nil
		})
		if err != nil || tries != 3 {
			t.Errorf("%s: %d tries, %v", code, tries, err)
		}
	}
}

// serve starts a Postgres of this test's own, migrated.
func serve(t *testing.T) *testkit.Server {
	t.Helper()
	pg := testkit.StartFor(t, testkit.Options{NoRedis: true, Durable: true}).Postgres
	if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	return pg
}

// commitOrg is a unit of one stage: it inserts an org.
type orgRow struct{ org id.Org }

func orgStage() *db.StageOf[orgRow] {
	return db.NewStage("test.org", func(rows []*orgRow) db.Statement {
		names := make([]string, len(rows))
		for i, r := range rows {
			names[i] = string(r.org)
		}
		return db.Statement{
			SQL:  `INSERT INTO orgs (org_id, name, tier, seats) SELECT o, o, 'trial', 1 FROM unnest($1::text[]) AS o ON CONFLICT DO NOTHING`,
			Args: []any{names},
		}
	}, nil)
}

func TestARestartOfPostgresIsNotSeen(t *testing.T) {
	pg := serve(t)
	stage := orgStage()
	s := open(t, db.Options{URL: pg.URL(), Stages: []db.Stage{stage}})
	commit := func(org id.Org) error {
		u := &db.Unit{Org: org}
		stage.Put(u, &orgRow{org}, 0)
		return s.Commit(t.Context(), u)
	}
	if err := commit("org_a"); err != nil {
		t.Fatal(err)
	}
	if err := pg.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := pg.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := commit("org_b"); err != nil { // the writer's connection is dead: the unit is run again on another
		t.Errorf("a commit after the restart: %v", err)
	}
	for _, org := range []id.Org{"org_a", "org_b"} {
		n := 0
		err := s.Query(t.Context(), org, db.Query{SQL: `SELECT 1 FROM orgs`, Each: func(db.Row) error { n++; return nil }})
		if err != nil || n != 1 {
			t.Errorf("%s: %d rows, %v", org, n, err)
		}
	}
}

func TestAFrozenPostgresIsUnavailableInTime(t *testing.T) {
	pg := serve(t)
	stage := orgStage()
	s := open(t, db.Options{URL: pg.URL(), Stages: []db.Stage{stage}, Timeout: 200 * time.Millisecond})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	u := &db.Unit{Org: "org_a", Patience: time.Second}
	stage.Put(u, &orgRow{"org_a"}, 0)
	start := time.Now()
	err := s.Commit(t.Context(), u)
	if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took > 8*time.Second {
		t.Errorf("a commit in the freeze: %v after %v", err, took)
	}
	if !fault.HasCode(err, "outcome_unknown") {
		t.Errorf("a commit that was sent and not answered: %v, want outcome_unknown", err)
	}
	if err := s.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a read in the freeze: %v", err)
	}
	if err := pg.Thaw(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() bool {
		u := &db.Unit{Org: "org_b"}
		stage.Put(u, &orgRow{"org_b"}, 0)
		return s.Commit(t.Context(), u) == nil
	}, "a commit after the thaw")
}

func TestADeadPostgresFailsFast(t *testing.T) {
	pg := serve(t)
	stage := orgStage()
	s := open(t, db.Options{URL: pg.URL(), Stages: []db.Stage{stage}})
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 8 { // enough failures for the breaker
		u := &db.Unit{Org: "org_a", Patience: 50 * time.Millisecond}
		stage.Put(u, &orgRow{"org_a"}, 0)
		if err = s.Commit(t.Context(), u); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("a commit to a dead store: %v", err)
		}
	}
	if strings.Contains(fault.From(err).Message, "127.0.0.1") {
		t.Errorf("the client is told of our insides: %q", fault.From(err).Message)
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() bool {
		u := &db.Unit{Org: "org_b"}
		stage.Put(u, &orgRow{"org_b"}, 0)
		return s.Commit(t.Context(), u) == nil
	}, "a commit after the restart")
}

func TestOneProcessServesAFile(t *testing.T) {
	url := testkit.SQLite(t)
	s := open(t, db.Options{URL: url, Exclusive: true})
	if _, err := db.Open(t.Context(), db.Options{URL: url, Exclusive: true}); err == nil || !strings.Contains(err.Error(), "another threadhub") {
		t.Errorf("a second server on the same file: %v", err)
	}
	beside := open(t, db.Options{URL: url}) // seed, keys: they only add
	if err := addOrg(t.Context(), beside, "org_a"); err != nil {
		t.Error(err)
	}
	if n := count(t, func(f func(db.Tx) error) error { return s.Read(t.Context(), "org_a", f) }); n != 1 {
		t.Errorf("the server sees %d orgs", n)
	}
}

func TestSQLiteKeepsWhatItAcknowledged(t *testing.T) {
	s := open(t, db.Options{URL: testkit.SQLite(t)})
	err := s.Write(t.Context(), "org_a", func(tx db.Tx) error {
		var mode string
		var sync, keys int
		for q, to := range map[string]any{`PRAGMA journal_mode`: &mode, `PRAGMA synchronous`: &sync, `PRAGMA foreign_keys`: &keys} {
			if err := tx.QueryRow(t.Context(), q, nil, to); err != nil {
				return err
			}
		}
		if mode != "wal" || sync != 2 || keys != 1 {
			t.Errorf("journal %s, synchronous %d (want 2: FULL), foreign keys %d", mode, sync, keys)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
