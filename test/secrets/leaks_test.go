package secrets

import (
	"crypto/rand"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/seal"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func eachStore(t *testing.T, f func(t *testing.T, w *world)) {
	for _, name := range slices.Sorted(maps.Keys(rig.Stores)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newWorld(t, rig.Stores[name](t)))
		})
	}
}

// checks are where a key is tried out, by provider.
var checks = map[string]string{"openai": "/models", "gemini": "/models", "perplexity": "/router/v1/models", "openrouter": "/key"}

func TestNothingTellsASecret(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		// What the model says to a prompt is as much the client's as the prompt.
		for words, answer := range map[string]string{w.thread: w.answer, w.plain: w.plainAnswer} {
			if err := w.sim.Play(simulator.Script{Match: words + ` \"tell\"`, Do: "text=" + answer}); err != nil {
				t.Fatal(err)
			}
		}
		for provider, path := range checks {
			if err := w.sim.Play(simulator.Script{Provider: provider, Path: path, Do: "fault=echo_key", Times: 1}); err != nil {
				t.Fatal(err)
			}
		}
		w.serve()
		w.administer()
		w.tryOut(rig.Providers[:2]...)
		for _, stream := range []bool{false, true} {
			w.tell("", w.plain, stream)
			w.tell("told", w.thread, stream)
		}
		w.converse()
		w.misplace()
		w.look()
		w.collect(pageSinks(t, w.Operator)...)
		w.collect(processSinks(t, w.PID())...)
		w.collect(w.files(t)...) // with what is not yet in the store's main file
		if err := w.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		// Another life of it, in which the keys come out of the store, and Perplexity is asked by its older API.
		w.serve("THREADHUB_UPSTREAMS__PERPLEXITY__API=sonar")
		w.tryOut(rig.Providers[2:]...)
		for i, provider := range rig.Providers {
			w.ask(provider, "", i%2 == 1, "told")
		}
		for _, d := range []string{"", "fault=echo_key", "fault=echo_key after=1", "fault=error_200", "fault=error_first", "fault=error_mid", "status=422", "status=429"} {
			w.ask("perplexity", d, false, "")
			w.ask("perplexity", d, true, "older")
		}
		w.collect(pageSinks(t, w.Operator)...)
		w.failToStart(t)
		if err := w.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}

		sinks := append(w.sinks, w.places(t)...)
		for _, h := range scan(sinks, append(w.secret, w.prompt...), w.allowed) {
			t.Errorf("the %s, %s, is in %s: %s", h.canary, h.form, h.sink, h.around)
		}
		w.mustHaveBeenUsed(t, sinks)
		// A client that puts a key where it does not belong gets an error, which people paste into tickets.
		t.Run("nor quotes a misplaced one", func(t *testing.T) {
			for _, h := range scan(w.misplaced, w.secret, nil) {
				t.Errorf("the %s, %s, is in %s: %s", h.canary, h.form, h.sink, h.around)
			}
		})
	})
}

// tell makes the model say the words of an answer.
func (w *world) tell(thread, words string, stream bool) {
	var header []string
	if thread != "" {
		header = []string{"X-Thread-Id", thread}
	}
	body := map[string]any{"model": "openai/sim-1", "stream": stream, "messages": []map[string]string{{"role": "user", "content": words + ` "tell"`}}}
	w.send("POST", "/v1/chat/completions", w.admin.Key, body, header...)
}

// failToStart starts processes whose settings are wrong, secrets among them.
func (w *world) failToStart(t *testing.T) {
	t.Helper()
	password := rand.Text()
	w.secret = append(w.secret, textCanary("password of the database", "", password))
	for _, env := range []string{
		"ENCRYPTION_KEY=" + w.encryptionKey + "x", "ENCRYPTION_KEY=" + w.encryptionKey + ",,", "ENCRYPTION_KEY=" + w.encryptionKey + "," + w.encryptionKey[:30],
		"DATABASE_URL=postgres://user:" + password + "@127.0.0.1:1/x?sslmode=disable", "DATABASE_URL=postgres://user:" + password + "@[::/x",
		"DATABASE_URL=mysql://user:" + password + "@host/x", "DATABASE_URL=postgres://user:" + password + "@127.0.0.1:1/x?sslmode=perhaps",
		"REDIS_URL=redis://user:" + password + "@127.0.0.1:x", "REDIS_URL=" + password, "ENCRYPTION_KEY=" + seal.NewKey(),
		"THREADHUB_UPSTREAMS__OPENAI__BASE_URL=http://user:" + password + "@127.0.0.1:1/v1?x=%zz",
	} {
		if g, err := w.house.TryServe(env); err == nil {
			name, _, _ := strings.Cut(env, "=")
			t.Errorf("it started with a wrong %s", name)
			g.Kill()
		}
	}
}

