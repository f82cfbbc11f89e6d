package rolling

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

func soak() bool { return os.Getenv("THREADHUB_SOAK") != "" }

// installation is a house on Postgres and Redis with an org that can ask.
func installation(t *testing.T, env ...string) (h *rig.House, url, key string) {
	t.Helper()
	t.Cleanup(rig.CloseIdle)
	sim := rig.Simulator(t, simulator.Options{})
	url = testkit.Postgres(t)
	env = append(env, "REDIS_URL="+testkit.Redis(t))
	h = rig.NewHouse(t, rig.Options{Database: url, Sim: sim, Env: env})
	admin := h.Seed("Rolling", "admin@rolling.test", "admin")
	g := h.Serve()
	g.ProviderKeys(t, admin)
	if err := g.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	return h, url, admin.Key
}

// Three replicas are ended and started again in turn while clients that keep their connections ask: no request fails, no
// stream is cut, each replica says at once that it is not ready, ends well and in time, and leaves nothing to settle.
func TestARollingRestartFailsNothing(t *testing.T) {
	accept, rounds, most := 2*time.Second, 1, 1
	if soak() {
		accept, rounds, most = 5*time.Second, 2, 10_000
	}
	h, url, key := installation(t, "THREADHUB_TIMEOUTS__DRAIN_ACCEPT="+accept.String(), "THREADHUB_TIMEOUTS__DRAIN=20s")
	b := newBalancer()
	replicas := []*rig.Gateway{h.Serve(), h.Serve(), h.Serve()}
	for n, g := range replicas {
		b.put(n, g)
	}
	probing, stopProbing := context.WithCancel(t.Context())
	var background sync.WaitGroup
	background.Go(func() { b.run(probing) })
	defer background.Wait()
	defer stopProbing()
	testkit.Eventually(t, 10*time.Second, func() bool { return b.pick() != nil }, "a replica to be ready")

	c := &clients{b: b, key: key}
	asking, stopAsking := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(asking, 18) }()
	defer func() { stopAsking(); <-done }()
	var slowest time.Duration
	for round := 0; round < rounds || c.asked.Load() < int64(most); round++ {
		for n, g := range replicas {
			took := restart(t, g, accept)
			slowest = max(slowest, took)
			replicas[n] = h.Serve()
			b.put(n, replicas[n])
			testkit.Eventually(t, 10*time.Second, func() bool { return b.ready(t.Context(), replicas[n]) }, "the new replica to be ready")
			time.Sleep(4 * look) // it gets requests before the next one ends
		}
	}
	stopAsking()
	<-done
	stopProbing()
	for _, f := range c.failed {
		t.Error(f)
	}
	for _, g := range replicas {
		if err := g.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d requests, %d sent again on a connection that was closed, %d answers that closed theirs; the slowest drain took %s",
		c.asked.Load(), c.retried.Load(), c.closing.Load(), slowest.Round(time.Millisecond))
	if c.closing.Load() == 0 {
		t.Error("no answer said that its connection ends")
	}
	if c.asked.Load() < 100 {
		t.Error("the load was too small to show anything")
	}
	everythingEnded(t, url)
	if strings.Contains(h.Log.String(), "orphaned call was settled") {
		t.Error("calls were left to be settled")
	}
}

// restart ends g as an operator does, and returns how long that took.
func restart(t *testing.T, g *rig.Gateway, accept time.Duration) time.Duration {
	t.Helper()
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	began := time.Now()
	signal(t, g, syscall.SIGTERM)
	testkit.Eventually(t, accept, func() bool { return statusOf(t.Context(), c, g.Operator+"/health/ready") == 503 }, "it not to be ready")
	if s := statusOf(t.Context(), c, g.URL+"/health"); s != 503 && time.Since(began) < accept {
		t.Errorf("while it drains its health is %d", s)
	}
	ended(t, g, accept+10*time.Second)
	return time.Since(began)
}

func signal(t *testing.T, g *rig.Gateway, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(g.PID(), s); err != nil {
		t.Fatal(err)
	}
}

