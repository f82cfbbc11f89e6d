package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// conns are connections for one kind of work. None of another kind can keep them busy.
type conns struct {
	*pgxpool.Pool
	waits []time.Duration // for one; that all are in use is told after the first
}

// openConns makes the store's pools. They connect when they are first used.
func (s *postgresStore) openConns(ctx context.Context, c *pgxpool.Config) error {
	alone := c.Copy()
	alone.MaxConns = 1
	for _, p := range []struct {
		conns  **conns
		config *pgxpool.Config
		waits  []time.Duration
	}{
		{&s.pool, c, []time.Duration{acquireTimeout, s.o.Timeout}},
		{&s.common, alone, []time.Duration{s.o.Timeout}},
		{&s.background, alone.Copy(), []time.Duration{s.o.Timeout}},
	} {
		pool, err := pgxpool.NewWithConfig(ctx, p.config)
		if err != nil {
			s.closeConns()
			return err
		}
		*p.conns = &conns{pool, p.waits}
	}
	return nil
}

func (s *postgresStore) closeConns() {
	for _, c := range []*conns{s.pool, s.common, s.background} {
		if c != nil {
			c.Close()
		}
	}
}

// acquire takes a connection. Of the pool, one is waited for acquireTimeout when all are in use; where another can be made,
// and of what is for the background, as long as one read may take.
func (s *postgresStore) acquire(ctx context.Context, on *conns) (*pgxpool.Conn, error) {
	var err error
	for _, d := range on.waits {
		wait, cancel := context.WithTimeout(ctx, d)
		var conn *pgxpool.Conn
		conn, err = on.Acquire(wait)
		timedOut := wait.Err() != nil
		cancel()
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case on.Stat().AcquiredConns() >= on.Config().MaxConns:
			if on == s.pool { // a client is told
				s.n.full.Add(1)
			}
			return nil, busy(err)
		case !timedOut:
			return nil, lostError{err, false}
		}
	}
	return nil, lostError{err, false}
}
