package gateway

import (
	"threadhub/openai"
	routing "threadhub/router"
	"threadhub/threads"
	"threadhub/upstreams"
)

// shed adds to edits what takes out of the answers that a client sends back what their provider would refuse in them: only
// other providers' answers have it. What of them is not told the client is warned of, or it is refused.
func (g *Gateway) shed(e *exchange, edits *openai.Edits) (warnings []string, err error) {
	up, ok := g.opts.Upstreams[e.target.Provider].(upstreams.Strict)
	if !ok || !e.req.HasExtras {
		return nil, nil
	}
	var sealed map[int]bool
	if up.Parts() == nil {
		if sealed, err = g.sealedByOthers(e); err != nil {
			return nil, err
		}
	}
	l := upstreams.Losses{Policy: e.unsupported}
	for _, name := range e.req.Shed(edits, func(at int, name string, v []byte) bool {
		return up.Takes(e.target.Model, name, v) && !(sealed[at] && name == "reasoning_details")
	}) {
		if err := l.Hint("messages."+name, "other_model"); err != nil {
			return nil, err
		}
	}
	return l.Warnings, nil
}

// sealedByOthers are those of the request's messages, by their places, of which the thread knows that they are answers of
// another family of models than the one that is asked: who is sent them as they are may refuse what is signed in them.
func (g *Gateway) sealedByOthers(e *exchange) (map[int]bool, error) {
	t, ok := g.opts.Upstreams[e.target.Provider].(upstreams.Translator)
	if e.turn == nil || !ok || t.Translates() {
		return nil, nil
	}
	stored, err := e.turn.Stored()
	if err != nil {
		return nil, err
	}
	others := map[int]bool{}
	for at, m := range stored {
		others[at] = m.Meta != nil && !g.own(m, e.target)
	}
	return others, nil
}

// own reports whether m is a whole answer of the family of models that t is of.
func (g *Gateway) own(m *threads.Message, t routing.Target) bool {
	return m.Status == threads.Complete && g.kinship(m, t) == openai.Own
}
