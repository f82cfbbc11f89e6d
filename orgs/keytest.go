package orgs

import (
	"context"
	"slices"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// KeyOnTrial is a provider key that somebody is about to try out.
type KeyOnTrial struct {
	Provider string
	Name     string // of a key that was given, what it was said to become; may be empty
	Key      seal.Secret

	version int // 0: it was given, and is not kept
}

// TryProviderKey writes down that somebody tries out a key for a provider, and returns it: given, or, if that is empty,
// the org's own of that name, the one that is used first if name is empty. Without the line there is no key. The key is
// as the store has it now. Errors: fault.Invalid, with the parameter; fault.NotFound, provider_key_missing, when it is not
// there; fault.Internal, provider_key_unreadable, when it does not open; those of a change.
func (s *Service) TryProviderKey(ctx context.Context, org id.Org, by Actor, provider, name string, given seal.Secret) (KeyOnTrial, error) {
	k, err := s.keyOnTrial(ctx, org, provider, name, given)
	if err != nil {
		return KeyOnTrial{}, err
	}
	err = s.change(ctx, org, by, func(db.Tx) ([]Entry, error) {
		return []Entry{{"provider_key.test", target(provider, k.Name), map[string]any{"stored": k.version != 0}}}, nil
	})
	if err != nil {
		return KeyOnTrial{}, err
	}
	return k, nil
}

func (s *Service) keyOnTrial(ctx context.Context, org id.Org, provider, name string, given seal.Secret) (KeyOnTrial, error) {
	k := KeyOnTrial{Provider: provider, Name: name, Key: given}
	if err := checkProvider(provider); err != nil {
		return k, err
	}
	if name != "" {
		if err := checkKeyName(name); err != nil {
			return k, err
		}
	}
	if !given.Empty() {
		return k, checkProviderKey(given.Reveal())
	}
	all, err := s.openKeys(ctx, org)
	if err != nil {
		return k, err
	}
	keys := all.keys[provider]
	i := slices.IndexFunc(keys, func(o openedKey) bool { return name == "" || o.name == name })
	if i < 0 {
		return k, noKey(provider, name)
	}
	k.Name, k.Key, k.version = keys[i].name, keys[i].secret, keys[i].version
	return k, keys[i].err
}

// ProviderKeyPassed writes down, before it returns, that the provider took the key just now. A key that is not kept, or
// not any more, is passed over.
func (s *Service) ProviderKeyPassed(ctx context.Context, org id.Org, k KeyOnTrial) error {
	if k.version == 0 {
		return nil
	}
	return s.store.Write(ctx, org, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE provider_keys SET last_used_at = $5 WHERE org_id = $1 AND provider = $2 AND slot = $3 AND version = $4
			AND (last_used_at IS NULL OR last_used_at < $5)`, string(org), k.Provider, k.Name, k.version, db.At(tx.Dialect(), s.now()))
		return err
	})
}
