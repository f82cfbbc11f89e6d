package orgs

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

func put(t *testing.T, s *Service, org id.Org, provider, key string) ProviderKeyStatus {
	t.Helper()
	st, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: provider, Key: seal.NewSecret(key)})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func revealed(t *testing.T, s *Service, org id.Org, provider string) string {
	t.Helper()
	key, err := s.ProviderKey(t.Context(), org, provider)
	if err != nil {
		t.Fatalf("the key for %s: %v", provider, err)
	}
	return key.Reveal()
}

func TestProviderKeysComeAndGo(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal()
		s, there := w.open(t, withBus(joined)), w.open(t, withBus(joined))
		org := member(t, s, "acme").Org
		_, err := there.ProviderKey(t.Context(), org, "openai")
		hasCode(t, err, fault.Invalid, "provider_key_missing")

		st := put(t, s, org, "openai", " sk-proj-0123456789abcWXYZ\n")
		if st.Version != 1 || st.Masked != "sk-…WXYZ" || st.CreatedAt.IsZero() || !st.LastUsedAt.IsZero() || st.Provider != "openai" {
			t.Fatalf("put as %+v", st)
		}
		put(t, s, org, "gemini", "short")
		for _, at := range []*Service{s, there} {
			if got := revealed(t, at, org, "openai"); got != "sk-proj-0123456789abcWXYZ" {
				t.Fatal("another key came back")
			}
			if has, err := at.HasProviderKey(t.Context(), org); err != nil || !has["openai"] || !has["gemini"] || has["perplexity"] {
				t.Fatalf("%v, %v", has, err)
			}
		}
		if st := put(t, s, org, "openai", "sk-second"); st.Version != 2 {
			t.Fatalf("put again as %+v", st)
		}
		if got := revealed(t, there, org, "openai"); got != "sk-second" {
			t.Fatal("another process uses the old key after the bus told it")
		}

		if err := s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", ""); err != nil {
			t.Fatal(err)
		}
		hasCode(t, s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", ""), fault.NotFound, "provider_key_missing")
		_, err = there.ProviderKey(t.Context(), org, "openai")
		hasCode(t, err, fault.Invalid, "provider_key_missing")
		list, err := s.ProviderKeys(t.Context(), org)
		if err != nil || len(list) != 1 || list[0].Provider != "gemini" || list[0].Masked != "…" {
			t.Fatalf("%+v, %v", list, err)
		}
		if st := put(t, s, org, "openai", "sk-third"); st.Version <= 2 {
			t.Fatalf("versions began anew: %+v", st)
		}
	})
}

// A key in use has a name of its own, which tells nothing of it, and asking for that is no use of the key.
func TestKeyInUse(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		org := member(t, s, "acme").Org
		seen := map[string]bool{"": true}
		is := func(fresh bool) string {
			t.Helper()
			name, err := s.KeyInUse(t.Context(), org, "openai")
			if err != nil || seen[name] == fresh || strings.Contains(name, "sk-") {
				t.Errorf("the key in use is %q, seen before: %v, %v", name, seen[name], err)
			}
			seen[name] = true
			return name
		}
		is(false) // there is none
		put(t, s, org, "openai", "sk-first")
		first := is(true)
		if again := is(false); again != first {
			t.Errorf("the same key is %q and %q", first, again)
		}
		put(t, s, org, "openai", "sk-second")
		is(true)
		if _, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Name: "other", Key: seal.NewSecret("sk-third")}); err != nil {
			t.Fatal(err)
		}
		is(false) // the first by name is still the one that is used
		if list, err := s.ProviderKeys(t.Context(), org); err != nil || !list[0].LastUsedAt.IsZero() {
			t.Errorf("it counts as used: %+v, %v", list, err)
		}
		if name, err := s.KeyInUse(t.Context(), member(t, s, "another").Org, "openai"); name != "" || err != nil {
			t.Errorf("another org has the key %q, %v", name, err)
		}
	})
}

func TestProviderKeyIsReadRarely(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		org := member(t, s, "acme").Org
		put(t, s, org, "openai", "sk-key")
		before := w.store.queries.Load()
		for range 100 {
			revealed(t, s, org, "openai")
			if _, err := s.HasProviderKey(t.Context(), org); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.store.queries.Load() - before; n != 1 {
			t.Fatalf("%d reads", n)
		}
	})
}

