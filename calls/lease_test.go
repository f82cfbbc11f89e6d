package calls_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/testkit"
)

// failing is a store whose common transactions fail while it is told to.
type failing struct {
	db.Store
	on     atomic.Bool
	failed chan struct{}
}

func (f *failing) Common(ctx context.Context, do func(db.Tx) error) error {
	if f.on.Load() {
		select {
		case f.failed <- struct{}{}:
		default:
		}
		return errors.New("away")
	}
	return f.Store.Common(ctx, do)
}

// An outage shorter than the TTL may still have outlasted the leases of others, who renewed theirs at another time: who
// missed even one renewal must not take calls over before all that live had time to renew.
func TestALeaseThatMissedARenewalIsNotSteady(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		f := &failing{Store: h.db, failed: make(chan struct{}, 1)}
		h.calls.Use(f)
		const ttl = 400 * time.Millisecond
		l, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close(context.Background()) }()
		testkit.Eventually(t, 5*time.Second, l.Steady, "it is not steady")
		f.on.Store(true)
		<-f.failed
		f.on.Store(false)
		missed := time.Now()
		testkit.Eventually(t, 5*time.Second, func() bool { return !l.Steady() }, "it is still steady")
		testkit.Eventually(t, 5*time.Second, l.Steady, "it is not steady again")
		if took := time.Since(missed); took < ttl {
			t.Errorf("steady again after %v", took)
		}
	})
}

// A lease knows how many processes there are, and a process that ends is none.
func TestALeaseCountsTheLiving(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		take := func(ttl time.Duration) *calls.Lease {
			l, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{TTL: ttl})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close(context.Background()) })
			return l
		}
		first := take(time.Minute)
		before := first.Alive()
		quick := take(200 * time.Millisecond) // renews often
		if n := quick.Alive(); n != before+1 {
			t.Errorf("with %d before it the second knows of %d", before, n)
		}
		if err := first.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, 10*time.Second, func() bool { return quick.Alive() == before }, "the one that ended is counted on")
	})
}

func TestLeasesThatEndedLongAgoAreForgotten(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		count := func() (n int) {
			err := h.db.Common(t.Context(), func(tx db.Tx) error {
				return tx.QueryRow(t.Context(), `SELECT count(*) FROM incarnations`, nil, &n)
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		for owner, age := range map[string]time.Duration{"own_old": 25 * time.Hour, "own_recent": time.Hour} {
			err := h.db.Common(t.Context(), func(tx db.Tx) error {
				_, err := tx.Exec(t.Context(), `INSERT INTO incarnations (owner, lease_until) VALUES ($1, now() - CAST($2 AS interval))`, owner, age)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		l, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 2 {
			t.Errorf("%d incarnations, want the recent one and this", n)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
