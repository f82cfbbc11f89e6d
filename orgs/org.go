package orgs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

const (
	maxOrgName  = 200 // bytes
	maxSlug     = 40
	defaultTier = "trial"
	defaultSeat = 10
)

// OrgID returns the id of the org named name, the same each time: org_<name> when the name could be an id, else a
// readable part and a piece of the name's hash.
func OrgID(name string) id.Org {
	slug := slugOf(name)
	if name != "" && slug == name {
		return id.Org("org_" + name)
	}
	sum := sha256.Sum256([]byte(name))
	tail := hex.EncodeToString(sum[:4])
	if slug = strings.Trim(slug, "_"); slug == "" {
		return id.Org("org_" + tail)
	}
	return id.Org("org_" + slug + "_" + tail)
}

// slugOf keeps what may stand in an id, puts _ for each character that may not, and cuts.
func slugOf(name string) string {
	slug := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(name))
	return slug[:min(len(slug), maxSlug)]
}

// holdOrg lets one transaction at a time change what hangs together in an org: seats, data keys, provider keys. An
// update that changes nothing is a lock both stores know; it stops no insert of a call. Errors: fault.NotFound.
func holdOrg(ctx context.Context, tx db.Tx, org id.Org) error {
	n, err := tx.Exec(ctx, `UPDATE orgs SET name = name WHERE org_id = $1 AND deleted_at IS NULL`, string(org))
	if err == nil && n == 0 {
		return noOrg()
	}
	return err
}

// noOrg is an org that is not there, or not any more.
func noOrg() *fault.Error {
	return fault.New(fault.NotFound, "there is no such org").WithCode("org_not_found")
}

// OrgInfo is what may be told of an org.
type OrgInfo struct {
	ID           id.Org
	Name         string
	Tier         string
	Seats        int    // most active users
	WindowPolicy string // of a history that does not fit a model's window: WindowCut or WindowRefuse
	CreatedAt    time.Time
}

// The window policies.
const (
	WindowCut    = "cut"    // the oldest is left out
	WindowRefuse = "refuse" // the call is refused
)

// Org returns an org. Errors: fault.NotFound, org_not_found.
func (s *Service) Org(ctx context.Context, org id.Org) (o OrgInfo, err error) {
	err = s.store.Read(ctx, org, func(tx db.Tx) error {
		o, err = orgIn(ctx, tx, org)
		return err
	})
	return o, err
}

func orgIn(ctx context.Context, tx db.Tx, org id.Org) (OrgInfo, error) {
	o := OrgInfo{ID: org}
	var created db.Time
	err := tx.QueryRow(ctx, `SELECT name, tier, seats, window_policy, created_at FROM orgs WHERE org_id = $1 AND deleted_at IS NULL`,
		[]any{string(org)}, &o.Name, &o.Tier, &o.Seats, &o.WindowPolicy, &created)
	if errors.Is(err, db.ErrNoRows) {
		err = noOrg()
	}
	o.CreatedAt = created.Time
	return o, err
}

// OrgSpec is an org to be made, with its first admin. Name and Email are needed.
type OrgSpec struct {
	Name     string
	Email    string // of the admin
	UserName string
}

// Founded is a new org.
type Founded struct {
	Org    OrgInfo
	User   UserInfo // its admin
	Key    KeyInfo
	APIKey seal.Secret // the only time it can be seen
}

