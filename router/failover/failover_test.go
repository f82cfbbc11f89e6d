package failover

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	a1 = Place{"org", "openai", "one/1", "gpt"}
	a2 = Place{"org", "openai", "two/1", "gpt"}
	am = Place{"org", "openai", "one/1", "gpt-mini"}
	b1 = Place{"org", "gemini", "one/1", "flash"}
)

// ask goes through a call whose attempts end as told, and returns the places that were asked, and the last step.
func ask(t *testing.T, e *Engine, places []Place, ends ...Event) (asked []Place, last Step) {
	t.Helper()
	c := e.Call(places)
	last = c.First(time.Now())
	for _, end := range ends {
		if !last.Ask {
			t.Fatalf("after %d attempts there is none for %v: %+v", len(asked), end, last)
		}
		time.Sleep(last.After)
		if !c.Begin(last.Place, time.Now()) {
			t.Fatalf("place %d may not be asked", last.Place)
		}
		asked = append(asked, places[last.Place])
		last = c.Ended(end, time.Now())
	}
	return asked, last
}

func TestWhoIsAskedNext(t *testing.T) {
	all := []Place{a1, a2, am, b1}
	wait := Event{Outcome: Limited, Wait: time.Minute}
	for name, tt := range map[string]struct {
		o      Options
		places []Place
		ends   []Event
		asked  []Place
		how    How // of what would be asked next
		over   bool
	}{
		"an answer ends it":                          {places: all, ends: []Event{{Outcome: Answered}}, asked: []Place{a1}, over: true},
		"what nobody does better ends it":            {places: all, ends: []Event{{Outcome: Refused}}, asked: []Place{a1}, over: true},
		"silence ends it":                            {places: all, ends: []Event{{Outcome: Silent}}, asked: []Place{a1}, over: true},
		"a limit: the next key":                      {places: all, ends: []Event{wait, {Outcome: Answered}}, asked: []Place{a1, a2}, over: true},
		"two limits: the next target":                {places: all, ends: []Event{wait, wait, wait, {Outcome: Answered}}, asked: []Place{a1, a2, am, b1}, over: true},
		"a limit of the only one":                    {places: []Place{a1}, ends: []Event{wait}, asked: []Place{a1}, over: true},
		"a bad key is of no use for another model":   {places: []Place{a1, am, b1}, ends: []Event{{Outcome: Rejected}, {Outcome: Answered}}, asked: []Place{a1, b1}, over: true},
		"a failure: the next target, not key":        {places: all, ends: []Event{{Outcome: Failed}, {Outcome: Answered}}, asked: []Place{a1, am}, over: true},
		"a failure of the only one":                  {places: []Place{a1}, ends: []Event{{Outcome: Failed}, {Outcome: Failed}, {Outcome: Failed}}, asked: []Place{a1, a1, a1}, over: true},
		"as often as the operator says":              {o: Options{Retries: 1}, places: []Place{a1}, ends: []Event{{Outcome: Failed}, {Outcome: Failed}}, asked: []Place{a1, a1}, over: true},
		"or never":                                   {o: Options{Retries: -1}, places: []Place{a1}, ends: []Event{{Outcome: Failed}}, asked: []Place{a1}, over: true},
		"nor on a new connection":                    {o: Options{Retries: -1}, places: []Place{a1}, ends: []Event{{Outcome: Stale}}, asked: []Place{a1}, over: true},
		"a failure that asks for a short rest":       {places: []Place{a1}, ends: []Event{{Outcome: Failed, Wait: time.Second}, {Outcome: Answered}}, asked: []Place{a1, a1}, over: true},
		"a failure that asks for a long one":         {places: []Place{a1}, ends: []Event{{Outcome: Failed, Wait: time.Minute}}, asked: []Place{a1}, over: true},
		"out of reach: another provider":             {places: all, ends: []Event{{Outcome: Unreachable}, {Outcome: Answered}}, asked: []Place{a1, b1}, over: true},
		"out of reach, and no other":                 {places: []Place{a1, a2}, ends: []Event{{Outcome: Unreachable}, {Outcome: Answered}}, asked: []Place{a1, a1}, over: true},
		"a stale connection: the same, once":         {places: all, ends: []Event{{Outcome: Stale}, {Outcome: Stale}}, asked: []Place{a1, a1}, over: true},
		"a lost attempt may be billed":               {places: all, ends: []Event{{Outcome: Lost}}, asked: []Place{a1}, over: true},
		"a lost attempt at a provider that is safe":  {o: Options{RetrySafe: map[string]bool{"openai": true}}, places: all, ends: []Event{{Outcome: Lost}, {Outcome: Lost}}, asked: []Place{a1, am}, over: true},
		"limited, with a part of it billed":          {places: all, ends: []Event{{Outcome: Limited, Billed: true}}, asked: []Place{a1}, over: true},
		"rejected, with a part of it billed":         {places: all, ends: []Event{{Outcome: Rejected, Billed: true}}, asked: []Place{a1}, over: true},
		"out of reach, with a part of it billed":     {places: all, ends: []Event{{Outcome: Unreachable, Billed: true}}, asked: []Place{a1}, over: true},
		"a part billed at a provider that is safe":   {o: Options{RetrySafe: map[string]bool{"openai": true}}, places: all, ends: []Event{{Outcome: Failed, Billed: true}, {Outcome: Failed, Billed: true}}, asked: []Place{a1, am}, over: true},
		"the same, and no other":                     {o: Options{RetrySafe: map[string]bool{"openai": true}}, places: []Place{a1}, ends: []Event{{Outcome: Lost}, {Outcome: Lost}}, asked: []Place{a1, a1}, over: true},
		"what does not take the request":             {places: all, ends: []Event{{Outcome: Failed}, {Outcome: Shut}, {Outcome: Answered}}, asked: []Place{a1, am, a2}, over: true},
		"a key that was limited, as a last resort":   {places: []Place{a1, b1}, ends: []Event{{Outcome: Failed}, {Outcome: Failed}}, asked: []Place{a1, b1}, how: Retry},
		"it says what the next is: another key":      {places: all, ends: []Event{wait}, asked: []Place{a1}, how: NextKey},
		"it says what the next is: another target":   {places: all, ends: []Event{{Outcome: Failed}}, asked: []Place{a1}, how: NextTarget},
		"it says what the next is: a new connection": {places: all, ends: []Event{{Outcome: Stale}}, asked: []Place{a1}, how: Fresh},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, last := ask(t, New(tt.o), tt.places, tt.ends...)
				if !slices.Equal(asked, tt.asked) || last.Ask == tt.over || last.How != tt.how {
					t.Errorf("asked %v, then %+v", asked, last)
				}
			})
		})
	}
}

