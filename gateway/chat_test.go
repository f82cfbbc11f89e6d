package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

func TestWholeAnswerIsTheProvidersBytes(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		r := h.chat("hello", "").want(t, 200)
		log := h.attempts()
		if len(log) != 1 || len(log[0].Events) != 1 || string(r.body) != log[0].Events[0] {
			t.Fatalf("the client got\n%s\nthe provider sent\n%+v", r.body, log)
		}
		if got, want := string(log[0].Body), `{"model":"gpt-5-mini","messages":[{"role":"user","content":"hello"}]}`; got != want {
			t.Errorf("the provider got %s, want %s", got, want)
		}
		for name, want := range map[string]string{
			"X-Threadhub-Provider": "openai", "X-Threadhub-Model": "gpt-5-mini", "X-Threadhub-Route": "explicit",
			"X-Threadhub-Attempts": "1", "X-Threadhub-Cost-Status": "computed", "X-Upstream-X-Request-Id": log[0].RequestID,
		} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		c := h.call(r)
		if c["status"] != "complete" || c["cost_usd"] != r.header.Get("X-Threadhub-Cost-Usd") || len(c["attempts"].([]any)) != 1 {
			t.Errorf("the call reads %v", c)
		}
	})
}

func TestStream(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		r := h.chat("hello", `,"stream":true`).want(t, 200)
		got := events(r.body)
		sent := h.attempts()[0].Events
		if got[len(got)-1] != "[DONE]" {
			t.Errorf("the stream ends with %s", got[len(got)-1])
		}
		// All but the usage chunk, byte for byte.
		want := slices.DeleteFunc(slices.Clone(sent), func(e string) bool { return strings.Contains(e, `"choices":[]`) })
		if len(want) != len(sent)-1 || !slices.Equal(got, want) {
			t.Errorf("the client got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if !strings.Contains(string(h.attempts()[0].Body), `"stream_options":{"include_usage":true}`) {
			t.Errorf("usage was not asked for: %s", h.attempts()[0].Body)
		}
		if c := h.call(r); c["status"] != "complete" || c["cost_status"] != "computed" {
			t.Errorf("the call reads %v", c)
		}

		asked := events(h.chat("hello", `,"stream":true,"stream_options":{"include_usage":true}`).want(t, 200).body)
		var chunk struct {
			Usage struct{ Cost_usd, Cost_status string }
		}
		if err := json.Unmarshal([]byte(asked[len(asked)-2]), &chunk); err != nil || chunk.Usage.Cost_usd == "" || chunk.Usage.Cost_status != "computed" {
			t.Errorf("the usage chunk reads %s, %v", asked[len(asked)-2], err)
		}
	})
}

func TestThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		one := h.chat("[[sim text=first]] one", "", "X-Thread-Id", "t1").want(t, 200)
		if one.header.Get("X-Thread-Id") != "t1" || one.header.Get("X-Threadhub-Thread-Seq") != "0" || one.header.Get("X-Threadhub-Thread-Mode") != "appended" {
			t.Errorf("headers %v", one.header)
		}
		two := h.chat("[[sim text=second]] two", `,"stream":true`, "X-Thread-Id", "t1").want(t, 200)
		if two.header.Get("X-Threadhub-Thread-Seq") != "2" {
			t.Errorf("headers %v", two.header)
		}
		want := []string{"user:[[sim text=first]] one:complete", "assistant:first:complete", "user:[[sim text=second]] two:complete", "assistant:second:complete"}
		if got := h.messages("t1"); !slices.Equal(got, want) {
			t.Errorf("the thread reads\n%s", strings.Join(got, "\n"))
		}
		var sent struct {
			Messages []struct{ Role, Content string }
		}
		if err := json.Unmarshal(h.attempts()[1].Body, &sent); err != nil || len(sent.Messages) != 3 || sent.Messages[1].Content != "first" {
			t.Errorf("the provider was shown %s", h.attempts()[1].Body)
		}
		// By body, by metadata, and a new one.
		h.chat("three", `,"thread_id":"t1"`).want(t, 200)
		h.chat("four", `,"metadata":{"thread_id":"t1"}`).want(t, 200)
		if got := h.messages("t1"); len(got) != 8 {
			t.Errorf("%d messages, want 8", len(got))
		}
		for _, a := range h.sim.Log() {
			if strings.Contains(string(a.Body), "thread_id") {
				t.Errorf("the provider was shown the thread's id: %s", a.Body)
			}
		}
		fresh := h.chat("hello", "", "X-Thread-Id", "new").want(t, 200)
		for _, fresh := range []heard{fresh, h.chat("hello", `,"thread_id":"new"`).want(t, 200), h.chat("hello", `,"metadata":{"thread_id":"new"}`).want(t, 200)} {
			if got := fresh.header.Get("X-Thread-Id"); !strings.HasPrefix(got, "thread_") {
				t.Errorf("a new thread is %q", got)
			}
		}
	})
}

