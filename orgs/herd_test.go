package orgs

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
)

// R12: a process starts, or Postgres is just back, and everybody comes at once. Each key is looked up once, however often
// it is shown, and nobody is turned away because the pool is small.
func TestAHerdIsLookedUpOnce(t *testing.T) {
	t.Parallel()
	const keys, each = 600, 5
	w := newWorld(t, testkit.Postgres(t))
	m := w.open(t)
	first := member(t, m, "herd")
	tokens := make([]string, keys)
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < keys; i += 8 {
				key, _, err := m.CreateKey(t.Context(), first.Org, Actor{}, KeySpec{User: first.User, Name: fmt.Sprint("key ", i)})
				if err != nil {
					t.Error(err)
					return
				}
				tokens[i] = key.Reveal()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	store, err := db.Open(t.Context(), db.Options{URL: w.url, Timeout: time.Minute}) // how fast the machine is does not count
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	w.store = &watched{Store: store}
	s := w.open(t)
	var failed atomic.Int64
	for _, token := range tokens {
		for range each {
			wg.Go(func() {
				if _, err := s.Authenticate(t.Context(), token); err != nil && failed.Add(1) == 1 {
					t.Errorf("one of the herd was told %v", err)
				}
			})
		}
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d were turned away", n, keys*each)
	}
	if n := w.store.shown.Load(); n != keys {
		t.Errorf("%d look-ups of %d keys", n, keys)
	}
	if st := store.Stats(); st.Full != 0 {
		t.Errorf("%d found the pool full", st.Full)
	}
}
