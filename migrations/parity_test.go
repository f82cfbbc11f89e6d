package migrations_test

import (
	"database/sql"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/testkit"
)

// onlyPostgres are the columns SQLite does without: with one writer there is no commit order to keep apart from insert
// order.
var onlyPostgres = []string{"calls.open_xid", "calls.close_xid", "ledger.xid"}

// ownSearch is how each store finds words: Postgres in a column of their own kind, SQLite in a table beside.
var ownSearch = struct{ column, index, table string }{"messages.words", "messages_words", "message_words"}

// liteTypes says what a Postgres type is in SQLite. Enums are text with a CHECK that lists the same words.
var liteTypes = map[string]string{
	"text": "text", "integer": "integer", "bigint": "integer", "boolean": "integer", "bytea": "blob", "json": "text", "jsonb": "text",
	"timestamp with time zone": "integer", // nanoseconds since 1970
	"numeric":                  "text",    // a whole number of any size
}

// tableShape is what the two schemas must have in common, in words that fit both.
type tableShape struct {
	Columns []string // in order: name, type, NULL or NOT NULL, whether there is a default, the words of an enum
	Primary string
	Indexes []string // unique or not, name (none for a UNIQUE constraint), columns, condition
	Foreign []string
}

// The two schemas are one but for types.
func TestParity(t *testing.T) {
	t.Parallel()
	pg, lite := describe(t, testkit.Postgres(t)), describe(t, testkit.SQLite(t))
	if len(pg) < 10 {
		t.Fatalf("only %d tables", len(pg))
	}
	if diff := cmp.Diff(pg, lite); diff != "" {
		t.Errorf("(-postgres +sqlite):\n%s", diff)
	}
}

// The comparison sees what it should see.
func TestParityFails(t *testing.T) {
	t.Parallel()
	pg := describe(t, testkit.Postgres(t))
	for _, change := range []string{
		"ALTER TABLE teams ADD COLUMN extra text",
		"ALTER TABLE users DROP COLUMN name",
		"ALTER TABLE threads RENAME COLUMN title TO caption",
		"CREATE TABLE extra (x text)",
		"DROP TABLE ledger",
		"DROP INDEX calls_turn",
		"DROP INDEX calls_turn; CREATE INDEX calls_turn ON calls (org_id, thread_id) WHERE state = 'open' AND thread_id IS NOT NULL",
		"DROP INDEX calls_turn; CREATE UNIQUE INDEX calls_turn ON calls (org_id, thread_id) WHERE state = 'open'",
		"DROP INDEX calls_owner; CREATE INDEX calls_owner ON calls (owner)",
		"DROP INDEX threads_newest; CREATE INDEX threads_newest ON threads (org_id, created_at, thread_id DESC)",
		"DROP TABLE secrets; CREATE TABLE secrets (name text NOT NULL PRIMARY KEY, kek_id text NOT NULL, sealed text NOT NULL, created_at integer NOT NULL DEFAULT 0) STRICT",
		"DROP TABLE secrets; CREATE TABLE secrets (name text NOT NULL PRIMARY KEY, kek_id text NOT NULL, sealed blob NOT NULL, created_at integer NOT NULL) STRICT",
	} {
		url := testkit.SQLite(t)
		execAll(t, url, strings.Split(change, "; ")...)
		if cmp.Equal(pg, describe(t, url)) {
			t.Errorf("not seen: %s", change)
		}
	}
}

// Every table of SQLite refuses a value of another type, as Postgres does.
func TestStrict(t *testing.T) {
	t.Parallel()
	for _, r := range rows(t, open(t, testkit.SQLite(t)), `SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
		AND name NOT IN ('schema_migrations', 'sqlite_schema') AND NOT strict`) {
		t.Errorf("%s is not STRICT", r[0])
	}
}

// describe reads the shape of all tables but golang-migrate's own.
func describe(t *testing.T, url string) map[string]*tableShape {
	t.Helper()
	d := open(t, url)
	defer func() { _ = d.Close() }()
	if isPostgres(url) {
		return describePostgres(t, d)
	}
	return describeSQLite(t, d)
}

func describePostgres(t *testing.T, d *sql.DB) map[string]*tableShape {
	t.Helper()
	out := make(map[string]*tableShape)
	for _, r := range rows(t, d, `SELECT c.relname, a.attname, format_type(a.atttypid, NULL), CASE WHEN a.attnotnull THEN 'NOT NULL' ELSE 'NULL' END,
			CASE WHEN a.atthasdef THEN 'default' ELSE '' END,
			coalesce((SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = a.atttypid), '')
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'schema_migrations' ORDER BY c.relname, a.attnum`) {
		table := out[r[0]]
		if table == nil {
			table = new(tableShape)
			out[r[0]] = table
		}
		if slices.Contains(onlyPostgres, r[0]+"."+r[1]) || r[0]+"."+r[1] == ownSearch.column {
			continue
		}
		kind := liteTypes[r[2]]
		switch {
		case r[5] != "":
			kind = "text"
		case kind == "":
			t.Errorf("%s.%s has the type %s, which has no like in SQLite", r[0], r[1], r[2])
		}
		table.Columns = append(table.Columns, column(r[1], kind, r[3], r[4], r[5]))
	}
	for _, r := range rows(t, d, `SELECT t.relname, CASE WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) THEN '' ELSE c.relname END,
			i.indisprimary, i.indisunique, coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
			(SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true) || CASE WHEN i.indoption[n - 1] & 1 = 1 THEN ' DESC' ELSE '' END, ', ' ORDER BY n)
				FROM generate_series(1, i.indnkeyatts) n)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
		WHERE t.relnamespace = 'public'::regnamespace AND t.relname <> 'schema_migrations' ORDER BY 1, 2, 6`) {
		switch {
		case r[2] == "true":
			out[r[0]].Primary = r[5]
			continue
		case r[1] == ownSearch.index:
			continue
		}
		out[r[0]].Indexes = append(out[r[0]].Indexes, index(r[1], r[3] == "true", r[5], r[4]))
	}
	for _, r := range rows(t, d, `SELECT t.relname, f.relname,
			(SELECT string_agg(a.attname, ', ' ORDER BY n) FROM unnest(k.conkey) WITH ORDINALITY u (num, n) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = num),
			(SELECT string_agg(a.attname, ', ' ORDER BY n) FROM unnest(k.confkey) WITH ORDINALITY u (num, n) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = num)
		FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
		WHERE k.contype = 'f' AND t.relnamespace = 'public'::regnamespace`) {
		out[r[0]].Foreign = append(out[r[0]].Foreign, fmt.Sprintf("(%s) -> %s (%s)", r[2], r[1], r[3]))
	}
	return sorted(out)
}

