package tenancy

import (
	"net/url"
	"testing"

	"threadhub/internal/id"
	"threadhub/orgs"
)

// cell is one square of the table: who asks for what by which route.
type cell struct {
	route, thing, asker string
}

func (c cell) String() string { return c.route + " " + c.thing + " by " + c.asker }

// ask is a request, and the id in it that names the thing asked for.
type ask struct {
	path, body string
	header     []string
	id         string
}

// things that can be asked for by the routes that name one of a kind.
var (
	nothing = []string{"any"}
	anOrg   = []string{"own", "foreign", "absent", "malformed"}
	aModel  = anOrg
	aThread = []string{"own", "shared", "private", "foreign", "absent", "malformed"}
	aCall   = aThread
)

// routes says of every route what it can be asked for, and how.
var routes = map[string]struct {
	things []string
	ask    func(o *tenant, id string) ask
	id     func(o *tenant, c cell) string
}{
	"GET /health":            {nothing, path("/health"), noID},
	"GET /v1/models":         {nothing, path("/v1/models"), noID},
	"GET /v1/models/{id...}": {aModel, func(_ *tenant, id string) ask { return ask{path: "/v1/models/" + id} }, modelID},
	"POST /v1/chat/completions": {aThread, func(o *tenant, id string) ask {
		return ask{path: "/v1/chat/completions", body: chatBody(o.model, "and then?"), header: []string{"X-Thread-Id", id}}
	}, threadID},
	"POST /v1/embeddings": {nothing, func(o *tenant, _ string) ask {
		return ask{path: "/v1/embeddings", body: `{"model":"` + o.model + `","input":["one","two"]}`}
	}, noID},
	"GET /v1/requests/{id}":        {aCall, func(_ *tenant, id string) ask { return ask{path: "/v1/requests/" + id} }, callID},
	"GET /v1/requests/{id}/stream": {aCall, func(_ *tenant, id string) ask { return ask{path: "/v1/requests/" + id + "/stream"} }, callID},
	"POST /api/threads":            {anOrg, newThread("/api/threads"), orgID},
	"POST /api/threads/":           {anOrg, newThread("/api/threads/"), orgID},
	"GET /api/threads":             {anOrg, listed("/api/threads"), orgID},
	"GET /api/threads/":            {anOrg, listed("/api/threads/"), orgID},
	"GET /api/threads/{id}":        {aThread, func(_ *tenant, id string) ask { return ask{path: "/api/threads/" + id} }, threadID},
	"PATCH /api/threads/{id}": {aThread, func(o *tenant, id string) ask {
		return ask{path: "/api/threads/" + id, body: `{"title":"` + o.canary + `","description":"changed"}`}
	}, threadID},
	"DELETE /api/threads/{id}":     {aThread, func(_ *tenant, id string) ask { return ask{path: "/api/threads/" + id} }, doomedID},
	"GET /api/threads/{id}/export": {aThread, func(_ *tenant, id string) ask { return ask{path: "/api/threads/" + id + "/export"} }, threadID},
	"POST /api/threads/{id}/messages": {aThread, func(_ *tenant, id string) ask {
		return ask{path: "/api/threads/" + id + "/messages", body: `{"content":"a note"}`}
	}, threadID},
	"POST /api/threads/{id}/fork": {aThread, func(_ *tenant, id string) ask { return ask{path: "/api/threads/" + id + "/fork"} }, threadID},
	"POST /api/threads/{id}/forward": {aThread, func(o *tenant, id string) ask {
		return ask{path: "/api/threads/" + id + "/forward", body: `{"provider":"` + o.provider + `","model":"sim-1"}`}
	}, threadID},
	"POST /api/router/choose": {anOrg, func(_ *tenant, id string) ask {
		return ask{path: "/api/router/choose", body: `{"message":"hello","org_id":"` + id + `"}`}
	}, orgID},
	"GET /api/router/rules": {anOrg, func(_ *tenant, id string) ask { return ask{path: "/api/router/rules?org_id=" + url.QueryEscape(id)} }, orgID},
	"PUT /api/router/rules": {anOrg, func(o *tenant, id string) ask {
		return ask{path: "/api/router/rules", body: `{"rules":[{"id":"all","reason":"` + o.canary + `","targets":["` + o.provider + `/sim-1"]}],"org_id":"` + id + `"}`}
	}, orgID},
	"DELETE /api/router/rules": {anOrg, func(_ *tenant, id string) ask { return ask{path: "/api/router/rules?org_id=" + url.QueryEscape(id)} }, orgID},
	"PUT /api/orgs/{org}/providers/{provider}": {anOrg, func(_ *tenant, id string) ask {
		return ask{path: "/api/orgs/" + id + "/providers/gemini", body: `{"api_key":"sk-of-somebody"}`}
	}, orgID},
	"DELETE /api/orgs/{org}/providers/{provider}": {anOrg, func(_ *tenant, id string) ask {
		return ask{path: "/api/orgs/" + id + "/providers/gemini"}
	}, orgID},
	"GET /api/orgs/{org}/providers/status": {anOrg, func(_ *tenant, id string) ask {
		return ask{path: "/api/orgs/" + id + "/providers/status"}
	}, orgID},
	"POST /api/orgs":            {anOrg, in("/api/orgs", `{"name":"Acme Six","email":"six@CANARY.example","org_id":"NAME"}`), orgID},
	"GET /api/orgs":             {anOrg, listed("/api/orgs"), orgID},
	"GET /api/orgs/{org}":       {anOrg, of("/api/orgs/", ""), orgID},
	"PATCH /api/orgs/{org}":     {anOrg, of("/api/orgs/", `{"name":"Acme Renamed"}`), orgID},
	deleteOrg:                   {anOrg, of("/api/orgs/", ""), orgID},
	"GET /api/orgs/{org}/audit": {anOrg, func(_ *tenant, id string) ask { return ask{path: "/api/orgs/" + id + "/audit"} }, orgID},
	"POST /api/users":           {anOrg, in("/api/users", `{"email":"new@CANARY.example","org_id":"NAME"}`), orgID},
	"GET /api/users":            {anOrg, listed("/api/users"), orgID},
	"GET /api/users/{id}":       {aUser, of("/api/users/", ""), userID},
	"PATCH /api/users/{id}":     {aUser, of("/api/users/", `{"name":"Somebody Else"}`), userID},
	"DELETE /api/users/{id}":    {aUser, of("/api/users/", ""), doomedUserID},
	"POST /api/teams":           {anOrg, in("/api/teams", `{"name":"new","org_id":"NAME"}`), orgID},
	"GET /api/teams":            {anOrg, listed("/api/teams"), orgID},
	"GET /api/teams/{id}":       {aTeam, of("/api/teams/", ""), teamID},
	"PATCH /api/teams/{id}":     {aTeam, of("/api/teams/", `{"name":"renamed"}`), teamID},
	"DELETE /api/teams/{id}":    {aTeam, of("/api/teams/", ""), doomedTeamID},
	"POST /api/keys":            {aUser, in("/api/keys", `{"user_id":"NAME"}`), userID},
	"GET /api/keys":             {anOrg, listed("/api/keys"), orgID},
	"GET /api/keys/{id}":        {aKey, of("/api/keys/", ""), keyOf},
	"PATCH /api/keys/{id}":      {aKey, of("/api/keys/", `{"name":"renamed"}`), keyOf},
	"DELETE /api/keys/{id}":     {aKey, of("/api/keys/", ""), doomedKey},
	"PUT /api/limits":           {aUser, in("/api/limits", `{"scope":"user","id":"NAME","model":"CANARY","tokens_per_minute":1000000}`), userID},
	"GET /api/limits":           {anOrg, listed("/api/limits"), orgID},
	"DELETE /api/limits": {aUser, func(o *tenant, id string) ask {
		return ask{path: "/api/limits?scope=user&id=" + id + "&model=" + o.canary}
	}, userID},
	"PUT /api/budgets":         {aUser, in("/api/budgets", `{"scope":"user","id":"NAME","period":"day","limit_usd":"4000000","mode":"soft"}`), userID},
	"GET /api/budgets":         {anOrg, listed("/api/budgets"), orgID},
	"GET /api/budgets/{id}":    {aBudget, of("/api/budgets/", ""), budgetID},
	"DELETE /api/budgets/{id}": {aBudget, of("/api/budgets/", ""), doomedBudget},
	"POST /api/orgs/{org}/providers/test": {anOrg, func(o *tenant, id string) ask {
		return ask{path: "/api/orgs/" + id + "/providers/test", body: `{"provider":"` + o.provider + `"}`}
	}, orgID},
}

