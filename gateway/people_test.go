package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/internal/id"
	"threadhub/orgs"
	routing "threadhub/router"
)

// as is header for a request with another key than the admin's.
func as(key string) []string { return []string{"Authorization", "Bearer " + key} }

// made posts body and returns what was made.
func (h *house) made(path, body string, header ...string) map[string]any {
	h.t.Helper()
	return h.do("POST", path, body, header...).want(h.t, 201).json(h.t)
}

// person makes a user with a key, through the API.
func (h *house) person(email string, role orgs.Role) (user, key string) {
	h.t.Helper()
	user = h.made("/api/users", fmt.Sprintf(`{"email":%q,"role":%q}`, email, role))["id"].(string)
	return user, h.made("/api/keys", fmt.Sprintf(`{"user_id":%q}`, user))["api_key"].(string)
}

func names(m map[string]any) string {
	var list []string
	for name := range m {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestPeopleByTheAPI(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		org := "/api/orgs/" + string(h.admin.Org)
		team := h.made("/api/teams", `{"name":"ops"}`)
		user := h.made("/api/users", `{"email":"Bob@house.test","name":"Bob","team_id":"`+team["id"].(string)+`","org_id":"`+string(h.admin.Org)+`"}`)
		key := h.made("/api/keys", `{"user_id":"`+user["id"].(string)+`","name":"ci","expires_at":"2199-01-31T12:00:00+01:00","models":["gpt-5*"],"providers":["openai"],"read_only":true}`)
		for what, c := range map[string][2]string{
			"team": {names(team), "created_at id name org_id"},
			"user": {names(user), "created_at disabled email id name org_id role team_id"},
			"key":  {names(key), "api_key created_at disabled expires_at id models name on_unsupported org_id providers read_only revoked user_id"},
		} {
			if c[0] != c[1] {
				t.Errorf("a %s has %s", what, c[0])
			}
		}
		if user["email"] != "bob@house.test" || user["role"] != "member" || user["disabled"] != false || key["expires_at"] != "2199-01-31T11:00:00Z" {
			t.Errorf("made %v, %v", user, key)
		}
		for _, thing := range []map[string]any{team, user, key} {
			path := map[string]string{"team_": "/api/teams/", "usr_": "/api/users/"}[thing["id"].(string)[:max(0, strings.Index(thing["id"].(string), "_")+1)]]
			if path == "" {
				path = "/api/keys/"
			}
			got := h.do("GET", path+thing["id"].(string), "").want(t, 200).json(t)
			if delete(thing, "api_key"); fmt.Sprint(got) != fmt.Sprint(thing) {
				t.Errorf("made %v, is %v", thing, got)
			}
			list := h.do("GET", strings.TrimSuffix(path, "/"), "").want(t, 200).json(t)
			if first := list["data"].([]any)[0]; fmt.Sprint(first) != fmt.Sprint(thing) || list["next_cursor"] != nil {
				t.Errorf("listed as %v", list)
			}
		}

		got := h.do("PATCH", "/api/users/"+user["id"].(string), `{"role":"viewer","team_id":null,"name":null}`).want(t, 200).json(t)
		if got["role"] != "viewer" || got["team_id"] != nil || got["name"] != "" {
			t.Errorf("changed to %v", got)
		}
		got = h.do("PATCH", "/api/keys/"+key["id"].(string), `{"expires_at":null,"models":null,"read_only":false,"disabled":true}`).want(t, 200).json(t)
		if got["expires_at"] != nil || fmt.Sprint(got["models"], got["providers"]) != "[] [openai]" || got["read_only"] != false || got["disabled"] != true {
			t.Errorf("changed to %v", got)
		}
		h.do("PATCH", "/api/teams/"+team["id"].(string), `{"name":"web"}`).want(t, 200)
		got = h.do("PATCH", org, `{"name":"Home","window_policy":"refuse"}`).want(t, 200).json(t)
		if names(got) != "created_at id name seats tier window_policy" || got["name"] != "Home" || got["window_policy"] != "refuse" {
			t.Errorf("changed to %v", got)
		}
		list := h.do("GET", "/api/orgs", "").want(t, 200).json(t)
		if fmt.Sprint(list["data"]) != fmt.Sprint([]any{got}) || list["next_cursor"] != nil {
			t.Errorf("listed as %v", list)
		}
		for _, path := range []string{"/api/keys/" + key["id"].(string), "/api/teams/" + team["id"].(string), "/api/users/" + user["id"].(string)} {
			gone := h.do("DELETE", path, "").want(t, 200).json(t)
			if gone["deleted"] != true || !strings.HasSuffix(path, gone["id"].(string)) {
				t.Errorf("%s: %v", path, gone)
			}
		}
		if got := h.do("GET", "/api/keys/"+key["id"].(string), "").want(t, 200).json(t); got["revoked"] != true {
			t.Errorf("a revoked key is %v", got)
		}
		if code := h.do("DELETE", "/api/users/"+string(h.admin.User), "").want(t, 409).code(); code != "last_admin" {
			t.Errorf("the last admin: %s", code)
		}

		var done []string
		next := ""
		for {
			page := h.do("GET", org+"/audit?limit=4"+next, "").want(t, 200).json(t)
			for _, l := range page["data"].([]any) {
				line := l.(map[string]any)
				if names(line) != "action at detail key_id seq target user_id" {
					t.Errorf("a line has %s", names(line))
				}
				done = append(done, line["action"].(string))
				if own := line["user_id"] == string(h.admin.User) && line["key_id"] == string(h.admin.Key); own == (line["seq"].(float64) <= 5) {
					t.Errorf("done by another: %v", line)
				}
			}
			if page["next_cursor"] == nil {
				break
			}
			next = "&cursor=" + page["next_cursor"].(string)
		}
		slices.Reverse(done)
		want := "org.create user.create key.create provider_key.put provider_key.put team.create user.create key.create user.update " +
			"key.update team.update org.update key.delete team.delete user.delete"
		if strings.Join(done, " ") != want {
			t.Errorf("the log: %v\nwant %s", done, want)
		}
		if strings.Contains(h.log.String(), "bob@house.test") {
			t.Error("the process's log holds an address")
		}
	})
}

