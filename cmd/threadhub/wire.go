package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"

	"threadhub/calls"
	"threadhub/config"
	"threadhub/gateway"
	"threadhub/internal/bus"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/fetch"
	"threadhub/internal/seal"
	"threadhub/internal/spool"
	"threadhub/metering"
	"threadhub/metering/limits"
	"threadhub/migrations"
	"threadhub/orgs"
	"threadhub/router"
	"threadhub/router/failover"
	"threadhub/threads"
	"threadhub/upstreams"
	"threadhub/upstreams/gemini"
	"threadhub/upstreams/openai"
	"threadhub/upstreams/openrouter"
	"threadhub/upstreams/perplexity"
	"threadhub/upstreams/signatures"
)

// adapters are the providers this gateway can talk to.
var adapters = map[string]func(upstreams.Options) (*upstreams.Client, error){
	"gemini":     gemini.New,
	"openai":     openai.New,
	"openrouter": openrouter.New,
	"perplexity": perplexity.New,
}

// server is a gateway with every part below it.
type server struct {
	cfg            *config.Config
	log            *slog.Logger
	level          *slog.LevelVar // of log
	storage        *storage
	lease          *calls.Lease
	checkpoints    *calls.Checkpoints // on SQLite
	tapes          calls.Tapes
	gateway        *gateway.Gateway
	reloadFailures prometheus.Counter
	parts          closers
}

// openServer builds every part and settles what an earlier process left open. It listens to nobody yet.
func openServer(ctx context.Context, cfg *config.Config, logTo io.Writer) (_ *server, err error) {
	s := &server{cfg: cfg, reloadFailures: newReloadFailures()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	sink := gateway.NewLogSink(logTo, 0)
	s.parts.addContext(sink.Close)
	s.log, s.level = newLog(sink, cfg)

	if s.storage, err = openStorage(ctx, cfg, s.log, true); err != nil {
		return nil, err
	}
	s.parts.add(s.storage)
	if s.lease, err = s.storage.calls.TakeLease(ctx, calls.LeaseOptions{TTL: cfg.Timeouts.Lease, Log: s.log, Panics: s.storage.panics}); err != nil {
		return nil, err
	}
	s.parts.addContext(s.lease.Close)
	if file, embedded := cfg.SQLiteFile(); embedded {
		if s.checkpoints, err = calls.OpenCheckpoints(file + ".streams"); err != nil {
			return nil, err
		}
	}
	catalogue, err := metering.Embedded()
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.reloadFailures)
	if s.storage.standing != nil {
		registry.MustRegister(busGauge(s.storage.standing))
	}
	s.tapes = s.openTapes(registry)
	spooled, err := spool.Open(filepath.Join(cfg.DataDir, "spool"), s.storage.keys, spool.Options{MaxBytes: cfg.Spool.MaxBytes, Log: s.log, Panics: s.storage.panics})
	if err != nil {
		return nil, err
	}
	s.parts.add(spooled)
	settler := s.settler(catalogue)
	providers, err := s.openUpstreams()
	if err != nil {
		return nil, err
	}
	signed, err := s.openSignatures()
	if err != nil {
		return nil, err
	}
	models := router.New(router.Options{Catalogue: catalogue, Providers: slices.Collect(maps.Keys(providers)), DefaultModels: defaultModels(cfg)})
	s.gateway = gateway.New(gateway.Options{
		Log:          s.log,
		Panics:       s.storage.panics,
		LogSink:      sink,
		Store:        s.storage.store,
		Orgs:         s.storage.orgs,
		Watcher:      s.storage.orgs,
		People:       s.storage.orgs,
		FixedOrgs:    !cfg.Orgs.Create,
		ProviderKeys: s.storage.orgs,
		Purse:        s.storage.orgs,
		Models: gateway.NewListing(gateway.ListingOptions{
			Router: models, Catalogue: catalogue, Keys: s.storage.orgs, Upstreams: providers, Log: s.log, Panics: s.storage.panics,
		}),
		Calls:        s.storage.calls,
		Threads:      s.storage.threads,
		Ledger:       s.storage.ledger,
		Budgets:      s.storage.budgets,
		BudgetBook:   s.storage.orgs,
		Fallback:     unpriced(cfg),
		Catalogue:    catalogue,
		Limits:       s.openLimits(registry),
		Router:       models,
		Rules:        s.storage.orgs,
		Upstreams:    providers,
		Signatures:   signed,
		Fetcher:      fetcher(cfg),
		Failover:     retries(cfg),
		Windows:      windows(cfg),
		Owner:        s.lease.Owner(),
		Spool:        spooled,
		Settler:      settler,
		Checkpoints:  s.checkpoints,
		Tapes:        s.tapes,
		Registry:     registry,
		Version:      version,
		Profiling:    cfg.Profiling,
		AuthFailures: orNone(cfg.Auth.FailuresPerMinute),
		MaxBodyBytes: cfg.MaxBodyBytes,
		MaxCalls:     int(cfg.MaxCalls),
		MemoryLimit:  memoryLimit(s.log),
		WriteTimeout: cfg.Timeouts.Write,
		Heartbeat:    cfg.Timeouts.Heartbeat,
		TurnWait:     max(cfg.Threads.TurnWait, time.Millisecond), // 0 would be the default
		ResumeGrace:  orNone(cfg.Streams.ResumeGrace),
		DrainAccept:  orNone(cfg.Timeouts.DrainAccept),
		Drain:        orNone(cfg.Timeouts.Drain),
	})
	if err := s.settle(ctx, settler); err != nil {
		return nil, err
	}
	s.tidy(ctx)
	return s, nil
}

