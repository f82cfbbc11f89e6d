package orgs

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// maxName is the longest name of an API key, in bytes.
const maxName = 200

// KeyInfo is what may be told of an API key.
type KeyInfo struct {
	ID        id.Key
	User      id.User
	Name      string
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	RevokedAt time.Time // zero: not
}

// CreateKey makes an API key for user and returns it, the only time it can be seen. A zero expires means never. Errors:
// fault.NotFound when the org has no such user, or only a disabled one; fault.Invalid.
func (s *Service) CreateKey(ctx context.Context, org id.Org, by Actor, user id.User, name string, expires time.Time) (seal.Secret, id.Key, error) {
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return seal.Secret{}, "", fault.New(fault.Invalid, "the name of a key is at most %d bytes of UTF-8", maxName).WithCode("invalid_name").WithParam("name")
	}
	if !expires.IsZero() && !expires.After(s.now()) {
		return seal.Secret{}, "", fault.New(fault.Invalid, "the key would be expired already").WithCode("invalid_expiry").WithParam("expires_at")
	}
	key := NewKey()
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) { return s.insertKey(ctx, tx, org, user, name, key, expires) })
	if err != nil {
		return seal.Secret{}, "", err
	}
	return key.Secret(), key.ID, nil
}

func (s *Service) insertKey(ctx context.Context, tx db.Tx, org id.Org, user id.User, name string, key APIKey, expires time.Time) ([]Entry, error) {
	var disabled db.Time
	err := tx.QueryRow(ctx, `SELECT disabled_at FROM users WHERE org_id = $1 AND user_id = $2`, []any{string(org), string(user)}, &disabled)
	if errors.Is(err, db.ErrNoRows) || err == nil && !disabled.IsZero() {
		return nil, fault.New(fault.NotFound, "there is no such user").WithCode("user_not_found")
	}
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO api_keys (org_id, key_id, user_id, name, hash, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		string(org), string(key.ID), string(user), name, key.mac(s.pepper), db.At(tx.Dialect(), expires))
	return []Entry{{"key.create", string(key.ID), map[string]any{"user_id": user, "name": name}}}, err
}

// RevokeKey ends a key: here at once, elsewhere as soon as the bus says so, and within KeyTTL in any case. Revoking it
// again changes nothing. Errors: fault.NotFound.
func (s *Service) RevokeKey(ctx context.Context, org id.Org, by Actor, key id.Key) error {
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		var revoked db.Time
		err := tx.QueryRow(ctx, `SELECT revoked_at FROM api_keys WHERE org_id = $1 AND key_id = $2`, []any{string(org), string(key)}, &revoked)
		switch {
		case errors.Is(err, db.ErrNoRows):
			return nil, fault.New(fault.NotFound, "there is no such API key").WithCode("key_not_found")
		case err != nil || !revoked.IsZero():
			return nil, err
		}
		_, err = tx.Exec(ctx, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1 AND key_id = $2`, string(org), string(key))
		return []Entry{{"key.delete", string(key), nil}}, err
	})
	s.tell(ctx, topicKeys, string(key), err)
	return err
}

// Keys returns what may be told of the org's keys, newest first.
func (s *Service) Keys(ctx context.Context, org id.Org) ([]KeyInfo, error) {
	var keys []KeyInfo
	err := s.store.Query(ctx, org, db.Query{
		SQL: `SELECT key_id, user_id, name, created_at, expires_at, revoked_at FROM api_keys WHERE org_id = $1
			ORDER BY created_at DESC, key_id`,
		Args: []any{string(org)},
		Each: func(r db.Row) error {
			var k KeyInfo
			var created, expires, revoked db.Time
			if err := r.Scan(&k.ID, &k.User, &k.Name, &created, &expires, &revoked); err != nil {
				return err
			}
			k.CreatedAt, k.ExpiresAt, k.RevokedAt = created.Time, expires.Time, revoked.Time
			keys = append(keys, k)
			return nil
		},
	})
	return keys, err
}
