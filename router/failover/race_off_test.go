//go:build !race

package failover

const schedules = 100_000
