// Package gateway is the public HTTP edge: it takes one request from its first byte to its last, through the steps of
// ARCHITECTURE.md, and is the only room that knows fasthttp.
//
// It promises that a handler runs only for a request whose framing nobody can read in two ways, within the limits of
// Options, with a caller the authenticator vouched for and whose role suffices; that every failure is an OpenAI error
// object with a request id, its cause in the log and not in the answer; that a panic ends one request and not the
// process; that each request leaves one log line without content or keys; and that Shutdown lets what runs end. It
// leaves to the rooms everything else: who a caller is, what a thread holds, what a call costs.
//
// Nothing of a fasthttp.RequestCtx outlives the handler. What does (a stream) holds its request, see request.hold.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"threadhub/calls"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/seedbug"
	"threadhub/internal/spool"
	"threadhub/metering"
	"threadhub/metering/limits"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/router/failover"
	"threadhub/threads"
	"threadhub/upstreams"
)

// Purse is what pays for calls: the orgs' own keys at the providers.
type Purse interface {
	// KeyNames names the org's keys for a provider, the one to be used first in front; none if there is none.
	KeyNames(ctx context.Context, org id.Org, provider string) ([]orgs.KeyName, error)
	// NamedKey opens one of them. Errors: fault.Invalid provider_key_missing.
	NamedKey(ctx context.Context, org id.Org, provider, name string) (seal.Secret, error)
	// HasProviderKey tells for which providers there is one.
	HasProviderKey(ctx context.Context, org id.Org) (map[string]bool, error)
}

// Authenticator says who a bearer token stands for, and asks leave before it looks up one that nobody has vouched for.
// Errors: fault.Unauthorized when it stands for nobody, fault.Unavailable when that cannot be found out, or leave's.
type Authenticator interface {
	AuthenticateWith(ctx context.Context, token string, leave orgs.Leave) (orgs.Caller, error)
}

// ProviderKeys keeps the orgs' keys at the providers.
type ProviderKeys interface {
	PutProviderKey(ctx context.Context, org id.Org, by orgs.Actor, spec orgs.ProviderKeySpec) (orgs.ProviderKeyStatus, error)
	DeleteProviderKey(ctx context.Context, org id.Org, by orgs.Actor, provider, name string) error
	ProviderKeys(ctx context.Context, org id.Org) ([]orgs.ProviderKeyStatus, error)
	// TryProviderKey hands out a key to be tried, given or the org's own, once it is written down who tries it.
	TryProviderKey(ctx context.Context, org id.Org, by orgs.Actor, provider, name string, given seal.Secret) (orgs.KeyOnTrial, error)
	ProviderKeyPassed(ctx context.Context, org id.Org, k orgs.KeyOnTrial) error
}

// RuleBook keeps the orgs' router rules as they were written, and counts which of them fired.
type RuleBook interface {
	RouterRules(ctx context.Context, org id.Org) (orgs.RouterRules, error)
	PutRouterRules(ctx context.Context, org id.Org, by orgs.Actor, body []byte) (version int, err error)
	CountRoute(org id.Org, rule string)
	RouteHits(ctx context.Context, org id.Org) (map[string]int64, error)
}

// Models lists what a caller may put into the member "model".
type Models interface {
	Models(ctx context.Context, caller orgs.Caller) ([]Model, error)
}

