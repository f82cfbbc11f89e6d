package gateway

import (
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// limitShape is a limit as the API shows it. A number that is null is no limit, a model that is null all models together.
type limitShape struct {
	Org       id.Org          `json:"org_id"`
	Scope     orgs.LimitScope `json:"scope"`
	ID        string          `json:"id"`
	Model     *string         `json:"model"`
	Requests  *int64          `json:"requests_per_minute"`
	Tokens    *int64          `json:"tokens_per_minute"`
	Streams   *int64          `json:"concurrent_streams"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
}

func shapeOfLimit(org id.Org, l orgs.LimitInfo) limitShape {
	return limitShape{
		Org: org, Scope: l.Scope, ID: l.ID, Model: orNull(l.Model), Requests: orNull(l.Requests), Tokens: orNull(l.Tokens), Streams: orNull(l.Streams),
		CreatedAt: l.CreatedAt.UTC(), UpdatedAt: l.UpdatedAt.UTC(),
	}
}

// putLimit answers PUT /api/limits with {scope, id?, model?, requests_per_minute?, tokens_per_minute?, concurrent_streams?}, in
// place of the limit that there was for the same scope and model. Without an id the org's own is meant.
func (g *Gateway) putLimit(x *request) {
	f := x.fields("scope", "id", "model", "requests_per_minute", "tokens_per_minute", "concurrent_streams")
	l := orgs.Limit{
		Scope: orgs.LimitScope(or(f.text("scope"))), ID: or(f.text("id")), Model: or(f.text("model")),
		Requests: f.most("requests_per_minute"), Tokens: f.most("tokens_per_minute"), Streams: f.most("concurrent_streams"),
	}
	if f.err != nil {
		x.fail(f.err)
		return
	}
	if l.ID == "" && l.Scope == orgs.LimitOrg {
		l.ID = string(x.caller.Org)
	}
	if l.Scope == orgs.LimitOrg {
		if err := x.ownOrg(l.ID); err != nil {
			x.fail(err)
			return
		}
	}
	now, err := g.opts.People.PutLimit(x.ctx, x.caller.Org, x.actor(), l)
	x.reply(200, shapeOfLimit(x.caller.Org, now), err)
}

// most returns a member that is the most there may be of something, at least one; 0 when it is not there, or null.
func (f *fields) most(name string) int64 {
	n := f.number(name)
	if n != nil && *n < 1 {
		f.fail(fault.New(fault.Invalid, "%s must be at least 1, or null for no limit", name).WithCode("invalid_value").WithParam(name))
	}
	return int64(or(n))
}

// listLimits answers GET /api/limits?limit=&cursor=.
func (g *Gateway) listLimits(x *request) {
	listPage(x,
		func(after orgs.Cursor, limit int) ([]orgs.LimitInfo, error) {
			return g.opts.People.Limits(x.ctx, x.caller.Org, after, limit)
		},
		func(l orgs.LimitInfo) orgs.Cursor { return orgs.Cursor{CreatedAt: l.CreatedAt, ID: l.Place()} },
		func(l orgs.LimitInfo) limitShape { return shapeOfLimit(x.caller.Org, l) })
}

// deleteLimit answers DELETE /api/limits?scope=&id=&model=: it names a limit as PUT does.
func (g *Gateway) deleteLimit(x *request) {
	scope, of := orgs.LimitScope(x.query("scope")), x.query("id")
	if of == "" && scope == orgs.LimitOrg {
		of = string(x.caller.Org)
	}
	x.deleted(of, g.opts.People.DeleteLimit(x.ctx, x.caller.Org, x.actor(), scope, of, x.query("model")))
}

// foreignLimit is Route.foreign where the body, or the query, names whom a limit is for.
func (g *Gateway) foreignLimit(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	scope, of := x.query("scope"), x.query("id")
	if x.route.Method == "PUT" {
		scope, of = gjson.GetBytes(x.body(), "scope").Str, gjson.GetBytes(x.body(), "id").Str
	}
	var err error
	switch {
	case of == "":
	case scope == string(orgs.LimitOrg):
		err = x.ownOrg(of)
	case scope == string(orgs.LimitUser):
		_, err = g.opts.People.User(x.ctx, x.caller.Org, id.User(of))
	case scope == string(orgs.LimitKey):
		_, err = g.opts.People.Key(x.ctx, x.caller.Org, id.Key(of))
	}
	return err
}
