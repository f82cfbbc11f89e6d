package calls_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
)

// asked opens a call of key with a finger and a hash, by a process with a lease.
func (h *house) asked(t *testing.T, owner id.Owner, key id.Key, finger int64, hash string) *calls.Opening {
	t.Helper()
	o := &calls.Opening{Org: org, ID: id.NewRequest(), Key: key, User: "usr_1", Owner: owner, Finger: finger, BodyHash: []byte(hash), Provider: "openai", Model: "m"}
	u := &db.Unit{Org: org}
	h.calls.Open(u, o)
	h.commit(t, u)
	if o.Result != calls.Won {
		t.Fatalf("opening: %v", o.Result)
	}
	return o
}

func (h *house) shut(t *testing.T, o *calls.Opening, outcome calls.Outcome, reason string) {
	t.Helper()
	u := &db.Unit{Org: o.Org, Record: true}
	h.calls.Close(u, &calls.Closing{Org: o.Org, ID: o.ID, RecordID: string(o.ID), Outcome: outcome, Reason: reason})
	h.commit(t, u)
}

// change writes to a call's row.
func (h *house) change(t *testing.T, sql string, args ...any) {
	t.Helper()
	err := h.db.Write(t.Context(), org, func(tx db.Tx) error {
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The call that a repeat without a key may repeat is the newest with the same request of the same key that is open, its
// process alive, or was complete a while ago.
func TestAlike(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		lease, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lease.Close(context.Background()) }()
		is := func(what string, want *calls.Opening) {
			t.Helper()
			got, err := h.calls.Alike(t.Context(), org, "key", 7, []byte("hash"))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case want == nil && got != nil:
				t.Errorf("%s: %+v", what, got)
			case want != nil && (got == nil || got.Call != want.ID):
				t.Errorf("%s: %+v, not %s", what, got, want.ID)
			}
		}
		is("nothing", nil)
		h.asked(t, lease.Owner(), "other", 7, "hash")
		h.asked(t, lease.Owner(), "key", 8, "hash")
		h.asked(t, lease.Owner(), "key", 7, "another")
		h.asked(t, "own_dead", "key", 7, "hash")
		is("other keys', other requests, a dead process's", nil)
		if got, err := h.calls.Alike(t.Context(), "org_b", "key", 7, []byte("hash")); got != nil || err != nil {
			t.Errorf("another org finds %+v, %v", got, err)
		}
		first := h.asked(t, lease.Owner(), "key", 7, "hash")
		is("an open one", first)
		h.shut(t, first, calls.Complete, "")
		is("a complete one", first)
		failed := h.asked(t, lease.Owner(), "key", 7, "hash")
		is("a newer one", failed)
		h.shut(t, failed, calls.Failed, "upstream_error")
		is("the newer one has failed", first)
		h.change(t, `UPDATE calls SET closed_at = now() - CAST($1 AS interval) WHERE org_id = $2 AND call_id = $3`, calls.AdoptFor+time.Second, org, first.ID)
		is("long ago", nil)
		taken := h.asked(t, lease.Owner(), "key", 7, "hash")
		h.change(t, `UPDATE calls SET epoch = 1 WHERE org_id = $1 AND call_id = $2`, org, taken.ID)
		is("one that was taken over", nil)
	})
}

// Of any number who would have a call's answer, one is given it, also after it was closed; and again if that one repeats it.
func TestAdoptedOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		for _, closed := range []bool{false, true} {
			o := h.asked(t, "own_1", "key", 7, "hash")
			if closed {
				h.shut(t, o, calls.Complete, "")
			}
			var first atomic.Int64
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					is, err := h.calls.Adopt(t.Context(), org, o.ID, 1)
					if err != nil {
						t.Error(err)
					}
					if is {
						first.Add(1)
					}
				})
			}
			wg.Wait()
			if first.Load() != 1 {
				t.Errorf("%d are the first", first.Load())
			}
			if !closed {
				h.shut(t, o, calls.Complete, "")
			}
			for i, next := range []struct {
				retry int
				is    bool
			}{{1, false}, {2, true}, {2, false}, {1, true}, {2, false}} { // who lost what the first was given comes again
				if is, err := h.calls.Adopt(t.Context(), org, o.ID, next.retry); is != next.is || err != nil {
					t.Errorf("%d: %v, %v", i, is, err)
				}
			}
			if is, err := h.calls.Adopt(t.Context(), "org_b", o.ID, 3); is || err != nil {
				t.Errorf("another org: %v, %v", is, err)
			}
			if c, err := h.calls.Call(t.Context(), org, o.ID); err != nil || c.Facts.Retry != 2 || c.Outcome != calls.Complete {
				t.Errorf("the call reads %+v, %v", c, err)
			}
		}
	})
}

func TestEnded(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		is := func(o *calls.Opening, want calls.End) {
			t.Helper()
			if got, err := h.calls.Ended(t.Context(), org, o.ID); err != nil || got != want {
				t.Errorf("%+v, not %+v, %v", got, want, err)
			}
		}
		lease, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lease.Close(context.Background()) }()
		o := h.asked(t, lease.Owner(), "key", 7, "hash")
		is(o, calls.End{})
		h.shut(t, o, calls.Complete, "")
		is(o, calls.End{Closed: true, Outcome: calls.Complete}) // its process may be about to tell
		h.change(t, `UPDATE calls SET closed_at = now() - CAST($1 AS interval) WHERE org_id = $2 AND call_id = $3`, 6*time.Second, org, o.ID)
		is(o, calls.End{Closed: true, Outcome: calls.Complete, Settled: true})
		dead := h.asked(t, "own_dead", "key", 7, "hash")
		h.shut(t, dead, calls.Complete, "")
		is(dead, calls.End{Closed: true, Outcome: calls.Complete, Settled: true})
		lost := h.asked(t, lease.Owner(), "key", 7, "hash")
		h.shut(t, lost, calls.Incomplete, "gateway_lost")
		is(lost, calls.End{Closed: true, Outcome: calls.Incomplete, Settled: true})
		if _, err := h.calls.Ended(t.Context(), "org_b", o.ID); err == nil {
			t.Error("another org knows of it")
		}
	})
}
