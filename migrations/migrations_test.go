package migrations_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

// The same numbers and names on both sides, from 1 without a gap, each with its way back.
func TestFiles(t *testing.T) {
	list := func(dir string) (names []string) {
		entries, err := fs.ReadDir(os.DirFS("."), dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	pg := list("postgres")
	if diff := cmp.Diff(pg, list("sqlite")); diff != "" {
		t.Errorf("the folders differ (-postgres +sqlite):\n%s", diff)
	}
	if len(pg) != 2*int(migrations.Latest()) {
		t.Errorf("%d files for %d versions", len(pg), migrations.Latest())
	}
	form := regexp.MustCompile(`^(\d{4})_[a-z_]+\.(up|down)\.sql$`)
	for i, name := range pg {
		m := form.FindStringSubmatch(name)
		if m == nil || m[1] != fmt.Sprintf("%04d", i/2+1) || m[2] != []string{"down", "up"}[i%2] {
			t.Errorf("%s is not the file that should be at place %d", name, i)
		}
	}
}

func TestUpDownUp(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		if s := status(t, url); s.Version != 0 || s.Current() || s.Dirty || len(s.Pending) != int(migrations.Latest()) || s.Applied != nil {
			t.Fatalf("an empty database: %+v", s)
		}
		up(t, url)
		s := status(t, url)
		if !s.Current() || s.Version != migrations.Latest() || len(s.Pending) != 0 || s.Applied[0] != "0001_orgs" {
			t.Fatalf("after Up: %+v", s)
		}
		before := describe(t, url)
		if len(before) < 10 {
			t.Fatalf("only %d tables", len(before))
		}
		up(t, url) // nothing to do

		down(t, url, 1)
		if s := status(t, url); s.Version != migrations.Latest()-1 || s.Current() || len(s.Pending) != 1 {
			t.Fatalf("after one step down: %+v", s)
		}
		down(t, url, int(migrations.Latest())) // one more than there are
		if s := status(t, url); s.Version != 0 || s.Dirty {
			t.Fatalf("after all steps down: %+v", s)
		}
		if left := describe(t, url); len(left) != 0 {
			t.Fatalf("left behind: %v", left)
		}
		if isPostgres(url) {
			var types int
			if err := open(t, url).QueryRow(`SELECT count(*) FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'`).Scan(&types); err != nil || types != 0 {
				t.Fatalf("%d types left behind, %v", types, err)
			}
		}
		down(t, url, 1) // nothing to take back

		up(t, url)
		if diff := cmp.Diff(before, describe(t, url)); diff != "" {
			t.Errorf("the second time made another schema (-first +second):\n%s", diff)
		}
	})
}

// A process was killed while version v was on its way. Its file has run or not, upwards or downwards: the next Up ends
// with the whole schema, and the next Down with the one it was asked for.
func TestDirty(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		up(t, url)
		whole := describe(t, url)
		mark := func(version int) {
			t.Helper()
			execAll(t, url, "DELETE FROM schema_migrations", fmt.Sprintf("INSERT INTO schema_migrations (version, dirty) VALUES (%d, true)", version))
			if s := status(t, url); !s.Dirty || s.Current() {
				t.Fatalf("not dirty: %+v", s)
			}
		}
		check := func(what string) {
			t.Helper()
			if s := status(t, url); !s.Current() {
				t.Fatalf("%s: %+v", what, s)
			}
			if diff := cmp.Diff(whole, describe(t, url)); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", what, diff)
			}
		}
		latest := int(migrations.Latest())
		begin := reach(t, url)
		for v := range latest + 1 {
			there := v
			if v == 0 {
				there = -1 // what golang-migrate writes for "none"
			}
			for _, applied := range []int{v - 1, v, v + 1} {
				if applied < 0 || applied > latest {
					continue
				}
				what := fmt.Sprintf("dirty at %d, %d applied", v, applied)
				begin(applied)
				mark(there)
				up(t, url)
				check(what + ", up")

				begin(applied)
				mark(there)
				down(t, url, latest)
				if left := describe(t, url); len(left) != 0 {
					t.Fatalf("%s, down: left behind %v", what, left)
				}
				if applied == v {
					up(t, url)
				}
			}
		}
	})
}

// reach returns what brings a database to so many versions applied. A SQLite file is put in the place of the other one,
// as that is cheaper than the way there.
func reach(t *testing.T, url string) func(applied int) {
	t.Helper()
	latest := int(migrations.Latest())
	if isPostgres(url) {
		return func(applied int) {
			t.Helper()
			up(t, url)
			down(t, url, latest-applied)
		}
	}
	path := strings.TrimPrefix(url, "sqlite://")
	with := make([][]byte, latest+1)
	for applied := range slices.Backward(with) {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		with[applied] = file
		down(t, url, 1)
	}
	return func(applied int) {
		t.Helper()
		if left, err := filepath.Glob(path + "-*"); err != nil || len(left) > 0 {
			t.Fatalf("the file is in use: %q, %v", left, err)
		}
		if err := os.WriteFile(path, with[applied], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Many processes start at once on a new installation.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	for name, open := range empty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for round := range 20 {
				url := open(t)
				errs := make([]error, 2)
				var wg sync.WaitGroup
				for i := range errs {
					wg.Go(func() { errs[i] = migrations.Up(t.Context(), url, migrations.Options{}) })
				}
				wg.Wait()
				if errs[0] != nil || errs[1] != nil {
					t.Fatalf("round %d: %v, %v", round, errs[0], errs[1])
				}
				if s := status(t, url); !s.Current() {
					t.Fatalf("round %d: %+v", round, s)
				}
			}
		})
		t.Run(name+"/processes", func(t *testing.T) {
			t.Parallel()
			for round := range 3 {
				url := open(t)
				a, b := process(t, url), process(t, url)
				if e, f := a.Wait(), b.Wait(); e != nil || f != nil {
					t.Fatalf("round %d: %v, %v", round, e, f)
				}
				if s := status(t, url); !s.Current() {
					t.Fatalf("round %d: %+v", round, s)
				}
			}
		})
	}
}