func TestOrgsByTheAPI(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		made := h.made("/api/orgs", `{"name":"house","email":"zoe@other.test","user_name":"Zoe"}`)
		if names(made) != "api_key created_at id key name seats tier user window_policy" || made["id"] == string(h.admin.Org) {
			t.Fatalf("made %v", made)
		}
		key := made["api_key"].(string)
		if got := h.do("GET", "/api/users", "", as(key)...).want(t, 200).json(t); !strings.Contains(fmt.Sprint(got), "zoe@other.test") ||
			strings.Contains(fmt.Sprint(got), "admin@house.test") {
			t.Errorf("its users: %v", got)
		}
		h.do("DELETE", "/api/orgs/"+string(h.admin.Org), "", as(key)...).want(t, 404)
		h.do("DELETE", "/api/orgs/"+made["id"].(string), "", as(key)...).want(t, 200)
		h.do("GET", "/api/orgs", "", as(key)...).want(t, 401)
		h.do("GET", "/api/orgs", "").want(t, 200)
	})
	h := newHouse(t, stores["sqlite"](t), Options{FixedOrgs: true})
	if code := h.do("POST", "/api/orgs", `{"name":"x","email":"zoe@other.test"}`).want(t, 403).code(); code != "permission_denied" {
		t.Errorf("where the operator makes orgs: %s", code)
	}
}

// A change that names nothing changes nothing, of whatever thing.
func TestAnEmptyChange(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		user, _ := h.person("bob@house.test", orgs.Member)
		for _, path := range []string{
			"/api/teams/" + h.made("/api/teams", `{"name":"ops"}`)["id"].(string), "/api/users/" + user, "/api/keys/" + string(h.admin.Key),
			"/api/orgs/" + string(h.admin.Org), "/api/threads/" + string(h.newThread(`"title":"x"`)),
		} {
			before := h.do("GET", path, "").want(t, 200).json(t)
			delete(before, "messages")
			if got := h.do("PATCH", path, `{}`).want(t, 200).json(t); fmt.Sprint(got) != fmt.Sprint(before) {
				t.Errorf("%s was %v, is %v", path, before, got)
			}
		}
		for body, status := range map[string]int{`{"name":null}`: 400, `{"name":""}`: 400, `{}`: 404} {
			h.do("PATCH", "/api/teams/team_absent", body).want(t, status)
		}
	})
}

