package upstreamstest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Patience is how long the suite waits for what must happen.
const Patience = 10 * time.Second

// Server is a provider played by raw bytes: it reads requests and writes what a script says, byte for byte, on plain
// TCP. It ends with its test.
type Server struct {
	URL   string       // "http://127.0.0.1:port/v1"
	Conns atomic.Int64 // how many connections it has accepted

	t        testing.TB
	listener net.Listener
	reply    func(*Conn)
	wait     sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool // nil once it is closed
}

// Conn is a connection on which one request has come.
type Conn struct {
	net.Conn
	Head    string // of the request, as it came: request line and headers
	Request *http.Request
	Body    []byte
	N       int // which request on this connection, from 0

	in *bufio.Reader
}

// Serve starts a server that answers each request by calling reply, which may be called for many connections at once.
// The connection stays open for the next request unless reply closed it.
func Serve(t testing.TB, reply func(*Conn)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: "http://" + l.Addr().String() + "/v1", t: t, listener: l, reply: reply, open: map[net.Conn]bool{}}
	s.wait.Add(1)
	go s.accept()
	t.Cleanup(s.close)
	return s
}

// Replies starts a server that answers every request with these bytes and then closes the connection.
func Replies(t testing.TB, raw string) *Server {
	t.Helper()
	return Serve(t, func(c *Conn) {
		c.Send(raw)
		c.Close()
	})
}

func (s *Server) close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.open = nil
	s.mu.Unlock()
	s.wait.Wait()
}

func (s *Server) accept() {
	defer s.wait.Done()
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.open == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.open[c] = true
		s.mu.Unlock()
		s.Conns.Add(1)
		s.wait.Add(1)
		go s.serve(c)
	}
}

func (s *Server) serve(c net.Conn) {
	defer s.wait.Done()
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
	}()
	var head bytes.Buffer
	in := bufio.NewReader(c)
	for n := 0; ; n++ {
		head.Reset()
		for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			head.Write(line)
		}
		request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head.Bytes())))
		if err != nil {
			s.t.Errorf("the request is not HTTP: %v\n%s", err, head.String())
			return
		}
		body := make([]byte, max(request.ContentLength, 0))
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		s.reply(&Conn{Conn: c, Head: head.String(), Request: request, Body: body, N: n, in: in})
	}
}

// Send writes text; false means that the client has gone.
func (c *Conn) Send(text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

// Gone waits until the client has closed its side, and reports false if it does not.
func (c *Conn) Gone() bool {
	if c.SetReadDeadline(time.Now().Add(Patience)) != nil {
		return true
	}
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	_, err := c.in.ReadByte()
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// Reset breaks the connection as a crash does.
func (c *Conn) Reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