// orNone writes "none" as parts do whose 0 is a default.
func orNone[N ~int64](n N) N {
	if n == 0 {
		return -1
	}
	return n
}

func (s *server) settler(catalogue *metering.Catalogue) *gateway.Settler {
	return &gateway.Settler{
		Store: s.storage.store, Calls: s.storage.calls, Threads: s.storage.threads, Ledger: s.storage.ledger,
		Budgets: s.storage.budgets, Fallback: unpriced(s.cfg),
		Catalogue: catalogue, Lease: s.lease, Checkpoints: s.checkpoints, Tapes: s.tapes, Every: s.cfg.Timeouts.Lease / 10, Log: s.log, Panics: s.storage.panics,
	}
}

// settle closes what dead processes left open. First as the spool has it; the rest as lost: now, where nobody else can be
// alive; else again and again, as others die.
func (s *server) settle(ctx context.Context, settler *gateway.Settler) error {
	err := s.gateway.Recover()
	if s.storage.store.Dialect() == db.SQLite {
		if err != nil {
			return err // or what it holds would be settled as lost
		}
		return settler.Leftovers(ctx)
	}
	if err != nil {
		s.log.Warn("what is in the spool waits for the store", "error", err)
	}
	s.background(ctx, settler.Run)
	return nil
}

// tidy clears deleted threads away when they have been kept for long enough, and what was kept for repeats of requests:
// once an hour, and threads oftener where they are kept for less. It checks budgets each minute.
func (s *server) tidy(ctx context.Context) {
	s.background(ctx, calls.Janitor{Calls: s.storage.calls, Orgs: s.storage.orgs.All, Log: s.log}.Run)
	s.background(ctx, metering.Checker{Budgets: s.storage.budgets, Log: s.log, Panics: s.storage.panics}.Run)
	keep := s.cfg.Threads.KeepDeleted
	janitor := &threads.Janitor{
		Threads: s.storage.threads, Orgs: s.storage.orgs.All, Keep: keep, Every: min(max(keep/8, time.Second), time.Hour), Log: s.log, Panics: s.storage.panics,
	}
	s.background(ctx, janitor.Run)
}

// background runs work beside the gateway until its parts are closed.
func (s *server) background(ctx context.Context, work func(context.Context)) {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go s.storage.panics.Run("background", func() {
		defer close(ended)
		s.storage.panics.Keep(run, "background", func() { work(run) })
	})
	s.parts.addContext(func(context.Context) error {
		stop()
		<-ended
		return nil
	})
}

