package orgs

import (
	"cmp"
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Role is what a user may do in its own org.
type Role string

const (
	Admin  Role = "admin"  // everything in the org, its keys and people too
	Member Role = "member" // read and write threads, make calls
	Viewer Role = "viewer" // read
)

// Valid reports whether r is one of the three.
func (r Role) Valid() bool { return r == Admin || r == Member || r == Viewer }

// Caller is who makes a request, as an API key shows it.
type Caller struct {
	Org  id.Org
	User id.User
	Team id.Team // "" when the user is in none
	Key  id.Key
	Role Role

	// What the key may be used for, beside what the role says. The lists are shared and must not be changed.
	ReadOnly  bool     // for reading alone
	Models    []string // patterns of models; empty: all
	Providers []string // empty: all
	Expiring  bool     // it ends by itself

	OnUnsupported string // the key's, see KeySpec
	WindowPolicy  string // the org's, see OrgInfo

	Limits []Limit // the org's, the user's and the key's; shared, and not to be changed
}

// Restricted reports whether the key may do less than another of the same user might.
func (c Caller) Restricted() bool { return c.Narrow() || c.Expiring }

// Narrow reports whether the key is good for less than its user may do.
func (c Caller) Narrow() bool { return c.ReadOnly || len(c.Models) > 0 || len(c.Providers) > 0 }

// maxEmail is the longest address mail can be sent to (RFC 5321, 4.5.3.1.3, less the angle brackets).
const maxEmail = 254

// cleanEmail returns s as it is stored: trimmed, in lower case. It asks only for what tells an address from a slip.
func cleanEmail(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at == len(s)-1 || len(s) > maxEmail || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", fault.New(fault.Invalid, "the user must be named by an email address").WithCode("invalid_email").WithParam("email")
	}
	return s, nil
}

// FindUser returns the id of the org's user that is named by email address or by id. Errors: fault.NotFound
// user_not_found.
func (s *Service) FindUser(ctx context.Context, org id.Org, name string) (id.User, error) {
	var found id.User
	err := s.store.Query(ctx, org, db.Query{
		SQL:  `SELECT user_id FROM users WHERE org_id = $1 AND deleted_at IS NULL AND (user_id = $2 OR email = $3)`,
		Args: []any{string(org), name, strings.ToLower(strings.TrimSpace(name))},
		Each: func(r db.Row) error { return r.Scan(&found) },
	})
	if err == nil && found == "" {
		err = fault.New(fault.NotFound, "the org %s has no user %s", org, name).WithCode("user_not_found")
	}
	return found, err
}

// UserInfo is what may be told of a user. Whoever was deleted is no user any more.
type UserInfo struct {
	ID         id.User
	Email      string // lower case, unique in the org
	Name       string
	Role       Role
	Team       id.Team // "": none
	CreatedAt  time.Time
	DisabledAt time.Time // zero: not
}

// active reports whether the user may call, and takes a seat.
func (u UserInfo) active() bool { return u.DisabledAt.IsZero() }

const usersSQL = `SELECT user_id, email, name, CAST(role AS text), COALESCE(team_id, ''), created_at, disabled_at FROM users
	WHERE org_id = $1 AND deleted_at IS NULL`

func scanUser(r db.Row) (u UserInfo, err error) {
	var created, disabled db.Time
	err = r.Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Team, &created, &disabled)
	u.CreatedAt, u.DisabledAt = created.Time, disabled.Time
	return u, err
}

// Users returns up to limit of the org's users, newest first.
func (s *Service) Users(ctx context.Context, org id.Org, after Cursor, limit int) ([]UserInfo, error) {
	return listed(ctx, s, org, after, limit, usersSQL, "user_id", nil, scanUser)
}

// User returns one of the org's users. Errors: fault.NotFound, user_not_found.
func (s *Service) User(ctx context.Context, org id.Org, user id.User) (UserInfo, error) {
	return single(ctx, s, org, NoUser(), usersSQL+` AND user_id = $2`, string(user), scanUser)
}

// NoUser is a user that is not there, or not for the one who asks.
func NoUser() *fault.Error {
	return fault.New(fault.NotFound, "there is no such user").WithCode("user_not_found")
}

