package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/spool"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/simulator"
	"threadhub/threads"
	"threadhub/upstreams"
	"threadhub/upstreams/gemini"
	"threadhub/upstreams/openai"
	"threadhub/upstreams/openrouter"
	"threadhub/upstreams/perplexity"
)

// house is a whole gateway in the test's process: real rooms, a real store, the simulator for providers.
type house struct {
	*Gateway
	t       testing.TB
	url     string
	store   db.Store
	orgs    *orgs.Service
	calls   *calls.Store
	threads *threads.Store
	lease   *calls.Lease
	sim     *simulator.Simulator
	log     *testkit.Log
	admin   orgs.Seeded
}

// stores are the two kinds of store a house stands on.
var stores = map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres}

func eachHouse(t *testing.T, o Options, f func(t *testing.T, h *house)) {
	for name, url := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newHouse(t, url(t), o))
		})
	}
}

func newHouse(t testing.TB, url string, o Options, change ...func(*db.Options)) *house {
	t.Helper()
	h := &house{t: t, calls: calls.New(), threads: threads.New(), log: &testkit.Log{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	closeAt := func(close func() error) {
		t.Cleanup(func() {
			if err := close(); err != nil {
				t.Error(err)
			}
		})
	}
	ledger, budgets := metering.New(), metering.NewBudgets()
	shut, ended := h.calls.RecordStages()
	opened, begun := h.calls.OpenStages()
	log := slog.New(slog.NewJSONHandler(h.log, nil))
	of := db.Options{URL: url, Log: log, Stages: slices.Concat(
		shut, h.threads.RecordStages(), []db.Stage{ledger.Stage()}, ended, opened, h.threads.OpenStages(budgets.Stages()...), begun)}
	for _, f := range change {
		f(&of)
	}
	store, err := db.Open(t.Context(), of)
	must(err)
	closeAt(store.Close)
	h.store = store
	h.calls.Use(store)
	h.threads.Use(store)
	budgets.Use(store)
	ring, err := seal.ParseKeyring(seal.NewKey())
	must(err)
	if o.Spool == nil {
		o.Spool, err = spool.Open(t.TempDir(), ring, spool.Options{MinFree: 1, Log: log})
		must(err)
		closeAt(o.Spool.Close)
	}
	h.orgs = orgs.New(orgs.Options{Store: store, Keyring: ring, Log: log})
	must(h.orgs.Open(t.Context()))
	closeAt(h.orgs.Close)
	h.lease, err = h.calls.TakeLease(t.Context(), calls.LeaseOptions{Log: log})
	must(err)
	closeAt(func() error { return h.lease.Close(context.Background()) })
	h.sim = simulator.New(simulator.Options{})
	must(h.sim.Start())
	closeAt(h.sim.Close)
	catalogue, err := metering.Embedded()
	must(err)
	router := routing.New(routing.Options{Catalogue: catalogue, Providers: houseProviders, DefaultModels: map[string]string{"openai": "gpt-5-mini", "gemini": "gemini-3.8-flash", "perplexity": "sonar", "openrouter": "openrouter/auto"}})
	oa, err := openai.New(upstreams.Options{BaseURL: h.sim.URL("openai"), IdleTimeout: 2 * time.Second, HeaderTimeout: 2 * time.Second, WholeTimeout: 3 * time.Second})
	must(err)
	or, err := openrouter.New(upstreams.Options{BaseURL: h.sim.URL("openrouter")})
	must(err)
	o.Log, o.Store, o.Orgs, o.Watcher, o.ProviderKeys, o.Purse, o.People = log, store, h.orgs, h.orgs, h.orgs, h.orgs, h.orgs
	o.Rules, o.Budgets, o.BudgetBook = h.orgs, budgets, h.orgs
	o.Calls, o.Threads, o.Ledger, o.Catalogue, o.Router = h.calls, h.threads, ledger, catalogue, router
	ge, err := gemini.New(upstreams.Options{BaseURL: h.sim.URL("gemini")})
	must(err)
	pe, err := perplexity.New(upstreams.Options{BaseURL: h.sim.URL("perplexity")})
	must(err)
	o.Upstreams = map[string]upstreams.Upstream{"openai": oa, "gemini": ge, "perplexity": pe, "openrouter": or}
	if o.Models == nil {
		o.Models = NewListing(ListingOptions{Router: router, Catalogue: catalogue, Keys: h.orgs, Upstreams: o.Upstreams, Log: log})
	}
	o.Owner = h.lease.Owner()
	o.DrainAccept = -1
	h.Gateway = New(o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	h.url = "http://" + ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- h.Serve(ln, nil) }()
	t.Cleanup(func() {
		houseClient.CloseIdleConnections()
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		oa.Close()
		ge.Close()
		pe.Close()
		or.Close()
	})
	h.admin = h.seed("house", "admin@house.test", orgs.Admin)
	return h
}

// houseProviders are those that the simulator plays.
var houseProviders = []string{"openai", "gemini", "perplexity", "openrouter"}

// seed makes an org with one user and keys at two of them.
func (h *house) seed(org, email string, role orgs.Role) orgs.Seeded {
	h.t.Helper()
	s, err := h.orgs.Seed(h.t.Context(), orgs.SeedSpec{Org: org, Email: email, Role: role})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range []string{"openai", "openrouter"} {
		if _, err := h.orgs.PutProviderKey(h.t.Context(), s.Org, orgs.Actor{}, orgs.ProviderKeySpec{Provider: p, Key: seal.NewSecret("sk-test-key-of-" + string(s.Org))}); err != nil {
			h.t.Fatal(err)
		}
	}
	return s
}

var houseClient = &http.Client{Transport: &http.Transport{}}

type heard struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request as the admin; header is name, value, name, value.
func (h *house) do(method, path, body string, header ...string) heard {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := houseClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return heard{resp.StatusCode, resp.Header, raw}
}

// chat posts one user message; more is further members of the body, beginning with a comma.
func (h *house) chat(text, more string, header ...string) heard {
	h.t.Helper()
	content, _ := json.Marshal(text)
	return h.do("POST", "/v1/chat/completions", `{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":`+string(content)+`}]`+more+`}`, header...)
}

func (r heard) want(t testing.TB, status int) heard {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	return r
}

func (r heard) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(r.body, &m); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	return m
}

// code is the code of the error object, "" if the body is none.
func (r heard) code() string {
	var e struct{ Error struct{ Code string } }
	_ = json.Unmarshal(r.body, &e)
	return e.Error.Code
}

// messages reads a thread as "role:content:status".
func (h *house) messages(thread id.Thread) []string {
	h.t.Helper()
	var th struct {
		Messages []struct {
			Role, Content, Status, Incomplete_reason string
			Sequence                                 int
		}
	}
	r := h.do("GET", "/api/threads/"+string(thread), "").want(h.t, 200)
	if err := json.Unmarshal(r.body, &th); err != nil {
		h.t.Fatal(err)
	}
	list := make([]string, len(th.Messages))
	for i, m := range th.Messages {
		if m.Sequence != i {
			h.t.Errorf("message %d has sequence %d", i, m.Sequence)
		}
		list[i] = m.Role + ":" + m.Content + ":" + m.Status
		if m.Incomplete_reason != "" {
			list[i] += ":" + m.Incomplete_reason
		}
	}
	return list
}

// call is what /v1/requests tells of the call that r answered.
func (h *house) call(r heard) map[string]any {
	h.t.Helper()
	return h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(h.t, 200).json(h.t)
}

// events splits a stream into the payloads of its data events.
func events(body []byte) (list []string) {
	for line := range bytes.Lines(body) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			list = append(list, strings.TrimSuffix(string(data), "\n"))
		}
	}
	return list
}

// viewAll sees every thread of an org.
var viewAll = threads.Viewer{Admin: true}

// attempts is the provider's log. A client may have its answer before the provider has written down that it gave it, so
// this waits for every attempt to have ended.
func (h *house) attempts() (log []simulator.Attempt) {
	h.t.Helper()
	testkit.Eventually(h.t, 10*time.Second, func() bool {
		log = h.sim.Log()
		return !slices.ContainsFunc(log, func(a simulator.Attempt) bool { return a.End == "" })
	}, "every attempt to end in the provider's log")
	return log
}

// stored are the messages of a thread as the store has them.
func (h *house) stored(thread id.Thread) ([]*threads.Message, error) {
	p, err := h.threads.Page(h.t.Context(), h.admin.Org, thread, viewAll, -1, 0)
	if err != nil {
		return nil, err
	}
	return p.Messages, nil
}