func TestProviderKeyRefusesWithoutTelling(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		org := member(t, s, "acme").Org
		for _, key := range []string{"", "  \n", "sk-CANARY two", "sk-CANARY\r\nX-Evil: 1", "sk-CANARY\x00", "sk-CANARYé", strings.Repeat("CANARY", 1000)} {
			_, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret(key)})
			hasCode(t, err, fault.Invalid, "invalid_provider_key")
			if strings.Contains(err.Error(), "CANARY") {
				t.Fatalf("the error holds the key: %v", err)
			}
		}
		for _, provider := range []string{"", "Open AI", "a|b", "öpenai", strings.Repeat("a", 33)} {
			_, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: provider, Key: seal.NewSecret("sk")})
			hasCode(t, err, fault.Invalid, "provider_not_found")
			hasCode(t, s.DeleteProviderKey(t.Context(), org, Actor{}, provider, ""), fault.Invalid, "provider_not_found")
		}
		_, err := s.PutProviderKey(t.Context(), "org_nobody", Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk")})
		hasCode(t, err, fault.NotFound, "org_not_found")
	})
}

func TestLastUseIsWrittenDown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s, there := w.open(t), w.open(t)
		org := member(t, s, "acme").Org
		put(t, s, org, "openai", "sk-key")
		w.advance(time.Hour)
		revealed(t, s, org, "openai")
		lastUse := func(s *Service) time.Time {
			t.Helper()
			list, err := s.ProviderKeys(t.Context(), org)
			if err != nil || len(list) != 1 {
				t.Fatalf("%+v, %v", list, err)
			}
			return list[0].LastUsedAt
		}
		if got := lastUse(s); !got.Equal(w.now()) {
			t.Fatalf("the process that used it says %v, not %v", got, w.now())
		}
		if got := lastUse(there); !got.IsZero() {
			t.Fatalf("written too early: %v", got)
		}
		w.store.down.Store(true)
		s.writeUses(t.Context())
		w.store.down.Store(false)
		if err := s.Close(); err != nil { // what could not be written is written at the end
			t.Fatal(err)
		}
		if got := lastUse(there); w.now().Sub(got).Abs() > time.Millisecond {
			t.Fatalf("another process says %v, not %v", got, w.now())
		}
	})
}

