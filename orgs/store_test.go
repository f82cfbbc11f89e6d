package orgs

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

func TestSeedMakesThenReuses(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		first := seed(t, s, SeedSpec{Org: "acme", Email: " Ada@Example.com ", Role: Admin})
		if first.Org != "org_acme" || !first.NewOrg || !first.NewUser || first.RoleWas != "" {
			t.Fatalf("made %+v", first)
		}
		want := Caller{Org: "org_acme", User: first.User, Key: first.Key, Role: Admin, WindowPolicy: WindowCut}
		if got := callerOf(t, s, first.APIKey); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}

		second := seed(t, s, SeedSpec{Org: "acme", Email: "ada@example.com"})
		if second.NewOrg || second.NewUser || second.User != first.User || second.Key == first.Key || second.RoleWas != "" {
			t.Fatalf("reused as %+v", second)
		}
		if got := callerOf(t, s, second.APIKey); got.Role != Admin || got.User != first.User {
			t.Fatalf("an empty role changed the user: %+v", got)
		}

		third := seed(t, s, SeedSpec{Org: "acme", Email: "ada@example.com", Role: Viewer})
		if third.RoleWas != Admin {
			t.Fatalf("the change of role is not told: %+v", third)
		}
		for _, k := range []Seeded{first, second, third} {
			if got := callerOf(t, s, k.APIKey); got.Role != Viewer {
				t.Fatalf("a key still has the old role: %+v", got)
			}
		}
	})
}

func TestSeedRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		seed(t, s, SeedSpec{Org: "acme", Email: "a@example.com", Seats: 2})
		seed(t, s, SeedSpec{Org: "acme", Email: "b@example.com"})
		_, err := s.Seed(t.Context(), SeedSpec{Org: "acme", Email: "c@example.com"})
		hasCode(t, err, fault.Conflict, "seats_full")
		seed(t, s, SeedSpec{Org: "acme", Email: "b@example.com"}) // who has a seat keeps it
		seed(t, s, SeedSpec{Org: "acme", Email: "c@example.com", Seats: 3, Tier: "team"})

		w.exec(t, "org_acme", `UPDATE users SET disabled_at = now() WHERE org_id = 'org_acme' AND email = 'b@example.com'`)
		_, err = s.Seed(t.Context(), SeedSpec{Org: "acme", Email: "b@example.com"})
		hasCode(t, err, fault.Conflict, "user_disabled")
		seed(t, s, SeedSpec{Org: "acme", Email: "d@example.com"}) // the disabled user's seat is free

		w.exec(t, "org_acme", `UPDATE orgs SET name = 'another' WHERE org_id = 'org_acme'`)
		seed(t, s, SeedSpec{Org: "acme", Email: "a@example.com"}) // no collision: nobody else's name is this id
		collides := seed(t, s, SeedSpec{Org: "Acme, Inc.", Email: "a@example.com"}).Org
		w.exec(t, collides, `UPDATE orgs SET name = 'Another, Inc.' WHERE org_id = $1`, string(collides))
		_, err = s.Seed(t.Context(), SeedSpec{Org: "Acme, Inc.", Email: "a@example.com"})
		hasCode(t, err, fault.Conflict, "org_name_taken")
		w.exec(t, "org_acme", `UPDATE orgs SET name = 'acme', disabled_at = now() WHERE org_id = 'org_acme'`)
		_, err = s.Seed(t.Context(), SeedSpec{Org: "acme", Email: "a@example.com"})
		hasCode(t, err, fault.Conflict, "org_disabled")

		for code, spec := range map[string]SeedSpec{
			"invalid_name":  {Org: "  ", Email: "a@example.com"},
			"invalid_email": {Org: "acme", Email: "not an address"},
			"invalid_role":  {Org: "acme", Email: "a@example.com", Role: "owner"},
			"invalid_seats": {Org: "acme", Email: "a@example.com", Seats: -1},
		} {
			_, err := s.Seed(t.Context(), spec)
			hasCode(t, err, fault.Invalid, code)
		}
	})
}

