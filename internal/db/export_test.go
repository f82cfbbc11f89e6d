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

// Unbound returns what s's connections are bound to while no transaction uses them, which must be nothing, and the roles
// they have.
func Unbound(ctx context.Context, s Store) (bound string, roles []string, err error) {
	p := s.(*postgresStore)
	for _, c := range []*conns{p.pool, p.common, p.background} {
		var role string
		err := c.QueryRow(ctx, `SELECT $1 || concat(current_setting('app.orgs', true), current_setting('app.key_id', true),
			current_setting('app.words', true)), current_user`, bound).Scan(&bound, &role)
		if err != nil {
			return "", nil, err
		}
		roles = append(roles, role)
	}
	return bound, roles, nil
}
