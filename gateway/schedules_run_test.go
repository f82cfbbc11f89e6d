package gateway

import (
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"threadhub/internal/db"
	"threadhub/internal/seal"
	"threadhub/internal/spool"
	"threadhub/internal/testkit"
)

// perBatch is how many schedules one seed plays.
const perBatch = 20

// Random schedules of two processes on one store: see play. A failure names its seed; THREADHUB_TEST_SCHEDULES_SEED plays
// that batch alone, and tells all of it.
func TestSchedules(t *testing.T) {
	if seed, alone := seedOf(t, "THREADHUB_TEST_SCHEDULES_SEED"); alone {
		p := playBatch(t, seed, perBatch, onMemory, func(p *play) {
			p.trace, p.spools, p.log = []string{}, spoolsOf(t), slog.New(slog.NewTextHandler(t.Output(), nil))
		})
		t.Log(strings.Join(p.trace, "\n"))
		if len(p.wrong) > 0 {
			t.Fatal(strings.Join(p.wrong, "\n"))
		}
		return
	}
	batches := schedules / perBatch
	if os.Getenv("THREADHUB_SOAK") != "" {
		batches *= 10
	}
	var next, played atomic.Int64
	seen := make([]map[string]int, runtime.GOMAXPROCS(0))
	t.Run("shards", func(t *testing.T) {
		for i := range seen {
			seen[i] = map[string]int{}
			t.Run("", func(t *testing.T) {
				t.Parallel()
				spools := spoolsOf(t)
				for seed := next.Add(1); seed <= int64(batches) && !t.Failed(); seed = next.Add(1) {
					p := playBatch(t, uint64(seed), perBatch, onMemory, func(p *play) { p.spools = spools })
					if len(p.wrong) > 0 {
						t.Errorf("THREADHUB_TEST_SCHEDULES_SEED=%d: %s", seed, strings.Join(p.wrong, "\n"))
					}
					played.Add(int64(p.played))
					for what, n := range p.seen {
						seen[i][what] += n
					}
				}
			})
		}
	})
	all := map[string]int{}
	for _, m := range seen {
		for what, n := range m {
			all[what] += n
		}
	}
	t.Logf("%d schedules: %v", played.Load(), all)
	for _, what := range []string{
		"call complete", "call incomplete", "call failed", "several attempts", "SETTLE", "late line", "crash", "whole answer",
		"told lost_lease", "told outcome_unknown", "told storage_unavailable",
	} {
		if all[what] < schedules/1000 {
			t.Errorf("%q was seen %d times: the schedules show too little", what, all[what])
		}
	}
}

// A seed plays the same schedules each time, but where two of one process wake at the same instant and ask for the same: who
// comes first is the runtime's choice, which the race detector varies on purpose.
func TestSchedulesRepeat(t *testing.T) {
	spools := spoolsOf(t)
	for seed := range uint64(repeatedBatches) {
		var traces [2][]string
		for i := range traces {
			traces[i] = playBatch(t, seed, perBatch, onMemory, func(p *play) { p.trace, p.spools = []string{}, spools }).trace
		}
		if !slices.Equal(traces[0], traces[1]) {
			t.Errorf("seed %d plays differently", seed)
		}
	}
}

// The store in memory does what a real one does, step by step.
func TestMemoryIsLikeTheStore(t *testing.T) {
	onSQLite, spools := groundOf(testkit.SQLite(t)), spoolsOf(t)
	for seed := range uint64(likeSchedules / perBatch) {
		var traces [2][]string
		for i, on := range []ground{onMemory, onSQLite} {
			p := playBatch(t, seed, perBatch, on, func(p *play) {
				p.trace, p.spools = []string{}, spools
				p.faults = p.luck()
				p.faults.lost = 0 // SQLite says what became of a commit
			})
			if len(p.wrong) > 0 {
				t.Errorf("seed %d: %s", seed, strings.Join(p.wrong, "\n"))
			}
			traces[i] = p.trace
		}
		for i, line := range traces[0] {
			if i >= len(traces[1]) || line != traces[1][i] {
				t.Fatalf("seed %d: in memory\n%s\nand in SQLite\n%s", seed, strings.Join(traces[0][max(0, i-10):i+1], "\n"), strings.Join(traces[1][max(0, i-10):min(i+1, len(traces[1]))], "\n"))
			}
		}
	}
}

// groundOf is SQLite's file at url.
func groundOf(url string) ground {
	return func(t testing.TB, stages []db.Stage) (db.Store, func()) {
		s, err := db.Open(t.Context(), db.Options{URL: url, Stages: stages})
		if err != nil {
			t.Fatal(err)
		}
		return s, func() { _ = s.Close() }
	}
}

func spoolsOf(t testing.TB) (list [2]*spool.Spool) {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i], err = spool.Open(t.TempDir(), ring, spool.Options{MinFree: 1}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = list[i].Close() })
	}
	return list
}
