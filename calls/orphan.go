package calls

import (
	"context"
	"maps"
	"slices"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
)

// Orphan names an open call whose process is gone.
type Orphan struct {
	Org   id.Org
	ID    id.Request
	Epoch int
}

// orphansAtOnce bounds one look; the next look finds the rest.
const orphansAtOnce = 256

// Orphans returns open calls of processes without a live lease. The owners of open calls are read before the leases: a
// process takes its lease before it opens its first call, so whoever is found to own a call has one, if it lives.
func (s *Store) Orphans(ctx context.Context, me id.Owner) ([]Orphan, error) {
	owners := map[id.Owner]bool{}
	err := s.db.Walk(ctx, func(tx db.Tx) error {
		return tx.Query(ctx, `SELECT DISTINCT owner FROM calls WHERE state = 'open'`, nil, func(row db.Row) error {
			var o id.Owner
			err := row.Scan(&o)
			owners[o] = true
			return err
		})
	})
	delete(owners, me)
	if err != nil || len(owners) == 0 {
		return nil, err
	}
	err = s.db.Common(ctx, func(tx db.Tx) error {
		return tx.Query(ctx, `SELECT owner FROM incarnations WHERE lease_until >= now()`, nil, func(row db.Row) error {
			var o id.Owner
			err := row.Scan(&o)
			if !seedbug.On("rob-the-living") {
				delete(owners, o)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return s.openOf(ctx, owners)
}

// Leftovers returns the open calls of all processes but me: those of the past, where only one process can be alive.
func (s *Store) Leftovers(ctx context.Context, me id.Owner) ([]Orphan, error) {
	var found []Orphan
	err := s.db.Walk(ctx, func(tx db.Tx) error {
		return tx.Query(ctx, `SELECT org_id, call_id, epoch FROM calls WHERE state = 'open' AND owner <> $1 LIMIT $2`,
			[]any{me, orphansAtOnce}, scanOrphan(&found))
	})
	return found, err
}

func (s *Store) openOf(ctx context.Context, owners map[id.Owner]bool) ([]Orphan, error) {
	var found []Orphan
	err := s.db.Walk(ctx, func(tx db.Tx) error {
		for _, o := range slices.Sorted(maps.Keys(owners)) { // the oldest process first
			err := tx.Query(ctx, `SELECT org_id, call_id, epoch FROM calls WHERE state = 'open' AND owner = $1 LIMIT $2`,
				[]any{o, orphansAtOnce}, scanOrphan(&found))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

func scanOrphan(found *[]Orphan) func(db.Row) error {
	return func(row db.Row) error {
		var o Orphan
		err := row.Scan(&o.Org, &o.ID, &o.Epoch)
		*found = append(*found, o)
		return err
	}
}

// TakeOver makes me the owner of o, under a new epoch, and returns the call; nil if somebody else was faster or its
// owner closed it after all. It may be repeated: what I took over by it already is mine.
func (s *Store) TakeOver(ctx context.Context, me id.Owner, o Orphan) (*Call, error) {
	taken := false
	err := s.db.Write(ctx, o.Org, func(tx db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE calls SET owner = $1, epoch = $4 + 1
WHERE org_id = $2 AND call_id = $3 AND state = 'open' AND (epoch = $4 OR owner = $1 AND epoch = $4 + 1)`,
			me, o.Org, o.ID, o.Epoch)
		taken = n == 1
		return err
	})
	if err != nil || !taken {
		return nil, err
	}
	return s.Call(ctx, o.Org, o.ID)
}
