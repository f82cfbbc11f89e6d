package simulator

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// How an exchange may end early. Anything else is an error of the socket, and counts as errGone.
var (
	errGone   = errors.New("the client has gone")
	errClosed = errors.New("the simulator was closed")
	errFault  = errors.New("the fault ended the connection")
)

// conn is one client's connection: one goroutine reads a request, answers it, reads the next.
//
// Waiting is done by reading: a delay is a read with a deadline, so that a client that leaves is noticed at once and
// thousands of slow streams cost one goroutine each.
type conn struct {
	s      *Simulator
	tcp    *net.TCPConn
	r      *bufio.Reader
	out    []byte // the buffer senders write into, kept from one exchange to the next
	served int    // exchanges finished
	armed  bool   // a read deadline is set
	stale  bool   // close under the next request
}

func newConn(s *Simulator, tcp *net.TCPConn) *conn {
	return &conn{s: s, tcp: tcp, r: bufio.NewReader(tcp)}
}

// exchange is one request and its answer.
type exchange struct {
	s        *Simulator
	c        *conn
	p        provider
	req      *http.Request // its body is read already
	path     string        // below the provider's base
	key      string        // the provider's key; "" if there was none
	body     []byte
	rec      *record
	log      *attempts // the one that rec is in
	plan     *plan     // what was asked of the simulator; never nil
	id       string    // the provider's own id of the exchange
	keep     bool      // the connection may serve another request
	rejected string    // why the request was refused
	eol      string    // of the provider's event streams; "" is LF
	array    bool      // the stream is one JSON array, event by event
}

// serve answers requests until the client leaves, a fault says so, or the simulator is closed.
func (c *conn) serve() {
	defer func() { _ = c.tcp.Close() }()
	for {
		req, err := http.ReadRequest(c.r)
		if err != nil {
			if c.served == 0 && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				_, _ = io.WriteString(c.tcp, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}
			return
		}
		if !c.answer(req) {
			return
		}
		c.served++
		if c.armed {
			c.armed = false
			if c.tcp.SetReadDeadline(time.Time{}) != nil {
				return
			}
		}
	}
}

