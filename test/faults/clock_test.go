package faults

import (
	"context"
	"fmt"
	"strings"
	"time"
)

var clockJumps = row{id: "G8", title: "the clock jumps by an hour, and by seconds", setup: setup{env: longStreams()}, play: jumps}

// jumps plays G8.
func jumps(w *world) {
	w.want(w.ask(said(2, 0)), well)
	c, err := takeClock(w.g[0].PID())
	if err != nil {
		w.cannotPlay(err.Error())
		return
	}
	defer c.Close()
	if d := w.skew(); d < -time.Minute || d > time.Minute {
		w.Fatalf("the clock is off by %v before it was set", d)
	}
	w.must(c.Set(time.Hour))
	if d := w.skew(); d < 59*time.Minute || d > 61*time.Minute {
		w.Fatalf("the clock is off by %v, and was set to an hour", d)
	}
	w.must(c.Set(0))

	// Calls go on, and messages are in the order of their numbers, whatever the clock says.
	const thread = "jumping"
	running := w.streaming(w.g[0], w.question(said(60, 50*time.Millisecond)))
	steps := []time.Duration{time.Hour, -time.Hour, time.Second, -time.Second, 2 * time.Hour, 0}
	w.mu.Lock()
	w.rand.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	w.mu.Unlock()
	for _, d := range steps {
		w.must(c.Set(d))
		w.want(w.ask(said(2, 0), in(thread)), well)
		w.want(w.ask(said(2, 0), pick(w, whole, plain)), well)
		w.read(w.g[0], thread)
	}
	w.want(running.wait(), well)

	// What is waited for takes as long as ever.
	for _, d := range []time.Duration{time.Hour, -time.Hour} {
		w.must(c.Set(0))
		silent := w.streaming(w.g[0], w.question("fault=stall after=1"+inChunks))
		w.must(c.Set(d))
		e := silent.wait()
		w.want(e, broken(estimated, "upstream_stalled"))
		if t := took(e); t < idleTime*9/10 || t > idleTime+2*time.Second+slack {
			w.Errorf("with the clock at %v a silent provider was waited for %v", d, t)
		}
		e = w.ask("fault=silent")
		w.want(e, failed(504, perhaps, "upstream_timeout"))
		if t := took(e); t < headersTime*9/10 || t > headersTime+2*time.Second+slack {
			w.Errorf("with the clock at %v a provider that does not answer was waited for %v", d, t)
		}
	}

	// A key ends when the database says so.
	w.must(c.Set(0))
	lasts, ends := w.key(time.Now().Add(time.Hour)), w.key(time.Now().Add(2*time.Second))
	w.must(c.Set(2 * time.Hour))
	if n := w.statusOf(lasts); n != 200 {
		w.Errorf("two hours ahead, a key that lasts for one more gets %d", n)
	}
	w.sleep(2 * time.Second)
	w.must(c.Set(-time.Hour))
	if n := w.statusOf(ends); n != 401 {
		w.Errorf("an hour behind, a key that has ended gets %d", n)
	}
	w.must(c.Set(0))
	w.clocksAgree()
}

// skew is how far the first gateway's clock is ahead, by the ids it gives, of which none is older than the one before.
func (w *world) skew() time.Duration {
	w.Helper()
	r, err := w.g[0].Do(context.Background(), "GET", "/v1/nothing", w.who.Key, nil)
	w.must(err)
	var ms int64
	if _, err := fmt.Sscanf(r.Header.Get("x-request-id"), "req_%12x", &ms); err != nil {
		w.Fatalf("%q is no id: %v", r.Header.Get("x-request-id"), err)
	}
	return time.Until(time.UnixMilli(ms))
}

// key makes a key of the row's org that ends.
func (w *world) key(ends time.Time) string {
	w.Helper()
	var made struct {
		Key string `json:"api_key"`
	}
	w.must(w.g[0].Must(w, 201, "POST", "/api/keys", w.who.Key, map[string]any{"name": "ends", "expires_at": ends.UTC().Format(time.RFC3339Nano)}).JSON(&made))
	return made.Key
}

// statusOf is what a key gets.
func (w *world) statusOf(key string) int {
	w.Helper()
	r, err := w.g[0].Do(context.Background(), "GET", "/v1/models", key, nil)
	w.must(err)
	return r.Status
}

// clocksAgree checks that what is stored has the database's time.
func (w *world) clocksAgree() {
	w.Helper()
	conn := w.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	for _, column := range []string{"calls.opened_at", "calls.closed_at", "attempts.started_at", "attempts.ended_at", "threads.created_at", "messages.created_at", "ledger.at"} {
		table, _, _ := strings.Cut(column, ".")
		var off float64
		w.must(conn.QueryRow(context.Background(), "SELECT max(abs(extract(epoch FROM "+column+" - now()))) FROM "+table+" WHERE org_id = $1", w.who.Org).Scan(&off))
		if off > 30*60 {
			w.Errorf("%s is off by %.0f s", column, off)
		}
	}
}
