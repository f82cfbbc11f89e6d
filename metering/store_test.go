package metering

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// books is a store that keeps a ledger, with a stage that closes calls in the place of the room that does.
type books struct {
	store  db.Store
	ledger *Ledger
	shut   *db.StageOf[shut]
}

type shut struct {
	org  id.Org
	call id.Request
}

func openBooks(t *testing.T, url string) *books {
	t.Helper()
	b := &books{ledger: New()}
	b.shut = db.NewStage("test.close", func(rows []*shut) db.Statement {
		var orgs, calls []string
		for _, r := range rows {
			orgs, calls = append(orgs, string(r.org)), append(calls, string(r.call))
		}
		return db.Statement{
			SQL: `UPDATE calls c SET state = 'closed', close_xid = pg_current_xact_id() FROM unnest($1::text[], $2::text[]) AS u (org_id, call_id)
				WHERE c.org_id = u.org_id AND c.call_id = u.call_id AND c.state = 'open'`,
			Args: []any{orgs, calls},
		}
	}, func(ctx context.Context, tx *sql.Tx, r *shut) error {
		done, err := tx.ExecContext(ctx, `UPDATE calls SET state = 'closed' WHERE org_id = ? AND call_id = ? AND state = 'open'`, string(r.org), string(r.call))
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, db.ErrRefused)
		}
		return nil
	})
	store, err := db.Open(t.Context(), db.Options{URL: url, Stages: []db.Stage{b.shut, b.ledger.Stage()}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	b.store = store
	return b
}

// open puts an open call into the store.
func (b *books) open(t *testing.T, org id.Org) id.Request {
	t.Helper()
	call := id.NewRequest()
	err := b.store.Write(t.Context(), org, func(tx db.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO calls (org_id, call_id, key_id, user_id, owner) VALUES ($1, $2, 'key', 'usr', 'own')`, string(org), string(call))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return call
}

// record commits lines, and closes their call if closing says so.
func (b *books) record(t *testing.T, org id.Org, call id.Request, closing bool, lines ...*Line) {
	t.Helper()
	u := &db.Unit{Org: org, Record: true}
	if closing {
		b.shut.Put(u, &shut{org, call}, 100)
	}
	for _, l := range lines {
		b.ledger.Put(u, l)
	}
	if err := b.store.Commit(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

func (b *books) lines(t *testing.T, org id.Org, call id.Request) []Line {
	t.Helper()
	lines, err := Lines(t.Context(), b.store, org, call)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func line(org id.Org, call id.Request, n int) *Line {
	cost := PicoUSD(1_250_000_000)
	return &Line{
		Org: org, Call: call, N: n, Key: "AbCdEfGhIjKl", User: "usr_1", Provider: "openai", Model: "gpt-5-mini",
		Charge: Charge{Tokens: Tokens{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Cost: cost, Computed: &cost, Status: Computed, Version: "2026-11.00000000"},
	}
}

func TestLedger(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres} {
		for about, test := range map[string]func(*testing.T, *books){
			"lines come back as they went in":          testRoundTrip,
			"only a closed call has lines":             testClosedOnly,
			"a line is written once":                   testOnce,
			"a record that lost leaves no line":        testLost,
			"what is known later has lines of its own": testLater,
			"another org sees nothing":                 testIsolation,
		} {
			t.Run(name+"/"+about, func(t *testing.T) {
				t.Parallel()
				test(t, openBooks(t, url(t)))
			})
		}
	}
}

func testRoundTrip(t *testing.T, b *books) {
	org := id.NewOrg()
	call := b.open(t, org)
	small, large, none := PicoUSD(0), PicoUSD(9_000_000_000_000_000_000), PicoUSD(-5)
	var want []Line
	var lines []*Line
	for n, l := range []Line{
		{Team: "team_1", Thread: "a:thread", MaybeBilled: true, Charge: Charge{Status: Reported, Cost: small, Provider: &small, Vendor: &large, Tokens: Tokens{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}},
		{Charge: Charge{Status: Computed, Cost: large, Computed: &large}},
		{Charge: Charge{Status: Estimated, Cost: none, Computed: &none, Provider: &large}},
		{Charge: Charge{Status: Unpriced, Tokens: Tokens{Input: MaxTokens, Reasoning: MaxTokens}}},
	} {
		l.Org, l.Call, l.N, l.Kind = org, call, n, Use
		l.Key, l.User, l.Provider, l.Model, l.Charge.Version = "AbCdEfGhIjKl", "usr_1", "openrouter", "a/b \"é\"", "v"
		want = append(want, l)
		lines = append(lines, &l)
	}
	before := time.Now().Add(-time.Minute)
	b.record(t, org, call, true, lines...)
	got := b.lines(t, org, call)
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Line{}, "At"), cmpopts.IgnoreUnexported(Line{})); d != "" {
		t.Error(d)
	}
	for _, l := range got {
		if l.At.Before(before) || l.At.After(time.Now().Add(time.Minute)) {
			t.Errorf("written at %v", l.At)
		}
	}
}

func testClosedOnly(t *testing.T, b *books) {
	org := id.NewOrg()
	call := b.open(t, org)
	b.record(t, org, call, false, line(org, call, 0))
	late := line(org, call, 0)
	late.Kind = Late
	b.record(t, org, call, false, late)
	nobodys := id.NewRequest()
	b.record(t, org, nobodys, false, line(org, nobodys, 0))
	if got := append(b.lines(t, org, call), b.lines(t, org, nobodys)...); len(got) != 0 {
		t.Errorf("without a closed call there are %+v", got)
	}
}

func testOnce(t *testing.T, b *books) {
	org := id.NewOrg()
	call := b.open(t, org)
	b.record(t, org, call, true, line(org, call, 0), line(org, call, 1), line(org, call, 0))
	other := line(org, call, 1)
	other.Charge.Cost = 7
	b.record(t, org, call, true, other) // the same unit again, after an unknown commit
	got := b.lines(t, org, call)
	if len(got) != 2 || got[0].N != 0 || got[1].N != 1 || got[1].Charge.Cost != 1_250_000_000 {
		t.Errorf("there are %+v", got)
	}
}

func testLost(t *testing.T, b *books) {
	org := id.NewOrg()
	call := b.open(t, org)
	b.record(t, org, call, true) // another process settled it
	b.record(t, org, call, true, line(org, call, 0))
	if got := b.lines(t, org, call); len(got) != 0 {
		t.Errorf("a record that lost wrote %+v", got)
	}
}

func testLater(t *testing.T, b *books) {
	org := id.NewOrg()
	call := b.open(t, org)
	b.record(t, org, call, true, line(org, call, 0))
	for range 2 {
		fix, late := line(org, call, 0), line(org, call, 0)
		fix.Kind, fix.Charge.Cost = "fix:1", -1_000
		late.Kind = Late
		b.record(t, org, call, false, fix, late)
	}
	var kinds []string
	for _, l := range b.lines(t, org, call) {
		kinds = append(kinds, l.Kind)
	}
	if d := cmp.Diff([]string{"fix:1", Late, Use}, kinds); d != "" {
		t.Error(d)
	}
}

func testIsolation(t *testing.T, b *books) {
	org, other := id.NewOrg(), id.NewOrg()
	call := b.open(t, org)
	b.record(t, org, call, true, line(org, call, 0))
	if got := b.lines(t, other, call); len(got) != 0 {
		t.Errorf("another org sees %+v", got)
	}
	// Nor can it write to the call, under its own name.
	forged := line(other, call, 1)
	forged.Kind = Late
	b.record(t, other, call, false, forged)
	if got := append(b.lines(t, org, call), b.lines(t, other, call)...); len(got) != 1 {
		t.Errorf("there are %+v", got)
	}
}