// deleteOrg is asked for last: there is no org after it.
const deleteOrg = "DELETE /api/orgs/{org}"

func path(p string) func(*tenant, string) ask {
	return func(*tenant, string) ask { return ask{path: p} }
}

func newThread(p string) func(*tenant, string) ask {
	return func(_ *tenant, id string) ask { return ask{path: p, body: `{"title":"new","org_id":"` + id + `"}`} }
}

func listed(p string) func(*tenant, string) ask {
	return func(_ *tenant, id string) ask { return ask{path: p + "?org_id=" + url.QueryEscape(id)} }
}

func noID(*tenant, cell) string { return "" }

// malformed can name nothing, and passes through a URL as it is.
const malformed = "no!such*name"

func modelID(o *tenant, c cell) string {
	switch c.thing {
	case "own":
		return map[string]string{"openai": "openai/gpt-5-mini", "openrouter": "openrouter/anthropic/claude-sonnet-5.5"}[o.provider]
	case "foreign":
		return modelID(o.other, cell{thing: "own"})
	case "absent":
		return "openai/sim-of-nobody"
	}
	return malformed
}

func orgID(o *tenant, c cell) string {
	switch c.thing {
	case "own":
		return o.id
	case "foreign":
		return o.other.id
	case "absent":
		return string(orgs.OrgID("Acme Six"))
	}
	return malformed
}

// owner is whose things an asker calls own: those without a good key had the member's.
func owner(asker string) string {
	switch asker {
	case "admin", "viewer":
		return asker
	}
	return "member"
}

func threadID(o *tenant, c cell) string {
	switch c.thing {
	case "own":
		return o.threads[owner(c.asker)]
	case "shared":
		return o.shared
	case "private":
		return o.private
	case "foreign":
		return o.other.shared
	case "absent":
		return string(id.NewThread())
	}
	return malformed
}

// doomedID is threadID, of threads nobody asks for by another route.
func doomedID(o *tenant, c cell) string {
	switch c.thing {
	case "own", "shared", "private":
		return threadID(o.doomed, c)
	}
	return threadID(o, c)
}

func callID(o *tenant, c cell) string {
	switch c.thing {
	case "own":
		return o.requests[owner(c.asker)]
	case "shared":
		return o.sharedRequest
	case "private":
		return o.privateCall
	case "foreign":
		return o.other.sharedRequest
	case "absent":
		return string(id.NewRequest())
	}
	return malformed
}

// ask builds the request of a cell.
func (c cell) ask(t *testing.T, o *tenant) ask {
	t.Helper()
	r, ok := routes[c.route]
	if !ok {
		t.Fatalf("routes_test.go does not say how to ask %s", c.route)
	}
	name := r.id(o, c)
	a := r.ask(o, name)
	a.id = name
	return a
}
