package gateway

import (
	"context"

	"threadhub/internal/fault"
	"threadhub/orgs"
	routing "threadhub/router"
)

// Watcher looks after callers whose requests run for long. It calls gone, once, when the caller may go on no longer:
// when its key is good no more (fault.Unauthorized, key_revoked), or with what still says of the caller as it is by then.
// Until stop.
type Watcher interface {
	Watch(caller orgs.Caller, still func(orgs.Caller) error, gone func(error)) (stop func())
}

// guard ends the request's context, with the reason, when what let it in and to the target holds no longer. It lasts as long as the
// request is in flight, its stream too, and costs no goroutine.
func (g *Gateway) guard(x *request, target routing.Target) {
	if g.opts.Watcher == nil {
		return
	}
	ctx, cancel := context.WithCancelCause(x.ctx)
	needs := x.route.Needs
	still := func(c orgs.Caller) error {
		if err := suffices(c, needs); err != nil {
			return err
		}
		return inScope(c, target)
	}
	stop := g.opts.Watcher.Watch(x.caller, still, cancel)
	context.AfterFunc(x.ctx, stop)
	x.ctx = ctx
}

// suffices reports, as fault.Denied, a role that may not do what a route needs.
func suffices(caller orgs.Caller, needs Permission) error {
	if may(caller.Role, needs) {
		return mayWrite(caller, needs)
	}
	return fault.New(fault.Denied, "the role %q may not do this; it needs the role %s", caller.Role, needs.roles()).
		WithCode("permission_denied").NoRetry()
}
