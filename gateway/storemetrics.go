package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"threadhub/internal/db"
	"threadhub/internal/spool"
)

// storeMetrics tell how the store does and what waits for it.
func (g *Gateway) storeMetrics(reg prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge("threadhub_ledger_pending", "Calls that have ended and wait to be recorded.", func() float64 { return float64(g.backlog.pending()) })
	counter("threadhub_fence_total", "Records refused because another process had settled their call.", func() float64 {
		return float64(g.recorder.fenced.Load())
	})
	counter("threadhub_orphans_settled_total", "Calls of dead processes that this process settled.", func() float64 {
		if g.opts.Settler == nil {
			return 0
		}
		return float64(g.opts.Settler.settled.Load())
	})

	kept := func(of func(spool.Stats) float64) func() float64 {
		return func() float64 { return of(g.opts.Spool.Stats()) }
	}
	gauge("threadhub_spool_records", "Records on disk that wait for the store.", kept(func(s spool.Stats) float64 { return float64(s.Records) }))
	gauge("threadhub_spool_bytes", "Their bytes.", kept(func(s spool.Stats) float64 { return float64(s.Bytes) }))
	gauge("threadhub_spool_full", "Whether new calls are refused because the spool, or its disk, is full.", func() float64 {
		return oneIf(g.opts.Spool.Room() != nil)
	})
	counter("threadhub_spool_written_total", "Records put on disk.", kept(func(s spool.Stats) float64 { return float64(s.Written) }))
	counter("threadhub_spool_failures_total", "Records that could not be put on disk, and stayed in memory.", kept(func(s spool.Stats) float64 { return float64(s.Failures) }))
	counter("threadhub_spool_quarantined_total", "Records put aside because they were damaged, or nothing they belong to is there. Each needs a look.", kept(func(s spool.Stats) float64 {
		return float64(s.Quarantined)
	}))

	seen := func(of func(db.Stats) float64) func() float64 {
		return func() float64 {
			if g.opts.Store == nil {
				return 0
			}
			return of(g.opts.Store.Stats())
		}
	}
	gauge("threadhub_store_breaker_open", "Whether calls are refused at once, as the store does not answer.", seen(func(s db.Stats) float64 { return oneIf(s.BreakerOpen) }))
	counter("threadhub_store_ambiguous_commits_total", "Commits that were sent and not answered; each was run again.", seen(func(s db.Stats) float64 { return float64(s.Ambiguous) }))
	counter("threadhub_store_retries_total", "Repeats after a serialization failure or a deadlock.", seen(func(s db.Stats) float64 { return float64(s.Retries) }))
	counter("threadhub_store_resets_total", "Times that connections were found dead and replaced.", seen(func(s db.Stats) float64 { return float64(s.Resets) }))
	counter("threadhub_store_failovers_total", "Times that the store was found at another of the servers that its URL names.", seen(func(s db.Stats) float64 { return float64(s.Failovers) }))
	counter("threadhub_rls_guard_total", "Transactions refused for lost tenancy. Each is a bug, or a mistake in the database.", seen(func(s db.Stats) float64 { return float64(s.Guarded) }))
	gauge("threadhub_store_connections", "Connections of the pool.", seen(func(s db.Stats) float64 { return float64(s.Conns) }))
	gauge("threadhub_store_connections_busy", "Connections of the pool in use.", seen(func(s db.Stats) float64 { return float64(s.ConnsBusy) }))
	counter("threadhub_store_pool_waits_total", "Waits for a connection of the pool that came to something.", seen(func(s db.Stats) float64 { return float64(s.Waits) }))
	counter("threadhub_store_pool_wait_seconds_total", "How long they took.", seen(func(s db.Stats) float64 { return s.Waited.Seconds() }))
	counter("threadhub_store_pool_full_total", "Waits for a connection of the pool that came to nothing: the request was told busy.", seen(func(s db.Stats) float64 { return float64(s.Full) }))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
