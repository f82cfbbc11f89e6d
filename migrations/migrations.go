// Package migrations is the schema's history: numbered files, the same numbers and the same tables for Postgres and for
// SQLite, and what checks that the schema in a live database keeps orgs apart.
//
// It promises that Up ends at the newest version or says why not, that processes which start together do not hinder each
// other, and that a process killed in the middle leaves nothing an Up cannot finish: a file is one transaction, and runs
// again without harm. It leaves to others when to migrate, and every row.
//
// A new migration is one file up and one down in each folder, with the next number. Each must be able to run twice.
package migrations

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"threadhub/internal/fault"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// table is where a database keeps its version, as golang-migrate's own command would.
const table = "schema_migrations"

// Options of Up. The zero value works.
type Options struct {
	// Member is another login than the URL's that works as the app's roles: the user of DATABASE_URL where migrations
	// have a URL of their own. Postgres only.
	Member string

	Wait     time.Duration // for another process that migrates; 0: 1 min
	LockWait time.Duration // for a table's lock, behind which requests queue; tried again until Wait is over; 0: 2 s
	Log      *slog.Logger  // one line for each file that ran; nil: none
}

// State is where a database stands.
type State struct {
	Version uint // 0: nothing applied
	Latest  uint // the newest this program knows

	// Dirty: a migration began and did not end. Either it is running now, or the next Up repeats it.
	Dirty bool

	Applied, Pending []string // file names without their endings: "0001_orgs"
}

// Current reports whether the schema is the one this program was written for.
func (s State) Current() bool { return s.Version == s.Latest && !s.Dirty }

// step is one migration.
type step struct {
	version uint
	name    string
}

// steps lists the migrations of a dialect, oldest first. The files are ours: a bad name is found by the tests.
func steps(dialect string) []step {
	entries, _ := fs.ReadDir(files, dialect) // sorted by name, and the numbers have leading zeros
	var out []step
	for _, e := range entries {
		name, up := strings.CutSuffix(e.Name(), ".up.sql")
		number, _, _ := strings.Cut(name, "_")
		if v, err := strconv.ParseUint(number, 10, 32); up && err == nil {
			out = append(out, step{uint(v), name})
		}
	}
	return out
}

// Latest is the newest version this program knows.
func Latest() uint {
	s := steps(dialectPostgres)
	return s[len(s)-1].version
}

// Digest names the content of all migration files: equal digests, equal schemas.
func Digest() string {
	h := sha256.New()
	_ = fs.WalkDir(files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))
}

const (
	dialectPostgres = "postgres"
	dialectSQLite   = "sqlite"
)

// dialectOf returns the folder of migrations for url.
func dialectOf(url string) (string, error) {
	switch {
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		return dialectPostgres, nil
	case strings.HasPrefix(url, "sqlite://"):
		return dialectSQLite, nil
	}
	return "", fault.New(fault.Invalid, "the database URL must begin with sqlite:// or postgres://").WithCode("database_url")
}

// Up brings the database to the newest version; one that is there already costs a look. url is postgres://… or
// sqlite://path; a SQLite file is created where it is missing. In Postgres the URL's user must own the database, or be
// allowed to create in its schema public, and the app's roles are made first (see Roles).
//
// The context ends Up between two files; a file that runs is waited for, at most to the context's deadline.
//
// Errors are faults: migration_locked when another process did not finish, or traffic did not let go of a table, within
// Wait; schema_newer when a newer program has been here; migration_failed; storage_unavailable.
func Up(ctx context.Context, url string, o Options) error {
	o = o.withDefaults()
	dialect, err := dialectOf(url)
	if err != nil {
		return err
	}
	if dialect == dialectPostgres {
		if err := Roles(ctx, url, o.Member); err != nil {
			return err
		}
	}
	switch s, err := Status(ctx, url); {
	case err != nil:
		return err
	case s.Current():
		return nil
	case s.Version > s.Latest:
		return newer(s.Version)
	}
	deadline := time.Now().Add(o.Wait)
	d, err := open(ctx, url, o)
	if err != nil {
		return err
	}
	defer d.close()
	for try := 1; ; try++ {
		more, err := d.up(o.Log)
		switch {
		case err == nil && !more:
			return nil
		case ctx.Err() != nil:
			return failed(context.Cause(ctx))
		case err == nil:
		case !lockNotFree(err):
			return failed(err)
		case time.Now().After(deadline):
			return locked(err)
		default:
			pause(ctx, try) // traffic gets the table meanwhile
		}
	}
}

// Down takes back the newest n migrations, with all that is in their tables; n beyond the first takes back all.
func Down(ctx context.Context, url string, n int) error {
	if _, err := dialectOf(url); err != nil {
		return err
	}
	d, err := open(ctx, url, Options{}.withDefaults())
	if err != nil {
		return err
	}
	defer d.close()
	n, err = d.mendDown(n)
	if err != nil {
		return failed(err)
	}
	for range n {
		if ctx.Err() != nil {
			return failed(context.Cause(ctx))
		}
		err := d.m.Steps(-1)
		var short migrate.ErrShortLimit
		switch {
		case errors.Is(err, os.ErrNotExist), errors.As(err, &short):
			return nil // it was the first
		case lockNotFree(err):
			return locked(err)
		case err != nil:
			return failed(cause(err))
		}
	}
	return nil
}

