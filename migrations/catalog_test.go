package migrations_test

import (
	"strings"
	"testing"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	c := connect(t, testkit.Postgres(t))
	if err := migrations.Guard(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "SET ROLE "+db.AppRole); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Guard(t.Context(), c); err != nil {
		t.Errorf("as the app: %v", err)
	}
	if err := migrations.Bound(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// Each control, taken away, is missed. What Guard and Bound do not need to see is marked; roles are the cluster's, so
// they are taken away in TestGuardRoles.
func TestGuardFails(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	c := connect(t, url)
	for _, tc := range []struct {
		change string
		guard  string // what the breach must name
		bound  bool   // Bound refuses too
	}{
		{"CREATE TABLE notes (org_id text PRIMARY KEY, x text)", "notes has row-level security switched off", true},
		{"CREATE TABLE notes (x text)", "notes has no org_id", false},
		{"ALTER TABLE threads DISABLE ROW LEVEL SECURITY", "threads has row-level security switched off", true},
		{"ALTER TABLE threads NO FORCE ROW LEVEL SECURITY", "threads does not force", true},
		{"DROP POLICY own_org ON ledger", "ledger.own_org is a policy that is missing", true},
		{"DROP POLICY shown_key ON api_keys", "api_keys.shown_key is a policy that is missing", true},
		{"CREATE POLICY more ON messages FOR SELECT USING (true)", "messages.more is a policy that should not be", true},
		{"ALTER POLICY own_org ON calls USING (true)", "calls.own_org is not the policy", true},
		{"ALTER POLICY own_org ON calls WITH CHECK (true)", "calls.own_org is not the policy", true},
		{"ALTER POLICY own_org ON calls TO PUBLIC", "calls.own_org is not the policy", true},
		{"ALTER POLICY own_org ON calls USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]) OR owner = '')", "calls.own_org is not the policy", true},
		{"ALTER POLICY shown_key ON api_keys USING (true)", "api_keys.shown_key is not the policy", true},
		{"ALTER POLICY open_calls ON calls TO threadhub_app", "calls.open_calls is not the policy", true},
		{"DROP POLICY own_org ON users; CREATE POLICY own_org ON users FOR SELECT TO threadhub_app USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]))", "users.own_org is not the policy", true},
		{"CREATE UNIQUE INDEX api_keys_once ON api_keys (key_id)", "api_keys_once is unique", false},
		{"CREATE UNIQUE INDEX api_keys_once ON api_keys (lower(key_id), org_id)", "api_keys_once is unique", false},
		{"ALTER TABLE attempts DROP CONSTRAINT attempts_pkey; ALTER TABLE attempts ADD PRIMARY KEY (call_id, org_id, n)", "attempts_pkey is unique", false},
		{"ALTER TABLE attempts DROP CONSTRAINT attempts_pkey", "attempts has no primary key", false},
		{"ALTER TABLE threads ADD FOREIGN KEY (user_id, org_id) REFERENCES users (user_id, org_id)", "threads_user_id_org_id_fkey is a foreign key", false},
		{"ALTER TABLE threads ADD COLUMN secret text REFERENCES secrets", "is a foreign key that does not begin with org_id", false},
		{"CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM messages'", "peek() runs with its owner's rights", false},
		{"CREATE VIEW everything AS SELECT * FROM messages", "everything is a view", false},
		{"CREATE VIEW everything WITH (security_invoker = false) AS SELECT * FROM messages", "everything is a view", false},
		{"CREATE VIEW everything WITH (security_invoker) AS SELECT * FROM messages", "", false},
		{"CREATE MATERIALIZED VIEW everything AS SELECT * FROM messages", "everything is a materialised view", false},
		{"GRANT UPDATE ON ledger TO threadhub_app", "threadhub_app: UPDATE on ledger is more", false},
		{"GRANT UPDATE (cost_pico) ON ledger TO threadhub_app", "threadhub_app: UPDATE on ledger.cost_pico is more", false},
		{"GRANT DELETE ON messages TO threadhub_app", "threadhub_app: DELETE on messages is more", false},
		{"GRANT TRUNCATE ON threads TO threadhub_app", "threadhub_app: TRUNCATE on threads is more", false},
		{"GRANT SELECT ON threads TO threadhub_app WITH GRANT OPTION", "threadhub_app: SELECT on threads is more", false},
		{"GRANT UPDATE ON schema_migrations TO threadhub_app", "threadhub_app: UPDATE on schema_migrations is more", false},
		{"GRANT SELECT ON calls TO threadhub_settler", "threadhub_settler: SELECT on calls is more", false},
		{"GRANT SELECT (facts) ON calls TO threadhub_settler", "threadhub_settler: SELECT on calls.facts is more", false},
		{"GRANT UPDATE (epoch) ON calls TO threadhub_settler", "threadhub_settler: UPDATE on calls.epoch is more", false},
		{"GRANT SELECT ON secrets TO threadhub_settler", "threadhub_settler: SELECT on secrets is more", false},
		{"REVOKE SELECT (epoch) ON calls FROM threadhub_settler", "calls.epoch is what the settler needs", false},
		{"GRANT UPDATE ON audit TO threadhub_app", "threadhub_app: UPDATE on audit is more", false},
		{"GRANT SELECT (raw) ON messages TO threadhub_search", "threadhub_search: SELECT on messages.raw is more", false},
		{"GRANT DELETE ON threads TO threadhub_search", "threadhub_search: DELETE on threads is more", false},
		{"REVOKE SELECT (words) ON messages FROM threadhub_search", "messages.words is what who searches needs", false},
		{"GRANT DELETE ON ledger TO threadhub_janitor", "threadhub_janitor: DELETE on ledger is more", false},
		{"GRANT SELECT (raw) ON messages TO threadhub_janitor", "threadhub_janitor: SELECT on messages.raw is more", false},
		{"GRANT UPDATE ON threads TO threadhub_janitor", "threadhub_janitor: UPDATE on threads is more", false},
		{"ALTER POLICY cleared ON threads USING (deleted_at IS NOT NULL)", "threads.cleared is not the policy", true},
		{"ALTER POLICY searched ON messages USING (true)", "messages.searched is not the policy", true},
		{"GRANT SELECT ON secrets TO PUBLIC", "SELECT on secrets is granted to everybody", false},
		{"ALTER TABLE threads OWNER TO threadhub_app", "threadhub_app is a role that owns something", true},
		{"GRANT CREATE ON SCHEMA public TO threadhub_app", "threadhub_app is a role that may create", false},
		{"CREATE EXTENSION pg_stat_statements", "", false}, // its views and functions are not ours
	} {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), tc.change)
		if err == nil {
			guardErr := migrations.Guard(t.Context(), tx)
			if got := code(guardErr) == "tenant_context" && strings.Contains(guardErr.Error(), tc.guard); got != (tc.guard != "") || tc.guard == "" && guardErr != nil {
				t.Errorf("%s: Guard says %v, want %q", tc.change, guardErr, tc.guard)
			}
			if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE threadhub_app"); err != nil {
				t.Fatal(err)
			}
			boundErr := migrations.Bound(t.Context(), tx)
			if got := code(boundErr) == "tenant_context"; got != tc.bound || !got && boundErr != nil {
				t.Errorf("%s: Bound says %v", tc.change, boundErr)
			}
		} else if tc.guard != "" {
			t.Errorf("%s: %v", tc.change, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := migrations.Guard(t.Context(), c); err != nil {
		t.Errorf("after all that was rolled back: %v", err)
	}
}

func TestGuardRoles(t *testing.T) {
	t.Parallel()
	url := testkit.StartFor(t, testkit.Options{NoRedis: true}).Postgres.URL()
	up(t, url)
	c := connect(t, url)
	for change, want := range map[string]string{
		"ALTER ROLE threadhub_app SUPERUSER":                          "threadhub_app is a role with more rights",
		"ALTER ROLE threadhub_app BYPASSRLS":                          "threadhub_app is a role with more rights",
		"ALTER ROLE threadhub_settler BYPASSRLS":                      "threadhub_settler is a role with more rights",
		"ALTER ROLE threadhub_app LOGIN":                              "threadhub_app is a role with more rights",
		"GRANT pg_read_all_data TO threadhub_settler":                 "threadhub_settler is a role within another role",
		"GRANT postgres TO threadhub_app":                             "threadhub_app is a role within another role",
		"CREATE SCHEMA theirs AUTHORIZATION threadhub_settler":        "threadhub_settler is a role that owns something",
		"ALTER ROLE threadhub_settler RENAME TO threadhub_out_of_way": "threadhub_settler is a role with more rights",
	} {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		if err := migrations.Guard(t.Context(), tx); code(err) != "tenant_context" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", change, err, want)
		}
		if strings.Contains(change, "threadhub_app") && !strings.Contains(change, "LOGIN") {
			if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE threadhub_app"); err != nil {
				t.Fatal(err)
			}
			if err := migrations.Bound(t.Context(), tx); code(err) != "tenant_context" {
				t.Errorf("%s: Bound says %v", change, err)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// What is taken away while a server runs is noticed; what a later version adds is not minded.
func TestStands(t *testing.T) {
	t.Parallel()
	owner := connect(t, testkit.Postgres(t))
	app := connect(t, owner.Config().ConnString())
	for _, set := range []struct{ on, q string }{
		{"owner", `INSERT INTO orgs (org_id, name, tier, seats) VALUES ('org_a', 'a', 'trial', 1)`},
		{"app", "SET ROLE threadhub_app"},
	} {
		c := owner
		if set.on == "app" {
			c = app
		}
		if _, err := c.Exec(t.Context(), set.q); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ change, back, want string }{
		{`SELECT 1`, `SELECT 1`, ""},
		{`CREATE TABLE later (org_id text PRIMARY KEY); ALTER TABLE later ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
			CREATE POLICY own_org ON later TO threadhub_app USING (false); CREATE POLICY more ON orgs FOR SELECT TO threadhub_settler USING (true)`, `DROP POLICY more ON orgs; DROP TABLE later`, ""},
		{`ALTER TABLE orgs DISABLE ROW LEVEL SECURITY`, `ALTER TABLE orgs ENABLE ROW LEVEL SECURITY`, "orgs is not under forced"},
		{`ALTER TABLE ledger NO FORCE ROW LEVEL SECURITY`, `ALTER TABLE ledger FORCE ROW LEVEL SECURITY`, "ledger is not under forced"},
		{`ALTER POLICY own_org ON calls RENAME TO other`, `ALTER POLICY other ON calls RENAME TO own_org`, "calls has lost the policy own_org"},
		{`ALTER POLICY shown_key ON api_keys RENAME TO other`, `ALTER POLICY other ON api_keys RENAME TO shown_key`, "api_keys has lost the policy shown_key"},
		{`CREATE POLICY more ON orgs TO threadhub_app USING (true)`, `DROP POLICY more ON orgs`, "orgs shows rows"},
	} {
		if _, err := owner.Exec(t.Context(), tc.change); err != nil {
			t.Fatal(err)
		}
		err := migrations.Stands(t.Context(), app)
		if tc.want == "" && err != nil || tc.want != "" && (code(err) != "tenant_context" || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.change, err, tc.want)
		}
		if _, err := owner.Exec(t.Context(), tc.back); err != nil {
			t.Fatal(err)
		}
	}
}

// A server whose connections are not what they should be does not start.
func TestBound(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	f := func(set, want string) {
		t.Helper()
		c := connect(t, url)
		if _, err := c.Exec(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Bound(t.Context(), c); code(err) != "tenant_context" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
	f("SELECT 1", "works as postgres")
	f("SET ROLE threadhub_settler", "works as threadhub_settler")
	f("SET ROLE threadhub_app; SET app.orgs = 'org_a'", "bound to an org")
	f("SET ROLE threadhub_app; SET app.key_id = 'k'", "bound to an org or a key")

	c := connect(t, testkit.EmptyPostgres(t))
	if _, err := c.Exec(t.Context(), "SET ROLE threadhub_app"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Bound(t.Context(), c); code(err) != "tenant_context" || !strings.Contains(err.Error(), "migrate first") {
		t.Errorf("an empty database: %v", err)
	}
}