// CreateOrg makes an org of the first tier, with an admin and a key for it. Its id tells nothing of its name: other orgs
// may have the same. by is of the org asking, and stands in the log of the new one. That it was asked for is written down
// in the log of the org asking before, whatever becomes of it. Errors: fault.Invalid; fault.NotFound, org_not_found, of
// the org asking.
func (s *Service) CreateOrg(ctx context.Context, asking id.Org, by Actor, spec OrgSpec) (Founded, error) {
	name, err := cleanOrgName(spec.Name, "name")
	if err != nil {
		return Founded{}, err
	}
	user, err := UserSpec{Email: spec.Email, Name: spec.UserName, Role: Admin}.clean()
	if err != nil {
		return Founded{}, err
	}
	org, key := id.NewOrg(), NewKey()
	err = s.change(ctx, asking, by, func(db.Tx) ([]Entry, error) {
		return []Entry{{"org.create", string(org), map[string]any{"name": name}}}, nil
	})
	if err != nil {
		return Founded{}, err
	}
	var out Founded
	insert := func(tx db.Tx) error {
		_, err := insertOrg(ctx, tx, org, SeedSpec{Org: name})
		return err
	}
	err = s.found(ctx, org, by, insert, func(tx db.Tx) ([]Entry, error) {
		o, err := orgIn(ctx, tx, org)
		if err != nil {
			return nil, err
		}
		admin, users, err := insertUser(ctx, tx, org, user)
		if err != nil {
			return nil, err
		}
		info, keys, err := s.insertKey(ctx, tx, org, key, KeySpec{User: admin.ID})
		out = Founded{o, admin, info, key.Secret()}
		made := Entry{"org.create", string(org), map[string]any{"name": name, "tier": o.Tier, "seats": o.Seats}}
		return slices.Concat([]Entry{made}, users, keys), err
	})
	if err != nil {
		return Founded{}, err
	}
	return out, nil
}

// OrgChange is what UpdateOrg sets; what is nil stays.
type OrgChange struct {
	Name         *string
	WindowPolicy *string
}

// UpdateOrg changes an org. Errors: fault.Invalid; fault.NotFound, org_not_found.
func (s *Service) UpdateOrg(ctx context.Context, org id.Org, by Actor, c OrgChange) (OrgInfo, error) {
	if c.Name != nil {
		name, err := cleanOrgName(*c.Name, "name")
		if err != nil {
			return OrgInfo{}, err
		}
		c.Name = &name
	}
	if p := c.WindowPolicy; p != nil && *p != WindowCut && *p != WindowRefuse {
		return OrgInfo{}, fault.New(fault.Invalid, "window_policy is %q or %q", WindowCut, WindowRefuse).
			WithCode("invalid_window_policy").WithParam("window_policy")
	}
	var o OrgInfo
	err := s.change(ctx, org, by, func(tx db.Tx) (_ []Entry, err error) {
		if o, err = orgIn(ctx, tx, org); err != nil {
			return nil, err
		}
		news := map[string]any{}
		if c.Name != nil && *c.Name != o.Name {
			o.Name, news["name"] = *c.Name, *c.Name
		}
		if c.WindowPolicy != nil && *c.WindowPolicy != o.WindowPolicy {
			o.WindowPolicy, news["window_policy"] = *c.WindowPolicy, *c.WindowPolicy
		}
		if len(news) == 0 {
			return nil, nil
		}
		_, err = tx.Exec(ctx, `UPDATE orgs SET name = $2, window_policy = $3 WHERE org_id = $1`, string(org), o.Name, o.WindowPolicy)
		return []Entry{{"org.update", string(org), news}}, err
	})
	s.tell(ctx, topicPeople, string(org), err) // callers carry the policy
	return o, err
}

// DeleteOrg shuts an org for good: nobody of it may call, and its provider keys are gone with what opened them. The rest
// stays, its log too. Errors: fault.NotFound, org_not_found.
func (s *Service) DeleteOrg(ctx context.Context, org id.Org, by Actor) error {
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		wiped, err := tx.Exec(ctx, `DELETE FROM provider_keys WHERE org_id = $1`, string(org))
		if err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM org_keys WHERE org_id = $1`, string(org)); err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, `UPDATE orgs SET disabled_at = COALESCE(disabled_at, now()), deleted_at = now() WHERE org_id = $1`, string(org))
		return []Entry{{"org.delete", string(org), map[string]any{"provider_keys": wiped}}}, err
	})
	s.tell(ctx, topicPeople, string(org), err)
	s.tell(ctx, topicProviders, string(org), err)
	return err
}

// cleanOrgName returns name trimmed.
func cleanOrgName(name, param string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || len(name) > maxOrgName || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return "", fault.New(fault.Invalid, "the name of an org is 1 to %d bytes of UTF-8", maxOrgName).WithCode("invalid_name").WithParam(param)
	}
	return name, nil
}
