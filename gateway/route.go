package gateway

import (
	"strings"

	"threadhub/internal/fault"
)

// Permission is what a caller must be allowed to do for a route's effect.
type Permission uint8

const (
	Open  Permission = iota // anybody, without a key
	Read                    // viewer, member, admin
	Write                   // member, admin
	Admin                   // admin
)

func (p Permission) String() string { return [...]string{"open", "read", "write", "admin"}[p] }

// roles names, for people, the roles that have the permission.
func (p Permission) roles() string {
	return [...]string{"viewer, member or admin", "viewer, member or admin", "member or admin", "admin"}[p]
}

// Route is one entry of the table. A pattern is literal segments and wildcards: {name} matches one segment, {name...} at
// the end the rest of the path.
type Route struct {
	Method  string
	Pattern string
	Needs   Permission

	handler func(*Gateway, *request)

	// repeats says that the route knows Idempotency-Key.
	repeats bool

	// foreign says, of a caller whose role is not enough, whether what the request names is not there for it: then it is
	// told that, and nothing of its role. nil: the path names nothing but an org.
	foreign func(*Gateway, *request) error

	segments []string
	names    []string
}

func (r *Route) isV1() bool { return strings.HasPrefix(r.Pattern, "/v1/") }

// routes is the whole public surface. What is not here is 404.
func (g *Gateway) routes() []Route {
	return []Route{
		{Method: "GET", Pattern: "/health", Needs: Open, handler: (*Gateway).health},
		{Method: "GET", Pattern: "/v1/models", Needs: Read, handler: (*Gateway).models},
		{Method: "GET", Pattern: "/v1/models/{id...}", Needs: Read, handler: (*Gateway).model},
		{Method: "POST", Pattern: "/v1/chat/completions", Needs: Write, handler: (*Gateway).chat, repeats: true},
		{Method: "POST", Pattern: "/v1/embeddings", Needs: Write, handler: (*Gateway).embeddings, repeats: true},
		{Method: "GET", Pattern: "/v1/requests/{id}", Needs: Read, handler: (*Gateway).getRequest},
		{Method: "GET", Pattern: "/v1/requests/{id}/stream", Needs: Read, handler: (*Gateway).resume},
		{Method: "POST", Pattern: "/api/threads", Needs: Write, handler: (*Gateway).createThread, foreign: (*Gateway).foreignBody, repeats: true},
		{Method: "POST", Pattern: "/api/threads/", Needs: Write, handler: (*Gateway).createThread, foreign: (*Gateway).foreignBody, repeats: true},
		{Method: "GET", Pattern: "/api/threads", Needs: Read, handler: (*Gateway).listThreads},
		{Method: "GET", Pattern: "/api/threads/", Needs: Read, handler: (*Gateway).listThreads},
		{Method: "GET", Pattern: "/api/threads/{id}", Needs: Read, handler: (*Gateway).getThread},
		{Method: "PATCH", Pattern: "/api/threads/{id}", Needs: Write, handler: (*Gateway).changeThread, foreign: (*Gateway).foreignThread},
		{Method: "DELETE", Pattern: "/api/threads/{id}", Needs: Write, handler: (*Gateway).deleteThread, foreign: (*Gateway).foreignThread},
		{Method: "GET", Pattern: "/api/threads/{id}/export", Needs: Read, handler: (*Gateway).exportThread},
		{Method: "POST", Pattern: "/api/threads/{id}/messages", Needs: Write, handler: (*Gateway).addMessage, foreign: (*Gateway).foreignThread, repeats: true},
		{Method: "POST", Pattern: "/api/threads/{id}/fork", Needs: Write, handler: (*Gateway).forkThread, foreign: (*Gateway).foreignThread, repeats: true},
		{Method: "POST", Pattern: "/api/threads/{id}/forward", Needs: Write, handler: (*Gateway).forward, foreign: (*Gateway).foreignThread, repeats: true},
		{Method: "POST", Pattern: "/api/router/choose", Needs: Read, handler: (*Gateway).chooseRoute},
		{Method: "GET", Pattern: "/api/router/rules", Needs: Read, handler: (*Gateway).getRules},
		{Method: "PUT", Pattern: "/api/router/rules", Needs: Admin, handler: (*Gateway).putRules, foreign: (*Gateway).foreignBody},
		{Method: "DELETE", Pattern: "/api/router/rules", Needs: Admin, handler: (*Gateway).deleteRules},
		{Method: "PUT", Pattern: "/api/orgs/{org}/providers/{provider}", Needs: Admin, handler: (*Gateway).putProvider},
		{Method: "DELETE", Pattern: "/api/orgs/{org}/providers/{provider}", Needs: Admin, handler: (*Gateway).deleteProvider},
		{Method: "GET", Pattern: "/api/orgs/{org}/providers/status", Needs: Admin, handler: (*Gateway).providerStatus},
		{Method: "POST", Pattern: "/api/orgs", Needs: Admin, handler: people((*Gateway).createOrg), foreign: (*Gateway).foreignBody},
		{Method: "GET", Pattern: "/api/orgs", Needs: Read, handler: people((*Gateway).listOrgs)},
		{Method: "GET", Pattern: "/api/orgs/{org}", Needs: Read, handler: people((*Gateway).getOrg)},
		{Method: "PATCH", Pattern: "/api/orgs/{org}", Needs: Admin, handler: people((*Gateway).changeOrg), foreign: (*Gateway).foreignBody},
		{Method: "DELETE", Pattern: "/api/orgs/{org}", Needs: Admin, handler: people((*Gateway).deleteOrg)},
		{Method: "GET", Pattern: "/api/orgs/{org}/audit", Needs: Admin, handler: people((*Gateway).listAudit)},
		{Method: "POST", Pattern: "/api/users", Needs: Admin, handler: people((*Gateway).createUser), foreign: (*Gateway).foreignBody, repeats: true},
		{Method: "GET", Pattern: "/api/users", Needs: Read, handler: people((*Gateway).listUsers)},
		{Method: "GET", Pattern: "/api/users/{id}", Needs: Read, handler: people((*Gateway).getUser)},
		{Method: "PATCH", Pattern: "/api/users/{id}", Needs: Admin, handler: people((*Gateway).changeUser), foreign: strangers((*Gateway).foreignUser)},
		{Method: "DELETE", Pattern: "/api/users/{id}", Needs: Admin, handler: people((*Gateway).deleteUser), foreign: strangers((*Gateway).foreignUser)},
		{Method: "POST", Pattern: "/api/teams", Needs: Admin, handler: people((*Gateway).createTeam), foreign: (*Gateway).foreignBody, repeats: true},
		{Method: "GET", Pattern: "/api/teams", Needs: Read, handler: people((*Gateway).listTeams)},
		{Method: "GET", Pattern: "/api/teams/{id}", Needs: Read, handler: people((*Gateway).getTeam)},
		{Method: "PATCH", Pattern: "/api/teams/{id}", Needs: Admin, handler: people((*Gateway).changeTeam), foreign: strangers((*Gateway).foreignTeam)},
		{Method: "DELETE", Pattern: "/api/teams/{id}", Needs: Admin, handler: people((*Gateway).deleteTeam), foreign: strangers((*Gateway).foreignTeam)},
		{Method: "POST", Pattern: "/api/keys", Needs: Write, handler: people((*Gateway).createKey), foreign: (*Gateway).foreignNewKey, repeats: true},
		{Method: "GET", Pattern: "/api/keys", Needs: Read, handler: people((*Gateway).listKeys)},
		{Method: "GET", Pattern: "/api/keys/{id}", Needs: Read, handler: people((*Gateway).getKey)},
		{Method: "PATCH", Pattern: "/api/keys/{id}", Needs: Admin, handler: people((*Gateway).changeKey), foreign: strangers((*Gateway).foreignKey)},
		{Method: "DELETE", Pattern: "/api/keys/{id}", Needs: Write, handler: people((*Gateway).deleteKey), foreign: strangers((*Gateway).foreignKey)},
		{Method: "PUT", Pattern: "/api/limits", Needs: Admin, handler: people((*Gateway).putLimit), foreign: strangers((*Gateway).foreignLimit)},
		{Method: "GET", Pattern: "/api/limits", Needs: Admin, handler: people((*Gateway).listLimits)},
		{Method: "DELETE", Pattern: "/api/limits", Needs: Admin, handler: people((*Gateway).deleteLimit), foreign: strangers((*Gateway).foreignLimit)},
		{Method: "PUT", Pattern: "/api/budgets", Needs: Admin, handler: budgets((*Gateway).putBudget), foreign: strangers((*Gateway).foreignScope)},
		{Method: "GET", Pattern: "/api/budgets", Needs: Read, handler: budgets((*Gateway).listBudgets)},
		{Method: "GET", Pattern: "/api/budgets/{id}", Needs: Read, handler: budgets((*Gateway).getBudget)},
		{Method: "DELETE", Pattern: "/api/budgets/{id}", Needs: Admin, handler: budgets((*Gateway).deleteBudget), foreign: strangers((*Gateway).foreignBudget)},
		{Method: "POST", Pattern: "/api/orgs/{org}/providers/test", Needs: Admin, handler: (*Gateway).tryProvider},
	}
}

