// Package tenancy proves from outside that an org's things are its own: every route, asked by everybody for everything,
// answers as authz.yaml says; what is another org's looks like what is not there; what is refused writes nothing.
package tenancy

import (
	"bytes"
	_ "embed"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/knadh/koanf/parsers/yaml"

	"threadhub/gateway"
	"threadhub/test/rig"
)

//go:embed authz.yaml
var authzFile []byte

// table is authz.yaml: the status each asker gets, by route and thing.
type table struct {
	askers []string
	status map[string]map[string][]int
}

func readTable(t *testing.T) table {
	t.Helper()
	file, err := yaml.Parser().Unmarshal(authzFile)
	if err != nil {
		t.Fatal(err)
	}
	list := func(v any) []any { l, _ := v.([]any); return l }
	out := table{status: map[string]map[string][]int{}}
	for _, a := range list(file["askers"]) {
		out.askers = append(out.askers, a.(string))
	}
	all, _ := file["routes"].(map[string]any)
	for route, things := range all {
		out.status[route] = map[string][]int{}
		things, _ := things.(map[string]any)
		for thing, row := range things {
			for _, s := range list(row) {
				n, _ := s.(int)
				out.status[route][thing] = append(out.status[route][thing], n)
			}
		}
	}
	return out
}

// cells are all squares of the table whose status pick takes, in a steady order.
func (tab table) cells(pick func(route string, status int) bool) (cells []cell) {
	for _, route := range slices.Sorted(maps.Keys(tab.status)) {
		for _, thing := range routes[route].things {
			for i, asker := range tab.askers {
				if pick(route, tab.status[route][thing][i]) {
					cells = append(cells, cell{route, thing, asker})
				}
			}
		}
	}
	return cells
}

func (tab table) want(c cell) int {
	return tab.status[c.route][c.thing][slices.Index(tab.askers, c.asker)]
}

// The table, what this suite can ask, and the routes there are, must be the same.
func TestEveryRouteHasARule(t *testing.T) {
	tab := readTable(t)
	live := map[string]bool{}
	for _, r := range gateway.New(gateway.Options{}).Routes() {
		live[r.Method+" "+r.Pattern] = true
	}
	if len(live) == 0 {
		t.Fatal("there are no routes")
	}
	for name, have := range map[string]map[string]bool{"authz.yaml": keysOf(tab.status), "routes_test.go": keysOf(routes)} {
		if diff := cmp.Diff(live, have); diff != "" {
			t.Errorf("the routes of the gateway (-) and of %s (+):\n%s", name, diff)
		}
	}
	for route, things := range tab.status {
		if diff := cmp.Diff(slices.Sorted(slices.Values(routes[route].things)), slices.Sorted(maps.Keys(things))); diff != "" {
			t.Errorf("%s: what it can be asked for (-) and what authz.yaml has (+):\n%s", route, diff)
		}
		for thing, row := range things {
			if len(row) != len(tab.askers) {
				t.Errorf("%s %s: %d statuses for %d askers", route, thing, len(row), len(tab.askers))
			}
		}
	}
}

func sortedRoutes() []string { return slices.Sorted(maps.Keys(routes)) }

func keysOf[V any](m map[string]V) map[string]bool {
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out
}

