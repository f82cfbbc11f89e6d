package tenancy

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

// felt is how soon a revocation is felt in every process.
const felt = time.Second

// On a busy machine any one try may take longer. It is the quickest of a few that tells how quick the bus is: a slow one
// makes all of them slow.
const (
	tries    = 3
	patience = 2 * felt // with one try
)

// A revocation is felt within a second in another process that the bus reaches. One that it does not reach fails the same
// measure: the measure can tell.
func TestARevocationIsFeltWithinASecond(t *testing.T) {
	house := rig.NewHouse(t, rig.Options{Database: testkit.Postgres(t), Sim: rig.Simulator(t, simulator.Options{}), Env: []string{"REDIS_URL=" + testkit.Redis(t)}})
	admin := house.Seed("Acme", "admin@acme.example", "admin")
	first, second, deaf := house.Serve(), house.Serve(), house.Serve("REDIS_URL=")
	first.ProviderKeys(t, admin)
	if took := quickest(t, first, second, admin); took >= felt {
		t.Errorf("the quickest of %d revocations was felt after %v", tries, took)
	}
	if took := quickest(t, first, deaf, admin); took < felt {
		t.Errorf("without a bus a revocation was felt after %v", took)
	}
}

// quickest is the shortest time in which a revocation in first is felt in there. It stops at a try that is good enough.
func quickest(t *testing.T, first, there *rig.Gateway, admin rig.Seeded) time.Duration {
	t.Helper()
	best := patience
	for n := 0; n < tries && best >= felt; n++ {
		best = min(best, revocation(t, first, there, admin))
	}
	return best
}

// revocation makes a key, has a stream run on it there, revokes it in first, and returns after how long neither the
// stream nor a request was good there any more; patience if they still are then.
func revocation(t *testing.T, first, there *rig.Gateway, admin rig.Seeded) time.Duration {
	t.Helper()
	key := gjson.GetBytes(first.Must(t, 201, "POST", "/api/keys", admin.Key, map[string]string{"user_id": admin.User}).Body, "api_key").Str
	there.Must(t, 200, "GET", "/v1/models", key, nil) // and remember it
	s := openStream(t, there, key, "")
	// A call that has just begun is looked after once within a second by itself. That is over when the key is revoked.
	for opened := time.Now(); time.Since(opened) < 2*felt; {
		if _, err := s.body.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	revoked := time.Now()
	first.Must(t, 200, "DELETE", "/api/keys/"+keyID(key), admin.Key, nil)
	ended := make(chan time.Duration, 1)
	go func() {
		_, _ = io.Copy(io.Discard, s.body)
		ended <- time.Since(revoked)
	}()
	for {
		r, err := there.Do(limit, "GET", "/v1/models", key, nil)
		if limit.Err() != nil {
			return patience
		}
		if err == nil && r.Status == 401 {
			break
		}
	}
	refused := time.Since(revoked)
	select {
	case took := <-ended:
		return max(refused, took)
	case <-limit.Done():
		return patience
	}
}

// soon is in good time on any machine.
const soon = 10 * time.Second

// A key that one process revokes is refused by all of them, and ends what is running on it, streams and answers that are
// still waited for. What other keys have running goes on.
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
		testkit.Eventually(t, soon, func() bool {
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
		if took := time.Since(revoked); took > soon {
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
