package simulator

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTheLogHoldsWhatCameAndWhatWent(t *testing.T) {
	var mu sync.Mutex
	var finished []Attempt
	s := start(t, Options{Finished: func(a Attempt) { mu.Lock(); finished = append(finished, a); mu.Unlock() }})
	body := " {\"model\" : \"gpt-4.1-mini\",\n\"stream\":true, \"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9\"}]}\r\n"
	c := dial(t, s)
	post(t, s, c, "openai", body, "X-Client-Request-Id: req_1.0\r\nX-Extra: yes\r\nConnection: close\r\n")
	raw, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	a := last(t, s)
	r := &reply{raw: raw}
	r.parse()
	if string(a.Body) != body || a.BodySize != int64(len(body)) {
		t.Errorf("body %q", a.Body)
	}
	if !bytes.Equal(a.Sent, raw) || a.SentSize != int64(len(raw)) {
		t.Errorf("sent %q\ngot  %q", a.Sent, raw)
	}
	if strings.Join(a.Events, "\n") != strings.Join(r.data, "\n") || a.NEvents != len(r.data) {
		t.Errorf("events %q", a.Events)
	}
	if a.Text != strings.Join(r.texts, "") || a.Text != "You said: hé. I can see 1 messages." {
		t.Errorf("text %q", a.Text)
	}
	if a.Seq != 1 || a.Provider != "openai" || a.Path != "/chat/completions" || a.Name != "req_1.0" || a.Status != 200 || !a.Stream ||
		a.Model != "gpt-4.1-mini" || a.End != EndComplete || a.Fault != "" || a.RequestID != r.head.Get("X-Request-Id") {
		t.Errorf("%+v", a)
	}
	if a.KeyHash != KeyHash("sk-canary-0123456789") || a.Header.Get("Authorization") != "" || a.Header.Get("X-Extra") != "yes" {
		t.Errorf("key %s, header %v", a.KeyHash, a.Header)
	}
	if a.Usage == nil || a.Usage.Total != a.Usage.Prompt+a.Usage.Completion || !strings.Contains(r.body, a.UsageRaw) {
		t.Errorf("usage %+v %s", a.Usage, a.UsageRaw)
	}
	if a.Begun.IsZero() || a.Ended.Before(a.Begun) {
		t.Errorf("from %v to %v", a.Begun, a.Ended)
	}
	until(t, "the callback", func() bool { mu.Lock(); defer mu.Unlock(); return len(finished) == 1 })
	if finished[0].Seq != 1 || finished[0].End != EndComplete {
		t.Errorf("%+v", finished[0])
	}
	line, err := json.Marshal(a)
	if err != nil || bytes.Contains(line, []byte("sk-canary")) {
		t.Errorf("%v %s", err, line)
	}
}

func TestAnAttemptIsLoggedFromItsHead(t *testing.T) {
	s := start(t, Options{})
	c := dial(t, s)
	if _, err := io.WriteString(c, "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: s\r\nX-Client-Request-Id: early\r\nContent-Length: 10\r\n\r\n123"); err != nil {
		t.Fatal(err)
	}
	until(t, "the head", func() bool { return len(s.Log()) == 1 })
	if a := s.Log()[0]; a.End != "" || a.Name != "early" || a.Body != nil {
		t.Errorf("%+v", a)
	}
	_ = c.Close()
	if a := last(t, s); a.End != EndClientGone || a.Status != 0 {
		t.Errorf("%+v", a)
	}
}

