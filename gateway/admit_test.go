package gateway

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"threadhub/orgs"
)

// One key, in one place, or none is taken.
func TestCarriers(t *testing.T) {
	e := newEdge(t, Options{Models: fakeModels{}}).serveTCP()
	for name, c := range map[string]struct {
		target  string
		headers []string
		status  int
		code    string
	}{
		"bearer":                  {"/v1/models", []string{bearer(memberKey)}, 200, ""},
		"bearer in lower case":    {"/v1/models", []string{"authorization: bearer " + memberKey}, 200, ""},
		"x-api-key":               {"/v1/models", []string{"x-api-key: " + memberKey}, 200, ""},
		"api-key":                 {"/v1/models", []string{"api-key: " + memberKey}, 200, ""},
		"none":                    {"/v1/models", nil, 401, "missing_api_key"},
		"bearer and nothing":      {"/v1/models", []string{"Authorization: Bearer"}, 401, "missing_api_key"},
		"basic":                   {"/v1/models", []string{"Authorization: Basic dTpw"}, 401, "invalid_api_key"},
		"unknown":                 {"/v1/models", []string{bearer("th_nobody")}, 401, "invalid_api_key"},
		"very long":               {"/v1/models", []string{bearer(strings.Repeat("x", 600))}, 401, "invalid_api_key"},
		"cookie":                  {"/v1/models", []string{"Cookie: key=" + memberKey}, 401, "missing_api_key"},
		"store is away":           {"/v1/models", []string{bearer("th_down")}, 503, "storage_unavailable"},
		"bearer and x-api-key":    {"/v1/models", []string{bearer(memberKey), "x-api-key: " + memberKey}, 400, "multiple_api_keys"},
		"bearer and api-key":      {"/v1/models", []string{bearer(memberKey), "api-key: " + viewerKey}, 400, "multiple_api_keys"},
		"basic and x-api-key":     {"/v1/models", []string{"Authorization: Basic dTpw", "x-api-key: " + memberKey}, 400, "multiple_api_keys"},
		"empty one beside":        {"/v1/models", []string{"x-api-key:", "api-key: " + memberKey}, 400, "multiple_api_keys"},
		"two bearers":             {"/v1/models", []string{bearer(memberKey), bearer(memberKey)}, 400, "multiple_api_keys"},
		"two x-api-keys":          {"/v1/models", []string{"x-api-key: a", "X-Api-Key: b"}, 400, "multiple_api_keys"},
		"in the query":            {"/v1/models?api_key=" + memberKey, nil, 400, "api_key_in_query"},
		"in the query, as Google": {"/v1/models?key=abc", []string{bearer(memberKey)}, 400, "api_key_in_query"},
		"in the query, encoded":   {"/v1/models?x=%74h_abc", []string{bearer(memberKey)}, 400, "api_key_in_query"},
		"in the query, by case":   {"/v1/models?API_KEY=abc", []string{bearer(memberKey)}, 400, "api_key_in_query"},
		"a space inside":          {"/v1/models", []string{"x-api-key: th a"}, 400, "malformed_api_key"},
		"a tab inside":            {"/v1/models", []string{"Authorization: Bearer th\ta"}, 400, "malformed_api_key"},
		"a byte beyond ASCII":     {"/v1/models", []string{"api-key: th_\xc3\xa9"}, 400, "malformed_api_key"},
		"another query is fine":   {"/v1/models?limit=3", []string{bearer(memberKey)}, 200, ""},
	} {
		r := e.do("GET", c.target, "", c.headers...)
		if r.status != c.status || r.code() != c.code {
			t.Errorf("%s: %d %s, want %d %s: %s", name, r.status, r.code(), c.status, c.code, r.body)
		}
		if (r.status == 401) != (r.header.Get("Www-Authenticate") != "") {
			t.Errorf("%s: WWW-Authenticate is %q", name, r.header.Get("Www-Authenticate"))
		}
		if strings.Contains(r.body, memberKey) {
			t.Errorf("%s: the answer holds the key", name)
		}
	}
	if strings.Contains(e.log.String(), memberKey) || strings.Contains(e.log.String(), "th_nobody") {
		t.Error("the log holds a key")
	}
}

