package faults

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/test/kills"
)

var (
	walFull = row{
		id: "P9", title: "the disk with the WAL is full", metric: "threadhub_store_up", setup: setup{disk: walDisk, env: longStreams()}, play: fullWAL,
	}
	dataFull = row{
		id: "P10", title: "the disk with the data is full", setup: setup{disk: dataDisk}, play: fullData,
	}
)

// fullWAL plays P9: Postgres panics for want of room, and does not start again until there is some.
func fullWAL(w *world) {
	if w.small == "" {
		w.cannotPlay(w.noDisk)
		return
	}
	w.want(w.ask(said(2, 0)), well)
	running := w.streaming(w.g[0], w.question(said(60, 50*time.Millisecond)))
	room := w.fill(w.small)
	w.eventually(20*time.Second, func() bool { return w.pg.PID() == 0 || !w.writesWAL() }, "Postgres to run out of room")
	w.must(w.pg.Wait(context.Background()))
	all := []*kills.Exchange{w.ask(said(2, 0)), w.ask(said(2, 0), plain)}
	w.eventually(5*time.Second, func() bool { return w.metrics(w.g[0])["threadhub_store_up"] == 0 }, "it to be seen")
	room()
	back := w.back()
	w.wants(all, refused(503, "storage_unavailable"))
	w.want(running.wait(), well)
	w.recovers(back)
	w.want(w.send(w.g[0], again(all[0])), well)
}

// writesWAL has Postgres begin another file of its log, and reports whether it could.
func (w *world) writesWAL() bool {
	conn, err := pgx.Connect(context.Background(), w.db.URL)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(context.Background(), "SELECT pg_logical_emit_message(true, 'faults', repeat('x', 1000000)), pg_switch_wal()")
	return err == nil
}

// fullData plays P10.
func fullData(w *world) {
	w.trigger("full", pick(w, "calls", "messages", "attempts"), "RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device'")
	w.want(w.ask(said(2, 0)), refused(503, "storage_full"))
	w.untrigger("full")
	w.want(w.ask(said(2, 0)), well)
	if w.small == "" {
		w.cannot("the disk itself (" + w.noDisk + "): the error comes from a trigger")
		return
	}

	// Until what is free within the tables is used up.
	room := w.fill(w.small)
	var e *kills.Exchange
	for range 200 {
		if e = w.ask("size=4000 chunks=2", whole); !e.Done {
			break
		}
	}
	room()
	if e.Done {
		w.Fatal("a full disk had room for all")
	}
	if h := w.settled(e); h.call == nil {
		w.want(e, refused(503, "storage_full"))
	} else { // it was opened, and its record did not fit: it waited on the gateway's own disk
		w.want(e, end{status: 503, codes: []string{"storage_full"}, outcome: "complete", line: exact})
	}
	w.want(w.ask(said(2, 0)), well)
	w.want(w.ask(said(2, 0), in(e.Thread)), well)
}

// fill fills a disk to its last byte, and returns what makes room again.
func (w *world) fill(dir string) (room func()) {
	w.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	w.must(err)
	_, err = io.Copy(f, zeros{})
	if !errors.Is(err, syscall.ENOSPC) {
		w.Fatalf("filling the disk: %v", err)
	}
	w.must(f.Close())
	return func() { w.Helper(); w.must(os.Remove(path)) }
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
