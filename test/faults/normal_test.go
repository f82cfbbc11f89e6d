package faults

import (
	"context"

	"threadhub/test/kills"
)

// normal is the row with which all others are compared: nothing fails.
var normal = row{
	id: "N1", title: "nothing fails", metric: "threadhub_requests_total", play: func(w *world) {
		thread := w.question("").Thread
		for i, how := range [][]option{{in(thread)}, {whole, in(thread)}, {plain}, {whole, plain}, {in(thread), keyed("once")}} {
			e := w.ask(said(3+i, 0), how...)
			w.want(e, well)
			w.read(w.g[0], thread)
		}
		if r, err := w.g[0].Do(context.Background(), "GET", "/api/threads/"+string(thread), w.stranger.Key, nil); err != nil || r.Status != 404 {
			w.Errorf("a stranger got the thread: %v %v", r, err)
		}
		w.moved("threadhub_requests_total", `outcome="ok"`, `status="2xx"`)
		w.moved("threadhub_stream_end_total", `reason="done"`)
		w.moved("threadhub_attempts_total", `result="ok"`, w.provider())
	},
}

// wants is want for many.
func (w *world) wants(all []*kills.Exchange, is end) {
	w.Helper()
	for _, e := range all {
		w.want(e, is)
	}
}

// once checks that e's input is stored at most once.
func (w *world) once(e *kills.Exchange) {
	w.Helper()
	if h := w.holds(e); len(h.inputs) > 1 {
		w.Errorf("%s: stored %d times", e.Text, len(h.inputs))
	}
}
