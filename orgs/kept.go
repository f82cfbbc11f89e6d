package orgs

import (
	"context"
	"encoding/binary"
	"errors"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// What is kept of an org for a while, and may hold a secret, is sealed with its data key: the key's version in four bytes,
// and the box. When the data key is gone, as after a rotation, so is what it sealed.

// Then is run in the transaction of a change, after it, with what was made. Its error undoes the change. It may be run more
// than once.
type Then[T any] func(tx db.Tx, made T) error

// after runs each of then.
func after[T any](tx db.Tx, made T, then []Then[T]) error {
	for _, f := range then {
		if err := f(tx, made); err != nil {
			return err
		}
	}
	return nil
}

func keptBinding(org id.Org, name string) string { return "kept|" + string(org) + "|" + name }

// SealIn seals plain for OpenSealed, under its name. The org must be held: call it in a Then.
func (s *Service) SealIn(ctx context.Context, tx db.Tx, org id.Org, name string, plain []byte) ([]byte, error) {
	key, err := s.sealingKey(ctx, tx, org)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(key.version)), key.box.Seal(plain, keptBinding(org, name))...), nil
}

// OpenSealed returns what SealIn sealed; nil if its data key is there no more.
func (s *Service) OpenSealed(ctx context.Context, org id.Org, name string, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 {
		return nil, errors.New("orgs: what is sealed has no version")
	}
	w := wrappedKey{version: int(binary.BigEndian.Uint32(sealed))}
	found := false
	err := s.store.Query(ctx, org, db.Query{
		SQL:  `SELECT kek_id, wrapped FROM org_keys WHERE org_id = $1 AND version = $2`,
		Args: []any{string(org), w.version},
		Each: func(r db.Row) error {
			found = true
			return r.Scan(&w.kek, &w.wrapped)
		},
	})
	if err != nil || !found {
		return nil, err
	}
	key, err := s.unwrap(org, w)
	if err != nil {
		return nil, err
	}
	return key.box.Open(sealed[4:], keptBinding(org, name))
}
