package orgs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// KeyInfo is what may be told of an API key.
type KeyInfo struct {
	ID         id.Key
	User       id.User
	Name       string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	DisabledAt time.Time // zero: not
	RevokedAt  time.Time // zero: not
	ReadOnly   bool
	Models     []string // patterns; empty: all
	Providers  []string // empty: all

	OnUnsupported string // see KeySpec
}

const keysSQL = `SELECT key_id, user_id, name, created_at, expires_at, disabled_at, revoked_at, read_only, models, providers, on_unsupported FROM api_keys
	WHERE org_id = $1`

func scanKey(r db.Row) (k KeyInfo, err error) {
	var created, expires, disabled, revoked db.Time
	var models, providers nameList
	err = r.Scan(&k.ID, &k.User, &k.Name, &created, &expires, &disabled, &revoked, &k.ReadOnly, &models, &providers, &k.OnUnsupported)
	k.CreatedAt, k.ExpiresAt, k.DisabledAt, k.RevokedAt = created.Time, expires.Time, disabled.Time, revoked.Time
	k.Models, k.Providers = models, providers
	return k, err
}

// nameList is a list of names, in a column of text as JSON.
type nameList []string

// Scan reads what String wrote; an empty list is nil.
func (l *nameList) Scan(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("orgs: a list of names cannot be read from %T", v)
	}
	if text == "[]" {
		*l = nil
		return nil
	}
	return json.Unmarshal([]byte(text), (*[]string)(l))
}

func (l nameList) String() string {
	if len(l) == 0 {
		return "[]"
	}
	b, _ := json.Marshal([]string(l)) // strings always can be
	return string(b)
}

// Keys returns up to limit of the org's API keys, newest first, also those that are no good any more; those of user
// alone, unless user is "".
func (s *Service) Keys(ctx context.Context, org id.Org, user id.User, after Cursor, limit int) ([]KeyInfo, error) {
	return listed(ctx, s, org, after, limit, keysSQL+` AND ($2 = '' OR user_id = $2)`, "key_id", []any{string(user)}, scanKey)
}

// Key returns one of the org's API keys. Errors: fault.NotFound, key_not_found.
func (s *Service) Key(ctx context.Context, org id.Org, key id.Key) (KeyInfo, error) {
	return single(ctx, s, org, NoKey(), keysSQL+` AND key_id = $2`, string(key), scanKey)
}

// NoKey is an API key that is not there, or not for the one who asks.
func NoKey() *fault.Error {
	return fault.New(fault.NotFound, "there is no such API key").WithCode("key_not_found")
}

func keyIn(ctx context.Context, tx db.Tx, org id.Org, key id.Key) (KeyInfo, error) {
	return singleIn(ctx, tx, org, NoKey(), keysSQL+` AND key_id = $2`, string(key), scanKey)
}

// KeySpec is an API key to be made. User is needed.
type KeySpec struct {
	User      id.User
	Name      string
	Expires   time.Time // zero: never
	ReadOnly  bool      // good for reading alone, whatever its user's role
	Models    []string  // patterns of models it is good for, * in them is anything; empty: all
	Providers []string  // those it is good for; empty: all

	OnUnsupported string // what becomes of what a provider cannot be told: "drop" or "reject"; "": as the route says
}

const (
	maxPatterns = 64
	maxPattern  = 256 // bytes
)

// checkPatterns takes patterns that could match a model's name.
func checkPatterns(patterns []string) error {
	ok := len(patterns) <= maxPatterns
	for _, p := range patterns {
		ok = ok && p != "" && len(p) <= maxPattern
		for i := range len(p) {
			ok = ok && p[i] > ' ' && p[i] < 0x7f
		}
	}
	if !ok {
		return fault.New(fault.Invalid, "models are at most %d names of 1 to %d visible ASCII characters, like openai/* or gpt-5*", maxPatterns, maxPattern).
			WithCode("invalid_models").WithParam("models")
	}
	return nil
}

func checkProviders(names []string) error {
	for _, p := range names {
		if err := checkProvider(p); err != nil || len(names) > maxPatterns {
			return fault.New(fault.Invalid, "providers are names of providers").WithCode("invalid_providers").WithParam("providers")
		}
	}
	return nil
}

