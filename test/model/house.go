package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/gateway"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/threads"
	"threadhub/upstreams"
)

// House is an installation in this process: one store, a settler, one provider, and gateways that come and go, each an
// incarnation of its own with a listener and a lease.
type House struct {
	Org   id.Org
	Log   *testkit.Log
	Store db.Store

	t           testing.TB
	key         string
	calls       *calls.Store
	threads     *threads.Store
	ledger      *metering.Ledger
	orgs        *orgs.Service
	catalogue   *metering.Catalogue
	checkpoints *calls.Checkpoints // on the embedded store
	provider    *provider
	patience    time.Duration
	live        []*process // these do not die
	dying       sync.WaitGroup
	names       atomic.Int64
}

// Stores are the two kinds of store, by name: each gives the URL of a fresh one.
var Stores = map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres}

// SmallModel is a model whose window is SmallWindow tokens; those of the games hold all that is said there.
const (
	SmallModel  = "openai/small"
	SmallWindow = 4000
)

// Setup of a house. The zero Setup is good.
type Setup struct {
	// Around is put around the store, as the gateways that live see it.
	Around func(db.Store) db.Store

	Patience time.Duration // with what others must do in time; 0: 30 s
}

// NewHouse builds an installation on the store at url, and ends it with the test.
func NewHouse(t testing.TB, url string, o Setup) *House {
	t.Helper()
	h := &House{t: t, Log: &testkit.Log{}, calls: calls.New(), threads: threads.New(), ledger: metering.New(), provider: newProvider()}
	if h.patience = o.Patience; h.patience == 0 {
		h.patience = 30 * time.Second
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	closeAt := func(close func() error) {
		t.Cleanup(func() {
			if err := close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the gateways had to say:\n%s", h.Log)
		}
	})
	log := slog.New(slog.NewJSONHandler(h.Log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	shut, ended := h.calls.RecordStages()
	opened, begun := h.calls.OpenStages()
	store, err := db.Open(t.Context(), db.Options{URL: url, Log: log, Timeout: 10 * time.Second, Stages: slices.Concat(
		shut, h.threads.RecordStages(), []db.Stage{h.ledger.Stage()}, ended, opened, h.threads.OpenStages(), begun)})
	must(err)
	closeAt(store.Close)
	if o.Around != nil {
		store = o.Around(store)
	}
	h.Store = store
	h.calls.Use(store)
	h.threads.Use(store)
	if store.Dialect() == db.SQLite {
		h.checkpoints, err = calls.OpenCheckpoints(filepath.Join(t.TempDir(), "checkpoints"))
		must(err)
	}
	ring, err := seal.ParseKeyring(seal.NewKey())
	must(err)
	h.orgs = orgs.New(orgs.Options{Store: store, Keyring: ring, Log: log})
	must(h.orgs.Open(t.Context()))
	closeAt(h.orgs.Close)
	h.catalogue, err = metering.Embedded()
	must(err)
	seeded, err := h.orgs.Seed(t.Context(), orgs.SeedSpec{Org: "model", Email: "ann@model.example", Role: orgs.Admin})
	must(err)
	_, err = h.orgs.PutProviderKey(t.Context(), seeded.Org, orgs.Actor{}, orgs.ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk-a-key-of-the-model-test")})
	must(err)
	h.Org, h.key = seeded.Org, seeded.APIKey.Reveal()
	h.settle(log)
	closeAt(func() error { h.dying.Wait(); return nil })
	gateways := 1
	if store.Dialect() == db.Postgres {
		gateways = 2
	}
	for range gateways {
		p := h.start(store)
		h.live = append(h.live, p)
		closeAt(func() error { return errors.Join(p.stop(), p.lease.Close(context.Background())) })
	}
	return h
}

// settle runs a settler for as long as the house stands. Its lease is short so that it is soon steady; no call is ever
// opened under it.
func (h *House) settle(log *slog.Logger) {
	h.t.Helper()
	lease, err := h.calls.TakeLease(h.t.Context(), calls.LeaseOptions{TTL: 400 * time.Millisecond})
	if err != nil {
		h.t.Fatal(err)
	}
	s := &gateway.Settler{
		Store: h.Store, Calls: h.calls, Threads: h.threads, Ledger: h.ledger, Catalogue: h.catalogue, Lease: lease,
		Checkpoints: h.checkpoints, Every: 20 * time.Millisecond, Log: log,
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	h.t.Cleanup(func() {
		stop()
		running.Wait()
		if err := lease.Close(context.Background()); err != nil {
			h.t.Error(err)
		}
	})
}

// process is one gateway of a house.
type process struct {
	h       *House
	url     string
	gateway *gateway.Gateway
	lease   *calls.Lease
	store   db.Store
	client  *http.Client
	served  chan error
}

// start brings up a gateway over store.
func (h *House) start(store db.Store) *process {
	h.t.Helper()
	p := &process{h: h, store: store, served: make(chan error, 1), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	var err error
	if p.lease, err = h.calls.TakeLease(context.Background(), calls.LeaseOptions{}); err != nil {
		h.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	p.url = "http://" + ln.Addr().String()
	p.gateway = gateway.New(gateway.Options{
		Log: slog.New(slog.NewJSONHandler(h.Log, &slog.HandlerOptions{Level: slog.LevelWarn})), Store: store,
		Orgs: h.orgs, Watcher: h.orgs, ProviderKeys: h.orgs, Purse: h.orgs, People: h.orgs, Calls: h.calls, Threads: h.threads, Ledger: h.ledger, Catalogue: h.catalogue,
		Router:    routing.New(routing.Options{Catalogue: h.catalogue, Providers: []string{"openai"}}),
		Upstreams: map[string]upstreams.Upstream{"openai": h.provider}, Owner: p.lease.Owner(), Checkpoints: h.checkpoints,
		Windows:     map[string]int64{"openai": SmallWindow},
		DrainAccept: -1, TurnWait: 20 * time.Second,
	})
	go func() { p.served <- p.gateway.Serve(ln, nil) }()
	return p
}

// stop ends the gateway.
func (p *process) stop() error {
	p.client.CloseIdleConnections()
	return errors.Join(p.gateway.Shutdown(context.Background()), <-p.served)
}

// mortal is the store of a process that is about to die: of what it records, nothing arrives. With late set, it arrives
// when late is closed.
type mortal struct {
	db.Store
	late    chan struct{}
	reached chan struct{} // closed when the first record is to be made
	once    sync.Once
}

// Commit is db.Store's.
func (m *mortal) Commit(ctx context.Context, u *db.Unit) error {
	if !u.Record {
		return m.Store.Commit(ctx, u)
	}
	m.once.Do(func() { close(m.reached) })
	if m.late == nil {
		return nil
	}
	<-m.late
	return m.Store.Commit(ctx, u)
}

// doomed brings up a process that will die.
func (h *House) doomed(late bool) *process {
	m := &mortal{Store: h.Store, reached: make(chan struct{})}
	if late {
		m.late = make(chan struct{})
	}
	return h.start(m)
}

// die ends p's lease, as running out would: what it has open is for the settler. Its gateway is stopped beside what
// follows.
func (p *process) die() {
	if err := p.lease.Close(context.Background()); err != nil {
		p.h.t.Error(err)
	}
	p.h.dying.Go(func() {
		if err := p.stop(); err != nil {
			p.h.t.Error(err)
		}
	})
}

// Do sends one request to a gateway that lives, and returns the answer's body. Errors: any but the status want.
func (h *House) Do(want int, method, path, body string, header ...string) ([]byte, error) {
	r, err := h.live[0].ask(method, path, []byte(body), header...)
	if err == nil && r.status != want {
		err = fmt.Errorf("%s %s: status %d, not %d: %.300s", method, path, r.status, want, r.body)
	}
	return r.body, err
}

// heard is an answer as it arrived.
type heard struct {
	status int
	header http.Header
	body   []byte
}

// ask sends one request; header is name, value, name, value.
func (p *process) ask(method, path string, body []byte, header ...string) (heard, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return heard{}, err
	}
	req.Header.Set("Authorization", "Bearer "+p.h.key)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return heard{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return heard{resp.StatusCode, resp.Header, raw}, err
}
