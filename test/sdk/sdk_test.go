// Package sdk drives the gateway with OpenAI's own client libraries, as they come: Go and Node, against all four providers,
// with and without a thread, on both stores, in seven cases. The providers are played by the simulator, whose log is what
// the clients' and the gateway's word is held against; what a thread and a call came to is read back by a second tool,
// with another user's key.
//
// It leaves to the gateway's own tests what no SDK shows, and to test/kills the gateway's death.
package sdk

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"threadhub/internal/testkit"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) {
	rig.Together(16) // cells wait for a timeout, for an SDK that counts to its next try
	rig.Main(m)
}

// The axes of the table.
var (
	sdks      = []string{"go", "node"}
	providers = []string{"openai", "openrouter", "gemini", "perplexity"}
	modes     = []string{"plain", "thread"}
	stores    = []string{"sqlite", "postgres"}
	cases     = []struct {
		name string
		run  func(*cell)
	}{
		{"chat", chat},
		{"stream", stream},
		{"tools", tools},
		{"structured", structured},
		{"error", failure},
		{"retry", retry},
		{"timeout", timeout},
	}
)

// cells is how many there are. It is not computed from the axes: who shortens one must say so here.
const cells = 224

func TestSDKs(t *testing.T) {
	t.Parallel()
	node := startNode(t)
	t.Cleanup(func() {
		rig.CloseIdle()
		http.DefaultClient.CloseIdleConnections() // of the Go SDK
	})
	rig.Binary(t)
	table := newTable()
	t.Run("on", func(t *testing.T) { // ends when all of its parallel tests have
		for _, store := range stores {
			t.Run(store, func(t *testing.T) {
				t.Parallel()
				runStore(t, store, map[string]sdk{"go": goSDK{}, "node": node}, table)
			})
		}
	})
	table.report(t)
}

// runStore runs all cells of one store against one gateway.
func runStore(t *testing.T, store string, libraries map[string]sdk, table *table) {
	w := newWorld(t, store)
	for _, lib := range sdks {
		for _, provider := range providers {
			for _, mode := range modes {
				for _, k := range cases {
					t.Run(strings.Join([]string{lib, provider, mode, k.name}, "/"), func(t *testing.T) {
						t.Parallel()
						t.Cleanup(func() { table.put(store, lib, provider, mode, k.name, t) })
						k.run(&cell{
							T: t, w: w, sdk: libraries[lib], provider: provider, dialect: dialects[provider], threaded: mode == "thread",
							name: strings.Join([]string{lib, provider, mode, k.name}, "-"),
						})
					})
				}
			}
		}
	}
}

// table is what became of each cell.
type table struct {
	mu   sync.Mutex
	cell map[string]string // "store/sdk/provider/mode/case": "ok", "FAILED" or "skipped"
}

func newTable() *table { return &table{cell: map[string]string{}} }

func (b *table) put(store, lib, provider, mode, name string, t *testing.T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	word := "ok"
	switch {
	case t.Failed():
		word = "FAILED"
	case t.Skipped():
		word = "skipped"
	}
	b.cell[strings.Join([]string{store, lib, provider, mode, name}, "/")] = word
}

// report prints the table and fails the test unless every cell is in it.
func (b *table) report(t *testing.T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := map[string]int{}
	var s strings.Builder
	fmt.Fprintf(&s, "\n%-9s %-5s %-11s %-7s", "store", "sdk", "provider", "mode")
	for _, k := range cases {
		fmt.Fprintf(&s, " %-10s", k.name)
	}
	for _, store := range stores {
		for _, lib := range sdks {
			for _, provider := range providers {
				for _, mode := range modes {
					fmt.Fprintf(&s, "\n%-9s %-5s %-11s %-7s", store, lib, provider, mode)
					for _, k := range cases {
						word := b.cell[strings.Join([]string{store, lib, provider, mode, k.name}, "/")]
						if word == "" {
							word = "not run"
						}
						count[word]++
						fmt.Fprintf(&s, " %-10s", word)
					}
				}
			}
		}
	}
	t.Logf("%s\n%d cells: %d passed, %d failed, %d not run", &s, cells, count["ok"], count["FAILED"], cells-count["ok"]-count["FAILED"])
	switch ran := count["ok"] + count["FAILED"]; {
	case ran == cells:
	case strings.Contains(flag.Lookup("test.run").Value.String(), "/"):
		t.Logf("only the cells that -run names")
	case !testkit.Required() && ran == cells/len(stores) && os.Getenv(testkit.EnvPostgres) == "":
		t.Logf("only the cells that need no Postgres: set %s, or use make test", testkit.EnvPostgres)
	default:
		t.Errorf("%d of %d cells ran", ran, cells)
	}
}
