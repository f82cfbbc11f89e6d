package testkit

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/migrations"
)

// prepare is how long making a database may take on a busy machine.
const prepare = 2 * time.Minute

// Postgres returns the URL of a fresh database with all migrations applied, for a superuser. It is dropped when the test
// is over, together with whatever is still connected to it.
func Postgres(t testing.TB) string {
	t.Helper()
	server := service(t, EnvPostgres, "Postgres")
	ctx, cancel := context.WithTimeout(context.Background(), prepare)
	defer cancel()
	template, err := makeTemplate(ctx, server)
	if err != nil {
		t.Fatalf("making the template database: %v", err)
	}
	return database(ctx, t, server, template)
}

// EmptyPostgres is Postgres without any migration.
func EmptyPostgres(t testing.TB) string {
	t.Helper()
	server := service(t, EnvPostgres, "Postgres")
	ctx, cancel := context.WithTimeout(context.Background(), prepare)
	defer cancel()
	return database(ctx, t, server, "template1")
}

func database(ctx context.Context, t testing.TB, server, template string) string {
	t.Helper()
	name := "threadhub_" + strings.ToLower(rand.Text())
	if err := onServer(ctx, server, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("making a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), prepare)
		defer cancel()
		if err := onServer(ctx, server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("dropping the test's database: %v", err)
		}
	})
	return withDatabase(server, name)
}

func onServer(ctx context.Context, server string, statements ...string) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// withDatabase returns server's URL with another database in it.
func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server // onServer has connected with it: it parses
	}
	u.Path = "/" + name
	return u.String()
}

// templateLock is the advisory lock under which a template is made: the test binaries of many packages start at once.
const templateLock = 0x7468726561646875

// makeTemplate makes sure that the server has a database with the migrations of this build, and returns its name. Being
// marked as a template is the sign that it is whole.
func makeTemplate(ctx context.Context, server string) (name string, err error) {
	name = "threadhub_tpl_" + migrations.Digest()[:16]
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	whole := func() (is bool, err error) {
		err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)", name).Scan(&is)
		return is, err
	}
	if is, err := whole(); is || err != nil {
		return name, err
	}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
		return "", err
	}
	if is, err := whole(); is || err != nil {
		return name, err
	}
	for _, s := range []string{"DROP DATABASE IF EXISTS " + name + " WITH (FORCE)", "CREATE DATABASE " + name} {
		if _, err := conn.Exec(ctx, s); err != nil {
			return "", err
		}
	}
	if err := migrations.Up(ctx, withDatabase(server, name), migrations.Options{}); err != nil {
		return "", err
	}
	// Nobody may connect any more: a database somebody looks at cannot be copied.
	_, err = conn.Exec(ctx, "ALTER DATABASE "+name+" WITH IS_TEMPLATE true ALLOW_CONNECTIONS false")
	return name, err
}
