package orgs

import (
	"context"
	"errors"
	"strings"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

const (
	maxProvider    = 32
	maxProviderKey = 4 << 10
	maskFrom       = 20 // a shorter key is not shown in part: seven characters would be too much of it
)

// ProviderKeyStatus is what may be told of a provider key.
type ProviderKeyStatus struct {
	Provider   string
	Masked     string // "sk-…9aF2"
	Version    int    // grows with every put and delete
	CreatedAt  time.Time
	LastUsedAt time.Time // zero: not yet; of other processes, up to a minute late
}

// providerKeys is what one org has, opened. It is never changed.
type providerKeys struct {
	keys map[string]openedKey
	has  map[string]bool
}

type openedKey struct {
	secret seal.Secret
	err    error // it does not open
}

// PutProviderKey seals the org's key for a provider, in place of the one before. Errors: fault.Invalid, with the
// parameter; fault.NotFound when there is no such org.
func (s *Service) PutProviderKey(ctx context.Context, org id.Org, by Actor, provider string, key seal.Secret) (ProviderKeyStatus, error) {
	if err := checkProvider(provider); err != nil {
		return ProviderKeyStatus{}, err
	}
	plain := strings.TrimSpace(key.Reveal()) // pasted keys bring newlines
	if err := checkProviderKey(plain); err != nil {
		return ProviderKeyStatus{}, err
	}
	st := ProviderKeyStatus{Provider: provider, Masked: masked(plain)}
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		dek, err := s.sealingKey(ctx, tx, org)
		if err != nil {
			return nil, err
		}
		if st.Version, err = nextVersion(ctx, tx, org, provider); err != nil {
			return nil, err
		}
		sealed := dek.box.Seal([]byte(plain), keyBinding(org, provider, st.Version))
		var created db.Time
		err = tx.QueryRow(ctx, `INSERT INTO provider_keys (org_id, provider, version, dek_version, sealed, masked)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (org_id, provider, slot) DO UPDATE SET version = excluded.version, dek_version = excluded.dek_version,
				sealed = excluded.sealed, masked = excluded.masked, created_at = now(), last_used_at = NULL
			RETURNING created_at`,
			[]any{string(org), provider, st.Version, dek.version, sealed, st.Masked}, &created)
		st.CreatedAt = created.Time
		return []Entry{{"provider_key.put", provider, map[string]any{"masked": st.Masked, "version": st.Version}}}, err
	})
	s.tell(ctx, topicProviders, string(org), err)
	if err != nil {
		return ProviderKeyStatus{}, err
	}
	return st, nil
}

func nextVersion(ctx context.Context, tx db.Tx, org id.Org, provider string) (int, error) {
	var last int
	err := tx.QueryRow(ctx, `SELECT version FROM provider_keys WHERE org_id = $1 AND provider = $2`, []any{string(org), provider}, &last)
	if errors.Is(err, db.ErrNoRows) {
		return 1, nil
	}
	return last + 1, err
}

// DeleteProviderKey removes the sealed key. The row stays, empty, to count on: were versions to begin anew, a copy of
// the old seal put back by hand would open as the new key. Errors: fault.NotFound when there is none.
func (s *Service) DeleteProviderKey(ctx context.Context, org id.Org, by Actor, provider string) error {
	if err := checkProvider(provider); err != nil {
		return err
	}
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		n, err := tx.Exec(ctx, `UPDATE provider_keys SET version = version + 1, sealed = $3, masked = '', last_used_at = NULL
			WHERE org_id = $1 AND provider = $2 AND length(sealed) > 0`, string(org), provider, []byte{})
		if err == nil && n == 0 {
			return nil, fault.New(fault.NotFound, "the org has no key for %s", provider).WithCode("provider_key_missing")
		}
		return []Entry{{"provider_key.delete", provider, nil}}, err
	})
	s.tell(ctx, topicProviders, string(org), err)
	return err
}