func TestOrgsAreCounted(t *testing.T) {
	clock := newClock()
	h := newHouse(t, stores["sqlite"](t), Options{Now: clock.now})
	other := h.seed("other", "admin@other.test", orgs.Admin)
	const body = `{"name":"x","email":"zoe@x.test"}`
	for range orgsPerHour {
		h.made("/api/orgs", body)
		clock.advance(time.Minute)
	}
	lines := func() int {
		return len(h.do("GET", "/api/orgs/org_house/audit?limit=100", "").want(t, 200).json(t)["data"].([]any))
	}
	before := lines()
	if r := h.do("POST", "/api/orgs", body).want(t, 429); r.code() != "rate_limit_exceeded" || r.header.Get("Retry-After") != "3000" {
		t.Errorf("Retry-After %s: %s", r.header.Get("Retry-After"), r.body)
	}
	if lines() != before {
		t.Error("what was refused is written down as asked for")
	}
	h.made("/api/orgs", body, as(other.APIKey.Reveal())...) // each org for itself
	clock.advance(50 * time.Minute)
	h.made("/api/orgs", body)
}

// Members have their own keys, and others' are not there for them; viewers look at their own.
func TestWhoseKeys(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		bob, member := h.person("bob@house.test", orgs.Member)
		_, viewer := h.person("vic@house.test", orgs.Viewer)
		adminKey := string(h.admin.Key)
		list := func(key string) string {
			return fmt.Sprint(h.do("GET", "/api/keys", "", as(key)...).want(t, 200).json(t)["data"])
		}
		if own := list(member); !strings.Contains(own, bob) || strings.Contains(own, adminKey) || strings.Count(own, "user_id") != 1 {
			t.Errorf("a member sees %s", own)
		}
		if strings.Count(list(viewer), "user_id") != 1 || strings.Count(list(h.admin.APIKey.Reveal()), "user_id") != 3 {
			t.Error("a viewer sees more than its own, or an admin less than all")
		}
		own := h.made("/api/keys", `{"name":"second"}`, as(member)...)
		if own["user_id"] != bob {
			t.Errorf("made for %v", own["user_id"])
		}
		const absent = "k00000000000"
		for _, name := range []string{adminKey, absent} {
			for _, method := range []string{"GET", "PATCH", "DELETE"} {
				r := h.do(method, "/api/keys/"+name, "", as(member)...)
				if r.status != 404 || r.code() != "key_not_found" {
					t.Errorf("%s %s by a member: %d %s", method, name, r.status, r.body)
				}
			}
		}
		h.do("POST", "/api/keys", `{"user_id":"`+string(h.admin.User)+`"}`, as(member)...).want(t, 404)
		h.do("PATCH", "/api/keys/"+own["id"].(string), `{}`, as(member)...).want(t, 403)
		h.do("DELETE", "/api/keys/"+own["id"].(string), "", as(member)...).want(t, 200)
		h.do("GET", "/v1/models", "", as(own["api_key"].(string))...).want(t, 401)
		h.do("POST", "/api/keys", `{}`, as(viewer)...).want(t, 403)
		if got := h.do("GET", "/v1/models", "", as(viewer)...).status; got == 401 {
			t.Error("the viewer's key is gone")
		}
	})
}

// Nobody gets more out of a key than was put into it.
func TestARestrictedKeyMakesNoOther(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for name, c := range map[string]struct{ spec, code string }{
			"read only": {`{"read_only":true}`, "permission_denied"},
			"models":    {`{"models":["gpt-5*"]}`, "key_restricted"},
			"providers": {`{"providers":["openai"]}`, "key_restricted"},
			"expiring":  {`{"expires_at":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"}`, "key_restricted"},
		} {
			key := h.made("/api/keys", c.spec)
			for _, ask := range []string{"POST /api/keys", "PATCH /api/keys/" + key["id"].(string), "PATCH /api/keys/" + string(h.admin.Key)} {
				method, path, _ := strings.Cut(ask, " ")
				if r := h.do(method, path, `{}`, as(key["api_key"].(string))...); r.status != 403 || r.code() != c.code {
					t.Errorf("%s, %s: %d %s", name, ask, r.status, r.body)
				}
			}
			r := h.do("POST", "/api/orgs", `{"name":"x","email":"zoe@other.test"}`, as(key["api_key"].(string))...)
			if r.status != 403 || r.code() != c.code {
				t.Errorf("%s, an org: %d %s", name, r.status, r.body)
			}
		}
	})
}

