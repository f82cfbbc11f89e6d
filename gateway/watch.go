package gateway

import (
	"context"
	"net"
	"sync"
	"time"
)

// watch looks at a client's connection now and then while its handler waits for the provider, and cancels the request
// when the client is certainly gone. It ends with stop, which waits for a look under way.
type watch struct {
	conn   net.Conn
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

func (g *Gateway) watch(x *request) *watch {
	ctx, cancel := context.WithCancelCause(x.ctx)
	x.ctx = ctx
	w := &watch{conn: x.conn(), cancel: cancel}
	w.mu.Lock()
	w.timer = time.AfterFunc(departureLook, w.look)
	w.mu.Unlock()
	return w
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
	case departed(w.conn):
		w.cancel(errClientGone)
	default:
		w.timer.Reset(departureLook)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}
