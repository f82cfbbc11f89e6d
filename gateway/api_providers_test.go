package gateway

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/orgs"
	"threadhub/upstreams"
)

type fakeModels struct{}

func (fakeModels) Models(context.Context, orgs.Caller) ([]Model, error) {
	return []Model{
		{ID: "auto", OwnedBy: "threadhub", About: upstreams.Model{Created: 1700000000}},
		{ID: "openrouter/anthropic/claude", OwnedBy: "openrouter", About: upstreams.Model{Created: 1700000001}},
	}, nil
}

// fakeKeys keeps provider keys of any org.
type fakeKeys struct {
	mu   sync.Mutex
	keys map[string]string // org/provider

	tried, passed error // what becomes of a trial
}

func (f *fakeKeys) PutProviderKey(_ context.Context, org id.Org, _ orgs.Actor, spec orgs.ProviderKeySpec) (orgs.ProviderKeyStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[string]string{}
	}
	key := spec.Key.Reveal()
	f.keys[string(org)+"/"+spec.Provider] = key
	return orgs.ProviderKeyStatus{
		Provider: spec.Provider, Name: orgs.DefaultKey, Masked: "sk-…" + key[len(key)-4:], CreatedAt: time.Unix(1700000000, 0),
	}, nil
}

func (f *fakeKeys) DeleteProviderKey(_ context.Context, org id.Org, _ orgs.Actor, provider, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, string(org)+"/"+provider)
	return nil
}

func (f *fakeKeys) ProviderKeys(_ context.Context, org id.Org) ([]orgs.ProviderKeyStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []orgs.ProviderKeyStatus
	for k := range f.keys {
		if p, ok := strings.CutPrefix(k, string(org)+"/"); ok {
			all = append(all, orgs.ProviderKeyStatus{Provider: p, Name: orgs.DefaultKey, Masked: "sk-…aF2x", CreatedAt: time.Unix(1700000000, 0)})
		}
	}
	return all, nil
}

func (f *fakeKeys) TryProviderKey(_ context.Context, _ id.Org, _ orgs.Actor, provider, name string, given seal.Secret) (orgs.KeyOnTrial, error) {
	return orgs.KeyOnTrial{Provider: provider, Name: name, Key: given}, f.tried
}

func (f *fakeKeys) ProviderKeyPassed(context.Context, id.Org, orgs.KeyOnTrial) error { return f.passed }

