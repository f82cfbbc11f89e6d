package limits

import "time"

// part is what debts are counted in: a minute has 60,000 milliseconds, so a limit of so many a minute forgives exactly as
// many 60,000ths of one in each of them. There are no fractions, here and in Redis.
const part = 60_000

// A meter is a bucket that leaks, which is GCRA told by what is owed rather than by when it is paid: whoever takes one owes
// one, a limit of L forgives L a minute, and nobody may owe more than L.
type meter struct {
	debt int64 // in parts, as of at
	at   int64 // in ms
}

// pass lets time pass. A clock that goes back stands still.
func (m *meter) pass(now, limit int64) {
	gone := now - m.at
	if gone <= 0 {
		return
	}
	m.at = now
	if gone > m.debt/limit {
		m.debt = 0
		return
	}
	m.debt -= gone * limit
}

// add takes n; less than nothing gives back.
func (m *meter) add(n int64) { m.debt = max(0, m.debt+n*part) }

// over is by how much, in parts, n more than what is owed and held would be over the limit.
func over(l Level, debt, held, n int64) int64 { return debt + (held+n-l.Limit)*part }

// wait is how long it is until what is over has been paid.
func wait(l Level, over int64) time.Duration {
	if l.Kind == Streams {
		return time.Second // nobody knows when one ends
	}
	return time.Duration((over+l.Limit-1)/l.Limit) * time.Millisecond
}

// room is how a level stands of which so much is owed and held.
func room(l Level, debt, held int64) Room {
	r := Room{Level: l, Left: max(0, -over(l, debt, held, 0)/part)}
	if l.Kind != Streams {
		r.Full = wait(l, debt+held*part)
	}
	return r
}

// name is a level without its limit, which may change.
type name struct {
	scope     Scope
	id, model string
	kind      Kind
}

func (l Level) name() name { return name{l.Scope, l.ID, l.Model, l.Kind} }

// tooLarge returns the first want that no waiting helps.
func tooLarge(wants []Want) (w Want, found bool) {
	for _, w := range wants {
		if w.had+w.N > w.Limit {
			return w, true
		}
	}
	return w, false
}
