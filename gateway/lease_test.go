package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/threads"
)

// otherSettler is the settler of another process on the same Postgres, with connections of its own.
func (h *house) otherSettler(url string) *Settler {
	h.t.Helper()
	c, th, ledger := calls.New(), threads.New(), metering.New()
	shut, ended := c.RecordStages()
	opened, begun := c.OpenStages()
	store, err := db.Open(h.t.Context(), db.Options{URL: url, Stages: slices.Concat(
		shut, th.RecordStages(), []db.Stage{ledger.Stage()}, ended, opened, th.OpenStages(), begun)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = store.Close() })
	c.Use(store)
	th.Use(store)
	lease, err := c.TakeLease(h.t.Context(), calls.LeaseOptions{TTL: 40 * time.Millisecond})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = lease.Close(context.Background()) })
	return &Settler{
		Store: store, Calls: c, Threads: th, Ledger: ledger, Catalogue: h.opts.Catalogue, Lease: lease,
		Every: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
}

// A process whose readers keep all connections busy for longer than a lease is alive all the same: no other process takes
// its streams for orphans.
func TestAFullPoolDoesNotEndTheLease(t *testing.T) {
	t.Parallel()
	const ttl, conns = 2 * time.Second, 2
	url := testkit.Postgres(t)
	h := newHouse(t, url, Options{}, func(o *db.Options) { o.MaxConns = conns })
	lease, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lease.Close(context.Background()) }()
	h.opts.Owner = lease.Owner()
	h.chat("hello", "").want(t, 200) // its key and its org are known from now on
	s := h.otherSettler(url)
	running, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(running) })
	defer func() { stop(); wg.Wait() }()

	answer := make(chan heard, 1)
	go func() {
		answer <- h.chat("[[sim delay=100ms chunks=60 size=400]] go on", `,"stream":true`, "X-Thread-Id", "long")
	}()
	testkit.Eventually(t, 10*time.Second, func() bool { return !h.free("long") }, "the stream to begin")
	inside, leave := make(chan struct{}, conns), make(chan struct{})
	for range conns {
		wg.Go(func() {
			_ = h.store.Read(context.Background(), h.admin.Org, func(db.Tx) error { inside <- struct{}{}; <-leave; return nil })
		})
	}
	for range conns {
		<-inside
	}
	time.Sleep(2 * ttl)
	close(leave)
	if r := (<-answer).want(t, 200); !bytes.HasSuffix(r.body, []byte("data: [DONE]\n\n")) {
		t.Errorf("the stream ended with %.300s", r.body[max(0, len(r.body)-300):])
	}
	if n := s.settled.Load(); n != 0 {
		t.Errorf("%d calls of a process that lives were settled", n)
	}
}
