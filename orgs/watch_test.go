package orgs

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

// running is a call that is watched.
type running struct {
	told chan error
	n    atomic.Int32
	stop func()
}

// anyRole lets every role go on.
func anyRole(Caller) error { return nil }

func watch(t *testing.T, s *Service, caller Caller, still func(Caller) error) *running {
	t.Helper()
	r := &running{told: make(chan error, 8)}
	r.stop = s.Watch(caller, still, func(err error) { r.n.Add(1); r.told <- err })
	t.Cleanup(r.stop)
	return r
}

// ends waits for the call to be told that it is over.
func (r *running) ends(t *testing.T, within time.Duration, kind fault.Kind, code string) {
	t.Helper()
	select {
	case err := <-r.told:
		hasCode(t, err, kind, code)
	case <-time.After(within):
		t.Fatalf("not told within %v", within)
	}
}

// watching opens a service whose watch looks at its clock every few milliseconds, and at the store when the world's time
// says so.
func (w *world) watching(t *testing.T, set ...func(*Options)) *Service {
	t.Helper()
	return w.open(t, append(set, withTTL(300*time.Millisecond))...)
}

// asked waits until the service has asked the store n times more than before.
func (w *world) asked(t *testing.T, before, n int64) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() bool { return w.store.queries.Load() >= before+n }, "%d questions to the store", n)
}

// settled waits until what is watched has been asked for once.
func (w *world) settled(t *testing.T, s *Service) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() bool {
		s.watches.mu.Lock()
		defer s.watches.mu.Unlock()
		for _, of := range s.watches.keys {
			if of.asked.IsZero() || of.alarmed {
				return false
			}
		}
		return true
	}, "all that is watched to be asked for")
}

func TestARevokedKeyEndsWhatRuns(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal()
		here, there := w.open(t, withBus(joined)), w.open(t, withBus(joined))
		k, other := member(t, here, "acme"), member(t, here, "acme")
		var ended []*running
		for _, s := range []*Service{here, there} {
			for range 3 {
				ended = append(ended, watch(t, s, callerOf(t, s, k.APIKey), anyRole))
			}
		}
		goesOn := watch(t, there, callerOf(t, there, other.APIKey), anyRole)
		stopped := watch(t, there, callerOf(t, there, k.APIKey), anyRole)
		stopped.stop()
		stopped.stop()
		if err := here.RevokeKey(t.Context(), k.Org, Actor{}, k.Key); err != nil {
			t.Fatal(err)
		}
		for _, r := range ended { // a second is what is promised; the rest is for a busy machine
			r.ends(t, 10*time.Second, fault.Unauthorized, "key_revoked")
		}
		joined.Publish(t.Context(), topicPeople, string(k.Org))
		w.settled(t, there)
		for _, r := range ended {
			if r.n.Load() != 1 {
				t.Errorf("told %d times", r.n.Load())
			}
		}
		if goesOn.n.Load()+stopped.n.Load() != 0 {
			t.Error("told of somebody else's key, or after its end")
		}
	})
}

// Without a word from the bus each way in which a key can end is found out, within KeyTTL by the service's clock.
func TestWhatEndedIsFoundOutWithoutABus(t *testing.T) {
	for name, end := range map[string]struct {
		sql     string
		still   func(Caller) error
		kind    fault.Kind
		code    string
		endless bool
	}{
		"revoked":       {sql: `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1 AND key_id = $2`, kind: fault.Unauthorized, code: "key_revoked"},
		"user disabled": {sql: `UPDATE users SET disabled_at = now() WHERE org_id = $1 AND user_id = (SELECT user_id FROM api_keys WHERE org_id = $1 AND key_id = $2)`, kind: fault.Unauthorized, code: "key_revoked"},
		"org disabled":  {sql: `UPDATE orgs SET disabled_at = now() WHERE org_id = $1 AND $2 <> ''`, kind: fault.Unauthorized, code: "key_revoked"},
		"now a viewer": {
			sql: `UPDATE users SET role = 'viewer' WHERE org_id = $1 AND user_id = (SELECT user_id FROM api_keys WHERE org_id = $1 AND key_id = $2)`,
			still: func(c Caller) error {
				if c.Role == Viewer {
					return fault.New(fault.Denied, "no").WithCode("permission_denied")
				}
				return nil
			}, kind: fault.Denied, code: "permission_denied",
		},
		"an admin, who may more": {sql: `UPDATE users SET role = 'admin' WHERE org_id = $1 AND user_id = (SELECT user_id FROM api_keys WHERE org_id = $1 AND key_id = $2)`, endless: true},
	} {
		if end.still == nil {
			end.still = anyRole
		}
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				s := w.watching(t)
				k := member(t, s, "acme")
				r := watch(t, s, callerOf(t, s, k.APIKey), end.still)
				w.settled(t, s)
				w.exec(t, k.Org, end.sql, string(k.Org), string(k.Key))
				w.advance(150*time.Millisecond - 1) // just short of half the KeyTTL: it is not asked again
				callerOf(t, s, k.APIKey)
				before := w.store.queries.Load()
				if r.n.Load() != 0 {
					t.Fatal("told although nobody can know yet")
				}
				w.advance(1)
				if end.endless {
					w.asked(t, before, 1)
					w.settled(t, s)
					if r.n.Load() != 0 {
						t.Error("told although it may go on")
					}
					return
				}
				r.ends(t, 20*time.Second, end.kind, end.code)
				// What was found out is not remembered otherwise for the rest of its time.
				if c, err := s.Authenticate(t.Context(), k.APIKey.Reveal()); err == nil && end.still(c) == nil {
					t.Errorf("still let in as %+v", c)
				}
			})
		})
	}
}