// A key that is good for less than everything administers nothing: by what it changed somebody could do more.
func TestANarrowKeyAdministersNothing(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		own := h.made("/api/keys", `{"models":["gpt-5*"]}`)
		narrow := as(own["api_key"].(string))
		expiring := as(h.made("/api/keys", `{"expires_at":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}`)["api_key"].(string))
		user, _ := h.person("eve@house.test", orgs.Viewer)
		names := strings.NewReplacer("{org}", string(h.admin.Org), "{provider}", "openai", "{id}", user)
		asked := 0
		for _, route := range h.Routes() {
			if route.Needs != Admin || route.Method == "GET" || strings.HasPrefix(route.Pattern, "/api/keys") || strings.HasPrefix(route.Pattern, "/api/teams/") || strings.HasPrefix(route.Pattern, "/api/budgets/") {
				continue
			}
			asked++
			if r := h.do(route.Method, names.Replace(route.Pattern), `{}`, narrow...); r.status != 403 || r.code() != "key_restricted" {
				t.Errorf("%s %s: %d %s", route.Method, route.Pattern, r.status, r.body)
			}
		}
		if asked < 8 {
			t.Errorf("only %d routes were asked", asked)
		}
		h.do("GET", "/api/users", "", narrow...).want(t, 200)
		for _, key := range []id.Key{h.admin.Key, id.Key(own["id"].(string))} {
			r := h.do("DELETE", "/api/keys/"+string(key), "", narrow...)
			if itself := string(key) == own["id"]; itself != (r.status == 200) || !itself && r.code() != "key_restricted" {
				t.Errorf("revoking %s, itself %v: %d %s", key, itself, r.status, r.body)
			}
		}
		h.do("GET", "/api/users", "", narrow...).want(t, 401)
		h.do("GET", "/api/users", "").want(t, 200)
		h.do("PATCH", "/api/users/"+user, `{"role":"member"}`, expiring...).want(t, 200)
	})
}

type fixedModels []Model

func (m fixedModels) Models(context.Context, orgs.Caller) ([]Model, error) {
	return slices.Clone(m), nil
}

// What a key may not be used for is asked of nobody and stored nowhere, and is not among its models. auto is, where a rule leads to one of them.
func TestAKeyIsGoodForWhatItSays(t *testing.T) {
	t.Parallel()
	models := fixedModels{
		{ID: "gpt-5-mini", OwnedBy: "openai", Target: routing.Target{Provider: "openai", Model: "gpt-5-mini"}},
		{ID: "openai/gpt-4o", OwnedBy: "openai", Target: routing.Target{Provider: "openai", Model: "gpt-4o"}},
		{ID: "openrouter/anthropic/claude-sonnet-5.5", OwnedBy: "openrouter", Target: routing.Target{Provider: "openrouter", Model: "anthropic/claude-sonnet-5.5"}},
	}
	eachHouse(t, Options{Models: models}, func(t *testing.T, h *house) {
		for spec, c := range map[string]struct{ good, bad, shown string }{
			`{"models":["gpt-5*"]}`:                               {"gpt-5-mini", "openai/gpt-4o", "auto gpt-5-mini"},
			`{"models":["openai/gpt-4o"]}`:                        {"openai/gpt-4o", "gpt-5-mini", "openai/gpt-4o"},
			`{"models":["openrouter/*"]}`:                         {"openrouter/anthropic/claude-sonnet-5.5", "gpt-5-mini", "auto openrouter/anthropic/claude-sonnet-5.5"},
			`{"models":["openai/*"]}`:                             {"openai/gpt-4o", "openrouter/openai/gpt-4o", "auto gpt-5-mini openai/gpt-4o"},
			`{"providers":["openrouter"]}`:                        {"openrouter/anthropic/claude-sonnet-5.5", "openai/gpt-4o", "auto openrouter/anthropic/claude-sonnet-5.5"},
			`{"providers":["openai"],"models":["*4o","nothing"]}`: {"openai/gpt-4o", "openrouter/openai/gpt-4o", "openai/gpt-4o"},
		} {
			key := as(h.made("/api/keys", spec)["api_key"].(string))
			asked := len(h.attempts())
			body := func(model string) string {
				return `{"model":"` + model + `","messages":[{"role":"user","content":"hi"}]}`
			}
			r := h.do("POST", "/v1/chat/completions", body(c.bad), append(key, "X-Thread-Id", "t1")...)
			if r.status != 403 || r.code() != "model_not_allowed" {
				t.Errorf("%s, %s: %d %s", spec, c.bad, r.status, r.body)
			}
			if h.do("GET", "/api/threads/t1", "").status != 404 || len(h.attempts()) != asked {
				t.Errorf("%s: something was stored, or somebody asked", spec)
			}
			h.do("POST", "/v1/chat/completions", body(c.good), key...).want(t, 200)
			var shown []string
			for _, m := range h.do("GET", "/v1/models", "", key...).want(t, 200).json(t)["data"].([]any) {
				shown = append(shown, m.(map[string]any)["id"].(string))
			}
			if strings.Join(shown, " ") != c.shown {
				t.Errorf("%s: its models are %v", spec, shown)
			}
			h.do("GET", "/v1/models/"+c.bad, "", key...).want(t, 404)
			chosen := h.do("POST", "/api/router/choose", `{"message":"hello"}`, key...)
			if auto := strings.HasPrefix(c.shown, "auto"); auto != (chosen.status == 200) || !auto && chosen.code() != "model_not_allowed" {
				t.Errorf("%s: a dry run says %d %s", spec, chosen.status, chosen.body)
			}
		}
	})
}