func TestEverybodyAsksForEverything(t *testing.T) {
	tab := readTable(t)
	eachStore(t, func(t *testing.T, w *world) {
		for i, o := range w.orgs {
			// First what must write nothing: refusals, and all that is read.
			before := w.rows(t)
			sent, calls := w.asked(), len(w.sim.Log())
			answers := map[cell]*rig.Reply{}
			for _, c := range tab.cells(func(_ string, status int) bool { return status >= 400 }) {
				answers[c] = w.ask(t, o, c, tab.want(c))
				if listed := c.route == "GET /v1/models/{id...}" && tab.want(c) == 404; w.asked() != sent && !listed { // not there is known from the lists
					t.Fatalf("%v asked the provider", c)
				}
				sent = w.asked()
			}
			for _, c := range tab.cells(func(route string, status int) bool { return status < 400 && strings.HasPrefix(route, "GET ") }) {
				answers[c] = w.ask(t, o, c, tab.want(c))
			}
			after := w.rows(t)
			for i := range w.orgs {
				if changes := before[i].changes(after[i]); changes != "" {
					t.Errorf("refusals and reads by %s changed rows of %s:\n%s", o.id, w.orgs[i].id, changes)
				}
			}
			if n := len(w.sim.Log()); n != calls {
				t.Errorf("refusals and reads asked models %d times", n-calls)
			}
			// Then what writes, which must leave the other org alone.
			writes := tab.cells(func(route string, status int) bool { return status < 400 && !strings.HasPrefix(route, "GET ") })
			slices.SortStableFunc(writes, func(a, b cell) int { return order(a) - order(b) })
			for _, c := range writes {
				answers[c] = w.ask(t, o, c, tab.want(c))
			}
			if changes := before[1-i].changes(w.rows(t)[1-i]); changes != "" {
				t.Errorf("writes by %s changed rows of %s:\n%s", o.id, o.other.id, changes)
			}
			if after[i].changes(w.rows(t)[i]) == "" {
				t.Errorf("the writes of %s wrote nothing: the comparison sees nothing", o.id)
			}
			alike(t, o, tab, answers)
		}
	})
}

// order puts what leaves nothing to ask for behind the rest.
func order(c cell) int {
	if c.route == deleteOrg {
		return 1
	}
	return 0
}

// ask asks, and checks all that can be said of an answer by itself.
func (w *world) ask(t *testing.T, o *tenant, c cell, want int) *rig.Reply {
	t.Helper()
	a := c.ask(t, o)
	method, _, _ := strings.Cut(c.route, " ")
	var body any
	if a.body != "" {
		body = a.body
	}
	r, err := w.Do(t.Context(), method, a.path, o.keys[c.asker], body, a.header...)
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	if r.Status != want {
		t.Errorf("%s: status %d, want %d: %s", c, r.Status, want, r.Body)
	}
	if r.Status >= 400 {
		errorObject(t, c.String(), r)
	}
	for _, there := range append([]string{string(r.Body)}, values(r.Header)...) {
		if strings.Contains(there, o.other.canary) || strings.Contains(there, o.other.id) && a.id != o.other.id {
			t.Errorf("%s: the answer holds what is the other org's: %.300s", c, there)
		}
	}
	r.Body = bytes.ReplaceAll(r.Body, []byte(r.Header.Get("X-Request-Id")), []byte("REQUEST"))
	if a.id != "" && a.id != malformed {
		r.Body = bytes.ReplaceAll(r.Body, []byte(a.id), []byte("NAME"))
	}
	return r
}

func values(h http.Header) (all []string) {
	for _, v := range h {
		all = append(all, v...)
	}
	return all
}

// alike compares what one asker gets for a thing of others with what he gets for a thing that is not there.
func alike(t *testing.T, o *tenant, tab table, answers map[cell]*rig.Reply) {
	t.Helper()
	for _, c := range tab.cells(func(string, int) bool { return true }) {
		absent := answers[cell{c.route, "absent", c.asker}]
		if c.thing != "foreign" && c.thing != "private" || tab.want(cell{c.route, "absent", c.asker}) != tab.want(c) {
			continue
		}
		r := answers[c]
		if r.Status != absent.Status {
			t.Errorf("%s: status %d, and %d when absent", c, r.Status, absent.Status)
			continue
		}
		if diff := cmp.Diff(head(absent, r.Status < 400), head(r, r.Status < 400)); diff != "" {
			t.Errorf("%s: headers, absent (-) and %s (+):\n%s", c, c.thing, diff)
		}
		if r.Status >= 400 && !bytes.Equal(r.Body, absent.Body) {
			t.Errorf("%s: the body is\n%s\nand when absent\n%s", c, r.Body, absent.Body)
		}
	}
}

// head is the header without what differs between any two answers. Of a good answer only the names count: it tells of
// the thing.
func head(r *rig.Reply, names bool) http.Header {
	h := r.Header.Clone()
	for name := range h {
		switch {
		case name == "Date" || name == "X-Request-Id" || name == "Openai-Processing-Ms":
			delete(h, name)
		case names:
			h[name] = nil
		}
	}
	return h
}
