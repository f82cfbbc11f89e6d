package gateway

import (
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
	source := id.Thread(x.param("id"))
	if _, err := g.visible(x, source); err != nil { // before the body: what is foreign is not there, whatever is sent to it
		x.fail(err)
		return
	}
	spec, err := x.forkSpec()
	if err != nil {
		x.fail(err)
		return
	}
	t, err := g.opts.Threads.ForkFrom(x.ctx, x.caller.Org, source, x.viewer(), spec)
	if err != nil {
		x.fail(err)
		return
	}
	x.json(201, map[string]any{
		"thread_id": t.ID, "created_at": t.CreatedAt.UTC(), "forked_from": forkedFrom{t.ForkedFrom, t.ForkedSeq},
	})
}

// forkSpec reads what the fork shall be; what is null is as in the source.
func (x *request) forkSpec() (threads.ForkSpec, error) {
	f := x.fields("sequence", "title", "description", "visibility")
	spec := threads.ForkSpec{User: x.caller.User, Last: f.number("sequence")}
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
