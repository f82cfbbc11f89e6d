// Package contain keeps a panic from ending the process. A goroutine that panics, and on which nobody recovers, ends a Go
// process with everything in it; a gateway carries thousands of streams that have nothing to do with it. So every goroutine
// of the product runs under a Panics, which internal/layout checks, and a panic costs what that goroutine was doing.
//
// It leaves to its users to put in order what the panic left behind.
package contain

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Panics counts panics and writes them into a log. Its methods may be called on nil, which does neither, but recovers.
type Panics struct {
	log *slog.Logger
	n   atomic.Uint64
}

// New returns a Panics that writes to log; nil is silence.
func New(log *slog.Logger) *Panics {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Panics{log: log}
}

// Caught is how many panics there were.
func (p *Panics) Caught() uint64 {
	if p == nil {
		return 0
	}
	return p.n.Load()
}

// Tell counts and logs a panic that somebody has recovered. Its value may hold anything, so of it only the type is logged,
// and the text where it is the runtime's own; the stack holds no values.
func (p *Panics) Tell(where string, v any) {
	if p == nil {
		return
	}
	p.n.Add(1)
	defer func() { _ = recover() }() // a log that panics, too
	text := fmt.Sprintf("%T", v)
	if e, ok := v.(runtime.Error); ok {
		text = e.Error()
	}
	p.log.Error("panic", "where", where, "value", text, "stack", string(debug.Stack()))
}

// Catch, deferred, ends a panic of the function that deferred it.
func (p *Panics) Catch(where string) {
	if v := recover(); v != nil {
		p.Tell(where, v)
	}
}

// Run runs work, to its end or to its panic.
func (p *Panics) Run(where string, work func()) {
	defer p.Catch(where)
	work()
}

// Wrap is Run for whoever wants a function.
func (p *Panics) Wrap(where string, work func()) func() {
	return func() { p.Run(where, work) }
}

// pause is before work that panicked begins again.
const pause = time.Second

// Keep runs work that goes on for as long as ctx, and begins it again when it panics. It returns when work does.
func (p *Panics) Keep(ctx context.Context, where string, work func()) {
	for {
		returned := false
		p.Run(where, func() {
			work()
			returned = true
		})
		if returned {
			return
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
