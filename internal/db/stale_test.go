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
