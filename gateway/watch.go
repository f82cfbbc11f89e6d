package gateway

import (
	"context"
	"net"
	"sync"
	"time"

	"threadhub/internal/chaos"
)

// watch looks at a client's connection now and then while its handler waits for the provider, and cancels the request
// when the client is certainly gone. It ends with stop, which waits for a look under way.
//
// Most clients that give up close their socket, which looks like the end of what they have to say. Nothing can be sent
// to find out, before there is an answer, but an interim response; the one that every client of HTTP/1.1 has always had
// to skip (RFC 9110, 15.2) is 100 Continue.
type watch struct {
	conn     net.Conn
	cancel   context.CancelCauseFunc
	outlives func(left time.Time) bool // whether the request goes on though the client left then; nil: it does not

	mu    sync.Mutex
	timer *time.Timer
	asked bool // whether a half-closed client is still there; true from the start for HTTP/1.0, which knows no interim
	over  bool
	left  time.Time
}

// stillThere is what a half-closed client is sent.
var stillThere = []byte("HTTP/1.1 100 Continue\r\n\r\n")

func (g *Gateway) watch(x *request, outlives func(left time.Time) bool) *watch {
	ctx, cancel := context.WithCancelCause(x.ctx)
	x.ctx = ctx
	w := &watch{conn: x.conn(), cancel: cancel, outlives: outlives, asked: !x.rc.Request.Header.IsHTTP11()}
	w.mu.Lock()
	w.timer = time.AfterFunc(departureLook, g.opts.Panics.Wrap("watch", w.look))
	w.mu.Unlock()
	return w
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.timer.Reset(departureLook) // whatever becomes of this look
	chaos.Point("watch")
	switch {
	case !w.left.IsZero() || departed(w.conn):
		w.gone()
	default:
		if !w.asked && halfClosed(w.conn) {
			w.asked = true
			if _, err := w.conn.Write(stillThere); err != nil {
				w.gone()
			}
		}
	}
}

// gone looks after a request whose client has left. w.mu is held.
func (w *watch) gone() {
	if w.left.IsZero() {
		w.left = time.Now()
	}
	if w.outlives == nil || !w.outlives(w.left) {
		w.cancel(errClientGone)
		w.timer.Stop()
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}
