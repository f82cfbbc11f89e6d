package failover

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// Random calls, several at a time, with random ends, held against a model that is simpler than the engine: lists of what
// was, looked through from the start. A failure names its seed; THREADHUB_TEST_FAILOVER_SEED plays that one alone.
func TestSchedules(t *testing.T) {
	from, to := uint64(0), uint64(schedules)
	if s := os.Getenv("THREADHUB_TEST_FAILOVER_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		from, to = seed, seed+1
	} else if testing.Short() {
		to = schedules / 10
	}
	seen := map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		for seed := from; seed < to; seed++ {
			if err := newSchedule(seed, seen).run(); err != nil {
				t.Fatalf("THREADHUB_TEST_FAILOVER_SEED=%d: %v", seed, err)
			}
		}
	})
	t.Logf("%v", seen)
	if from+1 == to {
		return
	}
	for _, what := range []string{"retry", "fresh", "key", "target", "spent", "cooled", "opened", "probe", "refused", "last resort"} {
		if seen[what] < 20 {
			t.Errorf("%q was seen %d times: the schedules show too little", what, seen[what])
		}
	}
}

// schedule is one run, and the model of it.
type schedule struct {
	r     *rand.Rand
	e     *Engine
	safe  map[string]bool
	most  int  // retries of one call
	storm bool // one key's provider fails, many at a time: breakers open
	calls []*running
	seen  map[string]int

	rests    []pause                // that were asked for, or not
	grants   map[string][]time.Time // retries, by provider
	firsts   map[string][]time.Time
	results  map[Place][]time.Time // ends that count, by key
	openTill map[Place]time.Time
	probes   map[Place]int // under way since it opened last
}

type pause struct {
	place Place // without a model: all of the key's
	until time.Time
}

// running is one call and what the model knows of it.
type running struct {
	c       *Call
	places  []Place
	asked   []int
	total   int
	retries int
	stale   int
	losses  int // what may be billed
	at      int
	step    Step
	begun   bool
	probe   bool
}

func newSchedule(seed uint64, seen map[string]int) *schedule {
	r := rand.New(rand.NewPCG(seed, 1))
	s := &schedule{
		r: r, seen: seen, safe: map[string]bool{}, grants: map[string][]time.Time{}, firsts: map[string][]time.Time{},
		results: map[Place][]time.Time{}, openTill: map[Place]time.Time{}, probes: map[Place]int{},
	}
	s.safe["openai"] = r.IntN(3) == 0
	s.storm = r.IntN(64) == 0
	o := Options{RetrySafe: s.safe, Retries: r.IntN(4), Rand: r}
	if s.storm {
		o.Retries = -1 // nobody waits, so all of it is within seconds
	}
	if s.most = max(o.Retries, 0); o.Retries == 0 {
		s.most = 2
	}
	s.e = New(o)
	return s
}

func (s *schedule) run() error {
	crowd, bad, moves := 1+s.r.IntN(5), s.r.IntN(5), 4+s.r.IntN(16)
	if s.storm {
		crowd, bad, moves = 30, 3, 120
	}
	for left := moves; left > 0 || len(s.calls) > 0; left-- {
		if left < -1000 {
			return fmt.Errorf("%d calls do not end", len(s.calls))
		}
		if left > 0 && len(s.calls) < crowd {
			if err := s.begin(); err != nil {
				return err
			}
		}
		if s.r.IntN(3) == 0 && !s.storm || s.r.IntN(80) == 0 {
			time.Sleep(time.Duration(s.r.IntN(4000)) * time.Millisecond >> s.r.IntN(8))
		}
		if len(s.calls) == 0 {
			continue
		}
		i := s.r.IntN(len(s.calls))
		over, err := s.move(s.calls[i], bad)
		if err != nil {
			return err
		}
		if over {
			s.calls = append(s.calls[:i], s.calls[i+1:]...)
		}
	}
	return nil
}

