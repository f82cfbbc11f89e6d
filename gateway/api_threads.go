package gateway

import (
	"encoding/json"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/openai"
	"threadhub/orgs"
	"threadhub/threads"
)

func (x *request) viewer() threads.Viewer { return viewerOf(x.caller) }

func viewerOf(c orgs.Caller) threads.Viewer {
	return threads.Viewer{User: c.User, Admin: c.Role == orgs.Admin}
}

// threadShape is a thread as the API shows it; Messages is absent in lists.
type threadShape struct {
	ID          id.Thread          `json:"id"`
	Org         id.Org             `json:"org_id"`
	User        id.User            `json:"user_id"` // who made it: with the admins, who may delete and hide it
	Title       string             `json:"title"`
	Description string             `json:"description"`
	Visibility  string             `json:"visibility"`
	CreatedAt   time.Time          `json:"created_at"`
	UpdatedAt   time.Time          `json:"updated_at"`
	Window      *threads.Policy    `json:"window_policy"` // null: as the org
	ForkedFrom  *forkedFrom        `json:"forked_from"`
	Messages    *[]json.RawMessage `json:"messages,omitempty"`
	HasMore     *bool              `json:"has_more,omitempty"` // where a limit was asked for
}

func shapeOfThread(t *threads.Thread) threadShape {
	s := threadShape{
		ID: t.ID, Org: t.Org, User: t.User, Title: t.Title, Description: t.Description, Visibility: t.Visibility,
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC(), Window: orNull(t.WindowPolicy),
	}
	if t.ForkedFrom != "" {
		s.ForkedFrom = &forkedFrom{t.ForkedFrom, t.ForkedSeq}
	}
	return s
}

const (
	maxTitle       = threads.MaxTitle
	maxDescription = 8 << 10
)

// createThread answers POST /api/threads/ with {title?, description?, visibility?}.
func (g *Gateway) createThread(x *request) {
	spec, err := x.threadSpec()
	if err != nil {
		x.fail(err)
		return
	}
	var t *threads.Thread
	e := &exchange{caller: x.caller}
	if g.once(x, e, func() (err error) { t, err = g.tryCreate(x, e, spec); return err }) {
		x.json(201, made(t))
	}
}

func (g *Gateway) tryCreate(x *request, e *exchange, spec threads.Spec) (*threads.Thread, error) {
	in := &threads.Input{Thread: id.NewThread(), Create: true, Title: spec.Title, Description: spec.Description, Visibility: spec.Visibility}
	result, err := g.atOnce(x, e, kindCreate, nil, in)
	if err == nil && result == calls.Repeats {
		err = errRepeats
	}
	if err != nil {
		return nil, err
	}
	return g.visible(x, in.Thread)
}

// made is what the client is told of a thread that was made.
func made(t *threads.Thread) any {
	return map[string]any{"thread_id": t.ID, "created_at": t.CreatedAt.UTC()}
}

func (x *request) threadSpec() (threads.Spec, error) {
	f := x.fields("title", "description", "visibility")
	spec := threads.Spec{User: x.caller.User, Title: or(f.title()), Description: or(f.description())}
	if or(f.text("visibility")) != "" {
		spec.Visibility = or(f.visibility())
	}
	return spec, f.err
}

func (f *fields) title() *string       { return f.short("title", maxTitle) }
func (f *fields) description() *string { return f.short("description", maxDescription) }

// visibility says who sees a thread.
func (f *fields) visibility() *string {
	v := f.text("visibility")
	if v != nil && *v != "org" && *v != "private" {
		f.fail(fault.New(fault.Invalid, "visibility is \"org\" or \"private\"").WithParam("visibility"))
	}
	return v
}

// foreignThread is Route.foreign where the path names a thread.
func (g *Gateway) foreignThread(x *request) error {
	_, err := g.visible(x, id.Thread(x.param("id")))
	return err
}

// listThreads answers GET /api/threads?limit=&cursor=&q=, newest made first; with q, those that match its words.
func (g *Gateway) listThreads(x *request) {
	listPage(x,
		func(after orgs.Cursor, limit int) ([]*threads.Thread, error) {
			return g.listed(x, threads.Cursor{CreatedAt: after.CreatedAt, Thread: id.Thread(after.ID)}, limit)
		},
		func(t *threads.Thread) orgs.Cursor { return orgs.Cursor{CreatedAt: t.CreatedAt, ID: string(t.ID)} },
		shapeOfThread)
}

