package db

import (
	"context"
	"errors"
	"time"
)

// What tests with a real server need of the store's inside.
const (
	GroupLockWait = groupLockWait
	LaneLockWait  = laneLockWait
)

// Group runs units in one group and returns what each was told.
func Group(s Store, units ...*Unit) []error {
	errs := make([]error, len(units))
	for _, u := range units {
		u.done = make(chan error, 1)
	}
	s.(*postgresStore).group(units)
	for i, u := range units {
		errs[i] = <-u.done
	}
	return errs
}

// Alone runs u in the side lane after its group's connection was lost, with or without u having been sent.
func Alone(s Store, u *Unit, sent bool) error {
	u.done = make(chan error, 1)
	s.(*postgresStore).alone(u, time.Now(), lostError{errors.New("cut"), sent})
	return <-u.done
}

// Unreachable ends every connection s has, and lets it have no other.
func Unreachable(s Store) { s.(*postgresStore).pool.Close() }

// Unbound returns what a pooled connection is bound to while no transaction uses it, which must be nothing, and the role
// it has.
func Unbound(ctx context.Context, s Store) (bound, role string, err error) {
	err = s.(*postgresStore).pool.QueryRow(ctx, `SELECT concat(current_setting('app.orgs', true), current_setting('app.key_id', true),
		current_setting('app.words', true)), current_user`).Scan(&bound, &role)
	return bound, role, err
}