// Routes returns the table without its handlers: for tests that hold every route against a rule.
func (g *Gateway) Routes() []Route {
	list := g.routes()
	for i := range list {
		list[i].handler, list[i].foreign = nil, nil
	}
	return list
}

// router finds the route of a request. It is read-only after newRouter.
type router struct{ routes []Route }

func newRouter(routes []Route) *router {
	return &router{routes: parsed(routes)}
}

// parsed takes the patterns apart, in place.
func parsed(routes []Route) []Route {
	for i := range routes {
		r := &routes[i]
		r.segments = strings.Split(r.Pattern[1:], "/")
		for _, s := range r.segments {
			if name, ok := wildcard(s); ok {
				r.names = append(r.names, strings.TrimSuffix(name, "..."))
			}
		}
	}
	return routes
}

func wildcard(segment string) (name string, ok bool) {
	if len(segment) > 2 && segment[0] == '{' && segment[len(segment)-1] == '}' {
		return segment[1 : len(segment)-1], true
	}
	return "", false
}

// find returns the route of method and path, and what its wildcards matched. The path is taken as the client wrote it:
// nothing is cleaned, redirected or decoded before the match, so that "//", "..", "%2f" lead nowhere. Only what a
// wildcard matched is decoded after. Errors: fault.NotFound; fault.Method, with the allowed ones in Param. HEAD is
// answered by GET's route.
func (t *router) find(method []byte, path string) (*Route, []string, error) {
	unknown := fault.New(fault.NotFound, "there is no such URL").WithCode("unknown_url")
	if path == "" || path[0] != '/' || strings.Contains(path, "/../") || strings.Contains(path, "/./") ||
		strings.HasSuffix(path, "/..") || strings.HasSuffix(path, "/.") {
		return nil, nil, unknown
	}
	want := string(method)
	if want == "HEAD" {
		want = "GET"
	}
	var allowed []string
	for i := range t.routes {
		r := &t.routes[i]
		params, ok := r.match(path[1:])
		if !ok {
			continue
		}
		if r.Method == want {
			return r, params, nil
		}
		if len(allowed) == 0 || allowed[len(allowed)-1] != r.Method {
			allowed = append(allowed, r.Method)
		}
	}
	if len(allowed) == 0 {
		return nil, nil, unknown
	}
	return nil, nil, fault.New(fault.Method, "this URL does not take that method").WithCode("method_not_allowed").
		WithParam(strings.Join(allowed, ", "))
}

