// Package testkit is for tests only: throw-away databases and Redis, servers that can be killed, and small helpers.
//
// It promises every test a database of its own that is gone when the test is over, so that tests run in parallel. It
// leaves to others where the servers come from: TEST_POSTGRES_URL and TEST_REDIS_URL name running ones, which
// internal/testkit/cmd/services starts for a whole run of tests. Without them a test that needs one is skipped, or
// fails where CI=true or THREADHUB_TEST_SERVICES=required say that nothing may be left out.
package testkit

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The environment that names the servers.
const (
	EnvPostgres = "TEST_POSTGRES_URL"
	EnvRedis    = "TEST_REDIS_URL"
	EnvServices = "THREADHUB_TEST_SERVICES" // "required": a missing server fails the test

	// EnvCluster is a folder with a fresh Postgres cluster. Servers that tests start begin with a copy of it, which is there
	// sooner than a cluster of their own.
	EnvCluster = "THREADHUB_TEST_CLUSTER"
)

// Lacks skips a test that needs a program this machine does not have, and fails it where nothing may be left out.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if Required() {
		t.Fatalf("there is no %s, and this run may not leave out the tests that need it (use make test)", what)
	}
	t.Skipf("this test needs %s, or use make test", what)
}

// service returns the URL of a running server.
func service(t testing.TB, env, what string) string {
	t.Helper()
	url := os.Getenv(env)
	switch {
	case url != "":
	case Required():
		t.Fatalf("%s is not set: this run may not leave out the tests that need %s (use make test)", env, what)
	default:
		t.Skipf("this test needs %s: set %s, or use make test", what, env)
	}
	return url
}

// Required reports whether a missing server fails tests rather than skipping them.
func Required() bool { return os.Getenv("CI") == "true" || os.Getenv(EnvServices) == "required" }

// Eventually polls ok until it is true, and fails the test when that takes longer than timeout. what, if given, is the
// test's message, as for t.Fatalf: a format and its arguments.
func Eventually(t testing.TB, timeout time.Duration, ok func() bool, what ...any) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			if ok() {
				return
			}
			format, args := "it did not happen", []any(nil)
			if len(what) > 0 {
				format, args = what[0].(string), what[1:]
			}
			t.Fatalf(format+" (waited %v)", append(args, timeout)...)
		}
	}
}

// Leaks runs a package's tests, ends what they shared, and fails them if goroutines are left then. It is all of a TestMain:
//
//	func TestMain(m *testing.M) { testkit.Leaks(m) }
func Leaks(m *testing.M, more ...goleak.Option) {
	goleak.VerifyTestMain(sharing{m}, append(more,
		// A process that has once written a Date header keeps it fresh for ever.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// End by themselves when the last idle connection is ten seconds old; fasthttp has no way to stop them.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"),
		// Looks for a Redis that is away, and notices only within a second that its pool is closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	)...)
}

// sharing are tests that share a cluster.
type sharing struct{ *testing.M }

func (s sharing) Run() int {
	code := s.M.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the cluster:", err)
		return max(code, 1)
	}
	return code
}