// answer serves one request and reports whether the connection may be used again.
func (c *conn) answer(req *http.Request) bool {
	path := req.URL.Path
	if strings.HasPrefix(path, controlBase) {
		return c.s.control(c, req)
	}
	x := &exchange{s: c.s, c: c, req: req, plan: newPlan(), keep: !req.Close && req.ProtoAtLeast(1, 1)}
	for _, p := range c.s.providers {
		if rest, ok := strings.CutPrefix(path, p.base()); ok && (rest == "" || rest[0] == '/') {
			x.p, x.path = p, rest
		}
	}
	if x.p == nil {
		_, _ = io.WriteString(c.tcp, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return false
	}
	x.begin()
	err := x.run()
	x.finish(err)
	return err == nil && x.keep
}

// begin puts the attempt into the log: its head has arrived.
func (x *exchange) begin() {
	h := x.req.Header.Clone()
	x.key = x.p.key(h)
	h.Del("Authorization")
	h.Del(googleKey)
	h.Set("Host", x.req.Host) // net/http takes these two out
	if len(x.req.TransferEncoding) > 0 {
		h["Transfer-Encoding"] = x.req.TransferEncoding
	}
	x.rec = &record{a: Attempt{
		Provider: x.p.name(), Method: x.req.Method, Path: x.path, Query: x.req.URL.RawQuery, Name: h.Get("X-Client-Request-Id"), Header: h, Begun: time.Now(),
	}}
	if x.key != "" {
		x.rec.a.KeyHash = KeyHash(x.key)
	}
	x.log = &x.s.log
	if x.isCheck() {
		x.log = &x.s.checks
	}
	x.log.begin(x.rec)
}

// isCheck reports whether the request wants no answer of a model, but to know which there are, or whether its key is good.
func (x *exchange) isCheck() bool {
	if x.req.Method != http.MethodGet {
		return false
	}
	switch x.path {
	case "/models", "/embeddings/models", "/key", "/v1/models", "/router/v1/models":
		return true
	}
	return strings.HasPrefix(x.path, "/models/")
}

// bearer is the key in an Authorization header.
func bearer(h http.Header) string {
	if scheme, key, ok := strings.Cut(h.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(key)
	}
	return ""
}

// run reads the body, finds the script and lets the provider answer.
func (x *exchange) run() error {
	c := x.c
	if c.served > 0 && (c.stale || x.s.takeStale(x.p.name())) {
		x.plan.fault = "stale"
		x.named()
		return x.reset()
	}
	if err := x.read(); err != nil {
		return err
	}
	return x.p.serve(x)
}

// read takes the whole body from the socket.
func (x *exchange) read() error {
	if strings.EqualFold(x.req.Header.Get("Expect"), "100-continue") {
		if _, err := io.WriteString(x.c.tcp, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return errGone
		}
	}
	if x.req.ContentLength > maxBody {
		x.keep = false
		return x.p.refuse(x, failure{status: 413, message: "Request payload too large"})
	}
	var err error
	if n := x.req.ContentLength; n >= 0 {
		x.body = make([]byte, n)
		_, err = io.ReadFull(x.req.Body, x.body)
	} else {
		var b bytes.Buffer
		_, err = b.ReadFrom(io.LimitReader(x.req.Body, maxBody))
		x.body = b.Bytes()
	}
	x.rec.update(func(a *Attempt) {
		a.BodySize = int64(len(x.body))
		if !x.s.opt.SizesOnly {
			a.Body = x.body
		}
	})
	if err != nil {
		return x.gone(err)
	}
	if !x.s.opt.SizesOnly {
		x.log.charge(x.rec.a.Seq, int64(len(x.body)))
	}
	return nil
}

// finish closes the attempt in the log.
func (x *exchange) finish(err error) {
	end := EndComplete
	switch {
	case errors.Is(err, errClosed):
		end = EndClosed
	case errors.Is(err, errFault):
		end = x.plan.fault
	case err != nil:
		end = EndClientGone
	case x.rejected != "":
		end = EndRejected
	case x.plan.fault != "":
		end = x.plan.fault
	}
	x.rec.update(func(a *Attempt) {
		a.Fault, a.End, a.Reason, a.Ended = x.plan.fault, end, x.rejected, time.Now()
	})
	if !x.s.opt.SizesOnly {
		x.log.charge(x.rec.a.Seq, 2*x.rec.a.SentSize) // the bytes, and the events cut out of them
	}
	if x.s.opt.Finished != nil && x.log == &x.s.log {
		x.s.opt.Finished(x.rec.snapshot())
	}
}

// gone says which of errGone and errClosed a socket's error means.
func (x *exchange) gone(error) error {
	if x.s.closed.Load() {
		return errClosed
	}
	return errGone
}

// wait waits d, or for ever if d < 0. It returns early, with errGone, when the client closes or resets; a client that
// has only shut down its sending side looks the same and counts as gone, as it does for most servers.
func (x *exchange) wait(d time.Duration) error {
	if d == 0 {
		return nil
	}
	c := x.c
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	if err := c.tcp.SetReadDeadline(until); err != nil {
		return x.gone(err)
	}
	c.armed = true
	for {
		// Asking for one byte more than is there makes Peek read on; what a pipelining client sent stays in the buffer.
		_, err := c.r.Peek(c.r.Buffered() + 1)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, bufio.ErrBufferFull): // it sends and sends: its leaving can not be seen from here
			return x.sleep(until)
		default:
			return x.gone(err)
		}
	}
}

// sleep waits without looking at the client; the zero time is for ever.
func (x *exchange) sleep(until time.Time) error {
	var after <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		after = t.C
	}
	select {
	case <-after:
		return nil
	case <-x.s.done:
		return errClosed
	}
}

// reset ends the connection with RST.
func (x *exchange) reset() error {
	_ = x.c.tcp.SetLinger(0)
	_ = x.c.tcp.Close()
	return errFault
}

// cut ends the connection with FIN.
func (x *exchange) cut() error {
	_ = x.c.tcp.Close()
	return errFault
}
