package gateway

import (
	"context"

	"threadhub/internal/id"
	routing "threadhub/router"
	"threadhub/upstreams"
)

// Signatures remembers with what models signed their calls of functions, for clients that do not send it back. Nothing of
// it waits for long. maker is who understands a signature; a call goes by its upstreams.CallName.
type Signatures interface {
	Keep(org id.Org, maker string, signed map[string]string)
	Find(ctx context.Context, org id.Org, maker string, calls []string) map[string]string
}

// maker names who understands signatures of target's: its provider and the family of its models; "" if its models sign
// nothing.
func (g *Gateway) maker(t routing.Target) string {
	f, ok := g.opts.Upstreams[t.Provider].(upstreams.Families)
	if !ok {
		return ""
	}
	family := f.Family(t.Model)
	if family == "" {
		return ""
	}
	return t.Provider + "/" + family
}

// sign finds signatures that the translation lacks. What is in a thread it does not lack: restore has put it back. It asks
// nobody where nothing is lacking.
func (g *Gateway) sign(ctx context.Context, e *exchange) map[string]string {
	lacking := e.ask.Signatures.Unknown
	if len(lacking) == 0 || g.opts.Signatures == nil {
		return nil
	}
	return g.opts.Signatures.Find(ctx, e.caller.Org, g.maker(e.target), lacking)
}

// remember keeps the signatures of an answer, all its choices.
func (g *Gateway) remember(e *exchange, end ending) {
	if g.opts.Signatures == nil || g.maker(e.target) == "" {
		return
	}
	for _, message := range append([][]byte{end.message}, end.others...) {
		if signed := upstreams.Signed(message); signed != nil {
			g.opts.Signatures.Keep(e.caller.Org, g.maker(e.target), signed)
		}
	}
}
