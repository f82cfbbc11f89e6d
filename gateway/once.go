package gateway

import (
	"threadhub/calls"
	"threadhub/internal/db"
)

// What an admin makes is no call: it is written by the room of orgs, with its line in the audit log. Under an
// Idempotency-Key a call that is over is written down in the same transaction, with the answer, which may hold a new API key
// and is therefore sealed.

// keeper adds to the transaction that makes something what the client will be told of it.
type keeper func(tx db.Tx, shape any) error

// makeOnce answers a request with what do makes, unless that was made before. do runs keep in the transaction that makes it.
func (g *Gateway) makeOnce(x *request, do func(keep keeper) error) {
	e := &exchange{caller: x.caller}
	var body []byte
	keep := func(tx db.Tx, shape any) (err error) {
		if body, err = encoded(shape); err != nil || e.claim == "" {
			return err
		}
		sealed, err := g.opts.People.SealIn(x.ctx, tx, x.caller.Org, string(x.id), body)
		if err != nil {
			return err
		}
		won, err := g.opts.Calls.Past(x.ctx, tx, &calls.Opening{
			Org: x.caller.Org, ID: x.id, Key: x.caller.Key, User: x.caller.User, Team: x.caller.Team, Owner: g.opts.Owner,
			Claim: e.claim, BodyHash: e.hash[:], Facts: calls.Facts{Kind: kindAdmin, Status: 201},
		}, &calls.Replay{Org: x.caller.Org, Call: x.id, Body: sealed})
		if err == nil && !won {
			err = errRepeats
		}
		return err
	}
	if g.once(x, e, func() error { return do(keep) }) {
		x.write(201, body)
	}
}

// replaySealed answers with what an admin was told.
func (g *Gateway) replaySealed(x *request, r *calls.Replay) {
	body, err := g.opts.People.OpenSealed(x.ctx, r.Org, string(r.Call), r.Body)
	if err == nil && body == nil { // the org's data key has been rotated
		err = errNotKept
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.replayed(nil)
	x.write(201, body)
}
