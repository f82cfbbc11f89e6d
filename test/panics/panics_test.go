// Package panics holds the suite in which the gateway panics, at every point that internal/chaos knows, and goes on.
package panics

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// installation is a house with an org that can ask.
func installation(t *testing.T, store string, env ...string) (h *rig.House, key string) {
	t.Helper()
	t.Cleanup(rig.CloseIdle)
	sim := rig.Simulator(t, simulator.Options{})
	h = rig.NewHouse(t, rig.Options{Bin: rig.Binary(t, "chaos"), Database: rig.Stores[store](t), Sim: sim, Env: env})
	admin := h.Seed("Panics", "admin@panics.test", "admin")
	g := h.Serve()
	g.ProviderKeys(t, admin)
	if err := g.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	return h, admin.Key
}

// counts is what clients saw.
type counts struct{ asked, good, hurt atomic.Int64 }

// ask sends one request and counts what became of it: good, or hurt by a panic. Everything else is returned.
func (c *counts) ask(own *http.Client, g *rig.Gateway, key, thread string, stream bool) error {
	c.asked.Add(1)
	body, err := json.Marshal(map[string]any{
		"model": "openai/gpt-4.1-mini", "stream": stream,
		"messages": []map[string]string{{"role": "user", "content": "hello [[sim chunks=6 delay=1ms]]"}},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(context.Background(), "POST", g.URL+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if thread != "" {
		req.Header.Set("X-Thread-Id", thread)
	}
	resp, err := own.Do(req)
	if err != nil {
		c.hurt.Add(1) // its connection ended
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	switch {
	case err != nil, resp.StatusCode == 500 && len(raw) == 0, bytes.Contains(raw, []byte(`"code":"internal_error"`)):
		c.hurt.Add(1)
	case resp.StatusCode == 200 && (!stream || bytes.HasSuffix(raw, []byte("data: [DONE]\n\n"))):
		c.good.Add(1)
	default:
		return fmt.Errorf("status %d: %.300s", resp.StatusCode, raw)
	}
	return nil
}

// operator keeps no connections.
var operator = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

// caught is how many panics the gateway says it caught.
func caught(t *testing.T, g *rig.Gateway) (n int64) {
	resp, err := operator.Get(g.Operator + "/metrics")
	if err != nil {
		t.Error(err)
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(raw)) {
		if _, err := fmt.Sscanf(line, "threadhub_panics_total %d", &n); err == nil {
			return n
		}
	}
	t.Error("panics are not counted")
	return 0
}

// Many panics, at all points of a request's way and of the work beside it: the process goes on, each of them hurts
// one request at most, and when they are over everything is as before.
func TestManyPanics(t *testing.T) {
	for store, panics := range map[string]int64{"sqlite": 200, "postgres": 1000} {
		t.Run(store, func(t *testing.T) {
			if os.Getenv("THREADHUB_SOAK") != "" {
				panics *= 5
			}
			h, key := installation(t, store, "THREADHUB_STREAMS__RESUME_GRACE=0s", "THREADHUB_THREADS__TURN_WAIT=30s")
			// The log's own panics are lost lines, not counted; a prime number, so that all points have their turn.
			g := h.Serve(fmt.Sprintf("THREADHUB_TEST_CHAOS=*-log:23:panic:%d", panics), "GOMEMLIMIT=4GiB")
			var c counts
			var wg sync.WaitGroup
			end := time.Now().Add(10 * time.Minute)
			for i := range 16 {
				wg.Go(func() {
					own := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
					defer own.CloseIdleConnections()
					thread := ""
					if i%2 == 0 {
						thread = fmt.Sprintf("client-%d", i)
					}
					for k := 0; time.Now().Before(end) && caught(t, g) < panics; k++ {
						for range 10 {
							if err := c.ask(own, g, key, thread, k%2 == 0); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			wg.Wait()
			n := caught(t, g)
			t.Logf("%d panics, %d requests: %d good, %d hurt", n, c.asked.Load(), c.good.Load(), c.hurt.Load())
			if n < panics {
				t.Errorf("only %d panics", n)
			}
			if hurt := c.hurt.Load(); hurt > n || hurt == 0 {
				t.Errorf("%d panics hurt %d requests", n, hurt)
			}
			for _, where := range []string{"handler", "relay", "connection", "listener", "store"} {
				if !strings.Contains(h.Log.String(), `"msg":"panic","where":"`+where+`"`) {
					t.Errorf("none of them was in the %s", where)
				}
			}
			var after counts
			own := &http.Client{Transport: &http.Transport{}}
			defer own.CloseIdleConnections()
			for i := range 50 {
				thread := ""
				if i < 16 && i%2 == 0 {
					thread = fmt.Sprintf("client-%d", i) // nobody has its turn any more
				}
				if err := after.ask(own, g, key, thread, true); err != nil {
					t.Error(err)
				}
			}
			if after.good.Load() != 50 {
				t.Errorf("when it was over %d of 50 requests were good", after.good.Load())
			}
			if err := g.Stop(30 * time.Second); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// What runs beside requests panics each time it begins, and requests know nothing of it.
func TestPanicsBesideRequests(t *testing.T) {
	h, key := installation(t, "postgres", "REDIS_URL="+testkit.Redis(t), "THREADHUB_TIMEOUTS__LEASE=2s", "THREADHUB_TIMEOUTS__HEARTBEAT=200ms")
	for point, of := range map[string]struct{ env, where string }{
		"lease": {"", "lease"}, "janitor": {"", "janitor"}, "overload": {"GOMEMLIMIT=4GiB", "overload"}, "tick": {"", "relay"},
		"watch": {"", "watch"}, "calls": {"", "orgs"}, "bus": {"", "bus"}, "log": {"", ""},
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			const times = 2
			g := h.Serve(fmt.Sprintf("THREADHUB_TEST_CHAOS=%s:1:panic:%d", point, times), of.env)
			var c counts
			var wg sync.WaitGroup
			ask := func(directive string, stream bool) {
				wg.Go(func() {
					reply, err := g.Do(t.Context(), "POST", "/v1/chat/completions", key, map[string]any{
						"model": "openai/gpt-4.1-mini", "stream": stream,
						"messages": []map[string]string{{"role": "user", "content": "[[sim " + directive + "]]"}},
					})
					if err != nil || reply.Status != 200 || stream && !bytes.HasSuffix(reply.Body, []byte("[DONE]\n\n")) {
						t.Errorf("%v, %v", reply, err)
					}
				})
			}
			ask("chunks=4 delay=900ms", true)
			ask("head=3500ms", false)
			if point == "bus" {
				other := h.Serve()
				for n := range 4 {
					email := fmt.Sprintf("bus-%d@panics.test", n)
					var made struct{ ID string }
					if err := other.Must(t, 201, "POST", "/api/users", key, map[string]string{"email": email, "role": "viewer"}).JSON(&made); err != nil {
						t.Fatal(err)
					}
					other.Must(t, 200, "PATCH", "/api/users/"+made.ID, key, map[string]string{"role": "member"})
				}
				if err := other.Stop(30 * time.Second); err != nil {
					t.Error(err)
				}
			}
			wg.Wait()
			if n := caught(t, g); point != "log" && (n == 0 || n > times || !strings.Contains(h.Log.String(), `"msg":"panic","where":"`+of.where+`"`)) {
				t.Errorf("%d panics were caught", n)
			}
			own := &http.Client{Transport: &http.Transport{}}
			defer own.CloseIdleConnections()
			if err := c.ask(own, g, key, "", true); err != nil || c.good.Load() != 1 {
				t.Errorf("and then a request failed: %v", err)
			}
			if err := g.Stop(30 * time.Second); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
