package layout

import (
	"path/filepath"
	"strings"
	"testing"
)

// uncontained are the goroutines of the product that run under no Panics, by file and what they run, with the reason.
var uncontained = map[string]string{
	"cmd/threadhub/serve.go: func() { ended <- s.gateway.Serve(public, operator) }()": "its end is the process's, however it ends",
	"cmd/threadhub/serve.go: func() { stopped <- s.gateway.Shutdown(ctx) }()":         "the same",
	"gateway/gateway.go: func() {":                                            "net/http recovers in each of its handlers, and nothing else of ours runs there",
	"gateway/log.go: s.run()":                                                 "the log cannot be told of its own panics: put recovers, and counts the line as dropped",
	"simulator/simulator.go: s.accept()":                                      "the simulator is no part of a gateway",
	"simulator/simulator.go: func() {":                                        "the same",
	"internal/testkit/server.go: func() {":                                    "of tests",
	"internal/testkit/cmd/services/main.go: func() { ended <- cmd.Wait() }()": "of tests",
}

// Every goroutine of the product ends alone when it panics.
func TestEveryGoroutineIsContained(t *testing.T) {
	all, err := Goroutines(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	contained := 0
	for _, g := range all {
		what := g.File + ": " + g.Text
		switch {
		case g.Contained:
			contained++
		case strings.HasPrefix(g.File, "test/") || strings.HasPrefix(g.File, "upstreams/upstreamstest/"):
		case uncontained[what] != "":
			used[what] = true
		default:
			t.Errorf("%s:%d starts %s: run it under a contain.Panics, or say here why not", g.File, g.Line, g.Text)
		}
	}
	for what := range uncontained {
		if !used[what] {
			t.Errorf("%s is not there any more", what)
		}
	}
	if contained < 15 {
		t.Errorf("only %d contained goroutines were found: the search sees little", contained)
	}
}

// The search sees what is planted.
func TestGoroutines(t *testing.T) {
	for code, want := range map[string]bool{
		"go run()":                                    false,
		"go func() { defer p.Catch(); run() }()":      false,
		"go s.panics.Run(`x`, run)":                   true,
		"go o.Panics.Keep(ctx, `x`, run)":             true,
		"go other.Run(`x`, run)":                      false,
		"wg.Go(run)":                                  false,
		"wg.Go(panics.Wrap(`x`, run))":                true,
		"wg.Go(func() { panics.Keep(c, `x`, run) })":  true,
		"wg.Go(func() { a(); panics.Run(`x`, run) })": false,
		"time.AfterFunc(d, w.look)":                   false,
		"time.AfterFunc(d, panics.Wrap(`x`, look))":   true,
		"context.AfterFunc(ctx, stop)":                false,
	} {
		root := t.TempDir()
		write(t, root, "room/a.go", "package room\nfunc f() {\n"+code+"\n}\n")
		write(t, root, "room/a_test.go", "package room\nfunc f() {\ngo run()\n}\n")
		all, err := Goroutines(root)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 || all[0].Contained != want || all[0].Line != 3 {
			t.Errorf("%s: %+v, want contained %v", code, all, want)
		}
	}
}
