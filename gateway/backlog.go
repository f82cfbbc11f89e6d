package gateway

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/spool"
)

// backlog repeats what could not be recorded while the store was away. Its owner is alive, so nobody else would close
// these calls; what finds its call closed already changes nothing. A record lies in the spool meanwhile, where the next
// process finds it should this one die. Its goroutines live while there is work.
type backlog struct {
	to     *recorder
	spool  *spool.Spool
	log    *slog.Logger
	panics *contain.Panics

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

	rec   *recording // nil: it is in the spool
	keep  bool       // rec belongs into the spool, which has not taken it yet
	name  string     // in the spool; "": it is not there
	known bool       // it says what the call really cost
	late  bool       // another process has the call, or had it: all that is left to be written down is what it really cost

	inherited bool // an earlier process left it
}

const (
	backlogPause    = time.Second
	backlogPatience = 2 * time.Second // of one try; the end of the process waits for one
	backlogAtOnce   = 64
)

func newBacklog(to *recorder, spool *spool.Spool, log *slog.Logger, panics *contain.Panics) *backlog {
	return &backlog{to: to, spool: spool, log: log, panics: panics, stop: make(chan struct{})}
}

// keep puts a record into the spool and takes it over; late says that the store has refused it, as another process has the
// call. It returns when the record is on the disk, if it can be.
func (b *backlog) keep(rec *recording, late bool) {
	l := &leftover{rec: rec, keep: b.spool != nil, known: true, late: late}
	if err := b.save(l); err != nil {
		b.log.Error("a record that the store does not take is only in memory", "request_id", rec.Closing.ID, "error", err)
	}
	chaos.Point("spooled")
	b.add(l)
}

// save puts what belongs there into the spool. What is there need not be in memory.
func (b *backlog) save(l *leftover) error {
	if !l.keep {
		return nil
	}
	text, err := l.rec.encode()
	if err != nil {
		return err
	}
	name := string(l.rec.Closing.ID)
	if err := b.spool.Put(name, text); err != nil {
		return err
	}
	l.rec, l.keep, l.name = nil, false, name
	return nil
}

// add takes over l. Nobody else may use it from then on.
func (b *backlog) add(l *leftover) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = append(b.left, l)
	b.start()
}

// start begins to work on what is left. b.mu is held.
func (b *backlog) start() {
	if !b.running && len(b.left) > 0 {
		b.running = true
		b.wg.Go(b.panics.Wrap("backlog", b.run))
	}
}

// recover tries once what earlier processes have left in the spool. What still fails is tried again after resume.
func (b *backlog) recover() error {
	names := b.spool.Names()
	if len(names) == 0 {
		return nil
	}
	b.mu.Lock()
	for _, name := range names {
		b.left = append(b.left, &leftover{name: name, known: true, inherited: true})
	}
	b.mu.Unlock()
	_, err := b.flush()
	b.log.Info("records of an earlier process were found in the spool", "records", len(names), "left", b.pending())
	return err
}

func (b *backlog) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.start()
}

// pending is how many calls must still be closed.
func (b *backlog) pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.left)
}

func (b *backlog) run() {
	for {
		more, err := b.flush()
		if err != nil {
			b.log.Warn("records still wait for the store", "records", b.pending(), "error", err)
		}
		if !more {
			return
		}
		select {
		case <-time.After(backlogPause):
		case <-b.stop:
			_, _ = b.flush() // once more; what still fails is the next process's, or the settler's
			return
		}
	}
}

