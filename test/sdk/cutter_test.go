package sdk

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// cutter stands between the SDKs and a gateway, and breaks what passes. It knows where a request ends, so that each try
// meets a fault of its own.
type cutter struct {
	to     string // host:port
	addr   string
	server *http.Server

	mu      sync.Mutex
	rand    *rand.Rand
	met     map[string]int // faults, by name
	retries int            // requests that an SDK says it repeats
	goal    int            // of retries, after which all passes
}

// What a request meets.
const (
	passes     = "passes"
	unheard    = "unheard"     // the connection ends before the gateway has had a byte
	half       = "half"        // and when it has had a part
	turnedAway = "turned away" // a proxy answers that it is busy
	unanswered = "unanswered"  // the connection ends as soon as the gateway has all of it
	late       = "late"        // and with the first byte of the answer
	headless   = "headless"    // and in the middle of the answer's head
	givenUp    = "given up"    // a proxy waits a while, and says that it got no answer
	swallowed  = "swallowed"   // a proxy has the whole answer, and says that it got none
	cutShort   = "cut short"   // the answer ends in its middle
)

// newCutter stands before a gateway until the test ends, and breaks things until there have been so many retries.
func newCutter(t *testing.T, to string, seed uint64, goal int) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{to: to, addr: ln.Addr().String(), rand: rand.New(rand.NewPCG(seed, 2)), met: map[string]int{}, goal: goal}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = c.server.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = c.server.Close()
		<-served
	})
	return c
}

// fault chooses what a request meets. Whoever has no key is not told half an answer, as no SDK repeats that, nor is it
// cheated of a stream that the gateway has given away to its end: nobody could know that it did not arrive.
func (c *cutter) fault(keyed, stream bool) string {
	list := []string{passes, passes, passes, unheard, half, turnedAway, unanswered, unanswered, late, late, headless, givenUp}
	if keyed || !stream {
		list = append(list, swallowed)
	}
	if keyed {
		list = append(list, cutShort)
	}
	how := list[c.rand.IntN(len(list))]
	if c.retries >= c.goal {
		how = passes
	}
	c.met[how]++
	return how
}

// ServeHTTP passes one request on.
func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	if n, _ := strconv.Atoi(r.Header.Get("X-Stainless-Retry-Count")); n > 0 {
		c.retries++
	}
	how := c.fault(r.Header.Get("Idempotency-Key") != "", bytes.Contains(body, []byte(`"stream":true`)))
	wait := time.Duration(c.rand.IntN(40)) * time.Millisecond
	c.mu.Unlock()
	switch how {
	case unheard:
		hangUp(w, "")
		return
	case turnedAway:
		answer(w, http.StatusServiceUnavailable)
		return
	}
	up, err := net.Dial("tcp", c.to)
	if err != nil {
		hangUp(w, "")
		return
	}
	defer reset(up)
	var request bytes.Buffer
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.Write(&request); err != nil {
		hangUp(w, "")
		return
	}
	if how == half {
		request.Truncate(request.Len() / 2)
	}
	_, err = up.Write(request.Bytes())
	if how == half || how == unanswered || err != nil {
		hangUp(w, "")
		return
	}
	if how == givenUp {
		<-time.After(wait)
		_ = up.Close() // gently, as proxies do
		answer(w, http.StatusGatewayTimeout)
		return
	}
	back := bufio.NewReader(up)
	if _, err := back.Peek(1); err != nil || how == late {
		hangUp(w, "")
		return
	}
	if how == headless {
		hangUp(w, "HTTP/1.1 200 OK\r\nContent-Ty")
		return
	}
	c.relay(w, r, back, how)
}

// relay passes an answer on, or what is to arrive of it.
func (c *cutter) relay(w http.ResponseWriter, r *http.Request, back *bufio.Reader, how string) {
	var resp *http.Response
	var err error
	for resp == nil || resp.StatusCode < 200 {
		if resp, err = http.ReadResponse(back, r); err != nil {
			hangUp(w, "")
			return
		}
	}
	defer func() { _ = resp.Body.Close() }()
	if how == swallowed {
		_, _ = io.Copy(io.Discard, resp.Body)
		answer(w, http.StatusBadGateway)
		return
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	piece := make([]byte, 4<<10)
	for {
		n, err := resp.Body.Read(piece)
		if how == cutShort {
			n /= 2
		}
		if _, werr := w.Write(piece[:n]); werr != nil {
			return
		}
		_ = flush.Flush()
		if how == cutShort {
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			if err != io.EOF {
				panic(http.ErrAbortHandler)
			}
			return
		}
	}
}

// answer is a proxy's own, which SDKs come back from soon.
func answer(w http.ResponseWriter, status int) {
	w.Header().Set("Retry-After-Ms", "20")
	w.WriteHeader(status)
}

// hangUp ends the client's connection with a reset, after last.
func hangUp(w http.ResponseWriter, last string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if last == "" {
		reset(conn)
		return
	}
	_, _ = io.WriteString(conn, last)
	_ = conn.Close()
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// done reports whether there have been enough.
func (c *cutter) done() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retries >= c.goal
}

func (c *cutter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d retries; %v", c.retries, c.met)
}
