package migrations

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	migratesqlite "github.com/golang-migrate/migrate/v4/database/sqlite"
	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"threadhub/internal/db"
	"threadhub/internal/fault"
)

// openSQLite opens the file and takes a lock beside it: golang-migrate's own for SQLite is within one process. The lock
// is the kernel's and ends with the process, however it ends.
func openSQLite(ctx context.Context, url string, o Options) (_ database.Driver, ran func() (int, error), release func(), err error) {
	db.RegisterFunctions()
	path := db.SQLitePath(url)
	if path == "" {
		return nil, nil, nil, fault.New(fault.Invalid, "a sqlite:// URL needs a path: sqlite://data/threadhub.db").WithCode("database_url")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, nil, unavailable(err)
	}
	unlock, err := lockFile(ctx, path+".migrate", o.Wait)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := sql.Open("sqlite", db.SQLiteDSN(path, false))
	if err != nil {
		unlock()
		return nil, nil, nil, unavailable(err)
	}
	d.SetMaxOpenConns(1)
	release = func() {
		_ = d.Close()
		unlock()
	}
	driver, err := migratesqlite.WithInstance(d, &migratesqlite.Config{MigrationsTable: table})
	if err != nil {
		release()
		if sqliteBusy(cause(err)) {
			return nil, nil, nil, locked(cause(err))
		}
		return nil, nil, nil, unavailable(cause(err))
	}
	ran = func() (version int, err error) {
		if err := d.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return 0, unavailable(err)
		}
		if version < firstOnce {
			return 0, nil
		}
		return version, nil
	}
	return driver, ran, release, nil
}

func lockFile(ctx context.Context, path string, wait time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unavailable(err)
	}
	deadline := time.Now().Add(wait)
	for try := 1; ; try++ {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline):
			pause(ctx, try)
			continue
		}
		_ = f.Close()
		return nil, locked(err)
	}
}

func sqliteVersion(ctx context.Context, url string) (version int, dirty bool, err error) {
	path := db.SQLitePath(url)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return database.NilVersion, false, nil // a look must not create it
	}
	db.RegisterFunctions()
	d, err := sql.Open("sqlite", db.SQLiteDSN(path, true))
	if err != nil {
		return 0, false, unavailable(err)
	}
	defer func() { _ = d.Close() }()
	var there int
	if err := d.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1", table).Scan(&there); err != nil {
		return 0, false, unavailable(err)
	}
	if there == 0 {
		return database.NilVersion, false, nil
	}
	if err := d.QueryRowContext(ctx, "SELECT coalesce(max(version), -1), coalesce(max(dirty), 0) FROM "+table).Scan(&version, &dirty); err != nil {
		return 0, false, unavailable(err)
	}
	return version, dirty, nil
}

func sqliteBusy(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}
