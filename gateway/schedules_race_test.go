//go:build race

package gateway

// How many schedules are played, how many on two stores, and how many batches twice: they take ten times as long, and SQLite
// many times that.
const (
	schedules       = 1000
	likeSchedules   = 0
	repeatedBatches = 0
)
