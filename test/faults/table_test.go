package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"threadhub/test/rig"
)

// results is what came of a run, by row.
type results struct {
	mu    sync.Mutex
	runs  map[string]int
	good  map[string]int
	lacks map[string]string // what this machine did not let a row show
}

func (r *results) add(x row, wrong []string, lacks lack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.runs, r.good, r.lacks = map[string]int{}, map[string]int{}, map[string]string{}
	}
	r.lacks[x.id] = lacks.what
	if lacks.all && len(wrong) == 0 {
		return
	}
	r.runs[x.id]++
	if len(wrong) == 0 {
		r.good[x.id]++
	}
}

// text is the table of rows, as Markdown or for a terminal.
func (r *results) text(markdown bool) string {
	var b strings.Builder
	shown, part, not := 0, 0, 0
	if markdown {
		b.WriteString("| row | fault | runs | passed | metric | not shown |\n|---|---|---|---|---|---|\n")
	}
	for _, x := range rows() {
		if x.play != nil && r.runs[x.id] == 0 && r.lacks[x.id] == "" {
			continue
		}
		why := strings.Join(slices.DeleteFunc([]string{x.awaits, x.lacks, r.lacks[x.id]}, func(s string) bool { return s == "" }), "; ")
		switch {
		case r.runs[x.id] == 0:
			not++
		case why != "":
			part++
		default:
			shown++
		}
		if markdown {
			fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %s |\n", x.id, x.title, r.runs[x.id], r.good[x.id], code(x.metric), why)
			continue
		}
		if why != "" {
			why = "; not shown: " + why
		}
		fmt.Fprintf(&b, "%-4s %d of %d  %s%s\n", x.id, r.good[x.id], r.runs[x.id], x.title, why)
	}
	fmt.Fprintf(&b, "\n%d rows are shown, %d in part, %d not yet.\n", shown, part, not)
	return b.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// write writes docs/faults.md.
func (r *results) write(t *testing.T, times int) {
	t.Helper()
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	command := "make soak"
	if !soak() {
		command = fmt.Sprintf("go test ./test/faults -run TestFaults -runs %d -table", times)
	}
	text := "<!-- Written by test/faults; do not edit. -->\n# What happens when a part fails\n\n" +
		"Each row makes one part fail under the real binary, with Postgres 15 and Redis 7 on one machine, and looks at what the\n" +
		"clients got, what thread and ledger hold, and which metric moved. After each the invariants are checked on the store, the\n" +
		"clients' logs and the providers' own log. Kills are of processes: they do not show what a power cut does.\n\n" +
		fmt.Sprintf("Commit `%s`, by `%s`: %d seeds of each row.\n\n", strings.TrimSpace(string(commit)), command, times) + r.text(true)
	if err := os.WriteFile(filepath.Join(rig.Root(t), "docs", "faults.md"), []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}
