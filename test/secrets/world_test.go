package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"threadhub/internal/seal"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// world is a gateway whose every secret is a canary.
type world struct {
	*rig.Gateway
	t        *testing.T
	house    *rig.House
	sim      *simulator.Simulator
	database string
	dirs     []string // where the gateway may write files
	admin    rig.Seeded

	providerKeys   map[string]string
	encryptionKey  string
	thread, plain  string // words of prompts
	answer         string // words of answers, to prompts of threads and to others
	plainAnswer    string
	secret, prompt []canary

	mu        sync.Mutex
	sinks     []sink
	misplaced []sink // answers to requests with a key where it does not belong
}

// What canaries are called.
const (
	inThread      = "prompt of a thread"
	inPlain       = "prompt without a thread"
	answerThread  = "answer in a thread"
	answerPlain   = "answer without a thread"
	encryptionKey = "encryption key"
	apiKey        = "API key"
)

// prefixes are how keys begin, by provider.
var prefixes = map[string]string{"openai": "sk-CANARY-", "gemini": "AIza-CANARY-", "perplexity": "pplx-CANARY-", "openrouter": "sk-or-v1-CANARY"}

func newWorld(t *testing.T, url string) *world {
	t.Helper()
	w := &world{t: t, database: url, providerKeys: map[string]string{}, encryptionKey: seal.NewKey()}
	w.sim = rig.Simulator(t, simulator.Options{})
	temp := t.TempDir()
	w.house = rig.NewHouse(t, rig.Options{Database: url, Sim: w.sim, Env: append([]string{
		"ENCRYPTION_KEY=" + w.encryptionKey, "TMPDIR=" + temp, "THREADHUB_LOG__LEVEL=debug", "THREADHUB_PROFILING=true",
		"THREADHUB_TIMEOUTS__HEADERS=300ms", "THREADHUB_TIMEOUTS__IDLE=300ms", "THREADHUB_TIMEOUTS__STREAM=2s", "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0",
		"THREADHUB_MAX_BODY_BYTES=65536",
	}, rig.AskedOnce...)})
	w.dirs = []string{temp}
	for _, setting := range w.house.Env {
		if name, dir, _ := strings.Cut(setting, "="); name == "THREADHUB_DATA_DIR" || name == "HOME" {
			w.dirs = append(w.dirs, dir)
		}
	}
	if path, embedded := strings.CutPrefix(url, "sqlite://"); embedded {
		w.dirs = append(w.dirs, filepath.Dir(path))
	}
	w.admin = w.house.Seed("Secrets", "admin@example.com", "admin")
	w.hatch()
	return w
}

// hatch makes the canaries.
func (w *world) hatch() {
	raw, _ := base64.URLEncoding.DecodeString(w.encryptionKey)
	text := strings.TrimRight(w.encryptionKey, "=")
	// The key's id, the part before its secret, is no secret.
	parts := strings.Split(w.admin.Key, "_")
	w.secret = []canary{
		newCanary(encryptionKey, []byte(text), text[:20], text[20:]), newCanary(encryptionKey+" in bytes", raw),
		newCanary(apiKey, []byte(w.admin.Key)), newCanary("secret of the "+apiKey, []byte(parts[2]), parts[2][:20], parts[2][20:]),
	}
	for provider, prefix := range prefixes {
		random := rand.Text()
		w.providerKeys[provider] = prefix + random
		w.secret = append(w.secret, textCanary("key of "+provider, prefix, random))
	}
	for name, word := range map[string]*string{inThread: &w.thread, inPlain: &w.plain, answerThread: &w.answer, answerPlain: &w.plainAnswer} {
		random := rand.Text()
		*word = "WORDS" + random
		w.prompt = append(w.prompt, textCanary(name, "WORDS", random))
	}
}

// serve starts a process of the house.
func (w *world) serve(env ...string) { w.Gateway = w.house.Serve(env...) }

func (w *world) collect(s ...sink) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sinks = append(w.sinks, s...)
}

// send sends a request and collects its answer.
func (w *world) send(method, path, key string, body any, header ...string) {
	r, err := w.Do(w.t.Context(), method, path, key, body, header...)
	if r == nil {
		w.t.Errorf("%s %s: %v", method, path, err)
		return
	}
	w.collect(answerSink(method+" "+path, r))
}

// sendMisplaced is send for requests that hold a key where it does not belong.
func (w *world) sendMisplaced(method, path, key string, body any, header ...string) {
	r, err := w.Do(w.t.Context(), method, path, key, body, header...)
	if r == nil {
		w.t.Errorf("%s %s: %v", method, path, err)
		return
	}
	w.misplaced = append(w.misplaced, answerSink(method+" "+path, r))
}

// files are all that the gateway may have written, its store among it.
func (w *world) files(t *testing.T) (all []sink) {
	t.Helper()
	for _, dir := range w.dirs {
		all = append(all, fileSinks(t, dir)...)
	}
	return all
}

// places are all there is beside the answers.
func (w *world) places(t *testing.T) []sink {
	t.Helper()
	all := append(w.files(t), sink{"log", []byte(w.house.Log.String())}, sink{"stdout", []byte(w.house.Out.String())})
	all = append(all, tableSinks(t, w.database)...)
	for _, a := range append(w.sim.Log(), w.sim.Checks()...) {
		var head strings.Builder
		_ = a.Header.Write(&head) // but the one the key belongs in, which the simulator leaves out
		all = append(all, sink{"request to " + a.Provider, append([]byte(a.Path+"?"+a.Query+"\n"+head.String()), a.Body...)})
	}
	return all
}

// allowed says where canaries may be.
func (w *world) allowed(canary, sink string) bool {
	ours := strings.HasPrefix(sink, "answer ") || strings.HasPrefix(sink, "request to ") // the client's own words, back to it and on to the provider
	stored := sink == "table messages" || strings.HasPrefix(sink, "file ") && strings.Contains(sink, ".db")
	switch canary {
	case inThread, answerThread:
		return ours || stored
	case inPlain, answerPlain:
		return ours
	case encryptionKey, encryptionKey + " in bytes":
		return sink == "process environ"
	}
	return false
}
