package gateway

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
)

// conn is a client's connection as fasthttp sees it: one request at a time, and none that strict.go would refuse.
//
// It reads a head to its end, checks it, and only then hands it on; it follows the framing of the body and hands on not
// one byte more; and it reads the next request only after fasthttp has said (by its StateIdle) that this one is answered.
// So the two parsers agree on where a request ends, or the connection ends. A refused request is replaced by refusal,
// a request of ours, so that its answer goes the way of all answers.
//
// It also keeps the clock: the head in HeaderTimeout, the body at minRate, each write with progress in WriteTimeout.
// Reads and writes belong to the goroutine that serves it; Close may come from any.
type conn struct {
	net.Conn
	l *listener

	state   connState
	served  bool         // a request has been answered on it
	verdict *fault.Error // why the request now being answered was refused; nil if it was not
	head    []byte       // bytes read and checked, not yet handed on
	ahead   []byte       // bytes read beyond what was checked
	frame   frame
	left    int64 // of a body with a length
	chunks  chunks
	began   time.Time // of the head, then of the body
	got     int64     // bytes of body received
	reserve atomic.Int64

	asking  atomic.Bool  // a request has begun and is not answered
	stalled atomic.Int64 // since when a write waits, in nanoseconds of the epoch; 0: none does

	refused atomic.Bool // Close waits for the client to take its answer
	closed  sync.Once
}

type connState uint8

const (
	connIdle connState = iota // the next byte begins a request
	connHead                  // handing on the head
	connBody                  // handing on the body
	connBusy                  // handed on whole; being answered
	connOver                  // nothing more will be read
)

const (
	minRate  = 1 << 10         // bytes a second that a body must keep up, on average
	minGrace = 5 * time.Second // after this long
	linger   = time.Second     // how long a refused client's bytes are still taken, that it may read the answer

	smallBody = 64 << 10 // bodies up to this size are not counted against the budget
)

// refusal stands in for a request that was refused.
const refusal = "GET /refused HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n"

// Read hands fasthttp the current request, and io.EOF where it asks for more than that.
func (c *conn) Read(p []byte) (n int, err error) {
	defer c.caught(&err)
	chaos.Point("read")
	if len(p) == 0 {
		return 0, nil
	}
	if c.state == connIdle {
		if err := c.readHead(); err != nil {
			c.state = connOver
			return 0, err
		}
	}
	switch c.state {
	case connHead:
		n := copy(p, c.head)
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
			c.beginBody()
		}
		return n, nil
	case connBody:
		n, err := c.readBody(p)
		if err != nil {
			c.state = connOver
		}
		return n, err
	default:
		return 0, io.EOF
	}
}

// caught, deferred, makes a panic an error of the connection: it is fasthttp's goroutine, which recovers nothing.
func (c *conn) caught(err *error) {
	if v := recover(); v != nil {
		c.l.opts.Panics.Tell("connection", v)
		c.state = connOver
		c.blame(fault.From(errPanicked)) // should somebody be there to be told
		*err = io.ErrUnexpectedEOF
	}
}

// answered is called when the request has been answered and fasthttp turns to the next.
func (c *conn) answered() {
	if c.state != connBusy || c.verdict != nil {
		c.state = connOver // fasthttp saw the end of the request elsewhere than we did
		return
	}
	c.state, c.served = connIdle, true
	c.asking.Store(false)
}

// readHead waits for a request and reads its head. io.EOF when there will be none; a request that is refused is not an
// error here.
func (c *conn) readHead() error {
	buf := c.ahead
	c.ahead = nil
	if len(buf) == 0 {
		// Idle connections are many: wait with one byte, not with a buffer.
		wait := c.l.opts.IdleTimeout
		if !c.served {
			wait = c.l.opts.HeaderTimeout
		}
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return io.EOF
		}
		var first [1]byte
		if n, err := c.Conn.Read(first[:]); n == 0 || err != nil {
			return io.EOF
		}
		buf = append(make([]byte, 0, 4<<10), first[0])
	}
	c.asking.Store(true)
	c.began = time.Now()
	if err := c.SetReadDeadline(c.began.Add(c.l.opts.HeaderTimeout)); err != nil {
		return io.EOF
	}
	for from := 0; ; {
		end, err := scanHead(buf, from)
		if err == nil && (end > maxHead || end == 0 && len(buf) >= maxHead) {
			err = tooLargeHead("over %d bytes", maxHead)
		}
		if err != nil {
			c.refuse(err)
			return nil
		}
		if end > 0 {
			c.accept(buf, end)
			return nil
		}
		from = len(buf)
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, rerr := c.Conn.Read(buf[len(buf):min(cap(buf), maxHead)])
		buf = buf[:len(buf)+n]
		if n == 0 && timedOut(rerr) {
			c.refuse(fault.New(fault.Slow, "the request head did not arrive in %s", c.l.opts.HeaderTimeout).WithCode("request_timeout"))
			return nil
		}
		if n == 0 && rerr != nil {
			return io.EOF // left in the middle of a head: nobody to answer
		}
	}
}

// accept checks the head that ends at end, and the size of the body it announces.
func (c *conn) accept(buf []byte, end int) {
	f, err := checkHead(buf[:end])
	if err == nil && f.length > c.l.opts.MaxBodyBytes {
		err = bodyTooLarge(c.l.opts.MaxBodyBytes)
	}
	if err == nil && !c.budget(f.length) {
		err = c.l.overloaded()
	}
	if err != nil {
		c.refuse(err)
		return
	}
	c.state, c.frame = connHead, f
	c.head, c.ahead = buf[:end:end], buf[end:]
}