// Options are the parts the gateway stands on and its settings. Parts that are nil answer 503 where they are needed;
// settings that are zero take the value named beside them.
type Options struct {
	Log          *slog.Logger
	Panics       *contain.Panics // of all parts, counted in the metrics; nil: of its own
	LogSink      *LogSink        // counted in the metrics; nil if the log is written directly
	Store        db.Store        // asked whether it is there, for readiness
	Orgs         Authenticator
	Watcher      Watcher       // nil: a call runs to its end whatever becomes of its key
	People       *orgs.Service // orgs, users, teams and keys as admins change them
	FixedOrgs    bool          // admins make no orgs
	ProviderKeys ProviderKeys
	Models       Models
	Purse        Purse
	Calls        *calls.Store
	Threads      *threads.Store
	Ledger       *metering.Ledger
	Budgets      *metering.Budgets // nil: there are none
	BudgetBook   BudgetBook        // nil: nobody has budgets
	Fallback     metering.Fallback // what models without a price cost, as far as hard budgets go; zero: as the dearest there are
	Catalogue    *metering.Catalogue
	Limits       limits.Limiter // nil: there are none
	Router       *routing.Router
	Rules        RuleBook // nil: the default rules hold for everybody
	Upstreams    map[string]upstreams.Upstream
	Signatures   Signatures           // nil: what clients do not send back is not known
	Fetcher      Fetcher              // nil: files that requests point to are left to the provider
	Failover     failover.Options     // what is asked again, and how often
	Windows      map[string]int64     // by provider, in tokens: of models the catalogue does not list
	Owner        id.Owner             // this process, as calls know it
	Spool        *spool.Spool         // nil: what the store does not take is only in memory
	Settler      *Settler             // counted in the metrics; nil: none of this process's
	Checkpoints  *calls.Checkpoints   // where only this process serves the store; nil: what a killed process streamed is lost
	Tapes        calls.Tapes          // what calls give their clients, for whoever comes back; nil: this process's own
	Registry     *prometheus.Registry // nil: one of its own
	Version      string               // shown by /health
	Profiling    bool                 // pprof on the operator's listener
	Now          func() time.Time     // what limits on requests are counted by; nil: time.Now

	AuthFailures  int64         // 60 a minute with bad API keys from one address, and as many for one key's id; negative: no limit
	MaxBodyBytes  int64         // 20 MiB: a larger body is refused
	MaxBodyMemory int64         // 256 MiB, or a quarter of MemoryLimit: what bodies over 64 KiB that are still arriving may hold together
	MaxConns      int           // (open files allowed − 200) / 2, as a relayed stream needs two
	MaxCalls      int           // MaxConns: calls under way
	MemoryLimit   int64         // bytes the process is to stay below, near which it takes less on; 0: it does not look
	HeaderTimeout time.Duration // 10 s for a request's head
	BodyTimeout   time.Duration // 5 min for its body, which must also keep up 1 KiB/s after 5 s
	IdleTimeout   time.Duration // 75 s between two requests on a connection
	WriteTimeout  time.Duration // 20 s without the client taking a byte
	Heartbeat     time.Duration // 10 s of silence in a stream before a comment is sent
	TurnWait      time.Duration // 10 s for the turn of a thread
	ResumeGrace   time.Duration // 30 s that a call goes on without its client, if somebody may come back for it; negative: none
	DrainAccept   time.Duration // 5 s of accepting after readiness has gone; negative: none
	Drain         time.Duration // 120 s for what runs to end by itself
	DrainEnd      time.Duration // 15 s for it to record and end once it has been cancelled

	memory func() int64 // in use; nil: memoryInUse
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.AuthFailures == 0 {
		o.AuthFailures = 60
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Fallback == (metering.Fallback{}) {
		o.Fallback = metering.Fallback{Input: 10_000_000, Output: 50_000_000}
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = 20 << 20
	}
	if o.MaxBodyMemory == 0 {
		o.MaxBodyMemory = 256 << 20
		if o.MemoryLimit > 0 {
			o.MaxBodyMemory = min(o.MaxBodyMemory, o.MemoryLimit/4)
		}
	}
	if o.MaxConns == 0 {
		o.MaxConns = defaultMaxConns()
	}
	if o.MaxCalls == 0 {
		o.MaxCalls = o.MaxConns
	}
	if o.memory == nil {
		o.memory = memoryInUse
	}
	set(&o.HeaderTimeout, 10*time.Second)
	set(&o.BodyTimeout, 5*time.Minute)
	set(&o.IdleTimeout, 75*time.Second)
	set(&o.WriteTimeout, 20*time.Second)
	set(&o.Heartbeat, 10*time.Second)
	set(&o.TurnWait, 10*time.Second)
	set(&o.ResumeGrace, 30*time.Second)
	set(&o.DrainAccept, 5*time.Second)
	set(&o.Drain, 2*time.Minute)
	set(&o.DrainEnd, 15*time.Second)
	return o
}

func defaultMaxConns() int {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil || lim.Cur > 1<<20 {
		return 1 << 18
	}
	return max(16, (int(lim.Cur)-200)/2)
}

// Gateway serves the public listener and the operator's. Make one with New, run it with Serve, end it with Shutdown.
type Gateway struct {
	opts      Options
	metrics   *metrics
	router    *router
	flights   *flights
	server    *fasthttp.Server
	operator  *http.Server
	ready     *readiness
	turns     *turnstile
	tapes     calls.Tapes
	trials    *pace // of provider keys
	foundings *pace // of orgs
	recorder  *recorder
	backlog   *backlog
	policies  *policies
	failover  *failover.Engine
	guesses   *guesses
	keepMost  int   // bytes of a whole answer that the store keeps for repeats of its request
	fetching  *gate // requests that fetch files
	loads     *loads

	mu         sync.Mutex
	public     *listener
	served     chan struct{} // closed when the public server has stopped; nil before Serve
	draining   atomic.Bool
	force      chan struct{} // closed by the second call of Shutdown
	ended      chan struct{} // closed when Shutdown has done its work
	unrecorded bool          // requests had not ended then
}

// New builds a gateway. It opens nothing and starts nothing.
func New(opts Options) *Gateway {
	g := &Gateway{opts: opts.withDefaults(), turns: newTurnstile(), tapes: opts.Tapes, keepMost: maxAnswer, flights: newFlights(), force: make(chan struct{}), ended: make(chan struct{})}
	if g.tapes == nil {
		g.tapes = calls.NewLocalTapes()
	}
	g.trials = newPace(trialsPerMinute, time.Minute, g.opts.Now)
	g.foundings = newPace(orgsPerHour, time.Hour, g.opts.Now)
	g.policies = newPolicies(g.opts.Rules, g.opts.Log)
	g.failover = failover.New(g.opts.Failover)
	g.recorder = &recorder{store: g.opts.Store, calls: g.opts.Calls, threads: g.opts.Threads, ledger: g.opts.Ledger, budgets: g.opts.Budgets, book: g.opts.BudgetBook}
	g.backlog = newBacklog(g.recorder, g.opts.Spool, g.opts.Log, g.opts.Panics)
	g.guesses = newGuesses(g.opts.AuthFailures)
	g.fetching = newGate()
	g.ready = &readiness{store: g.opts.Store}
	g.metrics = newMetrics(g.opts.Registry, g.opts.LogSink, g.opts.Panics, g.ready)
	g.storeMetrics(g.opts.Registry)
	g.budgetMetrics(g.opts.Registry)
	g.loads = newLoads(&g.opts, &g.metrics.load, g.tapes)
	g.router = newRouter(g.routes())
	g.server = g.newServer()
	g.operator = g.newOperator()
	return g
}

// Serve serves both listeners until Shutdown has ended them (nil) or one of them fails, which ends both. operator may
// be nil. Call it once.
func (g *Gateway) Serve(public, operator net.Listener) error {
	g.mu.Lock()
	ln := newListener(public, &g.opts, g.metrics)
	ln.loads = g.loads
	served := make(chan struct{})
	g.public, g.served = ln, served
	stopped := g.draining.Load()
	g.mu.Unlock()
	if stopped {
		close(served)
		return errors.Join(ln.Close(), closeListener(operator))
	}

	g.backlog.resume()
	var watching sync.WaitGroup
	unwatch := make(chan struct{})
	watching.Go(g.opts.Panics.Wrap("overload", func() { g.loads.watch(unwatch) }))
	defer watching.Wait()
	defer close(unwatch)

	opErr := make(chan error, 1)
	go func() {
		if operator == nil {
			opErr <- nil
			return
		}
		err := g.operator.Serve(operator)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		} else {
			_ = ln.Close()
		}
		opErr <- err
	}()
	err := g.server.Serve(ln)
	close(served)
	if g.draining.Load() {
		<-g.ended
	} else {
		_ = g.operator.Close()
	}
	return errors.Join(err, <-opErr)
}

