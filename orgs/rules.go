package orgs

import (
	"context"
	"sync"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// RouterRules are an org's rules as they were written. What they mean is the router's.
type RouterRules struct {
	Version int    // grows with each change; 0: none was ever written
	Body    []byte // JSON; empty: the default rules hold
}

// RouterRules returns the rules of the org. They must not be changed.
func (s *Service) RouterRules(ctx context.Context, org id.Org) (RouterRules, error) {
	if r, ok := s.rules.hit(org); ok {
		return r, nil
	}
	return s.rules.load(ctx, org, func(ctx context.Context) (r RouterRules, err error) {
		err = s.store.Query(ctx, org, db.Query{
			SQL: `SELECT version, body FROM router_rules WHERE org_id = $1`, Args: []any{string(org)},
			Each: func(row db.Row) error { return row.Scan(&r.Version, &r.Body) },
		})
		return r, err
	})
}

// PutRouterRules writes the rules of the org, which somebody has checked; an empty body brings the default rules back.
func (s *Service) PutRouterRules(ctx context.Context, org id.Org, by Actor, body []byte) (version int, err error) {
	err = s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		err := tx.QueryRow(ctx, `INSERT INTO router_rules (org_id, version, body) VALUES ($1, 1, $2)
			ON CONFLICT (org_id) DO UPDATE SET version = router_rules.version + 1, body = excluded.body, updated_at = now() RETURNING version`,
			[]any{string(org), string(body)}, &version)
		if err != nil {
			return nil, err
		}
		action := "router.put"
		if len(body) == 0 {
			action = "router.delete"
		}
		return []Entry{{Action: action, Target: string(org), Detail: map[string]int{"version": version, "bytes": len(body)}}}, nil
	})
	s.tell(ctx, topicRules, string(org), err)
	return version, err
}

// hits counts which rules fired, to be written once a minute and not once a call. What a process killed in between has
// not written is lost: it is a hint for people, not an account.
type hits struct {
	mu   sync.Mutex
	seen map[id.Org]map[string]int64
}

func (h *hits) add(org id.Org, rule string, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen[org] == nil {
		h.seen[org] = map[string]int64{}
	}
	h.seen[org][rule] += n
}

// CountRoute counts a call of the org that rule routed.
func (s *Service) CountRoute(org id.Org, rule string) { s.hits.add(org, rule, 1) }

// RouteHits returns how often each rule fired, what is not written down yet included; of other processes, up to a minute
// late.
func (s *Service) RouteHits(ctx context.Context, org id.Org) (map[string]int64, error) {
	all := map[string]int64{}
	err := s.store.Query(ctx, org, db.Query{
		SQL: `SELECT rule, hits FROM router_hits WHERE org_id = $1`, Args: []any{string(org)},
		Each: func(row db.Row) error {
			var rule string
			var n int64
			err := row.Scan(&rule, &n)
			all[rule] = n
			return err
		},
	})
	s.hits.mu.Lock()
	defer s.hits.mu.Unlock()
	for rule, n := range s.hits.seen[org] {
		all[rule] += n
	}
	return all, err
}

// writeHits writes what was counted. What cannot be written is counted on.
func (s *Service) writeHits(ctx context.Context) {
	s.hits.mu.Lock()
	seen := s.hits.seen
	s.hits.seen = map[id.Org]map[string]int64{}
	s.hits.mu.Unlock()
	for org, rules := range seen {
		err := s.store.Write(ctx, org, func(tx db.Tx) error {
			for rule, n := range rules {
				_, err := tx.Exec(ctx, `INSERT INTO router_hits (org_id, rule, hits) VALUES ($1, $2, $3)
					ON CONFLICT (org_id, rule) DO UPDATE SET hits = router_hits.hits + excluded.hits`, string(org), rule, n)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			continue
		}
		s.log.Warn("which rules fired could not be written", "org", org, "error", err)
		for rule, n := range rules {
			s.hits.add(org, rule, n)
		}
	}
}