func TestAReadOnlyKeyReads(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		key := as(h.made("/api/keys", `{"read_only":true}`)["api_key"].(string))
		for _, r := range h.Routes() {
			if r.Needs == Open || strings.Contains(r.Pattern, "{") {
				continue
			}
			got := h.do(r.Method, r.Pattern, `{}`, key...)
			if denied := got.status == 403 && got.code() == "permission_denied"; denied != (r.Needs > Read) {
				t.Errorf("%s %s: %d %s", r.Method, r.Pattern, got.status, got.body)
			}
		}
		h.do("GET", "/api/orgs/"+string(h.admin.Org)+"/audit", "", key...).want(t, 403)
	})
}

func TestMatches(t *testing.T) {
	f := func(pattern, name string, want bool) {
		t.Helper()
		if routing.Matches(pattern, name) != want {
			t.Errorf("%q and %q: %v", pattern, name, !want)
		}
	}
	f("gpt-5", "gpt-5", true)
	f("gpt-5", "gpt-5-mini", false)
	f("gpt-5*", "gpt-5", true)
	f("gpt-5*", "gpt-4", false)
	f("openai/*", "openai/a/b", true)
	f("openai/*", "openrouter/openai/b", false)
	f("*", "", true)
	f("*mini", "gpt-5-mini", true)
	f("*mini", "minimum", false)
	f("a*a", "a", false)
	f("a*a", "aa", true)
	f("*a*b*", "xxaxxbxx", true)
	f("*a*b*", "xxbxxaxx", false)
	f("**", "x", true)
	f(strings.Repeat("*a", 100)+"b", strings.Repeat("a", 100_000), false)
}

func TestFieldsOfABody(t *testing.T) {
	h := newHouse(t, stores["sqlite"](t), Options{})
	for _, c := range []struct{ ask, body, code, param string }{
		{"POST /api/users", `{}`, "invalid_email", "email"},
		{"POST /api/users", `{"email":7}`, "invalid_type", "email"},
		{"POST /api/users", `{"email":"a@b.test","name":"a\u0000"}`, "invalid_value", "name"},
		{"POST /api/users", `{"email":"a@b.test","role":"owner"}`, "invalid_role", "role"},
		{"POST /api/users", `{"email":"a@b.test","password":"x"}`, "unknown_parameter", "password"},
		{"POST /api/users", `{"email":"a@b.test","email":"c@d.test"}`, "duplicate_parameter", "email"},
		{"PATCH /api/users/usr_x", `{"disabled":null}`, "invalid_type", "disabled"},
		{"PATCH /api/users/usr_x", `{"disabled":"yes"}`, "invalid_type", "disabled"},
		{"PATCH /api/users/usr_x", `{"email":"new@b.test"}`, "unknown_parameter", "email"},
		{"POST /api/teams", `{"name":" "}`, "invalid_name", "name"},
		{"POST /api/keys", `{"expires_at":"tomorrow"}`, "invalid_type", "expires_at"},
		{"POST /api/keys", `{"expires_at":"2001-01-01T00:00:00Z"}`, "invalid_expiry", "expires_at"},
		{"POST /api/keys", `{"expires_at":"9999-01-01T00:00:00Z"}`, "invalid_expiry", "expires_at"},
		{"POST /api/keys", `{"models":"gpt-5"}`, "invalid_type", "models"},
		{"POST /api/keys", `{"models":[""]}`, "invalid_models", "models"},
		{"POST /api/keys", `{"models":[7]}`, "invalid_type", "models"},
		{"POST /api/keys", `{"providers":["acme"]}`, "invalid_providers", "providers"},
		{"POST /api/orgs", `{"email":"a@b.test"}`, "invalid_name", "name"},
		{"POST /api/orgs", `{"name":"x"}`, "invalid_email", "email"},
		{"PATCH /api/orgs/org_house", `{"window_policy":null}`, "invalid_window_policy", "window_policy"},
		{"PATCH /api/orgs/org_house", `{"seats":1000}`, "unknown_parameter", "seats"},
	} {
		method, path, _ := strings.Cut(c.ask, " ")
		r := h.do(method, path, c.body)
		if r.status != 400 || r.code() != c.code || fmt.Sprint(r.json(t)["error"].(map[string]any)["param"]) != c.param {
			t.Errorf("%s %s: %d %s", c.ask, c.body, r.status, r.body)
		}
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "cursor=x", "cursor=MSA", "cursor=" + strings.Repeat("A", 9)} {
		for _, path := range []string{"/api/users", "/api/teams", "/api/keys", "/api/orgs/org_house/audit"} {
			if path != "/api/orgs/org_house/audit" || !strings.HasPrefix(query, "cursor=MSA") {
				if r := h.do("GET", path+"?"+query, ""); r.status != 400 {
					t.Errorf("%s?%s: %d", path, query, r.status)
				}
			}
		}
	}
	lines := h.do("GET", "/api/orgs/org_house/audit", "").want(t, 200).json(t)["data"].([]any)
	if len(lines) != 5 {
		t.Errorf("what was refused was written down: %v", lines)
	}
}

