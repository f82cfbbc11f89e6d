package orgs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// An org's provider keys are sealed with its data key, and that with the operator's. The bindings tie each box to its
// row: a provider key to its org, provider, version and name, a data key to its org and version. Org ids and names of
// providers and keys hold no bar, so no two places have the same binding. The key called default is bound as all were
// when a provider had only one.
func keyBinding(org id.Org, provider, name string, version int) string {
	if name == DefaultKey {
		return fmt.Sprintf("%s|%s|%d", org, provider, version)
	}
	return fmt.Sprintf("%s|%s|%d|%s", org, provider, version, name)
}

func dataBinding(org id.Org, version int) string { return fmt.Sprintf("org_keys|%s|%d", org, version) }

// wrappedKey is a row of org_keys, sealedKey one of provider_keys.
type wrappedKey struct {
	version int
	kek     string
	wrapped []byte
}

type sealedKey struct {
	provider string
	name     string
	priority int
	version  int
	sealed   []byte
}

// sealedKeysSQL reads the provider keys of an org with the data keys that open them, in one statement.
const sealedKeysSQL = `SELECT p.provider, p.slot, p.priority, p.version, p.sealed, k.version, k.kek_id, k.wrapped
	FROM provider_keys p JOIN org_keys k ON k.org_id = p.org_id AND k.version = p.dek_version
	WHERE p.org_id = $1 AND length(p.sealed) > 0`

func scanSealed(r db.Row) (row sealedKey, dek wrappedKey, err error) {
	err = r.Scan(&row.provider, &row.name, &row.priority, &row.version, &row.sealed, &dek.version, &dek.kek, &dek.wrapped)
	return row, dek, err
}

// dataKey is an open data key.
type dataKey struct {
	version int
	box     *seal.Box
}

// sealingKey returns the newest data key of the org, making the first. The org must be held.
func (s *Service) sealingKey(ctx context.Context, tx db.Tx, org id.Org) (dataKey, error) {
	w, err := newestKey(ctx, tx, org)
	if errors.Is(err, db.ErrNoRows) {
		return s.insertDataKey(ctx, tx, org, 1)
	}
	if err != nil {
		return dataKey{}, err
	}
	return s.unwrap(org, w)
}

func newestKey(ctx context.Context, tx db.Tx, org id.Org) (wrappedKey, error) {
	var w wrappedKey
	err := tx.QueryRow(ctx, `SELECT version, kek_id, wrapped FROM org_keys WHERE org_id = $1 ORDER BY version DESC LIMIT 1`,
		[]any{string(org)}, &w.version, &w.kek, &w.wrapped)
	return w, err
}

func (s *Service) insertDataKey(ctx context.Context, tx db.Tx, org id.Org, version int) (dataKey, error) {
	var key [seal.KeySize]byte
	rand.Read(key[:])
	kek, wrapped, err := s.keyring.Wrap(key[:], dataBinding(org, version))
	if err != nil {
		return dataKey{}, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO org_keys (org_id, version, kek_id, wrapped) VALUES ($1, $2, $3, $4)`,
		string(org), version, kek, wrapped)
	return dataKey{version, seal.NewBox(key)}, err
}

func (s *Service) unwrap(org id.Org, w wrappedKey) (dataKey, error) {
	plain, err := s.keyring.Unwrap(w.kek, w.wrapped, dataBinding(org, w.version))
	if err == nil && len(plain) != seal.KeySize {
		err = seal.ErrOpen
	}
	if err != nil {
		return dataKey{}, unreadable(err, "the org's data key")
	}
	return dataKey{w.version, seal.NewBox([seal.KeySize]byte(plain))}, nil
}

func (s *Service) openKey(org id.Org, row sealedKey, w wrappedKey) ([]byte, error) {
	dek, err := s.unwrap(org, w)
	if err != nil {
		return nil, err
	}
	return dek.box.Open(row.sealed, keyBinding(org, row.provider, row.name, row.version))
}

// unreadable is something sealed that does not open. The cause names at most the id of a key-encryption key.
func unreadable(cause error, what string) *fault.Error {
	return fault.Wrap(fault.Internal, cause, "%s cannot be opened: an admin can set the provider key again, or the operator restore the missing ENCRYPTION_KEY", what).
		WithCode("provider_key_unreadable").NoRetry()
}
