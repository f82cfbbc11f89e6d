package faults

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"threadhub/internal/id"
	"threadhub/test/kills"
)

// How often Postgres is killed under load. The gateway is killed in test/kills.
const (
	postgresKills     = 5
	postgresKillsSoak = 100
)

// passing are the codes of an answer that tells a client to come back.
var passing = []string{"storage_unavailable", "outcome_unknown", "thread_locked", "busy", "lost_lease"}

// Postgres is killed again and again while clients go on asking: nothing that was acknowledged is lost, nothing is there
// twice, and each attempt has its line.
func TestPostgresDiesUnderLoad(t *testing.T) {
	t.Parallel()
	n := postgresKills
	if soak() {
		n = postgresKillsSoak
	}
	var asked, done int
	r := row{id: "K1", title: "kill -9 of Postgres under load", setup: setup{own: true}, play: func(w *world) {
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for c := range 8 {
			clients.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					how := []option{in(id.Thread(fmt.Sprint("busy-", (c+i)%6)))}
					if i%3 == 0 {
						how = append(how, whole)
					}
					if i%7 == 0 {
						how = append(how, plain)
					}
					e := w.ask(said(3, 10*time.Millisecond), how...)
					if !e.Done && (e.Err != nil || !slices.Contains(passing, e.Code)) {
						w.Errorf("%s: %d %s %v", e.Text, e.Status, e.Code, e.Err)
						return
					}
				}
			})
		}
		for range n {
			w.sleep(time.Duration(300+w.rand.IntN(1000)) * time.Millisecond)
			w.must(w.pg.Kill())
			w.must(w.pg.Restart(context.Background()))
		}
		w.sleep(time.Second)
		close(stop)
		clients.Wait()
		w.recovers(time.Now())
		asked = len(w.asked)
		done = len(slices.DeleteFunc(slices.Clone(w.asked), func(e *kills.Exchange) bool { return !e.Done }))
	}}
	seed := cmp.Or(*oneSeed, uint64(time.Now().UnixNano())%1_000_000)
	for _, w := range newSites(t).play(t, r, seed) {
		t.Errorf("seed %d: %s", seed, w)
	}
	t.Logf("%d kills: of %d requests %d were answered", n, asked, done)
	if done < 10*n {
		t.Error("the load was too small to show anything")
	}
}
