package migrations

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/fault"
)

// Queryer is a connection, a pool or a transaction of pgx.
type Queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// What the schema may hold that is not simply an org's own. A migration that needs more changes these lists, and its
// author says why.
var (
	// orgless tables belong to the installation.
	orgless = []string{"secrets", "incarnations", table}

	// insertOnly tables are what the gateway answers for: the app cannot rewrite them.
	insertOnly = []string{"audit", "ledger", "messages"}

	// settlerSees is all that is seen over all orgs: which orgs and open calls there are.
	settlerSees = []string{"calls.call_id", "calls.epoch", "calls.org_id", "calls.owner", "calls.state", "orgs.org_id"}

	// searchSees is what whoever searches may see of the rows its policies show: where words are, not what is said.
	searchSees = []string{
		"messages.org_id", "messages.thread_id", "messages.words", "threads.created_at", "threads.deleted_at", "threads.org_id",
		"threads.thread_id", "threads.user_id", "threads.visibility", "threads.words",
	}

	// janitorSees is what whoever clears away may see; beside that it may delete messages and threads.
	janitorSees = []string{"messages.org_id", "messages.thread_id", "threads.deleted_at", "threads.org_id", "threads.thread_id"}

	// exceptions are the policies beside own_org.
	exceptions = []policy{
		{"api_keys", "shown_key", "SELECT", db.AppRole, "key_id = (SELECT nullif(current_setting('app.key_id', true), ''))", ""},
		{"orgs", "walk", "SELECT", db.SettlerRole, "true", ""},
		{"calls", "open_calls", "SELECT", db.SettlerRole, "state = 'open'", ""},
		{"messages", "searched", "SELECT", db.SearchRole, ownOrg + " AND words @@ (SELECT nullif(current_setting('app.words', true), '')::tsquery)", ""},
		{"threads", "searched", "SELECT", db.SearchRole, ownOrg, ""},
		{"threads", "cleared", "ALL", db.JanitorRole, ownOrg + " AND deleted_at IS NOT NULL", ""},
		{
			"messages", "cleared", "ALL", db.JanitorRole,
			ownOrg + " AND EXISTS (SELECT FROM threads t WHERE t.org_id = messages.org_id AND t.thread_id = messages.thread_id)", "",
		},
	}
)

// ownOrg is what own_org demands of a row, read or written.
const ownOrg = "org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[])"

// policy is a permissive row-level security policy.
type policy struct{ table, name, command, roles, using, check string }

// orgTables are the tables with an org_id; what CREATE EXTENSION brought is not ours.
const orgTables = `SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relowner, a.attnum AS org
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped
	WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f')`

// notOfExtension is a condition on a catalog row c of class %s.
const notOfExtension = `NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '%s'::regclass AND d.objid = c.oid AND d.deptype = 'e')`

// rule is a query for what must not be: each row is the name of a culprit.
type rule struct {
	says string
	sql  string
	args []any
}