func TestAnExpiredKeyEndsWhatRuns(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.watching(t)
		k := member(t, s, "acme")
		token, _, err := s.CreateKey(t.Context(), k.Org, Actor{}, KeySpec{User: k.User, Name: "short", Expires: w.now().Add(100 * time.Millisecond)})
		if err != nil {
			t.Fatal(err)
		}
		r := watch(t, s, callerOf(t, s, token), anyRole)
		w.settled(t, s)
		w.advance(99 * time.Millisecond)
		w.settled(t, s)
		if r.n.Load() != 0 {
			t.Fatal("told before its time")
		}
		w.advance(time.Millisecond) // less than half a KeyTTL has gone by
		r.ends(t, 20*time.Second, fault.Unauthorized, "key_revoked")
	})
}

// What is decided about people while a call waits, before it is watched, is not lost on it.
func TestACallThatComesLateToTheWatch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := member(t, s, "acme")
		caller := callerOf(t, s, k.APIKey)
		denied := func(c Caller) error {
			if c.Role == Viewer {
				return fault.New(fault.Denied, "no").WithCode("permission_denied")
			}
			return nil
		}
		first, reader := watch(t, s, caller, denied), watch(t, s, caller, anyRole)
		seed(t, s, SeedSpec{Org: "acme", Email: "m@example.com", Role: Viewer})
		first.ends(t, 20*time.Second, fault.Denied, "permission_denied")
		watch(t, s, caller, denied).ends(t, 20*time.Second, fault.Denied, "permission_denied")
		if reader.n.Load() != 0 {
			t.Error("a call that may go on was told to end")
		}
	})
}

func TestAStoreThatIsAwayEndsNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.watching(t)
		k := member(t, s, "acme")
		r := watch(t, s, callerOf(t, s, k.APIKey), anyRole)
		w.settled(t, s)
		w.exec(t, k.Org, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1`, string(k.Org))
		w.store.down.Store(true)
		before := w.store.queries.Load()
		w.advance(time.Hour)
		w.asked(t, before, 5)
		if r.n.Load() != 0 {
			t.Fatal("a store that is away is no revocation")
		}
		w.store.down.Store(false)
		r.ends(t, 20*time.Second, fault.Unauthorized, "key_revoked")
	})
}

func TestOneQuestionForAllCallsOfAKey(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.watching(t)
		const keys, each = 100, 50 // more keys than one batch holds
		k := member(t, s, "acme")
		var all []*running
		before := w.store.queries.Load()
		for i := range keys {
			for range each {
				all = append(all, watch(t, s, Caller{Org: k.Org, Key: id.Key(fmt.Sprint("key", i))}, anyRole))
			}
		}
		// Nobody has these keys: all calls are told, by one question for all calls of a key.
		for _, r := range all {
			r.ends(t, 20*time.Second, fault.Unauthorized, "key_revoked")
		}
		// A key whose first calls have ended before its last was made is asked for again: few are, of fifty calls each.
		if n := w.store.queries.Load() - before; n < keys || n > 2*keys {
			t.Errorf("%d questions for %d keys", n, keys)
		}

		// A key that many short calls use one after the other is asked for once in half a KeyTTL.
		caller := callerOf(t, s, k.APIKey)
		before = w.store.queries.Load()
		for range 100 {
			r := watch(t, s, caller, anyRole)
			w.settled(t, s)
			r.stop()
		}
		if n := w.store.queries.Load() - before; n != 1 {
			t.Errorf("%d questions for a key that 100 calls used at one time", n)
		}
		w.advance(time.Second)
		testkit.Eventually(t, 20*time.Second, func() bool {
			s.watches.mu.Lock()
			defer s.watches.mu.Unlock()
			return len(s.watches.keys) == 0
		}, "a key that nobody uses to be forgotten")
	})
}

// Keys of two orgs that have the same id have nothing to do with each other.
func TestWatchesOfNamesakes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		a, b := member(t, s, "acme"), member(t, s, "globex")
		w.exec(t, b.Org, `UPDATE api_keys SET key_id = $2 WHERE org_id = $1`, string(b.Org), string(a.Key))
		ofA := watch(t, s, Caller{Org: a.Org, User: a.User, Key: a.Key, Role: Member}, anyRole)
		ofB := watch(t, s, Caller{Org: b.Org, User: b.User, Key: a.Key, Role: Member}, anyRole)
		if err := s.RevokeKey(t.Context(), b.Org, Actor{}, a.Key); err != nil {
			t.Fatal(err)
		}
		ofB.ends(t, 10*time.Second, fault.Unauthorized, "key_revoked")
		w.settled(t, s)
		if ofA.n.Load() != 0 {
			t.Error("told of another org's key")
		}
	})
}

func TestABusThatMissedSomethingAsksForAll(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		b := &resettable{Local: bus.NewLocal()}
		s := w.open(t, withBus(b))
		k := member(t, s, "acme")
		r := watch(t, s, callerOf(t, s, k.APIKey), anyRole)
		w.exec(t, k.Org, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1`, string(k.Org))
		b.reset()
		r.ends(t, 10*time.Second, fault.Unauthorized, "key_revoked")
	})
}

// A panic in what the gateway is told with ends nobody else's watch.
func TestAPanicEndsNoWatch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, other := member(t, s, "acme"), member(t, s, "acme")
		s.Watch(callerOf(t, s, k.APIKey), anyRole, func(error) { panic(errors.New("no")) })
		r := watch(t, s, callerOf(t, s, other.APIKey), anyRole)
		for _, key := range []id.Key{k.Key, other.Key} {
			if err := s.RevokeKey(t.Context(), k.Org, Actor{}, key); err != nil {
				t.Fatal(err)
			}
		}
		r.ends(t, 10*time.Second, fault.Unauthorized, "key_revoked")
	})
}
