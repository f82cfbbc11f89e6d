package tenancy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

// felt is how soon a revocation is felt in every process, and how much longer it may take on a busy machine.
const (
	felt = time.Second
	busy = 4 * time.Second
)

// A key that one process revokes is refused by all of them within a second, and ends what is running on it, streams and
// answers that are still waited for. What other keys have running goes on.
func TestARevocationIsFeltInEveryProcess(t *testing.T) {
	sim := rig.Simulator(t, simulator.Options{})
	house := rig.NewHouse(t, rig.Options{Database: testkit.Postgres(t), Sim: sim, Env: []string{"REDIS_URL=" + testkit.Redis(t), "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0"}})
	admin := house.Seed("Acme", "admin@acme.example", "admin")
	first, second := house.Serve(), house.Serve()
	first.ProviderKeys(t, admin)
	colleague := house.Seed("Acme", "colleague@acme.example", "member")
	key := house.Seed("Acme", "member@acme.example", "member").Key

	var running []*stream
	for _, g := range []*rig.Gateway{first, second} {
		for n, key := range []string{key, colleague.Key} {
			running = append(running, openStream(t, g, key, "stream-"+g.Host()+"-"+keyID(key)))
			if n == 0 {
				running = append(running, openStream(t, g, key, "")) // a plain call
			}
		}
	}
	before := len(sim.Log())
	whole := make(chan *rig.Reply, 1)
	go func() {
		r, err := second.Do(t.Context(), "POST", "/v1/chat/completions", key, chatBody("openai/sim-1", "[[sim head=20s]]"))
		if err != nil {
			t.Error(err)
		}
		whole <- r
	}()
	testkit.Eventually(t, 10*time.Second, func() bool { return len(sim.Log()) > before }, "the provider to be asked for the whole answer")

	revoked := time.Now()
	first.Must(t, 200, "DELETE", "/api/keys/"+keyID(key), admin.Key, nil)
	for _, g := range []*rig.Gateway{first, second} {
		testkit.Eventually(t, felt+busy, func() bool {
			r, err := g.Do(t.Context(), "GET", "/v1/models", key, nil)
			return err == nil && r.Status == 401
		}, "the next request to be refused")
	}
	if r := <-whole; r.Status != 401 || !strings.Contains(string(r.Body), `"code":"key_revoked"`) {
		t.Errorf("the whole answer: %d %s", r.Status, r.Body)
	}
	for _, s := range running {
		if s.key == colleague.Key {
			continue
		}
		rest, err := io.ReadAll(s.body)
		if err != nil || !strings.Contains(string(rest), `"code":"key_revoked"`) || strings.Contains(string(rest), "[DONE]") {
			t.Errorf("the stream ended with %v: …%s", err, rest[max(0, len(rest)-300):])
		}
		if took := time.Since(revoked); took > felt+busy {
			t.Errorf("it ended after %v", took)
		}
		r := first.Must(t, 200, "GET", "/v1/requests/"+s.request, admin.Key, nil)
		var call struct {
			Status string  `json:"status"`
			Reason string  `json:"status_reason"`
			Cost   *string `json:"cost_status"`
		}
		if err := r.JSON(&call); err != nil {
			t.Fatal(err)
		}
		if call.Status != "incomplete" || call.Reason != "key_revoked" || call.Cost == nil {
			t.Errorf("the call reads %s", r.Body)
		}
	}
	for _, s := range running {
		if s.key != colleague.Key {
			continue
		}
		if line, err := s.body.ReadString('\n'); err != nil || strings.Contains(line, "error") {
			t.Errorf("a colleague's stream: %q, %v", line, err)
		}
	}
	t.Logf("all was felt within %v", time.Since(revoked))
}

// stream is a streamed chat of which something has come.
type stream struct {
	key, request string
	body         *bufio.Reader
}

func openStream(t *testing.T, g *rig.Gateway, key, thread string) *stream {
	t.Helper()
	body := `{"model":"openai/sim-1","stream":true,"messages":[{"role":"user","content":"[[sim delay=20ms chunks=20000 size=200000]]"}]}`
	req, err := http.NewRequestWithContext(t.Context(), "POST", g.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if thread != "" {
		req.Header.Set("X-Thread-Id", strings.NewReplacer(":", "-").Replace(thread))
	}
	transport := &http.Transport{}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = resp.Body.Close()
		transport.CloseIdleConnections()
	})
	s := &stream{key: key, request: resp.Header.Get("X-Request-Id"), body: bufio.NewReader(resp.Body)}
	if resp.StatusCode != 200 {
		t.Fatalf("the stream: %d", resp.StatusCode)
	}
	for {
		line, err := s.body.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, `"content":"`) && !strings.Contains(line, `"content":""`) {
			return s
		}
	}
}
