package faults

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"threadhub/internal/id"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

// settlingTime is how long after the death of a gateway another one has settled its calls.
const settlingTime = leaseTime + 5*time.Second

var gatewayRows = []row{
	{id: "G1", title: "kill -9 of a gateway in the middle of a stream", metric: "threadhub_orphans_settled_total", setup: setup{replicas: 2, apart: true}, play: func(w *world) {
		l := w.streaming(w.g[0], w.question(said(60, 50*time.Millisecond)))
		w.sleep(time.Duration(w.rand.IntN(500)) * time.Millisecond)
		died := time.Now()
		w.g[0].Kill()
		w.want(l.wait(), end{status: 200, outcome: "incomplete", reason: []string{"gateway_lost"}, line: estimated})
		if d := time.Since(died); d > settlingTime {
			w.Errorf("its call was settled after %v", d)
		}
		if n := w.metrics(w.g[1])["threadhub_orphans_settled_total"]; n == 0 {
			w.Error("nobody says that it settled the call")
		}
		if h := w.holds(l.Exchange); l.Err == nil || !h.lines[0].MaybeBilled {
			w.Errorf("the client's end: %v; kept: %s", l.Err, h)
		}
		w.want(w.send(w.g[1], w.question(said(2, 0), in(l.Thread))), well)
	}},
	{id: "G1b", title: "the same, on the embedded store", setup: setup{sqlite: true}, play: func(w *world) {
		l := w.streaming(w.g[0], w.question(said(60, 50*time.Millisecond)))
		w.sleep(time.Duration(w.rand.IntN(500)) * time.Millisecond)
		w.g[0].Kill()
		l.wait()
		w.g[0] = w.house.Serve()
		w.before = w.metrics(w.g[0])
		h := w.want(l.Exchange, end{status: 200, outcome: "incomplete", reason: []string{"gateway_lost"}, line: estimated})
		if h.answer == nil || !strings.HasPrefix(h.answer.Text, l.Seen) {
			w.Errorf("seen %q, kept %s", l.Seen, h)
		}
	}},
	{id: "G2", title: "kill -9 after RECORD, before [DONE]", setup: setup{replicas: 1, tags: []string{"chaos"}}, play: func(w *world) {
		e := w.dies("recorded")
		r := w.send(w.g[0], again(e))
		w.want(r, well)
		if r.Answer.Get("Idempotent-Replayed") != "true" || r.Request != e.Request || len(w.seen()) != 1 {
			w.Errorf("it was not replayed: %v, %s for %s", r.Answer, r.Request, e.Request)
		}
	}},
	{id: "G2b", title: "kill -9 before RECORD: there was no [DONE]", setup: setup{replicas: 1, tags: []string{"chaos"}}, play: func(w *world) {
		e := w.dies("record")
		w.want(e, end{status: 200, outcome: "incomplete", reason: []string{"gateway_lost"}, line: estimated})
	}},
	{id: "G3", title: "kill -9 after OPEN, before the provider is asked", setup: setup{replicas: 1, tags: []string{"chaos"}}, play: func(w *world) {
		e := w.dies("open")
		died := time.Now()
		var r *kills.Exchange
		w.eventually(settlingTime+20*time.Second, func() bool {
			r = w.send(w.g[0], again(e))
			return r.Done
		}, "the repeat to be answered")
		if d := time.Since(died); d > settlingTime+slack {
			w.Errorf("the repeat was answered after %v", d)
		}
		w.want(r, well)
		w.once(e)
		if n := len(w.seen()); n != 1 {
			w.Errorf("the provider was asked %d times", n)
		}
	}},
	{id: "G4", title: "SIGTERM in the middle of streams", setup: setup{apart: true}, play: func(w *world) {
		short := w.streaming(w.g[0], w.question(said(20, 50*time.Millisecond)))
		long := w.streaming(w.g[0], w.question(said(100, 50*time.Millisecond)))
		began := time.Now()
		w.must(w.g[0].Signal(syscall.SIGTERM))
		w.eventually(time.Second+slack, func() bool { return w.status(w.g[0].Operator+"/health/ready") == 503 }, "the gateway not to be ready")
		if e := w.ask(said(1, 0)); e.Done || time.Since(began) < acceptTime { // it still accepts
			w.want(e, well)
		}
		w.want(short.wait(), well)
		w.want(long.wait(), broken(estimated, "draining"))
		w.ends(began, acceptTime+drainTime+2*time.Second)
	}},
	{id: "G5", title: "a second SIGTERM", setup: setup{apart: true, env: []string{"THREADHUB_TIMEOUTS__DRAIN=30s"}}, play: func(w *world) {
		long := w.streaming(w.g[0], w.question(said(100, 50*time.Millisecond)))
		w.must(w.g[0].Signal(syscall.SIGTERM))
		w.sleep(acceptTime + time.Duration(w.rand.IntN(500))*time.Millisecond)
		began := time.Now()
		w.must(w.g[0].Signal(syscall.SIGTERM))
		w.want(long.wait(), broken(estimated, "draining"))
		if d := long.Ended.Sub(began); d > time.Second+slack {
			w.Errorf("the stream ended after %v", d)
		}
		w.ends(began, 3*time.Second)
	}},
	memoryRunsOut,
	{id: "G7", title: "file descriptors run out", metric: "threadhub_accept_emfile_total", setup: setup{apart: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0)), well)
		running := w.streaming(w.g[0], w.question(said(60, 50*time.Millisecond)))
		var was unix.Rlimit
		w.must(unix.Prlimit(w.g[0].PID(), unix.RLIMIT_NOFILE, nil, &was))
		now := was
		now.Cur = uint64(files(w.g[0].PID()) + 1)
		w.must(unix.Prlimit(w.g[0].PID(), unix.RLIMIT_NOFILE, &now, nil))
		var crowd []*live
		for range 6 {
			crowd = append(crowd, w.start(w.g[0], w.question(said(1, 0), plain)))
		}
		w.sleep(500 * time.Millisecond)
		w.must(unix.Prlimit(w.g[0].PID(), unix.RLIMIT_NOFILE, &was, nil))
		freed := time.Now()
		for _, l := range crowd {
			if e := l.wait(); e.Done && e.Ended.Sub(freed) > time.Second+slack {
				w.Errorf("it was answered %v after there was room", e.Ended.Sub(freed))
			} else if !e.Done && e.Code != "upstream_unreachable" && e.Code != "storage_full" { // connections and the spool's files take some too
				w.Errorf("%s: %d %s %v", e.Text, e.Status, e.Code, e.Err)
			}
		}
		w.want(running.wait(), well)
		w.moved("threadhub_accept_emfile_total")
		w.want(w.ask(said(1, 0)), well)
	}},
	clockJumps,
	{id: "G9", title: "rolling restart of three replicas", setup: setup{replicas: 3, apart: true}, play: rolling},
	{id: "G10", title: "a panic", metric: "threadhub_panics_total", setup: setup{tags: []string{"chaos"}}, play: func(w *world) {
		point := pick(w, "record", "recorded", "relay", "parse", "load", "admit", "translate", "call")
		g := w.house.Serve("THREADHUB_TEST_CHAOS=" + point + ":2:panic:1")
		w.before = w.metrics(g)
		w.g = append([]*rig.Gateway{g}, w.g...)
		other := w.start(w.g[1], w.question(said(30, 30*time.Millisecond)))
		// The first passes the point, or panics in its stream; the next one panics at the latest.
		all := []*kills.Exchange{w.ask(said(6, 20*time.Millisecond)), w.ask(said(6, 20*time.Millisecond))}
		bad := 0
		for _, e := range all {
			if e.Done {
				w.want(e, well)
				continue
			}
			bad++
			if e.Code != "internal_error" {
				w.Errorf("%s: a panic at %s became %d %q %v", e.Text, point, e.Status, e.Code, e.Err)
			}
			if h := w.settled(e); h.call != nil && len(h.lines) != 1 {
				w.Errorf("%s: kept %s", e.Text, h)
			}
		}
		if bad != 1 {
			w.Errorf("a panic at %s ended %d requests", point, bad)
		}
		w.want(w.ask(said(2, 0)), well)
		w.want(other.wait(), well)
		w.moved("threadhub_panics_total")
	}},
	{
		id: "G11", title: "the log's reader is stuck, or its disk is full", metric: "threadhub_log_dropped_total", setup: setup{apart: true},
		play: func(w *world) {
			r, stuck, err := os.Pipe()
			w.must(err)
			defer func() { _ = r.Close() }()
			unix.FcntlInt(stuck.Fd(), unix.F_SETPIPE_SZ, 4096) // smaller is only quicker
			w.house.Stderr = stuck
			g := w.house.Serve()
			w.house.Stderr = nil
			_ = stuck.Close()
			w.before = w.metrics(g)
			w.g = append([]*rig.Gateway{g}, w.g...)
			for range 4500 / 50 { // more than the queue holds
				w.many(50, 8, func(int) *kills.Exchange {
					if r, err := g.Do(context.Background(), "GET", "/v1/nothing", w.who.Key, nil); err != nil || r.Status != 404 {
						w.Errorf("%v %v", r, err)
					}
					return nil
				})
			}
			w.want(w.ask(said(2, 0)), well)
			w.moved("threadhub_log_dropped_total")
			go func() { _, _ = io.Copy(io.Discard, r) }()
			w.want(w.ask(said(2, 0)), well)
			w.must(g.Stop(10 * time.Second))

			// And with a log on a disk that is full.
			full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			w.must(err)
			w.house.Stderr = full
			w.g[0] = w.house.Serve()
			w.house.Stderr = nil
			w.must(full.Close())
			w.before = w.metrics(w.g[0])
			w.want(w.ask(said(2, 0)), well)
			w.moved("threadhub_log_dropped_total")
			w.must(w.g[0].Stop(10 * time.Second))
		},
	},
	restore, restoreCopy,
	{id: "G13", title: "the settings are reloaded, and are wrong", metric: "threadhub_config_reload_failed_total", setup: setup{apart: true}, play: func(w *world) {
		file := filepath.Join(w.TempDir(), "threadhub.yaml")
		w.must(os.WriteFile(file, []byte("log:\n  level: info\n"), 0o600))
		w.house.Args = []string{"--config", file}
		g := w.house.Serve()
		w.before = w.metrics(g)
		w.g = append([]*rig.Gateway{g}, w.g...)
		running := w.streaming(g, w.question(said(20, 50*time.Millisecond)))
		w.must(os.WriteFile(file, []byte(pick(w, "log:\n  level: loud\n", "timeouts:\n  conect: 1s\n", "{{{", "max_body_bytes: -1\n")), 0o600))
		w.must(g.Signal(syscall.SIGHUP))
		w.moved("threadhub_config_reload_failed_total")
		w.want(running.wait(), well)
		w.want(w.ask(said(2, 0)), well)
	}},
	badSpool,
	{id: "G15", title: "a partition between the gateway and one part", setup: setup{between: true, redis: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0)), well)
		running := w.streaming(w.g[0], w.question(said(40, 50*time.Millisecond)))
		w.wire["postgres"].Freeze(Up, Down)
		for range 2 {
			e := w.ask(said(1, 0), plain)
			if e.Status != 503 || took(e) > 5*time.Second+slack {
				w.Errorf("without Postgres: %d %s after %v", e.Status, e.Code, took(e))
			}
		}
		w.wire["postgres"].Thaw()
		w.want(running.wait(), well)
		w.recovers(time.Now())

		w.wire["redis"].Freeze(Up, Down)
		e := w.ask(said(1, 0))
		w.want(e, well.in(10*redisTime))
		w.wire["redis"].Thaw()

		stalls := w.streaming(w.g[0], w.question(said(40, 50*time.Millisecond)))
		w.wire[w.provider()].Freeze(Up, Down)
		w.want(stalls.wait(), broken(estimated, "upstream_stalled").in(idleTime+3*time.Second))
		w.want(w.ask(said(1, 0)), failed(504, perhaps, "upstream_timeout"))
		w.wire[w.provider()].Cut()
		w.wire[w.provider()].Thaw()
		w.eventually(10*time.Second, func() bool { return w.ask(said(1, 0)).Done }, "the provider to be reached again")
	}},
	{id: "G16", title: "a slow owner comes back after its lease", metric: "threadhub_fence_total", setup: setup{
		replicas: 3, env: []string{"THREADHUB_TIMEOUTS__IDLE=1m", "THREADHUB_TIMEOUTS__STREAM=1m"}, // or it blames the provider
	}, play: func(w *world) {
		l := w.streaming(w.g[0], w.question(said(30, 50*time.Millisecond)))
		w.freeze(w.g[0])
		h := w.settled(l.Exchange) // one of the two others has settled it, once
		w.thaw(w.g[0])
		w.want(l.wait(), end{status: 200, codes: []string{"lost_lease"}, outcome: "incomplete", reason: []string{"gateway_lost"}})
		w.moved("threadhub_fence_total")
		if now := w.holds(l.Exchange); len(h.lines) != 1 || len(now.lines) != 1 || now.lines[0] != h.lines[0] {
			w.Errorf("the line was %v and is %v", h.lines, now.lines)
		}
		w.eventually(10*time.Second, func() bool { return len(w.holds(l.Exchange).late) == 1 }, "the true cost to be written down")
		w.want(w.send(w.g[1], w.question(said(2, 0), in(l.Thread))), well)
	}},
}

