package db

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"
)

// A connection that was found dead is replaced for as long as a read may take, however slow the machine is. One whose
// server is silent has taken that time already.
func TestADeadConnectionIsReplacedAndASilentOneIsNot(t *testing.T) {
	s := &postgresStore{o: Options{Timeout: time.Hour}}
	dead := lostError{io.ErrUnexpectedEOF, true}
	silent := lostError{fmt.Errorf("reading: %w", context.DeadlineExceeded), true}
	for _, x := range []struct {
		name string
		err  error
		ago  time.Duration
		want bool
	}{
		{"found dead", dead, 0, true},
		{"found dead by a slow machine", dead, 50 * time.Minute, true},
		{"the time is over", dead, time.Hour, false},
		{"silent", silent, 0, false},
		{"no matter of the connection", io.ErrUnexpectedEOF, 0, false},
	} {
		if got := s.stale(x.err, time.Now().Add(-x.ago)); got != x.want {
			t.Errorf("%s: %v", x.name, got)
		}
	}
}

// Who has waited in vain for a connection, and gives up, has not reached the store: its breaker stays open.
func TestGivingUpIsNoSignOfLife(t *testing.T) {
	s := &postgresStore{breaker: newBreaker()}
	for range breakAfter {
		s.breaker.reached(false)
	}
	over, cancel := context.WithDeadline(context.Background(), time.Now())
	defer cancel()
	s.failed(over, context.Cause(over))
	if !s.breaker.open() {
		t.Error("the breaker is shut, and nobody has reached the store")
	}
}
