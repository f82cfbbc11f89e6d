package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
)

// A turn that nobody frees makes its thread unusable. These are the ways that could happen while the process lives on.

// moody is a store whose commits go through a hook first.
type moody struct {
	db.Store
	mu   sync.Mutex
	hook func(u *db.Unit) (done bool, err error)
}

func (m *moody) Commit(ctx context.Context, u *db.Unit) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook != nil {
		if done, err := hook(u); done {
			return err
		}
	}
	return m.Store.Commit(ctx, u)
}

func (m *moody) set(hook func(u *db.Unit) (bool, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// broke is a purse that panics while it is told to.
type broke struct {
	Purse
	on bool
}

func (b *broke) HasProviderKey(ctx context.Context, org id.Org) (map[string]bool, error) {
	if b.on {
		panic("no purse")
	}
	return b.Purse.HasProviderKey(ctx, org)
}

func (h *house) free(thread id.Thread) bool {
	h.t.Helper()
	holder, err := h.calls.Holder(h.t.Context(), h.admin.Org, thread)
	if err != nil {
		h.t.Fatal(err)
	}
	return holder == nil
}

func TestAPanicLeavesTheThreadsLine(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{TurnWait: 300 * time.Millisecond})
	purse := &broke{Purse: h.opts.Purse, on: true}
	h.opts.Purse = purse
	h.chat("hello", "", "X-Thread-Id", "line").want(t, 500)
	purse.on = false
	h.chat("hello", "", "X-Thread-Id", "line").want(t, 200)
}

// The answer to the open's commit is lost, and the commit itself comes only later: the database was frozen.
func TestAnOpenThatComesLateIsClosed(t *testing.T) {
	for name, url := range stores {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, url(t), Options{})
			m := &moody{Store: h.store}
			h.use(m)
			var late *db.Unit
			records := make(chan struct{}, 64)
			m.set(func(u *db.Unit) (bool, error) {
				if u.Record {
					select {
					case records <- struct{}{}:
					default:
					}
					return false, nil
				}
				if late == nil {
					late = u
					return true, fault.New(fault.Unavailable, "no answer").WithCode("outcome_unknown")
				}
				return false, nil
			})
			r := h.chat("hello", "", "X-Thread-Id", "late").want(t, 503)
			if r.code() != "outcome_unknown" {
				t.Errorf("the client was told %s", r.body)
			}
			<-records
			testkit.Eventually(t, 5*time.Second, func() bool {
				h.backlog.mu.Lock()
				defer h.backlog.mu.Unlock()
				return !h.backlog.running
			}, "the backlog is still busy")
			if err := h.store.Commit(t.Context(), late); err != nil { // what was under way all the time
				t.Fatal(err)
			}
			testkit.Eventually(t, 5*time.Second, func() bool { return h.free("late") }, "the turn is held for ever")
			h.chat("hello", "", "X-Thread-Id", "late").want(t, 200)
			if got := h.messages("late"); len(got) < 3 || got[0] != "user:hello:complete" || got[len(got)-1][:10] != "assistant:" {
				t.Errorf("the thread reads %q", got)
			}
		})
	}
}

// use puts a store in front of the gateway's own.
func (h *house) use(m db.Store) { h.opts.Store, h.recorder.store = m, m }

// The store is there and takes everything but this one record.
func TestARecordTheStoreRefusesFreesItsTurn(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	m := &moody{Store: h.store}
	h.use(m)
	var bad *db.Unit
	m.set(func(u *db.Unit) (bool, error) {
		if u.Record && bad == nil {
			bad = u
		}
		return u == bad, errors.New("invalid byte sequence")
	})
	h.chat("hello", "", "X-Thread-Id", "bad").want(t, 500)
	testkit.Eventually(t, 5*time.Second, func() bool { return h.free("bad") }, "the turn is held for ever")
	h.chat("again", "", "X-Thread-Id", "bad").want(t, 200)
}

// The end of the process must not wait for one record after the other.
func TestTheBacklogEndsInTime(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	m := &moody{Store: h.store}
	h.use(m)
	m.set(func(u *db.Unit) (bool, error) {
		time.Sleep(100 * time.Millisecond) // a store that is away takes its time to say so
		return true, fault.New(fault.Unavailable, "away")
	})
	b := newBacklog(h.recorder, nil, slog.New(slog.DiscardHandler), nil)
	for range 100 {
		b.keep(&recording{}, false)
	}
	start := time.Now()
	b.close()
	if took := time.Since(start); took > 5*time.Second { // one after the other would take ten
		t.Errorf("it took %v", took)
	}
}

func (h *house) settler(m db.Store) *Settler {
	h.t.Helper()
	catalogue, err := metering.Embedded()
	if err != nil {
		h.t.Fatal(err)
	}
	lease, err := h.calls.TakeLease(h.t.Context(), calls.LeaseOptions{TTL: 40 * time.Millisecond})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = lease.Close(context.Background()) })
	return &Settler{
		Store: m, Calls: h.calls, Threads: h.threads, Ledger: h.opts.Ledger, Catalogue: catalogue, Lease: lease,
		Every: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
}

// orphan opens a call that belongs to nobody.
func (h *house) orphan(thread id.Thread) {
	h.t.Helper()
	u := &db.Unit{Org: h.admin.Org}
	h.calls.Open(u, &calls.Opening{
		Org: h.admin.Org, ID: id.NewRequest(), Key: "key", User: h.admin.User, Thread: thread, Owner: "own_dead",
		Provider: "openai", Model: "gpt-5-mini", Facts: calls.Facts{Kind: "chat", Provider: "openai", Model: "gpt-5-mini"},
	})
	if err := h.store.Commit(h.t.Context(), u); err != nil {
		h.t.Fatal(err)
	}
}

// The settler has made the call its own when the store fails it: it is alive, so nobody else will ever take the call.
func TestASettlerThatFailsHalfwayGoesOn(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		m := &moody{Store: h.store}
		var records atomic.Int64
		m.set(func(*db.Unit) (bool, error) {
			if records.Add(1) > 2 {
				return false, nil
			}
			return true, errors.New("no")
		})
		s := h.settler(m)
		h.orphan("first")
		h.orphan("second")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		defer func() { stop(); <-ended }()
		testkit.Eventually(t, 5*time.Second, func() bool { return h.free("first") && h.free("second") }, "an orphan is held for ever")
	})
}

// Another process is about to take the turn and does not come to an end.
func TestATurnUnderAStuckTransaction(t *testing.T) {
	url := testkit.Postgres(t)
	h := newHouse(t, url, Options{})
	h.chat("hello", "", "X-Thread-Id", "stuck").want(t, 200)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), `INSERT INTO calls (org_id, call_id, key_id, user_id, thread_id, owner) VALUES ($1, 'req_stuck', 'key', 'usr', 'stuck', 'own_other')`, h.admin.Org)
	if err != nil {
		t.Fatal(err)
	}
	if r := h.chat("me too", "", "X-Thread-Id", "stuck"); r.status != 409 || r.code() != "thread_locked" || r.header.Get("Retry-After") != "1" {
		t.Errorf("status %d, headers %v: %s", r.status, r.header, r.body)
	}
	h.chat("elsewhere", "", "X-Thread-Id", "free").want(t, 200)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.chat("me too", "", "X-Thread-Id", "stuck").want(t, 200)
}
