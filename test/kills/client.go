package kills

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"threadhub/internal/id"
)

// Exchange is one request as its client knows it. Text names it: no two questions have the same.
type Exchange struct {
	Round  int
	Org    id.Org
	Thread id.Thread // "": a plain call
	Text   string    // the user message, all of it
	Model  string
	Stream bool
	Try    int                     // 0, or how often it was sent before: an SDK's repeat
	Fields map[string]any          // more members of the body
	Header [][2]string             // more of the head
	Watch  func(seen string) error // hears of the answer's text after each event of a stream; with its error the client leaves
	Wait   time.Duration           // how long the client waits for all of it; 0: patience

	Head    bool        // the head of a 200 was read: the input is acknowledged
	Done    bool        // [DONE], or a whole body, was read: the answer is acknowledged
	Status  int         // 0: no head was read
	Request id.Request  // x-request-id
	Seq     int         // X-Threadhub-Thread-Seq; -1: none
	Seen    string      // what of the answer's text was read
	Code    string      // of an error object, in the body or in the stream
	Answer  http.Header // of the answer
	Began   time.Time   // when it was sent
	First   time.Time   // when the first of the answer's text was there; of a stream
	Ended   time.Time   // when it was over, however
	Err     error       // how the connection failed; nil if it did not
	Raw     []byte      // every byte received
}

// patience is how long a client waits for a whole exchange before it gives the gateway up.
const patience = 30 * time.Second

// Client speaks HTTP on a socket of its own, so that it knows every byte that came and repeats nothing by itself. It
// keeps its connection while that is whole. Not safe for concurrent use.
type Client struct {
	Addr string // host:port
	Key  string
	Dial func() (net.Conn, error) // nil: as everybody does
	conn net.Conn
	r    *bufio.Reader
	raw  bytes.Buffer
}

func (c *Client) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Ask sends e and writes into it what came of it.
func (c *Client) Ask(e *Exchange) {
	e.Seq = -1
	c.raw.Reset()
	e.Began = time.Now()
	e.Err = c.exchange(e)
	e.Ended = time.Now()
	e.Raw = bytes.Clone(c.raw.Bytes())
	if e.Err != nil {
		c.Close()
	}
}

func (c *Client) exchange(e *Exchange) error {
	if err := c.Send(e); err != nil {
		return err
	}
	return c.Receive(e)
}

// Send sends e and waits for nothing.
func (c *Client) Send(e *Exchange) error {
	if c.conn == nil {
		dial := c.Dial
		if dial == nil {
			dial = func() (net.Conn, error) { return net.DialTimeout("tcp", c.Addr, 2*time.Second) }
		}
		conn, err := dial()
		if err != nil {
			return err
		}
		c.conn, c.r = conn, bufio.NewReader(io.TeeReader(conn, &c.raw))
	}
	if err := c.conn.SetDeadline(time.Now().Add(cmp.Or(e.Wait, patience))); err != nil {
		return err
	}
	_, err := c.conn.Write(c.request(e))
	return err
}

// CloseWrite says that nothing more will be sent.
func (c *Client) CloseWrite() error { return c.conn.(*net.TCPConn).CloseWrite() }

// Receive reads the answer to the oldest of what was sent and not answered.
func (c *Client) Receive(e *Exchange) (err error) {
	var resp *http.Response
	for resp == nil || resp.StatusCode < 200 {
		if resp, err = http.ReadResponse(c.r, &http.Request{Method: "POST"}); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			c.Close() // or the body is read to its end first
		}
		_ = resp.Body.Close()
	}()
	e.Answer = resp.Header
	e.Status, e.Head, e.Request = resp.StatusCode, resp.StatusCode == 200, id.Request(resp.Header.Get("X-Request-Id"))
	if n, err := strconv.Atoi(resp.Header.Get("X-Threadhub-Thread-Seq")); err == nil {
		e.Seq = n
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return e.readStream(resp.Body)
	}
	if err := e.readWhole(resp.Body); err != nil {
		return err
	}
	if resp.Close {
		c.Close()
	}
	return nil
}

func (c *Client) request(e *Exchange) []byte {
	members := map[string]any{
		"model": e.Model, "stream": e.Stream,
		"messages": []map[string]string{{"role": "user", "content": e.Text}},
	}
	maps.Copy(members, e.Fields)
	body, err := json.Marshal(members)
	if err != nil {
		panic(err) // what tests put together
	}
	b := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n",
		c.Addr, c.Key, len(body))
	if e.Thread != "" {
		b = fmt.Appendf(b, "X-Thread-Id: %s\r\n", e.Thread)
	}
	if e.Try > 0 {
		b = fmt.Appendf(b, "X-Stainless-Retry-Count: %d\r\n", e.Try)
	}
	for _, h := range e.Header {
		b = fmt.Appendf(b, "%s: %s\r\n", h[0], h[1])
	}
	return append(append(b, "\r\n"...), body...)
}

// said is what a client understands of an answer, a chunk or an error object.
type said struct {
	Choices []struct {
		Message, Delta struct{ Content string }
	}
	Error *struct{ Code string }
}

func (e *Exchange) readWhole(body io.Reader) error {
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var s said
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("the body is not JSON: %w", err)
	}
	if s.Error != nil {
		e.Code = s.Error.Code
	}
	if e.Status == 200 && len(s.Choices) == 1 {
		e.Seen, e.Done = s.Choices[0].Message.Content, true
	}
	return nil
}

// errUntrue is the end of a stream that no stream may have, whatever died.
var errUntrue = errors.New("the stream's end is not true")

func (e *Exchange) readStream(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 4<<20)
	last := 0
	var seen strings.Builder
	defer func() { e.Seen = seen.String() }()
	for lines.Scan() {
		if number, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			n, err := strconv.Atoi(number)
			if err != nil || n != last+1 {
				return fmt.Errorf("%w: event %s comes after event %d", errUntrue, number, last)
			}
			last = n
		}
		payload, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok: // an empty line, or a comment
			continue
		case e.Done || e.Code != "":
			return fmt.Errorf("%w: it went on after its end: %s", errUntrue, payload)
		case payload == "[DONE]":
			e.Done = true
			continue
		}
		var s said
		if err := json.Unmarshal([]byte(payload), &s); err != nil {
			return fmt.Errorf("an event is not JSON: %w", err)
		}
		if s.Error != nil {
			e.Code = s.Error.Code
		}
		for _, choice := range s.Choices {
			seen.WriteString(choice.Delta.Content)
		}
		if e.First.IsZero() && seen.Len() > 0 {
			e.First = time.Now()
		}
		if e.Watch != nil {
			if err := e.Watch(seen.String()); err != nil {
				return err
			}
		}
	}
	switch {
	case lines.Err() != nil:
		return lines.Err()
	case !e.Done && e.Code == "":
		return fmt.Errorf("%w: neither [DONE] nor an error came before it", errUntrue)
	}
	return nil
}
