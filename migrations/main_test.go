package migrations_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

// processURL makes the test binary a process that migrates, as `threadhub migrate` would be.
const processURL = "MIGRATIONS_TEST_PROCESS_URL"

func TestMain(m *testing.M) {
	if url := os.Getenv(processURL); url != "" {
		fmt.Println("ready")
		if err := migrations.Up(context.Background(), url, migrations.Options{}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testkit.Leaks(m)
}

// process starts a process that migrates url and returns when it is about to begin.
func process(t *testing.T, url string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processURL+"="+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process said %q: %v", line, err)
	}
	return cmd
}

// empty makes a database without migrations, one for each dialect.
var empty = map[string]func(*testing.T) string{
	"postgres": func(t *testing.T) string { return testkit.EmptyPostgres(t) },
	"sqlite":   func(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "new", "threadhub.db") },
}

// onBoth runs a test on an empty database of each dialect.
func onBoth(t *testing.T, f func(t *testing.T, url string)) {
	for name, open := range empty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t))
		})
	}
}

func up(t *testing.T, url string) {
	t.Helper()
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
}

func down(t *testing.T, url string, n int) {
	t.Helper()
	if err := migrations.Down(t.Context(), url, n); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, url string) migrations.State {
	t.Helper()
	s, err := migrations.Status(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func isPostgres(url string) bool { return strings.HasPrefix(url, "postgres") }

// open returns url's database for a test's own statements.
func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", url
	if !isPostgres(url) {
		db.RegisterFunctions()
		driver, dsn = "sqlite", db.SQLiteDSN(db.SQLitePath(url), false)
	}
	d, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// exec runs statements, each by itself.
func execAll(t *testing.T, url string, statements ...string) {
	t.Helper()
	d := open(t, url)
	defer func() { _ = d.Close() }()
	for _, s := range statements {
		if _, err := d.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// connect opens one Postgres session.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}
