package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"threadhub/internal/testkit"
	"threadhub/orgs"
)

// slowDoor lets the first request in only when it is told to.
type slowDoor struct {
	Authenticator
	came       atomic.Bool
	held, open chan struct{}
}

func (d *slowDoor) AuthenticateWith(ctx context.Context, token string, leave orgs.Leave) (orgs.Caller, error) {
	if !d.came.Swap(true) {
		close(d.held)
		<-d.open
	}
	return d.Authenticator.AuthenticateWith(ctx, token, leave)
}

// An SDK's retry overtakes the try that it repeats, whose client has given it up: there is one turn, and the second retry,
// whose answer to the first was lost, has it, too.
func TestATryThatItsRetryOvertakesIsNoTurn(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	d := &slowDoor{Authenticator: h.opts.Orgs, held: make(chan struct{}), open: make(chan struct{})}
	h.opts.Orgs = d
	ask := func(retry string) heard {
		return h.chat("hello", "", "X-Thread-Id", "t", "X-Stainless-Retry-Count", retry)
	}
	first := make(chan heard, 1)
	var wg sync.WaitGroup
	wg.Go(func() { first <- ask("0") })
	<-d.held
	opened := ask("1").want(t, 200)
	close(d.open)
	wg.Wait()
	for name, r := range map[string]heard{"the first try": <-first, "the second retry": ask("2")} {
		if r.want(t, 200); string(r.body) != string(opened.body) || r.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s was answered %v %s", name, r.header, r.body)
		}
	}
	if got := h.messages("t"); len(got) != 2 {
		t.Errorf("the thread reads %q", got)
	}
}
