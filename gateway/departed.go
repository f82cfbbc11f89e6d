package gateway

import (
	"net"
	"time"
)

// departed reports whether the client at the other end of c has certainly left: it reset the connection, or the kernel
// gave it up for lost. A client that only closed its sending side may still read the answer, and has not departed. It
// never blocks and takes nothing from the connection, so it may be asked at any time, from any goroutine.
//
// It asks the state of the socket rather than peeking at its data: a peek does not see a reset that stands behind an
// unread byte, and it takes the error away from the next write.
//
// For connections that are not TCP, and on systems other than Linux, the answer is false.
func departed(c net.Conn) bool {
	tcp := tcpOf(c)
	return tcp != nil && closedByPeer(tcp)
}

// halfClosed reports whether the client at the other end of c sends no more: it has left, as a client does whose own
// timeout ends, or it has said all and waits for the answer. Which of the two, its kernel tells when it is sent something:
// the first answers with a reset, which departed sees. As departed, it never blocks, and may not know.
func halfClosed(c net.Conn) bool {
	tcp := tcpOf(c)
	return tcp != nil && halfClosedByPeer(tcp)
}

// outlives reports whether a call goes on whose client left at that time: if somebody may come back for its answer, and
// either does already or has some time left to, and nobody waits to go on in the thread.
func (g *Gateway) outlives(e *exchange, left time.Time) bool {
	if e.thread == "" && e.claim == "" {
		return false
	}
	return e.tape.Wanted() || time.Since(left) < g.opts.ResumeGrace && !g.turns.wanted(e.caller.Org, e.thread)
}
