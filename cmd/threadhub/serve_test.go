package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/seal"
	"threadhub/internal/testkit"
)

// running is a command that serves, in this process.
type running struct {
	t     *testing.T
	p     *program
	ready map[string]string // the line of JSON it printed
	log   *testkit.Log      // its stderr
	code  chan int
}

// start runs a command and waits until it says that it is ready. At the end of the test it is stopped, if it runs.
func start(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	out, in := io.Pipe()
	r := &running{t: t, log: &testkit.Log{}, code: make(chan int, 1)}
	r.p = &program{stdout: in, stderr: r.log, environ: env, signals: make(chan os.Signal, 4)}
	args = slices.Insert(args, 1, "--json", "--listen", "127.0.0.1:0", "--operator-listen", "127.0.0.1:0", "--timeouts.drain-accept", "0s")
	go func() {
		r.code <- r.p.run(context.Background(), args)
		_ = in.Close()
	}()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("%v ended with %d before it was ready:\n%s", args, <-r.code, r.log)
	}
	if err := json.Unmarshal(line, &r.ready); err != nil {
		t.Fatalf("not a line of JSON: %s", line)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	t.Cleanup(func() { r.stop() })
	return r
}

// stop ends it as SIGTERM does, and returns its exit status; again, it does nothing.
func (r *running) stop() int {
	if r.code == nil {
		return exitOK
	}
	r.p.signals <- syscall.SIGTERM
	defer func() { r.code = nil }()
	select {
	case code := <-r.code:
		return code
	case <-time.After(time.Minute):
		r.t.Fatalf("it did not end:\n%s", r.log)
		return exitError
	}
}

// run runs a command that ends by itself.
func run(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &program{stdout: &out, stderr: &errs, environ: env, signals: make(chan os.Signal, 4)}
	code = p.run(t.Context(), args)
	return code, out.String(), errs.String()
}

// ask sends one request and returns status and body. Connections are not kept, so that nothing waits for them.
func ask(t *testing.T, method, url, key, thread, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Authorization", "Bearer "+key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if thread != "" {
		req.Header.Set("X-Thread-Id", thread)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func chat(question string) string {
	return fmt.Sprintf(`{"model":"openai/gpt-5.4-mini","messages":[{"role":"user","content":%q}]}`, question)
}

// The demo needs nothing, answers with a simulated provider, and finds its thread again after a restart.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	// A demo must not touch what the environment names.
	env := []string{"DATABASE_URL=postgres://nobody:secret@127.0.0.1:1/none", "REDIS_URL=redis://127.0.0.1:1"}
	r := start(t, env, "demo", "--data-dir", dir)
	for _, name := range []string{"base_url", "api_key", "operator_url", "org_id", "thread_id"} {
		if r.ready[name] == "" {
			t.Errorf("the line of JSON lacks %s: %v", name, r.ready)
		}
	}
	base, key, thread := r.ready["base_url"], r.ready["api_key"], r.ready["thread_id"]
	if r.ready["org_id"] != "org_demo" || !strings.HasSuffix(base, "/v1") || len(r.ready) != 5 {
		t.Errorf("the line of JSON: %v", r.ready)
	}
	status, body := ask(t, "POST", base+"/chat/completions", key, thread, chat("Hello"))
	if status != 200 || !strings.Contains(body, simulatedNote) {
		t.Errorf("chat: %d %s", status, body)
	}
	if status, body = ask(t, "GET", r.ready["operator_url"]+"/health/ready", "", "", ""); status != 200 {
		t.Errorf("readiness: %d %s", status, body)
	}
	root := strings.TrimSuffix(base, "/v1")
	if status, body = ask(t, "GET", root+"/api/threads/"+thread, key, "", ""); status != 200 || strings.Count(body, `"message_id"`) != 4 {
		t.Errorf("the thread: %d %s", status, body)
	}
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d:\n%s", code, r.log)
	}
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v %v", info, err)
	}

	again := start(t, env, "demo", "--data-dir", dir)
	root = strings.TrimSuffix(again.ready["base_url"], "/v1")
	if again.ready["api_key"] == key {
		t.Error("the key is not fresh")
	}
	for _, key := range []string{key, again.ready["api_key"]} {
		if status, body := ask(t, "GET", root+"/api/threads/"+thread, key, "", ""); status != 200 || strings.Count(body, `"message_id"`) != 4 {
			t.Errorf("the thread after a restart: %d %s", status, body)
		}
	}
	for _, log := range []*testkit.Log{r.log, again.log} {
		if strings.Contains(log.String(), "secret") || strings.Contains(log.String(), key) {
			t.Errorf("a secret is in the log:\n%s", log)
		}
	}
}

