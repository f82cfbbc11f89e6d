package gateway

import (
	"threadhub/calls"
	"threadhub/internal/id"
	"threadhub/threads"
)

// forkedFrom says which message of which thread a fork took over last.
type forkedFrom struct {
	Thread   id.Thread `json:"thread_id"`
	Sequence int       `json:"sequence"`
}

// forkThread answers POST /api/threads/{id}/fork with {sequence?, title?, description?, visibility?}: a new thread that
// begins with this one's messages up to and including sequence, or all of them.
func (g *Gateway) forkThread(x *request) {
	var t *threads.Thread
	e := &exchange{caller: x.caller}
	if g.once(x, e, func() (err error) { t, err = g.tryFork(x, e, id.Thread(x.param("id"))); return err }) {
		x.json(201, forked(t))
	}
}

func (g *Gateway) tryFork(x *request, e *exchange, source id.Thread) (*threads.Thread, error) {
	if _, err := g.visible(x, source); err != nil { // before the body: what is foreign is not there, whatever is sent to it
		return nil, err
	}
	spec, err := x.forkSpec()
	if err != nil {
		return nil, err
	}
	fork, err := g.opts.Threads.ForkOf(x.ctx, x.caller.Org, source, x.viewer(), spec)
	if err != nil {
		return nil, err
	}
	in := &threads.Input{Thread: id.NewThread(), Fork: fork}
	switch result, err := g.atOnce(x, e, kindFork, nil, in); {
	case err != nil:
		return nil, err
	case result == calls.Repeats:
		return nil, errRepeats
	case result != calls.Won: // the source has just been deleted
		return nil, threads.Absent()
	}
	return g.visible(x, in.Thread)
}

// forked is what the client is told of a fork that was made.
func forked(t *threads.Thread) any {
	return map[string]any{
		"thread_id": t.ID, "created_at": t.CreatedAt.UTC(), "forked_from": forkedFrom{t.ForkedFrom, t.ForkedSeq},
	}
}

// forkSpec reads what the fork shall be; what is null is as in the source.
func (x *request) forkSpec() (threads.ForkSpec, error) {
	f := x.fields("sequence", "title", "description", "visibility")
	spec := threads.ForkSpec{Last: f.number("sequence")}
	if f.given("title") {
		spec.Title = f.title()
	}
	if f.given("description") {
		spec.Description = f.description()
	}
	if f.given("visibility") {
		spec.Visibility = f.visibility()
	}
	return spec, f.err
}
