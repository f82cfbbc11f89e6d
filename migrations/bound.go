package migrations

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
)

// Beginner is a connection or a pool of pgx.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Bound is for the start of a server. It asks whether row-level security binds conn as it will bind its requests: conn
// works as threadhub_app, that role cannot bypass anything, every table with an org_id is forced under the right policies
// and under no other, and a transaction that names no org sees no row of any. It is a part of Guard that costs a few
// milliseconds and needs no rights. The error is a fault tenant_context that says what is wrong, or storage_unavailable.
func Bound(ctx context.Context, conn Beginner) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	wrong, err := bound(ctx, tx)
	if err != nil {
		return unavailable(err)
	}
	return breach(wrong)
}

func bound(ctx context.Context, tx pgx.Tx) (wrong []string, err error) {
	var user, orgs, key string
	var free, within bool
	err = tx.QueryRow(ctx, `SELECT r.rolname, r.rolsuper OR r.rolbypassrls, EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid),
		coalesce(current_setting('app.orgs', true), ''), coalesce(current_setting('app.key_id', true), '')
		FROM pg_roles r WHERE r.rolname = current_user`).Scan(&user, &free, &within, &orgs, &key)
	if err != nil {
		return nil, err
	}
	if user != db.AppRole {
		wrong = append(wrong, "the gateway works as "+user+", not as "+db.AppRole)
	}
	if free {
		wrong = append(wrong, user+" may bypass row-level security")
	}
	if within {
		wrong = append(wrong, user+" is a role within another role")
	}
	if orgs != "" || key != "" {
		wrong = append(wrong, "the connection is bound to an org or a key before any request")
	}
	tables, err := texts(ctx, tx, `SELECT relname FROM (`+orgTables+`) t`)
	if err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		return append(wrong, "there are no tables: migrate first"), nil
	}
	open, err := texts(ctx, tx, `SELECT relname FROM (`+orgTables+`) t
		WHERE NOT relrowsecurity OR NOT relforcerowsecurity OR NOT row_security_active(oid) OR relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)`)
	if err != nil {
		return nil, err
	}
	for _, t := range open {
		wrong = append(wrong, t+" is not under forced row-level security")
	}
	policies, err := wrongPolicies(ctx, tx)
	if err != nil {
		return nil, err
	}
	wrong = append(wrong, policies...)
	if len(wrong) > 0 {
		return wrong, nil // what such tables show is no longer of interest
	}
	shown, err := readable(ctx, tx, tables)
	for _, t := range shown {
		wrong = append(wrong, t+" shows rows to a transaction without an org")
	}
	return wrong, err
}

// readable returns which tables have a row that tx can see.
func readable(ctx context.Context, tx pgx.Tx, tables []string) ([]string, error) {
	// Through an index "no org" is found to match nothing at once; a scan would read a whole ledger to say so.
	if _, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = off"); err != nil {
		return nil, err
	}
	var ask []string
	for _, t := range tables {
		ask = append(ask, fmt.Sprintf("SELECT '%s' WHERE EXISTS (SELECT FROM %s.%s)", strings.ReplaceAll(t, "'", "''"), schema, quote(t)))
	}
	return texts(ctx, tx, strings.Join(ask, " UNION ALL "))
}
