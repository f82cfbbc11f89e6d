package migrations_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"threadhub/internal/testkit"
)

// held waits until somebody else holds f's lock, and reports whether that came about.
func held(t *testing.T, f *os.File) bool {
	t.Helper()
	var is bool
	testkit.Eventually(t, 10*time.Second, func() bool {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		}
		is = errors.Is(err, unix.EWOULDBLOCK)
		return is
	})
	return is
}
