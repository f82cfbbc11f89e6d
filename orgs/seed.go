package orgs

import (
	"context"
	"errors"
	"slices"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// SeedSpec is what Seed makes sure of. Org and Email are needed.
type SeedSpec struct {
	Org   string // its name
	Email string
	Role  Role   // "": as it is; member for a new user
	Tier  string // "": as it is; trial for a new org
	Seats int    // 0: as it is; 10 for a new org
}

// Seeded is what Seed found or made.
type Seeded struct {
	Org     id.Org
	User    id.User
	Key     id.Key
	APIKey  seal.Secret
	NewOrg  bool
	NewUser bool
	RoleWas Role // set when an existing user's role was changed
}

// Seed makes sure that there is such an org and such a user in it, and makes a key for the user. It is the operator's
// tool and asks nobody's leave: what the spec names is set also on an org or a user that exists, its role too; what it
// leaves empty stays. Errors: fault.Invalid; fault.Conflict when the org has no seat left (seats_full), when it or the
// user is disabled, or when another name has the same id.
func (s *Service) Seed(ctx context.Context, spec SeedSpec) (Seeded, error) {
	if len(s.pepper) == 0 {
		return Seeded{}, errNotOpen
	}
	spec, err := spec.clean()
	if err != nil {
		return Seeded{}, err
	}
	key := NewKey()
	var out Seeded
	insert := func(tx db.Tx) error {
		out = Seeded{Org: OrgID(spec.Org), Key: key.ID, APIKey: key.Secret()} // anew for each try
		out.NewOrg, err = insertOrg(ctx, tx, out.Org, spec)
		return err
	}
	err = s.found(ctx, OrgID(spec.Org), Actor{}, insert, func(tx db.Tx) ([]Entry, error) {
		org, err := seedOrg(ctx, tx, spec, &out)
		if err != nil {
			return nil, err
		}
		user, err := seedUser(ctx, tx, spec, &out)
		if err != nil {
			return nil, err
		}
		_, made, err := s.insertKey(ctx, tx, out.Org, key, KeySpec{User: out.User, Name: "seed"})
		return slices.Concat(org, user, made), err
	})
	if fault.HasCode(err, "org_not_found") {
		err = fault.New(fault.Conflict, "the org %s was deleted: choose another name", OrgID(spec.Org)).WithCode("org_deleted")
	}
	if out.RoleWas != "" {
		s.tell(ctx, topicPeople, string(out.Org), err)
	}
	if err != nil {
		return Seeded{}, err
	}
	return out, nil
}

func (spec SeedSpec) clean() (SeedSpec, error) {
	var err error
	if spec.Org, err = cleanOrgName(spec.Org, "org"); err != nil {
		return spec, err
	}
	if spec.Role != "" {
		if err := checkRole(spec.Role); err != nil {
			return spec, err
		}
	}
	if spec.Seats < 0 || spec.Seats > 1<<20 {
		return spec, fault.New(fault.Invalid, "an org has 1 to %d seats", 1<<20).WithCode("invalid_seats").WithParam("seats")
	}
	spec.Email, err = cleanEmail(spec.Email)
	return spec, err
}

// insertOrg makes the org, unless it is there.
func insertOrg(ctx context.Context, tx db.Tx, org id.Org, spec SeedSpec) (made bool, err error) {
	tier, seats := spec.Tier, spec.Seats
	if tier == "" {
		tier = defaultTier
	}
	if seats == 0 {
		seats = defaultSeat
	}
	n, err := tx.Exec(ctx, `INSERT INTO orgs (org_id, name, tier, seats) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		string(org), spec.Org, tier, seats)
	return n == 1, err
}

// seedOrg sets what the spec says of an org that is held.
func seedOrg(ctx context.Context, tx db.Tx, spec SeedSpec, out *Seeded) ([]Entry, error) {
	var name, tier string
	var seats int
	var disabled db.Time
	err := tx.QueryRow(ctx, `SELECT name, tier, seats, disabled_at FROM orgs WHERE org_id = $1`, []any{string(out.Org)},
		&name, &tier, &seats, &disabled)
	switch {
	case err != nil:
		return nil, err
	case name != spec.Org && "org_"+spec.Org != string(out.Org): // a new name of an org whose id is its name is no collision
		return nil, fault.New(fault.Conflict, "the id %s belongs to the org %q: choose another name", out.Org, name).WithCode("org_name_taken")
	case !disabled.IsZero():
		return nil, fault.New(fault.Conflict, "the org %s is disabled", out.Org).WithCode("org_disabled")
	}
	action, detail := "org.update", map[string]any{}
	if out.NewOrg {
		action, detail = "org.create", map[string]any{"name": name, "tier": tier, "seats": seats}
	}
	if spec.Tier != "" && spec.Tier != tier {
		tier, detail["tier"] = spec.Tier, spec.Tier
	}
	if spec.Seats != 0 && spec.Seats != seats {
		seats, detail["seats"] = spec.Seats, spec.Seats
	}
	if len(detail) == 0 {
		return nil, nil
	}
	_, err = tx.Exec(ctx, `UPDATE orgs SET tier = $2, seats = $3 WHERE org_id = $1`, string(out.Org), tier, seats)
	return []Entry{{action, string(out.Org), detail}}, err
}

func seedUser(ctx context.Context, tx db.Tx, spec SeedSpec, out *Seeded) ([]Entry, error) {
	var role Role
	var disabled db.Time
	err := tx.QueryRow(ctx, `SELECT user_id, CAST(role AS text), disabled_at FROM users WHERE org_id = $1 AND email = $2`,
		[]any{string(out.Org), spec.Email}, &out.User, &role, &disabled)
	if errors.Is(err, db.ErrNoRows) {
		user, err := UserSpec{Email: spec.Email, Role: spec.Role}.clean()
		if err != nil {
			return nil, err
		}
		u, made, err := insertUser(ctx, tx, out.Org, user)
		out.NewUser, out.User = true, u.ID
		return made, err
	}
	if err != nil {
		return nil, err
	}
	if !disabled.IsZero() {
		return nil, fault.New(fault.Conflict, "the user %s is disabled", spec.Email).WithCode("user_disabled")
	}
	if spec.Role == "" || spec.Role == role {
		return nil, nil
	}
	out.RoleWas = role
	_, err = tx.Exec(ctx, `UPDATE users SET role = $3 WHERE org_id = $1 AND user_id = $2`, string(out.Org), string(out.User), string(spec.Role))
	return []Entry{{"user.update", string(out.User), map[string]any{"role": spec.Role}}}, err
}
