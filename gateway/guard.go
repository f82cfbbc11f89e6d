package gateway

import (
	"context"

	"threadhub/internal/fault"
	"threadhub/orgs"
)

// Watcher looks after callers whose requests run for long. It calls gone, once, when the caller may go on no longer:
// when its key is good no more (fault.Unauthorized, key_revoked), or with what still says of the caller as it is by then.
// Until stop.
type Watcher interface {
	Watch(caller orgs.Caller, still func(orgs.Caller) error, gone func(error)) (stop func())
}

// guard ends the request's context, with the reason, when what let it in holds no longer, or still, asked of the caller as
// it is by then, says so. It lasts as long as the request is in flight, its stream too, or until end, and costs no goroutine.
func (g *Gateway) guard(x *request, still func(orgs.Caller) error) (end func()) {
	if g.opts.Watcher == nil {
		return func() {}
	}
	before := x.ctx
	ctx, cancel := context.WithCancelCause(before)
	route := x.route
	stop := g.opts.Watcher.Watch(x.caller, func(c orgs.Caller) error {
		if err := suffices(c, route); err != nil {
			return err
		}
		return still(c)
	}, cancel)
	context.AfterFunc(ctx, g.opts.Panics.Wrap("watcher", stop))
	x.ctx = ctx
	return func() {
		x.ctx = before
		cancel(nil)
	}
}

// suffices reports, as fault.Denied, a role that may not do what a route needs, and a key that is good for less than its
// role.
func suffices(caller orgs.Caller, route *Route) error {
	needs := route.Needs
	if !may(caller.Role, needs) {
		return fault.New(fault.Denied, "the role %q may not do this; it needs the role %s", caller.Role, needs.roles()).
			WithCode("permission_denied").NoRetry()
	}
	if err := mayWrite(caller, needs); err != nil {
		return err
	}
	if needs == Admin && route.Method != "GET" {
		return broad(caller)
	}
	return nil
}

// broad refuses a key that is good for less than everything.
func broad(caller orgs.Caller) error {
	if !caller.Narrow() {
		return nil
	}
	return restricted("is good for less than everything: nothing can be administered with it")
}
