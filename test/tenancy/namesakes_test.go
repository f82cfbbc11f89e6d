package tenancy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Threads of two orgs that have the same name, used at the same time, have nothing to do with each other.
func TestThreadsOfOneNameInTwoOrgs(t *testing.T) {
	const threads, turns = 3, 4
	eachStore(t, func(t *testing.T, w *world) {
		before := len(w.sim.Log())
		var wg sync.WaitGroup
		for _, o := range w.orgs {
			for n := range threads {
				wg.Go(func() {
					for turn := range turns {
						text := fmt.Sprintf("%s turn %d", o.canary, turn)
						r, err := w.Do(t.Context(), "POST", "/v1/chat/completions", o.keys["member"], chatBody(o.model, text), "X-Thread-Id", fmt.Sprint("plan-", n))
						if err != nil || r.Status != 200 {
							t.Errorf("%s plan-%d turn %d: %v %+v", o.id, n, turn, err, r)
							return
						}
						if want := fmt.Sprint(2 * turn); r.Header.Get("X-Threadhub-Thread-Seq") != want {
							t.Errorf("%s plan-%d turn %d: sequence %s, want %s", o.id, n, turn, r.Header.Get("X-Threadhub-Thread-Seq"), want)
						}
					}
				})
			}
		}
		wg.Wait()
		for _, o := range w.orgs {
			for n := range threads {
				w.checkNamesake(t, o, fmt.Sprint("plan-", n), turns)
			}
		}
		for _, a := range w.sim.Log()[before:] {
			for _, o := range w.orgs {
				if a.Provider != o.provider && strings.Contains(string(a.Body), o.canary) {
					t.Errorf("%s's words went to %s: %s", o.id, a.Provider, a.Body)
				}
			}
		}
	})
}

func (w *world) checkNamesake(t *testing.T, o *tenant, thread string, turns int) {
	t.Helper()
	r := w.Must(t, 200, "GET", "/api/threads/"+thread, o.keys["viewer"], nil)
	var got struct {
		Org      string `json:"org_id"`
		Messages []struct {
			Sequence int
			Role     string
			Content  string
		}
	}
	if err := r.JSON(&got); err != nil {
		t.Fatal(err)
	}
	if got.Org != o.id || len(got.Messages) != 2*turns {
		t.Errorf("%s of %s is of %s and has %d messages", thread, o.id, got.Org, len(got.Messages))
	}
	for i, m := range got.Messages {
		role := []string{"user", "assistant"}[i%2]
		if m.Sequence != i || m.Role != role || !strings.Contains(m.Content, fmt.Sprintf("%s turn %d", o.canary, i/2)) {
			t.Errorf("%s of %s at %d: %+v", thread, o.id, i, m)
		}
	}
	if strings.Contains(string(r.Body), o.other.canary) {
		t.Errorf("%s of %s holds words of the other org", thread, o.id)
	}
}
