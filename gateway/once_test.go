package gateway

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
	"threadhub/orgs"
)

// made are requests of administration that are answered once, with what another one of the route would be.
var madeByAdmins = map[string]struct{ path, body, other string }{
	"a user": {"/api/users", `{"email":"once@house.test","name":"Once"}`, `{"email":"twice@house.test"}`},
	"a team": {"/api/teams", `{"name":"once"}`, `{"name":"twice"}`},
	"a key":  {"/api/keys", `{"name":"once","read_only":true}`, `{"name":"twice"}`},
}

// ids are what a list of the route holds.
func (h *house) ids(path string) (ids []string) {
	h.t.Helper()
	for _, v := range h.do("GET", path+"?limit=100", "").want(h.t, 200).json(h.t)["data"].([]any) {
		ids = append(ids, v.(map[string]any)["id"].(string))
	}
	return ids
}

// What an admin makes under a key is made once, by however many processes it is asked for at once, and written down once;
// all are given the same bytes, the secret in them too.
func TestAdministrationIsDoneOnce(t *testing.T) {
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		there := h.replica(nil)
		colleague := h.seed("house", "b@house.test", orgs.Admin)
		stranger := h.seed("other", "c@other.test", orgs.Admin)
		for name, c := range madeByAdmins {
			before, lines := len(h.ids(c.path)), h.audited()
			got := make([]heard, 8)
			var wg sync.WaitGroup
			for i := range got {
				wg.Go(func() { got[i] = []*house{h, there}[i%2].do("POST", c.path, c.body, key, name) })
			}
			wg.Wait()
			var first heard
			for _, r := range got {
				if r.want(t, 201).header.Get("Idempotent-Replayed") == "" {
					if first.status != 0 {
						t.Errorf("%s: two were made: %s and %s", name, first.body, r.body)
					}
					first = r
				}
			}
			for _, r := range append(got, there.do("POST", c.path, c.body, key, name)) {
				if r.header.Get("Idempotent-Replayed") != "" {
					same(t, first, r)
				}
			}
			if n := len(h.ids(c.path)) - before; n != 1 {
				t.Errorf("%s: %d were made", name, n)
			}
			if n := h.audited() - lines; n != 1 {
				t.Errorf("%s: %d lines were written", name, n)
			}
			if call := h.call(first); call["kind"] != "admin" || call["status"] != "complete" || call["http_status"] != 201.0 {
				t.Errorf("%s: the call is %v", name, call)
			}
			for what, r := range map[string]heard{
				"another body": h.do("POST", c.path, c.other, key, name),
			} {
				if r.status != 422 || r.code() != "idempotency_key_reused" {
					t.Errorf("%s, %s: %d %s", name, what, r.status, r.body)
				}
			}
			for who, s := range map[string]orgs.Seeded{"a colleague": colleague, "a stranger": stranger} {
				r := h.do("POST", c.path, c.other, key, name, "Authorization", "Bearer "+s.APIKey.Reveal())
				if r.status != 201 || r.header.Get("Idempotent-Replayed") != "" {
					t.Errorf("%s: %s's key got %d %s", name, who, r.status, r.body)
				}
			}
		}
	})
}

func (h *house) audited() int {
	h.t.Helper()
	lines, err := h.orgs.Audit(h.t.Context(), h.admin.Org, 0, 1000)
	if err != nil {
		h.t.Fatal(err)
	}
	return len(lines)
}

// What is refused is no answer, and of a change that fails half-way no claim is left.
func TestWhatAdminsAreRefusedFreesTheClaim(t *testing.T) {
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		taken := h.do("POST", "/api/teams", `{"name":"once"}`).want(t, 201).json(t)["id"].(string)
		h.do("POST", "/api/teams", `{"name":"once"}`, key, "k").want(t, 409)
		h.do("DELETE", "/api/teams/"+taken, "").want(t, 200)
		first := h.do("POST", "/api/teams", `{"name":"once"}`, key, "k").want(t, 201)
		same(t, first, h.do("POST", "/api/teams", `{"name":"once"}`, key, "k"))
	})
}

func TestAdministrationThatWasCutOffIsDoneWhenAskedAgain(t *testing.T) {
	url := testkit.Postgres(t)
	h, exec := newHouse(t, url, Options{}), onPostgres(t, url)
	for _, table := range []string{"replays", "audit"} { // both come after the key
		before := len(h.ids("/api/keys"))
		exec(raise(table, "P0001"))
		h.do("POST", "/api/keys", `{"name":"once"}`, key, table).want(t, 500)
		exec(`DROP TRIGGER fail ON ` + table)
		if n := len(h.ids("/api/keys")); n != before {
			t.Errorf("without %s: a key was made", table)
		}
		first := h.replica(nil).do("POST", "/api/keys", `{"name":"once"}`, key, table).want(t, 201)
		same(t, first, h.do("POST", "/api/keys", `{"name":"once"}`, key, table))
	}
}

// A new API key is in the store for those who repeat the request, and for nobody who reads the store; it goes with the org's
// data key, and with its day.
func TestAKeptAPIKeyIsSealed(t *testing.T) {
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		first := h.do("POST", "/api/keys", `{"name":"once"}`, key, "k").want(t, 201)
		secret := first.json(t)["api_key"].(string)
		kept := 0
		err := h.store.Query(t.Context(), h.admin.Org, db.Query{
			SQL: `SELECT body FROM replays WHERE org_id = $1`, Args: []any{h.admin.Org},
			Each: func(row db.Row) error {
				var body []byte
				err := row.Scan(&body)
				kept++
				if len(body) < len(first.body) || bytes.Contains(body, []byte(secret)) || bytes.Contains(body, []byte("once")) {
					t.Errorf("what is kept is %q", body)
				}
				return err
			},
		})
		if err != nil || kept != 1 {
			t.Fatalf("%d are kept, %v", kept, err)
		}
		if strings.Contains(h.log.String(), secret) {
			t.Error("the key is in the log")
		}
		if _, err := h.orgs.Rotate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if r := h.do("POST", "/api/keys", `{"name":"once"}`, key, "k"); r.status != 410 || r.code() != "answer_not_kept" {
			t.Errorf("after a rotation: %d %s", r.status, r.body)
		}
		err = h.store.Write(t.Context(), h.admin.Org, func(tx db.Tx) error {
			n, err := tx.Exec(t.Context(), `UPDATE calls SET claim_until = now() WHERE org_id = $1 AND claim IS NOT NULL`, h.admin.Org)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d claims", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		again := h.do("POST", "/api/keys", `{"name":"once"}`, key, "k").want(t, 201)
		if again.header.Get("Idempotent-Replayed") != "" || again.json(t)["api_key"] == secret {
			t.Errorf("after its day: %s", again.body)
		}
	})
}

// Whoever may not make it now is not told of what the same key made when it might.
func TestARepeatNeedsTheRoleToo(t *testing.T) {
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		s := h.seed("house", "b@house.test", orgs.Admin)
		auth := []string{"Authorization", "Bearer " + s.APIKey.Reveal(), key, "k"}
		body := `{"user_id":"` + string(h.admin.User) + `"}`
		h.do("POST", "/api/keys", body, auth...).want(t, 201)
		h.do("PATCH", "/api/users/"+string(s.User), `{"role":"member"}`).want(t, 200)
		h.do("POST", "/api/keys", body, auth...).want(t, 404)
	})
}
