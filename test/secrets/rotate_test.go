package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/test/rig"
)

// load is clients that talk without a pause, and an admin who sets the provider keys again and again, so that they are
// read from the store again and again too.
type load struct {
	calls, puts, failed atomic.Int64
	stop                context.CancelFunc
	wg                  sync.WaitGroup
}

func (w *world) load(t *testing.T, clients int) *load {
	l := &load{}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	run := func(count *atomic.Int64, step func(i int) (string, int, []byte, error)) {
		l.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				what, status, body, err := step(i)
				count.Add(1)
				if err != nil || status != 200 {
					l.failed.Add(1)
					t.Errorf("%s: status %d, %v: %s", what, status, err, body)
				}
			}
		})
	}
	for c := range clients {
		provider := rig.Providers[c%len(rig.Providers)]
		run(&l.calls, func(i int) (string, int, []byte, error) {
			body := fmt.Sprintf(`{"model":"%s/sim-1","stream":%v,"messages":[{"role":"user","content":"%d"}]}`, provider, i%2 == 1, i)
			r, err := w.Do(t.Context(), "POST", "/v1/chat/completions", w.admin.Key, body, "X-Thread-Id", fmt.Sprint("client-", c))
			if err != nil {
				return "a call", 0, nil, err
			}
			if i%2 == 1 && !strings.HasSuffix(string(r.Body), "data: [DONE]\n\n") {
				err = fmt.Errorf("the stream did not end well")
			}
			return "a call", r.Status, r.Body, err
		})
	}
	run(&l.puts, func(i int) (string, int, []byte, error) {
		provider := rig.Providers[i%len(rig.Providers)]
		r, err := w.Do(t.Context(), "PUT", "/api/orgs/"+w.admin.Org+"/providers/"+provider, w.admin.Key, map[string]string{"api_key": w.providerKeys[provider]})
		if err != nil {
			return "a put", 0, nil, err
		}
		return "a put", r.Status, r.Body, nil
	})
	return l
}

// more waits until n more calls and a put or two have ended.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	calls, puts := l.calls.Load()+n, l.puts.Load()+2
	testkit.Eventually(t, 20*time.Second, func() bool { return l.calls.Load() >= calls && l.puts.Load() >= puts || l.failed.Load() > 0 }, "the clients do not get on")
}

func (l *load) end() { l.stop(); l.wg.Wait() }

// A key-encryption key is replaced beside a busy server, and nobody notices.
func TestRotationUnderLoad(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		old, fresh := w.encryptionKey, seal.NewKey()
		w.serve()
		w.administer()
		w.mustTalk(t)
		if err := w.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		w.mustNotStart(t, fresh) // it seals nothing yet

		both := "ENCRYPTION_KEY=" + fresh + "," + old
		w.house.Env = append(w.house.Env, both)
		w.serve()
		l := w.load(t, 4)
		l.more(t, 40)
		for range 3 {
			out, err := w.house.Run("keys", "rotate", "--json")
			if err != nil {
				t.Errorf("%v", err)
			}
			var report struct {
				Orgs   int      `json:"orgs"`
				Keys   int      `json:"provider_keys"`
				Failed []string `json:"failed"`
			}
			if err := json.Unmarshal([]byte(out), &report); err != nil || report.Orgs != 1 || report.Keys != len(w.providerKeys) || len(report.Failed) != 0 {
				t.Errorf("rotate says %q (%v)", out, err)
			}
			l.more(t, 20)
		}
		l.end()
		if l.failed.Load() > 0 {
			t.Fatalf("%d of %d calls and puts failed", l.failed.Load(), l.calls.Load()+l.puts.Load())
		}
		if err := w.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}

		w.mustNotStart(t, old)
		w.serve("ENCRYPTION_KEY=" + fresh)
		w.mustTalk(t)
		if err := w.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		for _, h := range scan(w.places(t), append(w.secret, newCanary("new encryption key", []byte(strings.TrimRight(fresh, "=")))), w.allowed) {
			t.Errorf("the %s, %s, is in %s: %s", h.canary, h.form, h.sink, h.around)
		}
	})
}

// mustTalk asks all providers, whose keys must have been opened for that.
func (w *world) mustTalk(t *testing.T) {
	t.Helper()
	for provider := range w.providerKeys {
		w.Must(t, 200, "POST", "/v1/chat/completions", w.admin.Key, `{"model":"`+provider+`/sim-1","messages":[{"role":"user","content":"hi"}]}`)
	}
}

// mustNotStart starts a process that knows only this key, which must say at once what is wrong.
func (w *world) mustNotStart(t *testing.T, key string) {
	t.Helper()
	said := len(w.house.Log.String())
	g, err := w.house.TryServe("ENCRYPTION_KEY=" + key)
	if err == nil {
		g.Kill()
		t.Error("it starts without the key that opens what is stored")
		return
	}
	words := w.house.Log.String()[said:]
	if !strings.Contains(words, "ENCRYPTION_KEY must hold the key with the id ") || strings.Contains(words, "goroutine ") {
		t.Errorf("without the key it says %q", words)
	}
}
