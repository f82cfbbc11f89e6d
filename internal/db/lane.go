package db

import (
	"context"
	"math/rand/v2"
	"time"

	"threadhub/internal/seedbug"
)

// alone runs u by itself until it is done, refused, or its patience is over. After a lost connection the first
// transaction may still be running: running u again waits behind it, and finds it or happens. From then on no failure
// says that u has not happened, whatever it is.
func (s *postgresStore) alone(u *Unit, start time.Time, err error) {
	ctx, cancel := context.WithDeadline(context.Background(), start.Add(u.Patience))
	defer cancel()
	sent := s.doubt(err)
	for try, conflicts := 0, 0; ; {
		if seedbug.On("no-rerun") && sent {
			u.finish(s.verdict(u, sent, err))
			return
		}
		switch {
		case err == nil:
			u.finish(nil)
			return
		case ctx.Err() != nil, try > 0 && !lost(err) && !conflict(err) && !waited(err):
			u.finish(s.verdict(u, sent, err))
			return
		case lost(err) && !sent && !u.Record && time.Since(start) >= s.o.Timeout, // nothing is in doubt
			waited(err) && try > 0 && !sent && !u.Record:
			u.finish(s.fault(err))
			return
		case conflict(err):
			if conflicts++; conflicts > conflictTries {
				u.finish(s.verdict(u, sent, err))
				return
			}
			s.n.retries.Add(1)
		}
		if try > 0 {
			pause(ctx, try)
		}
		try++
		select {
		case s.lane <- struct{}{}:
			err = s.aloneOnce(ctx, u)
			<-s.lane
			sent = s.doubt(err) || sent
		case <-ctx.Done():
		}
	}
}

// verdict is what u's caller is told of its last failure.
func (s *postgresStore) verdict(u *Unit, sent bool, err error) error {
	if sent && !u.Record { // a record's caller repeats it, and need not know
		return unknown(err)
	}
	return s.fault(err)
}

// doubt is inDoubt, counted.
func (s *postgresStore) doubt(err error) bool {
	if !inDoubt(err) {
		return false
	}
	s.n.ambiguous.Add(1)
	return true
}

func (s *postgresStore) aloneOnce(ctx context.Context, u *Unit) error {
	wait, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	conn, err := s.pool.Acquire(wait)
	for err == nil && hungUp(conn.Conn().PgConn().Conn()) {
		_ = conn.Conn().Close(wait)
		conn.Release()
		conn, err = s.pool.Acquire(wait)
	}
	if err != nil {
		return lostError{err, false}
	}
	defer conn.Release()
	err = s.run(ctx, conn.Conn(), []*Unit{u}, laneLockWait, laneLockWait+s.o.Timeout)
	s.breaker.reached(!lost(err))
	if lost(err) { // where one connection leads to a server that is dead, or only reads, the others do
		s.pool.Reset()
	}
	return err
}

// pause waits a little longer after each try, with jitter, so that those who collided do not meet again.
func pause(ctx context.Context, try int) {
	d := min(50*time.Millisecond<<min(try-1, 4), 500*time.Millisecond)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
