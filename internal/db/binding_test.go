package db_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

// canaries are orgs with one thread each, whose title names the org. The thread is deleted, so that every role sees it.
func canaries(t *testing.T, s db.Store, n int) (orgs []id.Org) {
	t.Helper()
	for i := range n {
		org := id.Org(fmt.Sprint("org_", i))
		if err := addOrg(t.Context(), s, org); err != nil {
			t.Fatal(err)
		}
		err := s.Write(t.Context(), org, func(tx db.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO threads (org_id, thread_id, user_id, title, canon, deleted_at) VALUES ($1, 'canary', 'usr', $2, 1, now())`,
				string(org), "of "+string(org))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		orgs = append(orgs, org)
	}
	return orgs
}

// look is one way to read canaries, and what it must find as org.
type look struct {
	name string
	read func(ctx context.Context, s db.Store, org id.Org, f func(db.Tx) error) error
	sql  string
	want func(org id.Org) []string
}

func looks() []look {
	title := func(org id.Org) []string { return []string{"of " + string(org)} }
	owner := func(org id.Org) []string { return []string{string(org)} }
	none := func(id.Org) []string { return nil }
	const titles, owners = `SELECT title FROM threads`, `SELECT org_id FROM threads`
	return []look{
		{"read", func(ctx context.Context, s db.Store, org id.Org, f func(db.Tx) error) error {
			return s.Read(ctx, org, f)
		}, titles, title},
		{"write", func(ctx context.Context, s db.Store, org id.Org, f func(db.Tx) error) error {
			return s.Write(ctx, org, f)
		}, titles, title},
		{"search", func(ctx context.Context, s db.Store, org id.Org, f func(db.Tx) error) error {
			return s.Search(ctx, org, "word", f)
		}, owners, owner},
		{"purge", func(ctx context.Context, s db.Store, org id.Org, f func(db.Tx) error) error {
			return s.Purge(ctx, org, f)
		}, owners, owner},
		{"common", func(ctx context.Context, s db.Store, _ id.Org, f func(db.Tx) error) error { return s.Common(ctx, f) }, titles, none},
		{"shown", func(ctx context.Context, s db.Store, org id.Org, f func(db.Tx) error) error {
			return s.Shown(ctx, id.Key(org), f)
		}, titles, none},
	}
}

// spoils are ways in which a transaction goes wrong.
var spoils = []func(ctx context.Context, cancel func(), tx db.Tx) error{
	func(context.Context, func(), db.Tx) error { return errors.New("no") },
	func(context.Context, func(), db.Tx) error { panic("in a transaction") },
	func(ctx context.Context, _ func(), tx db.Tx) error {
		_, err := tx.Exec(ctx, `SELECT 1 / 0`)
		return err
	},
	func(ctx context.Context, _ func(), tx db.Tx) error { // its error is not told
		_, _ = tx.Exec(ctx, `SELECT no_such_column`)
		return nil
	},
	func(ctx context.Context, _ func(), tx db.Tx) error {
		return tx.Query(ctx, `SELECT n FROM generate_series(1, 10) n`, nil, func(db.Row) error { panic("in a row") })
	},
	func(ctx context.Context, cancel func(), tx db.Tx) error {
		cancel()
		return tx.QueryRow(ctx, `SELECT 1`, nil, new(int))
	},
	func(ctx context.Context, cancel func(), tx db.Tx) error {
		stop := time.AfterFunc(time.Millisecond, cancel)
		defer stop.Stop()
		_, err := tx.Exec(ctx, `SELECT pg_sleep(0.01)`)
		return err
	},
	func(_ context.Context, cancel func(), _ db.Tx) error { cancel(); return nil },
}

// One connection serves all orgs in any order, from several goroutines, with errors, panics and ends in between, ten
// thousand times: each transaction sees its own org's canary and no other, one that is bound to none sees none, and the
// connection is bound to nothing while nobody uses it, nor are those that background work has.
func TestOneConnectionForManyOrgs(t *testing.T) {
	const requests, workers, many = 10_000, 3, 40
	s := open(t, db.Options{URL: testkit.Postgres(t), MaxConns: 1, Timeout: 20 * time.Second})
	orgs := canaries(t, s, many)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for worker := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range requests / workers {
				org, l := orgs[random.IntN(many)], looks()[random.IntN(6)]
				name, spoil := l.name, spoils[random.IntN(len(spoils))]
				if random.IntN(8) == 0 {
					name = "spoiled"
					spoiled(t.Context(), s, org, l, spoil)
				} else if !found(t, s, org, l) {
					name = "busy"
				}
				mu.Lock()
				seen[name]++
				mu.Unlock()
				if random.IntN(50) == 0 {
					unbound(t, s)
				}
			}
		})
	}
	wg.Wait()
	for _, l := range looks() {
		if seen[l.name] < requests/20 || seen["spoiled"] < requests/12 || seen["busy"] > requests/4 {
			t.Errorf("of %d requests only these were looked at: %v", requests, seen)
			break
		}
	}
	unbound(t, s)
}

func unbound(t *testing.T, s db.Store) {
	t.Helper()
	bound, roles, err := db.Unbound(t.Context(), s)
	if err != nil || bound != "" || slices.ContainsFunc(roles, func(r string) bool { return r != db.AppRole }) {
		t.Errorf("unused, the connections are bound to %q as %q: %v", bound, roles, err)
	}
}

// found looks, and checks what is found. It reports whether it got the connection in time.
func found(t *testing.T, s db.Store, org id.Org, l look) bool {
	t.Helper()
	var got []string
	err := l.read(t.Context(), s, org, func(tx db.Tx) error {
		got = nil
		return tx.Query(t.Context(), l.sql, nil, func(r db.Row) error {
			var v string
			err := r.Scan(&v)
			got = append(got, v)
			return err
		})
	})
	switch {
	case fault.Is(err, fault.Unavailable) && len(got) == 0:
		return false
	case err != nil || !slices.Equal(got, l.want(org)):
		t.Errorf("%s as %s: %v, %v", l.name, org, got, err)
	}
	return true
}

func spoiled(ctx context.Context, s db.Store, org id.Org, l look, spoil func(context.Context, func(), db.Tx) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = recover() }()
	_ = l.read(ctx, s, org, func(tx db.Tx) error { return spoil(ctx, cancel, tx) })
}
