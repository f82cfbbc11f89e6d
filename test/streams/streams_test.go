// Package streams holds the suite that has many slow streams run through one gateway at a time, and counts what of them
// is lost, and what each of them takes. Gateway, provider and clients are three processes. Long runs write what they
// found into docs/streams.md, with -write.
package streams

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

var write = flag.Bool("write", false, "write what a long run found into docs/streams.md")

// size is how large a run is.
type size struct {
	streams int
	events  int           // pieces of text of each
	pace    time.Duration // between them
	orgs    int
	opening int // streams that begin at a time
}

func TestManyStreams(t *testing.T) {
	s := size{streams: 500, events: 15, pace: time.Second, orgs: 1, opening: 32} // on a busy machine it takes seconds until all run
	if os.Getenv("THREADHUB_SOAK") != "" {
		// One org gets four fifths of the places, and n orgs of like size n/(n+1) of them: see docs/decisions/0019-overload.md.
		s = size{streams: 9500, events: 60, pace: 2 * time.Second, orgs: 40, opening: 64}
	}
	if most := (int(openFiles(t)) - 200) / 2; s.streams > most*96/100 {
		s.streams = most * 96 / 100
		t.Logf("open files allow %d streams", s.streams)
	}
	sim := simulator(t)
	h := rig.NewHouse(t, rig.Options{Database: rig.Stores["sqlite"](t), Env: []string{
		"THREADHUB_UPSTREAMS__OPENAI__BASE_URL=" + sim, "THREADHUB_TIMEOUTS__HEADERS=5m", "THREADHUB_LOG__LEVEL=error",
	}})
	var admins []rig.Seeded
	for n := range s.orgs {
		admins = append(admins, h.Seed(fmt.Sprint("Streams ", n), fmt.Sprintf("admin@streams-%d.test", n), "admin"))
	}
	g := h.Serve()
	t.Cleanup(rig.CloseIdle)
	for _, a := range admins {
		g.Must(t, 200, "PUT", "/api/orgs/"+a.Org+"/providers/openai", a.Key, map[string]string{"api_key": "sk-of-" + a.Org})
	}

	// What the first streams take once is not what each takes.
	warm := crowd{g: g, size: size{streams: 100, events: 2, pace: 50 * time.Millisecond, orgs: 1, opening: 100}, admins: admins}
	warm.run(t, nil)
	before := measure(t, g)

	c := crowd{g: g, size: s, admins: admins}
	var during measured
	var together int64
	c.run(t, func() { together, during = c.running.Load(), measure(t, g) })
	failures, gaps := c.outcome()
	for i, err := range failures {
		if i < 10 {
			t.Error(err)
		}
	}
	if len(failures) > 0 {
		t.Errorf("%d of %d streams were not whole", len(failures), s.streams)
	}
	after := measure(t, g)
	f := finding{size: s, before: before, during: during, after: after, peak: int(together), refused: c.refused.Load(), whole: s.streams - len(failures), opened: c.opened, gaps: gaps}
	t.Log("\n" + f.String())
	if f.peak < s.streams {
		t.Errorf("only %d streams ran at a time", f.peak)
	}
	if per := f.perStream(); per > 160<<10 {
		t.Errorf("each takes %d KiB", per>>10)
	}
	if err := g.Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
	if *write && !t.Failed() {
		f.write(t)
	}
}

// simulator starts the provider as a process of its own and returns where it is.
func simulator(t *testing.T) (openAI string) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "simulator")
	if out, err := exec.Command("go", "build", "-o", bin, "threadhub/cmd/simulator").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(bin, "-listen", "127.0.0.1:0", "-sizes-only", "-keep", "1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	var ready map[string]string
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	return ready["openai"]
}

func openFiles(t *testing.T) uint64 {
	t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	return lim.Max
}

// crowd is the clients.
type crowd struct {
	g      *rig.Gateway
	size   size
	admins []rig.Seeded

	running atomic.Int64
	refused atomic.Int64
	opened  time.Duration // how long it took until all were

	mu       sync.Mutex
	failures []error
	gaps     []time.Duration // the longest of each stream between two of its events
}

// run has all streams begin, calls full when all of them run, and waits for their ends.
func (c *crowd) run(t *testing.T, full func()) {
	t.Helper()
	began := time.Now()
	opening := make(chan struct{}, c.size.opening)
	var wg, open sync.WaitGroup
	for n := range c.size.streams {
		opening <- struct{}{}
		wg.Add(1)
		open.Add(1)
		go func() {
			defer wg.Done()
			begun := sync.OnceFunc(func() { <-opening; open.Done() })
			defer begun()
			gap, err := c.stream(n, begun)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.gaps = append(c.gaps, gap)
			if err != nil {
				c.failures = append(c.failures, fmt.Errorf("stream %d: %w", n, err))
			}
		}()
	}
	open.Wait()
	c.opened = time.Since(began)
	if full != nil {
		full()
	}
	wg.Wait()
}

func (c *crowd) outcome() ([]error, []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.gaps)
	return c.failures, c.gaps
}

// stream asks for one and reads it to its end. It must be all there, in order. Where the gateway has no room for its
// beginning, it asks again after a second, as it is told to.
func (c *crowd) stream(n int, begun func()) (gap time.Duration, err error) {
	for range 30 {
		if gap, err = c.once(n, begun); !errors.Is(err, errBusy) {
			break
		}
		c.refused.Add(1)
		time.Sleep(time.Second)
	}
	return gap, err
}

