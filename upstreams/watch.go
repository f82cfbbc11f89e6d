package upstreams

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/internal/contain"
	"threadhub/internal/seedbug"
)

// ErrClosed is what Next returns when the stream was closed while it waited.
var ErrClosed = errors.New("upstreams: the stream was closed")

// Why a call was given up by us: causes of its context, which become faults.
var (
	errSilent  = errors.New("the provider was silent for too long")
	errExpired = errors.New("the call took longer than a call may")
)

// watch ends a call that waits for too long, or lasts for too long. Only time spent waiting for the provider counts: a
// reader that is slow to ask for more is not the provider's fault. It costs one timer a call and two clock readings a
// read, and has no goroutine.
type watch struct {
	cancel context.CancelCauseFunc
	start  time.Time
	total  time.Duration
	since  atomic.Int64 // when the wait under way began, after start; below 0: nobody waits

	mu      sync.Mutex // guards what follows, and that a stopped timer stays so
	limit   time.Duration
	stopped bool
	timer   *time.Timer
}

// newWatch begins a wait of at most limit, in a call of at most total.
func newWatch(cancel context.CancelCauseFunc, limit, total time.Duration, panics *contain.Panics) *watch {
	w := &watch{cancel: cancel, start: time.Now(), total: total}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
	w.timer = time.AfterFunc(min(limit, total), panics.Wrap("upstreams", w.look))
	return w
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	now := time.Since(w.start)
	next := w.limit
	if since := w.since.Load(); since >= 0 {
		next -= now - time.Duration(since)
	}
	switch {
	case now >= w.total:
		w.cancel(errExpired)
	case next <= 0 && seedbug.On("no-idle-limit"):
		w.timer.Reset(w.total - now)
	case next <= 0:
		w.cancel(errSilent)
	default:
		w.timer.Reset(min(next, w.total-now))
	}
}

// within changes how long one wait may take from now on. Nobody waits then.
func (w *watch) within(limit time.Duration) { w.limited(limit, -1) }

// wait begins a wait of at most limit.
func (w *watch) wait(limit time.Duration) { w.limited(limit, time.Since(w.start)) }

func (w *watch) limited(limit, since time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
	w.since.Store(int64(since))
	if !w.stopped {
		w.timer.Reset(min(limit, max(0, w.total-time.Since(w.start))))
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}

// watched is a reader whose reads are waits.
type watched struct {
	io.Reader
	*watch
}

func (r watched) Read(p []byte) (int, error) {
	r.since.Store(int64(time.Since(r.start)))
	n, err := r.Reader.Read(p)
	r.since.Store(-1)
	return n, err
}
