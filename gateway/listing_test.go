package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/simulator"
	"threadhub/upstreams"
)

// shop is a provider that only lists.
type shop struct {
	upstreams.Upstream
	asked atomic.Int64
	list  func(ctx context.Context, key seal.Secret) ([]upstreams.Model, error)
}

func (s *shop) List(ctx context.Context, key seal.Secret) ([]upstreams.Model, error) {
	s.asked.Add(1)
	return s.list(ctx, key)
}

// ring has a key for openai and for openrouter for every org, until another is put into it.
type ring struct {
	mu   sync.Mutex
	keys map[id.Org]string
}

func (r *ring) HasProviderKey(context.Context, id.Org) (map[string]bool, error) {
	return map[string]bool{"openai": true, "openrouter": true}, nil
}

func (r *ring) ProviderKey(_ context.Context, org id.Org, _ string) (seal.Secret, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return seal.NewSecret(string(org) + "'s key" + r.keys[org]), nil
}

func (r *ring) KeyInUse(_ context.Context, org id.Org, _ string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "default/" + r.keys[org], nil
}

// shops are two providers, the first of which lists what the test says and the other nothing.
func shops(t *testing.T, o ListingOptions, list func(ctx context.Context, key seal.Secret) ([]upstreams.Model, error)) (*Listing, *shop, *ring) {
	t.Helper()
	catalogue, err := metering.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	s, r := &shop{list: list}, &ring{keys: map[id.Org]string{}}
	o.Keys, o.Catalogue = r, catalogue
	o.Upstreams = map[string]upstreams.Upstream{
		"openai": s, "openrouter": &shop{list: func(context.Context, seal.Secret) ([]upstreams.Model, error) { return nil, nil }}, "gemini": s,
	}
	o.Router = routing.New(routing.Options{Catalogue: catalogue, Providers: slices.Collect(maps.Keys(o.Upstreams))})
	return NewListing(o), s, r
}

// beside are the names that a listing has beside those of the catalogue, and whether it has those.
func beside(t *testing.T, l *Listing, caller orgs.Caller) (names string) {
	t.Helper()
	models, err := l.Models(t.Context(), caller)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	catalogue := 0
	for _, m := range models {
		if l.o.Catalogue.Lists(m.Target.Provider, m.Target.Model) {
			catalogue++
			continue
		}
		list = append(list, m.ID)
	}
	if catalogue < 50 {
		t.Errorf("only %d names of the catalogue are listed", catalogue)
	}
	return strings.Join(list, " ")
}

func models(names ...string) (list []upstreams.Model) {
	for _, name := range names {
		list = append(list, upstreams.Model{ID: name})
	}
	return list
}

// A list is asked for once in its time, for each org by itself, and anew when the org has another key.
func TestListsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, r := shops(t, ListingOptions{}, func(_ context.Context, key seal.Secret) ([]upstreams.Model, error) {
			owner, _, _ := strings.Cut(key.Reveal(), "'")
			return models("ft:" + owner + key.Reveal()[len(key.Reveal())-1:]), nil
		})
		a, b := orgs.Caller{Org: "a"}, orgs.Caller{Org: "b"}
		for range 3 {
			if got := beside(t, l, a); got != "openai/ft:ay" {
				t.Errorf("a has %s", got)
			}
			if got := beside(t, l, b); got != "openai/ft:by" {
				t.Errorf("b has %s", got)
			}
		}
		if n := s.asked.Load(); n != 2 {
			t.Errorf("two orgs asked %d times", n)
		}
		time.Sleep(5 * time.Minute)
		beside(t, l, a)
		if n := s.asked.Load(); n != 3 {
			t.Errorf("after its time the list was asked for %d times", n-2)
		}
		r.mu.Lock()
		r.keys["a"] = "2"
		r.mu.Unlock()
		if got := beside(t, l, a); got != "openai/ft:a2" || s.asked.Load() != 4 {
			t.Errorf("with another key a has %s, asked %d times", got, s.asked.Load())
		}
	})
}