func closeListener(ln net.Listener) error {
	if ln == nil {
		return nil
	}
	return ln.Close()
}

// errDraining is the cause with which Shutdown cancels what is still running.
var errDraining = fault.New(fault.Unavailable, "the gateway is shutting down").WithCode("draining").After(time.Second)

// lastBytes is how long what has ended has to reach its client, at the least.
const lastBytes = time.Second

// stuckFor is how long a client that takes nothing holds up the end, once everything has been cancelled.
const stuckFor = time.Second / 2

// Shutdown ends the gateway gently: readiness goes at once, new requests are taken for DrainAccept more, what runs has
// Drain to end by itself, is then cancelled with the cause errDraining, and has DrainEnd to record and end. When ctx is
// done, or Shutdown is called a second time, what runs is cancelled at once. It returns when nothing is left, or
// has been cut; the error says that requests had not ended.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.mu.Lock()
	if g.draining.Swap(true) {
		select {
		case <-g.force:
		default:
			close(g.force)
		}
		g.mu.Unlock()
		<-g.ended
		return g.shutdownError()
	}
	ln, served := g.public, g.served
	g.mu.Unlock()
	defer close(g.ended)
	defer g.backlog.close()
	defer func() { _ = g.operator.Close() }()
	if ln == nil {
		return nil
	}
	start := time.Now()

	g.pause(ctx, g.opts.DrainAccept, nil)
	_ = ln.Close()
	stop, cancel := context.WithCancel(context.WithoutCancel(ctx))
	closed := make(chan struct{})
	go g.opts.Panics.Run("drain", func() { // closes idle connections again and again, until none is left or stop is done
		defer close(closed)
		_ = g.server.ShutdownWithContext(stop)
	})

	over := time.Now().Add(g.opts.Drain)
	if !seedbug.On("drain-at-once") {
		g.pause(ctx, g.opts.Drain, g.flights.empty())
	}
	g.flights.cancel(errDraining)
	g.unrecorded = !g.endFlights(ln)
	// The last bytes are on their way to clients that read them: for those there is what is left of Drain, and a second.
	none := ln.empty()
	ln.cutIdle()
	g.pause(ctx, time.Until(over), none)
	select {
	case <-none:
	case <-time.After(lastBytes):
		g.opts.Log.Warn("clients had not taken their answers at the end of the drain and were cut", "connections", ln.cut())
		select {
		case <-none:
		case <-time.After(lastBytes):
		}
	}
	cancel()
	<-closed
	<-served
	g.metrics.drainSeconds.Set(time.Since(start).Seconds())
	return g.shutdownError()
}

// endFlights waits for what was cancelled to record and end, and reports whether it did within DrainEnd. A stream whose
// client takes nothing would not: its connection is cut.
func (g *Gateway) endFlights(ln *listener) bool {
	look := time.NewTicker(stuckFor / 4)
	defer look.Stop()
	end := time.After(g.opts.DrainEnd)
	none := g.flights.empty()
	for {
		select {
		case <-none:
			return true
		case <-look.C:
			ln.cutStuck(stuckFor)
		case <-end:
			return false
		}
	}
}

func (g *Gateway) shutdownError() error {
	if !g.unrecorded {
		return nil
	}
	return fault.New(fault.Internal, "requests had not ended at the end of the drain; what they began is settled by others")
}

// pause waits for d, or until done is closed, ctx is done, or Shutdown is forced.
func (g *Gateway) pause(ctx context.Context, d time.Duration, done <-chan struct{}) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	case <-ctx.Done():
	case <-g.force:
	}
}