// A place that asked for rest gets it, whoever calls, for as long as there is another.
func TestARestIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := func(e *Engine, places ...Place) Place {
			t.Helper()
			s := e.Call(places).First(time.Now())
			if !s.Ask || s.How != First {
				t.Errorf("%+v", s)
			}
			return places[s.Place]
		}
		for _, end := range []Event{{Outcome: Limited, Wait: time.Minute}, {Outcome: Failed, Wait: time.Minute}} {
			e := New(Options{})
			ask(t, e, []Place{a1}, end)
			newer := a1
			newer.Key = "one/2"
			for _, tt := range []struct{ first, second, want Place }{
				{a1, b1, b1}, {am, b1, am}, {newer, b1, newer}, {a1, a2, a2},
			} {
				if got := first(e, tt.first, tt.second); got != tt.want {
					t.Errorf("after %v, %v was asked, not %v", end, got, tt.want)
				}
			}
			time.Sleep(59 * time.Second)
			ask(t, e, []Place{b1}, Event{Outcome: Limited, Wait: 2 * time.Second})
			if got := first(e, a2, b1); got != a2 {
				t.Errorf("%v was asked", got)
			}
			if got := first(e, b1, a1); got != a1 {
				t.Errorf("of two that rest %v was asked, not the one that need not for long", got)
			}
			time.Sleep(time.Second)
			if got := first(e, a1, a2); got != a1 {
				t.Errorf("after its rest, %v was asked", got)
			}
			if got := first(e, b1); got != b1 {
				t.Error("another place was found")
			}
		}
		e := New(Options{})
		ask(t, e, []Place{a1}, Event{Outcome: Rejected, Wait: 0})
		if got := first(e, am, b1); got != b1 {
			t.Errorf("another model was asked with a key that is no good: %v", got)
		}
		ask(t, e, []Place{b1}, Event{Outcome: Limited, Wait: 24 * time.Hour})
		ask(t, e, []Place{b1}, Event{Outcome: Limited}) // a short rest ends no long one
		time.Sleep(time.Hour - time.Second)
		if got := first(e, b1, a1); got != a1 {
			t.Errorf("%v was asked", got)
		}
		time.Sleep(time.Second)
		if got := first(e, b1, a1); got != b1 {
			t.Errorf("nobody rests for more than an hour, and %v was asked", got)
		}
	})
}