func checkOnUnsupported(word string) error {
	switch word {
	case "", "drop", "reject":
		return nil
	}
	return fault.New(fault.Invalid, "on_unsupported is \"drop\", \"reject\" or null").WithCode("invalid_value").WithParam("on_unsupported")
}

// lastExpiry is the last year a key may end in: stores keep no time beyond 2262.
const lastExpiry = 2200

func (s *Service) checkExpiry(at time.Time) error {
	bad := func(why string) error {
		return fault.New(fault.Invalid, "%s", why).WithCode("invalid_expiry").WithParam("expires_at")
	}
	switch {
	case at.IsZero():
		return nil
	case !at.After(s.now()):
		return bad("the key would be expired already")
	case at.Year() > lastExpiry:
		return bad("a key that is to last for so long needs no end")
	}
	return nil
}

// MadeKey is a new API key, with the key itself.
type MadeKey struct {
	KeyInfo
	Secret seal.Secret
}

// CreateKey makes an API key and returns it, the only time it can be seen. Errors: fault.NotFound, user_not_found, when
// the org has no such user, or only a disabled one; fault.Invalid.
func (s *Service) CreateKey(ctx context.Context, org id.Org, by Actor, spec KeySpec, then ...Then[MadeKey]) (seal.Secret, KeyInfo, error) {
	err := cmp.Or(checkName(spec.Name), s.checkExpiry(spec.Expires), checkPatterns(spec.Models), checkProviders(spec.Providers), checkOnUnsupported(spec.OnUnsupported))
	if err != nil {
		return seal.Secret{}, KeyInfo{}, err
	}
	spec.Expires = spec.Expires.Truncate(time.Microsecond) // what both stores keep
	key := NewKey()
	var info KeyInfo
	err = s.change(ctx, org, by, func(tx db.Tx) (entries []Entry, err error) {
		info, entries, err = s.insertKey(ctx, tx, org, key, spec)
		if err == nil {
			err = after(tx, MadeKey{info, key.Secret()}, then)
		}
		return entries, err
	})
	if err != nil {
		return seal.Secret{}, KeyInfo{}, err
	}
	return key.Secret(), info, nil
}

// insertKey adds a key to an org that is held.
func (s *Service) insertKey(ctx context.Context, tx db.Tx, org id.Org, key APIKey, spec KeySpec) (KeyInfo, []Entry, error) {
	u, err := userIn(ctx, tx, org, spec.User)
	if err == nil && !u.active() {
		err = NoUser()
	}
	if err != nil {
		return KeyInfo{}, nil, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO api_keys (org_id, key_id, user_id, name, hash, expires_at, read_only, models, providers, on_unsupported)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		string(org), string(key.ID), string(u.ID), spec.Name, key.mac(s.pepper), db.At(tx.Dialect(), spec.Expires),
		spec.ReadOnly, nameList(spec.Models).String(), nameList(spec.Providers).String(), spec.OnUnsupported)
	if err != nil {
		return KeyInfo{}, nil, err
	}
	info, err := keyIn(ctx, tx, org, key.ID)
	_, news := KeyChange{
		Name: &spec.Name, Expires: &spec.Expires, ReadOnly: &spec.ReadOnly, Models: &spec.Models, Providers: &spec.Providers,
		OnUnsupported: &spec.OnUnsupported,
	}.to(KeyInfo{}, time.Time{})
	news["user_id"] = u.ID
	return info, []Entry{{"key.create", string(key.ID), news}}, err
}

// KeyChange is what UpdateKey sets; what is nil stays.
type KeyChange struct {
	Name      *string
	Expires   *time.Time // to zero: never
	ReadOnly  *bool
	Models    *[]string
	Providers *[]string
	Disabled  *bool // unlike a revoked key a disabled one can come back

	OnUnsupported *string // "": as the route says
}

