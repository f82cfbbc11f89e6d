package gateway

import (
	"context"
	"sync"
)

// flights are the requests that have begun and not ended: what Shutdown waits for, and cancels in the end. A request
// whose handler has returned is still in flight while its stream runs.
type flights struct {
	mu    sync.Mutex
	set   map[*flight]struct{}
	cause error         // set once everything has been cancelled
	none  chan struct{} // closed when set is empty; nil while nobody waits
}

// flight is one request in flight.
type flight struct {
	all    *flights
	cancel context.CancelCauseFunc
	ended  func() // called once, when the last holder has let go

	mu    sync.Mutex
	holds int
	over  bool
}

func newFlights() *flights { return &flights{set: map[*flight]struct{}{}} }

// begin registers a request, held once by its caller, and returns its context. ended is called when the last holder
// has let go. After cancel the context comes cancelled.
func (f *flights) begin(ended func()) (context.Context, *flight) {
	ctx, cancel := context.WithCancelCause(context.Background())
	fl := &flight{all: f, cancel: cancel, ended: ended, holds: 1}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set[fl] = struct{}{}
	if f.cause != nil {
		cancel(f.cause)
	}
	return ctx, fl
}

// hold keeps the request in flight until the returned function is called, by whomever, once or more often.
func (fl *flight) hold() (release func()) {
	fl.mu.Lock()
	fl.holds++
	fl.mu.Unlock()
	var once sync.Once
	return func() { once.Do(fl.release) }
}

func (fl *flight) release() {
	fl.mu.Lock()
	fl.holds--
	last := fl.holds == 0 && !fl.over
	fl.over = fl.over || last
	fl.mu.Unlock()
	if last {
		fl.end()
	}
}

// abandon ends the flight whoever still holds it.
func (fl *flight) abandon() {
	fl.mu.Lock()
	last := !fl.over
	fl.over = true
	fl.mu.Unlock()
	if last {
		fl.end()
	}
}

func (fl *flight) end() {
	fl.cancel(context.Canceled)
	fl.ended()
	f := fl.all
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, fl)
	if len(f.set) == 0 && f.none != nil {
		close(f.none)
		f.none = nil
	}
}

// empty returns a channel that is closed when nothing is in flight.
func (f *flights) empty() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.set) == 0 {
		c := make(chan struct{})
		close(c)
		return c
	}
	if f.none == nil {
		f.none = make(chan struct{})
	}
	return f.none
}

// cancel cancels what is in flight, and what begins after, with cause.
func (f *flights) cancel(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cause = cause
	for fl := range f.set {
		fl.cancel(cause)
	}
}