// Of two members that are no good the same one is named each time.
func TestTheFirstBadMemberIsNamed(t *testing.T) {
	h := newHouse(t, stores["sqlite"](t), Options{})
	thread := string(h.newThread(""))
	for ask, c := range map[string]struct{ body, param string }{
		"POST /api/threads":                           {`{"visibility":1,"description":1,"title":1}`, "title"},
		"PATCH /api/threads/" + thread:                {`{"window_policy":1,"visibility":1,"description":1}`, "description"},
		"POST /api/threads/" + thread + "/fork":       {`{"visibility":1,"title":"\u0000","description":"\u0000"}`, "title"},
		"POST /api/threads/" + thread + "/forward":    {`{"reason":1,"model":1,"provider":1}`, "provider"},
		"POST /api/threads/" + thread + "/messages":   {`{"content":1,"role":1}`, "role"},
		"PUT /api/orgs/org_house/providers/openai":    {`{"api_key":1,"priority":"x","name":1}`, "name"},
		"POST /api/orgs/org_house/providers/test":     {`{"api_key":1,"name":1,"provider":1}`, "provider"},
		"POST /api/users":                             {`{"role":1,"name":1,"email":1}`, "email"},
		"PATCH /api/threads/" + thread + "?again=yes": {`{"title":"\u0000","description":"\u0000"}`, "title"},
	} {
		method, path, _ := strings.Cut(ask, " ")
		for range 50 {
			r := h.do(method, path, c.body).want(t, 400)
			if got := r.json(t)["error"].(map[string]any)["param"]; got != c.param {
				t.Fatalf("%s %s: %s", ask, c.body, r.body)
			}
		}
	}
}

// A body may name the caller's org, in each way the same, and no other.
func TestABodyMayNameTheOwnOrg(t *testing.T) {
	h := newHouse(t, stores["sqlite"](t), Options{})
	h.chat("hi", "", "X-Thread-Id", "t").want(t, 200)
	for ask, members := range map[string]string{
		"POST /api/threads":                        `"title":"x"`,
		"PATCH /api/threads/t":                     `"title":"x"`,
		"POST /api/threads/t/fork":                 `"title":"x"`,
		"POST /api/threads/t/messages":             `"content":"x"`,
		"POST /api/threads/t/forward":              `"provider":"openai","model":"gpt-5-mini"`,
		"PUT /api/orgs/org_house/providers/openai": `"api_key":"sk-another-one"`,
		"POST /api/orgs/org_house/providers/test":  `"provider":"openai"`,
		"POST /api/teams":                          `"name":"x"`,
	} {
		method, path, _ := strings.Cut(ask, " ")
		for org, good := range map[string]bool{`"org_house"`: true, `null`: true, `""`: true, `"org_other"`: false} {
			if method+path == "POST/api/teams" {
				members = fmt.Sprintf(`"name":%q`, "team of "+org)
			}
			r := h.do(method, path, `{"org_id":`+org+`,`+members+`}`)
			if good != (r.status < 300) || !good && (r.status != 404 || r.code() != "not_found") {
				t.Errorf("%s, org_id %s: %d %s", ask, org, r.status, r.body)
			}
		}
	}
}
