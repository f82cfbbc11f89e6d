package gateway

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"threadhub/calls"
	"threadhub/internal/id"
)

func TestStages(t *testing.T) {
	for _, c := range []struct {
		before stage
		used   int64 // of 1000
		want   stage
	}{
		{calm, 0, calm},
		{calm, 849, calm},
		{calm, 850, tight},
		{calm, 920, short},
		{calm, 970, dire},
		{calm, 2000, dire},
		{tight, 849, tight},
		{tight, 830, tight},
		{tight, 829, calm}, // it ends below where it began
		{short, 919, short},
		{short, 900, short},
		{short, 899, tight},
		{short, 829, calm},
		{dire, 950, dire},
		{dire, 949, short},
		{dire, 0, calm},
	} {
		if got := c.before.next(c.used, 1000); got != c.want {
			t.Errorf("after %d with %d of 1000: %d, want %d", c.before, c.used, got, c.want)
		}
	}
	if s := dire.next(1<<40, 0); s != calm {
		t.Errorf("without a limit: %d", s)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		about string
		standing
		want refusalReason
	}{
		{"alone, below the crowd", standing{most: 100, calls: 79, orgs: 1, own: 79}, ""},
		{"alone, with its share", standing{most: 100, calls: 80, orgs: 1, own: 80}, overShare},
		{"somebody new beside it", standing{most: 100, calls: 80, orgs: 1, own: 0}, ""},
		{"the last place, for somebody new", standing{most: 100, calls: 99, orgs: 2, own: 0}, ""},
		{"no place", standing{most: 100, calls: 100, orgs: 2, own: 0}, noPlace},
		{"two, one of them small", standing{most: 100, calls: 90, orgs: 2, own: 32}, ""},
		{"two, at its share", standing{most: 100, calls: 90, orgs: 2, own: 33}, overShare},
		{"more orgs than places", standing{most: 4, calls: 3, orgs: 3, own: 0}, ""},
		{"one place for all", standing{most: 1, calls: 0, orgs: 0, own: 0}, ""},
		{"tight, and heavy", standing{stage: tight, most: 9, heavy: true, stream: true}, heavyOrg},
		{"tight, and whole", standing{stage: tight, most: 9, heavy: true}, ""},
		{"tight, and light", standing{stage: tight, most: 9, stream: true}, ""},
		{"short", standing{stage: short, most: 9}, shortOfMemory},
		{"dire", standing{stage: dire, most: 9}, shortOfMemory},
	} {
		err, why := c.refuse()
		if why != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %q, %v", c.about, why, err)
		}
		if err != nil && (answerFor(err).status != 503 || err.Code != "overloaded" || err.Retry <= 0) {
			t.Errorf("%s: %+v", c.about, err)
		}
	}
}

func TestHeaviestAndLargest(t *testing.T) {
	for _, c := range []struct {
		held map[id.Org]int64
		want string
	}{
		{nil, ""},
		{map[id.Org]int64{"a": 0}, ""},
		{map[id.Org]int64{"a": 1}, "a"},
		{map[id.Org]int64{"a": 5, "b": 5}, "a b"},
		{map[id.Org]int64{"a": 9, "b": 1, "c": 0}, "a"},
		{map[id.Org]int64{"a": 9, "b": 8, "c": 1}, "a b"},
	} {
		heavy := slices.Sorted(maps.Keys(heaviest(c.held)))
		got := ""
		for i, org := range heavy {
			if i > 0 {
				got += " "
			}
			got += string(org)
		}
		if got != c.want {
			t.Errorf("of %v the heaviest are %q, want %q", c.held, got, c.want)
		}
	}
	streams := func() []holding[string] { return []holding[string]{{"b", 20}, {"none", 0}, {"a", 50}, {"c", 10}} }
	for excess, want := range map[int64]string{-5: "[a]", 0: "[a]", 50: "[a]", 51: "[a b]", 71: "[a b c]", 1000: "[a b c]"} {
		if got := fmt.Sprint(largest(streams(), excess)); got != want {
			t.Errorf("to let go of %d: %s, want %s", excess, got, want)
		}
	}
}

// looseLoads are loads of no gateway.
func looseLoads(most int) *loads {
	m := newGatewayLoad()
	prometheus.NewRegistry().MustRegister(m.refused)
	return newLoads(&Options{MaxCalls: most}, &m, calls.NewLocalTapes())
}

