package main

import (
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryRatio is the part of what the container may have that is ours to fill: the rest is for what the runtime does not
// count, and for the moments between two looks.
const memoryRatio = 0.8

// memoryLimit is how much memory the process is to stay below: what GOMEMLIMIT says, or else memoryRatio of what the
// process's cgroup allows, which it sets. 0 where neither says anything.
func memoryLimit(log *slog.Logger) int64 {
	limit, err := memlimit.Set(memlimit.WithRatio(memoryRatio))
	if err != nil {
		log.Warn("what memory the process may have is not known; set GOMEMLIMIT", "error", err)
	}
	if limit == math.MaxInt64 {
		return 0
	}
	log.Info("memory", "limit_bytes", limit)
	return limit
}