// Processes are killed at any moment of their migration; the next one finishes it.
func TestKilled(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		up(t, url)
		whole := describe(t, url)
		cut := 0
		for round := range 15 {
			down(t, url, int(migrations.Latest()))
			p := process(t, url)
			kill := time.AfterFunc(rand.N(60*time.Millisecond), func() { _ = p.Process.Kill() })
			_ = p.Wait()
			kill.Stop()
			if s := status(t, url); !s.Current() && s.Version > 0 || s.Dirty {
				cut++
			}
			up(t, url)
			if diff := cmp.Diff(whole, describe(t, url)); diff != "" {
				t.Fatalf("round %d (-want +got):\n%s", round, diff)
			}
		}
		t.Logf("%d of 15 were killed in the middle", cut)
	})
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.From(err).Code
}

// A migration neither waits for ever for another one, nor for traffic; and traffic that lets go lets it through.
func TestLockWait(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	// The last file again, which needs the ledger for itself.
	execAll(t, url, fmt.Sprintf("UPDATE schema_migrations SET version = %d, dirty = true", migrations.Latest()))
	traffic := connect(t, url)
	if _, err := traffic.Exec(t.Context(), "BEGIN; LOCK TABLE ledger IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	short := migrations.Options{Wait: 300 * time.Millisecond, LockWait: 20 * time.Millisecond}
	if err := migrations.Up(t.Context(), url, short); code(err) != "migration_locked" {
		t.Fatalf("behind traffic: %v", err)
	}

	done := make(chan error, 1)
	go func() {
		done <- migrations.Up(t.Context(), url, migrations.Options{Wait: time.Minute, LockWait: 20 * time.Millisecond})
	}()
	watch := connect(t, url)
	testkit.Eventually(t, 20*time.Second, func() (waits bool) {
		err := watch.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'ledger'::regclass)").Scan(&waits)
		return err == nil && waits
	}, "Up does not wait for the ledger")
	if err := migrations.Up(t.Context(), url, short); code(err) != "migration_locked" {
		t.Fatalf("behind another migration: %v", err)
	}
	if _, err := traffic.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("after traffic let go: %v", err)
	}
	if s := status(t, url); !s.Current() {
		t.Fatalf("%+v", s)
	}
}

func TestLockWaitSQLite(t *testing.T) {
	t.Parallel()
	url := empty["sqlite"](t)
	up(t, url)
	down(t, url, 1)
	d := open(t, url)
	d.SetMaxOpenConns(1)
	if _, err := d.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- migrations.Up(t.Context(), url, migrations.Options{}) }()
	lock, err := os.OpenFile(strings.TrimPrefix(url, "sqlite://")+".migrate", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if !held(t, lock) {
		t.Fatal("Up does not take the lock")
	}
	start := time.Now()
	if err := migrations.Up(t.Context(), url, migrations.Options{Wait: 50 * time.Millisecond}); code(err) != "migration_locked" {
		t.Fatalf("behind another migration: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it waited %v: for the file, not for the other migration", took)
	}
	if _, err := d.Exec("COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A newer program has been here: Up changes nothing and says so.
func TestNewer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		up(t, url)
		execAll(t, url, "UPDATE schema_migrations SET version = 9999")
		if err := migrations.Up(t.Context(), url, migrations.Options{}); code(err) != "schema_newer" || !strings.Contains(err.Error(), "9999") {
			t.Fatalf("%v", err)
		}
		if s := status(t, url); s.Version != 9999 || s.Dirty || s.Current() {
			t.Fatalf("%+v", s)
		}
	})
}

// Errors have a code, and none repeats the password.
func TestErrors(t *testing.T) {
	t.Parallel()
	f := func(url, want string) {
		t.Helper()
		_, statusErr := migrations.Status(t.Context(), url)
		for what, err := range map[string]error{
			"Up": migrations.Up(t.Context(), url, migrations.Options{}), "Down": migrations.Down(t.Context(), url, 1), "Status": statusErr,
		} {
			if code(err) != want {
				t.Errorf("%s of %s: %v (code %q, want %q)", what, url, err, code(err), want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s tells the password: %v", what, err)
			}
		}
	}
	f("mysql://root:hunter2@127.0.0.1/x", "database_url")
	f("postgres://u:hunter2@127.0.0.1:notaport/x", "database_url")
	f("postgres://u:hunter2@127.0.0.1:1/x?connect_timeout=2", "storage_unavailable")
	f("sqlite:///dev/null/threadhub.db", "storage_unavailable")
}