func (g *Gateway) listed(x *request, after threads.Cursor, limit int) ([]*threads.Thread, error) {
	if !x.rc.QueryArgs().Has("q") {
		return g.opts.Threads.List(x.ctx, x.caller.Org, x.viewer(), after, limit)
	}
	words, err := threads.SearchWords(x.query("q"))
	if err != nil {
		return nil, err
	}
	return g.opts.Threads.Search(x.ctx, x.caller.Org, x.viewer(), words, after, limit)
}

// getThread answers GET /api/threads/{id}?after=&limit=: the thread with its messages, all or those asked for, and the
// answer that is being made, if one is, as a pending message after the last of them.
func (g *Gateway) getThread(x *request) {
	thread := id.Thread(x.param("id"))
	part, limited, err := g.part(x, thread)
	if err != nil {
		x.fail(err)
		return
	}
	t, stored := part.Thread, part.Messages
	holder, err := g.opts.Calls.Holder(x.ctx, x.caller.Org, thread)
	if err != nil {
		x.fail(err)
		return
	}
	messages := make([]json.RawMessage, 0, len(stored)+1)
	for _, m := range stored {
		messages = append(messages, messageShape(m, ""))
	}
	if holder != nil && holder.Facts.Kind == "chat" && !part.More && holder.FirstSeq+holder.NIn == part.Next {
		messages = append(messages, pendingShape(holder))
	}
	shape := shapeOfThread(t)
	shape.Messages = &messages
	if limited {
		shape.HasMore = &part.More
	}
	x.json(200, shape)
}

// visible is a thread that is there and that the caller may see, without its messages.
func (g *Gateway) visible(x *request, thread id.Thread) (*threads.Thread, error) {
	if !id.ValidThread(string(thread)) {
		return nil, threads.Absent()
	}
	return g.opts.Threads.Thread(x.ctx, x.caller.Org, thread, x.viewer())
}

// messageShape is a message as the API shows it: our members, the answer's provenance, and then the OpenAI members as
// they were sent or received, byte for byte. thread is named in it, unless it is "".
func messageShape(m *threads.Message, thread id.Thread) json.RawMessage {
	ours := struct {
		Thread     id.Thread `json:"thread_id,omitempty"`
		MessageID  string    `json:"message_id"`
		Sequence   int       `json:"sequence"`
		Role       string    `json:"role"`
		Status     string    `json:"status"`
		Incomplete string    `json:"incomplete_reason,omitempty"`
		CreatedAt  time.Time `json:"created_at"`
	}{thread, id.Message(m.Call, m.Seq), m.Seq, m.Role, string(m.Status), m.Reason, m.CreatedAt.UTC()}
	b, _ := json.Marshal(ours)
	names := map[string]bool{"thread_id": thread != "", "message_id": true, "sequence": true, "role": true, "status": true, "incomplete_reason": true, "created_at": true}
	b = appendMembers(b, m.Meta, names)
	b = appendMembers(b, m.Raw, names)
	if !names["content"] {
		b = append(b[:len(b)-1], `,"content":null}`...)
	}
	return b
}

// appendMembers adds to the object b the members of object that names does not hold yet.
func appendMembers(b, object []byte, names map[string]bool) []byte {
	if len(object) == 0 {
		return b
	}
	gjson.ParseBytes(object).ForEach(func(key, value gjson.Result) bool {
		if names[key.Str] {
			return true
		}
		names[key.Str] = true
		b = append(b[:len(b)-1], ',')
		b = append(b, key.Raw...)
		b = append(b, ':')
		b = append(b, value.Raw...)
		b = append(b, '}')
		return true
	})
	return b
}

func pendingShape(c *calls.Call) json.RawMessage {
	seq := c.FirstSeq + c.NIn
	b, _ := json.Marshal(map[string]any{
		"message_id": id.Message(c.ID, seq), "sequence": seq, "role": "assistant", "content": nil, "status": "pending",
		"created_at": c.OpenedAt.UTC(), "provider": c.Facts.Provider, "model_requested": c.Facts.ModelRequested,
		"route": c.Facts.Route, "reason": c.Facts.Why, "request_id": c.ID,
	})
	return b
}

// addMessage answers POST /api/threads/{id}/messages with {content, role}: no model is called. It takes and frees the
// turn in one transaction, and waits for it as a chat request does.
func (g *Gateway) addMessage(x *request) {
	thread := id.Thread(x.param("id"))
	m, err := x.newMessage()
	if err != nil {
		x.fail(err)
		return
	}
	e := &exchange{caller: x.caller, named: thread}
	if g.once(x, e, func() error {
		return g.inTurn(x, thread, func() (calls.Result, error) { return g.tryAdd(x, e, thread, &m) })
	}) {
		m.Call = x.id
		x.json(201, added(&m, thread))
	}
}