// Many at once for the same new org: one org, one user each, no seat too many.
func TestSeedManyAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var made, full int
		for i := range 12 {
			wg.Go(func() {
				_, err := s.Seed(t.Context(), SeedSpec{Org: "acme", Email: fmt.Sprintf("u%d@example.com", i), Seats: 5})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					made++
				case fault.HasCode(err, "seats_full"):
					full++
				default:
					t.Errorf("seed: %v", err)
				}
			})
		}
		wg.Wait()
		if made != 5 || full != 7 {
			t.Fatalf("%d got a seat and %d none, of 5", made, full)
		}
	})
}

func TestOrgIDs(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		if got := OrgID(name); string(got) != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(string(got), want[:len(want)-1])) {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
		for _, c := range string(OrgID(name)) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_') {
				t.Errorf("%q: %q may not stand in an id", name, c)
			}
		}
	}
	f("demo", "org_demo")
	f("a_b_9", "org_a_b_9")
	f("Acme, Inc.", "org_acme__inc_*")
	f("Über", "org_ber_*")
	f("日本", "org_*")
	f("", "org_*")
	f(strings.Repeat("a", 40), "org_"+strings.Repeat("a", 40))
	f(strings.Repeat("a", 41), "org_"+strings.Repeat("a", 40)+"_*")
	if OrgID("Acme") == OrgID("acme") || OrgID("日本") == OrgID("中国") || OrgID("a b") == OrgID("a-b") {
		t.Error("two names share an id")
	}
}

// One answer for every key that is no good, to the letter.
func TestAuthenticateRefusesAlike(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		good := member(t, s, "acme")
		other := NewKey()
		forged := keyPrefix + string(good.Key) + other.text[secretAt-1:sumAt-1]
		forged += "_" + checksum(forged) // a known id with another secret

		try := func(what, token string) {
			t.Helper()
			for range 2 { // the second time from memory
				_, err := s.Authenticate(t.Context(), token)
				refuses(t, what, err)
			}
		}
		try("junk", "sk-1234")
		try("empty", "")
		try("unknown", other.text)
		try("wrong secret", forged)

		expires := w.now().Add(time.Hour)
		expiring, _, err := s.CreateKey(t.Context(), good.Org, Actor{}, KeySpec{User: good.User, Name: "expiring", Expires: expires})
		if err != nil {
			t.Fatal(err)
		}
		callerOf(t, s, expiring)
		w.advance(time.Hour)
		try("expired", expiring.Reveal())

		revoked := member(t, s, "acme")
		callerOf(t, s, revoked.APIKey)
		if err := s.RevokeKey(t.Context(), revoked.Org, Actor{}, revoked.Key); err != nil {
			t.Fatal(err)
		}
		try("revoked", revoked.APIKey.Reveal())
		callerOf(t, s, good.APIKey)

		w.exec(t, good.Org, `UPDATE users SET disabled_at = now() WHERE org_id = $1`, string(good.Org))
		w.advance(time.Minute)
		try("disabled user", good.APIKey.Reveal())

		another := member(t, s, "globex")
		w.exec(t, another.Org, `UPDATE orgs SET disabled_at = now() WHERE org_id = $1`, string(another.Org))
		try("disabled org", another.APIKey.Reveal())
	})
}

