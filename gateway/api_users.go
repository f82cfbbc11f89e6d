package gateway

import (
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// userShape is a user as the API shows one.
type userShape struct {
	ID        id.User   `json:"id"`
	Org       id.Org    `json:"org_id"`
	Email     string    `json:"email"`
	Name      string    `json:"name"`
	Role      orgs.Role `json:"role"`
	Team      *id.Team  `json:"team_id"`
	Disabled  bool      `json:"disabled"`
	CreatedAt time.Time `json:"created_at"`
}

func shapeOfUser(org id.Org, u orgs.UserInfo) userShape {
	return userShape{
		ID: u.ID, Org: org, Email: u.Email, Name: u.Name, Role: u.Role, Team: orNull(u.Team), Disabled: !u.DisabledAt.IsZero(),
		CreatedAt: u.CreatedAt.UTC(),
	}
}

// createUser answers POST /api/users with {email, name?, role?, team_id?}. It makes no key: POST /api/keys does.
func (g *Gateway) createUser(x *request) {
	f := x.fields("email", "name", "role", "team_id")
	spec := orgs.UserSpec{
		Email: or(f.text("email")), Name: or(f.text("name")), Role: orgs.Role(or(f.text("role"))), Team: id.Team(or(f.text("team_id"))),
	}
	if f.err != nil {
		x.fail(f.err)
		return
	}
	g.makeOnce(x, func(keep keeper) error {
		_, err := g.opts.People.CreateUser(x.ctx, x.caller.Org, x.actor(), spec,
			func(tx db.Tx, u orgs.UserInfo) error { return keep(tx, shapeOfUser(x.caller.Org, u)) })
		return err
	})
}

// listUsers answers GET /api/users?limit=&cursor=.
func (g *Gateway) listUsers(x *request) {
	listPage(x,
		func(after orgs.Cursor, limit int) ([]orgs.UserInfo, error) {
			return g.opts.People.Users(x.ctx, x.caller.Org, after, limit)
		},
		func(u orgs.UserInfo) orgs.Cursor { return orgs.Cursor{CreatedAt: u.CreatedAt, ID: string(u.ID)} },
		func(u orgs.UserInfo) userShape { return shapeOfUser(x.caller.Org, u) })
}

// getUser answers GET /api/users/{id}.
func (g *Gateway) getUser(x *request) {
	u, err := g.opts.People.User(x.ctx, x.caller.Org, id.User(x.param("id")))
	x.reply(200, shapeOfUser(x.caller.Org, u), err)
}

// changeUser answers PATCH /api/users/{id} with {name?, role?, team_id?, disabled?}; a team_id of null is none.
func (g *Gateway) changeUser(x *request) {
	f := x.fields("name", "role", "team_id", "disabled")
	c := orgs.UserChange{
		Name: f.text("name"), Role: (*orgs.Role)(f.text("role")), Team: (*id.Team)(f.text("team_id")), Disabled: f.flag("disabled"),
	}
	if f.err != nil {
		x.fail(f.err)
		return
	}
	u, err := g.opts.People.UpdateUser(x.ctx, x.caller.Org, x.actor(), id.User(x.param("id")), c)
	x.reply(200, shapeOfUser(x.caller.Org, u), err)
}

// deleteUser answers DELETE /api/users/{id}.
func (g *Gateway) deleteUser(x *request) {
	user := x.param("id")
	x.deleted(user, g.opts.People.DeleteUser(x.ctx, x.caller.Org, x.actor(), id.User(user)))
}

// foreignUser is Route.foreign where the path names a user.
func (g *Gateway) foreignUser(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	_, err := g.opts.People.User(x.ctx, x.caller.Org, id.User(x.param("id")))
	return err
}
