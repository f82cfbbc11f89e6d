//go:build chaos

// Package chaos ends the process, as kill -9 does, at a named point of a request's way: for the suite that shows that
// nothing is lost. Without the build tag chaos it is nothing at all.
package chaos

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the point and how often it is passed before it kills: "record:20".
const Env = "THREADHUB_TEST_CHAOS"

var (
	point, after = read()
	passed       atomic.Int64
)

func read() (string, int64) {
	name, n, _ := strings.Cut(os.Getenv(Env), ":")
	count, err := strconv.ParseInt(n, 10, 64)
	if name != "" && err != nil {
		panic(Env + " must be point:count")
	}
	return name, count
}

// Point names a point that has been reached.
func Point(name string) {
	if name != point || passed.Add(1) != after {
		return
	}
	fmt.Fprintf(os.Stderr, "chaos: killed at %s\n", name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
