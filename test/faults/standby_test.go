package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"threadhub/internal/id"
	"threadhub/test/kills"
)

// failoverTime is how long calls may be refused while another Postgres takes over.
const failoverTime = 10 * time.Second

var (
	failover = row{
		id: "P8", title: "failover to a standby, and the old Postgres goes on and only reads", metric: "threadhub_store_failovers_total",
		setup: setup{standby: true, env: longStreams()}, play: func(w *world) {
			w.failsOver(func() { w.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()") })
		},
	}
	lostPrimary = row{
		id: "P8b", title: "the same, and the old Postgres is dead, or frozen", metric: "threadhub_store_failovers_total",
		setup: setup{standby: true, env: longStreams()}, play: func(w *world) {
			w.failsOver(func() { w.must(pick(w, w.pg.Kill, w.pg.Freeze)()) })
		},
	}
)

// failsOver plays P8: clients go on asking while Postgres is lost and its standby is promoted. What was acknowledged is all
// there (the judge compares), as Postgres acknowledged nothing that its standby did not have.
func (w *world) failsOver(lose func()) {
	w.wants(w.many(12, 6, func(int) *kills.Exchange { return w.ask(said(2, 0), pick(w, whole, plain)) }), well)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	var asked []*kills.Exchange
	for c := range 4 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				e := w.ask(said(3, 10*time.Millisecond), []option{whole, in(id.Thread(fmt.Sprint("busy-", c))), plain}[i%3])
				mu.Lock()
				asked = append(asked, e)
				mu.Unlock()
				w.sleep(20 * time.Millisecond)
			}
		})
	}
	running := w.streaming(w.g[0], w.question(said(80, 50*time.Millisecond)))
	lost := time.Now()
	lose()
	w.sleep(time.Duration(w.rand.IntN(1000)) * time.Millisecond)
	w.promote()
	w.recovers(time.Now())
	w.want(running.wait(), well)
	close(stop)
	clients.Wait()

	refused, last := 0, lost
	for _, e := range asked {
		if e.Done {
			continue
		}
		refused++
		if e.Ended.After(last) {
			last = e.Ended
		}
		if e.Err != nil || !slices.Contains(passing, e.Code) {
			w.Errorf("%s: %d %s %v", e.Text, e.Status, e.Code, e.Err)
		}
	}
	if d := last.Sub(lost); d > failoverTime+slack {
		w.Errorf("%d of %d calls were refused, for %v", refused, len(asked), d)
	}
	w.moved("threadhub_store_failovers_total")
	w.wants(w.many(12, 6, func(int) *kills.Exchange { return w.ask(said(2, 0), pick(w, whole, plain)) }), well)
	w.want(w.ask(said(2, 0), in(running.Thread)), well)
}

// promote has the standby take over.
func (w *world) promote() {
	w.Helper()
	w.db.URL = w.follower.URL()
	conn := w.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	var well bool
	w.must(conn.QueryRow(context.Background(), "SELECT pg_promote(true, 60)").Scan(&well))
	if !well {
		w.Fatal("the standby was not promoted")
	}
}
