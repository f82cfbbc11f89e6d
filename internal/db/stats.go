package db

import (
	"sync/atomic"
	"time"
)

// Stats is what a store has been through since it was opened. On SQLite all of it is zero.
type Stats struct {
	BreakerOpen bool  // the store does not answer, and is asked once a second
	Ambiguous   int64 // commits that were sent and not answered, each try of each unit
	Retries     int64 // repeats because the database said 40001 or 40P01
	Resets      int64 // connections that were found dead, of which nothing was told
	Failovers   int64 // connections that led to another of the URL's servers than the one before
	Guarded     int64 // transactions that row-level security stood in the way of, or that were refused while it did not stand

	Conns     int           // of the pool
	ConnsBusy int           // of those
	Waits     int64         // for a connection, because all were in use
	Waited    time.Duration // all of them together
	Full      int64         // that came to nothing
}

// counters are those of Stats that the store counts itself.
type counters struct{ ambiguous, retries, resets, failovers, guarded, full atomic.Int64 }

func (s *postgresStore) Stats() Stats {
	p := s.pool.Stat()
	return Stats{
		BreakerOpen: s.breaker.open(),
		Ambiguous:   s.n.ambiguous.Load(), Retries: s.n.retries.Load(), Resets: s.n.resets.Load(), Failovers: s.n.failovers.Load(), Guarded: s.n.guarded.Load(),
		Conns: int(p.TotalConns()), ConnsBusy: int(p.AcquiredConns()),
		Waits: p.EmptyAcquireCount(), Waited: p.EmptyAcquireWaitTime(), Full: s.n.full.Load(),
	}
}

func (s *sqliteStore) Stats() Stats { return Stats{} }