// ProviderKeys returns what may be told of the org's provider keys, by provider.
func (s *Service) ProviderKeys(ctx context.Context, org id.Org) ([]ProviderKeyStatus, error) {
	var list []ProviderKeyStatus
	err := s.store.Query(ctx, org, db.Query{
		SQL: `SELECT provider, version, masked, created_at, last_used_at FROM provider_keys
			WHERE org_id = $1 AND length(sealed) > 0 ORDER BY provider`,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			var st ProviderKeyStatus
			var created, used db.Time
			if err := r.Scan(&st.Provider, &st.Version, &st.Masked, &created, &used); err != nil {
				return err
			}
			st.CreatedAt, st.LastUsedAt = created.Time, used.Time
			if here := s.uses.of(use{org, st.Provider}); here.After(st.LastUsedAt) && here.After(st.CreatedAt) {
				st.LastUsedAt = here
			}
			list = append(list, st)
			return nil
		},
	})
	return list, err
}

// ProviderKey returns the org's key for a provider, to be used now: that is what LastUsedAt tells. Errors:
// fault.Invalid, provider_key_missing; fault.Internal, provider_key_unreadable, when it is there and does not open;
// fault.Unavailable.
func (s *Service) ProviderKey(ctx context.Context, org id.Org, provider string) (seal.Secret, error) {
	all, err := s.opened(ctx, org)
	if err != nil {
		return seal.Secret{}, err
	}
	key, ok := all.keys[provider]
	if !ok {
		return seal.Secret{}, fault.New(fault.Invalid, "your organisation has no key for %s: an admin sets it with PUT /api/orgs/%s/providers/%s",
			provider, org, provider).WithCode("provider_key_missing").NoRetry()
	}
	if key.err != nil {
		return seal.Secret{}, key.err
	}
	s.uses.note(use{org, provider}, s.now())
	return key.secret, nil
}

// HasProviderKey tells for which providers the org has a key. A key that does not open counts: its calls must fail
// aloud, not go elsewhere. The map is shared and must not be changed.
func (s *Service) HasProviderKey(ctx context.Context, org id.Org) (map[string]bool, error) {
	all, err := s.opened(ctx, org)
	return all.has, err
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
	all := providerKeys{keys: map[string]openedKey{}, has: map[string]bool{}}
	err := s.store.Query(ctx, org, db.Query{
		SQL:  sealedKeysSQL,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			row, dek, err := scanSealed(r)
			if err != nil {
				return err
			}
			key := openedKey{}
			plain, err := s.openKey(org, row, dek)
			if err != nil {
				s.log.Error("a provider key does not open", "org", org, "provider", row.provider, "version", row.version, "error", err)
				key.err = unreadable(err, "the key for "+row.provider)
			} else {
				key.secret = seal.NewSecret(string(plain))
			}
			all.keys[row.provider], all.has[row.provider] = key, true
			return nil
		},
	})
	return all, err
}

// checkProvider takes what could be a provider; which there are is not this room's to know. The form keeps bindings
// unambiguous.
func checkProvider(provider string) error {
	ok := provider != "" && len(provider) <= maxProvider && provider[0] >= 'a' && provider[0] <= 'z'
	for i := range len(provider) {
		c := provider[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return fault.New(fault.Invalid, "there is no such provider").WithCode("provider_not_found").WithParam("provider")
	}
	return nil
}

// checkProviderKey takes what can stand in an HTTP header. The message tells nothing of the key.
func checkProviderKey(plain string) error {
	ok := plain != "" && len(plain) <= maxProviderKey
	for i := range len(plain) {
		ok = ok && plain[i] > ' ' && plain[i] < 0x7f
	}
	if !ok {
		return fault.New(fault.Invalid, "a provider key is 1 to %d visible ASCII characters, without spaces", maxProviderKey).
			WithCode("invalid_provider_key").WithParam("api_key")
	}
	return nil
}

func masked(plain string) string {
	if len(plain) < maskFrom {
		return "…"
	}
	return plain[:3] + "…" + plain[len(plain)-4:]
}
