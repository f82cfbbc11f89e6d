package faults

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"threadhub/simulator"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

// What becomes of a call whose provider has not begun to answer: it may be asked again, or another key or target.
var failoverRows = []row{
	{id: "U11", title: "429 with Retry-After", metric: "threadhub_cooldowns_total", setup: setup{apart: true}, play: limited},
	{id: "U12", title: "a burst of 5xx", metric: "threadhub_breaker_opened_total", setup: setup{apart: true}, play: burst},
	{id: "U25", title: "a kept connection is closed just as it is used", metric: "threadhub_further_attempts_total", setup: setup{apart: true}, play: stale},
}

// both is the alias of the row's model, and of that of another provider behind it.
const both = "both"

func asBoth(e *kills.Exchange) { e.Model = both }

// unscripted takes the directive out of a question, so that the simulator's scripts are played.
func unscripted(e *kills.Exchange) { e.Text, _, _ = strings.Cut(e.Text, " [[sim") }

// spare makes the alias and returns the other provider.
func (w *world) spare() string {
	w.Helper()
	other := rig.Providers[(w.seed+1)%uint64(len(rig.Providers))]
	w.g[0].Must(w, 200, "PUT", "/api/router/rules", w.who.Key, map[string]any{
		"rules":   []any{map[string]any{"id": "all", "targets": []string{w.model()}}},
		"aliases": map[string]any{both: []string{w.model(), models[other]}},
	})
	return other
}

// script has the row's provider do something with the requests of its org.
func (w *world) script(do string, times int) {
	w.Helper()
	w.must(w.sim.Play(simulator.Script{Provider: w.provider(), Match: w.who.Org, Do: do, Times: times}))
}

// tried checks which attempts there were of e, each a provider and what became of it; and that each has its line, and was
// seen by its provider.
func (w *world) tried(e *kills.Exchange, want ...string) {
	w.Helper()
	h := w.settled(e)
	var got []string
	for _, a := range h.attempts {
		got = append(got, a.Provider+" "+a.State)
	}
	if !slices.Equal(got, want) || len(h.lines) != len(want) {
		w.Errorf("%s: the attempts were %q with %d lines, want %q", e.Text, got, len(h.lines), want)
	}
	if n := w.asks(e); n != len(want) {
		w.Errorf("%s: the providers saw %d attempts, want %d", e.Text, n, len(want))
	}
}

// asks is how often providers were asked for e.
func (w *world) asks(e *kills.Exchange) (n int) {
	for _, a := range w.seen() {
		if strings.HasPrefix(a.Name, string(e.Request)+"-") {
			n++
		}
	}
	return n
}

// comeBack checks that a client is told to come back in about d.
func (w *world) comeBack(e *kills.Exchange, d time.Duration) {
	w.Helper()
	told, err := strconv.Atoi(e.Answer.Get("Retry-After"))
	if got := time.Duration(told) * time.Second; err != nil || got > d || got < d-3*time.Second {
		w.Errorf("%s: Retry-After is %q, not %v", e.Text, e.Answer.Get("Retry-After"), d)
	}
}

