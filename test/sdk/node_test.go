package sdk

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// nodeSDK does jobs with OpenAI's Node SDK: one process for all of them, which takes many at a time.
type nodeSDK struct {
	stdin io.WriteCloser

	mu      sync.Mutex
	n       int64
	waiting map[int64]chan<- result
	ended   error // why there will be no more results; nil while the process lives
}

// startNode starts the runner. It is ended when the test is over.
func startNode(t *testing.T) *nodeSDK {
	t.Helper()
	cmd := exec.Command("node", filepath.Join(nodeFolder(t, "runner.mjs"), "runner.mjs"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &nodeSDK{stdin: stdin, waiting: map[int64]chan<- result{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.read(stdout)
	}()
	t.Cleanup(func() {
		_ = stdin.Close() // it ends when its last job has ended
		<-done
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("node: %v\n%s", err, &stderr)
		}
	})
	return s
}

// read hands out results until the process ends.
func (s *nodeSDK) read(stdout io.Reader) {
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		var r result
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		s.mu.Lock()
		if err != nil {
			s.ended = fmt.Errorf("the Node process: %w: %.200q", err, line)
			for _, w := range s.waiting {
				close(w)
			}
			s.waiting = nil
			s.mu.Unlock()
			return
		}
		w := s.waiting[r.N]
		delete(s.waiting, r.N)
		s.mu.Unlock()
		w <- r // has room
	}
}

func (s *nodeSDK) do(j job) (result, error) {
	answer := make(chan result, 1)
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return result{}, s.ended
	}
	s.n++
	j.N = s.n
	s.waiting[j.N] = answer
	line, err := json.Marshal(j)
	if err == nil {
		_, err = s.stdin.Write(append(line, '\n'))
	}
	s.mu.Unlock()
	if err != nil {
		return result{}, err
	}
	if r, ok := <-answer; ok {
		return r, nil
	}
	return result{}, errors.New("the Node process ended under a job")
}

// nodeFolder is a folder with the named files of node/ and the SDK beside them.
func nodeFolder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range files {
		put(t, filepath.Join(dir, name), get(t, filepath.Join("node", name)))
	}
	if err := os.Symlink(modules(t), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// modules is the folder with the SDK that node/package-lock.json pins, outside the tree: installed once for each lock.
func modules(t *testing.T) string {
	t.Helper()
	needsNode(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	lock := get(t, "node/package-lock.json")
	sum := sha256.Sum256(lock)
	home := filepath.Join(cache, "threadhub-test-sdk")
	dir := filepath.Join(home, hex.EncodeToString(sum[:8]))
	installed := filepath.Join(dir, "node_modules")
	if _, err := os.Stat(installed); err == nil {
		return installed
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(home, "install-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	put(t, filepath.Join(fresh, "package-lock.json"), lock)
	for _, name := range []string{"package.json", ".npmrc"} {
		put(t, filepath.Join(fresh, name), get(t, filepath.Join("node", name)))
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci, which installs OpenAI's Node SDK: %v\n%s", err, out)
	}
	// Whole or not at all. If another run was faster, its folder is as good.
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(installed); there != nil {
			t.Fatal(err)
		}
	}
	return installed
}

// needsNode fails the test, in one sentence, where node is missing or too old. It never skips.
func needsNode(t *testing.T) {
	t.Helper()
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Fatalf("this suite drives the gateway with OpenAI's Node SDK and needs node 20 or newer with npm: %v", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Fatalf("this suite needs node 20 or newer; this is %s", out)
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf("this suite needs npm beside node: %v", err)
	}
}

func get(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The lock pins the SDK by version and hash, and names no registry: whoever runs the suite uses their own.
func TestLockNamesNoRegistry(t *testing.T) {
	lock := get(t, "node/package-lock.json")
	if bytes.Contains(lock, []byte("://")) || bytes.Contains(lock, []byte(`"resolved"`)) {
		t.Error("node/package-lock.json names where packages come from; npm install with node/.npmrc beside it leaves that out")
	}
	for _, want := range []string{`"version": "6.49.0"`, `"integrity": "sha512-`} {
		if !bytes.Contains(lock, []byte(want)) {
			t.Errorf("node/package-lock.json lacks %s", want)
		}
	}
}
