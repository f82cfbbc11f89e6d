package streams

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/testkit"
	sim "threadhub/simulator"
	"threadhub/test/rig"
)

// Answers that together would take many times the memory there is: some are refused, some are ended, some complete, and
// the process lives. What it held at most is told, and bounded by twice the limit: without the stages it has no bound.
func TestMemoryPressure(t *testing.T) {
	const limit = 128 << 20
	lasts := 15 * time.Second
	if os.Getenv("THREADHUB_SOAK") != "" {
		lasts = 10 * time.Minute
	}
	h := rig.NewHouse(t, rig.Options{Database: rig.Stores["sqlite"](t), Sim: rig.Simulator(t, sim.Options{SizesOnly: true, MaxLog: 1}), Env: []string{
		fmt.Sprintf("GOMEMLIMIT=%d", limit), "THREADHUB_LOG__LEVEL=error",
	}})
	t.Cleanup(rig.CloseIdle)
	admin := h.Seed("Memory", "admin@memory.test", "admin")
	g := h.Serve()
	g.ProviderKeys(t, admin)
	var whole, refused, ended atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(lasts)
	for range 60 { // twice what fits, and more: each holds up to 4 MiB
		wg.Go(func() {
			for time.Now().Before(end) {
				body, err := ask(g.Host(), admin.Key, "[[sim size=4000000 chunks=400 delay=20ms]]")
				switch {
				case err != nil:
					ended.Add(1) // cut, as it was not read fast enough
				case bytes.HasSuffix(body, []byte("data: [DONE]\n\n")):
					whole.Add(1)
				case bytes.HasPrefix(body, []byte(`{"error"`)) && bytes.Contains(body, []byte(`"overloaded"`)):
					refused.Add(1)
					time.Sleep(500 * time.Millisecond)
				case bytes.Contains(body, []byte(`"code":"overloaded"`)):
					ended.Add(1)
				default:
					t.Errorf("an answer ended with %.200q", body[max(0, len(body)-200):])
				}
			}
		})
	}
	wg.Wait()
	most := highWater(t, g.PID())
	t.Logf("%d answers were whole, %d were refused, %d were ended; at most %d MiB were held, with a limit of %d", whole.Load(), refused.Load(), ended.Load(), most>>20, limit>>20)
	if most > 2*limit {
		t.Errorf("%d MiB were held, and the limit is %d", most>>20, limit>>20)
	}
	if whole.Load() == 0 || refused.Load() == 0 {
		t.Error("it was not what it should have been: some whole, some refused")
	}
	resp, err := http.Get(g.URL + "/health")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("its health: %v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	if err := g.Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
}

// highWater is the most memory that a process ever held, in bytes.
func highWater(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		testkit.Lacks(t, "a system that tells what a process held (Linux)")
	}
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	t.Fatal("VmHWM is not told")
	return 0
}
