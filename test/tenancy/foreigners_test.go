package tenancy

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"threadhub/test/rig"
)

// What an org has, whoever of it may see it, is for nobody of another org there: not for its admin, by no carrier of a
// key, and the answer is the one for a thing that nobody has. The table asks for what an org shows to all of its own;
// here all things are asked for.
func TestNobodyReachesIntoAnotherOrg(t *testing.T) {
	tab := readTable(t)
	eachStore(t, func(t *testing.T, w *world) {
		for i, o := range w.orgs {
			before := w.rows(t)
			asked := 0
			for _, route := range sortedRoutes() {
				r := routes[route]
				if !slices.Contains(r.things, "foreign") {
					continue
				}
				for _, asker := range []string{"viewer", "member", "admin"} {
					absent := w.reach(t, o.other, route, asker, r.id(o.other, cell{route, "absent", asker}), carriers["bearer"])
					want := tab.want(cell{route, "absent", asker})
					if absent.Status != want {
						t.Errorf("%s absent by %s: %d, want %d", route, asker, absent.Status, want)
					}
					for _, thing := range r.things {
						if thing == "foreign" || thing == "absent" || thing == "malformed" {
							continue
						}
						id := r.id(o, cell{route, thing, asker})
						for name, carrier := range carriers {
							got := w.reach(t, o.other, route, asker, id, carrier)
							asked++
							what := route + " " + thing + " of another org by its " + asker + ", key by " + name
							if got.Status != absent.Status {
								t.Errorf("%s: %d, and %d when absent: %s", what, got.Status, absent.Status, got.Body)
								continue
							}
							if diff := cmp.Diff(head(absent, got.Status < 400), head(got, got.Status < 400)); diff != "" {
								t.Errorf("%s: headers, absent (-) and foreign (+):\n%s", what, diff)
							}
							if got.Status >= 400 && !bytes.Equal(got.Body, absent.Body) {
								t.Errorf("%s: the body is\n%s\nand when absent\n%s", what, got.Body, absent.Body)
							}
							if strings.Contains(string(got.Body), o.canary) {
								t.Errorf("%s: the answer holds what is the other org's: %.300s", what, got.Body)
							}
						}
					}
				}
			}
			if changes := before[i].changes(w.rows(t)[i]); changes != "" {
				t.Errorf("requests of %s changed rows of %s:\n%s", o.other.id, o.id, changes)
			}
			if asked < 200 {
				t.Errorf("only %d requests reached over", asked)
			}
		}
	})
}

// reach asks, as one of o's, for a thing by its id, whosever it is.
func (w *world) reach(t *testing.T, o *tenant, route, asker, id string, carrier [2]string) *rig.Reply {
	t.Helper()
	a := routes[route].ask(o, id)
	r := w.by(t, cell{route, "foreign", asker}, a, "", append([]string{carrier[0], carrier[1] + o.keys[asker]}, a.header...)...)
	r.Body = bytes.ReplaceAll(r.Body, []byte(r.Header.Get("X-Request-Id")), []byte("REQUEST"))
	r.Body = bytes.ReplaceAll(r.Body, []byte(id), []byte("NAME"))
	return r
}
