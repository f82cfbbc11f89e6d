package orgs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/openai"
)

const (
	maxProvider    = 32
	maxProviderKey = 4 << 10
	maxKeyName     = 64
	maxPriority    = 1000
	maxKeys        = 16 // of one org at one provider
	maskFrom       = 20 // a shorter key is not shown in part: seven characters would be too much of it
)

// DefaultKey is the name of a provider key that was given none.
const DefaultKey = "default"

// ProviderKeyStatus is what may be told of a provider key.
type ProviderKeyStatus struct {
	Provider   string
	Name       string // tells the provider's keys apart
	Priority   int    // the key with the lowest is used first; of several, the first by name
	Masked     string // "sk-…9aF2"
	Version    int    // grows with every put and delete of a key of this name
	CreatedAt  time.Time
	LastUsedAt time.Time // zero: not yet; of other processes, up to a minute late
}

// ProviderKeySpec is what PutProviderKey is to set.
type ProviderKeySpec struct {
	Provider string
	Name     string      // "": DefaultKey
	Key      seal.Secret // empty: the key that is there stays, and only its priority is set
	Priority *int        // 0 to 1000; nil: as it was, and 0 for a key that was not there
}

// clean returns the spec with its defaults and without what was pasted around the key. Errors: fault.Invalid, with the
// parameter.
func (spec ProviderKeySpec) clean() (ProviderKeySpec, error) {
	if spec.Name == "" {
		spec.Name = DefaultKey
	}
	if err := checkProvider(spec.Provider); err != nil {
		return spec, err
	}
	if err := checkKeyName(spec.Name); err != nil {
		return spec, err
	}
	if p := spec.Priority; p != nil && (*p < 0 || *p > maxPriority) {
		return spec, fault.New(fault.Invalid, "priority is a number from 0, which is used first, to %d", maxPriority).
			WithCode("invalid_priority").WithParam("priority")
	}
	if spec.Key.Empty() && spec.Priority != nil {
		return spec, nil
	}
	plain := strings.TrimSpace(spec.Key.Reveal()) // pasted keys bring newlines
	spec.Key = seal.NewSecret(plain)
	return spec, checkProviderKey(plain)
}

// PutProviderKey seals one of the org's keys for a provider, in place of the one of that name before, or sets only the
// priority of the one that is there. Errors: fault.Invalid, with the parameter; fault.NotFound when there is no such org,
// and, provider_key_missing, when there is no key whose priority could be set; fault.Conflict, provider_keys_full.
func (s *Service) PutProviderKey(ctx context.Context, org id.Org, by Actor, spec ProviderKeySpec) (ProviderKeyStatus, error) {
	spec, err := spec.clean()
	if err != nil {
		return ProviderKeyStatus{}, err
	}
	var st ProviderKeyStatus
	err = s.change(ctx, org, by, func(tx db.Tx) (_ []Entry, err error) {
		detail := map[string]any{}
		if spec.Key.Empty() {
			st, err = setPriority(ctx, tx, org, spec)
		} else {
			st, err = s.putKey(ctx, tx, org, spec)
			detail["version"] = st.Version
		}
		detail["priority"] = st.Priority
		return []Entry{{"provider_key.put", target(st.Provider, st.Name), detail}}, err
	})
	s.tell(ctx, topicProviders, string(org), err)
	if err != nil {
		return ProviderKeyStatus{}, err
	}
	return s.withUse(org, st), nil
}

// target is what the audit log calls a provider key.
func target(provider, name string) string {
	if name == "" {
		return provider
	}
	return provider + "/" + name
}

func setPriority(ctx context.Context, tx db.Tx, org id.Org, spec ProviderKeySpec) (ProviderKeyStatus, error) {
	st := ProviderKeyStatus{Provider: spec.Provider, Name: spec.Name, Priority: *spec.Priority}
	var created, used db.Time
	err := tx.QueryRow(ctx, `UPDATE provider_keys SET priority = $4 WHERE org_id = $1 AND provider = $2 AND slot = $3 AND length(sealed) > 0
		RETURNING version, masked, created_at, last_used_at`,
		[]any{string(org), spec.Provider, spec.Name, st.Priority}, &st.Version, &st.Masked, &created, &used)
	if errors.Is(err, db.ErrNoRows) {
		err = noKey(spec.Provider, spec.Name)
	}
	st.CreatedAt, st.LastUsedAt = created.Time, used.Time
	return st, err
}

func (s *Service) putKey(ctx context.Context, tx db.Tx, org id.Org, spec ProviderKeySpec) (ProviderKeyStatus, error) {
	plain := spec.Key.Reveal()
	st := ProviderKeyStatus{Provider: spec.Provider, Name: spec.Name, Masked: masked(plain)}
	dek, err := s.sealingKey(ctx, tx, org)
	if err != nil {
		return st, err
	}
	last, priority, err := place(ctx, tx, org, spec)
	if err != nil {
		return st, err
	}
	if st.Version, st.Priority = last+1, priority; spec.Priority != nil {
		st.Priority = *spec.Priority
	}
	sealed := dek.box.Seal([]byte(plain), keyBinding(org, spec.Provider, spec.Name, st.Version))
	var created db.Time
	err = tx.QueryRow(ctx, `INSERT INTO provider_keys (org_id, provider, slot, priority, version, dek_version, sealed, masked)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (org_id, provider, slot) DO UPDATE SET version = excluded.version, dek_version = excluded.dek_version,
			sealed = excluded.sealed, masked = excluded.masked, priority = excluded.priority, created_at = now(), last_used_at = NULL
		RETURNING created_at`,
		[]any{string(org), spec.Provider, spec.Name, st.Priority, st.Version, dek.version, sealed, st.Masked}, &created)
	st.CreatedAt = created.Time
	return st, err
}