// to returns k as the change makes it, and what of it is new.
func (c KeyChange) to(k KeyInfo, now time.Time) (KeyInfo, map[string]any) {
	news := map[string]any{}
	if c.Name != nil && *c.Name != k.Name {
		k.Name, news["name"] = *c.Name, *c.Name
	}
	if c.Expires != nil && !c.Expires.Equal(k.ExpiresAt) {
		k.ExpiresAt, news["expires_at"] = *c.Expires, nil
		if !c.Expires.IsZero() {
			news["expires_at"] = c.Expires.UTC()
		}
	}
	if c.ReadOnly != nil && *c.ReadOnly != k.ReadOnly {
		k.ReadOnly, news["read_only"] = *c.ReadOnly, *c.ReadOnly
	}
	if c.Models != nil && !slices.Equal(*c.Models, k.Models) {
		k.Models, news["models"] = *c.Models, *c.Models
	}
	if c.Providers != nil && !slices.Equal(*c.Providers, k.Providers) {
		k.Providers, news["providers"] = *c.Providers, *c.Providers
	}
	if c.OnUnsupported != nil && *c.OnUnsupported != k.OnUnsupported {
		k.OnUnsupported, news["on_unsupported"] = *c.OnUnsupported, *c.OnUnsupported
	}
	if c.Disabled != nil && *c.Disabled == k.DisabledAt.IsZero() {
		k.DisabledAt, news["disabled"] = time.Time{}, *c.Disabled
		if *c.Disabled {
			k.DisabledAt = now
		}
	}
	return k, news
}

func (s *Service) checkKeyChange(c KeyChange) error {
	var errs []error
	if c.Name != nil {
		errs = append(errs, checkName(*c.Name))
	}
	if c.Expires != nil {
		errs = append(errs, s.checkExpiry(*c.Expires))
	}
	if c.Models != nil {
		errs = append(errs, checkPatterns(*c.Models))
	}
	if c.Providers != nil {
		errs = append(errs, checkProviders(*c.Providers))
	}
	if c.OnUnsupported != nil {
		errs = append(errs, checkOnUnsupported(*c.OnUnsupported))
	}
	return cmp.Or(errs...)
}

// UpdateKey changes a key. One that is disabled is refused at once, as with RevokeKey. Errors: fault.Invalid;
// fault.NotFound, key_not_found; fault.Conflict, key_revoked.
func (s *Service) UpdateKey(ctx context.Context, org id.Org, by Actor, key id.Key, c KeyChange) (KeyInfo, error) {
	if err := s.checkKeyChange(c); err != nil {
		return KeyInfo{}, err
	}
	if c.Expires != nil {
		end := c.Expires.Truncate(time.Microsecond)
		c.Expires = &end
	}
	var k KeyInfo
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		was, err := keyIn(ctx, tx, org, key)
		switch {
		case err != nil:
			return nil, err
		case !was.RevokedAt.IsZero():
			return nil, fault.New(fault.Conflict, "the API key is revoked for good").WithCode("key_revoked")
		}
		var news map[string]any
		if k, news = c.to(was, s.now()); len(news) == 0 {
			return nil, nil
		}
		_, err = tx.Exec(ctx, `UPDATE api_keys SET name = $3, expires_at = $4, disabled_at = $5, read_only = $6, models = $7, providers = $8,
			on_unsupported = $9 WHERE org_id = $1 AND key_id = $2`,
			string(org), string(key), k.Name, db.At(tx.Dialect(), k.ExpiresAt), db.At(tx.Dialect(), k.DisabledAt),
			k.ReadOnly, nameList(k.Models).String(), nameList(k.Providers).String(), k.OnUnsupported)
		return []Entry{{"key.update", string(key), news}}, err
	})
	s.tell(ctx, topicKeys, string(key), err)
	return k, err
}

// RevokeKey ends a key for good: here at once, elsewhere as soon as the bus says so, and within KeyTTL in any case.
// Revoking it again changes nothing. Errors: fault.NotFound, key_not_found.
func (s *Service) RevokeKey(ctx context.Context, org id.Org, by Actor, key id.Key) error {
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		k, err := keyIn(ctx, tx, org, key)
		if err != nil || !k.RevokedAt.IsZero() {
			return nil, err
		}
		_, err = tx.Exec(ctx, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1 AND key_id = $2`, string(org), string(key))
		return []Entry{{"key.delete", string(key), nil}}, err
	})
	s.tell(ctx, topicKeys, string(key), err)
	return err
}
