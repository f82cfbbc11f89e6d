package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/orgs"
	"threadhub/simulator"
	"threadhub/upstreams"
)

// clock is time that goes only when told to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Unix(1800000000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// try tries out a key and returns the answer, which must be one.
func (h *house) try(body string) (shape trialShape) {
	h.t.Helper()
	r := h.do("POST", h.providers("test"), body).want(h.t, 200)
	if err := json.Unmarshal(r.body, &shape); err != nil {
		h.t.Fatal(err)
	}
	return shape
}

func TestKeysAreTriedOut(t *testing.T) {
	t.Parallel()
	clock := newClock()
	eachHouse(t, Options{Now: clock.now}, func(t *testing.T, h *house) {
		other := h.seed("other", "admin@other.test", orgs.Admin)
		for provider, models := range map[string]int{"openai": 29, "openrouter": 22} {
			clock.advance(time.Minute)
			if used := h.status(provider).LastUsed; used != nil {
				t.Fatalf("%s: used before: %v", provider, used)
			}
			bad := h.try(`{"provider":"` + provider + `","api_key":"sk-invalid-CANARY-0123456789"}`)
			if bad.Success || bad.Message != provider+": the key was refused" || bad.Details.Name != nil || *bad.Details.Status != 401 || bad.Details.Models != nil {
				t.Errorf("%s: a bad key: %+v", provider, bad)
			}
			good := h.try(`{"provider":"` + provider + `","api_key":"sk-good-CANARY-0123456789","org_id":"` + string(h.admin.Org) + `"}`)
			if !good.Success || good.Details.Name != nil || *good.Details.Status != 200 || *good.Details.Models != models || *good.Details.Latency < 0 {
				t.Errorf("%s: a good key: %+v", provider, good)
			}
			if used := h.status(provider).LastUsed; used != nil {
				t.Errorf("%s: a key that is not kept counts as a use of the one that is", provider)
			}
			began := time.Now()
			stored := h.try(`{"provider":"` + provider + `"}`)
			if !stored.Success || *stored.Details.Name != "default" || stored.Message != provider+" takes the key" {
				t.Errorf("%s: the stored key: %+v", provider, stored)
			}
			if used := h.lastUsed(provider, "default"); used.Before(began.Add(-time.Second)) {
				t.Errorf("%s: last used %v is what the store says at once, not %v", provider, used, began)
			}
			h.do("PUT", h.providers(provider), `{"api_key":"sk-invalid-0123456789","name":"spare","priority":3}`).want(t, 200)
			if spare := h.try(`{"provider":"` + provider + `","name":"spare"}`); spare.Success || *spare.Details.Name != "spare" || *spare.Details.Status != 401 {
				t.Errorf("%s: a bad key that is kept: %+v", provider, spare)
			}
			if !h.lastUsed(provider, "spare").IsZero() {
				t.Errorf("%s: a key that was refused counts as used", provider)
			}
		}
		clock.advance(time.Minute)

		// A restricted key, a provider that fails, and one that says nothing that could be told.
		for _, c := range []struct{ do, message string }{
			{"status=403", "openai takes the key, which may not do all: the models are kept from it"},
			{"status=500", "openai: The server had an error while processing your request. Sorry about that!"},
			{"fault=echo_key status=400", "openai: Incorrect API key provided: [secret]"},
			{"fault=html", "openai: the provider failed"},
			{"fault=redirect", "openai answered with a status that is neither an answer nor an error"},
			{"fault=reset", "openai closed the connection before it answered"},
		} {
			if err := h.sim.Play(simulator.Script{Provider: "openai", Path: "/models", Times: 1, Do: c.do}); err != nil {
				t.Fatal(err)
			}
			shape := h.try(`{"provider":"openai","api_key":"sk-good-CANARY-0123456789"}`)
			if shape.Message != c.message || shape.Success != (c.do == "status=403") || shape.Details.Models != nil {
				t.Errorf("%s: %+v", c.do, shape)
			}
			h.sim.Unplay()
		}
		for _, provider := range []string{"gemini", "perplexity"} {
			shape := h.try(`{"provider":"` + provider + `","api_key":"CANARY-0123456789"}`)
			if !shape.Success || shape.Message != provider+" takes the key" || *shape.Details.Models == 0 {
				t.Errorf("%+v", shape)
			}
			shape = h.try(`{"provider":"` + provider + `","api_key":"invalid-CANARY-0123456789"}`)
			if shape.Success || !strings.Contains(shape.Message, "the key was refused") {
				t.Errorf("%+v", shape)
			}
		}

		if n := len(h.sim.Log()); n != 0 {
			t.Errorf("trials are %d attempts", n)
		}
		if n := len(h.sim.Checks()); n != 20 { // OpenRouter is asked for its models behind a good key
			t.Errorf("the providers were asked %d times", n)
		}
		if strings.Contains(h.log.String(), "CANARY") {
			t.Error("the log holds a key")
		}
		if h.lastUsedOf(other.Org, "openai", "default") != (time.Time{}) {
			t.Error("another org's key counts as used")
		}
	})
}

// lastUsed is what the store says, and not what a process remembers.
func (h *house) lastUsed(provider, name string) time.Time {
	return h.lastUsedOf(h.admin.Org, provider, name)
}

