package simulator

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, opt Options) *Simulator {
	t.Helper()
	s := New(opt)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reply is what came over a raw socket.
type reply struct {
	raw   []byte
	err   error // nil: the other side closed cleanly
	took  time.Duration
	body  string // without chunked coding, as far as it came
	head  http.Header
	code  int
	cut   bool     // the body's own framing was not finished
	data  []string // payloads of data lines
	texts []string // content of choice 0, piece by piece
}

func (r *reply) done() bool { return len(r.data) > 0 && r.data[len(r.data)-1] == "[DONE]" }

func (r *reply) reset() bool {
	return r.err != nil && strings.Contains(r.err.Error(), "connection reset")
}

func (r *reply) timeout() bool { return errors.Is(r.err, os.ErrDeadlineExceeded) }

// dial opens a connection that a test owns.
func dial(t *testing.T, s *Simulator) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// post writes a chat request; extra are header lines.
func post(t *testing.T, s *Simulator, c net.Conn, provider, body, extra string) {
	t.Helper()
	_, path, _ := strings.Cut(strings.TrimPrefix(s.URL(provider), "http://"), "/")
	_, err := fmt.Fprintf(c, "POST /%s/chat/completions HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer sk-canary-0123456789\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), extra, body)
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends one request on a connection of its own and reads until that ends, or for at most wait.
func ask(t *testing.T, s *Simulator, provider, body string, wait time.Duration) *reply {
	t.Helper()
	c := dial(t, s)
	defer c.Close()
	begun := time.Now()
	post(t, s, c, provider, body, "Connection: close\r\n")
	if err := c.SetReadDeadline(begun.Add(wait)); err != nil {
		t.Fatal(err)
	}
	r := &reply{}
	r.raw, r.err = io.ReadAll(c)
	r.took = time.Since(begun)
	r.parse()
	return r
}

func (r *reply) parse() {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(r.raw)), nil)
	if err != nil {
		return
	}
	body, err := io.ReadAll(resp.Body)
	r.cut, r.code, r.head, r.body = err != nil, resp.StatusCode, resp.Header, string(body)
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return
	}
	lines := strings.FieldsFunc(r.body, func(c rune) bool { return c == '\n' || c == '\r' })
	for _, l := range lines {
		if d, ok := strings.CutPrefix(l, "data:"); ok {
			d = strings.TrimPrefix(d, " ")
			r.data = append(r.data, d)
			var chunk struct {
				Choices []struct {
					Index int
					Delta struct{ Content string }
				}
			}
			if json.Unmarshal([]byte(d), &chunk) == nil {
				for _, ch := range chunk.Choices {
					if ch.Index == 0 && ch.Delta.Content != "" {
						r.texts = append(r.texts, ch.Delta.Content)
					}
				}
			}
		}
	}
}

// prompt is a chat request with one user message; more are members, each with a comma before it.
func prompt(model, text, more string) string {
	m := string(quote(nil, text))
	return `{"model":"` + model + `","messages":[{"role":"user","content":` + m + `}]` + more + `}`
}

// last is the newest attempt, once it has ended.
func last(t *testing.T, s *Simulator) Attempt {
	t.Helper()
	var a Attempt
	until(t, "the attempt to end", func() bool {
		log := s.Log()
		if len(log) == 0 {
			return false
		}
		a = log[len(log)-1]
		return a.End != ""
	})
	return a
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(soon); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func fixture(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
