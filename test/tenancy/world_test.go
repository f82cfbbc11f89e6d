package tenancy

import (
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"testing"

	"threadhub/internal/id"
	"threadhub/orgs"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// world is a running gateway with two orgs that know nothing of each other.
type world struct {
	*rig.Gateway
	sim   *simulator.Simulator
	house *rig.House
	books *books
	orgs  [2]*tenant
}

// tenant is an org with one asker of each kind, and things that are theirs.
type tenant struct {
	id                         string
	provider, model            string
	keys                       map[string]string // by asker; "" for nobody
	threads, requests          map[string]string // private ones, by the asker they belong to
	shared, private            string            // threads of one more user
	sharedRequest, privateCall string
	canary                     string // in the text of all that is this org's
	people                     people
	doomed                     *tenant // the same threads once more, to be deleted
	other                      *tenant
}

// eachStore runs f in a world on each store.
func eachStore(t *testing.T, f func(t *testing.T, w *world)) {
	for _, name := range slices.Sorted(maps.Keys(rig.Stores)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newWorld(t, rig.Stores[name](t)))
		})
	}
}

func newWorld(t *testing.T, url string, env ...string) *world {
	t.Helper()
	w := &world{sim: rig.Simulator(t, simulator.Options{}), books: openBooks(t, url)}
	w.house = rig.NewHouse(t, rig.Options{Database: url, Sim: w.sim, Env: append([]string{
		"THREADHUB_MAX_BODY_BYTES=65536", "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0",
		"THREADHUB_AUTH__FAILURES_PER_MINUTE=0", // the askers are many, and half of them have bad keys
	}, env...)})
	w.Gateway = w.house.Serve()
	w.orgs[0] = w.settle(t, "One", "openai")
	w.orgs[1] = w.settle(t, "Two", "openrouter")
	w.orgs[0].other, w.orgs[1].other = w.orgs[1], w.orgs[0]
	return w
}

// settle makes an org with all that is in it.
func (w *world) settle(t *testing.T, name, provider string) *tenant {
	t.Helper()
	o := &tenant{
		provider: provider, model: provider + "/sim-1", canary: "canary-" + rand.Text(),
		keys: map[string]string{}, threads: map[string]string{}, requests: map[string]string{},
		doomed: &tenant{threads: map[string]string{}},
	}
	seed := func(user, role string) string {
		s := w.house.Seed("Acme "+name, user+"@"+strings.ToLower(o.canary)+".example", role)
		o.id = s.Org
		return s.Key
	}
	o.keys["admin"] = seed("admin", "admin")
	for _, p := range []string{provider, "gemini"} { // the second is there to be put and deleted
		w.Must(t, 200, "PUT", "/api/orgs/"+o.id+"/providers/"+p, o.keys["admin"], map[string]string{"api_key": "sk-" + rand.Text()})
	}
	o.keys["member"] = seed("member", "member")
	// The viewer had things of her own before she was one. Her first key is not used again: it may be remembered.
	for asker, key := range map[string]string{"admin": o.keys["admin"], "member": o.keys["member"], "viewer": seed("viewer", "member")} {
		o.threads[asker], o.requests[asker] = w.converse(t, o, key, "private")
		o.doomed.threads[asker], _ = w.converse(t, o, key, "private")
	}
	o.keys["viewer"] = seed("viewer", "viewer")
	another := seed("another", "member")
	o.shared, o.sharedRequest = w.converse(t, o, another, "org")
	o.private, o.privateCall = w.converse(t, o, another, "private")
	o.doomed.shared, _ = w.converse(t, o, another, "org")
	o.doomed.private, _ = w.converse(t, o, another, "private")

	o.keys["nobody"], o.keys["stranger"] = "", orgs.NewKey().Secret().Reveal()
	o.keys["revoked"], o.keys["expired"] = seed("member", "member"), seed("member", "member")
	o.keys["disabled"] = seed("disabled", "admin")
	w.books.do(t, o.id, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1 AND key_id = $2`, keyID(o.keys["revoked"]))
	w.books.do(t, o.id, `UPDATE api_keys SET expires_at = now() WHERE org_id = $1 AND key_id = $2`, keyID(o.keys["expired"]))
	w.books.do(t, o.id, `UPDATE users SET disabled_at = now() WHERE org_id = $1 AND email LIKE $2`, "disabled@%")
	w.furnish(t, o)
	return o
}

// asked is how often a provider was asked for anything.
func (w *world) asked() int { return len(w.sim.Log()) + len(w.sim.Checks()) }

// keyID is the public part of an API key.
func keyID(key string) string { return strings.Split(key, "_")[1] }

// converse makes a thread of two messages and returns it with the call that made them.
func (w *world) converse(t *testing.T, o *tenant, key, visibility string) (thread, request string) {
	t.Helper()
	var made struct {
		ID string `json:"thread_id"`
	}
	r := w.Must(t, 201, "POST", "/api/threads", key, map[string]string{"title": o.canary, "description": o.canary, "visibility": visibility})
	if err := r.JSON(&made); err != nil {
		t.Fatal(err)
	}
	r = w.Must(t, 200, "POST", "/v1/chat/completions", key, chatBody(o.model, o.canary), "X-Thread-Id", made.ID)
	return made.ID, r.Header.Get("X-Request-Id")
}

func chatBody(model, text string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"` + text + `"}]}`
}

// rows are what is stored of both orgs.
func (w *world) rows(t *testing.T) (both [2]rows) {
	t.Helper()
	for i, o := range w.orgs {
		both[i] = w.books.read(t, id.Org(o.id))
	}
	return both
}
