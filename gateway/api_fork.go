package gateway

import (
	"encoding/json"
	"strconv"

	"threadhub/internal/fault"
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

func (x *request) forkSpec() (threads.ForkSpec, error) {
	spec := threads.ForkSpec{User: x.caller.User}
	m, err := x.members("sequence", "title", "description", "visibility", "org_id")
	if err != nil {
		return spec, err
	}
	named, err := x.threadSpecOf(m)
	if err != nil {
		return spec, err
	}
	given := func(name string, value *string) *string {
		if !isThere(m[name]) {
			return nil
		}
		return value
	}
	spec.Title, spec.Description, spec.Visibility = given("title", &named.Title), given("description", &named.Description), given("visibility", &named.Visibility)
	if isThere(m["sequence"]) {
		n, err := strconv.Atoi(string(m["sequence"]))
		if err != nil {
			return spec, fault.New(fault.Invalid, "sequence is a whole number: of the last message to take over").WithCode("invalid_type").WithParam("sequence")
		}
		spec.Last = &n
	}
	return spec, nil
}

// isThere reports whether a member was given, and not as null.
func isThere(v json.RawMessage) bool { return len(v) > 0 && string(v) != "null" }
