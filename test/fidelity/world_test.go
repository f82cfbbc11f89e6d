package fidelity

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// world is one running gateway between us and the providers.
type world struct {
	*rig.Gateway
	t     *testing.T
	key   string
	org   id.Org
	store db.Store // read beside the gateway

	mu    sync.Mutex
	ended map[string]simulator.Attempt // by the caller's name for it
}

func newWorld(t *testing.T, url string) *world {
	t.Helper()
	w := &world{t: t, ended: map[string]simulator.Attempt{}}
	sim := rig.Simulator(t, simulator.Options{MaxLog: 16, Finished: func(a simulator.Attempt) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended[a.Name] = a
	}})
	h := rig.NewHouse(t, rig.Options{Database: url, Sim: sim, Env: []string{"THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0"}})
	admin := h.Seed("Fidelity", "admin@example.com", "admin")
	w.key, w.org = admin.Key, id.Org(admin.Org)
	w.Gateway = h.Serve()
	w.ProviderKeys(t, admin)
	store, err := db.Open(t.Context(), db.Options{URL: url, Timeout: 20 * time.Second, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w.store = store
	return w
}

// exchange is one call: what the client got, and what the provider saw and said.
type exchange struct {
	*rig.Reply
	seen simulator.Attempt
}

// call sends a request that must succeed.
func (w *world) call(t *rapid.T, body string, header ...string) exchange {
	r, err := w.Do(w.t.Context(), "POST", "/v1/chat/completions", w.key, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 200 {
		t.Fatalf("status %d: %s\nof the request\n%s", r.Status, r.Body, body)
	}
	x := exchange{Reply: r}
	name := r.Header.Get("X-Request-Id") + "-0"
	testkit.Eventually(w.t, 10*time.Second, func() (ok bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		x.seen, ok = w.ended[name]
		delete(w.ended, name)
		return ok
	}, "the provider has not seen %s", name)
	if x.seen.End != simulator.EndComplete && x.seen.Fault == "" {
		t.Fatalf("the provider says %s %s", x.seen.End, x.seen.Reason)
	}
	return x
}

// stored returns the messages of a thread as they are in the store.
func (w *world) stored(t *rapid.T, thread string) (raw []string) {
	err := w.store.Query(context.Background(), w.org, db.Query{
		SQL:  `SELECT raw FROM messages WHERE org_id = $1 AND thread_id = $2 ORDER BY seq`,
		Args: []any{string(w.org), thread},
		Each: func(r db.Row) error {
			var m string
			if err := r.Scan(&m); err != nil {
				return err
			}
			raw = append(raw, m)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// payloads are those of the data events of a stream.
func payloads(t *rapid.T, stream []byte) (list []string) {
	for event := range strings.SplitSeq(strings.TrimSuffix(string(stream), "\n\n"), "\n\n") {
		if strings.HasPrefix(event, ":") {
			continue
		}
		_, event, _ = strings.Cut(event, "\n") // its id
		payload, ok := strings.CutPrefix(event, "data: ")
		if !ok || strings.Contains(payload, "\n") {
			t.Fatalf("an event that is not one line of data: %q", event)
		}
		list = append(list, payload)
	}
	return list
}

// compact is JSON without white space, and otherwise as it was.
func compact(t *rapid.T, v string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(v)); err != nil {
		t.Fatalf("%v: %s", err, v)
	}
	return b.String()
}
