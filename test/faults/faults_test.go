package faults

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/test/rig"
)

var (
	oneSeed = flag.Uint64("seed", 0, "play the rows with this seed; 0: with one of the time")
	runs    = flag.Int("runs", 0, "play each row so often; 0: once, and with THREADHUB_SOAK 20 times")
	table   = flag.Bool("table", false, "write docs/faults.md; with THREADHUB_SOAK it is written anyway")
)

// soakRuns is how often a row is played in a long run.
const soakRuns = 20

// together is how many rows are played at a time: mostly they wait.
const together = 8

func TestMain(m *testing.M) {
	rig.Together(together)
	rig.Main(m)
}

func soak() bool { return os.Getenv("THREADHUB_SOAK") != "" }

// row is one row of the fault matrix.
type row struct {
	id     string // "P3"; a second part of a row has a letter behind it
	title  string
	lacks  string // what the row asks for that is not shown yet; "" if all is
	awaits string // why nothing of it is shown yet; "" with a play
	metric string // which of the gateway's metrics the row looks at

	setup
	play func(w *world)
}

// rows are all of them, in the order of the matrix.
func rows() []row {
	return slices.Concat([]row{normal}, postgresRows, redisRows, upstreamRows(), clientRows, gatewayRows)
}

// matrix is how many rows there are of each letter. Those of memory come with it.
var matrix = []struct {
	letter string
	n      int
}{{"P", 16}, {"R", 12}, {"U", 25}, {"C", 11}, {"G", 16}}

// Every row of the matrix is here, and is either played or says why it is not.
func TestTheMatrixIsWhole(t *testing.T) {
	known := map[string]bool{}
	for _, r := range rows() {
		if known[r.id] {
			t.Errorf("%s is there twice", r.id)
		}
		known[r.id] = true
		switch {
		case r.play == nil && r.awaits == "":
			t.Errorf("%s is not played, and does not say why", r.id)
		case r.play != nil && r.awaits != "":
			t.Errorf("%s is played, and says that it awaits %q", r.id, r.awaits)
		}
	}
	for _, m := range matrix {
		for n := 1; n <= m.n; n++ {
			if id := fmt.Sprint(m.letter, n); !known[id] {
				t.Errorf("%s is missing", id)
			}
		}
	}
}

func TestFaults(t *testing.T) {
	began := time.Now()
	seed := cmp.Or(*oneSeed, uint64(time.Now().UnixNano())%1_000_000)
	times := cmp.Or(*runs, 1)
	if soak() && *runs == 0 && *oneSeed == 0 {
		times = soakRuns
	}
	t.Logf("replay a row as it was with -run 'Faults/ROW' -seed %d", seed)
	s := newSites(t)
	var results results
	t.Cleanup(func() { // when all rows are over
		t.Log("\n" + results.text(false))
		t.Logf("%d seeds of each row took %.0f s", times, time.Since(began).Seconds())
		if (soak() || *table) && *oneSeed == 0 {
			results.write(t, times)
		}
	})
	for _, r := range rows() {
		t.Run(r.id, func(t *testing.T) {
			t.Parallel()
			if r.play == nil {
				t.Log("not shown; it awaits " + r.awaits)
				return
			}
			for n := range times {
				wrong := s.play(t, r, seed+uint64(n))
				lacks := s.lacking(r)
				results.add(r, wrong, lacks)
				for _, w := range wrong {
					t.Errorf("%s, seed %d: %s", r.title, seed+uint64(n), w)
				}
				if lacks.all && !t.Failed() {
					t.Skip("not shown: " + lacks.what)
				}
			}
		})
	}
}

// verdict is the test that a row is played in. It gathers what is wrong rather than failing, as a planted bug must have
// something to show.
type verdict struct {
	testing.TB
	mu    sync.Mutex
	wrong []string
}

func (v *verdict) Error(args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrong = append(v.wrong, strings.TrimSpace(fmt.Sprintln(args...)))
}
func (v *verdict) Errorf(format string, args ...any) { v.Error(fmt.Sprintf(format, args...)) }
func (v *verdict) Fatal(args ...any)                 { v.Error(args...); runtime.Goexit() }
func (v *verdict) Fatalf(format string, args ...any) { v.Errorf(format, args...); runtime.Goexit() }
func (v *verdict) Fail()                             { v.Error("it failed") }
func (v *verdict) FailNow()                          { v.Fatal("it failed") }
func (v *verdict) Failed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.wrong) > 0
}

// judged runs f as a test of its own and returns what was wrong.
func judged(t testing.TB, f func(v *verdict)) []string {
	v := &verdict{TB: t}
	done := make(chan bool, 1)
	go func() { // f may end by Goexit
		through := false
		defer func() { done <- through }()
		f(v)
		through = true
	}()
	if through := <-done; !through && !v.Failed() {
		v.Error("it ended early")
	}
	return v.wrong
}
