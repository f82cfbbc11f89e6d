package orgs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"threadhub/internal/db"
	"threadhub/internal/fault"
)

// The pepper keys the hashes of API keys. It is one for the installation, made once, and sealed: a copy of the store
// alone cannot even check a guess.
const (
	pepperName    = "pepper"
	pepperBinding = "secrets|" + pepperName
	pepperLen     = 32
)

// openPepper returns the pepper. Of two processes that make it at once, one wins and both read the winner's.
func (s *Service) openPepper(ctx context.Context) ([]byte, error) {
	var kek string
	var sealed []byte
	err := s.store.Common(ctx, func(tx db.Tx) error {
		err := readPepper(ctx, tx, &kek, &sealed)
		if !errors.Is(err, db.ErrNoRows) {
			return err
		}
		fresh := make([]byte, pepperLen)
		rand.Read(fresh)
		id, box, err := s.keyring.Wrap(fresh, pepperBinding)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO secrets (name, kek_id, sealed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			pepperName, id, box); err != nil {
			return err
		}
		return readPepper(ctx, tx, &kek, &sealed)
	})
	if err != nil {
		return nil, fmt.Errorf("orgs: the pepper of API keys: %w", err)
	}
	pepper, err := s.keyring.Unwrap(kek, sealed, pepperBinding)
	if err != nil {
		return nil, pepperShut(err, kek)
	}
	return pepper, nil
}

func readPepper(ctx context.Context, tx db.Tx, kek *string, sealed *[]byte) error {
	return tx.QueryRow(ctx, `SELECT kek_id, sealed FROM secrets WHERE name = $1`, []any{pepperName}, kek, sealed)
}

// rewrapPepper seals the pepper with the first key. The pepper itself stays: every API key's hash hangs on it.
func (s *Service) rewrapPepper(ctx context.Context) error {
	return s.store.Common(ctx, func(tx db.Tx) error {
		var kek string
		var sealed []byte
		err := readPepper(ctx, tx, &kek, &sealed)
		if errors.Is(err, db.ErrNoRows) || err == nil && kek == s.keyring.First() {
			return nil
		}
		if err != nil {
			return err
		}
		plain, err := s.keyring.Unwrap(kek, sealed, pepperBinding)
		if err != nil {
			return pepperShut(err, kek)
		}
		id, box, err := s.keyring.Wrap(plain, pepperBinding)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE secrets SET kek_id = $2, sealed = $3 WHERE name = $1`, pepperName, id, box)
		return err
	})
}

// pepperShut stops the start: without the pepper no caller can be known.
func pepperShut(cause error, kek string) *fault.Error {
	return fault.Wrap(fault.Internal, cause, "the pepper of API keys does not open: ENCRYPTION_KEY must hold the key with the id %s", kek).
		WithCode("encryption_key_missing").NoRetry()
}