func TestProviderKeys(t *testing.T) {
	keys := &fakeKeys{}
	e := newEdge(t, Options{ProviderKeys: keys}).serveTCP()
	const secret = "sk-CANARYCANARYaF2x"
	const path = "/api/orgs/org_a/providers/"
	put := func(body string) reply { return e.do("PUT", path+"openai", body, bearer(adminKey)) }
	if r := put(`{"api_key":"` + secret + `","org_id":"org_a"}`); r.status != 200 ||
		r.body != `{"provider":"openai","configured":true,"name":"default","priority":0,"masked_key":"sk-…aF2x","created_at":"2023-11-14T22:13:20Z","last_used":null}` {
		t.Errorf("put: %v", r)
	}
	if got := keys.keys["org_a/openai"]; got != secret || len(keys.keys) != 1 {
		t.Errorf("kept: %v", keys.keys)
	}
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
		param  string
	}{
		"an empty body":               {"", 400, "invalid_api_key_value", "api_key"},
		"no key":                      {"{}", 400, "invalid_api_key_value", "api_key"},
		"an empty key":                {`{"api_key":""}`, 400, "invalid_api_key_value", "api_key"},
		"a null key":                  {`{"api_key":null}`, 400, "invalid_api_key_value", "api_key"},
		"a number":                    {`{"api_key":5}`, 400, "invalid_type", "api_key"},
		"a line break inside":         {`{"api_key":"sk-\r\nX: y"}`, 400, "invalid_api_key_value", "api_key"},
		"a very long key":             {`{"api_key":"` + strings.Repeat("k", 5000) + `"}`, 400, "invalid_api_key_value", "api_key"},
		"an unknown member":           {`{"api_key":"k","base_url":"http://169.254.169.254/"}`, 400, "unknown_parameter", "base_url"},
		"a priority for an empty key": {`{"api_key":"","priority":1}`, 400, "invalid_api_key_value", "api_key"},
		"a name and no key":           {`{"name":"spare"}`, 400, "invalid_api_key_value", "api_key"},
		"a priority in words":         {`{"api_key":"k","priority":"1"}`, 400, "invalid_type", "priority"},
		"a priority with a fraction":  {`{"api_key":"k","priority":0.5}`, 400, "invalid_type", "priority"},
		"a huge priority":             {`{"api_key":"k","priority":99999999999999999999}`, 400, "invalid_type", "priority"},
		"an empty name":               {`{"api_key":"k","name":""}`, 400, "invalid_key_name", "name"},
		"a name that is a number":     {`{"api_key":"k","name":1}`, 400, "invalid_type", "name"},
		"another case":                {`{"API_KEY":"k"}`, 400, "unknown_parameter", "API_KEY"},
		"the key twice":               {`{"api_key":"a","api_key":"b"}`, 400, "duplicate_parameter", "api_key"},
		"not JSON":                    {`{"api_key":"sk-CANARYCANARY`, 400, "invalid_json", ""},
		"something behind":            {`{"api_key":"k"} {}`, 400, "invalid_json", ""},
		"a list":                      {`["api_key"]`, 400, "invalid_json", ""},
		"nested too deep":             {strings.Repeat(`{"api_key":`, 100) + "1" + strings.Repeat("}", 100), 400, "invalid_json", ""},
		"a foreign org":               {`{"api_key":"k","org_id":"org_b"}`, 404, "not_found", ""},
	} {
		r := put(c.body)
		if r.status != c.status || r.code() != c.code || r.errorField("param") != c.param || strings.Contains(r.body, "CANARY") {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if keys.keys["org_a/openai"] != secret || len(keys.keys) != 1 {
		t.Errorf("a refused request changed something: %v", keys.keys)
	}
	r := e.do("GET", path+"status", "", bearer(adminKey))
	if r.status != 200 || strings.Count(r.body, `"provider"`) != 4 || strings.Count(r.body, `"configured":true`) != 1 || strings.Contains(r.body, secret) {
		t.Errorf("status: %v", r)
	}
	for _, provider := range []string{"mistral", "OpenAI", "status"} {
		if r := e.do("PUT", path+provider, `{"api_key":"k"}`, bearer(adminKey)); r.status != 404 {
			t.Errorf("%s: %v", provider, r)
		}
	}
	for query, code := range map[string]string{
		"?name=": "invalid_key_name", "?Name=spare": "unknown_parameter", "?slot=spare": "unknown_parameter", "?name=a&name=b": "duplicate_parameter",
	} {
		if r := e.do("DELETE", path+"openai"+query, "", bearer(adminKey)); r.status != 400 || r.code() != code || len(keys.keys) != 1 {
			t.Errorf("delete with %s: %v, %v", query, r, keys.keys)
		}
	}
	if r := e.do("DELETE", path+"openai", "", bearer(adminKey)); r.status != 200 || len(keys.keys) != 0 {
		t.Errorf("delete: %v, %v", r, keys.keys)
	}
	if strings.Contains(e.log.String(), "CANARY") {
		t.Error("the log holds the key")
	}
}

func TestModels(t *testing.T) {
	e := newEdge(t, Options{Models: fakeModels{}}).serveTCP()
	const one = `{"id":"openrouter/anthropic/claude","object":"model","created":1700000001,"owned_by":"openrouter"}`
	if r := e.do("GET", "/v1/models", "", bearer(viewerKey)); r.status != 200 ||
		r.body != `{"data":[{"id":"auto","object":"model","created":1700000000,"owned_by":"threadhub"},`+one+`],"object":"list"}` {
		t.Errorf("%v", r)
	}
	for _, path := range []string{"openrouter/anthropic/claude", "openrouter%2Fanthropic%2Fclaude", "openrouter/anthropic%2fclaude"} {
		if r := e.do("GET", "/v1/models/"+path, "", bearer(viewerKey)); r.status != 200 || r.body != one {
			t.Errorf("%s: %v", path, r)
		}
	}
	if r := e.do("GET", "/v1/models/gpt-0", "", bearer(viewerKey)); r.status != 404 || r.code() != "model_not_found" || r.errorField("param") != "model" {
		t.Errorf("%v", r)
	}
	if r := newEdge(t, Options{}).serveTCP().do("GET", "/v1/models", "", bearer(viewerKey)); r.status != 503 {
		t.Errorf("without a catalogue: %v", r)
	}
}