func userIn(ctx context.Context, tx db.Tx, org id.Org, user id.User) (UserInfo, error) {
	return singleIn(ctx, tx, org, NoUser(), usersSQL+` AND user_id = $2`, string(user), scanUser)
}

// UserSpec is a user to be made. Email is needed.
type UserSpec struct {
	Email string
	Name  string
	Role  Role    // "": member
	Team  id.Team // "": none
}

func (u UserSpec) clean() (UserSpec, error) {
	var err error
	if u.Email, err = cleanEmail(u.Email); err != nil {
		return u, err
	}
	if u.Role == "" {
		u.Role = Member
	}
	return u, cmp.Or(checkRole(u.Role), checkName(u.Name))
}

func checkRole(r Role) error {
	if !r.Valid() {
		return fault.New(fault.Invalid, "a role is admin, member or viewer").WithCode("invalid_role").WithParam("role")
	}
	return nil
}

// CreateUser makes a user without a key. Errors: fault.Invalid; fault.Conflict, email_taken or seats_full;
// fault.NotFound, team_not_found.
func (s *Service) CreateUser(ctx context.Context, org id.Org, by Actor, spec UserSpec, then ...Then[UserInfo]) (UserInfo, error) {
	spec, err := spec.clean()
	if err != nil {
		return UserInfo{}, err
	}
	var u UserInfo
	err = s.change(ctx, org, by, func(tx db.Tx) (entries []Entry, err error) {
		u, entries, err = insertUser(ctx, tx, org, spec)
		if err == nil {
			err = after(tx, u, then)
		}
		return entries, err
	})
	return u, err
}

