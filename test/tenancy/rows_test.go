package tenancy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// rows are all rows of one org, as text, by table.
type rows map[string][]string

// books reads the store beside the gateway.
type books struct {
	store  db.Store
	tables map[string][]string // the columns of every table that has an org_id
}

// moving are columns that say when something was used: they may change when nothing is done.
var moving = map[string]bool{"provider_keys.last_used_at": true}

func openBooks(t *testing.T, url string) *books {
	t.Helper()
	store, err := db.Open(t.Context(), db.Options{URL: url, Timeout: 20 * time.Second, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &books{store: store, tables: map[string][]string{}}
	columns := `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, ordinal_position`
	if store.Dialect() == db.SQLite {
		columns = `SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.cid`
	}
	err = store.Read(t.Context(), "org_none", func(tx db.Tx) error {
		return tx.Query(t.Context(), columns, nil, func(r db.Row) error {
			var table, column string
			if err := r.Scan(&table, &column); err != nil {
				return err
			}
			if !moving[table+"."+column] {
				b.tables[table] = append(b.tables[table], column)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(b.tables, func(_ string, columns []string) bool { return !slices.Contains(columns, "org_id") })
	if len(b.tables) < 10 {
		t.Fatalf("only these tables have an org_id: %v", slices.Sorted(maps.Keys(b.tables)))
	}
	return b
}

// read returns what org has.
func (b *books) read(t *testing.T, org id.Org) rows {
	t.Helper()
	all := rows{}
	err := b.store.Read(t.Context(), org, func(tx db.Tx) error {
		clear(all)
		for table, columns := range b.tables {
			shown := make([]string, len(columns))
			for i, c := range columns {
				if shown[i] = "quote(" + c + ")"; tx.Dialect() == db.Postgres {
					shown[i] = "coalesce(" + c + "::text, 'NULL')"
				}
			}
			sql := "SELECT " + strings.Join(shown, " || ' | ' || ") + " FROM " + table + " WHERE org_id = $1 ORDER BY 1"
			err := tx.Query(t.Context(), sql, []any{string(org)}, func(r db.Row) error {
				var row string
				if err := r.Scan(&row); err != nil {
					return err
				}
				all[table] = append(all[table], row)
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// do runs a statement as org.
func (b *books) do(t *testing.T, org, sql string, args ...any) {
	t.Helper()
	err := b.store.Write(t.Context(), id.Org(org), func(tx db.Tx) error {
		n, err := tx.Exec(context.Background(), sql, append([]any{org}, args...)...)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows changed", n)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// changes tells what is different, one line a row; empty if nothing is.
func (before rows) changes(after rows) string {
	var out []string
	for _, table := range slices.Sorted(maps.Keys(union(before, after))) {
		for _, r := range before[table] {
			if !slices.Contains(after[table], r) {
				out = append(out, "- "+table+": "+r)
			}
		}
		for _, r := range after[table] {
			if !slices.Contains(before[table], r) {
				out = append(out, "+ "+table+": "+r)
			}
		}
	}
	return strings.Join(out, "\n")
}

func union(a, b rows) map[string]bool {
	all := map[string]bool{}
	for table := range a {
		all[table] = true
	}
	for table := range b {
		all[table] = true
	}
	return all
}