// Status tells where the database stands. It changes nothing and creates nothing.
func Status(ctx context.Context, url string) (State, error) {
	dialect, err := dialectOf(url)
	if err != nil {
		return State{}, err
	}
	look := postgresVersion
	if dialect == dialectSQLite {
		look = sqliteVersion
	}
	version, dirty, err := look(ctx, url)
	if err != nil {
		return State{}, err
	}
	s := State{Version: uint(max(version, 0)), Latest: Latest(), Dirty: dirty}
	for _, st := range steps(dialect) {
		if st.version < s.Version || st.version == s.Version && !dirty {
			s.Applied = append(s.Applied, st.name)
		} else {
			s.Pending = append(s.Pending, st.name)
		}
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Wait <= 0 {
		o.Wait = time.Minute
	}
	if o.LockWait <= 0 {
		o.LockWait = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// opened is a database that this process, and no other, is migrating.
type opened struct {
	m      *migrate.Migrate
	driver database.Driver
	steps  []step
	ran    func() (int, error) // the newest file that has run, from firstOnce on; 0: none of those. nil: all may run again
	close  func()
}

// firstOnce is the first migration that SQLite cannot run twice, as it has no ALTER TABLE … IF NOT EXISTS. From there on
// its files say themselves, in their own transaction, that they have run.
const firstOnce = 5

func open(ctx context.Context, url string, o Options) (*opened, error) {
	dialect, err := dialectOf(url)
	if err != nil {
		return nil, err
	}
	dial := openPostgres
	if dialect == dialectSQLite {
		dial = openSQLite
	}
	driver, ran, release, err := dial(ctx, url, o)
	if err != nil {
		return nil, err
	}
	source, err := iofs.New(files, dialect)
	if err != nil {
		release()
		return nil, failed(err)
	}
	m, err := migrate.NewWithInstance("iofs", source, dialect, driver)
	if err != nil {
		release()
		return nil, failed(err)
	}
	return &opened{m: m, driver: driver, steps: steps(dialect), ran: ran, close: func() {
		_, _ = m.Close()
		release()
	}}, nil
}

// up runs the next file. One at a time: golang-migrate reads ahead, and after a failure nobody would take what it read.
func (d *opened) up(log *slog.Logger) (more bool, err error) {
	version, dirty, err := d.driver.Version()
	if err != nil {
		return false, err
	}
	if dirty {
		// We hold the lock, so whoever began this is gone. Its file ran whole or not at all, and may run again, or says that
		// it has run.
		ran, err := d.hasRun()
		if err != nil {
			return false, err
		}
		if version = d.before(version); ran != 0 {
			version = ran
		}
		if err := d.m.Force(version); err != nil {
			return false, err
		}
	}
	next := d.after(version)
	switch {
	case version > d.latest():
		return false, newer(uint(version))
	case next == nil:
		return false, nil
	}
	start := time.Now()
	if err := d.m.Steps(1); err != nil {
		return true, fmt.Errorf("%s: %w", next.name, cause(err))
	}
	log.Info("migrated", "migration", next.name, "took", time.Since(start))
	return true, nil
}

// mendDown prepares a dirty database for n steps down. Which way the lost migration went is unknown: beginning one above
// it is right either way, as files that drop what is not there do nothing.
func (d *opened) mendDown(n int) (int, error) {
	version, dirty, err := d.driver.Version()
	if err != nil || !dirty {
		return n, err
	}
	ran, err := d.hasRun()
	switch next := d.after(version); {
	case err != nil:
		return n, err
	case d.ran != nil && version >= firstOnce-1: // what has run is known
		if ran == 0 {
			ran = firstOnce - 1
		}
		if ran > version {
			n++
		}
		return n, d.m.Force(ran)
	case next == nil:
		return n, d.m.Force(version)
	default:
		return n + 1, d.m.Force(int(next.version))
	}
}

func (d *opened) hasRun() (int, error) {
	if d.ran == nil {
		return 0, nil
	}
	return d.ran()
}

// before returns the version that comes before v, or database.NilVersion.
func (d *opened) before(v int) int {
	p := database.NilVersion
	for _, s := range d.steps {
		if int(s.version) < v {
			p = int(s.version)
		}
	}
	return p
}

// after returns the migration that comes after version v, nil if there is none.
func (d *opened) after(v int) *step {
	for i := range d.steps {
		if int(d.steps[i].version) > v {
			return &d.steps[i]
		}
	}
	return nil
}

func (d *opened) latest() int { return int(d.steps[len(d.steps)-1].version) }