// added is what the client is told of a message that was added to a thread.
func added(m *threads.Message, thread id.Thread) any {
	return map[string]any{
		"message_id": id.Message(m.Call, m.Seq), "thread_id": thread, "sequence": m.Seq, "created_at": m.CreatedAt.UTC(),
	}
}

// inTurn runs try, which takes and frees the thread's turn in one transaction, when this process's requests before it have
// had theirs, and again while somebody else has it.
func (g *Gateway) inTurn(x *request, thread id.Thread, try func() (calls.Result, error)) error {
	end := time.Now().Add(g.opts.TurnWait)
	leave, ok := g.turns.enter(x.ctx, x.caller.Org, thread, g.opts.TurnWait)
	if !ok {
		return locked(x.ctx, thread)
	}
	defer leave()
	return g.await(x.ctx, thread, end, try)
}

// atOnce commits a call that is over when it is committed: what in names is done to a thread whose newest message is head,
// nil if it has none.
func (g *Gateway) atOnce(x *request, e *exchange, kind string, head *threads.Message, in *threads.Input, more ...func(*db.Unit)) (calls.Result, error) {
	in.Org, in.Call, in.User, in.PrevSeq, in.PrevChain = x.caller.Org, x.id, x.caller.User, -1, []byte{}
	if head != nil {
		in.PrevSeq, in.PrevChain = head.Seq, head.Chain
	}
	opening := &calls.Opening{
		Org: x.caller.Org, ID: x.id, Key: x.caller.Key, User: x.caller.User, Team: x.caller.Team, Thread: in.Thread, Owner: g.opts.Owner,
		FirstSeq: in.PrevSeq + 1, NIn: len(in.Messages), AtOnce: true, Claim: e.claim, BodyHash: e.hash[:], Facts: calls.Facts{Kind: kind},
	}
	u := &db.Unit{Org: x.caller.Org}
	g.opts.Calls.Open(u, opening)
	g.opts.Threads.Append(u, in)
	for _, add := range more {
		add(u)
	}
	err := g.opts.Store.Commit(x.ctx, u)
	return opening.Result, err
}

func (g *Gateway) tryAdd(x *request, e *exchange, thread id.Thread, m *threads.Message) (calls.Result, error) {
	if _, err := g.visible(x, thread); err != nil {
		return 0, err
	}
	head, err := g.opts.Threads.Head(x.ctx, x.caller.Org, thread)
	if err != nil {
		return 0, err
	}
	m.After(head)
	result, err := g.atOnce(x, e, kindMessage, head, &threads.Input{Thread: thread, Messages: []threads.Message{*m}})
	if err == nil && result == calls.Won {
		m.CreatedAt = g.storedAt(x, thread, m.Seq)
	}
	return result, err
}

// storedAt is the time the store gave a message that was just added, which is what every reader sees. It is the newest
// one, unless another process was quicker to add the next.
func (g *Gateway) storedAt(x *request, thread id.Thread, seq int) time.Time {
	if m, err := g.opts.Threads.Head(x.ctx, x.caller.Org, thread); err == nil && m != nil && m.Seq == seq {
		return m.CreatedAt
	}
	if p, err := g.opts.Threads.Page(x.ctx, x.caller.Org, thread, x.viewer(), seq-1, 1); err == nil && len(p.Messages) == 1 {
		return p.Messages[0].CreatedAt
	}
	return time.Now() // it is added, whatever cannot be read now
}

// newMessage reads the body of addMessage. role is user unless it says otherwise; content is text or parts.
func (x *request) newMessage() (threads.Message, error) {
	f := x.fields("content", "role")
	role := or(f.text("role"))
	if f.err != nil {
		return threads.Message{}, f.err
	}
	if role == "" {
		role = "user"
	}
	switch role {
	case "user", "assistant", "system", "developer":
	default:
		return threads.Message{}, fault.New(fault.Invalid, "role is user, assistant, system or developer").WithParam("role")
	}
	content := f.members["content"]
	if len(content) == 0 || content[0] != '"' && content[0] != '[' {
		return threads.Message{}, fault.New(fault.Invalid, "content is a string or a list of parts").WithParam("content")
	}
	for _, part := range gjson.ParseBytes(content).Array() { // a string is a list of itself
		if content[0] == '[' && (!part.IsObject() || part.Get("type").Type != gjson.String) {
			return threads.Message{}, fault.New(fault.Invalid, "a part of content is an object with a type").WithParam("content")
		}
	}
	raw := append([]byte(`{"role":"`+role+`","content":`), content...)
	raw = append(raw, '}')
	if _, _, err := openai.Canon(raw); err != nil {
		return threads.Message{}, err
	}
	return threads.Message{Role: role, Raw: raw, Status: threads.Complete}, nil
}