// flush tries what is left: one, and if the store is there the others, many at a time. What fails goes to the end of the
// line. It reports whether anything is left.
func (b *backlog) flush() (more bool, err error) {
	b.mu.Lock()
	left := b.left
	b.mu.Unlock()
	b.saveAll(left)
	var failed []*leftover
	done := 0
	for n := 1; done < len(left) && err == nil; n = min(backlogAtOnce, len(left)-done) {
		var bad []*leftover
		bad, err = b.together(left[done : done+n])
		failed = append(failed, bad...)
		done += n
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = slices.Concat(b.left[done:], failed) // some may have been added
	b.running = b.running && len(b.left) > 0
	return len(b.left) > 0, err
}

// saveAll puts into the spool what it could not take before.
func (b *backlog) saveAll(left []*leftover) {
	for _, l := range left {
		if err := b.save(l); err != nil {
			b.log.Warn("records are still only in memory", "error", err)
			return
		}
	}
}

// together commits several side by side and returns those that failed. That some wait for another process is no error.
func (b *backlog) together(some []*leftover) (failed []*leftover, err error) {
	errs := make([]error, len(some))
	var wg sync.WaitGroup
	for i, l := range some {
		errs[i] = errPanicked // until it says otherwise
		wg.Go(b.panics.Wrap("backlog", func() {
			chaos.Point("backlog")
			errs[i] = b.commit(l)
		}))
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			failed = append(failed, some[i])
		}
		if errors.Is(err, errNotClosed) { // the store is there, and the others need not wait
			errs[i] = nil
		}
	}
	return failed, errors.Join(errs[:min(len(errs), 4)]...)
}

func (b *backlog) commit(l *leftover) error {
	if l.open != nil {
		l.open.Patience = backlogPatience
		err := b.to.store.Commit(context.Background(), l.open)
		if err != nil && mayPass(err) {
			return err
		}
		l.open = nil // a store that does not take it now did not take it then
		if err == nil && l.opening.Result != calls.Won {
			return nil // another has the turn: this call never was
		}
	}
	rec, err := b.record(l)
	if rec == nil {
		return err
	}
	if !l.late {
		var recorded bool
		recorded, err = b.to.commit(rec, backlogPatience)
		l.late = err == nil && !recorded && l.known
	}
	if l.late {
		err = b.to.late(rec.Line)
	}
	switch {
	case errors.Is(err, errNoCall), l.inherited && err != nil && !mayPass(err):
		return b.giveUp(l, err) // if it is open, the settler closes it
	case err != nil:
		return err
	}
	if l.name != "" {
		if err := b.spool.Remove(l.name); err != nil { // it is found again, and changes nothing
			b.log.Warn("a record that has been made stays in the spool", "request_id", l.name, "error", err)
		}
	}
	return nil
}

// record is what l must record; nil if nothing is left to be done, or err tells why it cannot be read now.
func (b *backlog) record(l *leftover) (*recording, error) {
	if l.rec != nil {
		return l.rec, nil
	}
	text, err := b.spool.Get(l.name)
	if err == nil {
		var rec *recording
		if rec, err = decodeRecording(text); err == nil {
			return rec, nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // another process has done it
		return nil, nil
	case errors.Is(err, spool.ErrForeign):
		b.log.Error("a record in the spool cannot be read, and stays there", "request_id", l.name, "error", err)
		return nil, nil
	case errors.Is(err, spool.ErrDamaged):
		return nil, b.giveUp(l, err)
	}
	return nil, err
}

// giveUp puts aside what can never be recorded.
func (b *backlog) giveUp(l *leftover, why error) error {
	if l.name == "" {
		b.log.Error("a call cannot be recorded", "request_id", l.rec.Closing.ID, "error", why)
		return nil
	}
	b.log.Error("a record was put aside: it is kept in the spool with the suffix .bad", "request_id", l.name, "error", why)
	return b.spool.Quarantine(l.name)
}

// close tries what is left once more and waits for it. Nothing may be added after.
func (b *backlog) close() {
	close(b.stop)
	b.wg.Wait()
}

// abandon closes, in the background, a call that its handler can no longer close: it is not known whether open, if that is
// given, has opened it, or a panic ended the handler. If it is not open, that changes nothing. There is nothing in it that
// the settler would not know, so it has no place in the spool.
func (g *Gateway) abandon(e *exchange, code string, open *db.Unit) {
	g.abandonAs(e, ending{outcome: calls.Failed, state: calls.FailedTry, code: code, maybeBilled: !e.asked.IsZero()}, open)
}

// abandonAs is abandon of a call of which it is known how it ended.
func (g *Gateway) abandonAs(e *exchange, end ending, open *db.Unit) {
	g.backlog.add(&leftover{open: open, opening: e.opening, rec: g.recording(e, end)})
	g.tapes.End(e.tape, false)
	e.leave()
}

// Recover records what earlier processes could not, and left in the spool. Call it before anybody settles their calls for
// lost, and before Serve, which goes on with what fails here. The error says why it did.
func (g *Gateway) Recover() error { return g.backlog.recover() }