// An authenticator that is not there opens no door.
func TestNobodyToAsk(t *testing.T) {
	e := newEdge(t, Options{})
	e.opts.Orgs = nil
	e.serveTCP()
	if r := e.do("GET", "/v1/models", "", bearer(adminKey)); r.status != 503 {
		t.Errorf("%v", r)
	}
}

func TestRoles(t *testing.T) {
	e := newEdge(t, Options{Models: fakeModels{}, ProviderKeys: &fakeKeys{}}).serveTCP()
	for _, c := range []struct {
		method, target, key string
		status              int
	}{
		{"GET", "/health", "", 200},
		{"GET", "/v1/models", viewerKey, 200},
		{"POST", "/t/write", viewerKey, 403},
		{"POST", "/t/write", memberKey, 200},
		{"POST", "/t/write", adminKey, 200},
		{"GET", "/api/orgs/org_a/providers/status", viewerKey, 403},
		{"GET", "/api/orgs/org_a/providers/status", memberKey, 403},
		{"GET", "/api/orgs/org_a/providers/status", adminKey, 200},
		{"PUT", "/api/orgs/org_a/providers/openai", memberKey, 403},
		{"DELETE", "/api/orgs/org_a/providers/openai", viewerKey, 403},
		{"DELETE", "/api/orgs/org_a/providers/openai", adminKey, 200},
	} {
		r := e.do(c.method, c.target, "", bearer(c.key))
		if r.status != c.status || c.status == 403 && (r.code() != "permission_denied" || r.header.Get("X-Should-Retry") != "false") {
			t.Errorf("%s %s as %s: %d, want %d: %s", c.method, c.target, c.key, r.status, c.status, r.body)
		}
	}
	for _, role := range []orgs.Role{"", "owner", "Admin"} {
		for need := Read; need <= Admin; need++ {
			if may(role, need) {
				t.Errorf("the unknown role %q may %s", role, need)
			}
		}
	}
}

// Every route but those named here asks for a key. A new one that does not must be put on the list.
func TestOpenRoutes(t *testing.T) {
	open := map[string]bool{"GET /health": true}
	e := newEdge(t, Options{}).serveTCP()
	for _, r := range e.routes() {
		name := r.Method + " " + r.Pattern
		if (r.Needs == Open) != open[name] {
			t.Errorf("%s needs %s", name, r.Needs)
		}
		if r.Needs == Open {
			continue
		}
		target := strings.NewReplacer("{", "", "}", "", "...", "").Replace(r.Pattern)
		if got := e.do(r.Method, target, ""); got.status != 401 {
			t.Errorf("%s without a key: %d", name, got.status)
		}
	}
}

func TestOrgIDInQuery(t *testing.T) {
	e := newEdge(t, Options{ProviderKeys: &fakeKeys{}}).serveTCP()
	const path = "/api/orgs/org_a/providers/status"
	if r := e.do("GET", path+"?org_id=org_a", "", bearer(adminKey)); r.status != 200 {
		t.Errorf("own org: %v", r)
	}
	for _, q := range []string{"?org_id=org_b", "?org_id=", "?org_id=org_a&org_id=org_b", "?org_id=org_b&org_id=org_a", "?org%5Fid=org_b"} {
		if r := e.do("GET", path+q, "", bearer(adminKey)); r.status != 404 {
			t.Errorf("%s: %d", q, r.status)
		}
	}
}

// What is foreign is not there for any role: a role that may not do it at home is told nothing else.
func TestForeignBeforeRole(t *testing.T) {
	e := newEdge(t, Options{ProviderKeys: &fakeKeys{}}).serveTCP()
	for _, key := range []string{memberKey, viewerKey} {
		for target, want := range map[string]int{
			"/api/orgs/org_a/providers/openai": 403, "/api/orgs/org_b/providers/openai": 404, "/api/orgs/org_none/providers/openai": 404,
			"/api/orgs/org_a/providers/openai?org_id=org_b": 404,
		} {
			if r := e.do("PUT", target, `{"api_key":"sk-good-enough"}`, bearer(key)); r.status != want {
				t.Errorf("%s: %v, want %d", target, r, want)
			}
		}
	}
}

