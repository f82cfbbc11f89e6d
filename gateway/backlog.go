package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
)

// backlog repeats what could not be recorded while the store was away. Its owner is alive, so nobody else would close
// these calls; a unit that finds its call closed already changes nothing. Its goroutines live while there is work.
type backlog struct {
	store db.Store
	log   *slog.Logger

	mu      sync.Mutex
	left    []*leftover
	running bool
	wg      sync.WaitGroup
	stop    chan struct{}
}

// leftover is a call that must still be closed.
type leftover struct {
	// open, if set, is the unit that was to open the call, of which nobody knows whether it did, or will: it may still be
	// under way. It is run again first, which waits for that and settles it.
	open    *db.Unit
	opening *calls.Opening

	record  *db.Unit
	closing *calls.Closing
	lost    func() error // what is done when another process has closed the call meanwhile; nil: nothing
}

func (l *leftover) commit(ctx context.Context, store db.Store) error {
	if l.open != nil {
		err := store.Commit(ctx, l.open)
		if fault.Is(err, fault.Unavailable) {
			return err
		}
		l.open = nil // a store that does not take it now did not take it then
		if err == nil && l.opening.Result != calls.Won {
			l.record = nil // another has the turn: this call never was
		}
	}
	if l.record == nil {
		return nil
	}
	if err := store.Commit(ctx, l.record); err != nil {
		return err
	}
	if l.lost != nil && !l.closing.Recorded {
		return l.lost()
	}
	return nil
}

const (
	backlogPause    = time.Second
	backlogPatience = 2 * time.Second // of one try; the end of the process waits for one
)

func newBacklog(store db.Store, log *slog.Logger) *backlog {
	return &backlog{store: store, log: log, stop: make(chan struct{})}
}

// add takes over l. Nobody else may use it, or its units, from then on.
func (b *backlog) add(l *leftover) {
	l.record.Patience = backlogPatience
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = append(b.left, l)
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

// flush tries all that is left once, side by side, and reports whether any of it still is.
func (b *backlog) flush() (more bool) {
	b.mu.Lock()
	left := b.left
	b.left = nil
	b.mu.Unlock()
	errs := make([]error, len(left))
	var wg sync.WaitGroup
	for i, l := range left {
		wg.Go(func() { errs[i] = l.commit(context.Background(), b.store) })
	}
	wg.Wait()
	var failed []*leftover
	for i, err := range errs {
		if err != nil {
			failed = append(failed, left[i])
		}
	}
	if len(failed) > 0 {
		b.log.Warn("records still wait for the store", "records", len(failed), "error", errors.Join(errs[:min(len(errs), 4)]...))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = append(failed, b.left...)
	b.running = len(b.left) > 0
	return b.running
}

// close tries what is left once more and waits for it. Nothing may be added after.
func (b *backlog) close() {
	close(b.stop)
	b.wg.Wait()
}

// abandon closes, in the background, a call that its handler can no longer close: it is not known whether open, if that is
// given, has opened it, or a panic ended the handler. If it is not open, that changes nothing.
func (g *Gateway) abandon(e *exchange, code string, open *db.Unit) {
	u, _ := g.recordUnit(e, ending{outcome: calls.Failed, state: calls.FailedTry, code: code, maybeBilled: !e.asked.IsZero()})
	g.backlog.add(&leftover{open: open, opening: e.opening, record: u})
	g.tapes.End(e.tape, false)
	e.leave()
}
