package calls

import (
	"cmp"
	"context"
	"database/sql"
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

// Taking is one take-over.
type Taking struct {
	By    id.Owner
	Of    Orphan
	Taken bool // set by the commit: By has it
}

// TakeOver makes me the owner of o, under a new epoch, and returns the call; nil if somebody else was faster or its
// owner closed it after all. It may be repeated: what I took over by it already is mine. Many at a time are one group.
func (s *Store) TakeOver(ctx context.Context, me id.Owner, o Orphan) (*Call, error) {
	t := &Taking{By: me, Of: o}
	u := &db.Unit{Org: o.Org, Record: true}
	s.take.Put(u, t, 128)
	if err := s.db.Commit(ctx, u); err != nil || !t.Taken {
		return nil, err
	}
	return s.Call(ctx, o.Org, o.ID)
}

func takePostgres(rows []*Taking) db.Statement {
	slices.SortFunc(rows, func(a, b *Taking) int { return cmp.Or(cmp.Compare(a.Of.Org, b.Of.Org), cmp.Compare(a.Of.ID, b.Of.ID)) })
	n := len(rows)
	at := make(map[[3]string][]*Taking, n)
	org, call, owner, epoch := texts(n), texts(n), texts(n), make([]int32, n)
	for i, r := range rows {
		r.Taken = false
		org[i], call[i], owner[i], epoch[i] = string(r.Of.Org), string(r.Of.ID), string(r.By), int32(r.Of.Epoch)
		key := [3]string{org[i], call[i], owner[i]}
		at[key] = append(at[key], r)
	}
	return db.Statement{
		SQL: `UPDATE calls c SET owner = u.owner, epoch = u.epoch + 1
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS u (org_id, call_id, owner, epoch)
WHERE c.org_id = u.org_id AND c.call_id = u.call_id AND c.state = 'open' AND (c.epoch = u.epoch OR c.owner = u.owner AND c.epoch = u.epoch + 1)
RETURNING c.org_id, c.call_id, c.owner`,
		Args: []any{org, call, owner, epoch},
		Each: func(row db.Row) error {
			var key [3]string
			if err := row.Scan(&key[0], &key[1], &key[2]); err != nil {
				return err
			}
			for _, r := range at[key] {
				r.Taken = true
			}
			return nil
		},
	}
}

func takeSQLite(ctx context.Context, tx *sql.Tx, r *Taking) error {
	res, err := tx.ExecContext(ctx, `UPDATE calls SET owner = $1, epoch = $4 + 1
WHERE org_id = $2 AND call_id = $3 AND state = 'open' AND (epoch = $4 OR owner = $1 AND epoch = $4 + 1)`,
		r.By, r.Of.Org, r.Of.ID, r.Of.Epoch)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	r.Taken = n == 1
	return err
}
