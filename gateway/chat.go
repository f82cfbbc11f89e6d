package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/seedbug"
	"threadhub/openai"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/threads"
	"threadhub/upstreams"
)

// way is how one route walks the nine steps where routes differ.
type way struct {
	parse     func(*Gateway, *request, *exchange) error
	load      func(*Gateway, context.Context, *exchange) error
	route     func(*Gateway, context.Context, *exchange) error
	admit     func(*Gateway, context.Context, *exchange) error
	translate func(*Gateway, context.Context, *exchange) error
	ask       func(upstreams.Upstream, context.Context, *upstreams.Request) (*upstreams.Answer, error) // of call
	whole     func(*Gateway, *request, *exchange)                                                      // relay and record, of an answer in one piece
}

// chat answers POST /v1/chat/completions.
func (g *Gateway) chat(x *request) {
	g.walk(x, way{
		parse: (*Gateway).parse, load: (*Gateway).load, route: (*Gateway).route, admit: (*Gateway).admit,
		translate: (*Gateway).translate, ask: upstreams.Upstream.Chat, whole: (*Gateway).whole,
	})
}

// walk is the nine steps, on one screen. Authenticate is done when it is called.
func (g *Gateway) walk(x *request, w way) {
	e := &exchange{id: x.id, arrived: x.arrived, caller: x.caller, leave: func() {}}
	streaming := false
	defer func() {
		if !streaming {
			e.leave()
		}
	}()
	defer func() {
		if v := recover(); v != nil {
			if e.opening != nil && e.opening.Result == calls.Won {
				g.abandon(e, "internal_error", nil)
			}
			panic(v) // the router answers
		}
	}()
	err := w.parse(g, x, e)
	if err != nil {
		x.fail(err)
		return
	}
	if x.load, err = g.loads.begin(x.caller.Org, e.streams()); err != nil {
		x.fail(err)
		return
	}
	x.load.holds(len(e.sent().Raw))
	e.gone = func() bool { return departed(x.conn()) }
	e.attend = func() (context.Context, func()) {
		watch := g.watch(x, nil)
		return x.ctx, watch.stop
	}
	if done := g.begun(x, e, w); done { // limit, load, route, fit, admit, translate, open
		e.grant.Return()
		return
	}
	g.countRoute(e)
	err = g.attempts(x, e, w)
	x.note("provider", e.target.Provider)
	x.note("stream", e.streams())
	x.note("attempts", e.n()+1)
	switch {
	case err != nil:
		g.openedHeaders(x, e)
		x.upstreamHeaders(upstreams.FailureOf(err).Header)
		x.fail(g.failed(e, err))
	case e.streams():
		g.relay(x, e)
		streaming = true
	default:
		w.whole(g, x, e)
	}
}

// begun opens the call, unless it has been made before: done says that the request is answered.
func (g *Gateway) begun(x *request, e *exchange, w way) (done bool) {
	for {
		if g.repeat(x, e) {
			return true
		}
		err := g.limit(x, e)
		if err == nil {
			err = g.take(x.ctx, e, w)
		}
		x.tellLimits(e.rooms)
		if err == nil {
			break
		}
		e.leave()
		if errors.Is(err, errRepeats) {
			continue
		}
		if e.claim != "" && fault.Is(err, fault.Conflict) && g.repeat(x, e) { // what it met may be the first of its kind
			return true
		}
		x.fail(err)
		return true
	}
	e.files = nil
	g.keepTape(e)
	return false
}

// maxModel bounds a model's name; the longest in any catalogue is under 100 bytes.
const maxModel = 256

// plausibleModel refuses what cannot be a model's name.
func plausibleModel(name string) error {
	if len(name) > maxModel || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
		return fault.New(fault.Invalid, "model must be at most %d printable characters", maxModel).WithParam("model")
	}
	return nil
}

func (g *Gateway) parse(x *request, e *exchange) (err error) {
	chaos.Point("parse")
	if seedbug.On("log-content") {
		x.note("question", string(x.body()))
	}
	if e.req, err = openai.ParseChat(x.body()); err != nil {
		return err
	}
	if err := plausibleModel(e.req.Model); err != nil {
		return err
	}
	header, err := x.only("X-Thread-Id")
	if err != nil {
		return err
	}
	if e.named, err = threadOf(header, e.req.Thread); err != nil {
		return err
	}
	if named := string(e.named); named != "" && (header == named || e.req.Thread == named) { // none that is to be made; refusals tell of it, too
		x.rc.Response.Header.Set("X-Thread-Id", string(e.named))
	}
	x.about(e)
	if e.fork, err = x.forks(); err != nil {
		return err
	}
	if err := x.claims(e); err != nil {
		return err
	}
	if e.spare, err = x.spares(); err != nil {
		return err
	}
	x.retries(e)
	return nil
}

