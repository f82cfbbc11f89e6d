package testkit_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"threadhub/internal/testkit"
	"threadhub/migrations"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	a, b, none := testkit.Postgres(t), testkit.Postgres(t), testkit.EmptyPostgres(t)
	if a == b {
		t.Fatal("two tests would share a database")
	}
	for url, want := range map[string]bool{a: true, b: true, none: false} {
		s, err := migrations.Status(t.Context(), url)
		if err != nil || s.Current() != want {
			t.Errorf("%s: %+v, %v", url, s, err)
		}
	}
	if _, err := connect(t, a).Exec(t.Context(), "INSERT INTO orgs (org_id, name, tier, seats) VALUES ('a', '', '', 1)"); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := connect(t, b).QueryRow(t.Context(), "SELECT count(*) FROM orgs").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d orgs of another test: %v", n, err)
	}
}

// A database is dropped when its test is over, also when the test forgot a connection.
func TestPostgresDropped(t *testing.T) {
	t.Parallel()
	keep := testkit.EmptyPostgres(t)
	var url string
	var forgotten *pgx.Conn
	t.Run("test", func(t *testing.T) {
		url = testkit.EmptyPostgres(t)
		c, err := pgx.Connect(context.Background(), url)
		if err != nil {
			t.Fatal(err)
		}
		forgotten = c
	})
	defer func() { _ = forgotten.Close(context.Background()) }()
	var n int
	err := connect(t, keep).QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = $1", filepath.Base(strings.Split(url, "?")[0])).Scan(&n)
	if err != nil || n != 0 {
		t.Errorf("it is still there: %d, %v", n, err)
	}
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	s, err := migrations.Status(t.Context(), testkit.SQLite(t))
	if err != nil || !s.Current() {
		t.Errorf("%+v, %v", s, err)
	}
}

func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.PoolSize = 2
	o.MaxRetries = -1
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestRedis(t *testing.T) {
	t.Parallel()
	a, b := client(t, testkit.Redis(t)), client(t, testkit.Redis(t))
	if err := a.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := b.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Errorf("%d keys of another test: %v", n, err)
	}
}

// The servers can be killed, frozen and started again, and a durable Postgres keeps what it answered for.
func TestServers(t *testing.T) {
	t.Parallel()
	s := testkit.StartFor(t, testkit.Options{Durable: true})
	pg := s.Postgres
	c := connect(t, pg.URL())
	var fsync string
	if err := c.QueryRow(t.Context(), "SHOW fsync").Scan(&fsync); err != nil || fsync != "on" {
		t.Fatalf("fsync is %q: %v", fsync, err)
	}
	if _, err := c.Exec(t.Context(), "CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	restart := func(what string) {
		t.Helper()
		if err := pg.Restart(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var x int
		if err := connect(t, pg.URL()).QueryRow(t.Context(), "SELECT x FROM kept").Scan(&x); err != nil || x != 7 {
			t.Fatalf("%s: %d, %v", what, x, err)
		}
	}
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	if pg.PID() != 0 {
		t.Fatal("it runs on")
	}
	if err := pg.Kill(); err == nil {
		t.Error("what does not run was killed")
	}
	restart("after kill -9")

	if err := pg.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	restart("after an immediate shutdown")

	c = connect(t, pg.URL())
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- c.Ping(context.Background()) }()
	select {
	case err := <-answer:
		t.Errorf("it answered though frozen: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := pg.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("after the thaw: %v", err)
	}
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	restart("killed while frozen")

	r := client(t, s.Redis.URL())
	if err := r.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Redis.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Ping(t.Context()).Err(); err == nil {
		t.Error("Redis answers though killed")
	}
	if err := s.Redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Exists(t.Context(), "k").Result(); err != nil || n != 0 {
		t.Errorf("Redis kept %d: %v", n, err)
	}
}

// A cluster may begin as a copy of another one that has ended.
func TestPostgresFromAnother(t *testing.T) {
	t.Parallel()
	first := testkit.StartFor(t, testkit.Options{NoRedis: true})
	c := connect(t, first.Postgres.URL())
	if _, err := c.Exec(t.Context(), "CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	if err := first.Postgres.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := first.Postgres.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := testkit.StartFor(t, testkit.Options{NoRedis: true, From: first.Data})
	var x int
	if err := connect(t, second.Postgres.URL()).QueryRow(t.Context(), "SELECT x FROM kept").Scan(&x); err != nil || x != 7 {
		t.Fatalf("%d, %v", x, err)
	}
}

// A server that cannot start says why.
func TestStartFails(t *testing.T) {
	t.Parallel()
	testkit.StartFor(t, testkit.Options{NoRedis: true}) // the binaries are there
	s, err := testkit.Start(t.Context(), testkit.Options{NoRedis: true, Postgres: []string{"no_such_setting=1"}})
	if err == nil {
		t.Error("it started", s.Stop())
	} else if !strings.Contains(err.Error(), "no_such_setting") {
		t.Error(err)
	}
}

// services builds the command and returns how to run a shell line under it.
func services(t *testing.T) func(line string) *exec.Cmd {
	t.Helper()
	testkit.Postgres(t) // no services, no test
	bin := filepath.Join(t.TempDir(), "services")
	if out, err := exec.Command("go", "build", "-o", bin, "./cmd/services").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func(line string) *exec.Cmd { return exec.Command(bin, "--", "sh", "-c", line) }
}

// folder is a temporary folder that the user postgres may pass through, unlike a test's own. What a killed command left
// in it goes with it.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "testkit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testkit.Eventually(t, 10*time.Second, func() bool { return os.RemoveAll(dir) == nil })
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The command under services has its environment, and its exit code comes out; signals go in; the servers are gone
// afterwards, however it ends.
func TestCommand(t *testing.T) {
	t.Parallel()
	run := services(t)
	gone := func(url string) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, err := pgx.Connect(ctx, url)
			if err == nil {
				_ = c.Close(ctx)
			}
			return err != nil
		}, "Postgres still runs")
	}

	cmd := run(`echo "is $TEST_POSTGRES_URL $TEST_REDIS_URL $THREADHUB_TEST_SERVICES"; exit 7`)
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 7 {
		t.Fatalf("exit code: %v", err)
	}
	var pg, rd, services string
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if _, err := fmt.Sscanf(lines[len(lines)-1], "is %s %s %s", &pg, &rd, &services); err != nil || services != "required" {
		t.Fatalf("%v: %s", err, out)
	}
	if lines[0] != "export TEST_POSTGRES_URL="+pg || lines[1] != "export TEST_REDIS_URL="+rd {
		t.Errorf("it printed %q", lines)
	}
	gone(pg)

	for name, tc := range map[string]struct {
		line string
		sig  syscall.Signal
		code int
	}{
		"TERM is passed on":    {"trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done", syscall.SIGTERM, 9},
		"INT ends the command": {"echo ready; exec sleep 60", syscall.SIGINT, 130},
		"services is killed":   {"echo ready; exec sleep 5", syscall.SIGKILL, -1},
	} {
		cmd := run(tc.line)
		cmd.Env = append(os.Environ(), "TMPDIR="+folder(t))
		file, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = file
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said string
		testkit.Eventually(t, 30*time.Second, func() bool {
			b, _ := os.ReadFile(file.Name())
			said = string(b)
			return strings.Contains(said, "ready")
		})
		if err := cmd.Process.Signal(tc.sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		_ = file.Close()
		if code := cmd.ProcessState.ExitCode(); code != tc.code {
			t.Errorf("%s: exit code %d, want %d", name, code, tc.code)
		}
		pg, _, _ := strings.Cut(strings.TrimPrefix(said, "export TEST_POSTGRES_URL="), "\n")
		gone(pg)
	}
}

