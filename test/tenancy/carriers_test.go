package tenancy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"threadhub/test/rig"
)

// carriers are the ways a key may come in; each is a header's name and what stands before the key in it.
var carriers = map[string][2]string{
	"bearer":    {"Authorization", "Bearer "},
	"lower":     {"authorization", "bearer "},
	"x-api-key": {"X-Api-Key", ""},
	"api-key":   {"api-key", ""},
}

// A key says the same whichever way it comes in.
func TestEveryCarrierIsTheSamePrincipal(t *testing.T) {
	tab := readTable(t)
	eachStore(t, func(t *testing.T, w *world) {
		o := w.orgs[0]
		for name, carrier := range carriers {
			before := w.rows(t)
			for _, c := range tab.cells(func(route string, status int) bool { return status >= 400 || strings.HasPrefix(route, "GET ") }) {
				if c.asker == "nobody" || c.thing == "absent" || c.thing == "malformed" {
					continue
				}
				a := c.ask(t, o)
				r := w.by(t, c, a, "", append([]string{carrier[0], carrier[1] + o.keys[c.asker]}, a.header...)...)
				if r.Status != tab.want(c) {
					t.Errorf("%s, key by %s: status %d, want %d", c, name, r.Status, tab.want(c))
				}
			}
			for i := range w.orgs {
				if changes := before[i].changes(w.rows(t)[i]); changes != "" {
					t.Errorf("refusals and reads, key by %s, changed rows:\n%s", name, changes)
				}
			}
			r := w.Must(t, 200, "GET", "/api/threads/"+o.threads["member"], "", nil, carrier[0], carrier[1]+o.keys["member"])
			if want := w.Must(t, 200, "GET", "/api/threads/"+o.threads["member"], o.keys["member"], nil); string(r.Body) != string(want.Body) {
				t.Errorf("key by %s reads another thread:\n%s\n%s", name, r.Body, want.Body)
			}
			w.Must(t, 200, "POST", "/v1/chat/completions", "", chatBody(o.model, "hi"), carrier[0], carrier[1]+o.keys["member"])
		}
	})
}

// by asks as the header says.
func (w *world) by(t *testing.T, c cell, a ask, query string, header ...string) *rig.Reply {
	t.Helper()
	method, _, _ := strings.Cut(c.route, " ")
	path := a.path
	if query != "" {
		path += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + query
	}
	r, err := w.Do(t.Context(), method, path, "", a.body, header...)
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	return r
}

// What else a request carries is no key, and two are one too many, on every route.
func TestOneKeyInOneOfItsPlaces(t *testing.T) {
	tab := readTable(t)
	eachStore(t, func(t *testing.T, w *world) {
		o := w.orgs[0]
		key := o.keys["admin"]
		bearer := []string{"Authorization", "Bearer " + key}
		type way struct {
			name   string
			header []string
			query  string
			status int
			code   string
		}
		ways := []way{
			{"by a cookie", []string{"Cookie", "session=" + key + "; api_key=" + key + "; Authorization=Bearer " + key}, "", 401, "missing_api_key"},
			{"as basic", []string{"Authorization", "Basic " + key}, "", 401, "invalid_api_key"},
			{"without a scheme", []string{"Authorization", key}, "", 401, "invalid_api_key"},
			{"to a proxy", []string{"Proxy-Authorization", "Bearer " + key}, "", 401, "missing_api_key"},
			{"under another name", []string{"X-Threadhub-Api-Key", key, "X-Authorization", "Bearer " + key}, "", 401, "missing_api_key"},
			{"cut", []string{"Authorization", "Bearer " + key[:len(key)-1]}, "", 401, "invalid_api_key"},
			{"twice, alike", append([]string{"X-Api-Key", key}, bearer...), "", 400, "multiple_api_keys"},
			{"and another one", append([]string{"Api-Key", o.other.keys["admin"]}, bearer...), "", 400, "multiple_api_keys"},
			{"and a bad one", append([]string{"Api-Key", "junk"}, bearer...), "", 400, "multiple_api_keys"},
			{"and an empty one", append([]string{"X-Api-Key", ""}, bearer...), "", 400, "multiple_api_keys"},
		}
		for _, name := range []string{"key", "api_key", "api-key", "API_KEY", "access_token", "token", "x-api-key"} {
			ways = append(ways, way{"in the query as " + name, nil, name + "=" + key, 400, "api_key_in_query"},
				way{"in the query as " + name + " beside a good one", bearer, name + "=junk", 400, "api_key_in_query"})
		}
		ways = append(ways, way{"in the query under any name", bearer, "q=" + key, 400, "api_key_in_query"})
		before := w.rows(t)
		for _, c := range tab.cells(func(route string, _ int) bool { return route != "GET /health" }) {
			if c.asker != "admin" || c.thing != "own" && c.thing != "any" {
				continue
			}
			for _, way := range ways {
				a := c.ask(t, o)
				r := w.by(t, c, a, way.query, slices.Concat(a.header, way.header)...)
				what := fmt.Sprintf("%s, key %s", c, way.name)
				if told := errorObject(t, what, r); r.Status != way.status || told.Code != way.code {
					t.Errorf("%s: %d %s, want %d %s", what, r.Status, told.Code, way.status, way.code)
				}
				if strings.Contains(string(r.Body), key) {
					t.Errorf("%s: the answer quotes the key: %s", what, r.Body)
				}
			}
		}
		// Whoever asks, and for whatever: too many keys, or one in the URL, are refused before it is asked whose they are.
		for _, c := range tab.cells(func(route string, _ int) bool { return route != "GET /health" }) {
			if c.asker == "nobody" {
				continue
			}
			a, key := c.ask(t, o), o.keys[c.asker]
			for _, way := range []way{
				{"twice", []string{"Authorization", "Bearer " + key, "Api-Key", key}, "", 400, "multiple_api_keys"},
				{"in the query", nil, "api_key=" + key, 400, "api_key_in_query"},
			} {
				r := w.by(t, c, a, way.query, slices.Concat(a.header, way.header)...)
				what := fmt.Sprintf("%s, key %s", c, way.name)
				if told := errorObject(t, what, r); r.Status != way.status || told.Code != way.code {
					t.Errorf("%s: %d %s, want %d %s", what, r.Status, told.Code, way.status, way.code)
				}
			}
		}
		for i := range w.orgs {
			if changes := before[i].changes(w.rows(t)[i]); changes != "" {
				t.Errorf("refused requests changed rows:\n%s", changes)
			}
		}
		// The same header line twice.
		for _, line := range []string{"Authorization: Bearer %s\r\nAuthorization: Bearer %[1]s", "X-Api-Key: %s\r\nX-Api-Key: %[1]s", "X-Api-Key: %s\r\nx-api-key: %[1]s"} {
			r, err := w.Raw("POST", fmt.Sprintf(rawChat(line), key))
			if err != nil {
				t.Fatal(err)
			}
			if told := errorObject(t, line, r); r.Status != 400 || told.Code != "multiple_api_keys" {
				t.Errorf("%s: %d %s", line, r.Status, told.Code)
			}
		}
	})
}