// A foreign thing and one that does not exist are alike to the byte, but for the request id.
func TestForeignIsAbsent(t *testing.T) {
	e := newEdge(t, Options{ProviderKeys: &fakeKeys{}}).serveTCP()
	var first reply
	for i, target := range []string{
		"/api/orgs/org_b/providers/openai", "/api/orgs/org_none/providers/openai", "/api/orgs/org_b/providers/nobody",
		"/api/orgs/org_a/providers/nobody", "/api/orgs/org_a/providers/openai?org_id=org_b",
	} {
		for _, method := range []string{"PUT", "DELETE"} {
			r := e.do(method, target, "", bearer(adminKey))
			for _, h := range []string{"X-Request-Id", "Date"} {
				r.header.Del(h)
			}
			if i == 0 && method == "PUT" {
				first = r
			}
			if r.status != 404 || r.body != first.body || len(r.header) != len(first.header) {
				t.Errorf("%s %s: %v, want %v", method, target, r, first)
			}
		}
	}
}

func TestAcceptable(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	for _, c := range []struct {
		header string
		status int
		param  string
	}{
		{"Content-Type: application/json", 200, ""},
		{"Content-Type: Application/JSON; charset=utf-8", 200, ""},
		{"Content-Type: application/vnd.api+json", 200, ""},
		{"X-Nothing: no type at all", 200, ""},
		{"Content-Type: text/plain", 415, "Content-Type"},
		{"Content-Type: application/x-www-form-urlencoded", 415, "Content-Type"},
		{"Content-Type: multipart/form-data; boundary=x", 415, "Content-Type"},
		{"Content-Encoding: gzip", 415, "Content-Encoding"},
		{"Content-Encoding: identity", 200, ""},
		{"Idempotency-Key: abc", 400, "Idempotency-Key"},
		{"idempotency-key:", 400, "Idempotency-Key"},
	} {
		r := e.do("POST", "/t/echo", "{}", c.header)
		if r.status != c.status || r.errorField("param") != c.param {
			t.Errorf("%s: %d %s, want %d", c.header, r.status, r.body, c.status)
		}
	}
	if r := e.do("GET", "/t/hit", "", "Idempotency-Key: abc", "Content-Type: text/plain"); r.status != 200 {
		t.Errorf("on a GET: %v", r)
	}
}

// The context of a request is its own, and ends with it.
func TestRequestContext(t *testing.T) {
	var kept context.Context
	look := Route{Method: "GET", Pattern: "/t/ctx", Needs: Open, handler: func(_ *Gateway, x *request) {
		kept = x.ctx
		if x.ctx.Err() != nil {
			t.Error("over before its time")
		}
		x.json(200, "ok")
	}}
	e := newEdge(t, Options{}, look).serveTCP()
	e.do("GET", "/t/ctx", "")
	until(t, "the end of the context", func() bool { return kept.Err() != nil })
}

// A body that was taken is the handler's: fasthttp's next request does not write into it.
func TestBodyIsOwned(t *testing.T) {
	var kept [][]byte
	keep := Route{Method: "POST", Pattern: "/t/keep", Needs: Open, handler: func(_ *Gateway, x *request) {
		kept = append(kept, x.body())
		x.json(200, "ok")
	}}
	e := newEdge(t, Options{}, keep).serveTCP()
	var in strings.Builder
	for i := range 50 {
		in.WriteString("POST /t/keep HTTP/1.1\r\nHost: gw\r\nContent-Length: 100\r\n\r\n" + strings.Repeat(string(rune('A'+i%26)), 100))
	}
	if n := len(e.raw(in.String())); n != 50 {
		t.Fatalf("%d answers", n)
	}
	for i, b := range kept {
		if !bytes.Equal(b, bytes.Repeat([]byte{byte('A' + i%26)}, 100)) {
			t.Fatalf("body %d was overwritten: %s", i, b)
		}
	}
}