func (h *house) lastUsedOf(org id.Org, provider, name string) time.Time {
	h.t.Helper()
	var used db.Time
	err := h.store.Read(h.t.Context(), org, func(tx db.Tx) error {
		return tx.QueryRow(h.t.Context(), `SELECT last_used_at FROM provider_keys WHERE org_id = $1 AND provider = $2 AND slot = $3`,
			[]any{string(org), provider, name}, &used)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return used.Time
}

func TestWhatCannotBeTriedOut(t *testing.T) {
	t.Parallel()
	clock := newClock()
	eachHouse(t, Options{Now: clock.now}, func(t *testing.T, h *house) {
		clock.advance(time.Minute)
		for body, code := range map[string]string{
			"":                                   "400 provider_not_found",
			`{}`:                                 "400 provider_not_found",
			`{"provider":"mistral"}`:             "400 provider_not_found",
			`{"provider":1}`:                     "400 invalid_type",
			`{"provider":"openai","name":"no"}`:  "404 provider_key_missing",
			`{"provider":"openai","name":""}`:    "400 invalid_key_name",
			`{"provider":"openai","name":"a b"}`: "400 invalid_key_name",
			`{"provider":"openai","api_key":""}`: "400 invalid_api_key_value",
			`{"provider":"openai","api_key":"sk-CANARY\r\nX: y"}`:                        "400 invalid_api_key_value",
			`{"provider":"openai","api_key":["sk-CANARY0123456789"]}`:                    "400 invalid_type",
			`{"provider":"openai","base_url":"http://169.254.169.254/"}`:                 "400 unknown_parameter",
			`{"provider":"openai","api_key":"sk-CANARY0123456789"`:                       "400 invalid_json",
			`{"provider":"openai","api_key":"sk-CANARY0123456789","org_id":"org_other"}`: "404 not_found",
		} {
			if r := h.do("POST", h.providers("test"), body); itoa(r.status)+" "+r.code() != code || strings.Contains(string(r.body), "CANARY") {
				t.Errorf("%s: %d %s", body, r.status, r.body)
			}
		}
		if r := h.do("POST", providersOf+"org_other/providers/test", `{"provider":"openai"}`); r.status != 404 || r.code() != "not_found" {
			t.Errorf("another org: %d %s", r.status, r.body)
		}
		if n := len(h.sim.Checks()); n != 0 {
			t.Errorf("what is refused asked the provider %d times", n)
		}
	})
}

func TestTrialsAreCounted(t *testing.T) {
	clock := newClock()
	h := newHouse(t, testkit.SQLite(t), Options{Now: clock.now})
	other := h.seed("other", "admin@other.test", orgs.Admin)
	for range trialsPerMinute {
		h.try(`{"provider":"openai"}`)
		clock.advance(time.Second)
	}
	refused := func(wait string) {
		t.Helper()
		r := h.do("POST", h.providers("test"), `{"provider":"openai"}`)
		if r.status != 429 || r.code() != "rate_limit_exceeded" || r.header.Get("Retry-After") != wait {
			t.Errorf("%d, Retry-After %s: %s", r.status, r.header.Get("Retry-After"), r.body)
		}
	}
	refused("50")
	refused("50") // what is refused does not count
	r := h.do("POST", providersOf+string(other.Org)+"/providers/test", `{"provider":"openai"}`, "Authorization", "Bearer "+other.APIKey.Reveal())
	r.want(t, 200) // each org for itself
	clock.advance(49 * time.Second)
	refused("1")
	clock.advance(time.Second)
	h.try(`{"provider":"openai"}`)
	refused("1")
	if n := len(h.sim.Checks()); n != trialsPerMinute+2 {
		t.Errorf("the provider was asked %d times", n)
	}
	clock.advance(time.Hour)
	h.try(`{"provider":"openai"}`)
	if n := len(h.trials.done); n != 1 {
		t.Errorf("%d orgs are remembered", n)
	}
}

// taker is a provider that takes every key.
type taker struct {
	upstreams.Upstream
	asked atomic.Int64
}

func (u *taker) Test(context.Context, seal.Secret) (upstreams.Proof, error) {
	u.asked.Add(1)
	return upstreams.Proof{Status: 200, Models: -1}, nil
}

// Who tries a key is written down before, and that it was used after, or the answer does not say that it was.
func TestATrialStandsOnWhatIsWrittenDown(t *testing.T) {
	away := fault.Wrap(fault.Unavailable, errors.New("CANARY"), "the store is away").WithCode("storage_unavailable")
	for name, c := range map[string]struct {
		keys  *fakeKeys
		asked int64
	}{
		"before": {&fakeKeys{tried: away}, 0},
		"after":  {&fakeKeys{passed: away}, 1},
	} {
		provider := &taker{}
		e := newEdge(t, Options{ProviderKeys: c.keys, Upstreams: map[string]upstreams.Upstream{"openai": provider}}).serveTCP()
		r := e.do("POST", "/api/orgs/org_a/providers/test", `{"provider":"openai","api_key":"sk-0123456789"}`, bearer(adminKey))
		if r.status != 503 || r.code() != "storage_unavailable" || provider.asked.Load() != c.asked {
			t.Errorf("%s: asked %d times, %v", name, provider.asked.Load(), r)
		}
	}
}