// openUpstreams makes an adapter for each provider there is one for.
func (s *server) openUpstreams() (map[string]upstreams.Upstream, error) {
	t := s.cfg.Timeouts
	providers := map[string]upstreams.Upstream{}
	for name, open := range adapters {
		client, err := open(upstreams.Options{
			BaseURL:        s.cfg.Upstreams[name].BaseURL,
			ConnectTimeout: t.Connect,
			HeaderTimeout:  t.Headers,
			WholeTimeout:   t.Whole,
			IdleTimeout:    t.Idle,
			TotalTimeout:   t.Stream,
			MaxLine:        int(s.cfg.Streams.MaxLineBytes),
			Log:            s.log,
			Panics:         s.storage.panics,
			API:            s.cfg.Upstreams[name].API,
			Search:         s.cfg.Upstreams[name].Search,
			Referer:        s.cfg.Upstreams[name].Referer,
			Title:          s.cfg.Upstreams[name].Title,
			Adapt:          s.cfg.Upstreams[name].Adapt,
		})
		if err != nil {
			return nil, err
		}
		s.parts.add(client)
		providers[name] = client
	}
	return providers, nil
}

// fetcher gets the files that requests to Gemini point to; nil if the operator wants none fetched.
func fetcher(cfg *config.Config) gateway.Fetcher {
	if !cfg.Upstreams["gemini"].Fetch {
		return nil
	}
	return fetch.New(fetch.Options{})
}

func retries(cfg *config.Config) failover.Options {
	o := failover.Options{Retries: int(orNone(cfg.Retries.Most)), NoBreaker: !cfg.Retries.Breaker, RetrySafe: map[string]bool{}}
	for name, u := range cfg.Upstreams {
		o.RetrySafe[name] = u.RetrySafe
	}
	return o
}

func defaultModels(cfg *config.Config) map[string]string {
	models := map[string]string{}
	for name, u := range cfg.Upstreams {
		models[name] = u.DefaultModel
	}
	return models
}

// unpriced is what models without a price cost, as the operator has it: dollars for a million tokens.
func unpriced(cfg *config.Config) metering.Fallback {
	perToken := func(usd string) metering.PicoUSD {
		p, _ := metering.ParseUSD(usd) // the configuration has checked it
		return p / 1_000_000
	}
	return metering.Fallback{Input: perToken(cfg.Budgets.UnpricedInput), Output: perToken(cfg.Budgets.UnpricedOutput)}
}

func windows(cfg *config.Config) map[string]int64 {
	windows := map[string]int64{}
	for name, u := range cfg.Upstreams {
		windows[name] = u.DefaultWindow
	}
	return windows
}

// Close ends every part, the last one first.
func (s *server) Close() error { return s.parts.Close() }

// storage is the open store with the rooms that keep things in it: what every command but migrate works with.
type storage struct {
	store    db.Store
	orgs     *orgs.Service
	calls    *calls.Store
	threads  *threads.Store
	ledger   *metering.Ledger
	budgets  *metering.Budgets
	keys     *seal.Keyring
	redis    redis.UniversalClient // nil: there is none
	standing func() bool           // whether other processes are heard; nil: there is no Redis
	panics   *contain.Panics       // of the whole process
	parts    closers
}

