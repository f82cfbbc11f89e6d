package gateway

import (
	"slices"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func TestFind(t *testing.T) {
	rt := newRouter([]Route{
		{Method: "GET", Pattern: "/a"},
		{Method: "POST", Pattern: "/a"},
		{Method: "POST", Pattern: "/a/"},
		{Method: "GET", Pattern: "/a/{id}"},
		{Method: "GET", Pattern: "/a/{id}/b/{n}"},
		{Method: "GET", Pattern: "/m/{id...}"},
	})
	for _, c := range []struct {
		method, path, pattern string
		params                string // joined with |
	}{
		{"GET", "/a", "/a", ""},
		{"HEAD", "/a", "/a", ""},
		{"POST", "/a", "/a", ""},
		{"POST", "/a/", "/a/", ""},
		{"GET", "/a/x", "/a/{id}", "x"},
		{"GET", "/a/x%3Ay", "/a/{id}", "x:y"},
		{"GET", "/a/x/b/7", "/a/{id}/b/{n}", "x|7"},
		{"GET", "/m/gpt-5", "/m/{id...}", "gpt-5"},
		{"GET", "/m/a/b/c", "/m/{id...}", "a/b/c"},
		{"GET", "/m/a%2Fb", "/m/{id...}", "a/b"},
		{"DELETE", "/a", "405 GET, POST", ""},
		{"OPTIONS", "/a/x", "405 GET", ""},
		{"BREW", "/a", "405 GET, POST", ""},
		{"GET", "", "404", ""},
		{"GET", "/", "404", ""},
		{"GET", "/b", "404", ""},
		{"GET", "//a", "404", ""},
		{"GET", "/a//", "404", ""},
		{"GET", "/A", "404", ""},
		{"GET", "/%61", "404", ""},
		{"GET", "/x/../a", "404", ""},
		{"GET", "/./a", "404", ""},
		{"GET", "/a/..", "404", ""},
		{"GET", "/a/.", "404", ""},
		{"GET", "/a/%2e%2e", "404", ""},
		{"GET", "/a/%2e", "404", ""},
		{"GET", "/a/x%2fb%2f7", "404", ""},
		{"GET", "/a%2fx", "404", ""},
		{"GET", "/a/x%00", "404", ""},
		{"GET", "/a/x%0d%0a", "404", ""},
		{"GET", "/a/x%", "404", ""},
		{"GET", "/a/x%zz", "404", ""},
		{"GET", "/a/x%2", "404", ""},
		{"GET", "/a/%c3%a9", "404", ""},
		{"GET", "/m/", "404", ""},
		{"GET", "/m//a", "404", ""},
		{"GET", "/m/a/../b", "404", ""},
		{"GET", "/m/a%2f..%2fb", "404", ""},
		{"GET", "/a;x=1", "404", ""},
		{"GET", "/a/x/b", "404", ""},
		{"GET", "/a/x/b/7/", "404", ""},
	} {
		r, params, err := rt.find([]byte(c.method), c.path)
		got := ""
		switch f := fault.From(err); {
		case err == nil:
			got = r.Pattern
		case f.Kind == fault.Method:
			got = "405 " + f.Param
		case f.Kind == fault.NotFound:
			got = "404"
		}
		if got != c.pattern || strings.Join(params, "|") != c.params {
			t.Errorf("%s %s: %s %q, want %s %q", c.method, c.path, got, params, c.pattern, c.params)
		}
	}
}

// Nothing of the operator's is on the public listener, however it is spelt, and nothing is redirected.
func TestUnknownURLs(t *testing.T) {
	e := newEdge(t, Options{Profiling: true}).serveTCP()
	for _, path := range []string{"/metrics", "/health/live", "/health/ready", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/expvar", "/stats"} {
		for _, spelt := range []string{
			path, "/" + path, path + "/", path + "?x=1", strings.ReplaceAll(path, "/", "%2f"), "/v1/.." + path, "/v1/models/../.." + path,
			"/health/.." + path, "/./" + path[1:], path + "%00", path + ";a", "/%2e" + path, strings.ToUpper(path),
		} {
			target := spelt
			if target[0] != '/' {
				target = "/" + target
			}
			r := e.do("GET", target, "", bearer(adminKey))
			if r.status != 404 || r.code() != "unknown_url" || r.header.Get("Location") != "" {
				t.Errorf("%s: %d %s", target, r.status, r.body)
			}
		}
	}
	r := e.do("DELETE", "/v1/models", "", bearer(adminKey))
	if r.status != 405 || r.header.Get("Allow") != "GET" || r.code() != "method_not_allowed" || r.errorField("param") != "" {
		t.Errorf("405: %v", r)
	}
	if r := e.raw("HEAD /health HTTP/1.0\r\n\r\n"); len(r) > 0 && r[0].status != 200 {
		t.Errorf("HEAD: %v", r)
	}
}

// Headers that every answer has.
func TestEveryAnswer(t *testing.T) {
	e := newEdge(t, Options{Models: fakeModels{}}).serveTCP()
	var ids []string
	for _, c := range []struct {
		target string
		v1     bool
	}{{"/health", false}, {"/v1/models", true}, {"/v1/models/none", true}, {"/nowhere", false}, {"/t/panic", false}, {"/t/internal", false}} {
		r := e.do("GET", c.target, "", bearer(memberKey), "X-Request-Id: mine", "X-Client-Request-Id: mine")
		id := r.header.Get("X-Request-Id")
		if !strings.HasPrefix(id, "req_") || slices.Contains(ids, id) {
			t.Errorf("%s: the request id is %q", c.target, id)
		}
		ids = append(ids, id)
		if r.header.Get("X-Content-Type-Options") != "nosniff" || r.header.Get("Content-Type") != "application/json" || r.header.Get("Server") != "" {
			t.Errorf("%s: %v", c.target, r.header)
		}
		if (r.header.Get("Openai-Processing-Ms") != "") != c.v1 {
			t.Errorf("%s: openai-processing-ms is %q", c.target, r.header.Get("Openai-Processing-Ms"))
		}
	}
}
