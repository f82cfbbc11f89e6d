package rolling

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/test/rig"
)

// clients ask all the time, each over connections that it keeps. What they count is for the test to judge.
type clients struct {
	b   *balancer
	key string

	asked, retried, closing atomic.Int64 // closing: answers that said that their connection ends

	mu     sync.Mutex
	failed []string // what went wrong, the first of it
}

func (c *clients) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failed) < 20 {
		c.failed = append(c.failed, fmt.Sprintf(format, args...))
	}
}

// run has n clients ask until ctx ends, every second one for streams, every third one in a thread of its own, and
// returns when each has its last answer.
func (c *clients) run(ctx context.Context, n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			own := &http.Client{Transport: transport, Timeout: time.Minute}
			for k := 0; ctx.Err() == nil; k++ {
				thread := ""
				if i%3 == 0 {
					thread = fmt.Sprintf("client-%d", i)
				}
				c.ask(own, fmt.Sprintf("client %d, question %d", i, k), thread, i%2 == 0)
			}
		})
	}
	wg.Wait()
}

// ask sends one request and reads its answer to the end. It is sent again once, where it went out on a connection that
// had been kept and that turned out to be closed, with not a byte of an answer: what every client must expect of one.
func (c *clients) ask(own *http.Client, text, thread string, stream bool) {
	g := c.b.pick()
	if g == nil {
		c.fail("no replica is ready")
		time.Sleep(look)
		return
	}
	c.asked.Add(1)
	again, err := c.once(own, g, text, thread, stream)
	if again {
		c.retried.Add(1)
		own.CloseIdleConnections()
		if g = c.b.pick(); g != nil {
			_, err = c.once(own, g, text, thread, stream)
		}
	}
	if err != nil {
		c.fail("%s: %v", text, err)
	}
}

func (c *clients) once(own *http.Client, g *rig.Gateway, text, thread string, stream bool) (again bool, err error) {
	body, err := json.Marshal(map[string]any{
		"model": "openai/gpt-4.1-mini", "stream": stream,
		"messages": []map[string]string{{"role": "user", "content": text + " [[sim chunks=8 delay=15ms head=10ms]]"}},
	})
	if err != nil {
		return false, err
	}
	var kept, began bool
	trace := &httptrace.ClientTrace{
		GotConn:              func(i httptrace.GotConnInfo) { kept = i.Reused },
		GotFirstResponseByte: func() { began = true },
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "POST", g.URL+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	if thread != "" {
		req.Header.Set("X-Thread-Id", thread)
	}
	resp, err := own.Do(req)
	if err != nil {
		return kept && !began, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return false, fmt.Errorf("the answer was cut after %d bytes: %w", len(raw), err)
	case resp.StatusCode != 200:
		return false, fmt.Errorf("status %d: %s", resp.StatusCode, raw)
	case stream && !bytes.HasSuffix(raw, []byte("data: [DONE]\n\n")):
		return false, fmt.Errorf("the stream ended without its end: %.200s", raw[max(0, len(raw)-200):])
	}
	if resp.Close {
		c.closing.Add(1)
	}
	return false, nil
}