// openStorage migrates and opens the store. exclusive makes this process the only one that serves from a SQLite file;
// commands that only add to it work beside a server.
func openStorage(ctx context.Context, cfg *config.Config, log *slog.Logger, exclusive bool) (_ *storage, err error) {
	s := &storage{calls: calls.New(), threads: threads.New(), ledger: metering.New(), budgets: metering.NewBudgets(), panics: contain.New(log)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.keys, err = keyring(cfg); err != nil {
		return nil, err
	}
	s.store, err = openMigrated(ctx, cfg, db.Options{
		URL:       cfg.Database().Reveal(),
		Stages:    s.stages(),
		Exclusive: exclusive,
		Bound:     func(ctx context.Context, conn *pgx.Conn) error { return migrations.Bound(ctx, conn) },
		Watch:     func(ctx context.Context, conn *pgx.Conn) error { return migrations.Stands(ctx, conn) },
		Timeout:   cfg.Timeouts.Database,
		Log:       log,
		Panics:    s.panics,
	})
	if err != nil {
		return nil, err
	}
	s.parts.add(s.store)
	s.calls.Use(s.store)
	s.threads.Use(s.store)
	s.budgets.Use(s.store)

	if s.redis, err = openRedis(cfg); err != nil {
		return nil, err
	}
	s.orgs = orgs.New(orgs.Options{Store: s.store, Keyring: s.keys, Bus: s.openBus(cfg, log), Log: log, Panics: s.panics})
	if err := s.orgs.Open(ctx); err != nil {
		return nil, err
	}
	s.parts.add(s.orgs)
	return s, nil
}

// Close ends every part, the last one first.
func (s *storage) Close() error { return s.parts.Close() }

// stages puts the rooms' stages into the order of ARCHITECTURE.md: what records comes first, so that a turn freed in a
// group can be taken in it.
func (s *storage) stages() []db.Stage {
	closing, closed := s.calls.RecordStages()
	opening, opened := s.calls.OpenStages()
	return slices.Concat(
		closing, s.threads.RecordStages(), []db.Stage{s.ledger.Stage()}, closed,
		opening, s.threads.OpenStages(s.budgets.Stages()...), opened,
	)
}

// openMigrated opens the store at this version's schema. A SQLite file is opened first, so that the schema does not
// change under another server that has it; Postgres is migrated first, as the app's role is made there.
func openMigrated(ctx context.Context, cfg *config.Config, o db.Options) (db.Store, error) {
	migration := migrations.Options{Log: o.Log}
	if _, embedded := cfg.SQLiteFile(); !embedded {
		if err := migrate(ctx, cfg, migration); err != nil {
			return nil, err
		}
		return db.Open(ctx, o)
	}
	store, err := db.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, cfg, migration); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// openBus joins the other processes, where there can be some.
func (s *storage) openBus(cfg *config.Config, log *slog.Logger) bus.Bus {
	if s.redis == nil {
		return bus.NewLocal()
	}
	s.parts.add(s.redis)
	b := bus.NewRedis(s.redis, bus.Options{Timeout: cfg.Timeouts.Redis, Log: log, Panics: s.panics})
	s.parts.add(b)
	s.standing = b.Standing
	return b
}

// openTapes makes what calls give their clients found by those who come back: at any process, where there can be some.
func (s *server) openTapes(registry *prometheus.Registry) calls.Tapes {
	if s.storage.redis == nil {
		return calls.NewLocalTapes()
	}
	tapes := calls.NewRedisTapes(s.storage.redis, calls.RedisTapesOptions{Timeout: s.cfg.Timeouts.Redis, Log: s.log, Panics: s.storage.panics, Registry: registry})
	s.parts.add(tapes)
	return tapes
}

// openLimits makes what counts calls against their limits: for all processes together, where there can be some.
func (s *server) openLimits(registry *prometheus.Registry) limits.Limiter {
	o := limits.Options{
		Timeout: s.cfg.Timeouts.Redis, Replicas: s.lease.Alive, Log: s.log, Panics: s.storage.panics, Registry: registry,
	}
	if s.storage.redis == nil {
		return limits.NewLocal(o)
	}
	shared := limits.NewRedis(s.storage.redis, o)
	s.parts.add(shared)
	return shared
}

func busGauge(standing func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "threadhub_bus_up", Help: "Whether changes that other processes make arrive at once, by way of Redis.",
	}, func() float64 {
		if standing() {
			return 1
		}
		return 0
	})
}

// openSignatures makes the memory of what models sign, for all processes where there can be some.
func (s *server) openSignatures() (signatures.Store, error) {
	o := signatures.Options{Timeout: s.cfg.Timeouts.Redis, Log: s.log, Panics: s.storage.panics}
	if s.storage.redis == nil {
		return signatures.NewLocal(o), nil
	}
	var err error
	if o.Secret, err = s.storage.orgs.Secret("signatures"); err != nil {
		return nil, err
	}
	store, err := signatures.NewRedis(s.storage.redis, o)
	if err != nil {
		return nil, err
	}
	s.parts.add(store)
	return store, nil
}
