//go:build seedbug

package gateway

import (
	"testing"

	"threadhub/internal/seedbug"
	"threadhub/internal/testkit"
)

// Each of these bugs is seen by schedules, within so many batches. What is in the words of a store takes a real one.
func TestSchedulesSeeBugs(t *testing.T) {
	const batches = 300
	before := seedbug.Planted()
	defer seedbug.Plant(before)
	onSQLite, spools := groundOf(testkit.SQLite(t)), spoolsOf(t)
	for name, on := range map[string]ground{
		"drop-record":      onMemory, // the second transaction is not made
		"settle-twice":     onMemory,
		"done-early":       onMemory, // [DONE] is sent before the record
		"switch-midstream": onMemory, // another attempt is made after the first byte
		"retry-billed":     onMemory,
		"ask-twice":        onMemory,
		"open-late":        onMemory, // the provider is asked before the first transaction is through
		"swallow-cut":      onMemory,
		"no-late-line":     onMemory,
		"late-twice":       onMemory, // what is made again of a late owner's record counts twice
		"keep-buffer":      onMemory, // a request's buffer is used after it was given back
		"no-epoch":         onSQLite, // a late owner's record is taken after another has taken the call over
	} {
		t.Run(name, func(t *testing.T) {
			seedbug.Plant(name)
			for seed := range uint64(batches) {
				p := playBatch(t, 1000+seed, perBatch, on, func(p *play) {
					if p.spools, p.faults = spools, p.luck(); name == "no-epoch" {
						p.faults.lost = 0 // SQLite says what became of a commit
					}
				})
				if len(p.wrong) > 0 {
					t.Logf("batch %d: %.300s", seed, p.wrong[0])
					return
				}
			}
			t.Errorf("nothing was wrong in %d schedules", batches*perBatch)
		})
	}
}
