package gateway

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

// Whether calls were opened is not known when their clients are answered; they are opened, with their messages, when other
// requests have come after them on the same connections. fasthttp gives those the buffers of the ones before.
func TestWhatIsKeptOfARequestIsItsOwn(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	const askers = 8
	m := &moody{Store: h.store}
	h.use(m)
	var passed atomic.Bool
	m.set(func(u *db.Unit) (bool, error) {
		if passed.Load() {
			return false, nil
		}
		return true, fault.New(fault.Unavailable, "no answer").WithCode("outcome_unknown")
	})
	asked := func(n int) string { return fmt.Sprintf("%d asks for %s", n, strings.Repeat(string(rune('a'+n)), 2000)) }
	all := func(ask func(n int)) {
		var wg sync.WaitGroup
		for n := range askers {
			wg.Go(func() { ask(n) })
		}
		wg.Wait()
	}
	all(func(n int) {
		if r := h.chat(asked(n), "", "X-Thread-Id", fmt.Sprint("t", n)); r.code() != "outcome_unknown" {
			t.Errorf("%d was told %d: %s", n, r.status, r.body)
		}
	})
	for range 4 {
		all(func(n int) { h.chat(strings.Repeat("x", 2010), `,"stream":"no"`).want(t, 400) })
	}
	passed.Store(true)
	for n := range askers {
		thread := id.Thread(fmt.Sprint("t", n))
		testkit.Eventually(t, 20*time.Second, func() bool {
			kept, err := h.stored(thread)
			return err == nil && len(kept) == 2
		}, "the call in %s to be opened and closed", thread)
		if got := h.messages(thread); got[0] != "user:"+asked(n)+":complete" {
			t.Errorf("%s begins with %.80q, not with what was asked there", thread, got[0])
		}
	}
}
