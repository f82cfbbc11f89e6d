//go:build chaos

// Package chaos ends the process, as kill -9 does, at a named point of a request's way, or panics there: for the suites
// that show that nothing is lost, and nobody else is hurt. Without the build tag chaos it is nothing at all.
package chaos

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the point, how often it is passed before something happens there, and what: "record:20" kills at the 20th
// time; "record:20:panic:100" panics at each 20th time, a hundred times at most. "*" is any point but those named after a
// "-": "*-read-write".
const Env = "THREADHUB_TEST_CHAOS"

var (
	what   = read()
	passed atomic.Int64
)

type happening struct {
	point  string
	but    []string
	after  int64
	panics int64 // how often, instead of a kill
}

func read() (h happening) {
	text := os.Getenv(Env)
	if text == "" {
		return h
	}
	parts := strings.Split(text, ":")
	names := strings.Split(parts[0], "-")
	h.point, h.but = names[0], names[1:]
	var err error
	if len(parts) != 2 && (len(parts) != 4 || parts[2] != "panic") {
		panic(Env + " must be point:count or point:count:panic:most")
	}
	if h.after, err = strconv.ParseInt(parts[1], 10, 64); err == nil && len(parts) == 4 {
		h.panics, err = strconv.ParseInt(parts[3], 10, 64)
	}
	if err != nil || h.after < 1 {
		panic(Env + " must have numbers for counts")
	}
	return h
}

func (h happening) at(name string) bool {
	if h.point != "*" {
		return h.point == name
	}
	for _, n := range h.but {
		if n == name {
			return false
		}
	}
	return true
}

// Point names a point that has been reached.
func Point(name string) {
	if !what.at(name) {
		return
	}
	n := passed.Add(1)
	if what.panics > 0 {
		if n%what.after == 0 && n/what.after <= what.panics {
			panic("chaos: at " + name)
		}
		return
	}
	if n != what.after {
		return
	}
	fmt.Fprintf(os.Stderr, "chaos: killed at %s\n", name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
