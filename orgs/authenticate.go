package orgs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// keyHash is the SHA-256 of an API key: what caches know it by.
type keyHash = [sha256.Size]byte

// known is a caller the store has vouched for.
type known struct {
	Caller
	expires time.Time // by this process's clock, which may be set meanwhile: what the store's own said was left; zero: never
}

// errNotOpen is a Service that was not opened: it knows no pepper and must let nobody in.
var errNotOpen = errors.New("orgs: the service is not open")

// Leave is asked before the store is asked for a key that it has not vouched for before. Its error refuses that, and is
// the answer; else settle is called with whether the key turned out to be bad. A store that says nothing tells neither.
type Leave func(key id.Key) (settle func(bad bool), err error)

// Authenticate says who shows this key. Errors: fault.Unauthorized, invalid_api_key, always worded alike;
// fault.Unavailable when the store is away and the key was not seen in the last 30 seconds.
func (s *Service) Authenticate(ctx context.Context, token string) (Caller, error) {
	return s.AuthenticateWith(ctx, token, nil)
}

// AuthenticateWith is Authenticate that guesses need leave for. Junk, what is remembered, and keys that were good when
// this process last looked need none. nil gives leave to all.
func (s *Service) AuthenticateWith(ctx context.Context, token string, leave Leave) (Caller, error) {
	key, err := ParseKey(token)
	if err != nil {
		return Caller{}, err
	}
	hash := key.sum()
	k, ok := s.callers.hit(hash)
	if !ok {
		if _, bad := s.refused.hit(hash); bad {
			return Caller{}, refused()
		}
		k, err = s.callers.load(ctx, hash, func(ctx context.Context) (known, error) { return s.askFor(ctx, key, hash, leave) })
		if fault.Is(err, fault.Unauthorized) {
			s.refused.put(hash, struct{}{})
			return Caller{}, refused()
		}
		if err != nil {
			return Caller{}, err
		}
	}
	if !k.expires.IsZero() && !s.now().Before(k.expires) {
		return Caller{}, refused()
	}
	return k.Caller, nil
}

// askFor is lookUp, with leave where that is needed. Of many requests that show one key at once, one comes here.
func (s *Service) askFor(ctx context.Context, key APIKey, hash keyHash, leave Leave) (known, error) {
	settle := func(bool) {}
	if leave != nil && !s.vouched.has(hash) {
		var err error
		if settle, err = leave(key.ID); err != nil {
			return known{}, err
		}
	}
	k, err := s.lookUp(ctx, key)
	bad := fault.Is(err, fault.Unauthorized)
	settle(bad)
	switch {
	case bad:
		s.vouched.forget(hash)
	case err == nil:
		s.vouched.put(hash, struct{}{})
	}
	return k, err
}

// lookUp asks the store: first whose key it is, for its org is not known yet, then, bound to that org, how it stands.
func (s *Service) lookUp(ctx context.Context, key APIKey) (known, error) {
	if len(s.pepper) == 0 {
		return known{}, errNotOpen
	}
	org, err := s.owner(ctx, key)
	if err != nil {
		return known{}, err
	}
	return s.standing(ctx, org, key.ID)
}

// standing asks the store whether a key of the org and its owner may still call, and as what.
func (s *Service) standing(ctx context.Context, org id.Org, key id.Key) (known, error) {
	k := known{Caller: Caller{Org: org, Key: key}}
	found, asked := false, s.now()
	err := s.store.Query(ctx, org, db.Query{
		SQL: `SELECT u.user_id, COALESCE(u.team_id, ''), CAST(u.role AS text), k.expires_at, now(), k.read_only, k.models, k.providers, k.on_unsupported, o.window_policy
			FROM api_keys k
			JOIN users u ON u.org_id = k.org_id AND u.user_id = k.user_id
			JOIN orgs o ON o.org_id = k.org_id
			WHERE k.org_id = $1 AND k.key_id = $2 AND k.revoked_at IS NULL AND k.disabled_at IS NULL
				AND u.disabled_at IS NULL AND u.deleted_at IS NULL AND o.disabled_at IS NULL AND o.deleted_at IS NULL`,
		Args: []any{string(org), string(key)},
		Each: func(r db.Row) error {
			var expires, now db.Time
			found = true
			err := r.Scan(&k.User, &k.Team, &k.Role, &expires, &now, &k.ReadOnly, (*nameList)(&k.Models), (*nameList)(&k.Providers), &k.OnUnsupported, &k.WindowPolicy)
			if k.Expiring = !expires.IsZero(); k.Expiring {
				k.expires = s.here(expires.Time, now.Time, asked)
			}
			return err
		},
	}, limitsOfKey(org, key, &k.Limits))
	if err != nil {
		return known{}, err
	}
	if !found {
		return known{}, refused()
	}
	return k, nil
}

// here is when it will be the store's time t by this process's clock, which was at asked when the store's was at now.
func (s *Service) here(t, now, asked time.Time) time.Time {
	if s.oneClock {
		return t
	}
	return asked.Add(t.Sub(now))
}

// owner returns the org whose key it is. A key's id is unique only in its org, so each row with it is compared; when
// there is none, a row of nobody is, the same way: an unknown id takes the time of a wrong secret.
func (s *Service) owner(ctx context.Context, key APIKey) (id.Org, error) {
	var c comparison
	mac := key.mac(s.pepper)
	err := s.store.Shown(ctx, key.ID, func(tx db.Tx) error {
		c = comparison{mac: mac}
		err := tx.Query(ctx, `SELECT org_id, hash FROM api_keys WHERE key_id = $1`, []any{string(key.ID)}, c.row)
		if err == nil && !c.done {
			err = c.row(nobody)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if c.org == "" {
		return "", refused()
	}
	return c.org, nil
}

// comparison compares what the store knows of a key's id with what the caller shows.
type comparison struct {
	mac  []byte
	org  id.Org // whose key it is; "" if nobody's
	done bool

	candidate id.Org
	hash      []byte
}

func (c *comparison) row(r db.Row) error {
	if err := r.Scan(&c.candidate, &c.hash); err != nil {
		return err
	}
	c.done = true
	if hmac.Equal(c.hash, c.mac) {
		c.org = c.candidate
	}
	return nil
}

// keyRow is such a row in memory.
type keyRow struct {
	org  id.Org
	hash []byte
}

// nobody is the row of an id that no key has. No key has its hash, and if one had, it would be of no org.
var nobody = &keyRow{hash: make([]byte, sha256.Size)}

// Scan is db.Row's.
func (r *keyRow) Scan(dest ...any) error {
	*dest[0].(*id.Org), *dest[1].(*[]byte) = r.org, r.hash
	return nil
}