func rules() []rule {
	roles := db.Roles()
	return []rule{
		{"has row-level security switched off", `SELECT relname FROM (` + orgTables + `) t WHERE NOT relrowsecurity`, nil},
		{"does not force row-level security on its owner", `SELECT relname FROM (` + orgTables + `) t WHERE NOT relforcerowsecurity`, nil},
		{
			"has no org_id and is not one of the few tables without", `SELECT relname FROM pg_class c
			WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'f') AND relname <> ALL ($1)
			AND oid NOT IN (SELECT oid FROM (` + orgTables + `) t) AND ` + fmt.Sprintf(notOfExtension, "pg_class"),
			[]any{orgless},
		},
		{
			"is unique, or excludes, over orgs: it must begin with org_id, or one org learns of another's rows", `SELECT i.indexrelid::regclass::text
			FROM (` + orgTables + `) t JOIN pg_index i ON i.indrelid = t.oid
			WHERE (i.indisunique OR i.indisexclusion) AND i.indkey[0] <> t.org`, nil,
		},
		{
			"has no primary key", `SELECT relname FROM (` + orgTables + `) t
			WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary)`, nil,
		},
		{
			"is a foreign key that does not begin with org_id on both sides: its check sees all orgs", `SELECT t.relname || '.' || k.conname
			FROM (` + orgTables + `) t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f'
			LEFT JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = k.confkey[1]
			WHERE k.conkey[1] <> t.org OR a.attname IS DISTINCT FROM 'org_id'`, nil,
		},
		{
			"is a role with more rights than the gateway may have", `SELECT r FROM unnest($1::text[]) r LEFT JOIN pg_roles p ON p.rolname = r
			WHERE p.oid IS NULL OR p.rolsuper OR p.rolbypassrls OR p.rolcanlogin OR p.rolcreaterole OR p.rolcreatedb OR p.rolreplication`, []any{roles},
		},
		{
			"is a role within another role", `SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
			WHERE r.rolname = ANY ($1)`, []any{roles},
		},
		{
			"is a role that owns something", `SELECT DISTINCT r.rolname FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
			WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o' AND r.rolname = ANY ($1)`, []any{roles},
		},
		{
			"is a role that may create in schema public", `SELECT r.rolname FROM pg_roles r
			WHERE r.rolname = ANY ($1) AND has_schema_privilege(r.oid, 'public', 'CREATE')`, []any{roles},
		},
		{
			"runs with its owner's rights (SECURITY DEFINER)", `SELECT c.oid::regprocedure::text FROM pg_proc c
			WHERE pronamespace = 'public'::regnamespace AND prosecdef AND ` + fmt.Sprintf(notOfExtension, "pg_proc"), nil,
		},
		{
			"is a view that reads with its owner's rights: it must be security_invoker", `SELECT relname FROM pg_class c
			WHERE relnamespace = 'public'::regnamespace AND relkind = 'v' AND ` + fmt.Sprintf(notOfExtension, "pg_class") + `
			AND NOT coalesce((SELECT option_value::boolean FROM pg_options_to_table(reloptions) WHERE option_name = 'security_invoker'), false)`, nil,
		},
		{
			"is a materialised view: row-level security does not reach it", `SELECT relname FROM pg_class c
			WHERE relnamespace = 'public'::regnamespace AND relkind = 'm' AND ` + fmt.Sprintf(notOfExtension, "pg_class"), nil,
		},
		{
			"is granted to everybody", `SELECT granted FROM (` + grants + `) g WHERE grantee IS NULL`, nil,
		},
		{
			"is more than the app may do", `SELECT grantee || ': ' || granted FROM (` + grants + `) g
			WHERE grantee = $1 AND (privilege NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') OR grantable
			OR relname = $3 AND privilege <> 'SELECT' OR relname = ANY ($2) AND privilege NOT IN ('SELECT', 'INSERT'))`,
			[]any{db.AppRole, insertOnly, table},
		},
		{
			"is more than who searches may see", tooMuch, []any{db.SearchRole, searchSees, []string{}},
		},
		{
			"is what who searches needs, and may not see", tooLittle, []any{db.SearchRole, searchSees},
		},
		{
			"is more than the janitor may do", tooMuch, []any{db.JanitorRole, janitorSees, []string{"messages", "threads"}},
		},
		{
			"is what the janitor needs, and may not see", tooLittle, []any{db.JanitorRole, janitorSees},
		},
		{
			"is more than the settler may see", tooMuch, []any{db.SettlerRole, settlerSees, []string{}},
		},
		{
			"is what the settler needs, and may not see", tooLittle, []any{db.SettlerRole, settlerSees},
		},
	}
}

// tooMuch finds what the role $1 may beyond seeing the columns $2 and deleting from the tables $3; tooLittle the columns $2
// that it may not see.
const (
	tooMuch = `SELECT grantee || ': ' || granted FROM (` + grants + `) g WHERE grantee = $1 AND (grantable
		OR NOT (privilege = 'SELECT' AND attname IS NOT NULL AND relname || '.' || attname = ANY ($2)
			OR privilege = 'DELETE' AND attname IS NULL AND relname = ANY ($3)))`
	tooLittle = `SELECT c FROM unnest($2::text[]) c WHERE NOT EXISTS (SELECT FROM (` + grants + `) g
		WHERE grantee = $1 AND privilege = 'SELECT' AND relname || '.' || attname = c)`
)

