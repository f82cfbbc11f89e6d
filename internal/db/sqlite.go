package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// sqliteStore is one file, one connection that writes, and some that read (WAL). synchronous=FULL: a commit that was
// answered survives a power cut as far as the disk's own promise goes.
type sqliteStore struct {
	reads   *sql.DB
	writes  *sql.DB
	writer  *writer
	stages  []Stage
	release func()
}

// SQLitePath returns the file a sqlite:// URL names.
func SQLitePath(u string) string { return strings.TrimPrefix(u, "sqlite://") }

// SQLiteDSN returns what database/sql opens the file with. The pragmas are per connection.
func SQLiteDSN(path string, readOnly bool) string {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=secure_delete(1)&_txlock=immediate"
	if readOnly {
		// A reader must not wait for the writer: deferred, and unable to write.
		dsn = strings.Replace(dsn, "&_txlock=immediate", "&_pragma=query_only(1)&_txlock=deferred", 1)
	}
	return dsn
}

func openSQLite(ctx context.Context, o Options) (Store, error) {
	RegisterFunctions()
	path := SQLitePath(o.URL)
	if path == "" {
		return nil, errors.New("db: a sqlite:// URL needs a path: sqlite://data/threadhub.db")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	s := &sqliteStore{stages: o.Stages, release: func() {}}
	if o.Exclusive {
		release, err := lockFile(path + ".lock")
		if err != nil {
			return nil, err
		}
		s.release = release
	}
	var err error
	if s.writes, err = sql.Open("sqlite", SQLiteDSN(path, false)); err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	s.writes.SetMaxOpenConns(1)
	if s.reads, err = sql.Open("sqlite", SQLiteDSN(path, true)); err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	s.reads.SetMaxOpenConns(o.MaxConns)
	s.reads.SetMaxIdleConns(o.MaxConns)
	if err := s.writes.PingContext(ctx); err != nil {
		_ = s.closeFiles()
		return nil, fmt.Errorf("db: opening %s: %w", path, err)
	}
	s.writer = newWriter(s, newBreaker(), o.Panics)
	return s, nil
}

// lockFile takes the lock that makes this process the file's only server. It is the kernel's: it ends with the process,
// however it ends.
func lockFile(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("db: another threadhub serves from %s; stop it first, or use Postgres for several processes", strings.TrimSuffix(path, ".lock"))
	}
	return func() { _ = f.Close() }, nil
}

func (s *sqliteStore) Dialect() Dialect { return SQLite }

func (s *sqliteStore) Read(ctx context.Context, _ id.Org, f func(Tx) error) error {
	return s.read(ctx, f)
}

func (s *sqliteStore) Shown(ctx context.Context, _ id.Key, f func(Tx) error) error {
	return s.read(ctx, f)
}

func (s *sqliteStore) Walk(ctx context.Context, f func(Tx) error) error { return s.read(ctx, f) }

func (s *sqliteStore) Search(ctx context.Context, _ id.Org, _ string, f func(Tx) error) error {
	return s.read(ctx, f)
}

func (s *sqliteStore) Purge(ctx context.Context, _ id.Org, f func(Tx) error) error {
	return s.Common(ctx, f)
}

func (s *sqliteStore) read(ctx context.Context, f func(Tx) error) error {
	tx, err := s.reads.BeginTx(ctx, nil)
	if err != nil {
		return sqliteFault(err)
	}
	defer func() { _ = tx.Rollback() }()
	return sqliteFault(f(liteTx{tx}))
}

func (s *sqliteStore) Write(ctx context.Context, _ id.Org, f func(Tx) error) error {
	return s.Common(ctx, f)
}

