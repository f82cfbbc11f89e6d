package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/orgs"
)

// lookedUp is a store that counts the keys it is asked for.
type lookedUp struct {
	db.Store
	n atomic.Int64
}

func (l *lookedUp) Shown(ctx context.Context, key id.Key, f func(db.Tx) error) error {
	l.n.Add(1)
	return l.Store.Shown(ctx, key, f)
}

// door is an edge before a real authenticator, with one good key.
type door struct {
	*edge
	store *lookedUp
	orgs  *orgs.Service
	good  string
}

func newDoor(t *testing.T, failures int64) *door {
	t.Helper()
	store, err := db.Open(t.Context(), db.Options{URL: testkit.SQLite(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	ring, err := seal.ParseKeyring(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	d := &door{store: &lookedUp{Store: store}}
	d.orgs = orgs.New(orgs.Options{Store: d.store, Keyring: ring, Patience: time.Minute, KeyTTL: 50 * time.Millisecond})
	if err := d.orgs.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.orgs.Close() })
	s, err := d.orgs.Seed(t.Context(), orgs.SeedSpec{Org: "acme", Email: "m@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	d.good = s.APIKey.Reveal()
	d.edge = newEdge(t, Options{Orgs: d.orgs, Models: fakeModels{}, AuthFailures: failures}).serveTCP()
	return d
}

// ask asks for a key as if it came from an address, without a connection, and returns the answer's status.
func (d *door) ask(from, key string) int {
	var rc fasthttp.RequestCtx
	var req fasthttp.Request
	req.Header.SetMethod("GET")
	req.SetRequestURI("/v1/models")
	req.Header.Set("Authorization", "Bearer "+key)
	rc.Init(&req, &net.TCPAddr{IP: net.ParseIP(from)}, quietLogger{d.opts.Log})
	d.Gateway.serve(&rc)
	return rc.Response.StatusCode()
}

// guess is a well-formed key that is nobody's.
func guess() string { return orgs.NewKey().Secret().Reveal() }

// Thousands of keys from one address, in a long run a hundred thousand, cost the store no more look-ups than are allowed,
// and a good caller behind the same address is answered all the while, though what is remembered of its key ends again and
// again.
func TestGuessesAreFewAndShutNobodyOut(t *testing.T) {
	t.Parallel()
	guesses, allowed := 10_000, int64(60)
	if os.Getenv("THREADHUB_SOAK") != "" {
		guesses = 100_000
	}
	d := newDoor(t, allowed)
	const neighbours = "203.0.113.7"
	if status := d.ask(neighbours, d.good); status != 200 {
		t.Fatalf("the good key: %d", status)
	}
	start, before := time.Now(), d.store.n.Load()
	var wg sync.WaitGroup
	var over atomic.Bool
	var answered, goodLookUps atomic.Int64
	wg.Go(func() {
		for !over.Load() {
			if status := d.ask(neighbours, d.good); status != 200 {
				t.Errorf("the good key, after %d answers: %d", answered.Load(), status)
				return
			}
			answered.Add(1)
			time.Sleep(time.Millisecond) // or it would take most of the processor
		}
	})
	var refused, limited atomic.Int64
	var guessers sync.WaitGroup
	for range 4 {
		guessers.Go(func() {
			for range guesses / 4 {
				switch status := d.ask(neighbours, guess()); status {
				case 401:
					refused.Add(1)
				case 429:
					limited.Add(1)
				default:
					t.Errorf("a guess: %d", status)
				}
			}
		})
	}
	guessers.Wait()
	over.Store(true)
	wg.Wait()
	minutes := int64(time.Since(start)/time.Minute) + 1
	goodLookUps.Store(d.store.n.Load() - before - refused.Load())
	if n := refused.Load(); n > allowed*minutes || n < allowed/2 {
		t.Errorf("%d look-ups of bad keys within %d minutes, %d allowed in each", n, minutes, allowed)
	}
	if refused.Load()+limited.Load() != int64(guesses) || answered.Load() == 0 || goodLookUps.Load() == 0 {
		t.Errorf("%d refused, %d limited, %d good answers, %d look-ups of the good key: the test saw nothing",
			refused.Load(), limited.Load(), answered.Load(), goodLookUps.Load())
	}
	// Another address has its own bound, and a key with a bad checksum needs no leave, for nobody looks it up.
	before = d.store.n.Load()
	if status := d.ask("203.0.113.8", guess()); status != 401 || d.store.n.Load() != before+1 {
		t.Errorf("from another address: %d, %d look-ups", status, d.store.n.Load()-before)
	}
	before = d.store.n.Load()
	for i := range 1000 {
		g := guess()
		if status := d.ask(neighbours, fmt.Sprintf("%s%06d", g[:len(g)-6], i)); status != 401 {
			t.Fatalf("junk: %d", status)
		}
	}
	if n := d.store.n.Load() - before; n != 0 {
		t.Errorf("%d look-ups of junk", n)
	}
}

// Over the wire: what the client is told, and that a key that was good and is no more is not excused for ever.
func TestTheAnswerToTooManyGuesses(t *testing.T) {
	d := newDoor(t, 2) // one at once, and one a minute
	if r := d.do("GET", "/v1/models", "", bearer(guess())); r.status != 401 {
		t.Fatalf("the first: %+v", r)
	}
	r := d.do("GET", "/v1/models", "", bearer(guess()))
	if r.status != 429 || r.code() != "rate_limit_exceeded" || r.errorField("type") != "rate_limit_error" || r.header.Get("Retry-After") != "60" {
		t.Errorf("the second: %+v", r)
	}
	fresh, key, err := d.orgs.CreateKey(t.Context(), "org_acme", orgs.Actor{}, orgs.KeySpec{User: d.user(t), Name: "fresh"})
	if err != nil {
		t.Fatal(err)
	}
	if r := d.do("GET", "/v1/models", "", bearer(fresh.Reveal())); r.status != 429 {
		t.Errorf("a good key that was never seen: %d", r.status)
	}
	if status := d.ask("203.0.113.9", fresh.Reveal()); status != 200 { // from now on it is known
		t.Errorf("the same from elsewhere: %d", status)
	}
	if r := d.do("GET", "/v1/models", "", bearer(fresh.Reveal())); r.status != 200 {
		t.Errorf("the same, known: %d", r.status)
	}
	if err := d.orgs.RevokeKey(t.Context(), "org_acme", orgs.Actor{}, key.ID); err != nil {
		t.Fatal(err)
	}
	if r := d.do("GET", "/v1/models", "", bearer(fresh.Reveal())); r.status != 401 {
		t.Errorf("revoked: %d", r.status)
	}
	testkit.Eventually(t, 10*time.Second, func() bool { // when its refusal is forgotten it is a guess like any other
		return d.do("GET", "/v1/models", "", bearer(fresh.Reveal())).status == 429
	}, "a revoked key to need leave")
	if off := newDoor(t, -1); off.ask("203.0.113.7", guess())+off.ask("203.0.113.7", guess()) != 2*401 {
		t.Error("the limit cannot be switched off")
	}
}

func (d *door) user(t *testing.T) id.User {
	t.Helper()
	u, err := d.orgs.FindUser(t.Context(), "org_acme", "m@example.com")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestGuessesAreForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses(60)
		from := func(n byte) suspect { return suspect{from: netip.AddrFrom4([4]byte{203, 0, 113, n})} }
		at := func(key string) suspect { return suspect{key: id.Key(key)} }
		all := func(n byte, key string) (taken int) {
			for g.take(from(n), at(fmt.Sprint(key, taken)), time.Now()) == 0 {
				taken++
			}
			return taken
		}
		if n := all(1, "a"); n != 30 {
			t.Errorf("%d at once", n)
		}
		if wait := g.take(from(1), at("b"), time.Now()); wait != 2*time.Second {
			t.Errorf("to wait %v", wait)
		}
		taken := 0
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			taken += all(1, fmt.Sprint("c", taken))
		}
		if taken != 30 {
			t.Errorf("%d in the minute after", taken)
		}
		time.Sleep(time.Hour)
		for range 1000 { // what turns out to be good costs nothing
			if g.take(from(1), at("d"), time.Now()) != 0 {
				t.Fatal("good keys are counted")
			}
			g.giveBack(from(1), at("d"))
		}
		if n := all(1, "e"); n != 30 {
			t.Errorf("%d after an hour", n)
		}

		// At one key's id: the first of each address is free, what follows is bounded for all of them together.
		tried := 0
		for n := range byte(200) {
			for g.take(from(n+2), at("victim"), time.Now()) == 0 {
				tried++
			}
		}
		if tried != 200+29 {
			t.Errorf("%d guesses at one id from 200 addresses", tried)
		}
	})
}

func TestTheMemoryOfGuessesIsBounded(t *testing.T) {
	g := newGuesses(60)
	now := time.Now()
	loud := suspect{from: netip.MustParseAddr("203.0.113.7")}
	for i := range 1_000_000 {
		from := suspect{from: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
		g.take(from, suspect{key: id.Key(fmt.Sprint(i))}, now)
		if i%1000 == 0 {
			g.take(loud, suspect{}, now)
		}
	}
	if n := len(g.young) + len(g.old); n > 2*maxSuspects {
		t.Errorf("%d are remembered", n)
	}
	if g.take(loud, suspect{}, now) == 0 {
		t.Error("an address that goes on is forgotten over many that do not")
	}
}

func TestNetwork(t *testing.T) {
	for ip, want := range map[string]string{
		"203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7": "203.0.113.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
	} {
		if got := network(net.ParseIP(ip)); got.String() != want {
			t.Errorf("%s is of %s, want %s", ip, got, want)
		}
	}
	if got := network(nil); got.IsValid() || !strings.Contains(got.String(), "invalid") {
		t.Errorf("no address is %s", got)
	}
}