// dies asks a gateway that dies at point, and returns the exchange, which has a key.
func (w *world) dies(point string) *kills.Exchange {
	w.Helper()
	g := w.house.Serve("THREADHUB_TEST_CHAOS=" + point + ":1")
	e := w.send(g, w.question(said(4, 0), keyed(w.name())))
	select {
	case <-g.Ended():
	case <-time.After(5 * time.Second):
		w.Fatalf("the gateway did not die at %s", point)
	}
	if e.Done || e.Err == nil {
		w.Errorf("its client got %d, done %v", e.Status, e.Done)
	}
	return e
}

// ends waits for the end of the first gateway.
func (w *world) ends(since time.Time, within time.Duration) {
	w.Helper()
	select {
	case <-w.g[0].Ended():
	case <-time.After(within + 10*time.Second):
		w.Fatal("the gateway does not end")
	}
	if d := time.Since(since); d > within+slack {
		w.Errorf("it ended after %v", d)
	}
	if err := w.g[0].Err(); err != nil {
		w.Errorf("it ended with %v", err)
	}
}

// rolling plays G9. Clients take turns over the gateways that are ready, as behind a load balancer, and keep their
// connections; one that finds its connection closed asks once more.
func rolling(w *world) {
	var mu sync.Mutex
	up := append([]*rig.Gateway{}, w.g...)
	one := func(i int) *rig.Gateway {
		mu.Lock()
		defer mu.Unlock()
		return up[i%len(up)]
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 4 {
		clients.Go(func() {
			kept := map[*rig.Gateway]*kills.Client{}
			for i := n; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				for try := range 2 {
					g := one(i + try)
					c := kept[g]
					if c == nil {
						c = w.client(g)
						kept[g] = c
					}
					e := w.question(said(3, 5*time.Millisecond), in(id.Thread(fmt.Sprintf("rolling-%d", n))))
					c.Ask(e)
					w.note(e)
					if e.Done {
						break
					}
					if closed := e.Err != nil && len(e.Raw) == 0; !closed || try > 0 {
						w.Errorf("%s: %d %s %v", e.Text, e.Status, e.Code, e.Err)
						break
					}
				}
			}
		})
	}
	long := w.streaming(w.g[0], w.question(said(20, 50*time.Millisecond)))
	for i, old := range w.g {
		w.sleep(200 * time.Millisecond)
		g := w.house.Serve()
		mu.Lock()
		up = append(up, g)
		mu.Unlock()
		w.must(old.Signal(syscall.SIGTERM))
		w.eventually(time.Second+slack, func() bool { return w.status(old.Operator+"/health/ready") != 200 }, "it not to be ready")
		mu.Lock()
		up = up[1:]
		mu.Unlock()
		select {
		case <-old.Ended():
		case <-time.After(acceptTime + drainTime + 5*time.Second):
			w.Fatal("it does not end")
		}
		if err := old.Err(); err != nil {
			w.Errorf("it ended with %v", err)
		}
		w.g[i] = g
	}
	close(stop)
	clients.Wait()
	w.want(long.wait(), well)
	w.mu.Lock()
	n := len(w.asked)
	w.mu.Unlock()
	if n < 30 {
		w.Errorf("only %d requests were made meanwhile", n)
	}
}
