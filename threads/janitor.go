package threads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Janitor clears away what deleted threads held, once they have been deleted for long enough: messages, the words searches
// found them by, and last the thread's row, whereupon its id is free. Calls and their ledger lines stay; they hold nothing
// that was said. Any number of processes may clear the same store at once: each thread's end is one transaction, and
// what another has cleared is not there to be cleared twice.
type Janitor struct {
	Threads *Store
	Orgs    func(context.Context) ([]id.Org, error) // all of them, deleted ones too
	Keep    time.Duration                           // how long a deleted thread is kept
	Every   time.Duration                           // 0: 1 h
	Log     *slog.Logger
	Panics  *contain.Panics // nil: they are only logged
}

const (
	janitorEvery = time.Hour

	clearThreads  = 64   // deleted threads that are looked at together
	clearMessages = 1000 // messages that go in one transaction, on SQLite
)

// Run clears now, and then again and again until ctx ends.
func (j *Janitor) Run(ctx context.Context) {
	every := j.Every
	if every == 0 {
		every = janitorEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		n, err := j.Clear(ctx)
		if n > 0 {
			j.Log.Info("deleted threads were cleared away", "threads", n)
		}
		if err != nil && ctx.Err() == nil {
			j.Log.Warn("deleted threads could not be cleared away yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Clear clears all orgs once, and returns how many threads are gone. An org that fails does not keep it from the others.
func (j *Janitor) Clear(ctx context.Context) (n int, err error) {
	orgs, err := j.Orgs(ctx)
	errs := []error{err}
	for _, org := range orgs {
		if ctx.Err() != nil {
			break
		}
		cleared, err := j.clearOrg(ctx, org)
		n += cleared
		if err != nil {
			errs = append(errs, fmt.Errorf("org %s: %w", org, err))
		}
	}
	return n, errors.Join(errs...)
}

func (j *Janitor) clearOrg(ctx context.Context, org id.Org) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			j.Panics.Tell("janitor", v)
			err = fmt.Errorf("panic: %T", v)
		}
	}()
	chaos.Point("janitor")
	for {
		due, err := j.Threads.due(ctx, org, j.Keep)
		if err != nil || len(due) == 0 {
			return n, err
		}
		cleared, err := j.Threads.clear(ctx, org, due, j.Keep)
		n += cleared
		if err != nil || cleared == 0 { // another process has them
			return n, err
		}
	}
}

// long is the condition on a thread that it has been deleted for as long as it is kept. Whoever made another of its name
// meanwhile keeps it: that one is not deleted.
const long = `org_id = $1 AND thread_id = $2 AND deleted_at <= now() - CAST($3 AS interval)`

// due returns some threads that have been deleted for as long as they are kept, the oldest first.
func (s *Store) due(ctx context.Context, org id.Org, keep time.Duration) (due []id.Thread, err error) {
	err = s.db.Purge(ctx, org, func(tx db.Tx) error {
		due = nil
		return tx.Query(ctx, `SELECT thread_id FROM threads WHERE org_id = $1 AND deleted_at <= now() - CAST($2 AS interval) ORDER BY deleted_at LIMIT $3`,
			[]any{org, keep, clearThreads}, func(row db.Row) error {
				var thread id.Thread
				err := row.Scan(&thread)
				due = append(due, thread)
				return err
			})
	})
	return due, err
}

// clear clears threads away, and returns how many there were. A thread's row goes last, so that one whose
// clearing was cut off is found again.
func (s *Store) clear(ctx context.Context, org id.Org, due []id.Thread, keep time.Duration) (n int, err error) {
	if s.db.Dialect() == db.SQLite {
		if err := s.clearSQLite(ctx, org, due, keep); err != nil {
			return 0, err
		}
	}
	for _, thread := range due {
		var gone int64
		err := s.db.Purge(ctx, org, func(tx db.Tx) (err error) {
			if _, err := tx.Exec(ctx, `DELETE FROM messages WHERE org_id = $1 AND thread_id = $2 AND EXISTS (SELECT 1 FROM threads WHERE `+long+`)`,
				org, thread, keep); err != nil {
				return err
			}
			gone, err = tx.Exec(ctx, `DELETE FROM threads WHERE `+long, org, thread, keep)
			return err
		})
		if err != nil {
			return n, err
		}
		n += int(gone)
	}
	return n, nil
}