// match compares path, without its first slash, to the pattern.
func (r *Route) match(path string) (params []string, ok bool) {
	for i, s := range r.segments {
		name, wild := wildcard(s)
		if wild && strings.HasSuffix(name, "...") {
			v, ok := decode(path)
			return append(params, v), ok && v != ""
		}
		segment, rest, more := strings.Cut(path, "/")
		if more != (i < len(r.segments)-1) {
			return nil, false
		}
		path = rest
		if !wild {
			if segment != s {
				return nil, false
			}
			continue
		}
		v, ok := decode(segment)
		if !ok || v == "" || strings.Contains(v, "/") {
			return nil, false
		}
		params = append(params, v)
	}
	return params, true
}

// decode undoes percent-encoding, once. What it may not bring out: control bytes, bytes beyond ASCII, "." and "..".
func decode(s string) (string, bool) {
	if strings.Contains(s, "%") {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			c := s[i]
			if c == '%' {
				if i+2 >= len(s) || hexDigit(s[i+1]) < 0 || hexDigit(s[i+2]) < 0 {
					return "", false
				}
				c = byte(hexDigit(s[i+1])<<4 | hexDigit(s[i+2]))
				i += 2
			}
			if c <= 0x20 || c >= 0x7f {
				return "", false
			}
			b = append(b, c)
		}
		s = string(b)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "." || part == ".." || part == "" {
			return "", s == ""
		}
	}
	return s, true
}

// pathOf cuts the query off a request target.
func pathOf(target []byte) string {
	path, _, _ := strings.Cut(string(target), "?")
	return path
}
