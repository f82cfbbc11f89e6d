package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/openai"
	routing "threadhub/router"
	"threadhub/upstreams"
)

// forward answers POST /api/threads/{id}/forward with {provider, model?, reason?, content?, max_tokens?}: the thread's next
// answer, from the provider that is named, with the reason kept beside it. With content that is said first; without it
// the provider is asked what was said last, also when that has an answer already: then it is a second one.
func (g *Gateway) forward(x *request) {
	g.walk(x, way{
		parse: (*Gateway).parseForward, load: (*Gateway).loadForward, route: (*Gateway).routeForward, admit: (*Gateway).admit,
		translate: (*Gateway).translate, ask: upstreams.Upstream.Chat, whole: (*Gateway).wholeForward,
	})
}

const maxReason = 512 // bytes

// routeOfForward is the id of the route of such an answer.
const routeOfForward = "forward"

func (g *Gateway) parseForward(x *request, e *exchange) error {
	chaos.Point("parse")
	e.named = id.Thread(x.param("id"))
	if _, err := g.visible(x, e.named); err != nil { // before the body: what is foreign is not there, whatever is sent to it
		return err
	}
	f := x.fields("provider", "model", "reason", "content", "max_tokens")
	provider, model := or(f.text("provider")), or(f.short("model", maxModel))
	e.why = or(f.short("reason", maxReason))
	if f.err != nil {
		return f.err
	}
	if !slices.Contains(providers, provider) {
		return fault.New(fault.Invalid, "provider is one of %s", strings.Join(providers, ", ")).WithCode("invalid_value").WithParam("provider")
	}
	if model == "" {
		t, ok := g.opts.Router.Default(provider)
		if !ok {
			return fault.New(fault.Invalid, "name a model: there is no default one for %s", provider).WithCode("model_not_found").WithParam("model")
		}
		model = t.Model
	}
	if e.why == "" {
		e.why = "forwarded to " + provider
	}
	e.again = !f.given("content")
	content := f.members["content"]
	if e.again {
		content = []byte(`""`) // until load knows what was said last
	}
	var limit json.RawMessage
	if f.given("max_tokens") {
		limit = f.members["max_tokens"]
	}
	var err error
	if e.req, err = forwardRequest(provider+"/"+model, []byte(`{"role":"user","content":`+string(content)+`}`), limit); err != nil {
		return err
	}
	return x.claims(e)
}

// forwardRequest is the request that asks model for an answer to one message, of up to maxTokens if there are any.
func forwardRequest(model string, message []byte, maxTokens json.RawMessage) (*openai.ChatRequest, error) {
	name, _ := json.Marshal(model)
	body := `{"model":` + string(name) + `,"messages":[` + string(message) + `]`
	if maxTokens != nil {
		body += `,"max_completion_tokens":` + string(maxTokens)
	}
	return openai.ParseChat([]byte(body + "}"))
}

func (g *Gateway) loadForward(ctx context.Context, e *exchange) error {
	if !e.again {
		return g.load(ctx, e)
	}
	chaos.Point("load")
	turn, t, said, err := g.opts.Threads.Again(ctx, e.caller.Org, e.named, e.viewer())
	if err != nil {
		return err
	}
	e.into(turn, t)
	var limit json.RawMessage
	if e.req.MaxTokens > 0 {
		limit = strconv.AppendInt(nil, e.req.MaxTokens, 10)
	}
	e.req, err = forwardRequest(e.req.Model, said.Raw, limit)
	return err
}

func (g *Gateway) routeForward(ctx context.Context, e *exchange) error {
	if err := g.route(ctx, e); err != nil {
		return err
	}
	e.route = routing.Route{ID: routeOfForward, Reason: e.why}
	return nil
}

// wholeForward answers with the message as the thread has it.
func (g *Gateway) wholeForward(x *request, e *exchange) {
	if _, err := g.finish(x, e, nil); err != nil {
		x.fail(err)
		return
	}
	m := e.said
	m.Call, m.Seq = e.id, e.turn.NewestSeq()+1
	m.CreatedAt = g.storedAt(x, e.thread, m.Seq)
	shape := messageShape(&m, e.thread)
	g.given(e, shape)
	x.write(200, shape)
}