// limited plays U11.
func limited(w *world) {
	const rest = 20 * time.Second
	wait := pick(w, "retry_after", "retry_after_date")
	us, other := w.provider(), w.spare()

	// Another target is asked at once, and the first is left alone for as long as it said, and no longer.
	w.script("status=429 retry_after=2", 1)
	e := w.ask("", asBoth, unscripted)
	w.want(e, well)
	w.tried(e, us+" failed", other+" ok")
	rests := time.Now()
	e = w.ask(said(2, 0), asBoth)
	w.want(e, well)
	if time.Since(rests) < time.Second {
		w.tried(e, other+" ok")
	}
	w.sleep(time.Until(rests.Add(2 * time.Second)))
	e = w.ask(said(2, 0), asBoth)
	w.want(e, well)
	w.tried(e, us+" ok")
	w.moved("threadhub_cooldowns_total", us)
	w.moved("threadhub_further_attempts_total", `how="target"`)

	// So is another key.
	w.g[0].Must(w, 200, "PUT", "/api/orgs/"+w.who.Org+"/providers/"+us, w.who.Key, map[string]any{
		"api_key": "sk-" + us + "-of-" + w.who.Org, "name": "second", "priority": 1,
	})
	e = w.ask(fmt.Sprintf("status=429 %s=%d times=1", wait, int(rest.Seconds())))
	w.want(e, well)
	w.tried(e, us+" failed", us+" ok")
	w.moved("threadhub_further_attempts_total", `how="key"`)

	// Where there is nobody else, the client is told how long to wait.
	e = w.ask(fmt.Sprintf("status=429 %s=%d", wait, int(rest.Seconds())), pick(w, whole, func(*kills.Exchange) {}))
	w.want(e, failed(429, free, "rate_limit_exceeded"))
	w.tried(e, us+" failed", us+" failed")
	w.comeBack(e, rest)
	e = w.ask(said(2, 0), asBoth) // both keys rest
	w.want(e, well)
	w.tried(e, other+" ok")
}

// openTime is how long the breaker of a key stays open.
const openTime = 10 * time.Second

// burst plays U12.
func burst(w *world) {
	us := w.provider()
	status := pick(w, 500, 502, 503, 529)
	fails := fmt.Sprint("status=", status)

	// A provider that fails for a moment is asked again, twice at most.
	e := w.ask(fails+" times=2", pick(w, whole, func(*kills.Exchange) {}))
	w.want(e, well)
	w.tried(e, us+" failed", us+" failed", us+" ok")
	w.moved("threadhub_further_attempts_total", `how="retry"`)

	// One that goes on failing is not asked much more often than clients ask, and then not at all.
	const most = 60
	down := failed(502, free, "upstream_error")
	n, attempts := 1, 3
	for ; n < most; n++ {
		e = w.ask(fails, pick(w, whole, plain))
		if e.Code == "upstream_unavailable" {
			break
		}
		w.want(e, down)
		attempts += w.asks(e)
	}
	if n < 15 || n == most {
		w.Fatalf("the breaker opened after %d calls: %d %s", n, e.Status, e.Code)
	}
	opened := time.Now()
	if extra := attempts - n; extra > max(3, n/10) {
		w.Errorf("%d calls became %d attempts", n, attempts)
	}
	w.want(e, refused(502, "upstream_unavailable"))
	w.comeBack(e, openTime)
	w.moved("threadhub_retries_refused_total", us)
	w.moved("threadhub_breaker_opened_total", us)

	// When it has been left alone for a while, one call is let through, and if that is answered, all are.
	w.sleep(time.Until(opened.Add(openTime + 100*time.Millisecond)))
	seen := len(w.seen())
	probe := w.start(w.g[0], w.question("head=1500ms text=well"))
	w.eventually(time.Second+slack, func() bool { return len(w.seen()) > seen }, "the provider to be asked again")
	w.want(w.ask(said(2, 0)), refused(502, "upstream_unavailable"))
	w.want(probe.wait(), well)
	w.wants(w.many(4, 4, func(int) *kills.Exchange { return w.ask(said(2, 0)) }), well)
}

// stale plays U25.
func stale(w *world) {
	us := w.provider()
	for _, how := range []option{whole, func(*kills.Exchange) {}} {
		w.want(w.ask(said(2, 0)), well) // which leaves a connection
		w.must(w.sim.Play(simulator.Script{Provider: us, Do: "fault=stale", Times: 1}))
		e := w.ask(said(2, 0), how)
		w.want(e, well)
		w.tried(e, us+" failed", us+" ok")
		if h := w.holds(e); len(h.lines) == 2 && h.lines[0].CostPico+h.lines[0].Input+h.lines[0].Output != 0 {
			w.Errorf("the attempt that nobody read cost %+v", h.lines[0])
		}
	}
	w.moved("threadhub_further_attempts_total", `how="fresh"`)
}
