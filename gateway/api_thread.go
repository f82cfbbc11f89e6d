package gateway

import (
	"strconv"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/orgs"
	"threadhub/threads"
)

const maxMessages = 1000 // messages of one page

// part returns the messages of a thread that the query asks for, and whether that limits them.
func (g *Gateway) part(x *request, thread id.Thread) (p *threads.Part, limited bool, err error) {
	after, err := number(x, "after", -1, 0, 1<<31-2)
	if err != nil {
		return nil, false, err
	}
	limit, err := number(x, "limit", 0, 1, maxMessages)
	if err != nil {
		return nil, false, err
	}
	if !id.ValidThread(string(thread)) {
		return nil, false, threads.Absent()
	}
	p, err = g.opts.Threads.Page(x.ctx, x.caller.Org, thread, x.viewer(), after, limit)
	return p, limit > 0, err
}

// number reads a parameter of the URL that is an integer from least to most, or absent.
func number(x *request, name string, absent, least, most int) (int, error) {
	s := x.query(name)
	if s == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, fault.New(fault.Invalid, "%s is a number from %d to %d", name, least, most).WithParam(name)
	}
	return n, nil
}

// changeThread answers PATCH /api/threads/{id} with {title?, description?, visibility?, window_policy?}. What is absent stays;
// a title or description of null is empty; a window_policy of null is the org's.
func (g *Gateway) changeThread(x *request) {
	thread := id.Thread(x.param("id"))
	c, err := x.change()
	if err == nil && !id.ValidThread(string(thread)) {
		err = threads.Absent()
	}
	if err != nil {
		x.fail(err)
		return
	}
	t, err := g.opts.Threads.Change(x.ctx, x.caller.Org, thread, x.viewer(), c)
	if err != nil {
		x.fail(err)
		return
	}
	x.json(200, shapeOfThread(t))
}

func (x *request) change() (threads.Change, error) {
	f := x.fields("title", "description", "visibility", "window_policy")
	c := threads.Change{
		Title: f.title(), Description: f.description(), Visibility: f.visibility(), WindowPolicy: (*threads.Policy)(f.text("window_policy")),
	}
	if f.given("window_policy") && c.WindowPolicy != nil && !c.WindowPolicy.Valid() {
		f.fail(fault.New(fault.Invalid, "window_policy is \"cut\", \"refuse\" or null").WithParam("window_policy"))
	}
	return c, f.err
}

// deleteThread answers DELETE /api/threads/{id}. It waits for the thread's turn: what is being answered is answered.
func (g *Gateway) deleteThread(x *request) {
	thread := id.Thread(x.param("id"))
	err := g.mayDelete(x, thread)
	if err == nil {
		err = g.inTurn(x, thread, func() (calls.Result, error) { return g.tryDelete(x, thread) })
	}
	x.deleted(string(thread), err)
}

func (g *Gateway) mayDelete(x *request, thread id.Thread) error {
	t, err := g.visible(x, thread)
	if err == nil && !x.viewer().Owns(t) {
		err = threads.NotYours("delete it")
	}
	return err
}

func (g *Gateway) tryDelete(x *request, thread id.Thread) (calls.Result, error) {
	if err := g.mayDelete(x, thread); err != nil {
		return 0, err
	}
	head, err := g.opts.Threads.Head(x.ctx, x.caller.Org, thread)
	if err != nil {
		return 0, err
	}
	return g.atOnce(x, &exchange{}, "delete", head, &threads.Input{Thread: thread}, func(u *db.Unit) {
		g.opts.Threads.Remove(u, &threads.Removal{Org: x.caller.Org, Thread: thread, Call: x.id})
	})
}

// exportThread answers GET /api/threads/{id}/export?format=jsonl|markdown with a file that is made page by page, as the
// client takes it. Answers that are being made are not in it.
func (g *Gateway) exportThread(x *request) {
	var format exportFormat
	switch s := x.query("format"); s {
	case "", "jsonl":
		format = jsonLines{}
	case "markdown":
		format = &markdown{}
	default:
		x.fail(fault.New(fault.Invalid, "format is \"jsonl\" or \"markdown\"").WithParam("format"))
		return
	}
	thread := id.Thread(x.param("id"))
	if !id.ValidThread(string(thread)) {
		x.fail(threads.Absent())
		return
	}
	role := x.caller.Role
	g.guard(x, func(c orgs.Caller) error { // which threads there are for an admin is not what there is for others
		if c.Role != role {
			return fault.New(fault.Denied, "the role changed while the file was made").WithCode("permission_denied")
		}
		return nil
	})
	e := &export{x: x, g: g, org: x.caller.Org, who: x.viewer(), thread: thread, format: format}
	if err := e.page(); err != nil { // while there can still be another answer
		x.fail(err)
		return
	}
	e.release = x.hold()
	e.send()
}
