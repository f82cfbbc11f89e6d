package migrations_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

// as returns url with another user and database.
func as(t *testing.T, url, user, database string) string {
	t.Helper()
	c, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://%s@%s:%d/%s?sslmode=disable", user, c.Host, c.Port, database)
}

// Roles belong to the cluster: here processes that serve different databases start at once on a cluster without them.
func TestRolesAtOnce(t *testing.T) {
	t.Parallel()
	server := testkit.StartFor(t, testkit.Options{NoRedis: true}).Postgres.URL()
	const databases = 2
	var urls []string
	for i := range databases {
		name := fmt.Sprintf("d%d", i)
		execAll(t, server, "CREATE DATABASE "+name)
		urls = append(urls, as(t, server, "postgres", name))
	}
	execAll(t, server, "CREATE ROLE serving LOGIN")
	for round := range 20 {
		var wg sync.WaitGroup
		errs := make([]error, 4*databases)
		for i := range errs {
			wg.Go(func() { errs[i] = migrations.Roles(t.Context(), urls[i%databases], "serving") })
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("round %d, process %d: %v", round, i, err)
			}
		}
		for _, url := range urls {
			execAll(t, url, "DROP OWNED BY threadhub_app, threadhub_settler")
		}
		execAll(t, server, "DROP ROLE threadhub_app", "DROP ROLE threadhub_settler")
	}

	var wg sync.WaitGroup
	errs := make([]error, 2*databases)
	for i := range errs {
		wg.Go(func() { errs[i] = migrations.Up(t.Context(), urls[i%databases], migrations.Options{}) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("process %d: %v", i, err)
		}
	}
	for _, url := range urls {
		if err := migrations.Guard(t.Context(), connect(t, url)); err != nil {
			t.Error(err)
		}
	}
}

// Operators give the gateway less than a superuser in several ways.
func TestLogins(t *testing.T) {
	t.Parallel()
	server := testkit.StartFor(t, testkit.Options{NoRedis: true}).Postgres.URL()
	execAll(t, server,
		"CREATE ROLE maker LOGIN CREATEROLE", "CREATE DATABASE made OWNER maker",
		"CREATE ROLE owner LOGIN", "CREATE DATABASE owned OWNER owner", "CREATE ROLE serving LOGIN", "CREATE ROLE stranger LOGIN")

	// An owner who may not make roles, before they are there.
	err := migrations.Up(t.Context(), as(t, server, "owner", "owned"), migrations.Options{})
	if code(err) != "database_roles" || !strings.Contains(err.Error(), "CREATEROLE") {
		t.Fatalf("%v", err)
	}
	// An owner who may; another user serves.
	up(t, as(t, server, "maker", "made"))
	if err := migrations.Up(t.Context(), as(t, server, "maker", "made"), migrations.Options{Member: "serving"}); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"maker", "serving"} {
		c := connect(t, as(t, server, user, "made"))
		if _, err := c.Exec(t.Context(), "SET ROLE "+db.AppRole); err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		if err := migrations.Bound(t.Context(), c); err != nil {
			t.Errorf("%s: %v", user, err)
		}
		if err := migrations.Guard(t.Context(), c); err != nil {
			t.Errorf("%s: %v", user, err)
		}
		if _, err := c.Exec(t.Context(), "SET ROLE "+db.SettlerRole); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	// Once that is done, the user that serves needs no migrator any more.
	up(t, as(t, server, "serving", "made"))

	if _, err := connect(t, as(t, server, "stranger", "made")).Exec(t.Context(), "SET ROLE "+db.AppRole); sqlState(err) != "42501" {
		t.Errorf("a stranger puts on the role: %v", err)
	}
	// The owner who may not, once a superuser has done it for them.
	if err := migrations.Roles(t.Context(), as(t, server, "postgres", "owned"), "owner"); err != nil {
		t.Fatal(err)
	}
	up(t, as(t, server, "owner", "owned"))

	// A role that is free of row-level security is refused.
	execAll(t, server, "ALTER ROLE threadhub_app BYPASSRLS")
	if err := migrations.Up(t.Context(), as(t, server, "owner", "owned"), migrations.Options{}); code(err) != "tenant_context" {
		t.Errorf("%v", err)
	}
}
