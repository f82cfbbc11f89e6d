//go:build race

package failover

const schedules = 10_000 // they take ten times as long