// sealed reads a box as it is at rest.
func (w *world) sealed(t *testing.T, org id.Org, provider string) (box []byte) {
	t.Helper()
	err := w.store.Read(t.Context(), org, func(tx db.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT sealed FROM provider_keys WHERE org_id = $1 AND provider = $2`, []any{string(org), provider}, &box)
	})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// A seal opens only in the row it was made for.
func TestMovedSealsStayShut(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t, withTTL(time.Nanosecond))
		a, b := member(t, s, "acme").Org, member(t, s, "globex").Org
		put(t, s, a, "openai", "sk-CANARY-old")
		old := w.sealed(t, a, "openai")
		put(t, s, a, "openai", "sk-new")
		for range 2 { // all at the same version: only one part of the binding differs at a time
			put(t, s, a, "gemini", "g-new")
			put(t, s, b, "openai", "sk-b")
		}
		fresh := w.sealed(t, a, "openai")
		const set = `UPDATE provider_keys SET sealed = $3 WHERE org_id = $1 AND provider = $2`

		shut := func(what string, org id.Org, provider string) {
			t.Helper()
			w.advance(time.Second)
			key, err := s.ProviderKey(t.Context(), org, provider)
			if err == nil {
				t.Fatalf("%s: opened as %q", what, key.Reveal())
			}
			hasCode(t, err, fault.Internal, "provider_key_unreadable")
			if has, err := s.HasProviderKey(t.Context(), org); err != nil || !has[provider] {
				t.Fatalf("%s: a key that does not open is passed over in silence: %v, %v", what, has, err)
			}
		}
		w.exec(t, a, set, string(a), "openai", old)
		shut("an old version put back", a, "openai")
		w.exec(t, a, set, string(a), "openai", fresh)
		w.exec(t, a, set, string(a), "gemini", fresh)
		shut("moved to another provider", a, "gemini")
		if got := revealed(t, s, a, "openai"); got != "sk-new" {
			t.Fatal("one that does not open takes others along")
		}
		w.exec(t, a, `UPDATE provider_keys SET version = version + 1 WHERE org_id = $1 AND provider = $2`, string(a), "openai")
		shut("another version number", a, "openai")
		w.exec(t, a, `UPDATE provider_keys SET version = version - 1 WHERE org_id = $1 AND provider = $2`, string(a), "openai")
		w.advance(time.Second)
		if got := revealed(t, s, a, "openai"); got != "sk-new" {
			t.Fatal("the row put right again opens as another key")
		}

		// To another org, alone and together with its data key.
		w.exec(t, b, set, string(b), "openai", fresh)
		shut("moved to another org", b, "openai")
		var kek string
		var wrapped []byte
		err := w.store.Read(t.Context(), a, func(tx db.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT kek_id, wrapped FROM org_keys WHERE org_id = $1`, []any{string(a)}, &kek, &wrapped)
		})
		if err != nil {
			t.Fatal(err)
		}
		w.exec(t, b, `UPDATE org_keys SET kek_id = $2, wrapped = $3 WHERE org_id = $1`, string(b), kek, wrapped)
		shut("moved to another org with its data key", b, "openai")
		_, err = s.PutProviderKey(t.Context(), b, Actor{}, ProviderKeySpec{Provider: "gemini", Key: seal.NewSecret("g-b")})
		hasCode(t, err, fault.Internal, "provider_key_unreadable") // one org's keys are never sealed with another's data key

		// After delete and put, the old seal is of a version that will not come again.
		if err := s.DeleteProviderKey(t.Context(), a, Actor{}, "openai", ""); err != nil {
			t.Fatal(err)
		}
		put(t, s, a, "openai", "sk-after")
		w.exec(t, a, set, string(a), "openai", old)
		shut("the first seal after delete and put", a, "openai")
		w.exec(t, a, set, string(a), "openai", fresh)
		shut("the second seal after delete and put", a, "openai")
		if strings.Contains(w.log.String(), "CANARY") {
			t.Fatal("the log holds a key")
		}
	})
}