func TestThreadsAreKeptByAPI(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		made := h.do("POST", "/api/threads/", `{"title":"Plans","description":"for spring"}`).want(t, 201).json(t)
		thread := made["thread_id"].(string)
		m := h.do("POST", "/api/threads/"+thread+"/messages", `{"content":"remember the milk","role":"user"}`).want(t, 201).json(t)
		if m["sequence"] != 0.0 || m["thread_id"] != thread || m["message_id"] == "" || m["created_at"] == "" {
			t.Errorf("the message reads %v", m)
		}
		h.chat("[[sim text=milk]] what was it?", "", "X-Thread-Id", thread).want(t, 200)
		got := h.do("GET", "/api/threads/"+thread, "").want(t, 200).json(t)
		if got["title"] != "Plans" || got["visibility"] != "org" || len(got["messages"].([]any)) != 3 {
			t.Errorf("the thread reads %v", got)
		}
		if first := got["messages"].([]any)[0].(map[string]any); first["created_at"] != m["created_at"] || first["message_id"] != m["message_id"] {
			t.Errorf("the message was added as %v and reads %v", m, first)
		}
		answer := got["messages"].([]any)[2].(map[string]any)
		for _, name := range []string{"provider", "model_requested", "model_served", "route", "reason", "attempts", "latency_ms", "finish_reason", "usage", "cost_usd", "cost_status", "request_id"} {
			if _, ok := answer[name]; !ok {
				t.Errorf("the answer has no %s: %v", name, answer)
			}
		}
		for i := range 3 {
			h.do("POST", "/api/threads", fmt.Sprintf(`{"title":"%d"}`, i)).want(t, 201)
		}
		page := h.do("GET", "/api/threads?limit=3", "").want(t, 200).json(t)
		if data := page["data"].([]any); len(data) != 3 || data[0].(map[string]any)["title"] != "2" || page["next_cursor"] == nil {
			t.Fatalf("the first page reads %v", page)
		}
		rest := h.do("GET", "/api/threads?limit=3&cursor="+page["next_cursor"].(string), "").want(t, 200).json(t)
		if data := rest["data"].([]any); len(data) != 1 || data[0].(map[string]any)["title"] != "Plans" || rest["next_cursor"] != nil {
			t.Errorf("the second page reads %v", rest)
		}
	})
}

// Every way a provider can fail, whole and streamed: the client is told, the thread says so, the ledger has its line.
func TestProviderFailures(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		for i, tt := range []struct {
			fault  string
			stream bool
			status int
			code   string
			state  string
		}{
			{"status=500", false, 502, "upstream_error", "failed"},
			{"status=429 retry_after=2", false, 429, "rate_limit_exceeded", "failed"},
			{"status=500", true, 502, "upstream_error", "failed"},
			{"fault=reset", false, 502, "upstream_reset", "failed"},
			{"fault=reset_mid after=2", true, 200, "upstream_reset", "incomplete"},
			{"fault=cut after=2", true, 200, "upstream_truncated", "incomplete"},
			{"fault=stall after=2", true, 200, "upstream_stalled", "incomplete"},
			{"fault=silent", false, 504, "upstream_timeout", "failed"},
		} {
			thread := fmt.Sprint("f", i)
			more := ""
			if tt.stream {
				more = `,"stream":true`
			}
			r := h.chat("[[sim "+tt.fault+" chunks=8 text=one-two-three-four-five-six]]", more, "X-Thread-Id", thread)
			code := r.code()
			if tt.stream && r.status == 200 {
				e := events(r.body)
				code = heard{body: []byte(e[len(e)-1])}.code()
				if slices.Contains(e, "[DONE]") {
					t.Errorf("%s: a clean end after a fault", tt.fault)
				}
			}
			if r.status != tt.status || code != tt.code {
				t.Errorf("%s (stream %v): status %d, code %q, want %d, %q: %s", tt.fault, tt.stream, r.status, code, tt.status, tt.code, r.body)
				continue
			}
			m := h.messages(id.Thread(thread))
			if len(m) != 2 || !strings.HasSuffix(m[1], ":incomplete:"+tt.code) {
				t.Errorf("%s: the thread reads %q", tt.fault, m)
			}
			c := h.call(r)
			if c["status"] != tt.state || c["status_reason"] != tt.code {
				t.Errorf("%s: the call reads %v", tt.fault, c)
			}
			// The same turn again stores no second question.
			h.chat("[[sim "+tt.fault+" chunks=8 text=one-two-three-four-five-six]]", more, "X-Thread-Id", thread)
			if m := h.messages(id.Thread(thread)); len(m) != 3 || !strings.HasPrefix(m[2], "assistant:") {
				t.Errorf("%s, tried again: the thread reads %q", tt.fault, m)
			}
		}
	})
}