// What the banner tells people to paste is complete: the key is in it, once as itself and once in the export.
func TestDemoBanner(t *testing.T) {
	d := &demo{cfg: embedded(defaults(t)), simulated: []string{"openai", "openrouter"}}
	var out bytes.Buffer
	d.p = &program{stdout: &out}
	if err := d.banner(urls{root: "http://h:1", base: "http://h:1/v1", operator: "http://h:2"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"http://h:1/v1/chat/completions", "X-Thread-Id: welcome", `"model":"openai/gpt-5.4-mini"`, "http://h:1/api/threads/welcome", "data/demo"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the banner lacks %s:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "%!") {
		t.Errorf("the banner is broken:\n%s", out.String())
	}
}

// stores are both kinds of store, each with the settings a server on it needs.
var stores = map[string]func(*testing.T) []string{
	"sqlite": func(t *testing.T) []string { return []string{"THREADHUB_DATA_DIR=" + t.TempDir()} },
	"postgres": func(t *testing.T) []string {
		return []string{"THREADHUB_DATA_DIR=" + t.TempDir(), "DATABASE_URL=" + testkit.Postgres(t), "ENCRYPTION_KEY=" + seal.NewKey()}
	},
}

// An operator's first hour: serve on an empty store, seed beside it, use the key at once, rotate, stop.
func TestServe(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			env := open(t)
			r := start(t, env, "serve")
			code, out, errs := run(t, env, "seed", "--org", "acme", "--user", "ann@example.com", "--role", "admin", "--json")
			if code != exitOK {
				t.Fatalf("seed: %d %s", code, errs)
			}
			var seeded map[string]string
			if err := json.Unmarshal([]byte(out), &seeded); err != nil {
				t.Fatal(err)
			}
			root := strings.TrimSuffix(r.ready["base_url"], "/v1")
			key := seeded["api_key"]
			status, body := ask(t, "PUT", root+"/api/orgs/"+seeded["org_id"]+"/providers/openai", key, "", `{"api_key":"sk-not-a-real-key-0123456789"}`)
			if status != 200 {
				t.Errorf("setting a provider key: %d %s", status, body)
			}
			code, out, errs = run(t, env, "keys", "rotate", "--json")
			if code != exitOK || !strings.Contains(out, `"provider_keys":1`) {
				t.Errorf("rotate: %d %s%s", code, out, errs)
			}
			if status, body := ask(t, "GET", root+"/v1/models", key, "", ""); status != 200 || !strings.Contains(body, "gpt-5.4-mini") {
				t.Errorf("models: %d %s", status, body)
			}
			if code := r.stop(); code != exitOK {
				t.Errorf("exit status %d:\n%s", code, r.log)
			}
			for _, secret := range []string{key, "sk-not-a-real-key", "ENCRYPTION_KEY="} {
				if strings.Contains(r.log.String(), secret) {
					t.Errorf("%s is in the log", secret)
				}
			}
		})
	}
}

func TestOneServerForASQLiteFile(t *testing.T) {
	env := stores["sqlite"](t)
	start(t, env, "serve")
	code, _, errs := run(t, env, "serve", "--listen", "127.0.0.1:0", "--operator-listen", "127.0.0.1:0")
	if code != exitError || !strings.Contains(errs, "another threadhub serves from") {
		t.Errorf("a second server: %d %s", code, errs)
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, _, errs := run(t, stores["sqlite"](t), "serve", "--listen", taken.Addr().String(), "--operator-listen", "127.0.0.1:0")
	if code != exitError || !strings.Contains(errs, "address already in use") || !strings.Contains(errs, "--listen") {
		t.Errorf("%d %s", code, errs)
	}
}

// G13 of the fault matrix: a reload of a bad file is told, counted, and changes nothing.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "threadhub.yaml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("log: {level: info}\n")
	r := start(t, stores["sqlite"](t), "serve", "--config", file)
	told := func(what string) {
		t.Helper()
		testkit.Eventually(t, 10*time.Second, func() bool { return strings.Contains(r.log.String(), what) }, "the log does not say %s", what)
	}
	put("log: {level: loud}\n")
	r.p.signals <- syscall.SIGHUP
	told("the settings were not reloaded")
	status, body := ask(t, "GET", r.ready["operator_url"]+"/metrics", "", "", "")
	if status != 200 || !strings.Contains(body, "threadhub_config_reload_failed_total 1") {
		t.Errorf("the failed reload is not counted: %d", status)
	}
	put("log: {level: debug}\ntimeouts: {idle: 5s}\n")
	r.p.signals <- syscall.SIGHUP
	told(`"wait_for_restart":"timeouts.idle"`)
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	r := start(t, stores["sqlite"](t), "serve", "--timeouts.drain", "50m", "--timeouts.drain-accept", "40m")
	r.p.signals <- syscall.SIGTERM
	if code := r.stop(); code != exitOK { // the second
		t.Errorf("exit status %d:\n%s", code, r.log)
	}
}

// A store whose row-level security would not bind us is not served from.
func TestServeRefusesAStoreThatDoesNotBindIt(t *testing.T) {
	url := testkit.Postgres(t)
	env := []string{"DATABASE_URL=" + url, "ENCRYPTION_KEY=" + seal.NewKey(), "THREADHUB_DATA_DIR=" + t.TempDir()}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "ALTER TABLE messages NO FORCE ROW LEVEL SECURITY"); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := run(t, env, "serve", "--listen", "127.0.0.1:0", "--operator-listen", "127.0.0.1:0")
	if code == exitOK || !strings.Contains(stderr, "messages is not under forced row-level security") {
		t.Errorf("serve ended with %d: %s", code, stderr)
	}
}
