package migrations

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5/pgconn"

	"threadhub/internal/fault"
)

func newer(version uint) error {
	return fault.New(fault.Conflict, "the database has schema version %d, this program knows %d: a newer program has migrated it",
		version, Latest()).WithCode("schema_newer")
}

func locked(err error) error {
	return fault.Wrap(fault.Unavailable, err, "the database cannot be migrated now: another process is migrating it, or its tables are in use").
		WithCode("migration_locked")
}

func unavailable(err error) error {
	return fault.Wrap(fault.Unavailable, err, "the database cannot be reached").WithCode("storage_unavailable")
}

// failed gives err a kind, unless it has one.
func failed(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	return fault.Wrap(fault.Internal, err, "the migration failed").WithCode("migration_failed")
}

// cause takes the server's own error out of golang-migrate's, which hides it from errors.As and quotes the whole file.
func cause(err error) error {
	var v database.Error
	if errors.As(err, &v) && v.OrigErr != nil {
		return v.OrigErr
	}
	var p *database.Error
	if errors.As(err, &p) && p.OrigErr != nil {
		return p.OrigErr
	}
	return err
}

func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(cause(err), &e) {
		return e.Code
	}
	return ""
}

// lockNotFree reports whether err says that somebody else holds a lock. Deadlocks count: traffic and a migration may
// take two tables in different order, and the next try may be lucky.
func lockNotFree(err error) bool {
	switch sqlState(err) {
	case "55P03", "40P01":
		return true
	}
	return sqliteBusy(cause(err))
}

// pause waits a little longer after each try, with jitter, so that those who collided do not meet again.
func pause(ctx context.Context, try int) {
	d := min(10*time.Millisecond<<min(try, 6), 500*time.Millisecond)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