func (s *sqliteStore) Common(ctx context.Context, f func(Tx) error) error {
	tx, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return sqliteFault(err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := f(liteTx{tx}); err != nil {
		return sqliteFault(err)
	}
	return sqliteFault(tx.Commit())
}

func (s *sqliteStore) Query(ctx context.Context, org id.Org, qs ...Query) error {
	return s.read(ctx, func(tx Tx) error {
		for _, q := range qs {
			if err := tx.Query(ctx, q.SQL, q.Args, q.Each); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sqliteStore) Commit(ctx context.Context, u *Unit) error { return s.writer.commit(ctx, u) }

// group runs each unit behind a savepoint: one that is refused or fails leaves nothing, and the others stand. Some
// failures, a full disk above all, end SQLite's transaction and not only the unit: then each unit is run by itself.
func (s *sqliteStore) group(units []*Unit) {
	failed, err := s.together(units)
	if errors.Is(err, errAborted) && len(units) > 1 {
		for _, u := range units {
			s.group([]*Unit{u})
		}
		return
	}
	for i, u := range units {
		if err != nil {
			u.finish(sqliteFault(err))
			continue
		}
		u.finish(sqliteFault(failed[i]))
	}
}

// errAborted is a transaction that is over before its COMMIT: nothing of it stands.
var errAborted = errors.New("db: the transaction was aborted")

// together runs units in one transaction. failed is what became of each; err is for all of them.
func (s *sqliteStore) together(units []*Unit) (failed []error, err error) {
	ctx := context.Background()
	tx, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	failed = make([]error, len(units))
	for i, u := range units {
		if failed[i], err = s.unit(ctx, tx, u); err != nil {
			return nil, err
		}
	}
	return failed, tx.Commit()
}

// unit runs u. failed is u's own failure, err that of the whole transaction.
func (s *sqliteStore) unit(ctx context.Context, tx *sql.Tx, u *Unit) (failed, err error) {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT unit"); err != nil {
		return nil, fmt.Errorf("%w: %w", errAborted, err)
	}
	if failed = s.stagesOf(ctx, tx, u); failed != nil {
		if _, err := tx.ExecContext(ctx, "ROLLBACK TO unit"); err != nil {
			return nil, fmt.Errorf("%w: %w", errAborted, failed)
		}
	}
	if _, err := tx.ExecContext(ctx, "RELEASE unit"); err != nil {
		return nil, fmt.Errorf("%w: %w", errAborted, err)
	}
	if errors.Is(failed, ErrRefused) {
		failed = nil
	}
	return failed, nil
}

func (s *sqliteStore) stagesOf(ctx context.Context, tx *sql.Tx, u *Unit) (err error) {
	defer caught(&err)
	for i, rows := range u.rows {
		for _, row := range rows {
			if err := s.stages[i].one(ctx, tx, row); err != nil {
				return fmt.Errorf("%s: %w", s.stages[i].Name(), err)
			}
		}
	}
	return nil
}

func (s *sqliteStore) Ping(ctx context.Context) error { return sqliteFault(s.reads.PingContext(ctx)) }

func (s *sqliteStore) Close() error {
	s.writer.close()
	return s.closeFiles()
}

func (s *sqliteStore) closeFiles() error {
	var errs []error
	for _, d := range []*sql.DB{s.reads, s.writes} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	s.release()
	return errors.Join(errs...)
}

// sqliteFault gives the file's own troubles a kind; what a room said stays as it is.
func sqliteFault(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return full(err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return unavailable(err)
	}
	return err
}

func full(cause error) *fault.Error {
	return fault.Wrap(fault.Unavailable, cause, "the gateway's storage is full").WithCode("storage_full")
}

// liteTx is a Tx over database/sql.
type liteTx struct{ tx *sql.Tx }

func (t liteTx) Dialect() Dialect { return SQLite }

func (t liteTx) Exec(ctx context.Context, q string, args ...any) (int64, error) {
	r, err := t.tx.ExecContext(ctx, q, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (t liteTx) Query(ctx context.Context, q string, args []any, each func(Row) error) error {
	rows, err := t.tx.QueryContext(ctx, q, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (t liteTx) QueryRow(ctx context.Context, q string, args []any, dest ...any) error {
	err := t.tx.QueryRowContext(ctx, q, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNoRows
	}
	return err
}