func TestRevocationReachesEveryProcess(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal() // what joins processes; the real one is tested in its room
		here, there, alone := w.open(t, withBus(joined)), w.open(t, withBus(joined)), w.open(t)
		k := member(t, here, "acme")
		for _, s := range []*Service{here, there, alone} {
			callerOf(t, s, k.APIKey)
		}
		if err := here.RevokeKey(t.Context(), k.Org, Actor{}, k.Key); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Service{here, there} {
			_, err := s.Authenticate(t.Context(), k.APIKey.Reveal())
			refuses(t, "a process on the bus", err)
		}
		callerOf(t, alone, k.APIKey)
		w.advance(30 * time.Second)
		_, err := alone.Authenticate(t.Context(), k.APIKey.Reveal())
		refuses(t, "a process without a bus, 30 s later", err)

		if err := here.RevokeKey(t.Context(), k.Org, Actor{}, k.Key); err != nil {
			t.Fatalf("revoked twice: %v", err)
		}
		hasCode(t, here.RevokeKey(t.Context(), k.Org, Actor{}, NewKey().ID), fault.NotFound, "key_not_found")
	})
}

// A store that is away is 503, never 401, and a key seen lately goes on for 30 seconds.
func TestStoreAwayIsNotABadKey(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k, unseen := member(t, s, "acme"), member(t, s, "globex")
		callerOf(t, s, k.APIKey)
		if _, err := s.PutProviderKey(t.Context(), k.Org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk-key")}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ProviderKey(t.Context(), k.Org, "openai"); err != nil {
			t.Fatal(err)
		}
		w.store.down.Store(true)
		_, err := s.Authenticate(t.Context(), unseen.APIKey.Reveal())
		hasCode(t, err, fault.Unavailable, "storage_unavailable")
		for range 29 {
			w.advance(time.Second)
			callerOf(t, s, k.APIKey)
			if _, err := s.ProviderKey(t.Context(), k.Org, "openai"); err != nil {
				t.Fatal(err)
			}
		}
		w.advance(time.Second)
		_, err = s.Authenticate(t.Context(), k.APIKey.Reveal())
		hasCode(t, err, fault.Unavailable, "storage_unavailable")
		_, err = s.ProviderKey(t.Context(), k.Org, "openai")
		hasCode(t, err, fault.Unavailable, "storage_unavailable")
		w.store.down.Store(false)
		callerOf(t, s, k.APIKey)
		callerOf(t, s, unseen.APIKey)
	})
}

func TestLookUpsAreFew(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := member(t, s, "acme")
		asked := func(f func()) int64 {
			before := w.store.shown.Load()
			f()
			return w.store.shown.Load() - before
		}
		if n := asked(func() {
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					if _, err := s.Authenticate(t.Context(), k.APIKey.Reveal()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}); n != 1 {
			t.Fatalf("%d look-ups for one key shown 64 times at once", n)
		}
		text := k.APIKey.Reveal()
		if n := asked(func() {
			for i := range 1000 {
				_, err := s.Authenticate(t.Context(), fmt.Sprintf("%s%06d", text[:sumAt], i))
				refuses(t, "guessed checksum", err)
			}
		}); n != 0 {
			t.Fatalf("%d look-ups for junk", n)
		}
		unknown := NewKey().text
		if n := asked(func() {
			for range 100 {
				_, err := s.Authenticate(t.Context(), unknown)
				refuses(t, "unknown", err)
			}
		}); n != 1 {
			t.Fatalf("%d look-ups for one unknown key shown 100 times", n)
		}
		// An unknown id and a wrong secret ask the store for the same: no telling them apart by what it does.
		queries := w.store.queries.Load()
		forged := text[:secretAt] + NewKey().text[secretAt:sumAt-1]
		_, err := s.Authenticate(t.Context(), forged+"_"+checksum(forged))
		refuses(t, "wrong secret", err)
		if n := w.store.queries.Load() - queries; n != 0 {
			t.Fatalf("%d further queries for a wrong secret", n)
		}
	})
}

func TestBusResetForgetsEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		b := &resettable{Local: bus.NewLocal()}
		s := w.open(t, withBus(b))
		k := member(t, s, "acme")
		callerOf(t, s, k.APIKey)
		w.exec(t, k.Org, `UPDATE api_keys SET revoked_at = now() WHERE org_id = $1`, string(k.Org))
		callerOf(t, s, k.APIKey)
		b.reset()
		_, err := s.Authenticate(t.Context(), k.APIKey.Reveal())
		refuses(t, "after a reset", err)
	})
}

