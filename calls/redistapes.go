package calls

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"threadhub/internal/bus"
	"threadhub/internal/contain"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// RedisTapesOptions of NewRedisTapes. The zero value works.
type RedisTapesOptions struct {
	Timeout  time.Duration // the longest a request waits for Redis; 0 means 30 ms
	Every    time.Duration // how far Redis may be behind; 0 means 1 s
	Poll     time.Duration // how often it is asked for what others have told; 0 means 200 ms
	Log      *slog.Logger
	Panics   *contain.Panics      // of the whole process; nil: they are not counted
	Registry *prometheus.Registry // nil: nothing is counted
}

func (o RedisTapesOptions) withDefaults() RedisTapesOptions {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&o.Timeout, 30*time.Millisecond)
	set(&o.Every, time.Second)
	set(&o.Poll, 200*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

const (
	tellBytes   = 4 << 10   // that wait to be told of one tape: more are told at once
	tellMost    = 256 << 10 // bytes in one pipeline, about
	together    = 128       // tapes in one pipeline
	failures    = 5         // in a row, after which nobody waits for Redis until it answers again
	gather      = 10 * time.Millisecond
	connections = 3  // the teller's, the follower's, and the settler's
	patient     = 10 // times Timeout is what the goroutines wait for Redis, as no request waits for them
)

// errAway says that what other processes do cannot be known now.
var errAway = fault.New(fault.Unavailable, "streams of other replicas cannot be followed at the moment").
	WithCode("streams_unavailable").After(time.Second)

// RedisTapes share the tapes of an installation's processes through Redis. Each tape is a Redis stream, which ends by
// itself ten minutes after the last that was told. What this process has itself is heard without asking.
//
// One goroutine tells Redis of all tapes, in one pipeline: of each once a second, or when 4 KiB wait. No call waits for
// it, and what waits is no more than the tapes that are there. One goroutine asks for all tapes that are followed, five
// times a second, also in one pipeline. To be told instead (XREAD BLOCK) would take a connection for each reader, or one
// for each node that all readers' waits are begun anew on whenever one comes or goes, and would save less than the second
// that the teller may take. So a process has three connections, however many tapes and readers there are.
type RedisTapes struct {
	*LocalTapes
	o      RedisTapesOptions
	client redis.UniversalClient

	away   atomic.Bool // Redis does not answer: nobody waits for it
	failed atomic.Int64

	tell chan struct{} // somebody cannot wait for the next round
	ask  chan struct{} // a tape is followed that was not

	leftMu sync.Mutex // held while what a lost stream has left is read

	mu      sync.Mutex
	waiting map[*Tape]struct{} // there is something to tell of them
	due     []*Tape            // and it cannot wait
	missed  map[*Tape]struct{} // whose clients have left
	mirrors map[mirrorKey]*mirror

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	foreign prometheus.Counter
}

// NewRedisTapes starts to share tapes through the server client talks to. It takes the address and the credentials from
// client and opens connections of its own; client stays the caller's. Close ends it.
func NewRedisTapes(client redis.UniversalClient, o RedisTapesOptions) *RedisTapes {
	o = o.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	r := &RedisTapes{
		LocalTapes: NewLocalTapes(), o: o, client: bus.Own(client, bus.Limits{Dial: patient * o.Timeout, Timeout: patient * o.Timeout, Connections: connections}),
		tell: make(chan struct{}, 1), ask: make(chan struct{}, 1),
		waiting: map[*Tape]struct{}{}, missed: map[*Tape]struct{}{}, mirrors: map[mirrorKey]*mirror{}, ctx: ctx, stop: stop,
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "threadhub_cache_tenant_mismatch_total", Help: "Answers of Redis that were somebody else's, and were not used. Each is an alarm.",
		}),
	}
	if o.Registry != nil {
		o.Registry.MustRegister(r.foreign, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "threadhub_shared_streams_up", Help: "Whether other replicas' streams can be followed.",
		}, func() float64 {
			if r.away.Load() {
				return 0
			}
			return 1
		}))
	}
	r.wg.Go(func() { o.Panics.Keep(ctx, "stream teller", r.teller) })
	r.wg.Go(func() { o.Panics.Keep(ctx, "stream follower", r.follower) })
	return r
}

// place is the name of a tape's stream. The braces keep what is an org's on one node of a cluster.
func place(call id.Request, who Listener) string {
	return "threadhub:tape:{" + string(who.Org) + "}:" + string(who.Key) + ":" + string(call)
}

// wish is the name of what says that somebody follows a tape, and wishFor what it must hold.
func wish(call id.Request, who Listener) string { return place(call, who) + ":wanted" }

func wishFor(call id.Request, who Listener) string {
	return string(who.Org) + " " + string(who.Key) + " " + string(call)
}

// note counts failures. After some of them in a row Redis is away.
func (r *RedisTapes) note(err error) {
	if err == nil {
		r.failed.Store(0)
		if r.away.Swap(false) {
			r.o.Log.Info("replicas share streams again")
			signal(r.ask)
		}
		return
	}
	if r.failed.Add(1) >= failures && !r.away.Swap(true) {
		r.o.Log.Warn("replicas do not share streams: Redis does not answer", "error", err)
	}
}

// signal wakes who waits for c, now or soon.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close tells what is still to be told and ends the sharing.
func (r *RedisTapes) Close() error {
	r.stop()
	r.wg.Wait()
	return r.client.Close()
}