// place returns the last version of a key by that name and the priority it has, 0 and 0 if there was none. Errors:
// fault.Conflict when it would be one too many.
func place(ctx context.Context, tx db.Tx, org id.Org, spec ProviderKeySpec) (version, priority int, err error) {
	var size int
	err = tx.QueryRow(ctx, `SELECT version, priority, length(sealed) FROM provider_keys WHERE org_id = $1 AND provider = $2 AND slot = $3`,
		[]any{string(org), spec.Provider, spec.Name}, &version, &priority, &size)
	if err != nil && !errors.Is(err, db.ErrNoRows) || size > 0 {
		return version, priority, err
	}
	var n int
	err = tx.QueryRow(ctx, `SELECT count(*) FROM provider_keys WHERE org_id = $1 AND provider = $2 AND length(sealed) > 0`,
		[]any{string(org), spec.Provider}, &n)
	if err == nil && n >= maxKeys {
		err = fault.New(fault.Conflict, "the org has %d keys for %s, which is as many as there may be", n, spec.Provider).WithCode("provider_keys_full")
	}
	return version, 0, err
}

// DeleteProviderKey removes the sealed key of that name; all keys for the provider when name is empty. The rows stay,
// empty, to count on: were versions to begin anew, a copy of an old seal put back by hand would open as the new key.
// Errors: fault.NotFound when there is none.
func (s *Service) DeleteProviderKey(ctx context.Context, org id.Org, by Actor, provider, name string) error {
	if err := checkProvider(provider); err != nil {
		return err
	}
	if name != "" {
		if err := checkKeyName(name); err != nil {
			return err
		}
	}
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		gone, err := deleteKeys(ctx, tx, org, provider, name)
		if err == nil && len(gone) == 0 {
			err = noKey(provider, name)
		}
		var entries []Entry
		for _, name := range gone {
			entries = append(entries, Entry{"provider_key.delete", target(provider, name), nil})
		}
		return entries, err
	})
	s.tell(ctx, topicProviders, string(org), err)
	return err
}

// deleteKeys returns the names of the keys it removed.
func deleteKeys(ctx context.Context, tx db.Tx, org id.Org, provider, name string) (gone []string, err error) {
	err = tx.Query(ctx, `UPDATE provider_keys SET version = version + 1, sealed = $4, masked = '', priority = 0, last_used_at = NULL
		WHERE org_id = $1 AND provider = $2 AND length(sealed) > 0 AND (slot = $3 OR $3 = '') RETURNING slot`,
		[]any{string(org), provider, name, []byte{}}, func(r db.Row) error {
			var slot string
			err := r.Scan(&slot)
			gone = append(gone, slot)
			return err
		})
	slices.Sort(gone)
	return gone, err
}

func noKey(provider, name string) error {
	what := "the org has no key for " + provider
	if name != "" {
		what += " by the name " + name
	}
	return fault.New(fault.NotFound, "%s", what).WithCode("provider_key_missing")
}

// ProviderKeys returns what may be told of the org's provider keys, by provider and in the order in which they are used.
func (s *Service) ProviderKeys(ctx context.Context, org id.Org) ([]ProviderKeyStatus, error) {
	var list []ProviderKeyStatus
	err := s.store.Query(ctx, org, db.Query{
		SQL: `SELECT provider, slot, priority, version, masked, created_at, last_used_at FROM provider_keys
			WHERE org_id = $1 AND length(sealed) > 0`,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			var st ProviderKeyStatus
			var created, used db.Time
			if err := r.Scan(&st.Provider, &st.Name, &st.Priority, &st.Version, &st.Masked, &created, &used); err != nil {
				return err
			}
			st.CreatedAt, st.LastUsedAt = created.Time, used.Time
			list = append(list, s.withUse(org, st))
			return nil
		},
	})
	// Not in SQL: how a database compares names depends on how it was set up.
	slices.SortFunc(list, func(a, b ProviderKeyStatus) int {
		return cmp.Or(strings.Compare(a.Provider, b.Provider), inOrder(a.Priority, b.Priority, a.Name, b.Name))
	})
	return list, err
}

// inOrder compares two keys of one provider: which is used first.
func inOrder(priorityA, priorityB int, nameA, nameB string) int {
	return cmp.Or(cmp.Compare(priorityA, priorityB), strings.Compare(nameA, nameB))
}

// withUse is st with a use that is not yet written down.
func (s *Service) withUse(org id.Org, st ProviderKeyStatus) ProviderKeyStatus {
	if here := s.uses.of(use{org, st.Provider, st.Name}); here.After(st.LastUsedAt) && here.After(st.CreatedAt) {
		st.LastUsedAt = here
	}
	return st
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

// checkKeyName takes what a key may be called. The form keeps bindings unambiguous. A name is shown and kept as it is: a
// key in its place must not be.
func checkKeyName(name string) error {
	ok := name != "" && len(name) <= maxKeyName
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if !ok {
		return badName("is 1 to %d letters, digits, dots, dashes and underscores", maxKeyName)
	}
	if openai.Scrub(name) != name {
		return badName("must not look like a key")
	}
	return nil
}

func badName(format string, args ...any) error {
	return fault.New(fault.Invalid, "the name of a key "+format, args...).WithCode("invalid_key_name").WithParam("name")
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
