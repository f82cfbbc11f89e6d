package gateway

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
)

// listener accepts the public connections. Being out of file descriptors does not end it, as it would end fasthttp's
// Serve: it waits and tries again, and so do the clients in the kernel's queue. It holds at most MaxConns connections.
type listener struct {
	net.Listener
	opts   *Options
	m      *metrics
	loads  *loads        // nil: memory is not looked at
	slots  chan struct{} // one for each connection
	stop   chan struct{} // closed by Close
	once   sync.Once
	bodies atomic.Int64 // bytes reserved for bodies under way

	mu    sync.Mutex
	conns map[*conn]struct{}
	none  chan struct{} // closed when conns is empty; nil while nobody waits
}

const (
	sendBuffer = 64 << 10 // bytes the kernel may hold for one client: 10,000 that never read cost 3 GB without it

	keepAliveEvery = 15 * time.Second
	userTimeout    = 30 * time.Second // sent and not acknowledged for this long: the peer is gone

	backoffFrom = 5 * time.Millisecond
	backoffTo   = time.Second
)

func newListener(ln net.Listener, opts *Options, m *metrics) *listener {
	return &listener{
		Listener: ln, opts: opts, m: m,
		slots: make(chan struct{}, opts.MaxConns),
		stop:  make(chan struct{}),
		conns: map[*conn]struct{}{},
	}
}

// Accept waits for a connection. Its only errors are net.ErrClosed and those that repeating cannot mend.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.stop:
		return nil, net.ErrClosed
	}
	for wait := backoffFrom; ; wait = min(2*wait, backoffTo) {
		c, err := l.accept()
		if err == nil {
			return c, nil
		}
		if !passing(err) {
			<-l.slots
			return nil, err
		}
		l.m.acceptErrors.Inc()
		l.opts.Log.Warn("cannot accept a connection; trying again", slog.Any("error", err), slog.Duration("after", wait))
		if !l.sleep(wait) {
			<-l.slots
			return nil, net.ErrClosed
		}
	}
}

// accept takes one connection. A panic is a passing error: it must not end the listener.
func (l *listener) accept() (c *conn, err error) {
	var nc net.Conn
	defer func() {
		if v := recover(); v != nil {
			l.opts.Panics.Tell("listener", v)
			c, err = nil, syscall.ECONNABORTED
			if nc != nil {
				_ = nc.Close()
			}
		}
	}()
	if nc, err = l.Listener.Accept(); err != nil {
		return nil, err
	}
	chaos.Point("accept")
	tune(nc)
	return l.keep(nc), nil
}

// passing reports whether an error of accept says something of the moment, not of the listener.
func passing(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // no room
		syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM, // this one peer
		syscall.EINTR, syscall.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (l *listener) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.stop:
		return false
	}
}

// tune sets what a connection of ours needs. Failure is not fatal: the connection works without.
func tune(nc net.Conn) {
	tcp := tcpOf(nc)
	if tcp == nil {
		return
	}
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetWriteBuffer(sendBuffer)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveEvery, Interval: keepAliveEvery, Count: 2})
	setUserTimeout(tcp, userTimeout)
}

func (l *listener) keep(nc net.Conn) *conn {
	c := &conn{Conn: nc, l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	l.m.connections.Inc()
	return c
}

func (l *listener) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.conns[c]; ok {
		delete(l.conns, c)
		l.m.connections.Dec()
		<-l.slots
	}
	if len(l.conns) == 0 && l.none != nil {
		close(l.none)
		l.none = nil
	}
}

// empty returns a channel that is closed when there is no connection. Ask after Close, or there may be another.
func (l *listener) empty() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	none := make(chan struct{})
	if len(l.conns) == 0 {
		close(none)
	} else {
		l.none = none
	}
	return none
}

// cut ends all connections at once and returns how many there were.
func (l *listener) cut() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.cut()
	}
	return len(l.conns)
}

// cutStuck ends the connections whose clients have taken nothing of what they are given for so long.
func (l *listener) cutStuck(since time.Duration) {
	before := time.Now().Add(-since).UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if at := c.stalled.Load(); at != 0 && at < before {
			c.cut()
		}
	}
}

// cutIdle ends the connections on which no request has begun.
func (l *listener) cutIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if !c.asking.Load() {
			c.cut()
		}
	}
}

// crowdedOut reports whether places for connections are few: then none is kept for a client that has nothing to ask.
func (l *listener) crowdedOut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)*100 > l.opts.MaxConns*crowdedFrom
}

func (l *listener) overloaded() *fault.Error {
	return fault.New(fault.Unavailable, "too many large request bodies are on their way").WithCode("overloaded").After(time.Second)
}

// Close ends Accept. Connections go on.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.stop) })
	return l.Listener.Close()
}

// tcpOf returns the TCP connection at the bottom of c, or nil.
func tcpOf(c net.Conn) *net.TCPConn {
	for {
		switch t := c.(type) {
		case *net.TCPConn:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
}