func (s *schedule) begin() error {
	var places []Place
	perm := s.r.Perm(8)[:1+s.r.IntN(4)]
	if s.storm {
		perm = []int{0, 4}[:1+s.r.IntN(2)] // two models of one key
	}
	for _, p := range perm {
		places = append(places, Place{
			Org: "org", Provider: [...]string{"openai", "gemini"}[p&1], Key: [...]string{"one", "two"}[p>>1&1], Model: [...]string{"big", "small"}[p>>2],
		})
	}
	k := &running{c: s.e.Call(places), places: places, asked: make([]int, len(places))}
	now := time.Now()
	k.step = k.c.First(now)
	if !k.step.Ask {
		s.seen["refused"]++
		for _, p := range places {
			if s.free(p, now) {
				return fmt.Errorf("nothing may be asked, though %v may", p)
			}
		}
		if k.step.Wait <= 0 {
			return fmt.Errorf("nothing may be asked, and nobody says for how long")
		}
		if s.storm && s.r.IntN(8) == 0 {
			time.Sleep(k.step.Wait + time.Millisecond)
		}
		return nil
	}
	if err := s.right(k, k.step.Place, now, nil); err != nil {
		return err
	}
	s.calls = append(s.calls, k)
	return nil
}

// move brings a call one step further.
func (s *schedule) move(k *running, bad int) (over bool, err error) {
	now := time.Now()
	if !k.begun {
		time.Sleep(k.step.After)
		now = time.Now()
		p := k.places[k.step.Place]
		if k.begun = k.c.Begin(k.step.Place, now); !k.begun {
			if s.free(p, now) {
				return false, fmt.Errorf("%v may not be asked, though it may", p)
			}
			k.asked[k.step.Place]++
			return s.ended(k, Event{Outcome: Shut}, now)
		}
		if !s.free(p, now) {
			return false, fmt.Errorf("%v was asked, though it is shut", p)
		}
		k.at = k.step.Place
		if k.total++; k.total > most {
			return false, fmt.Errorf("%d attempts", k.total)
		}
		if k.asked[k.at]++; k.asked[k.at] == 1 {
			s.firsts[p.Provider] = append(s.firsts[p.Provider], now)
		}
		if k.asked[k.at] > 2+s.most {
			return false, fmt.Errorf("%v was asked %d times", p, k.asked[k.at])
		}
		if till, was := s.openTill[p.key()]; was && !till.After(now) {
			s.probes[p.key()]++
			k.probe = true
			s.seen["probe"]++
		}
		return false, nil
	}
	k.begun = false
	return s.ended(k, s.event(bad), now)
}

// event is a random end. Most are good, or bad for a while.
func (s *schedule) event(bad int) Event {
	if s.r.IntN(4) >= bad {
		return Event{Outcome: [...]Outcome{Answered, Refused}[s.r.IntN(5)/4]}
	}
	if s.storm {
		return Event{Outcome: [...]Outcome{Failed, Unreachable, Lost, Silent, Refused}[s.r.IntN(5)]}
	}
	ev := Event{Outcome: [...]Outcome{Failed, Failed, Failed, Rejected, Limited, Unreachable, Stale, Lost, Silent, Shut}[s.r.IntN(10)]}
	if (ev.Outcome == Limited || ev.Outcome == Failed) && s.r.IntN(2) == 0 {
		ev.Wait = time.Duration(s.r.IntN(8000)) * time.Millisecond
	}
	return ev
}

