package tenancy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// accepted are the members that the bodies of /api take, by route: what somebody may decide, and no more.
var accepted = map[string][]string{
	"POST /api/orgs":                           {"name", "email", "user_name"},
	"PATCH /api/orgs/{org}":                    {"name", "window_policy"},
	"POST /api/users":                          {"email", "name", "role", "team_id"},
	"PATCH /api/users/{id}":                    {"name", "role", "team_id", "disabled"},
	"POST /api/teams":                          {"name"},
	"PATCH /api/teams/{id}":                    {"name"},
	"POST /api/keys":                           {"name", "user_id", "expires_at", "read_only", "models", "providers", "on_unsupported"},
	"PATCH /api/keys/{id}":                     {"name", "expires_at", "disabled", "read_only", "models", "providers", "on_unsupported"},
	"PUT /api/orgs/{org}/providers/{provider}": {"api_key", "name", "priority"},
	"PUT /api/limits":                          {"scope", "id", "model", "requests_per_minute", "tokens_per_minute", "concurrent_streams"},
	"POST /api/orgs/{org}/providers/test":      {"provider", "name", "api_key"},
	"PUT /api/budgets":                         {"scope", "id", "period", "limit_usd", "mode"},
	"POST /api/router/choose":                  {"message", "context_size", "thread_id"},
	"PUT /api/router/rules":                    {"rules", "aliases", "words"},
	"PATCH /api/threads/{id}":                  {"title", "description", "visibility", "window_policy"},
	"POST /api/threads":                        {"title", "description", "visibility"},
	"POST /api/threads/":                       {"title", "description", "visibility"},
	"POST /api/threads/{id}/messages":          {"content", "role"},
	"POST /api/threads/{id}/fork":              {"sequence", "title", "description", "visibility"},
	"POST /api/threads/{id}/forward":           {"provider", "model", "reason", "content", "max_tokens"},
}

// Whatever the store has a column for, a body that names it and may not is refused, and nothing is changed: nobody gives
// itself an org, a role or seats by mentioning them.
func TestNobodyAssignsWhatIsNotTheirs(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		o := w.orgs[0]
		var columns []string
		for _, of := range w.books.tables {
			columns = append(columns, of...)
		}
		columns = append(columns, "last_used_at", "budget", "is_admin", "password", "__proto__", "constructor")
		slices.Sort(columns)
		columns = slices.Compact(columns)
		before := w.rows(t)
		asked := 0
		for _, route := range slices.Sorted(maps.Keys(routes)) {
			method, pattern, _ := strings.Cut(route, " ")
			if !strings.HasPrefix(pattern, "/api/") || method == "GET" || method == "DELETE" {
				continue
			}
			a := cell{route, "own", "admin"}.ask(t, o)
			for _, column := range columns {
				if column == "org_id" || slices.Contains(accepted[route], column) {
					continue // it is told apart by its value, which other tests are about
				}
				body := a.body
				if body == "" {
					body = "{}"
				}
				if gjson.Get(body, column).Exists() {
					t.Errorf("%s takes %s, and its row in accepted does not say so", route, column)
					continue
				}
				body = strings.Replace(`{"`+column+`":"x",`+body[1:], ",}", "}", 1)
				r, err := w.Do(t.Context(), method, a.path, o.keys["admin"], body)
				if err != nil {
					t.Fatal(err)
				}
				asked++
				if told := errorObject(t, route, r); r.Status != 400 || told.Code != "unknown_parameter" || told.Param != column {
					t.Errorf("%s with %s: %d %s", route, column, r.Status, r.Body)
				}
			}
		}
		for i, after := range w.rows(t) {
			if changes := before[i].changes(after); changes != "" {
				t.Errorf("rows of %s changed:\n%s", w.orgs[i].id, changes)
			}
		}
		if asked < 500 {
			t.Errorf("only %d bodies were sent", asked)
		}
	})
}