func describeSQLite(t *testing.T, d *sql.DB) map[string]*tableShape {
	t.Helper()
	out := make(map[string]*tableShape)
	for _, r := range rows(t, d, `SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('schema_migrations')
			AND name NOT LIKE 'sqlite_%' AND name NOT LIKE $1`, ownSearch.table+"%") {
		table := new(tableShape)
		out[r[0]] = table
		words := make(map[string]string)
		for _, m := range regexp.MustCompile(`(?m)^  (\w+) [^,\n]*CHECK \(\w+ IN \(('.*')\)\)`).FindAllStringSubmatch(r[1], -1) {
			words[m[1]] = strings.ReplaceAll(strings.ReplaceAll(m[2], "', '", " "), "'", "")
		}
		delete(words, "visibility") // a CHECK in both
		for _, c := range rows(t, d, `SELECT name, lower(type), CASE "notnull" WHEN 1 THEN 'NOT NULL' ELSE 'NULL' END,
				CASE WHEN dflt_value IS NULL THEN '' ELSE 'default' END FROM pragma_table_info($1) ORDER BY cid`, r[0]) {
			if r[0]+"."+c[0] != ownSearch.column {
				table.Columns = append(table.Columns, column(c[0], c[1], c[2], c[3], words[c[0]]))
			}
		}
		for _, p := range rows(t, d, `SELECT coalesce(group_concat(name, ', '), '') FROM (SELECT name FROM pragma_table_info($1) WHERE pk > 0 ORDER BY pk)`, r[0]) {
			table.Primary = p[0]
		}
		for _, i := range rows(t, d, `SELECT l.name, l.origin, l."unique", coalesce(s.sql, '') FROM pragma_index_list($1) l
				LEFT JOIN sqlite_schema s ON s.type = 'index' AND s.name = l.name WHERE l.origin <> 'pk'`, r[0]) {
			if i[0] == ownSearch.index {
				continue
			}
			columns := rows(t, d, `SELECT group_concat(name || CASE "desc" WHEN 1 THEN ' DESC' ELSE '' END, ', ')
				FROM (SELECT * FROM pragma_index_xinfo($1) WHERE key ORDER BY seqno)`, i[0])
			name := i[0]
			if i[1] == "u" {
				name = ""
			}
			_, where, _ := strings.Cut(i[3], " WHERE ")
			table.Indexes = append(table.Indexes, index(name, i[2] == "1", columns[0][0], where))
		}
		foreign := make(map[string][3]string)
		for _, f := range rows(t, d, `SELECT id, "table", "from", "to" FROM pragma_foreign_key_list($1) ORDER BY id, seq`, r[0]) {
			k := foreign[f[0]]
			foreign[f[0]] = [3]string{f[1], join(k[1], f[2]), join(k[2], f[3])}
		}
		for _, k := range foreign {
			table.Foreign = append(table.Foreign, fmt.Sprintf("(%s) -> %s (%s)", k[1], k[0], k[2]))
		}
	}
	return sorted(out)
}

func column(name, kind, null, byDefault, words string) string {
	return strings.Join(strings.Fields(name+" "+kind+" "+null+" "+byDefault+" "+words), " ")
}

func index(name string, unique bool, columns, where string) string {
	s := name + " (" + columns + ")"
	if unique {
		s = "unique " + s
	}
	if where != "" {
		// Postgres prints brackets and casts.
		s += " where " + strings.ToLower(regexp.MustCompile(`::\w+|[()]`).ReplaceAllString(where, ""))
	}
	return s
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

func sorted(tables map[string]*tableShape) map[string]*tableShape {
	for _, t := range tables {
		slices.Sort(t.Indexes)
		slices.Sort(t.Foreign)
	}
	return tables
}

// rows returns a result as text.
func rows(t *testing.T, d *sql.DB, query string, args ...any) (out [][]string) {
	t.Helper()
	r, err := d.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer func() { _ = r.Close() }()
	columns, err := r.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for r.Next() {
		row, ptr := make([]string, len(columns)), make([]any, len(columns))
		for i := range row {
			ptr[i] = &row[i]
		}
		if err := r.Scan(ptr...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		out = append(out, row)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
