package faults

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"time"
)

// Proxy stands between two parts and is what is wrong with the network between them. Safe for concurrent use.
type Proxy struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	wake   *sync.Cond // of mu: something below has changed
	to     string
	links  map[*link]struct{}
	refuse bool
	closed bool
	delay  time.Duration
	frozen [2]bool
	cuts   []cut
	rule   func(l *link, way Way, p []byte) (out []byte, cut bool)
}

// Way is a direction.
type Way int

const (
	Up   Way = iota // from who connected to the server
	Down            // from the server
)

// link is one connection through the proxy.
type link struct {
	ends  [2]net.Conn // the client's and the server's
	sent  [2]int64    // bytes passed on
	rest  []byte      // what has come down and is not a whole message yet, of a rule that reads messages
	ready bool        // of a rule: what it waits for has gone up
}

// cut is where a connection is to end.
type cut struct {
	way  Way
	at   int64
	half bool
}

// NewProxy stands before the server at the address to.
func NewProxy(to string) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{ln: ln, to: to, links: map[*link]struct{}{}}
	p.wake = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Close cuts all connections and waits for the proxy's end.
func (p *Proxy) Close() {
	_ = p.ln.Close()
	p.set(func() { p.closed = true })
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) set(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
	p.wake.Broadcast()
}

// To leads new connections to another address.
func (p *Proxy) To(addr string) { p.set(func() { p.to = addr }) }

// Refuse closes new connections at once, as if nobody listened.
func (p *Proxy) Refuse(on bool) { p.set(func() { p.refuse = on }) }

// Delay lets every byte arrive so much later, half of it on each way.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Freeze stops what goes one way: nothing arrives, and no connection ends.
func (p *Proxy) Freeze(ways ...Way) {
	p.set(func() {
		for _, w := range ways {
			p.frozen[w] = true
		}
	})
}

// Thaw lets all that was frozen arrive.
func (p *Proxy) Thaw() { p.set(func() { p.frozen = [2]bool{} }) }

// Cut ends all connections, by RST.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// CutAt ends the next connection to carry so many bytes one way right after them, by RST on both sides. half closes only
// that way, by FIN, and lets the other be.
func (p *Proxy) CutAt(way Way, bytes int64, half bool) {
	p.set(func() { p.cuts = append(p.cuts, cut{way, bytes, half}) })
}

// DropCommit waits for needle to go up in a connection to Postgres, and ends that connection where the next COMMIT would be
// acknowledged: it has happened, and nobody is told. dropped is closed then.
func (p *Proxy) DropCommit(needle string) (dropped <-chan struct{}) {
	done := make(chan struct{})
	over := false
	p.set(func() {
		p.rule = func(l *link, way Way, b []byte) ([]byte, bool) {
			if over {
				b = append(l.rest, b...)
				l.rest = nil
				return b, false
			}
			if way == Up {
				l.ready = l.ready || bytes.Contains(b, []byte(needle))
				return b, false
			}
			out, found := l.until(b, commitTag)
			if found {
				over = true
				close(done)
			}
			return out, found
		}
	})
	return done
}

var commitTag = []byte("COMMIT\x00")

// until returns the whole messages of Postgres in what has come down so far, up to a CommandComplete with tag, once the
// link is ready for it.
func (l *link) until(b, tag []byte) (out []byte, found bool) {
	l.rest = append(l.rest, b...)
	for len(l.rest) >= 5 {
		n := 1 + int(binary.BigEndian.Uint32(l.rest[1:5]))
		if len(l.rest) < n {
			break
		}
		if l.ready && l.rest[0] == 'C' && bytes.Equal(l.rest[5:n], tag) {
			return out, true
		}
		out = append(out, l.rest[:n]...)
		l.rest = l.rest[n:]
	}
	return out, false
}

// Edit has rule change what passes; nil ends that.
func (p *Proxy) Edit(rule func(way Way, p []byte) []byte) {
	p.set(func() {
		p.rule = nil
		if rule != nil {
			p.rule = func(_ *link, way Way, b []byte) ([]byte, bool) { return rule(way, b), false }
		}
	})
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to, no := p.to, p.refuse || p.closed
		p.mu.Unlock()
		if no {
			reset(c)
			continue
		}
		s, err := net.Dial("tcp", to)
		if err != nil {
			reset(c)
			continue
		}
		l := &link{ends: [2]net.Conn{c, s}}
		p.set(func() { p.links[l] = struct{}{} })
		p.wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { p.carry(l, Up) })
			both.Go(func() { p.carry(l, Down) })
			both.Wait()
			l.cut()
			p.set(func() { delete(p.links, l) })
		})
	}
}

// piece is what was read at once, and when. Nothing in it is the end.
type piece struct {
	b  []byte
	at time.Time
}

func (p *Proxy) carry(l *link, way Way) {
	from, to := l.ends[way], l.ends[1-way]
	pieces := make(chan piece, 1024)
	p.wg.Go(func() {
		defer close(pieces)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{b[:n], time.Now()}
			}
			if err != nil {
				return
			}
		}
	})
	defer func() {
		for range pieces { // until the reader has ended
		}
	}()
	for x := range pieces {
		out, end := p.pass(l, way, x)
		if len(out) > 0 {
			if _, err := to.Write(out); err != nil {
				l.cut()
				return
			}
		}
		switch end {
		case ends:
			l.cut()
			return
		case half:
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
	p.held(way)
	_ = to.(*net.TCPConn).CloseWrite()
}

type ending int

const (
	goesOn ending = iota
	half
	ends
)

// held waits while a way is frozen.
func (p *Proxy) held(way Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.frozen[way] && !p.closed {
		p.wake.Wait()
	}
}

// pass waits for as long as x is on its way, and returns what arrives of it.
func (p *Proxy) pass(l *link, way Way, x piece) ([]byte, ending) {
	p.mu.Lock()
	wait := time.Until(x.at.Add(p.delay / 2))
	p.mu.Unlock()
	if wait > 0 {
		<-time.After(wait)
	}
	p.held(way)
	p.mu.Lock()
	defer p.mu.Unlock()
	b := x.b
	if p.rule != nil {
		out, end := p.rule(l, way, b)
		if end {
			return out, ends
		}
		b = out
	}
	l.sent[way] += int64(len(b))
	for i, c := range p.cuts {
		if c.way == way && l.sent[way] >= c.at {
			p.cuts = slices.Delete(p.cuts, i, i+1)
			b = b[:max(0, int64(len(b))-(l.sent[way]-c.at))]
			if c.half {
				return b, half
			}
			return b, ends
		}
	}
	return b, goesOn
}

func (l *link) cut() {
	for _, c := range l.ends {
		reset(c)
	}
}

// reset closes c by RST.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