func TestRotateLeavesOnlyTheNewKeyNeeded(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		var seeded []Seeded
		for i := range 3 {
			k := member(t, s, fmt.Sprintf("org%d", i))
			put(t, s, k.Org, "openai", fmt.Sprintf("sk-%d", i))
			put(t, s, k.Org, "gemini", fmt.Sprintf("g-%d", i))
			put(t, s, k.Org, "gone", "x")
			if err := s.DeleteProviderKey(t.Context(), k.Org, Actor{}, "gone", ""); err != nil {
				t.Fatal(err)
			}
			seeded = append(seeded, k)
		}
		bare := member(t, s, "bare") // has no data key

		fresh := seal.NewKey()
		rotating := w.open(t, withKeys(keyring(t, fresh+","+w.kek)))
		for range 2 { // again is safe
			var seen []id.Org
			report, err := rotating.Rotate(t.Context(), func(org id.Org) { seen = append(seen, org) })
			if err != nil || report.Orgs != 3 || report.ProviderKeys != 6 || len(report.Failed) != 0 || len(seen) != 4 {
				t.Fatalf("%+v, %v, progress %v", report, err, seen)
			}
		}

		after := w.open(t, withKeys(keyring(t, fresh)))
		for i, k := range seeded {
			if revealed(t, after, k.Org, "openai") != fmt.Sprintf("sk-%d", i) || revealed(t, after, k.Org, "gemini") != fmt.Sprintf("g-%d", i) {
				t.Fatal("another key came back")
			}
			callerOf(t, after, k.APIKey)
			put(t, after, k.Org, "openai", "sk-later")
			if st := put(t, after, k.Org, "gone", "back"); st.Version != 3 {
				t.Fatalf("a deleted key's count was lost: %+v", st)
			}
		}
		put(t, after, bare.Org, "openai", "sk-bare")

		// The old key is needed for nothing, and good for nothing.
		hasCode(t, w.build(t).Open(t.Context()), fault.Internal, "encryption_key_missing")
		for _, k := range seeded {
			err := w.store.Query(t.Context(), k.Org, db.Query{SQL: `SELECT version, kek_id FROM org_keys WHERE org_id = $1`, Args: []any{string(k.Org)}, Each: func(r db.Row) error {
				var version int
				var kek string
				if err := r.Scan(&version, &kek); err != nil {
					return err
				}
				if version != 3 || kek != keyring(t, fresh).First() {
					return fmt.Errorf("a data key of version %d under %s is left", version, kek)
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRotateGoesOnPastAnOrgThatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t, withTTL(time.Nanosecond))
		bad, good := member(t, s, "bad").Org, member(t, s, "good").Org
		put(t, s, bad, "openai", "sk-bad")
		put(t, s, bad, "gemini", "g-bad")
		put(t, s, good, "openai", "sk-good")
		w.exec(t, bad, `UPDATE provider_keys SET sealed = $2 WHERE org_id = $1 AND provider = 'openai'`, string(bad), []byte("garbage"))
		fresh := seal.NewKey()
		rotating := w.open(t, withKeys(keyring(t, fresh+","+w.kek)))
		report, err := rotating.Rotate(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), string(bad)) || !strings.Contains(err.Error(), "openai") {
			t.Fatalf("the error does not say where: %v", err)
		}
		if report.Orgs != 1 || len(report.Failed) != 1 || report.Failed[0] != bad {
			t.Fatalf("%+v", report)
		}
		w.advance(time.Second)
		if revealed(t, rotating, bad, "gemini") != "g-bad" || revealed(t, rotating, good, "openai") != "sk-good" {
			t.Fatal("another key came back")
		}
		w.store.down.Store(true)
		_, err = rotating.Rotate(t.Context(), nil)
		w.store.down.Store(false)
		if !fault.Is(err, fault.Unavailable) {
			t.Fatalf("with the store away: %v", err)
		}
	})
}

// Keys are read and written by several processes while the keys change twice over: nobody notices.
func TestRotateUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		fresh := seal.NewKey()
		// Nothing is cached, so that each read meets the store as it is at that moment.
		uncached := withTTL(time.Nanosecond)
		old := w.open(t, uncached, withKeys(keyring(t, w.kek+","+fresh)))
		ahead := w.open(t, uncached, withKeys(keyring(t, fresh+","+w.kek)))
		var list []Seeded
		for i := range 3 {
			k := member(t, old, fmt.Sprintf("org%d", i))
			put(t, old, k.Org, "openai", "sk-steady")
			list = append(list, k)
		}
		var reads, writes atomic.Int64
		var wg sync.WaitGroup
		stop := make(chan struct{})
		run := func(f func(k Seeded) error) {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					w.advance(time.Microsecond)
					if err := f(list[i%len(list)]); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for _, s := range []*Service{old, ahead} {
			for range 2 {
				run(func(k Seeded) error {
					reads.Add(1)
					key, err := s.ProviderKey(t.Context(), k.Org, "openai")
					if err == nil && key.Reveal() != "sk-steady" {
						err = errors.New("another key came back")
					}
					return err
				})
			}
			run(func(k Seeded) error {
				_, err := s.Authenticate(t.Context(), k.APIKey.Reveal())
				return err
			})
			run(func(k Seeded) error {
				writes.Add(1)
				_, err := s.PutProviderKey(t.Context(), k.Org, Actor{}, ProviderKeySpec{Provider: "gemini", Key: seal.NewSecret("g-moving")})
				return err
			})
		}
		for range 10 {
			if _, err := ahead.Rotate(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
		t.Logf("%d reads, %d writes", reads.Load(), writes.Load())
		if reads.Load() < 20 || writes.Load() < 5 {
			t.Errorf("there was no load: %d reads, %d writes", reads.Load(), writes.Load())
		}
		after := w.open(t, withKeys(keyring(t, fresh)))
		for _, k := range list {
			if revealed(t, after, k.Org, "openai") != "sk-steady" || revealed(t, after, k.Org, "gemini") != "g-moving" {
				t.Fatal("another key came back")
			}
			callerOf(t, after, k.APIKey)
		}
	})
}