// ended waits for the end of g, which must be a good one.
func ended(t *testing.T, g *rig.Gateway, within time.Duration) {
	t.Helper()
	select {
	case <-g.Ended():
	case <-time.After(within):
		t.Fatalf("it did not end in %s", within)
	}
	if err := g.Stop(time.Second); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// everythingEnded looks into the store: no call is open, and no process is thought to live.
func everythingEnded(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for what, query := range map[string]string{
		"calls are open":   `SELECT count(*) FROM calls WHERE state <> 'closed'`,
		"leases live":      `SELECT count(*) FROM incarnations WHERE lease_until > now()`,
		"calls were lost":  `SELECT count(*) FROM calls WHERE reason = 'gateway_lost'`,
		"attempts are new": `SELECT count(*) FROM attempts WHERE state NOT IN ('ok', 'failed', 'cut')`,
	} {
		var n int
		if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// streaming begins a long stream in a thread and returns it once it has said something.
func streaming(t *testing.T, g *rig.Gateway, key, thread, directive string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", g.Host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	body := fmt.Sprintf(`{"model":"openai/gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"[[sim %s]]"}]}`, directive)
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Thread-Id: %s\r\nContent-Length: %d\r\n\r\n%s", key, thread, len(body), body)
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, `"content"`) {
			return r
		}
	}
}

// What does not end within the drain's limit, or when a second signal comes, is told so, kept as far as it came, and does
// not hold up the end, whether its client reads or not.
func TestADrainEnds(t *testing.T) {
	h, url, key := installation(t, "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=200ms", "THREADHUB_STREAMS__RESUME_GRACE=0s")
	for name, c := range map[string]struct {
		drain string
		twice bool
		least time.Duration // how long it takes
	}{
		"limit":  {"1s", false, 1200 * time.Millisecond},
		"signal": {"100s", true, 0},
	} {
		g := h.Serve("THREADHUB_TIMEOUTS__DRAIN=" + c.drain)
		reading := streaming(t, g, key, "read-"+name, "chunks=20000 delay=5ms size=400000")
		streaming(t, g, key, "unread-"+name, "chunks=2000 size=20000000") // its client reads no more
		idle, err := net.Dial("tcp", g.Host())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = idle.Close() }()
		time.Sleep(500 * time.Millisecond) // buffers fill up
		began := time.Now()
		signal(t, g, syscall.SIGTERM)
		if c.twice {
			time.Sleep(100 * time.Millisecond)
			signal(t, g, syscall.SIGTERM)
		}
		var told time.Duration
		rest, err := "", error(nil)
		for err == nil {
			var line string
			line, err = reading.ReadString('\n')
			if rest += line; told == 0 && strings.Contains(line, `"code":"draining"`) {
				told = time.Since(began)
			}
		}
		if err == io.EOF {
			err = nil
		}
		if err != nil || told == 0 || strings.Contains(rest, "[DONE]") {
			t.Errorf("%s: the stream ended with %v: %.200q", name, err, rest[max(0, len(rest)-200):])
		}
		ended(t, g, 20*time.Second)
		if took := time.Since(began); took < c.least || took > c.least+8*time.Second { // two, and more for a busy machine
			t.Errorf("%s: it ended after %s", name, took)
		} else {
			t.Logf("%s: the stream was told after %s, and all ended after %s", name, told.Round(time.Millisecond), took.Round(time.Millisecond))
		}
	}
	everythingEnded(t, url)
	g := h.Serve()
	for _, thread := range []string{"read-limit", "unread-limit", "read-signal", "unread-signal"} {
		var got struct {
			Messages []struct {
				Role, Status, Content string
				Incomplete_reason     string
			}
		}
		if err := g.Must(t, 200, "GET", "/api/threads/"+thread, key, nil).JSON(&got); err != nil {
			t.Fatal(err)
		}
		if m := got.Messages; len(m) != 2 || m[1].Status != "incomplete" || m[1].Incomplete_reason != "draining" || m[1].Content == "" {
			t.Errorf("%s holds %.300v", thread, m)
		}
	}
	if err := g.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}