// Two thin requests on one thread at once are served one after the other.
func TestTurnsWait(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				h.chat(fmt.Sprintf("[[sim delay=5ms text=a%d]] q%d", i, i), `,"stream":true`, "X-Thread-Id", "busy").want(t, 200)
			})
		}
		wg.Wait()
		m := h.messages("busy")
		if len(m) != 12 {
			t.Fatalf("%d messages, want 12: %q", len(m), m)
		}
		for i := 0; i < len(m); i += 2 {
			n := m[i][strings.Index(m[i], "] q")+3 : strings.LastIndex(m[i], ":")]
			if m[i+1] != "assistant:a"+n+":complete" {
				t.Errorf("question %q is followed by %q", m[i], m[i+1])
			}
		}
	})
}

func TestTurnIsRefusedInTheEnd(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{TurnWait: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		done := make(chan heard)
		go func() { done <- h.chat("[[sim first=1s]] slow", "", "X-Thread-Id", "busy") }()
		testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == 1 })
		pending := h.messages("busy")
		if len(pending) != 2 || pending[1] != "assistant::pending" {
			t.Errorf("while it is answered the thread reads %q", pending)
		}
		r := h.chat("quick", "", "X-Thread-Id", "busy")
		if r.status != 409 || r.code() != "thread_locked" || r.header.Get("Retry-After") != "1" {
			t.Errorf("status %d, %s, Retry-After %q", r.status, r.body, r.header.Get("Retry-After"))
		}
		(<-done).want(t, 200)
	})
}

// A client that leaves costs nothing more: the provider is cancelled, what came is kept.
func TestClientLeavesAStream(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Heartbeat: 100 * time.Millisecond, ResumeGrace: -1}, func(t *testing.T, h *house) {
		for name, directive := range map[string]string{"speaking": "delay=50ms chunks=200 size=4000", "silent": "fault=stall after=3 chunks=8 size=400"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			body := `{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"[[sim ` + directive + `]]"}]}`
			fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Thread-Id: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				h.admin.APIKey.Reveal(), name, len(body), body)
			b := make([]byte, 1<<16)
			for got := ""; !strings.Contains(got, `"content":"`); {
				n, err := conn.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				got += string(b[:n])
			}
			_ = conn.Close()
			testkit.Eventually(t, 5*time.Second, func() bool {
				m := h.messages(id.Thread(name))
				return len(m) == 2 && strings.HasSuffix(m[1], ":incomplete:client_closed")
			}, "%s: the answer to be kept as incomplete", name)
			testkit.Eventually(t, 5*time.Second, func() bool {
				log := h.sim.Log()
				return log[len(log)-1].End == "client_gone" || log[len(log)-1].End == "stall"
			}, "%s: the provider to be cancelled", name)
		}
	})
}

// One that resets or closes the connection while a whole answer is made is gone, too; one that only closes its side is
// not, and tells so by taking an interim response.
func TestClientLeavesAWholeAnswer(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{ResumeGrace: -1})
	open := func(thread, model, first string) *net.TCPConn {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		body := `{"model":"` + model + `","messages":[{"role":"user","content":"[[sim first=` + first + ` text=late]]"}]}`
		fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Thread-Id: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			h.admin.APIKey.Reveal(), thread, len(body), body)
		return conn.(*net.TCPConn)
	}
	// The answers to those that leave would come long after this test has ended.
	half, gone, left := open("half", "openai/gpt-5-mini", "1500ms"), open("gone", "openrouter/sim-1", "1m"), open("left", "openrouter/sim-1", "1m")
	defer func() { _ = half.Close() }()
	_ = half.CloseWrite()
	testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == 3 })
	_ = gone.SetLinger(0)
	_ = gone.Close()
	_ = left.Close()
	for _, thread := range []id.Thread{"gone", "left"} {
		testkit.Eventually(t, 10*time.Second, func() bool {
			m := h.messages(thread)
			return len(m) == 2 && strings.HasSuffix(m[1], ":incomplete:client_closed")
		}, "the call of a client that is %s to be recorded", thread)
	}
	var got []byte
	for b := make([]byte, 1<<16); !bytes.Contains(got, []byte("late")); {
		n, err := half.Read(b)
		if got = append(got, b[:n]...); err != nil {
			t.Fatalf("a client that closed its sending side got %q, %v", got, err)
		}
	}
	if !strings.HasPrefix(strings.TrimPrefix(string(got), string(stillThere)), "HTTP/1.1 200") {
		t.Errorf("a client that closed its sending side got %q", got)
	}
}

func TestTwoThreadHeadersThatDiffer(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	body := `{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":"hi"}]}`
	for second, want := range map[string]string{"a": "HTTP/1.1 200", "b": "HTTP/1.1 400"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\nX-Thread-Id: a\r\nX-Thread-Id: %s\r\nContent-Length: %d\r\n\r\n%s",
			h.admin.APIKey.Reveal(), second, len(body), body)
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("X-Thread-Id a and %s: %.200q, %v, want %s", second, got, err, want)
		}
		_ = conn.Close()
	}
}
