package gateway

import (
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// people is a handler that needs the room of orgs.
func people(f func(*Gateway, *request)) func(*Gateway, *request) {
	return func(g *Gateway, x *request) {
		if g.opts.People == nil {
			x.fail(fault.New(fault.Unavailable, "there is no place for people"))
			return
		}
		f(g, x)
	}
}

// strangers is people for Route.foreign.
func strangers(f func(*Gateway, *request) error) func(*Gateway, *request) error {
	return func(g *Gateway, x *request) error {
		if g.opts.People == nil {
			return nil
		}
		return f(g, x)
	}
}

// orgShape is an org as the API shows it.
type orgShape struct {
	ID           id.Org    `json:"id"`
	Name         string    `json:"name"`
	Tier         string    `json:"tier"`
	Seats        int       `json:"seats"`
	WindowPolicy string    `json:"window_policy"`
	CreatedAt    time.Time `json:"created_at"`
}

func shapeOfOrg(o orgs.OrgInfo) orgShape {
	return orgShape{o.ID, o.Name, o.Tier, o.Seats, o.WindowPolicy, o.CreatedAt.UTC()}
}

// foundedShape is a new org with its first admin, and the key that is shown this once.
type foundedShape struct {
	orgShape
	User   userShape `json:"user"`
	Key    keyShape  `json:"key"`
	APIKey string    `json:"api_key"`
}

// orgsPerHour is how often the admins of an org may make another one: nobody fills the store with orgs.
const orgsPerHour = 10

// createOrg answers POST /api/orgs with {name, email, user_name?}.
func (g *Gateway) createOrg(x *request) {
	f, err := g.newOrg(x)
	x.reply(201, foundedShape{
		shapeOfOrg(f.Org), shapeOfUser(f.Org.ID, f.User), shapeOfKey(f.Org.ID, f.Key), f.APIKey.Reveal(),
	}, err)
}

func (g *Gateway) newOrg(x *request) (orgs.Founded, error) {
	f := x.fields("name", "email", "user_name")
	spec := orgs.OrgSpec{Name: or(f.text("name")), Email: or(f.text("email")), UserName: or(f.text("user_name"))}
	if f.err != nil {
		return orgs.Founded{}, f.err
	}
	if g.opts.FixedOrgs {
		return orgs.Founded{}, fault.New(fault.Denied, "on this gateway the operator makes orgs").WithCode("permission_denied").NoRetry()
	}
	if err := x.unrestricted(); err != nil {
		return orgs.Founded{}, err
	}
	if wait, ok := g.foundings.take(x.caller.Org); !ok {
		return orgs.Founded{}, fault.New(fault.RateLimited, "%d orgs may be made an hour", orgsPerHour).WithCode("rate_limit_exceeded").After(wait)
	}
	return g.opts.People.CreateOrg(x.ctx, x.caller.Org, x.actor(), spec)
}

// listOrgs answers GET /api/orgs: a caller sees the org it is of.
func (g *Gateway) listOrgs(x *request) {
	o, err := g.opts.People.Org(x.ctx, x.caller.Org)
	x.reply(200, listShape[orgShape]{Data: []orgShape{shapeOfOrg(o)}}, err)
}

// getOrg answers GET /api/orgs/{org}.
func (g *Gateway) getOrg(x *request) {
	o, err := g.opts.People.Org(x.ctx, x.caller.Org)
	x.reply(200, shapeOfOrg(o), err)
}

// changeOrg answers PATCH /api/orgs/{org} with {name?, window_policy?}.
func (g *Gateway) changeOrg(x *request) {
	f := x.fields("name", "window_policy")
	c := orgs.OrgChange{Name: f.text("name"), WindowPolicy: f.text("window_policy")}
	if f.err != nil {
		x.fail(f.err)
		return
	}
	o, err := g.opts.People.UpdateOrg(x.ctx, x.caller.Org, x.actor(), c)
	x.reply(200, shapeOfOrg(o), err)
}

// deleteOrg answers DELETE /api/orgs/{org}.
func (g *Gateway) deleteOrg(x *request) {
	x.deleted(string(x.caller.Org), g.opts.People.DeleteOrg(x.ctx, x.caller.Org, x.actor()))
}
