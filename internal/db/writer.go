package db

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/fault"
)

// What waits in front of the writer is bounded: past any of these a new unit is refused, so that a store that cannot
// keep up is felt by callers at once and not after minutes. Units that close what an open unit began always have room.
const (
	maxGroupUnits = 256
	maxGroupBytes = 4 << 20
	maxQueueUnits = 4096
	maxQueueBytes = 64 << 20
	maxQueueAge   = 250 * time.Millisecond
)

// backend commits groups. An implementation answers every unit it is given, by way of finish.
type backend interface {
	// group runs units in one transaction and finishes each. It is called by the writer only.
	group(units []*Unit)
}

// writer is the one goroutine that commits. It takes what waits, hands it to the backend, and takes the next; it never
// waits to gather. At concurrency one a group is one unit.
type writer struct {
	backend backend
	breaker *breaker
	panics  *contain.Panics
	now     func() time.Time

	mu     sync.Mutex
	queue  []*queued
	bytes  int
	closed bool

	wake chan struct{}
	done chan struct{}
}

type queued struct {
	unit  *Unit
	since time.Time
}

func newWriter(b backend, br *breaker, panics *contain.Panics) *writer {
	w := &writer{backend: b, breaker: br, panics: panics, now: time.Now, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.panics.Run("store", w.run)
	return w
}

// commit enqueues u and waits until the backend has finished it. It does not return early when ctx ends: the unit's
// rows are being written to until then, and what was asked for may already be durable.
func (w *writer) commit(ctx context.Context, u *Unit) error {
	if err := ctx.Err(); err != nil && !u.Record {
		return context.Cause(ctx)
	}
	if u.Patience == 0 {
		u.Patience = DefaultPatience
	}
	u.done = make(chan error, 1)
	u.answered.Store(false)
	if err := w.enqueue(u); err != nil {
		return err
	}
	return <-u.done
}

func (w *writer) enqueue(u *Unit) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	switch {
	case w.closed:
		return fault.New(fault.Unavailable, "the gateway is stopping").WithCode("draining").After(time.Second)
	case u.Record:
		// Its place was taken when the call was opened.
	case len(w.queue) >= maxQueueUnits, w.bytes >= maxQueueBytes,
		len(w.queue) > 0 && now.Sub(w.queue[0].since) > maxQueueAge:
		return busy(nil)
	case !w.breaker.allow():
		return unavailable(nil)
	}
	w.queue = append(w.queue, &queued{unit: u, since: now})
	w.bytes += u.size
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

func (w *writer) run() {
	defer close(w.done)
	for {
		units, closed := w.take()
		if len(units) > 0 {
			w.group(units)
			continue
		}
		if closed {
			return
		}
		<-w.wake
	}
}

// group has the backend commit units. If it panics, those it has not answered are run one by one, so that one bad unit
// fails alone.
func (w *writer) group(units []*Unit) {
	if w.tried(units) {
		return
	}
	for _, u := range units {
		switch {
		case u.answered.Load():
		case len(units) == 1:
			u.finish(errPanicked)
		default:
			w.group([]*Unit{u})
		}
	}
}

// tried reports whether the backend took units without a panic.
func (w *writer) tried(units []*Unit) (well bool) {
	defer w.panics.Catch("store")
	chaos.Point("commit")
	w.backend.group(units)
	return true
}

// errPanicked is what became of a unit whose commit panicked.
var errPanicked = fault.New(fault.Internal, "the gateway failed to store this").WithCode("internal_error")

// take returns the next group, records before opens: a turn freed in a group can be taken in it.
func (w *writer) take() (units []*Unit, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, size := 0, 0
	for n < len(w.queue) && n < maxGroupUnits && (n == 0 || size+w.queue[n].unit.size <= maxGroupBytes) {
		size += w.queue[n].unit.size
		n++
	}
	units = make([]*Unit, 0, n)
	for _, record := range []bool{true, false} {
		for _, q := range w.queue[:n] {
			if q.unit.Record == record {
				units = append(units, q.unit)
			}
		}
	}
	w.queue = append(w.queue[:0:0], w.queue[n:]...)
	w.bytes -= size
	return units, w.closed
}

// close commits what waits and ends the goroutine.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	<-w.done
}

// caught, deferred, makes a panic the error of the unit whose stage it came from: the writer serves all others too. Of
// its value, which may hold content, only the type is told.
func caught(err *error) {
	if v := recover(); v != nil {
		*err = fault.Wrap(fault.Internal, fmt.Errorf("panic: %T\n%s", v, debug.Stack()), "the gateway failed to store this").WithCode("internal_error")
	}
}

// finish answers u's caller. The first answer counts.
func (u *Unit) finish(err error) {
	if !u.answered.Swap(true) {
		u.done <- err
	}
}

func unavailable(cause error) *fault.Error {
	return fault.Wrap(fault.Unavailable, cause, "the gateway's storage does not answer; nothing was lost, try again in a moment").
		WithCode("storage_unavailable").After(time.Second)
}

func busy(cause error) *fault.Error {
	return fault.Wrap(fault.Unavailable, cause, "the gateway is busy; try again in a moment").WithCode("busy").After(time.Second)
}
