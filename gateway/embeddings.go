package gateway

import (
	"context"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/openai"
	routing "threadhub/router"
	"threadhub/upstreams"
)

// embeddings answers POST /v1/embeddings, by the same steps as a chat without a thread.
func (g *Gateway) embeddings(x *request) {
	g.walk(x, way{
		parse: (*Gateway).parseEmbeddings, load: (*Gateway).load, route: (*Gateway).routeEmbeddings, admit: (*Gateway).admitEmbeddings,
		translate: (*Gateway).translateEmbeddings, ask: embed, whole: (*Gateway).wholeEmbeddings,
	})
}

// parseEmbeddings reads the request. It names no thread, whatever it says: there are no messages in it. Clients send
// X-Thread-Id with all they ask for, as it is a setting of theirs, so it is no error here (docs/decisions/0014).
func (g *Gateway) parseEmbeddings(x *request, e *exchange) (err error) {
	chaos.Point("parse")
	if e.embed, err = openai.ParseEmbeddings(x.body()); err != nil {
		return err
	}
	if err := plausibleModel(e.embed.Model); err != nil {
		return err
	}
	e.threadless = e.embed.Thread != "" || x.header("X-Thread-Id") != ""
	return x.claims(e)
}

// routeEmbeddings is route for a name that means one model. The rules behind auto choose models that talk.
func (g *Gateway) routeEmbeddings(ctx context.Context, e *exchange) error {
	chaos.Point("route")
	if e.embed.Model == routing.Auto {
		return fault.New(fault.Invalid, "auto chooses among models that chat: name one that embeds").WithCode("invalid_value").WithParam("model")
	}
	return g.routeTo(ctx, e, routing.Input{Model: e.embed.Model, Org: string(e.caller.Org)})
}

// admitEmbeddings reserves the worst case.
func (g *Gateway) admitEmbeddings(ctx context.Context, e *exchange) error {
	chaos.Point("admit")
	return g.reserve(ctx, e)
}

// translateEmbeddings makes the provider's body from the client's bytes, and unseals the key that pays.
func (g *Gateway) translateEmbeddings(ctx context.Context, e *exchange) (err error) {
	chaos.Point("translate")
	up, ok := g.opts.Upstreams[e.target.Provider].(upstreams.Embedder)
	if !ok {
		return fault.New(fault.Invalid, "%s has no embeddings", e.target.Provider).WithCode("invalid_value").WithParam("model")
	}
	e.body, e.size = e.embed.Splice(e.target.Model), e.embed.InputBytes()
	e.ask = &upstreams.Request{Body: e.body, Model: e.target.Model, Inputs: e.embed.Inputs, Unsupported: e.unsupported}
	if err := up.TranslateEmbeddings(e.ask); err != nil {
		return err
	}
	if e.threadless {
		l := upstreams.Losses{Policy: e.unsupported, Warnings: e.ask.Warnings}
		if err := l.Hint("thread_id", "embeddings"); err != nil {
			return err
		}
		e.ask.Warnings = l.Warnings
	}
	e.key, err = g.opts.Purse.NamedKey(ctx, e.caller.Org, e.target.Provider, e.keyName())
	return err
}

// embed asks an upstream that translateEmbeddings has found to be one that embeds.
func embed(up upstreams.Upstream, ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	return up.(upstreams.Embedder).Embed(ctx, r)
}

// wholeEmbeddings records the embeddings and gives them to the client. Where their provider does not count, the client
// sees what we estimate.
func (g *Gateway) wholeEmbeddings(x *request, e *exchange) {
	end := g.arrivedWhole(x, e)
	a, err := openai.ParseEmbeddingsAnswer(e.answer.Body, e.embed.Inputs)
	if a != nil {
		end.usage, end.served = a.Usage, a.Model
		end.given = a.WithUsage(g.charge(e, a.Usage, 0).Prompt())
	}
	if err := g.conclude(x, e, end, err); err != nil {
		x.fail(err)
		return
	}
	x.rc.SetContentType("application/json")
	x.rc.Response.SetBodyRaw(end.given)
	g.given(e, end.given)
}
