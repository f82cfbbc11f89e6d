//go:build !race

package gateway

// How many schedules are played, how many on two stores, and how many batches twice.
const (
	schedules       = 20_000
	likeSchedules   = 200
	repeatedBatches = 5
)
