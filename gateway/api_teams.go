package gateway

import (
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// teamShape is a team as the API shows it.
type teamShape struct {
	ID        id.Team   `json:"id"`
	Org       id.Org    `json:"org_id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
}

func shapeOfTeam(org id.Org, t orgs.Team) teamShape {
	return teamShape{t.ID, org, t.Name, t.CreatedAt.UTC()}
}

// createTeam answers POST /api/teams with {name}.
func (g *Gateway) createTeam(x *request) {
	f := x.fields("name")
	name := f.text("name")
	if f.err != nil {
		x.fail(f.err)
		return
	}
	g.makeOnce(x, func(keep keeper) error {
		_, err := g.opts.People.CreateTeam(x.ctx, x.caller.Org, x.actor(), or(name),
			func(tx db.Tx, t orgs.Team) error { return keep(tx, shapeOfTeam(x.caller.Org, t)) })
		return err
	})
}

// listTeams answers GET /api/teams?limit=&cursor=.
func (g *Gateway) listTeams(x *request) {
	listPage(x,
		func(after orgs.Cursor, limit int) ([]orgs.Team, error) {
			return g.opts.People.Teams(x.ctx, x.caller.Org, after, limit)
		},
		func(t orgs.Team) orgs.Cursor { return orgs.Cursor{CreatedAt: t.CreatedAt, ID: string(t.ID)} },
		func(t orgs.Team) teamShape { return shapeOfTeam(x.caller.Org, t) })
}

// getTeam answers GET /api/teams/{id}.
func (g *Gateway) getTeam(x *request) {
	t, err := g.opts.People.Team(x.ctx, x.caller.Org, id.Team(x.param("id")))
	x.reply(200, shapeOfTeam(x.caller.Org, t), err)
}

// changeTeam answers PATCH /api/teams/{id} with {name?}.
func (g *Gateway) changeTeam(x *request) {
	f := x.fields("name")
	name := f.text("name")
	if f.err != nil {
		x.fail(f.err)
		return
	}
	if name == nil { // nothing shall be different
		g.getTeam(x)
		return
	}
	t, err := g.opts.People.RenameTeam(x.ctx, x.caller.Org, x.actor(), id.Team(x.param("id")), *name)
	x.reply(200, shapeOfTeam(x.caller.Org, t), err)
}

// deleteTeam answers DELETE /api/teams/{id}.
func (g *Gateway) deleteTeam(x *request) {
	team := x.param("id")
	x.deleted(team, g.opts.People.DeleteTeam(x.ctx, x.caller.Org, x.actor(), id.Team(team)))
}

// foreignTeam is Route.foreign where the path names a team.
func (g *Gateway) foreignTeam(x *request) error {
	if err := g.foreignBody(x); err != nil {
		return err
	}
	_, err := g.opts.People.Team(x.ctx, x.caller.Org, id.Team(x.param("id")))
	return err
}