// grants are the privileges on whatever in schema public holds rows, on the whole or on one column. A NULL grantee is
// PUBLIC.
const grants = `SELECT c.relname, a.attname, p.rolname AS grantee, x.privilege_type AS privilege, x.is_grantable AS grantable,
	x.privilege_type || ' on ' || c.relname || coalesce('.' || a.attname, '') AS granted
	FROM pg_class c
	JOIN LATERAL (
		SELECT 0::int2 AS attnum, c.relacl AS acl UNION ALL
		SELECT attnum, attacl FROM pg_attribute WHERE attrelid = c.oid AND NOT attisdropped
	) l ON true
	CROSS JOIN LATERAL aclexplode(l.acl) x
	LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = l.attnum AND l.attnum <> 0
	LEFT JOIN pg_roles p ON p.oid = x.grantee
	WHERE c.relnamespace = 'public'::regnamespace AND ` + `NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`

// Guard reads the catalog of a migrated Postgres database and returns nil if nothing in its schema public lets one org
// see, change or guess another's rows. The error is a fault tenant_context that names every breach. q may be any user.
// What it asks for is in rules, expectedPolicies and the lists above.
func Guard(ctx context.Context, q Queryer) error {
	var breaches []string
	for _, r := range rules() {
		names, err := texts(ctx, q, r.sql, r.args...)
		if err != nil {
			return unavailable(fmt.Errorf("the rule %q: %w", r.says, err))
		}
		for _, n := range names {
			breaches = append(breaches, n+" "+r.says)
		}
	}
	wrong, err := wrongPolicies(ctx, q)
	if err != nil {
		return unavailable(err)
	}
	return breach(append(breaches, wrong...))
}

func breach(what []string) error {
	if len(what) == 0 {
		return nil
	}
	slices.Sort(what)
	return fault.New(fault.Internal, "the database does not keep orgs apart: %s", strings.Join(what, "; ")).WithCode("tenant_context").NoRetry()
}

func texts(ctx context.Context, q Queryer, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// wrongPolicies compares the policies of schema public with the only ones there may be.
func wrongPolicies(ctx context.Context, q Queryer) ([]string, error) {
	tables, err := texts(ctx, q, `SELECT relname FROM (`+orgTables+`) t`)
	if err != nil {
		return nil, err
	}
	want := make(map[string]policy)
	for _, t := range tables {
		want[t+".own_org"] = policy{t, "own_org", "ALL", db.AppRole, ownOrg, ownOrg}
	}
	for _, p := range exceptions {
		want[p.table+"."+p.name] = p
	}
	// A restrictive policy could only take away, but then rows vanish; nobody has asked for one.
	rows, err := q.Query(ctx, `SELECT tablename, policyname, cmd || CASE permissive WHEN 'PERMISSIVE' THEN '' ELSE ' ' || permissive END,
		array_to_string(roles, ','), coalesce(qual, ''), coalesce(with_check, '') FROM pg_policies WHERE schemaname = 'public'`)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p policy, err error) {
		return p, row.Scan(&p.table, &p.name, &p.command, &p.roles, &p.using, &p.check)
	})
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, p := range found {
		key := p.table + "." + p.name
		w, known := want[key]
		switch {
		case !known:
			wrong = append(wrong, key+" is a policy that should not be")
		case !p.same(w):
			wrong = append(wrong, key+" is not the policy it should be")
		}
		delete(want, key)
	}
	for key := range want {
		wrong = append(wrong, key+" is a policy that is missing")
	}
	return wrong, nil
}

func (p policy) same(o policy) bool {
	return p.command == o.command && p.roles == o.roles && plain(p.using) == plain(o.using) && plain(p.check) == plain(o.check)
}

var decoration = regexp.MustCompile(`::\w+(\[\])?|\bAS "?\w+"?|[\s()]`)

// plain takes out of an expression what Postgres adds when it prints one: casts, a name for the sub-select, brackets and
// spaces. Versions differ in them; the words that are left, and their order, say what it does.
func plain(expr string) string { return strings.ToLower(decoration.ReplaceAllString(expr, "")) }