// insertUser adds a user to an org that is held. spec is clean.
func insertUser(ctx context.Context, tx db.Tx, org id.Org, spec UserSpec) (UserInfo, []Entry, error) {
	u := UserInfo{ID: id.NewUser(), Email: spec.Email, Name: spec.Name, Role: spec.Role, Team: spec.Team}
	var had int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM users WHERE org_id = $1 AND email = $2`, []any{string(org), u.Email}, &had)
	switch {
	case err != nil:
		return u, nil, err
	case had > 0:
		return u, nil, fault.New(fault.Conflict, "a user of the org has this address already").WithCode("email_taken").WithParam("email")
	}
	if err := takeSeat(ctx, tx, org); err != nil {
		return u, nil, err
	}
	if err := checkTeam(ctx, tx, org, u.Team); err != nil {
		return u, nil, err
	}
	var created db.Time
	err = tx.QueryRow(ctx, `INSERT INTO users (org_id, user_id, team_id, email, name, role) VALUES ($1, $2, $3, $4, $5, $6) RETURNING created_at`,
		[]any{string(org), string(u.ID), orNull(string(u.Team)), u.Email, u.Name, string(u.Role)}, &created)
	u.CreatedAt = created.Time
	detail := map[string]any{"role": u.Role}
	if u.Team != "" {
		detail["team_id"] = u.Team
	}
	return u, []Entry{{"user.create", string(u.ID), detail}}, err
}

// takeSeat refuses one more active user where the org has no seat left for him.
func takeSeat(ctx context.Context, tx db.Tx, org id.Org) error {
	var seats, taken int
	err := tx.QueryRow(ctx, `SELECT seats, (SELECT count(*) FROM users u WHERE u.org_id = o.org_id AND u.disabled_at IS NULL)
		FROM orgs o WHERE org_id = $1`, []any{string(org)}, &seats, &taken)
	if err == nil && taken >= seats {
		return fault.New(fault.Conflict, "all %d seats of the org are taken", seats).WithCode("seats_full")
	}
	return err
}

// UserChange is what UpdateUser sets; what is nil stays.
type UserChange struct {
	Name     *string
	Role     *Role
	Team     *id.Team // to "": none
	Disabled *bool
}

// to returns u as the change makes it, and what of it is new.
func (c UserChange) to(u UserInfo, now time.Time) (UserInfo, map[string]any) {
	news := map[string]any{}
	if c.Name != nil && *c.Name != u.Name {
		u.Name, news["name_changed"] = *c.Name, true
	}
	if c.Role != nil && *c.Role != u.Role {
		u.Role, news["role"] = *c.Role, *c.Role
	}
	if c.Team != nil && *c.Team != u.Team {
		u.Team, news["team_id"] = *c.Team, *c.Team
	}
	if c.Disabled != nil && *c.Disabled == u.active() {
		u.DisabledAt, news["disabled"] = time.Time{}, *c.Disabled
		if *c.Disabled {
			u.DisabledAt = now
		}
	}
	return u, news
}

// UpdateUser changes a user. Whoever is disabled is refused at once, as with RevokeKey, and gives up a seat. Errors:
// fault.Invalid; fault.NotFound, user_not_found or team_not_found; fault.Conflict, last_admin when the org would have no
// active admin, or seats_full when there is no seat to come back to.
func (s *Service) UpdateUser(ctx context.Context, org id.Org, by Actor, user id.User, c UserChange) (UserInfo, error) {
	if c.Name != nil {
		if err := checkName(*c.Name); err != nil {
			return UserInfo{}, err
		}
	}
	if c.Role != nil {
		if err := checkRole(*c.Role); err != nil {
			return UserInfo{}, err
		}
	}
	var u UserInfo
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		was, err := userIn(ctx, tx, org, user)
		if err != nil {
			return nil, err
		}
		var news map[string]any
		if u, news = c.to(was, s.now()); len(news) == 0 {
			return nil, nil
		}
		if err := s.allow(ctx, tx, org, was, u); err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, `UPDATE users SET name = $3, role = $4, team_id = $5, disabled_at = $6 WHERE org_id = $1 AND user_id = $2`,
			string(org), string(user), u.Name, string(u.Role), orNull(string(u.Team)), db.At(tx.Dialect(), u.DisabledAt))
		return []Entry{{"user.update", string(user), news}}, err
	})
	s.tell(ctx, topicPeople, string(org), err)
	return u, err
}

// allow refuses what a change of one user would do to the org.
func (s *Service) allow(ctx context.Context, tx db.Tx, org id.Org, was, is UserInfo) error {
	if !was.active() && is.active() {
		if err := takeSeat(ctx, tx, org); err != nil {
			return err
		}
	}
	if was.active() && was.Role == Admin && !(is.active() && is.Role == Admin) {
		if err := anotherAdmin(ctx, tx, org, was.ID); err != nil {
			return err
		}
	}
	if is.Team != was.Team {
		return checkTeam(ctx, tx, org, is.Team)
	}
	return nil
}

// anotherAdmin refuses to leave an org, which is held, without an active admin.
func anotherAdmin(ctx context.Context, tx db.Tx, org id.Org, user id.User) error {
	var others int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM users WHERE org_id = $1 AND user_id <> $2 AND role = 'admin' AND disabled_at IS NULL`,
		[]any{string(org), string(user)}, &others)
	if err == nil && others == 0 {
		return fault.New(fault.Conflict, "this user is the org's last active admin: make another one first").WithCode("last_admin")
	}
	return err
}

// DeleteUser takes a user away for good: its keys are revoked, its seat and its address are free. What it wrote stays,
// under an id that leads to nobody. Errors: fault.NotFound, user_not_found; fault.Conflict, last_admin.
func (s *Service) DeleteUser(ctx context.Context, org id.Org, by Actor, user id.User) error {
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		u, err := userIn(ctx, tx, org, user)
		if err != nil {
			return nil, err
		}
		if u.active() && u.Role == Admin {
			if err := anotherAdmin(ctx, tx, org, user); err != nil {
				return nil, err
			}
		}
		revoked, err := tx.Exec(ctx, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1 AND user_id = $2 AND revoked_at IS NULL`,
			string(org), string(user))
		if err != nil {
			return nil, err
		}
		// The column must hold something unique: the id is no address.
		_, err = tx.Exec(ctx, `UPDATE users SET deleted_at = now(), disabled_at = COALESCE(disabled_at, now()), team_id = NULL, email = user_id, name = ''
			WHERE org_id = $1 AND user_id = $2`, string(org), string(user))
		return []Entry{{"user.delete", string(user), map[string]any{"keys": revoked}}}, err
	})
	s.tell(ctx, topicPeople, string(org), err)
	return err
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