// ended tells the end of an attempt and judges what is to follow.
func (s *schedule) ended(k *running, ev Event, now time.Time) (over bool, err error) {
	p := k.places[k.step.Place]
	step := k.c.Ended(ev, now)
	s.note(k, p, ev, step, now)
	if err := s.opened(p, step, now); err != nil {
		return false, err
	}
	if k.probe = false; !step.Ask {
		if step.Spent {
			s.seen["spent"]++
		}
		if again := k.c.Ended(Event{Outcome: Failed}, now); again.Ask || k.c.Begin(0, now) {
			return false, fmt.Errorf("a call that was over goes on")
		}
		return true, nil
	}
	s.seen[step.How.String()]++
	switch ev.Outcome {
	case Answered, Refused, Silent:
		return false, fmt.Errorf("asked again after outcome %d", ev.Outcome)
	case Lost:
		if k.losses++; k.losses > 1 || !s.safe[p.Provider] {
			return false, fmt.Errorf("what may be billed is asked again")
		}
	case Stale:
		if step.How == Fresh {
			if k.stale++; k.stale > 1 {
				return false, fmt.Errorf("a second connection after a stale one")
			}
		} else if k.losses++; k.losses > 1 || !s.safe[p.Provider] {
			return false, fmt.Errorf("what may be billed is asked again")
		}
	}
	if step.How == Retry {
		if k.retries++; k.retries > s.most {
			return false, fmt.Errorf("%d retries", k.retries)
		}
		s.grants[p.Provider] = append(s.grants[p.Provider], now)
		if n, firsts := since(s.grants[p.Provider], now, window), since(s.firsts[p.Provider], now, window); n > max(floor, firsts/share) {
			return false, fmt.Errorf("%d retries of %d in %v", n, firsts, window)
		}
	}
	if same := step.How == Retry || step.How == Fresh; same != (step.Place == k.step.Place) {
		return false, fmt.Errorf("%v leads from %d to %d", step.How, k.step.Place, step.Place)
	} else if !same {
		if k.asked[step.Place] > 0 {
			return false, fmt.Errorf("%d is come back to", step.Place)
		}
		if err := s.right(k, step.Place, now, func(q Place) bool {
			return q.target(p) || q.Provider == p.Provider && (ev.Outcome == Unreachable || ev.Outcome == Rejected && q.Key == p.Key)
		}); err != nil {
			return false, err
		}
	}
	k.step = step
	return false, nil
}

// right judges the choice of a place that was not asked yet: nothing that rests, or comes later, is asked while another is
// there. Of out it is not expected.
func (s *schedule) right(k *running, chosen int, now time.Time, out func(Place) bool) error {
	p := k.places[chosen]
	if !s.free(p, now) {
		return fmt.Errorf("%v is chosen, though it is shut", p)
	}
	tired := s.rest(p, now)
	if tired > 0 {
		s.seen["last resort"]++
	}
	for i, q := range k.places {
		if i == chosen || k.asked[i] > 0 || out != nil && out(q) || !s.free(q, now) {
			continue
		}
		if left := s.rest(q, now); left < tired || left == tired && i < chosen {
			return fmt.Errorf("%v is chosen, though %v is there", p, q)
		}
	}
	return nil
}

// note keeps what the model must know.
func (s *schedule) note(k *running, p Place, ev Event, step Step, now time.Time) {
	until := func(place Place, d time.Duration) {
		s.rests = append(s.rests, pause{place, now.Add(d)})
		s.seen["cooled"]++
	}
	switch {
	case ev.Outcome == Rejected:
		until(p.key(), coolKey)
	case ev.Outcome == Limited && ev.Wait == 0:
		until(p, coolLimited)
	case (ev.Outcome == Limited || ev.Outcome == Failed) && ev.Wait > 0:
		until(p, ev.Wait)
	}
	if k.probe {
		s.probes[p.key()]--
		if said := ev.Outcome.said(); said == nil {
			delete(s.openTill, p.key())
		}
	}
	if ev.Outcome == Answered || ev.Outcome.said() == errFailed {
		s.results[p.key()] = append(s.results[p.key()], now)
	}
	if step.Opened {
		s.seen["opened"]++
	}
}

// opened judges that a breaker has opened.
func (s *schedule) opened(p Place, step Step, now time.Time) error {
	if !step.Opened {
		return nil
	}
	_, was := s.openTill[p.key()]
	if n := since(s.results[p.key()], now, window); !was && n < enough {
		return fmt.Errorf("a breaker has opened after %d ends", n)
	}
	s.openTill[p.key()] = now.Add(openFor)
	return nil
}

// free reports whether p may be asked.
func (s *schedule) free(p Place, now time.Time) bool {
	if till, was := s.openTill[p.key()]; was && (!till.Before(now) || s.probes[p.key()] > 0) {
		return false
	}
	return true
}

// rest is for how long p rests.
func (s *schedule) rest(p Place, now time.Time) (left time.Duration) {
	for _, r := range s.rests {
		if r.place == p || r.place == p.key() {
			left = max(left, r.until.Sub(now))
		}
	}
	return left
}

// since counts what was in the last d.
func since(list []time.Time, now time.Time, d time.Duration) (n int) {
	for _, at := range list {
		if now.Sub(at) < d {
			n++
		}
	}
	return n
}
