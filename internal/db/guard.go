package db

import (
	"context"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Row-level security is what keeps orgs apart when a statement does not. Where it does not stand, nothing is told: an
// answer without a row would be as wrong as one with another org's.

// guardEach is how often Options.Watch is asked.
const guardEach = 10 * time.Second

// tenancy is the answer when it is not sure whose data would be stored or shown.
func tenancy(cause error) *fault.Error {
	return fault.Wrap(fault.Internal, cause, "the gateway lost track of whose data this is, and stored and showed nothing").WithCode("tenant_context")
}

// bound refuses what names no org, and everything while row-level security does not stand.
func (s *postgresStore) bound(org id.Org) error {
	if org == "" {
		s.n.guarded.Add(1)
		return tenancy(nil)
	}
	return s.stands()
}

func (s *postgresStore) stands() error {
	if broken := s.broken.Load(); broken != nil {
		s.n.guarded.Add(1)
		return tenancy(*broken)
	}
	return nil
}

// watch asks again and again whether row-level security stands.
func (s *postgresStore) watch(each time.Duration) {
	defer close(s.watched)
	tick := time.NewTicker(each)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.o.Panics.Run("store guard", s.look) // and again, whatever became of it
		case <-s.stop:
			return
		}
	}
}

func (s *postgresStore) look() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*s.o.Timeout)
	defer cancel()
	conn, err := s.acquire(ctx, s.background)
	if err != nil {
		return // a store that is away shows nothing to anybody
	}
	defer conn.Release()
	err = s.o.Watch(ctx, conn.Conn())
	switch was := s.broken.Load(); {
	case fault.HasCode(err, "tenant_context"):
		s.broken.Store(&err)
		if was == nil {
			s.o.Log.Error("row-level security does not stand; nothing is stored or shown until it does", "error", err)
		}
	case err == nil && was != nil:
		s.broken.Store(nil)
		s.o.Log.Info("row-level security stands again")
	}
}
