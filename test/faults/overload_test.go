package faults

import (
	"slices"
	"strings"
	"time"

	"threadhub/internal/id"
	"threadhub/test/kills"
)

var memoryRunsOut = row{
	id: "G6", title: "memory runs out", metric: "threadhub_overload_stage", lacks: "ten minutes of it, and a limit of the kernel's, which many answers of megabytes can pass before they are ended",
	setup: setup{apart: true, env: []string{"GOMEMLIMIT=96MiB", "THREADHUB_TIMEOUTS__STREAM=1m", "THREADHUB_TIMEOUTS__IDLE=20s"}}, play: overloaded,
}

// overloaded plays G6: answers pile up that are larger than the memory there is. New calls are refused, the largest
// streams are let go, and when they are over all is as before.
func overloaded(w *world) {
	w.want(w.ask(said(2, 0)), well)
	const heavy = 16
	var all []*live
	for range heavy {
		all = append(all, w.start(w.g[0], w.question("size=3000000 chunks=60 delay=150ms", w.inPieces)))
	}
	var late []*kills.Exchange
	stages := map[float64]bool{}
	over := func() bool { return !slices.ContainsFunc(all, func(l *live) bool { return !l.isOver() }) }
	for !over() {
		stage := w.metrics(w.g[0])["threadhub_overload_stage"]
		stages[stage] = true
		if stage >= 2 && len(late) < 20 {
			late = append(late, w.send(w.g[0], w.question(said(1, 0), pick(w, whole, plain))))
		}
		w.sleep(50 * time.Millisecond)
	}
	w.eventually(20*time.Second, func() bool {
		return !slices.ContainsFunc(w.rows().Calls, func(c kills.Call) bool { return c.State != "closed" })
	}, "all calls to be closed")
	became := map[id.Request]string{}
	for _, c := range w.rows().Calls { // once: the answers are large
		became[c.ID] = strings.TrimSpace(c.Outcome + " " + c.Reason)
	}
	cut, turned := 0, 0
	for _, l := range all {
		e, is := l.Exchange, became[l.Request]
		switch {
		case e.Done && is == "complete":
		case e.Code == "overloaded" && e.Status == 503 && is == "": // it came too late
			turned++
		case e.Code == "overloaded" && e.Status == 200 && is == "incomplete overloaded":
			cut++
		case e.Err != nil && (is == "incomplete overloaded" || is == "complete"): // its client was too slow to take the end of it
			cut++
		default:
			w.Errorf("%s: %d %s, done %v, %v; kept: %s", e.Text, e.Status, e.Code, e.Done, e.Err, is)
		}
	}
	for _, e := range late {
		if e.Done { // the stage was left meanwhile
			w.want(e, well)
			continue
		}
		turned++
		w.want(e, refused(503, "overloaded"))
	}
	if turned == 0 || cut == 0 || !stages[2] && !stages[3] {
		w.Errorf("%d calls were refused, %d streams were ended, the stages were %v", turned, cut, stages)
	}
	w.moved("threadhub_overload_refused_total", `memory`)
	w.moved("threadhub_overload_ended_total")
	w.eventually(10*time.Second, func() bool { return w.metrics(w.g[0])["threadhub_overload_stage"] == 0 }, "memory to be there again")
	w.want(w.ask(said(2, 0)), well)
}

func (l *live) isOver() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}
