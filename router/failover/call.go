package failover

import (
	"time"

	"threadhub/internal/seedbug"
)

// Call is one request and its attempts, of which one at a time is under way. Not safe for concurrent use.
type Call struct {
	e       *Engine
	places  []Place
	asked   []int // how often each was
	total   int
	retries int
	stale   bool // a stale connection has been made up for
	lost    bool // so has a lost attempt
	over    bool // an answer has begun, or none will

	at  int         // the place of the last attempt
	end func(error) // tells its breaker how it ended; nil: there is none, or it knows
}

// Call begins a request that may go to places, the best first.
func (e *Engine) Call(places []Place) *Call {
	return &Call{e: e, places: places, asked: make([]int, len(places))}
}

// First says whom to ask first: the first place that does not rest; if all do, the one whose rest is the shortest. Nothing
// is counted before Begin, so it may be asked again when a while has passed.
func (c *Call) First(now time.Time) Step {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	for _, tired := range [...]bool{false, true} {
		if i, ok := c.find(now, tired, nil); ok {
			return Step{Ask: true, Place: i}
		}
	}
	var s Step
	for i, p := range c.places {
		if wait := c.e.shut(p, now); i == 0 || wait < s.Wait {
			s.Wait = wait
		}
	}
	return s
}

// Begin is the start of an attempt at a place; false: it may not be asked now after all, and Shut is how that ended.
func (c *Call) Begin(place int, now time.Time) bool {
	e := c.e
	e.mu.Lock()
	defer e.mu.Unlock()
	p := c.places[place]
	c.at, c.end = place, nil
	first := c.asked[place] == 0
	c.asked[place]++ // also if it may not: it is not come back to
	if c.over {
		return false
	}
	if e.breaks && !c.pass(p, now) {
		return false
	}
	if first {
		e.budget(p, now).first(now)
	}
	c.total++
	return true
}

// pass asks p's breaker.
func (c *Call) pass(p Place, now time.Time) (ok bool) {
	b := c.e.breakers[p.key()]
	if b == nil {
		c.e.sweep(now)
		b = newBreaker()
		c.e.breakers[p.key()] = b
	}
	c.end, ok = b.begin(now)
	return ok
}

// Skip says what follows a place that is not asked after all, though it was the step to take.
func (c *Call) Skip(place int, now time.Time) Step {
	c.at = place
	c.asked[place]++
	return c.Ended(Event{Outcome: Shut}, now)
}

// Ended says what follows the attempt that Begin began, or did not.
func (c *Call) Ended(ev Event, now time.Time) (s Step) {
	e := c.e
	e.mu.Lock()
	defer e.mu.Unlock()
	p := c.places[c.at]
	open := c.settle(ev)
	cooled := e.cooled(p, ev, now)
	s = c.next(p, ev, now)
	s.Cooled, s.Opened = cooled, open
	if !s.Ask {
		c.over = true
	}
	return s
}

// settle tells the breaker, and reports whether it has opened.
func (c *Call) settle(ev Event) bool {
	if c.end == nil {
		return false
	}
	b := c.e.breakers[c.places[c.at].key()]
	before := b.until
	c.end(ev.Outcome.said())
	c.end = nil
	return b.until.After(before)
}

// cooled leaves p, or all of its key, alone where the event says so.
func (e *Engine) cooled(p Place, ev Event, now time.Time) bool {
	switch {
	case ev.Outcome == Rejected:
		e.cool(p.key(), coolKey, now)
	case ev.Outcome == Limited && ev.Wait <= 0:
		e.cool(p, coolLimited, now)
	case ev.Outcome == Limited, ev.Outcome == Failed && ev.Wait > 0:
		e.cool(p, ev.Wait, now)
	default:
		return false
	}
	return true
}

func (c *Call) next(p Place, ev Event, now time.Time) Step {
	if c.over || c.total >= most {
		return Step{}
	}
	same := func(q Place) bool { return p.target(q) } // who would hardly do better
	again := false                                    // whether the same might
	if ev.Billed && ev.Outcome != Lost {
		if c.lost || !c.e.safe[p.Provider] {
			return Step{}
		}
		c.lost = true
	}
	switch ev.Outcome {
	case Stale:
		if !c.stale && c.e.retries > 0 {
			c.stale = true
			return Step{Ask: true, Place: c.at, How: Fresh}
		}
		fallthrough // twice is no accident
	case Lost:
		if (c.lost || !c.e.safe[p.Provider]) && !seedbug.On("retry-billed") {
			return Step{}
		}
		c.lost, again = true, true
	case Rejected:
		same = func(q Place) bool { return p.key() == q.key() }
	case Limited, Shut:
		same = func(q Place) bool { return p == q }
	case Failed:
		again = true
	case Unreachable:
		same, again = func(q Place) bool { return p.Provider == q.Provider }, true
	default:
		return Step{}
	}
	if i, ok := c.find(now, false, same); ok {
		return c.move(p, i)
	}
	s := Step{}
	if again {
		if s = c.retry(p, ev, now); s.Ask {
			return s
		}
	}
	if i, ok := c.find(now, true, same); ok {
		return c.move(p, i)
	}
	return s
}

// move goes to another place.
func (c *Call) move(from Place, to int) Step {
	how := NextTarget
	if from.target(c.places[to]) {
		how = NextKey
	}
	return Step{Ask: true, Place: to, How: how}
}

// retry is the same once more, if that may be.
func (c *Call) retry(p Place, ev Event, now time.Time) Step {
	wait := max(c.e.pause(c.retries), ev.Wait)
	if c.retries >= c.e.retries || wait > maxPause {
		return Step{}
	}
	if c.e.shut(p, now) > 0 {
		return Step{}
	}
	if !c.e.budget(p, now).take(now) {
		return Step{Spent: true}
	}
	c.retries++
	return Step{Ask: true, Place: c.at, How: Retry, After: wait}
}

// find returns the first place that was not asked yet, is not among those left out, and may be asked now; tired takes those
// that rest, too, the one that need not rest for long in front.
func (c *Call) find(now time.Time, tired bool, out func(Place) bool) (found int, ok bool) {
	var least time.Duration
	for i, p := range c.places {
		if c.asked[i] > 0 || out != nil && out(p) || c.e.shut(p, now) > 0 {
			continue
		}
		left := c.e.resting(p, now)
		if left > 0 && !tired || ok && left >= least {
			continue
		}
		found, least, ok = i, left, true
	}
	return found, ok
}

// shut is how long p must not be asked from now on, as it fails.
func (e *Engine) shut(p Place, now time.Time) time.Duration {
	if b := e.breakers[p.key()]; b != nil {
		return b.shut(now)
	}
	return 0
}

// budget is what there is for retries at p's provider.
func (e *Engine) budget(p Place, now time.Time) *budget {
	b := e.budgets[p.Provider]
	if b == nil {
		b = newBudget(now)
		e.budgets[p.Provider] = b
	}
	return b
}
