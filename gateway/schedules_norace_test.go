//go:build !race

package gateway

// How many schedules are played, and how many on two stores.
const (
	schedules     = 20_000
	likeSchedules = 200
)