var errBusy = errors.New("status 503")

func (c *crowd) once(n int, begun func()) (gap time.Duration, err error) {
	conn, err := net.DialTimeout("tcp", c.g.Host(), time.Minute)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	want := strings.Repeat(fmt.Sprintf("%d-", n), c.size.events)
	body := fmt.Sprintf(`{"model":"openai/gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"[[sim text=%s chunks=%d delay=%s]]"}]}`, want, c.size.events, c.size.pace)
	_, err = fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		c.admins[n%c.size.orgs].Key, len(body), body)
	if err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(conn, 1<<10)
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "" {
		return 0, errBusy
	}
	if resp.StatusCode != 200 {
		return 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	c.running.Add(1)
	defer c.running.Add(-1)
	var got strings.Builder
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 1<<10), 1<<16)
	done := false
	last := time.Now()
	for lines.Scan() {
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		switch {
		case !ok:
			continue
		case string(data) == "[DONE]":
			done = true
			continue
		case bytes.Contains(data, []byte(`"error"`)):
			return gap, fmt.Errorf("it ended with %s", data)
		}
		begun()
		gap = max(gap, time.Since(last))
		last = time.Now()
		if _, rest, ok := bytes.Cut(data, []byte(`"content":"`)); ok {
			text, _, _ := bytes.Cut(rest, []byte(`"`))
			got.Write(text)
		}
	}
	switch {
	case lines.Err() != nil:
		return gap, lines.Err()
	case !done:
		return gap, errors.New("it ended without its end")
	case got.String() != want:
		return gap, fmt.Errorf("of %d bytes of text it brought %d", len(want), got.Len())
	}
	return gap, nil
}

// measured is what the gateway's process holds.
type measured struct {
	rss, heap, next, stacks, goroutines, files int64
	cpu                                        float64
	at                                         time.Time
}

func measure(t *testing.T, g *rig.Gateway) (m measured) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", g.Operator+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	m.at = time.Now()
	all := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = v
		}
	}
	of := func(name string) int64 {
		v, ok := all[name]
		if !ok {
			t.Errorf("%s is not told", name)
		}
		return int64(v)
	}
	m.rss, m.heap, m.stacks = of("process_resident_memory_bytes"), of("go_memstats_heap_inuse_bytes"), of("go_memstats_stack_inuse_bytes")
	m.next = of("go_memstats_next_gc_bytes")
	m.goroutines, m.files = of("go_goroutines"), of("process_open_fds")
	m.cpu = all["process_cpu_seconds_total"]
	return m
}

// finding is what a run found.
type finding struct {
	size                  size
	before, during, after measured
	peak, whole           int
	refused               int64
	opened                time.Duration
	gaps                  []time.Duration
}

func (f finding) perStream() int64 { return (f.during.rss - f.before.rss) / int64(f.size.streams) }

func (f finding) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, fmt.Sprintf(format, args...))
	}
	b.WriteString("| what | found |\n|---|---|\n")
	row("streams", "%d, of %d events each, one each %s", f.size.streams, f.size.events, f.size.pace)
	row("at a time", "%d, all of them begun after %s", f.peak, f.opened.Round(100*time.Millisecond))
	row("begun again after a 503 with Retry-After, while they all began", "%d", f.refused)
	row("whole, every event in order", "%d", f.whole)
	row("resident memory of the gateway", "%d MiB before, %d MiB with all of them: %.1f KiB a stream", f.before.rss>>20, f.during.rss>>20, float64(f.perStream())/1024)
	row("heap in use", "%d MiB before, %d MiB", f.before.heap>>20, f.during.heap>>20)
	row("heap at which the runtime collects next", "%d MiB before, %d MiB", f.before.next>>20, f.during.next>>20)
	row("stacks", "%d MiB before, %d MiB", f.before.stacks>>20, f.during.stacks>>20)
	row("goroutines", "%d before, %d", f.before.goroutines, f.during.goroutines)
	row("open files", "%d before, %d", f.before.files, f.during.files)
	row("processor time of the gateway", "%.1f s in %s", f.after.cpu-f.before.cpu, f.after.at.Sub(f.before.at).Round(time.Second))
	if n := len(f.gaps); n > 0 {
		row("longest wait for an event, of half the streams, of 99 %, of all", "%s, %s, %s", f.gaps[n/2].Round(time.Millisecond), f.gaps[n*99/100].Round(time.Millisecond), f.gaps[n-1].Round(time.Millisecond))
	}
	return b.String()
}

func (f finding) write(t *testing.T) {
	t.Helper()
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := "# Many streams at a time\n\n" +
		"One gateway process with SQLite, one provider's process, one process with the clients, on one machine, over loopback\n" +
		"without TLS. The kernel's buffers are not counted. Each client checks that its stream brings every event, in order, and\n" +
		"its end. Written by the command:\n\n" +
		"    THREADHUB_SOAK=1 go test ./test/streams -run TestManyStreams -count=1 -write\n\n" +
		fmt.Sprintf("Commit %s, %s, %s/%s, %d processors, %d open files allowed to a process.\n\n",
			strings.TrimSpace(string(commit)), runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), openFiles(t)) +
		f.String() + "\n" +
		"A relayed stream takes two files, the client's connection and the provider's. So 10,000 streams do not fit into one\n" +
		"process where it may have 20,000 files: that takes a second replica.\n"
	if err := os.WriteFile(filepath.Join(rig.Root(t), "docs", "streams.md"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
