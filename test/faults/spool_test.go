package faults

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"threadhub/test/kills"
)

// recordTime is how long a record waits for the store before its client is told.
const recordTime = 10 * time.Second

// Rows in which a record has to wait on the disk.
var (
	longAway = row{
		id: "P3b", title: "the same, for longer than RECORD's patience", metric: "threadhub_spool_written_total",
		setup: setup{own: true}, play: spooled,
	}
	badSpool = row{
		id: "G14", title: "the spool's disk is full, or a record in it is corrupt", metric: "threadhub_spool_quarantined_total",
		setup: setup{disk: homeDisk, env: []string{"THREADHUB_SPOOL__MAX_BYTES=1MiB"}}, play: fullSpool,
	}
)

// spooled plays P3b: the record is made when the store is back, by the process that made it or by the next one.
func spooled(w *world) {
	const thread = "spooled"
	w.want(w.ask(said(2, 0), in(thread)), well)
	for _, dies := range []bool{false, true} {
		l := w.streaming(w.g[0], w.question(said(10, 50*time.Millisecond), in(thread), keyed(w.name())))
		w.must(w.pg.Kill())
		e := l.wait()
		if e.Done || e.Code != "storage_unavailable" || took(e) < recordTime || took(e) > recordTime+2*time.Second+slack {
			w.Errorf("%s: %d %s, done %v, after %v", e.Text, e.Status, e.Code, e.Done, took(e))
		}
		if !strings.Contains(string(e.Raw), ": ping") {
			w.Errorf("no heartbeat came: %.300q", e.Raw)
		}
		now := w.metrics(w.g[0])
		if now["threadhub_spool_records"] != 1 || now["threadhub_ledger_pending"] != 1 {
			w.Errorf("%v records are in the spool, %v calls wait", now["threadhub_spool_records"], now["threadhub_ledger_pending"])
		}
		w.moved("threadhub_spool_written_total")
		if dies {
			w.g[0].Kill()
		}
		back := w.back()
		if dies {
			w.g[0] = w.house.Serve()
			w.before = w.metrics(w.g[0])
		}
		h := w.want(e, end{status: 200, outcome: "complete", line: exact})
		if d := time.Since(back); d > 5*time.Second+slack {
			w.Errorf("the record was made %v after Postgres was back", d)
		}
		if h.answer == nil || h.answer.Text != e.Seen {
			w.Errorf("seen %q, kept %s", e.Seen, h)
		}
		w.eventually(5*time.Second, w.spoolIsEmpty, "the spool to be empty")
		w.recovers(time.Now())
		r := w.send(w.g[0], again(e))
		if !r.Done || r.Answer.Get("Idempotent-Replayed") != "true" || r.Request != e.Request {
			w.Errorf("the repeat got %d %s, %s for %s", r.Status, r.Code, r.Request, e.Request)
		}
		w.want(w.ask(said(2, 0), in(thread)), well)
		w.read(w.g[0], thread)
	}
}

func (w *world) spoolIsEmpty() bool {
	now := w.metrics(w.g[0])
	return now != nil && now["threadhub_spool_records"] == 0 && now["threadhub_ledger_pending"] == 0
}

// spoolFolder is where the gateways of the row's installation keep records.
func (w *world) spoolFolder() string {
	w.Helper()
	for _, v := range slices.Backward(w.house.Env) {
		if dir, ok := strings.CutPrefix(v, "THREADHUB_DATA_DIR="); ok {
			return filepath.Join(dir, "spool")
		}
	}
	w.Fatal("the installation has no folder")
	return ""
}

// fullSpool plays G14.
func fullSpool(w *world) {
	dir := w.spoolFolder()
	w.want(w.ask(said(2, 0)), well)

	// A disk that takes nothing is found out before it is needed.
	foundOut := func(mend func()) {
		w.Helper()
		w.eventually(5*time.Second+slack, func() bool { return w.metrics(w.g[0])["threadhub_spool_full"] == 1 }, "the disk to be found out")
		w.want(w.ask(said(2, 0)), refused(503, "storage_full"))
		mend()
		w.eventually(5*time.Second+slack, func() bool { return w.metrics(w.g[0])["threadhub_spool_full"] == 0 }, "the disk to be well")
		w.want(w.ask(said(2, 0)), well)
	}
	w.must(os.Rename(dir, dir+".gone"))
	foundOut(func() { w.must(os.Rename(dir+".gone", dir)) })
	if w.small != "" {
		foundOut(w.fill(w.small))
	} else {
		w.cannot("a disk that is full (" + w.noDisk + "): the folder is taken away, and its own limit is reached")
	}

	// A store that takes no records, for so long that the spool has as much as it may have.
	w.trigger("away", "ledger", "RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device'")
	all := w.many(4, 4, func(int) *kills.Exchange { return w.ask("size=400000 chunks=20", w.inPieces) })
	for _, e := range all {
		if e.Done || e.Code != "storage_full" {
			w.Errorf("%s: %d %s, done %v", e.Text, e.Status, e.Code, e.Done)
		}
	}
	w.want(w.ask(said(2, 0)), refused(503, "ledger_backlog"))
	now := w.metrics(w.g[0])
	if now["threadhub_spool_full"] != 1 || now["threadhub_spool_records"] != float64(len(all)) || now["threadhub_spool_bytes"] < 1<<20 {
		w.Errorf("the spool has %v records of %v bytes, full: %v", now["threadhub_spool_records"], now["threadhub_spool_bytes"], now["threadhub_spool_full"])
	}

	// One of them is damaged, and the next process makes the others.
	w.g[0].Kill()
	bad := pick(w, all...)
	path := filepath.Join(dir, string(bad.Request)+".record")
	text, err := os.ReadFile(path)
	w.must(err)
	text[w.rand.IntN(len(text))] ^= 1 << w.rand.IntN(8)
	w.must(os.WriteFile(path, text, 0o600))
	w.untrigger("away")
	w.before = nil // its counters begin at 0
	w.g[0] = w.house.Serve()
	for _, e := range all {
		is := end{status: 200, outcome: "complete", line: exact}
		if e == bad {
			is = end{status: 200, outcome: "incomplete", reason: []string{"gateway_lost"}, line: estimated}
		}
		w.want(e, is)
		w.once(e)
	}
	w.moved("threadhub_spool_quarantined_total")
	w.eventually(5*time.Second, w.spoolIsEmpty, "the spool to be empty")
	if kept, err := filepath.Glob(filepath.Join(dir, "*.bad")); err != nil || len(kept) != 1 {
		w.Errorf("put aside: %q, %v", kept, err)
	}
	w.want(w.ask(said(2, 0), in(bad.Thread)), well)
}
