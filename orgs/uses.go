package orgs

import (
	"context"
	"sync"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/db"
	"threadhub/internal/id"
)

// uses remembers when provider keys were last used, to be written once a minute and not once a call. What a process
// killed in between has not written is lost: it is a hint for people, not an account.
type uses struct {
	mu   sync.Mutex
	last map[use]time.Time
}

type use struct {
	org      id.Org
	provider string
	name     string
}

func (u *uses) note(k use, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at.After(u.last[k]) {
		u.last[k] = at
	}
}

func (u *uses) of(k use) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[k]
}

// take empties u, by org.
func (u *uses) take() map[id.Org]map[use]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	byOrg := map[id.Org]map[use]time.Time{}
	for k, at := range u.last {
		if byOrg[k.org] == nil {
			byOrg[k.org] = map[use]time.Time{}
		}
		byOrg[k.org][k] = at
	}
	clear(u.last)
	return byOrg
}

// writeUsesEvery runs until ctx ends, and writes once more then.
func (s *Service) writeUsesEvery(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.writeUses(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Patience)
			defer cancel()
			s.writeUses(last)
			return
		}
	}
}

// writeUses writes what was noted and counted. What cannot be written is noted again.
func (s *Service) writeUses(ctx context.Context) {
	defer s.o.Panics.Catch("orgs")
	chaos.Point("uses")
	s.writeHits(ctx)
	for org, keys := range s.uses.take() {
		err := s.store.Write(ctx, org, func(tx db.Tx) error {
			for k, at := range keys {
				_, err := tx.Exec(ctx, `UPDATE provider_keys SET last_used_at = $4
					WHERE org_id = $1 AND provider = $2 AND slot = $3 AND length(sealed) > 0 AND created_at <= $4
						AND (last_used_at IS NULL OR last_used_at < $4)`,
					string(org), k.provider, k.name, db.At(tx.Dialect(), at))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			continue
		}
		s.log.Warn("when provider keys were last used could not be written", "org", org, "error", err)
		for k, at := range keys {
			s.uses.note(k, at)
		}
	}
}
