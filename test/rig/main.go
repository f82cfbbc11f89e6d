package rig

import (
	"flag"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"threadhub/internal/testkit"
)

// Together has n tests run at a time rather than as many as there are processors, unless -parallel says how many: for
// suites whose tests mostly wait. Call it in TestMain.
func Together(n int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(n))
	}
}

// Main is all of a suite's TestMain: it runs the tests, fails them if goroutines are left, and removes what Binary built.
func Main(m *testing.M) {
	testkit.Leaks(m, goleak.Cleanup(func(code int) {
		Clean()
		os.Exit(code)
	}))
}
