// Package rig starts the real binary against the simulator, on either store, for the suites that look at the gateway
// from outside.
package rig

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/simulator"
)

var builds struct {
	sync.Mutex
	dir string
	bin map[string]string
}

// sharedBinaries names a folder in which the suites of one run share what Binary builds. Without it each has its own.
const sharedBinaries = "THREADHUB_TEST_BINARIES"

// Binary builds cmd/threadhub with tags, once for each set in a test process, and returns its path. Call Clean in
// TestMain.
func Binary(t testing.TB, tags ...string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	key := strings.Join(tags, ",")
	if b, ok := builds.bin[key]; ok {
		return b
	}
	if builds.bin == nil {
		builds.bin = map[string]string{}
	}
	dir := os.Getenv(sharedBinaries)
	if dir == "" && builds.dir == "" {
		var err error
		if builds.dir, err = os.MkdirTemp("", "threadhub-rig-"); err != nil {
			t.Fatal(err)
		}
	}
	lookAtSources(t)
	bin := filepath.Join(cmp.Or(dir, builds.dir), strings.Join(append([]string{"threadhub"}, tags...), "-"))
	if err := build(bin, key); err != nil {
		t.Fatal(err)
	}
	builds.bin[key] = bin
	return bin
}

// build leaves a binary alone that is what would be built. Of processes that want the same one, one builds it.
func build(bin, tags string) error {
	lock, err := os.OpenFile(bin+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	// As `make build` does it; without what debuggers read it is linked in half the time.
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-tags", tags, "-o", bin, "threadhub/cmd/threadhub")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// lookAtSources opens every folder of the module. `go test` keeps results, and notices changes in what a test has opened,
// but not in what a compiler it started has read: without this a suite would stay "ok (cached)" over any change of the
// program it runs.
func lookAtSources(t testing.TB) {
	t.Helper()
	root := Root(t)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == root {
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata" || name == "bin" || name == "data" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Root is the folder of the module.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

// Clean removes what Binary built, but for what is shared.
func Clean() {
	builds.Lock()
	defer builds.Unlock()
	_ = os.RemoveAll(builds.dir)
}

// Stores are the two kinds of store, by name: each gives the URL of a fresh one.
var Stores = map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres}

// Simulator starts the providers for one test.
func Simulator(t testing.TB, o simulator.Options) *simulator.Simulator {
	t.Helper()
	s := simulator.New(o)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// House is an installation: a store, its secrets, and the settings every process of it gets. Processes come and go.
type House struct {
	Bin string
	Env []string
	Log *testkit.Log // what all its processes wrote to stderr
	Out *testkit.Log // what those that serve wrote to stdout

	Args   []string // more arguments of those that serve
	Stderr *os.File // where those that serve write their log instead; nil: Log

	t testing.TB
}

// Options of NewHouse.
type Options struct {
	Bin      string // "": the plain binary
	Database string // URL of the store
	Sim      *simulator.Simulator
	Env      []string // more settings, NAME=value
}

// AskedOnce has a gateway ask a provider once for each request, however often that has failed: for suites that count, or
// that look at what one failure becomes.
var AskedOnce = []string{"THREADHUB_RETRIES__MOST=0", "THREADHUB_RETRIES__BREAKER=false"}

// Providers are those that the simulator plays.
var Providers = []string{"openai", "gemini", "perplexity", "openrouter"}

// NewHouse prepares an installation. It starts nothing.
func NewHouse(t testing.TB, o Options) *House {
	t.Helper()
	if o.Bin == "" {
		o.Bin = Binary(t)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"DATABASE_URL=" + o.Database,
		"ENCRYPTION_KEY=" + seal.NewKey(),
		"THREADHUB_DATA_DIR=" + t.TempDir(),
		"THREADHUB_LISTEN=127.0.0.1:0",
		"THREADHUB_OPERATOR_LISTEN=127.0.0.1:0",
	}
	for _, p := range Providers {
		if o.Sim != nil {
			env = append(env, "THREADHUB_UPSTREAMS__"+strings.ToUpper(p)+"__BASE_URL="+o.Sim.URL(p))
		}
	}
	return &House{Bin: o.Bin, Env: append(env, o.Env...), Log: &testkit.Log{}, Out: &testkit.Log{}, t: t}
}

// Run runs a command of the binary to its end and returns what it printed.
func (h *House) Run(args ...string) (string, error) {
	cmd := exec.Command(h.Bin, args...)
	cmd.Env = h.Env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, h.Log
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("threadhub %s: %w\n%s", strings.Join(args, " "), err, h.Log)
	}
	return out.String(), err
}

// Seeded is what seed prints.
type Seeded struct {
	Org  string `json:"org_id"`
	User string `json:"user_id"`
	Key  string `json:"api_key"`
}

// Seed makes an org (or finds it), a user of it, and a key.
func (h *House) Seed(org, email, role string) Seeded {
	h.t.Helper()
	out, err := h.Run("seed", "--org", org, "--user", email, "--role", role, "--json")
	if err != nil {
		h.t.Fatal(err)
	}
	var s Seeded
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		h.t.Fatalf("seed printed %q: %v", out, err)
	}
	return s
}

// Gateway is one running process.
type Gateway struct {
	URL      string // http://127.0.0.1:port
	Operator string
	Key      string // an API key, where the process itself made one
	cmd      *exec.Cmd
	ended    chan struct{}
	err      error
}

// Serve starts a process and waits until it is ready. env adds to the house's.
func (h *House) Serve(env ...string) *Gateway {
	h.t.Helper()
	g, err := h.TryServe(env...)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

// TryServe is Serve for processes that may die while they start.
func (h *House) TryServe(env ...string) (*Gateway, error) { return h.start("serve", env) }

// Demo starts `threadhub demo`, which has a store and providers of its own, and waits until it is ready.
func (h *House) Demo(env ...string) *Gateway {
	h.t.Helper()
	g, err := h.start("demo", env)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

func (h *House) start(command string, env []string) (*Gateway, error) {
	cmd := exec.Command(h.Bin, append([]string{command, "--json"}, h.Args...)...)
	cmd.Env = append(append([]string{}, h.Env...), env...)
	cmd.Stderr = h.Log
	if h.Stderr != nil {
		cmd.Stderr = h.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &Gateway{cmd: cmd, ended: make(chan struct{})}
	ready := make(chan announced, 1)
	go func() {
		var line announced
		out := io.TeeReader(out, h.Out)
		_ = json.NewDecoder(out).Decode(&line)
		ready <- line
		_, _ = io.Copy(io.Discard, out)
		g.err = cmd.Wait()
		close(g.ended)
	}()
	h.t.Cleanup(func() { g.Kill() })
	select {
	case r := <-ready:
		if r.Base == "" {
			<-g.ended
			return nil, fmt.Errorf("%s ended before it was ready: %w\n%s", command, g.err, h.Log)
		}
		g.URL, g.Operator, g.Key = strings.TrimSuffix(r.Base, "/v1"), r.Operator, r.Key
		return g, nil
	case <-time.After(60 * time.Second):
		g.Kill()
		return nil, fmt.Errorf("%s was not ready in time\n%s", command, h.Log)
	}
}

// announced is what a process prints when it is ready.
type announced struct {
	Base     string `json:"base_url"`
	Operator string `json:"operator_url"`
	Key      string `json:"api_key"`
}

// Kill ends the process as kill -9 does, and waits for its end.
func (g *Gateway) Kill() {
	_ = g.cmd.Process.Kill()
	<-g.ended
}

// Ended is closed when the process has ended.
func (g *Gateway) Ended() <-chan struct{} { return g.ended }

// Stop ends the process gently and returns how it ended.
func (g *Gateway) Stop(timeout time.Duration) error {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
		return g.err
	case <-time.After(timeout):
		g.Kill()
		return errors.New("the process did not end in time")
	}
}

// Signal sends the process a signal.
func (g *Gateway) Signal(sig syscall.Signal) error { return g.cmd.Process.Signal(sig) }

// Err is how the process ended; read it after Ended.
func (g *Gateway) Err() error { return g.err }

// PID of the process.
func (g *Gateway) PID() int { return g.cmd.Process.Pid }

// Reply is an answer read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSON reads the body into v.
func (r *Reply) JSON(v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return fmt.Errorf("status %d, body %.300q: %w", r.Status, r.Body, err)
	}
	return nil
}

// Do sends one request with key; header is name, value, name, value.
func (g *Gateway) Do(ctx context.Context, method, path, key string, body any, header ...string) (*Reply, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.URL+path, r)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return &Reply{resp.StatusCode, resp.Header, raw}, err
}

// Must is Do that fails the test unless the status is want.
func (g *Gateway) Must(t testing.TB, want int, method, path, key string, body any, header ...string) *Reply {
	t.Helper()
	r, err := g.Do(t.Context(), method, path, key, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != want {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, r.Status, want, r.Body)
	}
	return r
}

// ProviderKeys gives org a key at each simulated provider.
func (g *Gateway) ProviderKeys(t testing.TB, admin Seeded) {
	t.Helper()
	for _, p := range Providers {
		g.Must(t, 200, "PUT", "/api/orgs/"+admin.Org+"/providers/"+p, admin.Key, map[string]string{"api_key": "sk-" + p + "-of-" + admin.Org})
	}
}

var client = &http.Client{Transport: &http.Transport{
	DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	MaxIdleConnsPerHost: 256,
}}

// CloseIdle drops kept connections, for leak checks.
func CloseIdle() { client.CloseIdleConnections() }
