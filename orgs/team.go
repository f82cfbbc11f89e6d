package orgs

import (
	"context"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Team is some users of an org, for budgets and reports.
type Team struct {
	ID        id.Team
	Name      string // unique in the org
	CreatedAt time.Time
}

const teamsSQL = `SELECT team_id, name, created_at FROM teams WHERE org_id = $1`

func scanTeam(r db.Row) (t Team, err error) {
	var created db.Time
	err = r.Scan(&t.ID, &t.Name, &created)
	t.CreatedAt = created.Time
	return t, err
}

// Teams returns up to limit of the org's teams, newest first.
func (s *Service) Teams(ctx context.Context, org id.Org, after Cursor, limit int) ([]Team, error) {
	return listed(ctx, s, org, after, limit, teamsSQL, "team_id", nil, scanTeam)
}

// Team returns one of the org's teams. Errors: fault.NotFound, team_not_found.
func (s *Service) Team(ctx context.Context, org id.Org, team id.Team) (Team, error) {
	return single(ctx, s, org, noTeam(), teamsSQL+` AND team_id = $2`, string(team), scanTeam)
}

func noTeam() *fault.Error {
	return fault.New(fault.NotFound, "there is no such team").WithCode("team_not_found")
}

func teamIn(ctx context.Context, tx db.Tx, org id.Org, team id.Team) (Team, error) {
	return singleIn(ctx, tx, org, noTeam(), teamsSQL+` AND team_id = $2`, string(team), scanTeam)
}

// checkTeam refuses, for a user, a team that the org does not have. "" is none, and good.
func checkTeam(ctx context.Context, tx db.Tx, org id.Org, team id.Team) error {
	if team == "" {
		return nil
	}
	_, err := teamIn(ctx, tx, org, team)
	return err
}

// CreateTeam makes a team without users. Errors: fault.Invalid; fault.Conflict, team_name_taken.
func (s *Service) CreateTeam(ctx context.Context, org id.Org, by Actor, name string, then ...Then[Team]) (Team, error) {
	name, err := checkedName(name)
	if err != nil {
		return Team{}, err
	}
	t := Team{ID: id.NewTeam(), Name: name}
	err = s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		if err := teamNameFree(ctx, tx, org, name); err != nil {
			return nil, err
		}
		var created db.Time
		err := tx.QueryRow(ctx, `INSERT INTO teams (org_id, team_id, name) VALUES ($1, $2, $3) RETURNING created_at`,
			[]any{string(org), string(t.ID), name}, &created)
		t.CreatedAt = created.Time
		if err == nil {
			err = after(tx, t, then)
		}
		return []Entry{{"team.create", string(t.ID), map[string]any{"name": name}}}, err
	})
	return t, err
}

// teamNameFree refuses a name that a team of the org, which is held, has.
func teamNameFree(ctx context.Context, tx db.Tx, org id.Org, name string) error {
	var had int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM teams WHERE org_id = $1 AND name = $2`, []any{string(org), name}, &had)
	if err == nil && had > 0 {
		return fault.New(fault.Conflict, "a team of the org has this name already").WithCode("team_name_taken").WithParam("name")
	}
	return err
}

// RenameTeam gives a team another name. Errors: as CreateTeam; fault.NotFound, team_not_found.
func (s *Service) RenameTeam(ctx context.Context, org id.Org, by Actor, team id.Team, name string) (Team, error) {
	name, err := checkedName(name)
	if err != nil {
		return Team{}, err
	}
	var t Team
	err = s.change(ctx, org, by, func(tx db.Tx) (_ []Entry, err error) {
		if t, err = teamIn(ctx, tx, org, team); err != nil || t.Name == name {
			return nil, err
		}
		if err := teamNameFree(ctx, tx, org, name); err != nil {
			return nil, err
		}
		t.Name = name
		_, err = tx.Exec(ctx, `UPDATE teams SET name = $3 WHERE org_id = $1 AND team_id = $2`, string(org), string(team), name)
		return []Entry{{"team.update", string(team), map[string]any{"name": name}}}, err
	})
	return t, err
}

// DeleteTeam takes a team away; its users are in none then. What was counted for it stays counted. Errors:
// fault.NotFound, team_not_found.
func (s *Service) DeleteTeam(ctx context.Context, org id.Org, by Actor, team id.Team) error {
	err := s.change(ctx, org, by, func(tx db.Tx) ([]Entry, error) {
		t, err := teamIn(ctx, tx, org, team)
		if err != nil {
			return nil, err
		}
		users, err := tx.Exec(ctx, `UPDATE users SET team_id = NULL WHERE org_id = $1 AND team_id = $2`, string(org), string(team))
		if err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, `DELETE FROM teams WHERE org_id = $1 AND team_id = $2`, string(org), string(team))
		return []Entry{{"team.delete", string(team), map[string]any{"name": t.Name, "users": users}}}, err
	})
	s.tell(ctx, topicPeople, string(org), err) // callers carry their team
	return err
}
