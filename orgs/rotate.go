package orgs

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Report is what Rotate did.
type Report struct {
	Orgs         int // with a new data key
	ProviderKeys int // sealed anew
	Failed       []id.Org
}

// Rotate gives every org a new data key, wrapped by the first key-encryption key, seals its provider keys anew with it
// and removes the old data keys; the pepper is sealed anew too. After it has returned no error, the first key-encryption
// key opens everything and the others may be taken away.
//
// Running processes go on: each org changes in one transaction, and a reader sees it before or after. They must know the
// new key-encryption key before Rotate begins: give it to all of them behind the old one, then put it first in all of
// them, or one that is behind would still make a new org's data key with the old one; then rotate; then remove it.
//
// progress, if set, is called after each org. An org that fails stays as it was, is named in the report and in the
// error, and does not stop the others; a store that is away does. Running it again is safe.
func (s *Service) Rotate(ctx context.Context, progress func(id.Org)) (Report, error) {
	var report Report
	if err := s.rewrapPepper(ctx); err != nil {
		return report, err
	}
	list, err := s.All(ctx)
	if err != nil {
		return report, err
	}
	var failed []error
	for _, org := range list {
		n, made, err := s.rotateOrg(ctx, org)
		if fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			return report, errors.Join(append(failed, err)...)
		}
		if err != nil {
			report.Failed = append(report.Failed, org)
			failed = append(failed, fmt.Errorf("orgs: rotating %s: %w", org, err))
		} else if made {
			report.Orgs++
			report.ProviderKeys += n
		}
		if progress != nil {
			progress(org)
		}
	}
	return report, errors.Join(failed...)
}

// All returns the ids of all orgs, deleted ones too.
func (s *Service) All(ctx context.Context) ([]id.Org, error) {
	var list []id.Org
	err := s.store.Walk(ctx, func(tx db.Tx) error {
		list = nil
		return tx.Query(ctx, `SELECT org_id FROM orgs ORDER BY org_id`, nil, func(r db.Row) error {
			var org id.Org
			if err := r.Scan(&org); err != nil {
				return err
			}
			list = append(list, org)
			return nil
		})
	})
	return list, err
}

// rotateOrg returns how many provider keys it sealed anew, and whether there was a data key to replace.
func (s *Service) rotateOrg(ctx context.Context, org id.Org) (n int, made bool, err error) {
	err = s.change(ctx, org, Actor{}, func(tx db.Tx) ([]Entry, error) {
		n, made = 0, false
		newest, err := newestKey(ctx, tx, org)
		if errors.Is(err, db.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		opened, err := s.openAll(ctx, tx, org)
		if err != nil {
			return nil, err
		}
		fresh, err := s.insertDataKey(ctx, tx, org, newest.version+1)
		if err != nil {
			return nil, err
		}
		for _, k := range opened {
			sealed := fresh.box.Seal(k.plain, keyBinding(org, k.provider, k.name, k.version))
			if _, err := tx.Exec(ctx, `UPDATE provider_keys SET sealed = $4 WHERE org_id = $1 AND provider = $2 AND slot = $3`,
				string(org), k.provider, k.name, sealed); err != nil {
				return nil, err
			}
		}
		// Also the empty rows of deleted keys: they hang on a data key too.
		if _, err := tx.Exec(ctx, `UPDATE provider_keys SET dek_version = $2 WHERE org_id = $1`, string(org), fresh.version); err != nil {
			return nil, err
		}
		n, made = len(opened), true
		_, err = tx.Exec(ctx, `DELETE FROM org_keys WHERE org_id = $1 AND version < $2`, string(org), fresh.version)
		return []Entry{{"data_key.rotate", strconv.Itoa(fresh.version), map[string]any{"provider_keys": n}}}, err
	})
	if fault.HasCode(err, "org_not_found") { // deleted, and its keys with it
		return 0, false, nil
	}
	s.tell(ctx, topicProviders, string(org), err)
	return n, made, err
}

// plainKey is a provider key in the open, for as long as one transaction.
type plainKey struct {
	provider string
	name     string
	version  int
	plain    []byte
}

func (s *Service) openAll(ctx context.Context, tx db.Tx, org id.Org) ([]plainKey, error) {
	var opened []plainKey
	err := tx.Query(ctx, sealedKeysSQL, []any{string(org)}, func(r db.Row) error {
		row, dek, err := scanSealed(r)
		if err != nil {
			return err
		}
		plain, err := s.openKey(org, row, dek)
		if err != nil {
			return fmt.Errorf("the key %s for %s: %w", row.name, row.provider, err)
		}
		opened = append(opened, plainKey{row.provider, row.name, row.version, plain})
		return nil
	})
	return opened, err
}
