package main

import (
	"log/slog"
	"math"
	"runtime/debug"
	"testing"
)

// The operator's own limit is left as it is; where there is none, and the container has none, memory is not looked at.
func TestMemoryLimit(t *testing.T) {
	was := debug.SetMemoryLimit(300 << 20)
	defer debug.SetMemoryLimit(was)
	log := slog.New(slog.DiscardHandler)
	t.Setenv("GOMEMLIMIT", "300MiB")
	if n := memoryLimit(log); n != 300<<20 || debug.SetMemoryLimit(-1) != n {
		t.Errorf("%d bytes", n)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if n := memoryLimit(log); n != 0 {
		t.Errorf("off is %d bytes", n)
	}
}
