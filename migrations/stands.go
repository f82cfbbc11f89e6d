package migrations

import (
	"context"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
)

// Stands is for a server that runs. It asks what of Bound can be lost by a mistake in the database: row-level security
// forced on every table with an org_id, the policies of the app's role there, and no row shown to a transaction without an
// org. It does not mind what a later version's migrations add. The error is Bound's.
func Stands(ctx context.Context, conn Beginner) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	wrong, err := fallen(ctx, tx)
	if err != nil {
		return unavailable(err)
	}
	return breach(wrong)
}

func fallen(ctx context.Context, tx pgx.Tx) (wrong []string, err error) {
	for _, look := range []struct{ says, sql string }{
		{" is not under forced row-level security", `SELECT relname FROM (` + orgTables + `) t WHERE NOT relrowsecurity OR NOT relforcerowsecurity`},
		{" has lost the policy own_org", `SELECT relname FROM (` + orgTables + `) t WHERE NOT EXISTS (
			SELECT FROM pg_policies p WHERE p.schemaname = 'public' AND p.tablename = t.relname AND p.policyname = 'own_org')`},
	} {
		tables, err := texts(ctx, tx, look.sql)
		if err != nil {
			return nil, err
		}
		for _, t := range tables {
			wrong = append(wrong, t+look.says)
		}
	}
	for _, p := range exceptions {
		if p.roles != db.AppRole {
			continue
		}
		found, err := texts(ctx, tx, `SELECT policyname FROM pg_policies WHERE schemaname = 'public' AND tablename = $1 AND policyname = $2`, p.table, p.name)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			wrong = append(wrong, p.table+" has lost the policy "+p.name)
		}
	}
	tables, err := texts(ctx, tx, `SELECT relname FROM (`+orgTables+`) t WHERE has_table_privilege(oid, 'SELECT')`)
	if err != nil || len(wrong) > 0 {
		return wrong, err
	}
	shown, err := readable(ctx, tx, tables)
	for _, t := range shown {
		wrong = append(wrong, t+" shows rows to a transaction without an org")
	}
	return wrong, err
}
