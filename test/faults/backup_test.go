package faults

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"threadhub/test/kills"
	"threadhub/test/rig"
)

// drillTime is how long it may take to restore a backup.
const drillTime = 15 * time.Minute

var (
	restore = row{
		id: "G12", title: "a backup of Postgres is restored on an empty host, to a point in time", metric: "threadhub_orphans_settled_total",
		setup: setup{archive: true, redis: true, env: longStreams()}, play: restored,
	}
	restoreCopy = row{id: "G12b", title: "the same of SQLite, by copy", setup: setup{sqlite: true}, play: copied}
)

// restored plays G12, with the commands that docs/backup.md tells operators.
func restored(w *world) {
	ctx := context.Background()
	backup := filepath.Dir(w.services.Data)
	do := func(name string, env ...string) {
		w.Helper()
		w.must(w.services.Run(ctx, w.drill(name), append(env, "BACKUP="+backup, "DATABASE_URL="+w.pg.URL())...))
	}
	thread := w.question("").Thread
	ask := func() *kills.Exchange {
		return w.ask(said(3, 0), pick(w, whole, plain), in(thread))
	}
	before := []*kills.Exchange{ask(), ask()}
	do("base")
	once := w.ask(said(3, 0), keyed(w.name()))
	before = append(before, ask(), once, ask())
	w.read(w.g[0], thread)
	open := w.streaming(w.g[0], w.question(said(40, 50*time.Millisecond)))

	conn := w.connect()
	var point, segment string
	w.must(conn.QueryRow(ctx, "SELECT now()::text").Scan(&point))
	w.undone[0] = time.Now()
	after := []*kills.Exchange{ask(), w.ask(said(3, 0)), open.wait()}
	w.wants(after, well)
	w.must(conn.QueryRow(ctx, "SELECT pg_walfile_name(pg_switch_wal())").Scan(&segment))
	w.must(conn.Close(ctx))
	w.eventually(20*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(backup, "wal", segment))
		return err == nil
	}, "the log to be kept")

	// All is lost but the backup and the key.
	w.g[0].Kill()
	w.must(w.pg.Kill())
	w.must(w.redisClient().FlushAll(ctx).Err())
	began := time.Now()
	data := filepath.Join(backup, "restored")
	do("restore", "PGDATA="+data, "POINT="+point)
	server, err := w.services.Adopt(ctx, data)
	w.must(err)
	w.db.URL = server.URL()
	w.house.Env = append(w.house.Env, "DATABASE_URL="+server.URL(), "THREADHUB_DATA_DIR="+w.TempDir(), "HOME="+w.TempDir())
	w.g[0], w.before = w.house.Serve(), nil
	w.undone[1] = time.Now()

	w.wants(before, well)
	for _, e := range after[:2] {
		if h := w.holds(e); h.call != nil || len(h.inputs) > 0 {
			w.Errorf("%s: of what came after the point there is: %s", e.Text, h)
		}
	}
	if h := w.settled(open.Exchange); h.call == nil || h.call.Outcome != "incomplete" || h.call.Reason != "gateway_lost" || h.line() != estimated {
		w.Errorf("what was open at the point became %s", h)
	}
	w.moved("threadhub_orphans_settled_total")
	replay := w.send(w.g[0], again(once))
	if !replay.Done || replay.Answer.Get("Idempotent-Replayed") != "true" || replay.Request != once.Request {
		w.Errorf("a repeat got %d %s, %s for %s", replay.Status, replay.Code, replay.Request, once.Request)
	}
	w.want(ask(), well) // the key opens, and so does the provider's
	if d := time.Since(began); d > drillTime {
		w.Errorf("it took %v", d)
	}
}

// copied plays G12b, on an installation as somebody has it who set nothing.
func copied(w *world) {
	home := w.TempDir()
	data, backup := filepath.Join(home, "data"), filepath.Join(home, "backup")
	w.house.Env = append(w.house.Env, "DATABASE_URL=", "ENCRYPTION_KEY=", "THREADHUB_DATA_DIR="+data)
	start := func() {
		w.g[0], w.before = w.house.Serve(), nil
		w.db.URL = "sqlite://" + filepath.Join(data, "threadhub.db")
	}
	do := func(name string) {
		w.Helper()
		cmd := exec.Command("sh", "-ec", w.drill(name))
		cmd.Env = append(os.Environ(), "THREADHUB_DATA_DIR="+data, "BACKUP="+backup)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	w.must(w.g[0].Stop(20 * time.Second))
	start()
	w.who = w.tenant(w, "copied")
	thread := w.question("").Thread
	ask := func() *kills.Exchange { return w.ask(said(3, 0), pick(w, whole, plain), in(thread)) }
	before := []*kills.Exchange{ask(), ask()}
	w.read(w.g[0], thread)
	w.must(w.g[0].Signal(syscall.SIGTERM))
	<-w.g[0].Ended()
	do("copy")
	w.undone[0] = time.Now()
	start()
	lost := ask()
	w.want(lost, well)
	w.g[0].Kill()
	w.must(os.RemoveAll(data))
	do("back")
	start()
	w.undone[1] = time.Now()
	w.wants(before, well)
	if h := w.holds(lost); h.call != nil || len(h.inputs) > 0 {
		w.Errorf("of what came after the copy there is: %s", h)
	}
	w.want(ask(), well)
}

// drill is a script of docs/backup.md.
func (w *world) drill(name string) string {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(w), "docs", "backup.md"))
	w.must(err)
	script := regexp.MustCompile("(?s)<!-- drill " + name + " -->\n```sh\n(.*?)```").FindSubmatch(text)
	if script == nil {
		w.Fatalf("docs/backup.md has no drill %s", name)
	}
	return string(script[1])
}