// Of a burst of failures at most a tenth is asked again, and three in any case.
func TestTheBudget(t *testing.T) {
	for n, want := range map[int]int{1: 2, 5: 3, 20: 3, 100: 10, 1000: 100} {
		synctest.Test(t, func(t *testing.T) {
			e := New(Options{NoBreaker: true})
			calls := make([]*Call, n)
			for i := range calls {
				calls[i] = e.Call([]Place{a1})
				calls[i].Begin(0, time.Now())
			}
			retries, spent := 0, 0
			for len(calls) > 0 {
				var again []*Call
				for _, c := range calls {
					s := c.Ended(Event{Outcome: Failed}, time.Now())
					if s.Spent {
						spent++
					}
					if !s.Ask {
						continue
					}
					retries++
					if !c.Begin(s.Place, time.Now()) {
						t.Fatal("a retry that was given may not be made")
					}
					again = append(again, c)
				}
				calls = again
			}
			if retries != want || n > 1 && spent == 0 {
				t.Errorf("%d calls had %d retries, want %d; %d were told that there are no more", n, retries, want, spent)
			}
			time.Sleep(window + time.Second)
			if _, s := ask(t, e, []Place{a1}, Event{Outcome: Failed}); !s.Ask {
				t.Errorf("the budget has not come back: %+v", s)
			}
		})
	}
}

func TestTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{Retries: -1})
		fail := func(n int, o Outcome) (opened int) {
			for range n {
				if _, s := ask(t, e, []Place{a1}, Event{Outcome: o}); s.Opened {
					opened++
				}
			}
			return opened
		}
		fail(10, Answered)
		fail(30, Refused) // says nothing of the provider
		if n := fail(9, Failed); n != 0 {
			t.Fatal("19 attempts are too few")
		}
		if n := fail(1, Lost); n != 1 {
			t.Fatal("half of 20 failed, and it has not opened")
		}
		if s := e.Call([]Place{am}).First(time.Now()); s.Ask || s.Wait != openFor {
			t.Errorf("open: %+v", s)
		}
		if s := e.Call([]Place{a1, a2}).First(time.Now()); s.Place != 1 {
			t.Errorf("another key: %+v", s)
		}
		time.Sleep(openFor + time.Millisecond)
		c := e.Call([]Place{a1})
		if s := c.First(time.Now()); !s.Ask || !c.Begin(0, time.Now()) {
			t.Fatalf("no probe: %+v", s)
		}
		if s := e.Call([]Place{a1}).First(time.Now()); s.Ask || s.Wait <= 0 {
			t.Errorf("beside the probe: %+v", s)
		}
		c.Ended(Event{Outcome: Refused}, time.Now()) // the client has left: nobody knows
		c = e.Call([]Place{a1})
		if !c.Begin(0, time.Now()) {
			t.Fatal("no other probe after one that told nothing")
		}
		if s := c.Ended(Event{Outcome: Silent}, time.Now()); !s.Opened {
			t.Error("the probe failed, and it has not opened")
		}
		time.Sleep(openFor + time.Millisecond)
		if fail(1, Answered); e.Call([]Place{a1}).First(time.Now()).Ask == false {
			t.Error("the probe was answered, and it is still open")
		}
		// Failures that lie far apart open nothing.
		for range 50 {
			if _, s := ask(t, e, []Place{a1}, Event{Outcome: Failed}); s.Opened {
				t.Fatal("it has opened by one failure a second")
			}
			time.Sleep(time.Second)
		}
	})
}

func TestWhatHasPassedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		for i := range 3 * firstSweep {
			p := a1
			p.Key = string(rune(i))
			ask(t, e, []Place{p}, Event{Outcome: Rejected})
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(e.rests) + len(e.breakers); n > firstSweep {
			t.Errorf("%d are kept", n)
		}
	})
}

func TestNoCallHasManyAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var places []Place
		for i := range 2 * most {
			p := a1
			p.Key = string(rune('a' + i))
			places = append(places, p)
		}
		if _, last := ask(t, New(Options{}), places, slices.Repeat([]Event{{Outcome: Limited}}, most)...); last.Ask {
			t.Errorf("%+v", last)
		}
	})
}
