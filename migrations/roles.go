package migrations

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/fault"
)

// roleTries is how often Roles begins again after a collision. Roles belong to the cluster: every process that starts on
// it may be making them at this moment, in this database or another.
const roleTries = 50

// Roles makes the roles the gateway works as, lets the URL's user and member put them on (SET ROLE), and gives them the
// schema. What is there already is not touched, so a user without the right to make roles may run it once somebody else
// has made them. An existing role that row-level security would not bind is refused, not changed.
func Roles(ctx context.Context, url, member string) error {
	c, err := postgresConfig(url)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for try := 1; ; try++ {
		err := roles(ctx, conn, member)
		if err == nil || try == roleTries || !collided(err) {
			return roleFault(err)
		}
		pause(ctx, try)
	}
}

// collided reports whether err is what two sessions get that make the same role or grant at once. Two have the codes of
// other troubles: a unique index of the catalog (23505), and "tuple concurrently updated" (XX000).
func collided(err error) bool {
	switch sqlState(err) {
	case "42710", "23505", "40001", "40P01":
		return true
	case "XX000":
		return strings.Contains(err.Error(), "tuple concurrently")
	}
	return false
}

func roleFault(err error) error {
	if sqlState(err) == "42501" {
		return fault.Wrap(fault.Invalid, err, "the database user may not create or grant the roles %s: let a superuser do it, or give the user CREATEROLE",
			strings.Join(db.Roles(), ", ")).WithCode("database_roles")
	}
	return failed(err)
}

func roles(ctx context.Context, conn *pgx.Conn, member string) error {
	var login string
	if err := conn.QueryRow(ctx, "SELECT session_user").Scan(&login); err != nil {
		return unavailable(err)
	}
	logins := slices.DeleteFunc(slices.Compact([]string{login, member}), func(s string) bool { return s == "" })
	for _, role := range db.Roles() {
		if err := createRole(ctx, conn, role); err != nil {
			return err
		}
		for _, l := range logins {
			if err := grantRole(ctx, conn, role, l); err != nil {
				return err
			}
		}
		if err := grantSchema(ctx, conn, role); err != nil {
			return err
		}
	}
	return nil
}

func createRole(ctx context.Context, conn *pgx.Conn, role string) error {
	var there, free bool
	err := conn.QueryRow(ctx, "SELECT count(*) > 0, coalesce(bool_or(rolsuper OR rolbypassrls), false) FROM pg_roles WHERE rolname = $1", role).
		Scan(&there, &free)
	switch {
	case err != nil:
		return err
	case free:
		return fault.New(fault.Invalid, "row-level security does not bind the role %[1]s: ALTER ROLE %[1]s NOSUPERUSER NOBYPASSRLS", role).
			WithCode("tenant_context")
	case there:
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE ROLE "+quote(role)+" NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION")
	return err
}

func grantRole(ctx context.Context, conn *pgx.Conn, role, login string) error {
	// From 16 on a member may be one that cannot SET ROLE: a role's maker is such a member.
	var may bool
	if err := conn.QueryRow(ctx, `SELECT coalesce((SELECT pg_has_role(oid, $1::name,
		CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
		FROM pg_roles WHERE rolname = $2), false)`, role, login).Scan(&may); err != nil || may {
		return err
	}
	_, err := conn.Exec(ctx, "GRANT "+quote(role)+" TO "+quote(login))
	return err
}

func grantSchema(ctx context.Context, conn *pgx.Conn, role string) error {
	// PUBLIC may use the schema too, by default; an operator may take that away.
	var granted bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a, pg_roles r
		WHERE n.nspname = $1 AND r.rolname = $2 AND a.grantee = r.oid AND a.privilege_type = 'USAGE')`, schema, role).Scan(&granted); err != nil || granted {
		return err
	}
	_, err := conn.Exec(ctx, "GRANT USAGE ON SCHEMA "+quote(schema)+" TO "+quote(role))
	return err
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