func TestAClientThatLeavesIsNoticedAtOnce(t *testing.T) {
	s := start(t, Options{})
	for name, do := range map[string]string{"between pieces": "delay=1h chunks=5", "before the head": "head=1h", "before the first piece": "first=1h"} {
		t.Run(name, func(t *testing.T) {
			s.Reset()
			c := dial(t, s)
			post(t, s, c, "openai", prompt("sim-1", "[[sim "+do+"]]", `,"stream":true`), "")
			until(t, "the attempt to be under way", func() bool {
				log := s.Log()
				return len(log) == 1 && (log[0].SentSize > 0 || log[0].Model != "" && strings.HasPrefix(do, "head"))
			})
			_ = c.Close()
			left := time.Now()
			a := last(t, s)
			if a.End != EndClientGone || a.Ended.Sub(left) > soon {
				t.Errorf("%s after %v", a.End, a.Ended.Sub(left))
			}
			if do[:5] == "delay" && (a.NEvents != 2 || a.Text == "") {
				t.Errorf("%d events, text %q", a.NEvents, a.Text)
			}
		})
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	s := New(Options{})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		post(t, s, dial(t, s), "openai", prompt("sim-1", "[[sim fault=stall]]", `,"stream":true`), "")
	}
	until(t, "all to stall", func() bool {
		n := 0
		for _, a := range s.Log() {
			if len(a.Text) > 0 {
				n++
			}
		}
		return n == 20
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Log() {
		if a.End != EndClosed {
			t.Errorf("attempt %d ended as %s", a.Seq, a.End)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

func TestTheLogIsBounded(t *testing.T) {
	s := start(t, Options{MaxLog: 3})
	for range 5 {
		ask(t, s, "openai", prompt("sim-1", "hi", ""), soon)
		last(t, s)
	}
	log := s.Log()
	if len(log) != 3 || log[0].Seq != 3 || log[2].Seq != 5 {
		t.Errorf("%d attempts from %d", len(log), log[0].Seq)
	}
	s.Reset()
	if n := len(s.Log()); n != 0 {
		t.Errorf("%d after Reset", n)
	}
	ask(t, s, "openai", prompt("sim-1", "hi", ""), soon)
	if a := last(t, s); a.Seq != 6 {
		t.Errorf("numbers begin again: %d", a.Seq)
	}

	s = start(t, Options{MaxLogBytes: 5000})
	for range 10 {
		ask(t, s, "openai", prompt("sim-1", "hi", ""), soon)
		last(t, s)
	}
	if n := len(s.Log()); n == 0 || n > 4 {
		t.Errorf("%d attempts in 5000 bytes", n)
	}

	s = start(t, Options{SizesOnly: true})
	ask(t, s, "openai", prompt("sim-1", "hi", ""), soon)
	if a := last(t, s); a.Body != nil || a.Sent != nil || a.Events != nil || a.BodySize == 0 || a.SentSize == 0 || a.NEvents != 1 || a.Text == "" {
		t.Errorf("%+v", a)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	s := start(t, Options{})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for i := range 50 {
		text := fmt.Sprintf("number %d [[sim delay=%dus]]", i, i%2*100)
		more := []string{"", `,"stream":true`}[i%2]
		req, err := http.NewRequest("POST", s.URL("openai")+"/chat/completions", strings.NewReader(prompt("sim-1", text, more)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer k")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || len(b) == 0 {
			t.Fatalf("%d %v", resp.StatusCode, err)
		}
	}
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	if n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	s := start(t, Options{})
	c := dial(t, s)
	for i := range 3 {
		post(t, s, c, "openai", prompt("sim-1", fmt.Sprintf("[[sim text=answer%d first=5ms]]", i), ""), "")
	}
	r := bufio.NewReader(c)
	for i := range 3 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(b), fmt.Sprintf("answer%d", i)) {
			t.Errorf("%d: %s %v", i, b, err)
		}
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	s := start(t, Options{})
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		c := dial(t, s)
		post(t, s, c, "openrouter", prompt("sim-1", fmt.Sprintf("[[sim delay=1ms chunks=20 text=stream-number-%d-is-this-one]]", i), `,"stream":true`), "Connection: close\r\n")
		wg.Add(1)
		go func() {
			defer wg.Done()
			raw, err := io.ReadAll(c)
			r := &reply{raw: raw}
			r.parse()
			if err != nil || !r.done() || strings.Join(r.texts, "") != fmt.Sprintf("stream-number-%d-is-this-one", i) {
				t.Errorf("%d: %q %v", i, r.texts, err)
			}
		}()
	}
	wg.Wait()
	until(t, "all to end", func() bool {
		for _, a := range s.Log() {
			if a.End != EndComplete {
				return false
			}
		}
		return len(s.Log()) == n
	})
}
