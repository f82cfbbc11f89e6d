package orgs

import (
	"context"
	"slices"
	"strconv"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// providerKeys is what one org has, opened. It is never changed.
type providerKeys struct {
	keys map[string][]openedKey // by provider, the one to be used first in front
	has  map[string]bool
}

type openedKey struct {
	name     string
	priority int
	version  int
	secret   seal.Secret
	err      error // it does not open
}

// KeyName names one of an org's keys at a provider, and which version of it: each key that is put under a name is one.
type KeyName struct {
	Name    string
	Version int
}

// KeyNames returns the names of the org's keys for a provider, the one to be used first in front. One that does not open is
// among them.
func (s *Service) KeyNames(ctx context.Context, org id.Org, provider string) ([]KeyName, error) {
	all, err := s.opened(ctx, org)
	if err != nil {
		return nil, err
	}
	names := make([]KeyName, len(all.keys[provider]))
	for i, k := range all.keys[provider] {
		names[i] = KeyName{k.name, k.version}
	}
	return names, nil
}

// ProviderKey returns the org's key for a provider that is to be used first, to be used now: that is what LastUsedAt
// tells. One that does not open is not passed over for the next: somebody has to know. Errors: fault.Invalid,
// provider_key_missing; fault.Internal, provider_key_unreadable, when it is there and does not open; fault.Unavailable.
func (s *Service) ProviderKey(ctx context.Context, org id.Org, provider string) (seal.Secret, error) {
	return s.use(ctx, org, provider, func(openedKey) bool { return true })
}

// NamedKey is ProviderKey for the key of that name.
func (s *Service) NamedKey(ctx context.Context, org id.Org, provider, name string) (seal.Secret, error) {
	return s.use(ctx, org, provider, func(k openedKey) bool { return k.name == name })
}

// use returns the first key that is wanted.
func (s *Service) use(ctx context.Context, org id.Org, provider string, wanted func(openedKey) bool) (seal.Secret, error) {
	all, err := s.opened(ctx, org)
	if err != nil {
		return seal.Secret{}, err
	}
	for _, k := range all.keys[provider] {
		if !wanted(k) {
			continue
		}
		if k.err != nil {
			return seal.Secret{}, k.err
		}
		s.uses.note(use{org, provider, k.name}, s.now())
		return k.secret, nil
	}
	return seal.Secret{}, fault.New(fault.Invalid, "your organisation has no key for %s: an admin sets it with PUT /api/orgs/%s/providers/%s",
		provider, org, provider).WithCode("provider_key_missing").NoRetry()
}

// HasProviderKey tells for which providers the org has a key. A key that does not open counts: its calls must fail
// aloud, not go elsewhere. The map is shared and must not be changed.
func (s *Service) HasProviderKey(ctx context.Context, org id.Org) (map[string]bool, error) {
	all, err := s.opened(ctx, org)
	return all.has, err
}

// KeyInUse names the key that ProviderKey would return, without using it: another name once it is another key. "" when there
// is none.
func (s *Service) KeyInUse(ctx context.Context, org id.Org, provider string) (string, error) {
	all, err := s.opened(ctx, org)
	if err != nil || len(all.keys[provider]) == 0 {
		return "", err
	}
	first := all.keys[provider][0]
	return first.name + "/" + strconv.Itoa(first.version), nil
}

func (s *Service) opened(ctx context.Context, org id.Org) (providerKeys, error) {
	if all, ok := s.providers.hit(org); ok {
		return all, nil
	}
	return s.providers.load(ctx, org, func(ctx context.Context) (providerKeys, error) { return s.openKeys(ctx, org) })
}

// openKeys reads all keys of an org with the data keys that open them. It is one statement, so that it sees a rotation
// whole or not at all.
func (s *Service) openKeys(ctx context.Context, org id.Org) (providerKeys, error) {
	all := providerKeys{keys: map[string][]openedKey{}, has: map[string]bool{}}
	err := s.store.Query(ctx, org, db.Query{
		SQL:  sealedKeysSQL,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			row, dek, err := scanSealed(r)
			if err != nil {
				return err
			}
			key := openedKey{name: row.name, priority: row.priority, version: row.version}
			plain, err := s.openKey(org, row, dek)
			if err != nil {
				s.log.Error("a provider key does not open", "org", org, "provider", row.provider, "name", row.name, "version", row.version, "error", err)
				key.err = unreadable(err, "the key "+row.name+" for "+row.provider)
			} else {
				key.secret = seal.NewSecret(string(plain))
			}
			all.keys[row.provider], all.has[row.provider] = append(all.keys[row.provider], key), true
			return nil
		},
	})
	for _, keys := range all.keys {
		slices.SortFunc(keys, func(a, b openedKey) int { return inOrder(a.priority, b.priority, a.name, b.name) })
	}
	return all, err
}
