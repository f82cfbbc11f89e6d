//go:build race

package gateway

// How many schedules are played, and how many on two stores: they take ten times as long, and SQLite many times that.
const (
	schedules     = 1000
	likeSchedules = 0
)
