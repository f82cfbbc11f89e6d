package rig

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"threadhub/internal/testkit"
)

// Main is all of a suite's TestMain: it runs the tests, fails them if goroutines are left, and removes what Binary built.
func Main(m *testing.M) {
	testkit.Leaks(m, goleak.Cleanup(func(code int) {
		Clean()
		os.Exit(code)
	}))
}
