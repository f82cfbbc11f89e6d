package calls

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/id"
)

// LeaseOptions set how long a process may be silent before its open calls are orphans.
type LeaseOptions struct {
	TTL    time.Duration // 0: 20 s; renewed four times as often
	Log    *slog.Logger
	Panics *contain.Panics // nil: of its own
}

// Lease says that this process is alive. One row for the process, not one per call: ten thousand streams cost one
// update each quarter of the TTL.
type Lease struct {
	owner  id.Owner
	db     db.Store
	ttl    time.Duration
	log    *slog.Logger
	panics *contain.Panics
	start  time.Time

	// In nanoseconds of the process's clock since start; 0: never.
	steady  atomic.Int64 // since when it has been renewed without a break
	renewed atomic.Int64 // when it was last
	alive   atomic.Int64 // leases that stood then, with this one
	stop    context.CancelFunc
	done    chan struct{}
}

// longOver is when a lease that ended is forgotten. A process without one is as dead as a process whose lease is over.
const longOver = 24 * time.Hour

// TakeLease makes this process an incarnation and keeps its lease until Close. It must be there before a call is opened.
func (s *Store) TakeLease(ctx context.Context, o LeaseOptions) (*Lease, error) {
	if o.TTL == 0 {
		o.TTL = 20 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	l := &Lease{owner: id.NewOwner(), db: s.db, ttl: o.TTL, log: o.Log, panics: o.Panics, start: time.Now(), done: make(chan struct{})}
	if err := l.renew(ctx); err != nil {
		return nil, err
	}
	if err := s.forget(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go o.Panics.Run("lease", func() { l.run(run) })
	return l, nil
}

// forget removes the leases of processes that ended long ago: each start of a process leaves one.
func (s *Store) forget(ctx context.Context) error {
	return s.db.Common(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM incarnations WHERE lease_until < now() - CAST($1 AS interval)`, longOver)
		return err
	})
}

// Owner is this incarnation.
func (l *Lease) Owner() id.Owner { return l.owner }

// Steady reports whether the lease has been renewed without a break for a whole TTL. After an outage of the store all
// leases are over, and the first process to come back would take every healthy stream of the others: it must wait until
// those that live had time to say so. A renewal that failed is a break, as the outage may have been longer for others; so
// is a long time without one, as everything may have stood still.
func (l *Lease) Steady() bool {
	now, since := time.Since(l.start), time.Duration(l.steady.Load())
	return since != 0 && now-since >= l.ttl && now-time.Duration(l.renewed.Load()) <= l.pause()
}

// patience is how long one renewal is waited for: the next one may do better.
func (l *Lease) patience() time.Duration { return max(l.ttl/4, time.Second) }

// pause is the longest time between two renewals that is no break.
func (l *Lease) pause() time.Duration { return l.ttl / 2 }

func (l *Lease) run(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(l.ttl / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.panics.Run("lease", func() { // the next one must not be late for it
			chaos.Point("lease")
			if err := l.renew(ctx); err != nil {
				l.steady.Store(0)
				l.log.Warn("the process's lease was not renewed", "error", err)
			}
		})
	}
}

// Alive is how many processes there were when the lease was last renewed, this one among them: those whose leases stood.
func (l *Lease) Alive() int { return int(l.alive.Load()) }

func (l *Lease) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.patience())
	defer cancel()
	asked := time.Since(l.start)
	var alive int64
	err := l.db.Common(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO incarnations (owner, lease_until) VALUES ($1, now() + CAST($2 AS interval))
ON CONFLICT (owner) DO UPDATE SET lease_until = excluded.lease_until`, l.owner, l.ttl)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT count(*) FROM incarnations WHERE lease_until > now()`, nil, &alive)
	})
	if err != nil {
		return err
	}
	l.alive.Store(alive)
	if l.steady.Load() == 0 || asked-time.Duration(l.renewed.Load()) > l.pause() {
		l.steady.Store(max(1, int64(asked)))
	}
	l.renewed.Store(int64(asked))
	return nil
}

// Close ends the lease now, so that others need not wait for it to run out.
func (l *Lease) Close(ctx context.Context) error {
	l.stop()
	<-l.done
	return l.db.Common(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE incarnations SET lease_until = now() WHERE owner = $1`, l.owner)
		return err
	})
}