// Many who ask at once wait for one answer; whoever leaves does not take it from the others.
func TestListsAreAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, _ := shops(t, ListingOptions{}, func(ctx context.Context, _ seal.Secret) ([]upstreams.Model, error) {
			select {
			case <-time.After(time.Second):
				return models("new"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if i == 0 {
					_, _ = l.Models(ctx, orgs.Caller{Org: "a"})
					return
				}
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				if got := beside(t, l, orgs.Caller{Org: "a"}); got != "openai/new" {
					t.Errorf("one of many has %q", got)
				}
			})
		}
		time.Sleep(500 * time.Millisecond)
		leave()
		wg.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A provider that is down or slow holds nobody up: the list it gave last, or the catalogue, stands in, and it is left alone
// for a while.
func TestAProviderThatIsAwayIsStillListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var how atomic.Value
		how.Store("down")
		l, s, _ := shops(t, ListingOptions{}, func(ctx context.Context, _ seal.Secret) ([]upstreams.Model, error) {
			switch how.Load() {
			case "down":
				return nil, errors.New("connection refused")
			case "slow":
				<-ctx.Done()
				return nil, ctx.Err()
			case "broken":
				panic("a bug")
			}
			return models("new"), nil
		})
		a := orgs.Caller{Org: "a"}
		took := func(want string, most time.Duration) {
			t.Helper()
			began := time.Now()
			if got := beside(t, l, a); got != want {
				t.Errorf("%v: listed %q, want %q", how.Load(), got, want)
			}
			if d := time.Since(began); d > most {
				t.Errorf("%v: it took %v", how.Load(), d)
			}
		}
		took("", 0)
		took("", 0)
		if n := s.asked.Load(); n != 1 {
			t.Errorf("a provider that is down was asked %d times", n)
		}
		how.Store("slow")
		time.Sleep(30 * time.Second)
		took("", 3*time.Second)
		took("", 0)
		how.Store("up")
		time.Sleep(30 * time.Second)
		took("openai/new", 0)
		for i, h := range []string{"down", "slow", "broken"} {
			how.Store(h)
			time.Sleep(5 * time.Minute)
			took("openai/new", 3*time.Second)
			took("openai/new", 0)
			if n := s.asked.Load(); n != int64(4+i) {
				t.Errorf("%s: asked %d times in all", h, n)
			}
		}
		how.Store("up")
		time.Sleep(30 * time.Second)
		took("openai/new", 0)
		if n := s.asked.Load(); n != 7 {
			t.Errorf("when it is back: asked %d times in all", n)
		}
	})
}

// What is kept has a bound: the lists go that nobody has looked at for longest.
func TestListsHaveABound(t *testing.T) {
	now := time.Now()
	l, s, _ := shops(t, ListingOptions{Most: 10, Now: func() time.Time { return now }}, func(context.Context, seal.Secret) ([]upstreams.Model, error) {
		return models("x1", "x2", "x3", "x4"), nil
	})
	for i := range 50 {
		now = now.Add(time.Second)
		beside(t, l, orgs.Caller{Org: id.Org(fmt.Sprint("org", i))})
		if l.kept > 10 {
			t.Fatalf("%d models are kept", l.kept)
		}
	}
	asked := s.asked.Load()
	beside(t, l, orgs.Caller{Org: "org49"})
	beside(t, l, orgs.Caller{Org: "org48"})
	if s.asked.Load() != asked {
		t.Error("the newest lists are gone")
	}
	beside(t, l, orgs.Caller{Org: "org0"})
	if s.asked.Load() != asked+1 {
		t.Error("the oldest list is still there")
	}
	sum := 0
	for _, s := range l.shelves {
		sum += len(s.models)
	}
	if sum != l.kept {
		t.Errorf("%d models are on the shelves, %d are counted", sum, l.kept)
	}
	for i := range 5000 {
		now = now.Add(time.Second)
		if _, err := l.Models(t.Context(), orgs.Caller{Org: id.Org(fmt.Sprint("another", i)), Providers: []string{"openrouter"}}); err != nil { // an empty list
			t.Fatal(err)
		}
	}
	if n := len(l.shelves); n > maxShelves {
		t.Errorf("%d lists are kept", n)
	}
}