// mustHaveBeenUsed checks that what was not found was there to be found.
func (w *world) mustHaveBeenUsed(t *testing.T, sinks []sink) {
	t.Helper()
	count := func(list []simulator.Attempt) (shown, said map[string]int) {
		shown, said = map[string]int{}, map[string]int{}
		for _, a := range list {
			if simulator.KeyHash(w.providerKeys[a.Provider]) != a.KeyHash {
				t.Errorf("%s was shown another key than its own", a.Provider)
			}
			if shown[a.Provider]++; a.Fault == "echo_key" && strings.Contains(string(a.Sent), "********") { // the simulator's own log shows no keys
				said[a.Provider]++
			}
		}
		return shown, said
	}
	shown, said := count(w.sim.Log())
	tried, saidOfTried := count(w.sim.Checks())
	for _, p := range rig.Providers {
		if shown[p] < 300 || said[p] < 20 || tried[p] < 2 || saidOfTried[p] < 1 {
			t.Errorf("%s was asked %d times and said the key %d times; it was tried out %d times and said %d times", p, shown[p], said[p], tried[p], saidOfTried[p])
		}
	}
	if !slices.ContainsFunc(w.sim.Log(), func(a simulator.Attempt) bool { return a.Provider == "perplexity" && a.Path == "/chat/completions" }) {
		t.Error("Perplexity was never asked by its older API")
	}
	if n := strings.Count(w.house.Log.String(), `"msg":"request"`); n < 500 {
		t.Errorf("the log has only %d lines of requests", n)
	}
	for _, c := range w.prompt {
		if c.name == inPlain || c.name == answerPlain {
			continue
		}
		if len(scan(sinks, []canary{c}, func(_, sink string) bool { return sink != "table messages" })) == 0 {
			t.Errorf("the %s is not in the messages", c.name)
		}
	}
	for _, c := range w.prompt {
		if len(scan(sinks, []canary{c}, func(_, sink string) bool { return !strings.HasPrefix(sink, "answer to POST /v1/chat") })) == 0 {
			t.Errorf("the %s is in no answer", c.name)
		}
	}
}

// Every canary is found in every form, in every kind of place.
func TestTheScannerFinds(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		w.serve()
		w.administer()
		w.ask("openai", "", false, "told") // so that tables have rows
		canaries := append(w.secret, w.prompt...)
		for place, found := range w.plant(t, canaries) {
			hits := map[string]bool{}
			for _, h := range scan(found, canaries, nil) {
				hits[h.canary+", "+h.form] = true
			}
			for _, c := range canaries {
				for form, text := range c.forms {
					if !hits[c.name+", "+form] && (printable(text) || strings.Contains(place, "bytes")) {
						t.Errorf("the %s, %s, is not found in %s", c.name, form, place)
					}
				}
			}
		}
		if len(scan(processSinks(t, w.PID()), w.secret, nil)) == 0 {
			t.Error("the encryption key is not found in the environment it came by")
		}
	})
}

// plant puts every form of all canaries into a place of each kind, and collects what is there. Where the name of a place
// speaks of bytes it can hold any; else only what is printable.
func (w *world) plant(t *testing.T, canaries []canary) map[string][]sink {
	t.Helper()
	var all, text []byte
	header := http.Header{}
	for _, c := range canaries {
		for _, form := range c.forms {
			all = append(append(all, form...), " \n "...)
			if printable(form) {
				text = append(append(text, form...), ' ')
				header.Add("X-Y", string(form))
			}
		}
	}
	out := map[string][]sink{
		"an answer's body of bytes": {answerSink("x", &rig.Reply{Body: all})},
		"an answer's header":        {answerSink("x", &rig.Reply{Header: header})},
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), all, 0o600); err != nil {
		t.Fatal(err)
	}
	out["a file of bytes"] = fileSinks(t, dir)

	page := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(all) }))
	defer page.Close()
	out["a page of bytes"] = pageSinks(t, page.URL)

	_, _ = w.house.Log.Write(all)
	_, _ = w.house.Out.Write(text)
	out["the log, bytes"] = only(w.places(t), "log")
	out["the output"] = only(w.places(t), "stdout")

	store, err := db.Open(t.Context(), db.Options{URL: w.database, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	// Each in a row of its own: SQLite cuts what is longer than a page, and the scan of its file would not see it.
	err = store.Common(t.Context(), func(tx db.Tx) error {
		for _, c := range canaries {
			for form, secret := range c.forms {
				text := "-"
				if printable(secret) {
					text = string(secret)
				}
				for name, row := range map[string][]any{"as bytes": {"-", secret}, "as text": {text, []byte("-")}} {
					_, err := tx.Exec(t.Context(), `INSERT INTO secrets (name, kek_id, sealed) VALUES ($1, $2, $3)`,
						append([]any{name + c.name + form}, row...)...)
					if err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out["a table, bytes and text"] = only(w.places(t), "table secrets")
	if store.Dialect() == db.SQLite {
		out["the file of a store"] = only(w.places(t), "file threadhub.db-wal")
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	out["a process"] = idleProcess(t, string(text))
	return out
}

// idleProcess is what is shown of a process with such an argument.
func idleProcess(t *testing.T, arg string) []sink {
	t.Helper()
	idle := exec.Command("sh", "-c", "echo; read line", "sh", arg)
	in, err := idle.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := idle.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // its arguments are there once it runs
		t.Error(err)
	}
	sinks := processSinks(t, idle.Process.Pid)
	_ = in.Close()
	_ = idle.Wait()
	return sinks
}

// only picks the sinks of a name.
func only(sinks []sink, name string) (some []sink) {
	for _, s := range sinks {
		if s.name == name {
			some = append(some, s)
		}
	}
	return some
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}