// forks reads what the client wants of a request that differs inside the thread.
func (x *request) forks() (bool, error) {
	header, err := x.only("X-Thread-On-Diverge")
	switch {
	case err != nil:
		return false, err
	case header == "fork":
		return true, nil
	case header == "" || header == "refuse":
		return false, nil
	}
	return false, fault.New(fault.Invalid, "X-Thread-On-Diverge is \"fork\" or \"refuse\"").WithParam("X-Thread-On-Diverge")
}

// threadOf reconciles the two places a thread's id may be in. "new" asks for one of ours.
func threadOf(header, body string) (id.Thread, error) {
	if header != "" && body != "" && header != body {
		return "", fault.New(fault.Invalid, "the header X-Thread-Id and the body name different threads; send one").WithParam("thread_id").WithCode("thread_id_conflict")
	}
	if header == "" {
		header = body
	}
	switch {
	case header == "":
		return "", nil
	case header == "new":
		return id.NewThread(), nil
	case !id.ValidThread(header):
		return "", fault.New(fault.Invalid, "a thread id is 1 to %d of A-Z a-z 0-9 . _ : -, or \"new\"", id.MaxThread).WithParam("X-Thread-Id").WithCode("invalid_thread_id")
	}
	return id.Thread(header), nil
}

// staleTries is how often a request whose thread moved while it was read is read again.
const staleTries = 3

// take walks from load to open, in the order this process's requests for the thread came, and again where it must.
func (g *Gateway) take(ctx context.Context, e *exchange, w way) error {
	end := time.Now().Add(g.opts.TurnWait)
	if e.named != "" {
		leave, ok := g.turns.enter(ctx, e.caller.Org, e.named, g.opts.TurnWait)
		if !ok {
			return locked(ctx, e.named)
		}
		e.leave = leave
	}
	return g.await(ctx, e.named, end, func() (calls.Result, error) {
		if missed, err := g.missed(ctx, e); err != nil || missed {
			return calls.Repeats, err
		}
		err := g.steps(ctx, e, w.load, w.route, (*Gateway).fit, (*Gateway).limitTarget, w.admit, w.translate, (*Gateway).open)
		if g.lowered(e, err) {
			err = g.steps(ctx, e, w.admit, w.translate, (*Gateway).open)
		}
		if err != nil {
			return 0, err
		}
		return e.opening.Result, nil
	})
}