// A provider that the caller's key is not good for is not asked.
func TestOnlyProvidersOfTheKeyAreAsked(t *testing.T) {
	l, s, _ := shops(t, ListingOptions{}, func(context.Context, seal.Secret) ([]upstreams.Model, error) { return models("new"), nil })
	if got := beside(t, l, orgs.Caller{Org: "a", Providers: []string{"openrouter"}}); got != "" || s.asked.Load() != 0 {
		t.Errorf("asked %d times, for %q", s.asked.Load(), got)
	}
}

// What is listed is what the four providers list and the catalogue knows, and each name means what a request that names it
// gets, aliases and all.
func TestModelsOfAllProviders(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.everyKey()
		h.do("PUT", "/api/router/rules", `{"rules":[{"id":"all","targets":["openai"]}],
			"aliases":{"fast":["openrouter/openai/gpt-6-luna","openai"],"gpt-5-mini":["gemini/gemini-3.5-flash"],"gpt-4*":["openai/gpt-6-luna"],"o3":["perplexity/nothing"]}}`).want(t, 200)
		r := h.do("GET", "/v1/models", "").want(t, 200)
		list := map[string]gjson.Result{}
		gjson.GetBytes(r.body, "data").ForEach(func(_, m gjson.Result) bool {
			if _, twice := list[m.Get("id").Str]; twice {
				t.Errorf("%s is listed twice", m.Get("id").Str)
			}
			list[m.Get("id").Str] = m
			return true
		})
		for name, want := range map[string]string{
			"auto":                          `{"object":"model","owned_by":"threadhub"}`,
			"fast":                          `{"owned_by":"threadhub","context_length":1050000,"created":1792454400}`,
			"gpt-5-mini":                    `{"owned_by":"threadhub","context_length":1048576}`, // the alias, and not OpenAI's
			"openai/gpt-5-mini":             `{"owned_by":"openai","created":1789000000,"context_length":400000}`,
			"gpt-4.1":                       `{"owned_by":"threadhub","context_length":1050000}`, // by the pattern
			"openai/gpt-4.1":                `{"owned_by":"openai","context_length":1047576}`,
			"text-embedding-3-small":        `{"owned_by":"openai","capabilities":{"embeddings":true}}`,
			"openai/text-embedding-3-small": `{"owned_by":"openai","context_length":8192}`,
			"openai/sim-1":                  `{"owned_by":"openai","created":1789000000}`, // in no catalogue
			"gemini/gemini-4-carbon":        `{"owned_by":"gemini","context_length":1048576,"capabilities":{"chat":true,"embeddings":false,"reasoning":true,"max_output_tokens":65536}}`,
			"gemini/gemini-embedding-2":     `{"owned_by":"gemini","context_length":8192,"capabilities":{"chat":false,"embeddings":true}}`,
			"pplx-embed-v1-4b":              `{"owned_by":"perplexity","context_length":32768,"capabilities":{"embeddings":true}}`,
			"perplexity/openai/gpt-6-astra": `{"owned_by":"perplexity"}`,
			"perplexity/sonar":              `{"owned_by":"perplexity"}`,
			"openrouter/auto":               `{"owned_by":"openrouter","capabilities":{"tools":true}}`,
			"openrouter/openai/gpt-4.1-mini": `{"context_length":1050000,"capabilities":{"chat":true,"embeddings":false,"tools":true,"reasoning":true,
				"input_modalities":["text"],"output_modalities":["text"],"max_output_tokens":128000}}`,
			"openrouter/qwen/qwen3-embedding-8b": `{"capabilities":{"chat":false,"embeddings":true}}`,
			"sim-1":                              "",
			"gpt-4*":                             "",
			"gemini-4-carbon":                    "",
		} {
			m, ok := list[name]
			if ok != (want != "") {
				t.Errorf("%s is listed: %v", name, ok)
			}
			gjson.Parse(want).ForEach(func(member, v gjson.Result) bool {
				got := m.Get(member.Str)
				if v.IsObject() { // what is said of it, and more
					v.ForEach(func(k, v gjson.Result) bool {
						if diff := cmp.Diff(v.Value(), got.Get(k.Str).Value()); diff != "" {
							t.Errorf("%s: %s.%s (-want +got)\n%s", name, member.Str, k.Str, diff)
						}
						return true
					})
				} else if got.Raw != v.Raw {
					t.Errorf("%s: %s is %s, want %s", name, member.Str, got.Raw, v.Raw)
				}
				return true
			})
		}
		if got := list["text-embedding-3-small"].Get("capabilities").Raw; got != `{"embeddings":true}` {
			t.Errorf("what nobody tells is told: %s", got)
		}
		if got := list["auto"].Raw; got != `{"id":"auto","object":"model","created":0,"owned_by":"threadhub"}` {
			t.Errorf("auto is %s", got)
		}

		caller := orgs.Caller{Org: h.admin.Org, Role: orgs.Admin}
		x := &request{g: h.Gateway, ctx: t.Context(), caller: caller}
		all, err := h.callable(x)
		if err != nil || len(all) != len(list) || len(all) < 130 {
			t.Fatalf("%d names, %v", len(all), err)
		}
		for _, m := range all {
			if m.ID == routing.Auto {
				continue
			}
			c, err := h.choose(t.Context(), caller, routing.Input{Model: m.ID, Org: string(caller.Org)})
			if err != nil || inReach(caller, c.Targets) != m.Target {
				t.Errorf("%s is listed as %v, and means %v, %v", m.ID, m.Target, c.Targets, err)
			}
		}
		for _, name := range []string{"openai/sim-1", "fast", "openrouter/qwen/qwen3-embedding-8b", "auto"} {
			if one := h.do("GET", "/v1/models/"+name, "").want(t, 200); string(one.body) != list[name].Raw {
				t.Errorf("alone it is %s, in the list %s", one.body, list[name].Raw)
			}
		}
		for _, name := range []string{"openai/nosuch", "sim-1", "gpt-4*"} {
			if r := h.do("GET", "/v1/models/"+name, "").want(t, 404); r.code() != "model_not_found" {
				t.Errorf("%s: %s", name, r.body)
			}
		}
		// One by one, and again: each provider was asked for each of its lists once, with the org's key.
		asked := map[string]int{}
		for _, a := range h.sim.Checks() {
			asked[a.Provider+a.Path]++
			if want := simulator.KeyHash("sk-test-key-of-" + string(h.admin.Org)); a.Provider == "openai" && a.KeyHash != want {
				t.Error("OpenAI was asked with another key")
			}
		}
		if diff := cmp.Diff(map[string]int{"openai/models": 1, "gemini/models": 1, "perplexity/v1/models": 1, "openrouter/models": 1, "openrouter/embeddings/models": 1}, asked); diff != "" {
			t.Errorf("asked (-want +got)\n%s", diff)
		}
		if len(h.sim.Log()) != 0 {
			t.Error("a model was asked")
		}

		key := as(h.made("/api/keys", `{"models":["*embed*"],"providers":["openai","gemini","openrouter"]}`)["api_key"].(string))
		for _, m := range gjson.GetBytes(h.do("GET", "/v1/models", "", key...).want(t, 200).body, "data.#.id").Array() {
			if !strings.Contains(m.Str, "embed") || strings.Contains(m.Str, "pplx") {
				t.Errorf("a key for models that embed is shown %s", m.Str)
			}
		}
		h.do("GET", "/v1/models/openai/gpt-5-mini", "", key...).want(t, 404)
	})
}

// Providers that fail, each in its way, are listed from the catalogue, beside those that do not.
func TestModelsOfProvidersThatFail(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.everyKey()
	for provider, do := range map[string]string{"openai": "fault=silent", "gemini": "status=503", "perplexity": "fault=garbage"} {
		if err := h.sim.Play(simulator.Script{Provider: provider, Path: "*", Do: do}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	ids := gjson.GetBytes(h.do("GET", "/v1/models", "").want(t, 200).body, "data.#.id").Raw
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	for name, want := range map[string]bool{
		"gpt-5-mini": true, "openai/gpt-5-mini": true, "gemini/gemini-3.5-flash": true, "perplexity/sonar": true, "openrouter/sim-1": true, "openai/sim-1": false, "gemini/gemini-4-carbon": false,
	} {
		if got := strings.Contains(ids, `"`+name+`"`); got != want {
			t.Errorf("%s is listed: %v", name, got)
		}
	}
	if !strings.Contains(h.log.String(), "a provider's list of models could not be had") {
		t.Error("nobody is told")
	}
}
