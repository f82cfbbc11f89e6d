package gateway

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/threads"
)

// orphans opens streams that belong to a process that is gone, each in a thread of its own.
func (h *house) orphans(n int) {
	h.t.Helper()
	slots := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m := threads.Message{Role: "user", Raw: []byte(`{"role":"user","content":"x"}`), Status: threads.Complete}
			m.After(nil)
			o := &calls.Opening{
				Org: h.admin.Org, ID: id.NewRequest(), Key: "key", User: h.admin.User, Thread: id.Thread(fmt.Sprint("orphan-", i)), Owner: "own_dead", NIn: 1,
				Provider: "openai", Model: "gpt-5-mini", Facts: calls.Facts{Kind: "chat", Provider: "openai", Model: "gpt-5-mini", Stream: true},
			}
			u := &db.Unit{Org: h.admin.Org, Record: true} // never refused for want of room
			h.threads.Append(u, &threads.Input{
				Org: o.Org, Thread: o.Thread, Call: o.ID, User: o.User, Create: true, PrevSeq: -1, PrevChain: []byte{}, Messages: []threads.Message{m},
			})
			h.calls.Open(u, o)
			if err := h.store.Commit(context.Background(), u); err != nil || o.Result != calls.Won {
				h.t.Error(o.Result, err)
			}
		})
	}
	wg.Wait()
}

// ends counts the org's calls that were settled, and their lines, answers, and, on Postgres, the transactions they were
// closed in.
func (h *house) ends() (closed, lines, answers, groups int) {
	h.t.Helper()
	count := func(q string) (n int) {
		err := h.store.Query(h.t.Context(), h.admin.Org, db.Query{SQL: q, Args: []any{h.admin.Org}, Each: func(r db.Row) error { return r.Scan(&n) }})
		if err != nil {
			h.t.Fatal(err)
		}
		return n
	}
	if h.store.Dialect() == db.Postgres {
		groups = count(`SELECT count(DISTINCT close_xid) FROM calls WHERE org_id = $1 AND reason = 'gateway_lost'`)
	}
	return count(`SELECT count(*) FROM calls WHERE org_id = $1 AND state = 'closed' AND reason = 'gateway_lost'`),
		count(`SELECT count(*) FROM ledger WHERE org_id = $1`), count(`SELECT count(*) FROM messages WHERE org_id = $1 AND role = 'assistant'`), groups
}

// settling counts what a settler asks of its store by itself.
type settling struct {
	db.Store
	writes atomic.Int64
}

func (s *settling) Write(ctx context.Context, org id.Org, f func(db.Tx) error) error {
	s.writes.Add(1)
	return s.Store.Write(ctx, org, f)
}

// G1: a process with a thousand streams dies. They are settled in a few seconds, in far fewer transactions than there are
// calls, and without waiting for the next look after each few hundred.
func TestAThousandOrphans(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		const n = 1000
		h.orphans(n)
		store := &settling{Store: h.store}
		h.calls.Use(store)
		defer h.calls.Use(h.store)
		s := h.settler(store)
		testkit.Eventually(t, 10*time.Second, s.Lease.Steady, "the settler's lease to be steady")
		start := time.Now()
		for i := 0; s.settled.Load() < n && i < 20; i++ {
			s.round(t.Context())
		}
		took := time.Since(start)
		closed, lines, answers, groups := h.ends()
		if closed != n || lines != n || answers != n || s.settled.Load() != n {
			t.Errorf("of %d calls %d are closed and %d counted, with %d lines and %d answers", n, closed, s.settled.Load(), lines, answers)
		}
		if groups > n/3 || store.writes.Load() != 0 {
			t.Errorf("they were closed in %d transactions, and %d more were begun for single calls", groups, store.writes.Load())
		}
		if took > time.Minute {
			t.Errorf("it took %v", took)
		}
		t.Logf("settled in %v, in %d transactions", took, groups)
	})
}

// A settler that has found all it can find in one look looks again at once, while its lease is steady.
func TestASettlerGoesOnWhileThereAreOrphans(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.orphans(400) // one look finds 256
	s := h.settler(h.store)
	looks := 0
	s.sweep(t.Context(), func() bool { looks++; return looks == 1 })
	if closed, _, _, _ := h.ends(); closed != 256 || looks != 2 {
		t.Errorf("before the lease was not steady any more, %d were settled in %d looks", closed, looks)
	}
	s.sweep(t.Context(), func() bool { return true })
	if closed, _, _, _ := h.ends(); closed != 400 {
		t.Errorf("%d were settled", closed)
	}
}

// A Redis that does not answer is not waited for by each orphan.
func TestOrphansDoNotWaitForRedisThatIsAway(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel answers for it, and nobody else does
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	h := newHouse(t, testkit.SQLite(t), Options{})
	const n = 100
	h.orphans(n)
	s := h.settler(h.store)
	s.Tapes = sharing(t, "redis://"+silent.Addr().String(), 30*time.Millisecond)()
	found, err := h.calls.Orphans(t.Context(), s.Lease.Owner())
	if err != nil || len(found) != n {
		t.Fatal(len(found), err)
	}
	start := time.Now()
	if err := s.settleAll(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if closed, _, _, _ := h.ends(); closed != n || took > time.Minute { // a second for each would be two minutes
		t.Errorf("%d were settled in %v", closed, took)
	}
}
