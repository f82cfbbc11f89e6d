package failover

import "time"

// budget bounds the retries at one provider: a tenth of the first attempts of the last ten seconds, and three in any case.
// Both are counted by the second, first attempts over nine to ten of them and retries over ten to eleven, so that the
// bound holds for every ten seconds.
type budget struct {
	at      int64 // the second of now, since start
	start   time.Time
	firsts  [interval]int
	retries [interval + 1]int
}

func newBudget(now time.Time) *budget { return &budget{start: now} }

// turn moves on to now.
func (b *budget) turn(now time.Time) {
	to := int64(now.Sub(b.start) / time.Second)
	for n := 0; b.at < to && n <= len(b.retries); n++ {
		b.at++
		b.firsts[b.at%int64(len(b.firsts))] = 0
		b.retries[b.at%int64(len(b.retries))] = 0
	}
	b.at = max(b.at, to)
}

// first counts a first attempt.
func (b *budget) first(now time.Time) {
	b.turn(now)
	b.firsts[b.at%int64(len(b.firsts))]++
}

// take takes a retry, if there is one.
func (b *budget) take(now time.Time) bool {
	b.turn(now)
	var firsts, retries int
	for _, n := range b.firsts {
		firsts += n
	}
	for _, n := range b.retries {
		retries += n
	}
	if retries >= max(floor, firsts/share) {
		return false
	}
	b.retries[b.at%int64(len(b.retries))]++
	return true
}