// fake records what a function of this package does to its test.
type fake struct {
	testing.TB
	fatal, skip string
}

func (f *fake) Helper() {}
func (f *fake) Fatalf(format string, args ...any) {
	f.fatal = fmt.Sprintf(format, args...)
	panic(f)
}

func (f *fake) Skipf(format string, args ...any) {
	f.skip = fmt.Sprintf(format, args...)
	panic(f)
}

func under(call func(testing.TB)) (f *fake) {
	f = new(fake)
	defer func() { _ = recover() }()
	call(f)
	return f
}

// Without servers a test is skipped, unless the run may leave nothing out.
func TestMissing(t *testing.T) {
	t.Setenv(testkit.EnvPostgres, "")
	t.Setenv(testkit.EnvRedis, "")
	calls := map[string]func(testing.TB){
		"Postgres":      func(t testing.TB) { testkit.Postgres(t) },
		"EmptyPostgres": func(t testing.TB) { testkit.EmptyPostgres(t) },
		"Redis":         func(t testing.TB) { testkit.Redis(t) },
		"StartFor":      func(t testing.TB) { testkit.StartFor(t, testkit.Options{}) },
	}
	for _, env := range [][2]string{{"", ""}, {"CI", "true"}, {testkit.EnvServices, "required"}} {
		t.Setenv("CI", "")
		t.Setenv(testkit.EnvServices, "")
		if env[0] != "" {
			t.Setenv(env[0], env[1])
		}
		for name, call := range calls {
			f := under(call)
			if required := env[0] != ""; (f.fatal != "") != required || (f.skip != "") == required {
				t.Errorf("%s with %v: fatal %q, skip %q", name, env, f.fatal, f.skip)
			}
		}
	}
}

func TestEventually(t *testing.T) {
	t.Parallel()
	n := 0
	testkit.Eventually(t, time.Minute, func() bool { n++; return n == 3 })
	f := under(func(t testing.TB) {
		testkit.Eventually(t, 20*time.Millisecond, func() bool { return false }, "no %d", 5)
	})
	if !strings.HasPrefix(f.fatal, "no 5") {
		t.Errorf("it failed with %q", f.fatal)
	}
}
