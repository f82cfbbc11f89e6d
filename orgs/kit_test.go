package orgs

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// onBoth runs a case on both stores, each with a fresh one.
func onBoth(t *testing.T, f func(*testing.T, *world)) {
	for name, url := range map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newWorld(t, url(t)))
		})
	}
}

// world is a store and what the services on it share. Time goes only when told to.
type world struct {
	store *watched
	url   string // of the store, for somebody with every right
	kek   string
	log   testkit.Log
	ahead atomic.Int64
}

func newWorld(t *testing.T, url string) *world {
	t.Helper()
	store, err := db.Open(t.Context(), db.Options{URL: url, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return &world{store: &watched{Store: store}, url: url, kek: seal.NewKey()}
}

var start = time.Now()

func (w *world) now() time.Time          { return start.Add(time.Duration(w.ahead.Load())) }
func (w *world) advance(d time.Duration) { w.ahead.Add(int64(d)) }

// build makes a process that is not open yet; set changes its options.
func (w *world) build(t *testing.T, set ...func(*Options)) *Service {
	t.Helper()
	// A busy machine is not what the tests are about: what the store says is, however late.
	o := Options{Patience: time.Minute, Store: w.store, Keyring: keyring(t, w.kek), Now: w.now, Log: slog.New(slog.NewTextHandler(&w.log, nil))}
	for _, f := range set {
		f(&o)
	}
	return New(o)
}

func (w *world) open(t *testing.T, set ...func(*Options)) *Service {
	t.Helper()
	s := w.build(t, set...)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func keyring(t *testing.T, keys string) *seal.Keyring {
	t.Helper()
	k, err := seal.ParseKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func withKeys(k *seal.Keyring) func(*Options)    { return func(o *Options) { o.Keyring = k } }
func withBus(b bus.Bus) func(*Options)           { return func(o *Options) { o.Bus = b } }
func withTTL(ttl time.Duration) func(o *Options) { return func(o *Options) { o.KeyTTL = ttl } }
func member(t *testing.T, s *Service, org string) Seeded {
	return seed(t, s, SeedSpec{Org: org, Email: "m@example.com"})
}

func seed(t *testing.T, s *Service, spec SeedSpec) Seeded {
	t.Helper()
	out, err := s.Seed(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func callerOf(t *testing.T, s *Service, key seal.Secret) Caller {
	t.Helper()
	c, err := s.Authenticate(t.Context(), key.Reveal())
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	return c
}

// exec changes rows behind the service's back.
func (w *world) exec(t *testing.T, org id.Org, sql string, args ...any) {
	t.Helper()
	err := w.store.Write(t.Context(), org, func(tx db.Tx) error {
		n, err := tx.Exec(t.Context(), sql, args...)
		if err == nil && n == 0 {
			t.Errorf("%s changed nothing", sql)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// refuses checks that err is the one answer to a key that is no good.
func refuses(t *testing.T, what string, err error) {
	t.Helper()
	f, want := fault.From(err), refused()
	if err == nil || f.Kind != fault.Unauthorized || f.Code != want.Code || f.Message != want.Message || f.Error() != want.Error() {
		t.Fatalf("%s: got %v, want %v", what, err, want)
	}
}

func hasCode(t *testing.T, err error, k fault.Kind, code string) {
	t.Helper()
	if err == nil || !fault.Is(err, k) || !fault.HasCode(err, code) {
		t.Fatalf("got %v (%+v), want kind %d, code %s", err, fault.From(err), k, code)
	}
}

// watched counts what the store is asked, and can be away.
type watched struct {
	db.Store
	down    atomic.Bool
	shown   atomic.Int64
	queries atomic.Int64
}

func (w *watched) away() error {
	if w.down.Load() {
		return fault.New(fault.Unavailable, "the store is away").WithCode("storage_unavailable")
	}
	return nil
}

func (w *watched) Shown(ctx context.Context, key id.Key, f func(db.Tx) error) error {
	w.shown.Add(1)
	if err := w.away(); err != nil {
		return err
	}
	return w.Store.Shown(ctx, key, f)
}

func (w *watched) Query(ctx context.Context, org id.Org, qs ...db.Query) error {
	w.queries.Add(1)
	if err := w.away(); err != nil {
		return err
	}
	return w.Store.Query(ctx, org, qs...)
}

func (w *watched) Write(ctx context.Context, org id.Org, f func(db.Tx) error) error {
	if err := w.away(); err != nil {
		return err
	}
	return w.Store.Write(ctx, org, f)
}
