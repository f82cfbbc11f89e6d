package db_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/testkit"
)

// hold keeps all connections of s's pool busy until the end of the test.
func hold(t *testing.T, s db.Store, conns int) {
	t.Helper()
	inside, over := make(chan struct{}, conns), make(chan struct{})
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			_ = s.Read(context.Background(), "org_a", func(db.Tx) error { inside <- struct{}{}; <-over; return nil })
		})
	}
	for range conns {
		select {
		case <-inside:
		case <-time.After(10 * time.Second):
			t.Error("a connection was not held")
		}
	}
	t.Cleanup(func() { close(over); wg.Wait() })
}

// Clients may keep all of the pool busy for as long as they like: leases are renewed, orphans are found, and row-level
// security is looked at, also on fresh connections.
func TestClientsDoNotKeepTheBackgroundWaiting(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	var looks atomic.Int64
	s := open(t, db.Options{
		URL: url, MaxConns: 2, WatchEvery: 10 * time.Millisecond,
		Watch: func(context.Context, *pgx.Conn) error { looks.Add(1); return nil },
	})
	hold(t, s, 2)
	nothing := func(db.Tx) error { return nil }
	o := owner(t, url)
	for range 3 {
		if err := s.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); !fault.HasCode(err, "busy") {
			t.Errorf("a client was told %v", err)
		}
		if err := s.Common(t.Context(), nothing); err != nil {
			t.Errorf("a lease was told %v", err)
		}
		if err := s.Walk(t.Context(), nothing); err != nil {
			t.Errorf("a settler was told %v", err)
		}
		before := looks.Load()
		testkit.Eventually(t, 10*time.Second, func() bool { return looks.Load() > before }, "the guard to look")
		if _, err := o.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Full != 3 {
		t.Errorf("%d waits of clients came to nothing", st.Full)
	}
}

// What walks for long does not keep leases waiting, and of two that want the same connection the second waits for no longer
// than a read may take.
func TestTheBackgroundDoesNotKeepLeasesWaiting(t *testing.T) {
	t.Parallel()
	s := open(t, db.Options{URL: testkit.Postgres(t)})
	inside, over := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Walk(context.Background(), func(db.Tx) error { close(inside); <-over; return nil })
	})
	<-inside
	defer func() { close(over); wg.Wait() }()
	nothing := func(db.Tx) error { return nil }
	if err := s.Common(t.Context(), nothing); err != nil {
		t.Errorf("a lease was told %v", err)
	}
	if err := s.Walk(t.Context(), nothing); !fault.HasCode(err, "busy") {
		t.Errorf("a second walk was told %v", err)
	}
	if st := s.Stats(); st.Full != 0 || st.BreakerOpen {
		t.Errorf("it was counted as if clients had waited: %+v", st)
	}
}