func (g *Gateway) steps(ctx context.Context, e *exchange, steps ...func(*Gateway, context.Context, *exchange) error) error {
	for _, step := range steps {
		if err := step(g, ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// await tries to open a call until it is won. What found its thread moved on is tried again at once, staleTries times at
// most; what found the turn taken waits for it, until end. Another process's turn cannot be waited for but by asking
// again, in growing steps; no connection is held meanwhile.
func (g *Gateway) await(ctx context.Context, thread id.Thread, end time.Time, try func() (calls.Result, error)) error {
	wait := 50 * time.Millisecond
	for stale := 0; stale < staleTries; {
		result, err := try()
		if thread != "" && errors.Is(err, db.ErrLocked) { // whoever takes or frees the turn does not come to an end
			return locked(ctx, thread)
		}
		if err != nil {
			return err
		}
		switch result {
		case calls.Won:
			return nil
		case calls.Repeats:
			return errRepeats
		case calls.Stale:
			stale++
			continue
		}
		if time.Now().Add(wait).After(end) {
			break
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 500*time.Millisecond)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return locked(ctx, thread)
}

func locked(ctx context.Context, thread id.Thread) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault.New(fault.Conflict, "another request is adding to thread %q; try again in a moment", thread).
		WithCode("thread_locked").After(time.Second)
}

func (g *Gateway) load(ctx context.Context, e *exchange) error {
	chaos.Point("load")
	if e.named == "" {
		return nil
	}
	turn, t, err := g.opts.Threads.Turn(ctx, e.caller.Org, e.named, e.viewer(), e.req.Messages, e.fork)
	if err != nil {
		return err
	}
	e.into(turn, t)
	return nil
}

// into sets what the turn is in: the thread that was named, or one that the turn forks. t is nil for a thread that is made.
func (e *exchange) into(turn *threads.Turn, t *threads.Thread) {
	e.turn, e.thread, e.policy = turn, e.named, threads.Policy(e.caller.WindowPolicy)
	if t != nil && t.WindowPolicy != "" {
		e.policy = t.WindowPolicy
	}
	if turn.Fork != nil {
		e.thread = id.NewThread()
	}
}

func (g *Gateway) route(ctx context.Context, e *exchange) error {
	chaos.Point("route")
	in, err := e.question(time.Now())
	if err != nil {
		return err
	}
	return g.routeTo(ctx, e, in)
}

// routeTo sets what a question leads to: of the targets that the caller's key is good for, the first that may be asked now.
func (g *Gateway) routeTo(ctx context.Context, e *exchange, in routing.Input) error {
	c, err := g.choose(ctx, e.caller, in)
	if err != nil {
		return err
	}
	e.target, e.route = inReach(e.caller, c.Targets), c.Route
	e.unsupported = onUnsupported(e.caller, c)
	if err := inScope(e.caller, e.target); err != nil {
		return err
	}
	if e.embed != nil {
		c.Targets = []routing.Target{e.target} // another model's embeddings are of no use beside these
	}
	if e.places, err = g.places(ctx, e.caller, c.Targets); err != nil {
		return err
	}
	if len(e.places) == 0 { // the last key has gone this moment
		_, err := g.opts.Purse.NamedKey(ctx, e.caller.Org, e.target.Provider, "")
		return err
	}
	return g.aimFirst(e)
}

// onUnsupported is what the key says, and where it says nothing, the rule: whoever has the key knows the program that
// asks, and a rule is for all of them.
func onUnsupported(caller orgs.Caller, c routing.Choice) upstreams.Policy {
	return upstreams.Policy(cmp.Or(caller.OnUnsupported, c.OnUnsupported))
}

// fit is the second half of load, which needs to know the model: what of the thread goes before the request, or what of a
// request that brings it all is left out, so that the model's window holds it.
func (g *Gateway) fit(_ context.Context, e *exchange) (err error) {
	if e.turn == nil {
		return nil
	}
	if err := e.turn.Fit(e.req.Messages, threads.Window{Tokens: g.inputRoom(e), Policy: e.policy}); err != nil {
		return err
	}
	e.history, e.untold = g.history(e)
	return g.restore(e)
}

// restore looks at the thread's answers that the client repeats. Their provider gets them as the thread has them: with
// what only their family of models understands (signatures of thoughts, above all), which SDKs do not send back. Others
// get them without it, if the client does send it: they would refuse it. Otherwise what a client sends stands. What
// providers of the OpenAI dialect get is in shed.
func (g *Gateway) restore(e *exchange) error {
	e.instead = nil
	if t, ok := g.opts.Upstreams[e.target.Provider].(upstreams.Translator); !ok || !t.Translates() {
		return nil
	}
	stored, err := e.turn.Stored()
	if err != nil {
		return err
	}
	e.instead = map[int][]byte{}
	for at, m := range stored {
		theirs := e.req.Messages[at].Raw
		switch own := g.own(m, e.target); {
		case own && hasExtras(m.Raw) && !hasExtras(theirs):
			e.instead[at] = m.Raw
		case !own && m.Meta != nil && hasExtras(theirs):
			clean, warnings := openai.WithoutThoughts(theirs)
			e.instead[at], e.untold = clean, append(e.untold, warnings...)
		}
	}
	return nil
}

// hasExtras reports whether a message, or one of its tool calls, has an extra_content. In a text the name's quotes are
// escaped.
func hasExtras(message []byte) bool { return bytes.Contains(message, []byte(`"extra_content"`)) }

// What is kept of a window for the answer where the request does not say how long it may be: a part of it, and no more
// than most answers take.
const (
	answerPart = 8
	answerMost = 8192
)

// inputRoom is how many tokens of messages the model has room for: its window, less the answer and what the request holds
// beside messages, tools above all.
func (g *Gateway) inputRoom(e *exchange) int64 {
	model, _ := g.opts.Catalogue.Lookup(e.target.Provider, e.target.Model)
	window := model.Window
	if window == 0 {
		window = g.opts.Windows[e.target.Provider]
	}
	if window == 0 {
		return 0 // nobody knows
	}
	answer := e.req.MaxTokens
	if answer == 0 {
		answer = min(window/answerPart, answerMost)
	}
	beside := int64(len(e.req.Raw))
	for i := range e.req.Messages {
		beside -= int64(len(e.req.Messages[i].Raw))
	}
	return max(1, window-answer-beside/4)
}

// admit reserves the worst case. The bytes of what the thread adds are not known yet to the byte; what is known bounds them.
func (g *Gateway) admit(ctx context.Context, e *exchange) error {
	chaos.Point("admit")
	return g.reserve(ctx, e)
}

// requests is how many requests one answer of t may take.
func (g *Gateway) requests(t routing.Target) int {
	if up, ok := g.opts.Upstreams[t.Provider].(upstreams.Several); ok {
		return up.Requests(t.Model)
	}
	return 1
}

func threadBytes(e *exchange) (n int64) {
	if e.turn == nil {
		return 0
	}
	for _, m := range e.history {
		n += int64(len(m))
	}
	for _, m := range e.instead {
		n += int64(len(m))
	}
	return n
}

// translate makes the provider's body from the client's bytes, and unseals the key that pays.
func (g *Gateway) translate(ctx context.Context, e *exchange) (err error) {
	chaos.Point("translate")
	edits := openai.Edits{Model: e.target.Model, IncludeUsage: e.req.Stream, MaxTokens: e.atMost, NewMax: newMax(e.target.Provider)}
	if e.turn != nil {
		edits.At, edits.Drop, edits.Instead, edits.History = e.turn.At, e.turn.Drop, e.instead, e.history
	}
	warnings, err := g.shed(e, &edits)
	if err != nil {
		return err
	}
	e.body = e.req.Splice(edits)
	e.size = int64(len(e.body))
	ask := upstreams.Request{Body: e.body, Model: e.target.Model, Stream: e.req.Stream, Unsupported: e.unsupported, Warnings: warnings}
	up := g.opts.Upstreams[e.target.Provider]
	e.ask = new(ask)
	if err := up.Translate(e.ask); err != nil {
		return err
	}
	if e.key, err = g.opts.Purse.NamedKey(ctx, e.caller.Org, e.target.Provider, e.keyName()); err != nil {
		return err
	}
	ask.Signatures.Known = g.sign(ctx, e)
	if err := g.fetch(e); err != nil {
		return err
	}
	if len(ask.Signatures.Known) == 0 && len(e.files) == 0 {
		return nil
	}
	ask.Files = e.files
	e.ask = &ask // once more, with what the client's own lacked
	err = up.Translate(e.ask)
	e.ask.Files = nil // they are in the provider's body now
	return err
}

// history is what of the thread goes before the request, and warnings of what is not told of it as it was.
func (g *Gateway) history(e *exchange) (messages [][]byte, warnings []string) {
	told := make([]openai.Told, len(e.turn.History))
	took := openai.Foreign // who took the messages of clients: whoever gave the answer that follows
	for i := len(told) - 1; i >= 0; i-- {
		m := e.turn.History[i]
		told[i] = openai.Told{Raw: m.Raw, Role: m.Role, Kin: took, Cut: m.Status == threads.Incomplete}
		switch m.Role {
		case "assistant":
			took = g.kinship(m, e.target)
			told[i].Kin = took
		case "system", "developer": // they stand before all, whatever follows
			told[i].Kin = openai.Foreign
		}
	}
	var parts map[string][]string
	if s, ok := g.opts.Upstreams[e.target.Provider].(upstreams.Strict); ok {
		parts = s.Parts()
	}
	return openai.History(told, e.req.Messages, parts)
}

// kinship is who gave the answer m, as seen from the model t: whose signatures are understood the upstream tells
// (upstreams.Families). Of an answer that a client brought nobody knows who gave it.
func (g *Gateway) kinship(m *threads.Message, t routing.Target) openai.Kinship {
	if m.Meta == nil || gjson.GetBytes(m.Meta, "provider").Str != t.Provider {
		return openai.Foreign
	}
	f, ok := g.opts.Upstreams[t.Provider].(upstreams.Families)
	if ok && f.Family(gjson.GetBytes(m.Meta, "model").Str) != f.Family(t.Model) {
		return openai.Relative
	}
	return openai.Own
}

// open is the first transaction: the call, its turn and hold, attempt 0 and the new messages, durable before the provider
// is asked for anything.
func (g *Gateway) open(ctx context.Context, e *exchange) error {
	if err := g.opts.Spool.Room(); err != nil { // better no call than one that could not be recorded
		return err
	}
	if e.gone() { // while this waited; who comes back for its answer may have been served already
		return errClientGone
	}
	e.opening = &calls.Opening{
		Org: e.caller.Org, ID: e.id, Key: e.caller.Key, User: e.caller.User, Team: e.caller.Team, Thread: e.thread,
		Owner: g.opts.Owner, HoldPico: int64(e.hold), Claim: e.claim, BodyHash: e.hash[:], Finger: e.finger(),
		Provider: e.target.Provider, Model: e.target.Model, KeyName: e.keyName(),
		Facts: calls.Facts{
			Kind: e.kind(), ModelRequested: e.sent().Model, Provider: e.target.Provider, Model: e.target.Model,
			Route: e.route.ID, Why: e.route.Reason, Stream: e.streams(), InputBytes: e.size, Warnings: e.warnings(),
		},
	}
	u := &db.Unit{Org: e.caller.Org}
	if e.turn != nil {
		e.opening.FirstSeq, e.opening.NIn = e.turn.FirstSeq(), len(e.turn.New)
		e.opening.Facts.ThreadMode, e.opening.Facts.ThreadOmitted = string(e.turn.Mode), e.turn.Omitted
		g.opts.Threads.Append(u, &threads.Input{
			Org: e.caller.Org, Thread: e.thread, Call: e.id, User: e.caller.User, Create: e.turn.Create, Fork: e.turn.Fork,
			PrevSeq: e.turn.PrevSeq, PrevChain: e.turn.PrevChain, Messages: e.turn.New,
		})
	}
	g.opts.Calls.Open(u, e.opening)
	g.hold(u, e)
	if seedbug.On("open-late") {
		go g.opts.Panics.Run("seedbug", func() { _ = g.opts.Store.Commit(context.WithoutCancel(ctx), u) })
		e.opening.Result = calls.Won
		return nil
	}
	err := g.opts.Store.Commit(ctx, u)
	if err == nil && e.crowded() {
		u.Alone = true
		err = g.opts.Store.Commit(ctx, u)
	}
	chaos.Point("open")
	if fault.HasCode(err, "outcome_unknown") {
		g.abandon(e, "outcome_unknown", u) // it may be open; nobody but us would ever close it
		e.opening = nil
	}
	if err != nil {
		return err
	}
	return g.afforded(e)
}

// call asks the provider.
func (g *Gateway) call(x *request, e *exchange, w way) (err error) {
	chaos.Point("call")
	target := e.target
	unguard := g.guard(x, func(c orgs.Caller) error { return inScope(c, target) })
	up := g.opts.Upstreams[e.target.Provider]
	e.asked = time.Now()
	if e.since.IsZero() {
		e.since = e.asked
	}
	e.ask.Key, e.ask.Attempt, e.ask.Header = e.key, e.attempt(e.n()), x.forward(up.Forward())
	e.ask.Since, e.ask.Fresh = e.since, e.fresh
	if seedbug.On("forward-key") {
		e.ask.Key = seal.NewSecret(strings.TrimPrefix(x.header("Authorization"), "Bearer "))
	}
	if seedbug.On("ask-twice") {
		_, _ = w.ask(up, x.ctx, e.ask)
	}
	e.answer, err = w.ask(up, x.ctx, e.ask)
	if err == nil {
		err = g.waitFirst(e)
	}
	if err != nil {
		unguard()
		return err // the context's cause, if that is what ended it
	}
	e.began = time.Now()
	return nil
}

// usageIn reads the usage of an answer that carries an error; nil if it has none, or none that can be.
func usageIn(body []byte) *openai.Usage {
	if body == nil {
		return nil
	}
	u, err := openai.ParseUsage([]byte(gjson.GetBytes(body, "usage").Raw))
	if err != nil {
		return nil
	}
	return u
}

// failedTry is the ending of an attempt that brought nothing.
func failedTry(err error) ending {
	f, failure := fault.From(err), upstreams.FailureOf(err)
	return ending{
		outcome: calls.Failed, state: calls.FailedTry, code: answerFor(f).code, err: f, status: failure.Status, upstreamID: failure.UpstreamID,
		// An answer of which only the beginning came was worked for. One that carries an error instead was not.
		maybeBilled: failure.MaybeBilled || failure.Sent && failure.Status < 400 && failure.Body == nil, usage: usageIn(failure.Body),
	}
}

// failed records a call that brought nothing and returns what the client is told.
func (g *Gateway) failed(e *exchange, err error) error {
	defer g.tapes.End(e.tape, false)
	if rerr := g.record(e, failedTry(err)); rerr != nil {
		g.opts.Log.Error("a failed call could not be recorded yet", "request_id", e.id, "error", rerr)
	}
	return err
}
