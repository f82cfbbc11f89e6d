package orgs

import (
	"context"
	"strings"
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

	WindowPolicy string // of the org: what becomes of a history that does not fit, "cut" or "refuse"
}

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
		SQL:  `SELECT user_id FROM users WHERE org_id = $1 AND (user_id = $2 OR email = $3)`,
		Args: []any{string(org), name, strings.ToLower(strings.TrimSpace(name))},
		Each: func(r db.Row) error { return r.Scan(&found) },
	})
	if err == nil && found == "" {
		err = fault.New(fault.NotFound, "the org %s has no user %s", org, name).WithCode("user_not_found")
	}
	return found, err
}
