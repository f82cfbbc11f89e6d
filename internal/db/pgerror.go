package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"threadhub/internal/fault"
)

// lostError is a connection that ended, or never was: what it was asked is unknown, or was never sent.
type lostError struct {
	error
	sent bool
}

func (e lostError) Unwrap() error { return e.error }

// seen marks err as lost if c did not survive it. pgx closes a connection it can no longer trust, and only then.
func seen(c *pgx.Conn, err error) error {
	if err != nil && c.IsClosed() {
		return lostError{err, true}
	}
	return err
}

func dialing(err error) bool {
	var l lostError
	return errors.As(err, &l) && !l.sent
}

// lost reports whether err is of the connection, or of a server going away, and not an answer to a statement.
func lost(err error) bool {
	var l lostError
	if errors.As(err, &l) {
		return true
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "57P01", "57P02", "57P03", "25006": // shut down, crashed, starting; a standby that was promoted elsewhere
		return true
	}
	return strings.HasPrefix(e.Code, "08")
}

// inDoubt reports whether what err ended was sent, and may have been done. A server that says that it only reads has not.
func inDoubt(err error) bool {
	var e *pgconn.PgError
	return lost(err) && !dialing(err) && !(errors.As(err, &e) && e.Code == "25006")
}

func conflict(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// waited reports whether err is a wait that came to nothing: for a lock, or for the statement itself.
func waited(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "55P03" || e.Code == "57014")
}

// ErrLocked is in the chain of an error that says that somebody else held what was to be written.
var ErrLocked = errors.New("db: locked by another transaction")

// ended is the error of what the end of ctx has ended: its cause, if that is one for clients.
func (s *postgresStore) ended(ctx context.Context, err error) error {
	var f *fault.Error
	if cause := context.Cause(ctx); errors.As(cause, &f) {
		return cause
	}
	return s.fault(err)
}

func unknown(cause error) *fault.Error {
	return fault.Wrap(fault.Unavailable, cause, "the gateway's storage did not say whether it stored this; repeating the request is safe").
		WithCode("outcome_unknown").After(time.Second)
}

// fault is postgresFault, counted.
func (s *postgresStore) fault(err error) error {
	err = postgresFault(err)
	if err != nil && fault.HasCode(err, "tenant_context") {
		s.n.guarded.Add(1)
	}
	return err
}

// postgresFault gives the database's own troubles a kind; what a room said stays as it is.
func postgresFault(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) || errors.Is(err, ErrNoRows) {
		return err
	}
	var e *pgconn.PgError
	switch {
	case lost(err):
		return unavailable(err)
	case !errors.As(err, &e):
		return err
	case e.Code == "53100":
		return full(err)
	case e.Code == "55P03":
		return busy(fmt.Errorf("%w: %w", ErrLocked, err))
	case e.Code == "57014":
		return busy(err)
	case e.Code == "42501": // row-level security stands between the statement and the row
		return tenancy(err)
	}
	return err
}