type resettable struct {
	*bus.Local
	reset func()
}

func (r *resettable) OnReset(f func()) (cancel func()) {
	r.reset = f
	return func() {}
}

func TestCreateKey(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := member(t, s, "acme")
		token, key, err := s.CreateKey(t.Context(), k.Org, Actor{}, KeySpec{User: k.User, Name: "ci"})
		if err != nil {
			t.Fatal(err)
		}
		if got := callerOf(t, s, token); got.Key != key.ID || got.User != k.User {
			t.Fatalf("got %+v", got)
		}
		list, err := s.Keys(t.Context(), k.Org, "", Cursor{}, 10)
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		if got := list[0]; got.ID != key.ID || got.Name != "ci" || got.User != k.User || got.CreatedAt.IsZero() || !got.ExpiresAt.IsZero() || !got.RevokedAt.IsZero() {
			t.Fatalf("listed as %+v", got)
		}
		_, _, err = s.CreateKey(t.Context(), k.Org, Actor{}, KeySpec{User: "usr_nobody"})
		hasCode(t, err, fault.NotFound, "user_not_found")
		_, _, err = s.CreateKey(t.Context(), k.Org, Actor{}, KeySpec{User: k.User, Expires: w.now()})
		hasCode(t, err, fault.Invalid, "invalid_expiry")
		_, _, err = s.CreateKey(t.Context(), k.Org, Actor{}, KeySpec{User: k.User, Name: "a\x00b"})
		hasCode(t, err, fault.Invalid, "invalid_name")
	})
}

// What another org has looks, to the letter, like what nobody has.
func TestFindUser(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := member(t, s, "acme")
		info, err := s.Seed(t.Context(), SeedSpec{Org: "acme", Email: "Zoe@Acme.example", Role: Member})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]id.User{string(k.User): k.User, "zoe@acme.example": info.User, " ZOE@acme.example": info.User} {
			if got, err := s.FindUser(t.Context(), k.Org, name); err != nil || got != want {
				t.Errorf("%q: %q, %v, want %q", name, got, err, want)
			}
		}
		_, err = s.FindUser(t.Context(), "org_other", string(k.User))
		hasCode(t, err, fault.NotFound, "user_not_found")
	})
}

func TestAnotherOrgSeesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		a, b := member(t, s, "acme"), member(t, s, "globex")
		if _, err := s.PutProviderKey(t.Context(), a.Org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk-of-acme-0123456789")}); err != nil {
			t.Fatal(err)
		}
		same := func(what string, foreign, absent error) {
			t.Helper()
			if foreign == nil || absent == nil || foreign.Error() != absent.Error() || fault.From(foreign).Code != fault.From(absent).Code {
				t.Fatalf("%s: foreign says %v, absent says %v", what, foreign, absent)
			}
		}
		callerOf(t, s, a.APIKey)
		lookUps := w.store.shown.Load()
		same("revoke", s.RevokeKey(t.Context(), b.Org, Actor{}, a.Key), s.RevokeKey(t.Context(), b.Org, Actor{}, NewKey().ID))
		callerOf(t, s, a.APIKey)
		if w.store.shown.Load() != lookUps {
			t.Fatal("a stranger made us forget the owner's key")
		}

		_, _, foreign := s.CreateKey(t.Context(), b.Org, Actor{}, KeySpec{User: a.User})
		_, _, absent := s.CreateKey(t.Context(), b.Org, Actor{}, KeySpec{User: "usr_nobody"})
		same("create", foreign, absent)

		keys, err := s.Keys(t.Context(), b.Org, "", Cursor{}, 10)
		if err != nil || len(keys) != 1 || keys[0].ID != b.Key {
			t.Fatalf("%+v, %v", keys, err)
		}
		if list, err := s.ProviderKeys(t.Context(), b.Org); err != nil || len(list) != 0 {
			t.Fatalf("%+v, %v", list, err)
		}
		if has, err := s.HasProviderKey(t.Context(), b.Org); err != nil || len(has) != 0 {
			t.Fatalf("%v, %v", has, err)
		}
		_, err = s.ProviderKey(t.Context(), b.Org, "openai")
		hasCode(t, err, fault.Invalid, "provider_key_missing")
		hasCode(t, s.DeleteProviderKey(t.Context(), b.Org, Actor{}, "openai", ""), fault.NotFound, "provider_key_missing")
		if key, err := s.ProviderKey(t.Context(), a.Org, "openai"); err != nil || key.Reveal() != "sk-of-acme-0123456789" {
			t.Fatalf("the owner's key is gone: %v", err)
		}
	})
}