// Whatever orgs do: no more calls than there are places, nobody is refused who has none while there is one, nobody gets
// more than its share of the last fifth, and nobody is refused before.
func TestSharesOfPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 60).Draw(t, "most")
		l := looseLoads(most)
		under := map[id.Org][]*load{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			org := id.Org(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "org"))
			if rapid.IntRange(0, 3).Draw(t, "ends") == 0 && len(under[org]) > 0 {
				under[org][0].done()
				under[org][0].done() // again does nothing
				if under[org] = under[org][1:]; len(under[org]) == 0 {
					delete(under, org)
				}
				continue
			}
			before, own, orgs := len(l.all), len(under[org]), len(under)
			c, err := l.begin(org, true)
			crowded := before*100 >= most*crowdedFrom
			switch {
			case err == nil:
				under[org] = append(under[org], c)
				if own > 0 && crowded && own >= max(1, most/(orgs+1)) {
					t.Fatalf("with %d of %d an org got one more than %d, beside %d orgs", before, most, own, orgs)
				}
			case !crowded, own == 0 && before < most:
				t.Fatalf("with %d of %d an org that has %d was refused: %v", before, most, own, err)
			}
			if len(l.all) > most {
				t.Fatalf("%d calls, and %d places", len(l.all), most)
			}
		}
		for _, all := range under {
			for _, c := range all {
				c.done()
			}
		}
		if len(l.all) != 0 || len(l.calls) != 0 {
			t.Fatalf("%d calls of %d orgs are left", len(l.all), len(l.calls))
		}
	})
}

// An org that asks for all there is keeps nobody out: whoever comes has its share as soon as that many calls have ended.
func TestAGreedyOrgKeepsNobodyOut(t *testing.T) {
	l := looseLoads(100)
	var greedy, other []*load
	ask := func(org id.Org, list *[]*load) {
		for {
			c, err := l.begin(org, true)
			if err != nil {
				return
			}
			*list = append(*list, c)
		}
	}
	ask("greedy", &greedy)
	if len(greedy) != 80 {
		t.Fatalf("alone it has %d of 100", len(greedy))
	}
	ask("other", &other)
	if len(other) != 20 {
		t.Errorf("who comes gets %d of the 20 that are free", len(other))
	}
	for range 60 { // a call ends, and the greedy one is always the first to ask
		greedy[0].done()
		greedy = greedy[1:]
		ask("greedy", &greedy)
		ask("other", &other)
	}
	if len(other) < 33 || len(greedy) < 33 {
		t.Errorf("after 60 calls one has %d, the other %d", len(greedy), len(other))
	}
}

// What was told to end counts as gone until it has, so that no second stream is ended for it; and when it does not end it is cut.
func TestStreamsAreEndedForTheirMemory(t *testing.T) {
	l := looseLoads(100)
	used := int64(1000)
	l.limit, l.memory = 1000, func() int64 { return used }
	var told, cut []string
	stream := func(name string, bytes int) *load {
		c, err := l.begin("a", true)
		if err != nil {
			t.Fatal(err)
		}
		c.holds(bytes)
		c.streams(func(error) { told = append(told, name) }, func() { cut = append(cut, name) })
		return c
	}
	first := stream("first", 60)
	stream("second", 60).holds(30)
	stream("third", 40)
	whole, err := l.begin("b", false)
	if err != nil {
		t.Fatal(err)
	}
	whole.holds(1 << 20)

	now := time.Now()
	l.look(now) // 100 too many
	if got := fmt.Sprint(told); got != "[second first]" {
		t.Errorf("told to end: %s", got)
	}
	first.done()
	used = 940 - 1 // the end of the first is seen; the second's is not
	l.look(now.Add(loadLook))
	used = 1000
	l.look(now.Add(2 * loadLook))
	if got := fmt.Sprint(told, cut); got != "[second first third] []" {
		t.Errorf("then: %s", got)
	}
	l.look(now.Add(loadCut))
	if got := fmt.Sprint(cut); got != "[second]" {
		t.Errorf("cut: %s", got)
	}
	if _, err := l.begin("c", false); err == nil {
		t.Error("a call began")
	}
	used = 100
	l.look(now.Add(time.Minute))
	if c, err := l.begin("c", true); err != nil {
		t.Errorf("when it is over: %v", err)
	} else {
		c.done()
	}
}

func TestMemoryInUse(t *testing.T) {
	n := memoryInUse()
	if n < 1<<20 || n > 1<<34 {
		t.Errorf("%d bytes are in use", n)
	}
}
