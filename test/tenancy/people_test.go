package tenancy

import (
	"strings"
	"testing"

	"threadhub/internal/id"
	"threadhub/orgs"
)

// people are what admins manage of an org: one set to be looked at and changed, and one to be deleted.
type people struct {
	users   map[string]string // by the asker it is, and "another"
	keys    map[string]string // of these, and used by nobody
	budgets map[string]string // of these
	team    string
	deleted *people
}

// furnish makes the people of an org, whose users are there, by the API.
func (w *world) furnish(t *testing.T, o *tenant) {
	t.Helper()
	empty := func() people {
		return people{users: map[string]string{}, keys: map[string]string{}, budgets: map[string]string{}}
	}
	o.people, o.people.deleted = empty(), new(people)
	*o.people.deleted = empty()
	var list struct {
		Data []struct{ ID, Email string }
	}
	if err := w.Must(t, 200, "GET", "/api/users?limit=100", o.keys["admin"], nil).JSON(&list); err != nil {
		t.Fatal(err)
	}
	for _, u := range list.Data {
		name, _, _ := strings.Cut(u.Email, "@")
		o.people.users[name] = u.ID
	}
	made := func(path string, body map[string]string) string {
		var thing struct{ ID string }
		if err := w.Must(t, 201, "POST", path, o.keys["admin"], body).JSON(&thing); err != nil {
			t.Fatal(err)
		}
		return thing.ID
	}
	for i, p := range []*people{&o.people, o.people.deleted} {
		for _, who := range []string{"admin", "member", "viewer", "another"} {
			var b struct {
				ID string `json:"budget_id"`
			}
			spec := map[string]string{"scope": "user", "id": o.people.users[who], "period": []string{"month", "week"}[i], "limit_usd": "4000000", "mode": "hard"}
			if err := w.Must(t, 200, "PUT", "/api/budgets", o.keys["admin"], spec).JSON(&b); err != nil {
				t.Fatal(err)
			}
			p.budgets[who] = b.ID
			p.keys[who] = made("/api/keys", map[string]string{"user_id": o.people.users[who], "name": o.canary})
		}
	}
	o.people.team = made("/api/teams", map[string]string{"name": o.canary})
	o.people.deleted.team = made("/api/teams", map[string]string{"name": o.canary + " too"})
	for _, user := range o.people.users {
		w.Must(t, 200, "PUT", "/api/limits", o.keys["admin"], map[string]any{"scope": "user", "id": user, "model": o.canary, "requests_per_minute": 1})
	}
	o.people.deleted.users["admin"] = o.people.users["admin"]
	o.people.deleted.users["another"] = made("/api/users", map[string]string{"email": "doomed@" + strings.ToLower(o.canary) + ".example", "name": o.canary})
}

// things of people that can be asked for.
var (
	aUser = []string{"own", "shared", "foreign", "absent", "malformed"}
	aKey  = aUser
	aTeam = anOrg

	aBudget = aUser // of a user
)

// of asks for the thing at path that is named, with body.
func of(path, body string) func(*tenant, string) ask {
	return func(_ *tenant, id string) ask { return ask{path: path + id, body: body} }
}

// in asks with a body that names the thing: NAME stands for its id, CANARY for something of the org.
func in(path, body string) func(*tenant, string) ask {
	return func(o *tenant, id string) ask {
		return ask{path: path, body: strings.NewReplacer("NAME", id, "CANARY", strings.ToLower(o.canary)).Replace(body)}
	}
}

// pick chooses one of the org's people for a cell.
func pick(from func(o *tenant) *people, own func(p *people, who string) string, absent string) func(*tenant, cell) string {
	return func(o *tenant, c cell) string {
		switch c.thing {
		case "own":
			return own(from(o), owner(c.asker))
		case "shared":
			return own(from(o), "another")
		case "foreign":
			return own(&o.other.people, "another")
		case "absent":
			return absent
		}
		return malformed
	}
}

func there(o *tenant) *people  { return &o.people }
func doomed(o *tenant) *people { return o.people.deleted }

// user is whoever asks, in both sets: only an admin can delete itself, and the last one cannot.
func user(p *people, who string) string {
	if p.users[who] == "" {
		return p.users["another"]
	}
	return p.users[who]
}
func key(p *people, who string) string    { return p.keys[who] }
func budget(p *people, who string) string { return p.budgets[who] }
func team(p *people, _ string) string     { return p.team }

var (
	userID       = pick(there, user, string(id.NewUser()))
	doomedUserID = pick(doomed, user, string(id.NewUser()))
	keyOf        = pick(there, key, string(orgs.NewKey().ID))
	doomedKey    = pick(doomed, key, string(orgs.NewKey().ID))
	budgetID     = pick(there, budget, string(id.NewBudget()))
	doomedBudget = pick(doomed, budget, string(id.NewBudget()))
	teamID       = pick(there, team, string(id.NewTeam()))
	doomedTeamID = pick(doomed, team, string(id.NewTeam()))
)