// Two processes that open a new store at once must agree on the pepper: else the keys of one are unknown to the other.
func TestPepperIsMadeOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		services := make([]*Service, 6)
		var wg sync.WaitGroup
		for i := range services {
			services[i] = w.build(t)
			wg.Go(func() {
				if err := services[i].Open(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		defer func() {
			for _, s := range services {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}()
		if t.Failed() {
			return
		}
		k := member(t, services[0], "acme")
		for _, s := range services {
			callerOf(t, s, k.APIKey)
		}
	})
}

func TestOpenNeedsTheKeyThatSealedThePepper(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		k := member(t, w.open(t), "acme")
		s := w.build(t, withKeys(keyring(t, seal.NewKey())))
		err := s.Open(t.Context())
		hasCode(t, err, fault.Internal, "encryption_key_missing")
		if !strings.Contains(err.Error(), keyring(t, w.kek).First()) {
			t.Fatalf("the error does not name the missing key: %v", err)
		}
		_, err = s.Authenticate(t.Context(), k.APIKey.Reveal())
		if err == nil || fault.Is(err, fault.Unauthorized) {
			t.Fatalf("a service that is not open says %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// What is at rest holds no key in the open, of ours or theirs.
func TestStoreHoldsNoKeyInTheOpen(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		k := member(t, s, "acme")
		const provider = "sk-CANARYCANARYCANARYCANARY"
		if _, err := s.PutProviderKey(t.Context(), k.Org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret(provider)}); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		dump := func(sql string, n int) {
			t.Helper()
			err := w.store.Query(t.Context(), k.Org, db.Query{SQL: sql, Each: func(r db.Row) error {
				cols := make([]any, n)
				for i := range cols {
					cols[i] = new([]byte)
				}
				if err := r.Scan(cols...); err != nil {
					return err
				}
				for _, c := range cols {
					all.Write(*c.(*[]byte))
					all.WriteByte('\n')
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		dump(`SELECT hash FROM api_keys`, 1)
		dump(`SELECT sealed FROM provider_keys`, 1)
		dump(`SELECT wrapped FROM org_keys`, 1)
		dump(`SELECT sealed FROM secrets`, 1)
		if strings.Count(all.String(), "\n") < 4 {
			t.Fatal("the dump missed something")
		}
		key, err := ParseKey(k.APIKey.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{provider, "CANARY", key.text[secretAt : sumAt-1], string(s.pepper)} {
			if strings.Contains(all.String(), secret) || strings.Contains(w.log.String(), secret) {
				t.Fatalf("found in the open: %.6s…", secret)
			}
		}
	})
}

func BenchmarkAuthenticateCached(b *testing.B) {
	s := New(Options{})
	s.pepper = make([]byte, pepperLen)
	k := NewKey()
	s.callers.put(k.sum(), known{Caller: Caller{Org: "org_a", User: id.User("usr_a"), Key: k.ID, Role: Member}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Authenticate(b.Context(), k.text); err != nil {
			b.Fatal(err)
		}
	}
}
