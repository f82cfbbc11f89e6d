package gateway

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
)

// backlog repeats what could not be recorded while the store was away. Its owner is alive, so nobody else would close
// these calls; a unit that finds its call closed already changes nothing. Its goroutine lives while there is work.
type backlog struct {
	store db.Store
	log   *slog.Logger

	mu      sync.Mutex
	units   []*db.Unit
	running bool
	wg      sync.WaitGroup
	stop    chan struct{}
}

const backlogPause = time.Second

func newBacklog(store db.Store, log *slog.Logger) *backlog {
	return &backlog{store: store, log: log, stop: make(chan struct{})}
}

func (b *backlog) add(u *db.Unit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.units = append(b.units, u)
	if !b.running {
		b.running = true
		b.wg.Go(b.run)
	}
}

func (b *backlog) run() {
	for b.flush() {
		select {
		case <-time.After(backlogPause):
		case <-b.stop:
			b.flush() // once more; what still fails is the settler's
			return
		}
	}
}

// flush tries each unit once, and reports whether any are left.
func (b *backlog) flush() (more bool) {
	b.mu.Lock()
	units := b.units
	b.units = nil
	b.mu.Unlock()
	var failed []*db.Unit
	for _, u := range units {
		if err := b.store.Commit(context.Background(), u); err != nil {
			b.log.Warn("a record still waits for the store", "error", err)
			failed = append(failed, u)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.units = append(failed, b.units...)
	b.running = len(b.units) > 0
	return b.running
}

// close tries what is left once more and waits for it. Nothing may be added after.
func (b *backlog) close() {
	close(b.stop)
	b.wg.Wait()
}

// abandon closes, in the background, a call that its handler can no longer close: it is not known whether it was opened,
// or a panic ended the handler. If it is not open, that changes nothing.
func (g *Gateway) abandon(e *exchange, code string) {
	u, _ := g.recordUnit(e, ending{outcome: calls.Failed, state: calls.FailedTry, code: code, maybeBilled: !e.asked.IsZero()})
	g.backlog.add(u)
	e.leave()
}