// refuse puts our own request in place of the client's.
func (c *conn) refuse(err *fault.Error) {
	c.blame(err)
	c.frame, c.ahead = frame{}, nil
	c.state, c.head = connHead, []byte(refusal)
}

func (c *conn) blame(err *fault.Error) {
	c.verdict = err
	c.refused.Store(true)
}

func (c *conn) beginBody() {
	c.began, c.got, c.left, c.chunks = time.Now(), 0, c.frame.length, chunks{}
	if c.state = connBody; c.frame.length == 0 {
		c.endBody()
	}
}

func (c *conn) endBody() {
	c.state = connBusy
	c.budget(0)
	if len(c.ahead) == 0 {
		c.ahead = nil // do not keep a buffer for as long as the answer takes
	}
}

func (c *conn) readBody(p []byte) (int, error) {
	if c.frame.chunked {
		return c.readChunked(p)
	}
	p = p[:min(int64(len(p)), c.left)]
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	if n == 0 {
		var err error
		if n, err = c.receive(p); err != nil {
			return 0, err
		}
	}
	if c.left -= int64(n); c.left == 0 {
		c.endBody()
	}
	return n, nil
}

// readChunked reads through a buffer of its own: where the body ends is known only after looking.
func (c *conn) readChunked(p []byte) (int, error) {
	if len(c.ahead) == 0 {
		buf := make([]byte, 32<<10)
		n, err := c.receive(buf)
		if err != nil {
			return 0, err
		}
		c.ahead = buf[:n]
	}
	n, err := c.chunks.take(c.ahead[:min(len(p), len(c.ahead))], c.l.opts.MaxBodyBytes)
	if err == nil && !c.budget(c.chunks.total) {
		err = c.l.overloaded()
	}
	if err != nil {
		c.blame(err)
		return 0, err
	}
	copy(p, c.ahead[:n])
	c.ahead = c.ahead[n:]
	if c.chunks.state == chunkDone {
		c.endBody()
	}
	return n, nil
}

// receive reads from the socket. Its deadline is the moment at which the body, as far as it has come, would be slower
// than minRate, or older than BodyTimeout.
func (c *conn) receive(p []byte) (int, error) {
	due := min(c.l.opts.BodyTimeout, minGrace+time.Duration(c.got)*time.Second/minRate)
	if err := c.SetReadDeadline(c.began.Add(due)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	c.got += int64(n)
	switch {
	case n > 0:
		return n, nil
	case timedOut(err):
		c.blame(fault.New(fault.Slow, "the request body came too slowly").WithCode("request_timeout"))
	case errors.Is(err, io.EOF):
		c.blame(malformed("the body ended early"))
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// budget makes the reservation of c for its body n bytes, or reports that there is no room. It bounds what bodies still
// on their way, from clients nobody knows yet, can hold: fasthttp allocates a body by what its head promises.
func (c *conn) budget(n int64) bool {
	if n <= smallBody {
		n = 0
	}
	delta := n - c.reserve.Load()
	if delta > 0 && c.l.loads.stage() >= short {
		return false
	}
	if c.l.bodies.Add(delta) > c.l.opts.MaxBodyMemory && delta > 0 {
		c.l.bodies.Add(-delta)
		return false
	}
	c.reserve.Store(n)
	return true
}

// Write sends p. It fails when for a whole WriteTimeout the peer has taken nothing: neither did the kernel take bytes
// from us, nor did the peer acknowledge any. A slow reader is served at its pace; one that never reads is cut.
func (c *conn) Write(p []byte) (sent int, err error) {
	defer func() { // not by caught: the heartbeat writes, too, and the state is the reader's
		if v := recover(); v != nil {
			c.l.opts.Panics.Tell("connection", v)
			err = io.ErrClosedPipe
		}
	}()
	chaos.Point("write")
	stalled, queued := 0, -1
	defer c.stalled.Store(0)
	c.stalled.Store(time.Now().UnixNano())
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.l.opts.WriteTimeout / 2)); err != nil {
			return sent, err
		}
		n, err := c.Conn.Write(p[sent:])
		sent += n
		if err == nil || !timedOut(err) {
			return sent, err
		}
		left := unacknowledged(c.Conn)
		if stalled++; n > 0 || left < queued {
			stalled = 0
			c.stalled.Store(time.Now().UnixNano())
		}
		if stalled == 2 {
			return sent, err
		}
		queued = left
	}
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Close ends the connection. A client that was refused may still be sending: were the socket closed over its unread
// bytes, the kernel would answer with a reset and the client might never read why (RFC 9112, 9.6).
func (c *conn) Close() error {
	var err error
	c.closed.Do(func() {
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.refused.Load() && half.CloseWrite() == nil {
			_ = c.SetReadDeadline(time.Now().Add(linger))
			_, _ = io.Copy(io.Discard, c.Conn)
		}
		err = c.Conn.Close()
		c.l.forget(c)
	})
	c.l.bodies.Add(-c.reserve.Swap(0))
	return err
}

// cut ends the connection without regard for what is under way on it.
func (c *conn) cut() { _ = c.Conn.Close() }

// NetConn returns the connection below, as tls.Conn does.
func (c *conn) NetConn() net.Conn { return c.Conn }
