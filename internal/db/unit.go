package db

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"time"

	"threadhub/internal/id"
)

// ErrNoRows is what QueryRow returns when there is none.
var ErrNoRows = errors.New("db: no rows")

// Unit is what one call writes in one commit, over several rooms. Each room adds rows through its own stages; the
// stages run in the order the store was opened with, whatever the order rows were added in. A unit must be idempotent by
// its own keys: when the outcome of a commit is unknown it is run again.
type Unit struct {
	Org      id.Org
	Patience time.Duration // how long Commit repeats it while the store is away; 0 means DefaultPatience
	Alone    bool          // it is run by itself: what it meets must not depend on others of a group
	Record   bool          // it closes what an earlier unit opened: never refused for want of room in the queue

	rows [][]any // by stage
	size int
	done chan error

	answered atomic.Bool // its caller was given an answer
}

// Stage is one multi-row statement of a group, owned by the room whose table it writes.
type Stage interface {
	// Name is the room, a dot, and what is done: "calls.open". It is put in front of errors.
	Name() string

	place() *int
	many(rows []any) Statement
	one(ctx context.Context, tx *sql.Tx, row any) error
}

// Statement is one statement over all of a group's rows: their columns go in as arrays, through unnest. Each, if set,
// is called for every row returned. An empty SQL runs nothing.
type Statement struct {
	SQL  string
	Args []any
	Each func(Row) error
}

// ErrRefused, returned by a stage's SQLite form, undoes its unit without that being a failure: the row says why, as it
// does in Postgres where the unit's later statements find nothing to join.
var ErrRefused = errors.New("db: refused")

// StageOf is a Stage whose rows are *R: the stage reads what the caller put in and writes what became of it.
type StageOf[R any] struct {
	name  string
	index int
	pg    func(rows []*R) Statement
	lite  func(ctx context.Context, tx *sql.Tx, row *R) error
}

// NewStage makes a stage from its two forms: one Postgres statement over all rows of a group, and SQLite statements for
// one row.
func NewStage[R any](name string, pg func([]*R) Statement, lite func(context.Context, *sql.Tx, *R) error) *StageOf[R] {
	return &StageOf[R]{name: name, index: -1, pg: pg, lite: lite}
}

// Put adds row to u. size is roughly what the row carries, in bytes.
func (s *StageOf[R]) Put(u *Unit, row *R, size int) {
	for len(u.rows) <= s.index {
		u.rows = append(u.rows, nil)
	}
	u.rows[s.index] = append(u.rows[s.index], row)
	u.size += size
}

func (s *StageOf[R]) Name() string { return s.name }
func (s *StageOf[R]) place() *int  { return &s.index }

func (s *StageOf[R]) many(rows []any) Statement {
	typed := make([]*R, len(rows))
	for i, r := range rows {
		typed[i] = r.(*R)
	}
	return s.pg(typed)
}

func (s *StageOf[R]) one(ctx context.Context, tx *sql.Tx, row any) error {
	return s.lite(ctx, tx, row.(*R))
}

// Order gives stages their places, as Open does: for a Store of another kind, as tests have it in memory.
func Order(stages []Stage) {
	for i, s := range stages {
		*s.place() = i
	}
}

// Rows calls each for every row of u, with the name of its stage, in the order of stages.
func (u *Unit) Rows(stages []Stage, each func(stage string, row any)) {
	for i, rows := range u.rows {
		for _, row := range rows {
			each(stages[i].Name(), row)
		}
	}
}
