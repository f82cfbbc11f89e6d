// Package db opens the store and runs what rooms write in it: transactions bound to one org, and units of work that are
// committed many at a time.
//
// It promises that every statement of a Read or Write runs bound to exactly one org (in Postgres by row-level security
// in a transaction-local setting; in SQLite by the statements themselves), that a Unit is committed whole or not at
// all, and that Commit returns only when the commit is durable. It knows no table: each room keeps the SQL of its own.
//
// One text serves both dialects wherever their meaning is one: placeholders are $1, $2, …; now() is the store's clock
// (timestamptz in Postgres, integer nanoseconds in SQLite); a duration is CAST($1 AS interval) with a time.Duration;
// scan times with Time. What differs stands in a room's postgres.go and sqlite.go.
package db

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"threadhub/internal/id"
)

// Dialect is the SQL a store speaks.
type Dialect uint8

const (
	SQLite Dialect = iota
	Postgres
)

func (d Dialect) String() string {
	if d == Postgres {
		return "postgres"
	}
	return "sqlite"
}

// Row is one row of a result.
type Row interface{ Scan(dest ...any) error }

// Tx is a transaction bound to one org, good until the function it was given to returns. Not safe for concurrent use.
type Tx interface {
	// Exec runs a statement and returns how many rows it changed.
	Exec(ctx context.Context, sql string, args ...any) (int64, error)
	// Query runs each for every row.
	Query(ctx context.Context, sql string, args []any, each func(Row) error) error
	// QueryRow scans the first row into dest; ErrNoRows if there is none.
	QueryRow(ctx context.Context, sql string, args []any, dest ...any) error
	Dialect() Dialect
}

// Query is one SELECT of a Store.Query; Each is called for every row.
type Query struct {
	SQL  string
	Args []any
	Each func(Row) error
}

// Store is an open database. Safe for concurrent use.
type Store interface {
	Dialect() Dialect

	// Read runs f in a read-only transaction bound to org. Errors: fault.Unavailable when the store is not there.
	Read(ctx context.Context, org id.Org, f func(Tx) error) error

	// Write runs f in a transaction bound to org and commits it if f returns nil. f may run more than once when the
	// database asks for a repeat (40001, 40P01): it must have no other effects. Errors: as Read, or what f returned.
	Write(ctx context.Context, org id.Org, f func(Tx) error) error

	// Query runs SELECTs bound to org in one round trip.
	Query(ctx context.Context, org id.Org, qs ...Query) error

	// Shown runs f in a read-only transaction that is bound to no org and sees exactly the API key with this id:
	// the one look-up that cannot know its org yet.
	Shown(ctx context.Context, key id.Key, f func(Tx) error) error

	// Common runs f in a read-write transaction bound to no org, for the tables that belong to none (secrets,
	// incarnations). Rows of any org are out of its sight. In Postgres it has a connection that nothing else uses, so that
	// a process that has too much to do does not seem dead to others.
	Common(ctx context.Context, f func(Tx) error) error

	// Walk runs f in a read-only transaction that sees which orgs and open calls there are, over all orgs, and only
	// their ids: the settler's role. Background work then goes org by org. In Postgres, too, it has a connection that no
	// client can keep busy.
	Walk(ctx context.Context, f func(Tx) error) error

	// Search runs f in a read-only transaction that sees, of the org's messages, only where those are that match words,
	// a tsquery, and of its threads what tells whether somebody may see them. SQLite does not read words: there the
	// statement itself says what is looked for.
	Search(ctx context.Context, org id.Org, words string, f func(Tx) error) error

	// Purge runs f in a transaction bound to org that may delete its deleted threads and their messages, and nothing
	// else.
	Purge(ctx context.Context, org id.Org, f func(Tx) error) error

	// Commit runs u in the next group and returns when it is durable, or refused, or its Patience has ended. What
	// each room's rows met is written into the rows. See Unit.
	Commit(ctx context.Context, u *Unit) error

	// Stats returns what the store has been through.
	Stats() Stats

	// Ping asks the store whether it is there.
	Ping(ctx context.Context) error

	Close() error
}

// Time is a point in time as either store keeps it. The zero Time is no time (NULL).
type Time struct{ time.Time }

// Scan reads a timestamptz or integer nanoseconds.
func (t *Time) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		t.Time = time.Time{}
	case time.Time:
		t.Time = v.UTC()
	case int64:
		t.Time = time.Unix(0, v).UTC()
	default:
		return fmt.Errorf("db: a time cannot be read from %T", v)
	}
	return nil
}

// At returns t as an argument for a statement of dialect d: nil when t is zero.
func At(d Dialect, t time.Time) driver.Value {
	switch {
	case t.IsZero():
		return nil
	case d == Postgres:
		return t.UTC()
	default:
		return t.UnixNano()
	}
}
