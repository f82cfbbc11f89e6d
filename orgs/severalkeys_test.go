package orgs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/internal/bus"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
)

// putNamed puts a key by name; a priority below 0 is none.
func putNamed(t *testing.T, s *Service, org id.Org, provider, name, key string, priority int) ProviderKeyStatus {
	t.Helper()
	spec := ProviderKeySpec{Provider: provider, Name: name, Key: seal.NewSecret(key)}
	if priority >= 0 {
		spec.Priority = &priority
	}
	st, err := s.PutProviderKey(t.Context(), org, Actor{}, spec)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// slots is the keys of an org, as "provider/name:priority".
func slots(t *testing.T, s *Service, org id.Org) string {
	t.Helper()
	list, err := s.ProviderKeys(t.Context(), org)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range list {
		out = append(out, fmt.Sprintf("%s/%s:%d", k.Provider, k.Name, k.Priority))
	}
	return strings.Join(out, " ")
}

func TestSeveralKeysInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		joined := bus.NewLocal()
		s, there := w.open(t, withBus(joined)), w.open(t, withBus(joined))
		org, other := member(t, s, "acme").Org, member(t, s, "globex").Org
		// Names that databases sort in different ways.
		putNamed(t, s, org, "openai", "b", "sk-b", 5)
		putNamed(t, s, org, "openai", "C", "sk-C", 5)
		putNamed(t, s, org, "openai", "a_1", "sk-a_1", 5)
		putNamed(t, s, org, "openai", "a-1", "sk-a-1", 5)
		putNamed(t, s, org, "openai", "last", "sk-last", 1000)
		putNamed(t, s, org, "gemini", "only", "g-only", -1)
		if got, want := slots(t, s, org), "gemini/only:0 openai/C:5 openai/a-1:5 openai/a_1:5 openai/b:5 openai/last:1000"; got != want {
			t.Errorf("the keys are\n%s, want\n%s", got, want)
		}
		names, err := there.KeyNames(t.Context(), org, "openai")
		if want := []KeyName{{"C", 1}, {"a-1", 1}, {"a_1", 1}, {"b", 1}, {"last", 1}}; err != nil || !slices.Equal(names, want) {
			t.Errorf("by name they are %v, %v", names, err)
		}
		if names, err := s.KeyNames(t.Context(), other, "openai"); err != nil || len(names) != 0 {
			t.Errorf("another org has %v, %v", names, err)
		}
		for _, n := range names {
			if key, err := s.NamedKey(t.Context(), org, "openai", n.Name); err != nil || key.Reveal() != "sk-"+n.Name {
				t.Errorf("%s is %q, %v", n.Name, key.Reveal(), err)
			}
			_, err := s.NamedKey(t.Context(), other, "openai", n.Name)
			hasCode(t, err, fault.Invalid, "provider_key_missing")
		}
		w.advance(time.Hour) // so that what is used now is used after it was put
		first := func(want string) {
			t.Helper()
			for _, at := range []*Service{s, there} {
				if got := revealed(t, at, org, "openai"); got != want {
					t.Errorf("the first key is %s, want %s", got, want)
				}
			}
		}
		first("sk-C")
		if st := put(t, s, org, "openai", "sk-plain"); st.Name != DefaultKey || st.Priority != 0 || st.Version != 1 {
			t.Errorf("put without a name as %+v", st)
		}
		first("sk-plain")

		// Another priority, with the key as it was.
		was, err := s.ProviderKeys(t.Context(), org)
		if err != nil {
			t.Fatal(err)
		}
		box := w.sealed(t, org, "openai")
		st, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Priority: new(7)})
		i := slices.IndexFunc(was, func(k ProviderKeyStatus) bool { return k.Name == DefaultKey })
		if err != nil || st.Priority != 7 || st.Version != 1 || st.Masked != was[i].Masked || !st.CreatedAt.Equal(was[i].CreatedAt) || !st.LastUsedAt.Equal(was[i].LastUsedAt) || st.LastUsedAt.IsZero() {
			t.Errorf("another priority: %+v, %v, was %+v", st, err, was[i])
		}
		if string(w.sealed(t, org, "openai")) != string(box) {
			t.Error("the key was sealed anew for it")
		}
		first("sk-C")
		if st := put(t, s, org, "openai", "sk-again"); st.Priority != 7 || st.Version != 2 {
			t.Errorf("a new key in the place of another: %+v", st)
		}
		_, err = s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Name: "nobody", Priority: new(7)})
		hasCode(t, err, fault.NotFound, "provider_key_missing")
		_, err = s.PutProviderKey(t.Context(), other, Actor{}, ProviderKeySpec{Provider: "openai", Priority: new(7)})
		hasCode(t, err, fault.NotFound, "provider_key_missing")

		// One goes, and comes back without what it was; then all.
		if err := s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", "C"); err != nil {
			t.Fatal(err)
		}
		hasCode(t, s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", "C"), fault.NotFound, "provider_key_missing")
		hasCode(t, s.DeleteProviderKey(t.Context(), other, Actor{}, "openai", "b"), fault.NotFound, "provider_key_missing")
		hasCode(t, s.DeleteProviderKey(t.Context(), other, Actor{}, "openai", ""), fault.NotFound, "provider_key_missing")
		first("sk-a-1")
		_, err = s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Name: "C", Priority: new(7)})
		hasCode(t, err, fault.NotFound, "provider_key_missing")
		if st := putNamed(t, s, org, "openai", "C", "sk-C2", -1); st.Priority != 0 || st.Version != 3 {
			t.Errorf("back as %+v", st)
		}
		if err := s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", ""); err != nil {
			t.Fatal(err)
		}
		if got := slots(t, there, org); got != "gemini/only:0" {
			t.Errorf("left are %s", got)
		}
		_, err = there.ProviderKey(t.Context(), org, "openai")
		hasCode(t, err, fault.Invalid, "provider_key_missing")
		if got := slots(t, s, other); got != "" {
			t.Errorf("another org has %s", got)
		}
	})
}

func TestKeysThatCannotBePut(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		org := member(t, s, "acme").Org
		for _, name := range []string{" ", "a b", "a|b", "a/b", "é", "a\x00", strings.Repeat("a", 65), "sk-CANARY-0123456789", "AIzaSyCANARY01234"} {
			_, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Name: name, Key: seal.NewSecret("sk")})
			hasCode(t, err, fault.Invalid, "invalid_key_name")
			hasCode(t, s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", name), fault.Invalid, "invalid_key_name")
		}
		for _, priority := range []int{-1, 1001} {
			_, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk"), Priority: &priority})
			hasCode(t, err, fault.Invalid, "invalid_priority")
		}
		_, err := s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai"})
		hasCode(t, err, fault.Invalid, "invalid_provider_key")

		for i := range maxKeys {
			putNamed(t, s, org, "openai", fmt.Sprint("k", i), "sk", -1)
		}
		_, err = s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Key: seal.NewSecret("sk")})
		hasCode(t, err, fault.Conflict, "provider_keys_full")
		put(t, s, org, "gemini", "g") // each provider for itself
		putNamed(t, s, org, "openai", "k3", "sk-other", -1)
		if err := s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", "k3"); err != nil {
			t.Fatal(err)
		}
		put(t, s, org, "openai", "sk")
		_, err = s.PutProviderKey(t.Context(), org, Actor{}, ProviderKeySpec{Provider: "openai", Name: "k3", Key: seal.NewSecret("sk")})
		hasCode(t, err, fault.Conflict, "provider_keys_full") // its row is there, empty, and yet it would be one more
	})
}

// A key opens only under the name it was put by, and the first is not passed over when it does not open.
func TestKeysStayWithTheirNames(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t, withTTL(time.Nanosecond))
		org := member(t, s, "acme").Org
		putNamed(t, s, org, "openai", DefaultKey, "sk-CANARY-default", 1)
		putNamed(t, s, org, "openai", "spare", "sk-CANARY-spare", 2)
		putNamed(t, s, org, "openai", "third", "sk-CANARY-third", 3)
		move := func(from, to string) {
			t.Helper()
			w.exec(t, org, `UPDATE provider_keys SET sealed = (SELECT sealed FROM provider_keys WHERE org_id = $1 AND provider = 'openai' AND slot = $2)
				WHERE org_id = $1 AND provider = 'openai' AND slot = $3`, string(org), from, to)
			w.advance(time.Second)
		}
		shut := func(what string) {
			t.Helper()
			key, err := s.ProviderKey(t.Context(), org, "openai")
			if err == nil {
				t.Fatalf("%s: %q is used", what, key.Reveal())
			}
			hasCode(t, err, fault.Internal, "provider_key_unreadable")
		}
		move("spare", DefaultKey)
		shut("the spare key in the first one's place")
		if err := s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", DefaultKey); err != nil {
			t.Fatal(err)
		}
		w.advance(time.Second)
		if got := revealed(t, s, org, "openai"); got != "sk-CANARY-spare" {
			t.Fatal("the next key is another")
		}
		move("third", "spare")
		shut("the third key in the spare one's place")
		putNamed(t, s, org, "openai", "spare", "sk-CANARY-spare", 2)
		putNamed(t, s, org, "openai", DefaultKey, "sk-CANARY-default", 5)
		putNamed(t, s, org, "openai", DefaultKey, "sk-CANARY-default", 5)
		w.exec(t, org, `UPDATE provider_keys SET version = (SELECT version FROM provider_keys WHERE org_id = $1 AND provider = 'openai' AND slot = 'default')
			WHERE org_id = $1 AND provider = 'openai' AND slot = 'spare'`, string(org))
		move(DefaultKey, "spare") // at the same version, so that only the name differs
		shut("the default key in the spare one's place")
		if strings.Contains(w.log.String(), "CANARY") {
			t.Fatal("the log holds a key")
		}
	})
}

// A key that was put before there were names opens under the name default.
func TestTheDefaultKeyIsBoundAsEver(t *testing.T) {
	if got := keyBinding("org_a", "openai", DefaultKey, 3); got != "org_a|openai|3" {
		t.Errorf("bound to %s", got)
	}
	if got := keyBinding("org_a", "openai", "spare", 3); got != "org_a|openai|3|spare" {
		t.Errorf("bound to %s", got)
	}
}

func TestRotateTakesAllKeysAlong(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.open(t)
		org := member(t, s, "acme").Org
		for i, name := range []string{DefaultKey, "spare", "third"} {
			putNamed(t, s, org, "openai", name, "sk-"+name, 10-i)
		}
		putNamed(t, s, org, "openai", "gone", "sk-gone", 1)
		if err := s.DeleteProviderKey(t.Context(), org, Actor{}, "openai", "gone"); err != nil {
			t.Fatal(err)
		}
		fresh := seal.NewKey()
		report, err := w.open(t, withKeys(keyring(t, fresh+","+w.kek))).Rotate(t.Context(), nil)
		if err != nil || report.ProviderKeys != 3 {
			t.Fatalf("%+v, %v", report, err)
		}
		after := w.open(t, withKeys(keyring(t, fresh)))
		if got, want := slots(t, after, org), "openai/third:8 openai/spare:9 openai/default:10"; got != want {
			t.Errorf("after: %s, want %s", got, want)
		}
		for _, name := range []string{"third", "spare", DefaultKey} {
			if got := revealed(t, after, org, "openai"); got != "sk-"+name {
				t.Errorf("the first key is %s, not that of %s", got, name)
			}
			if err := after.DeleteProviderKey(t.Context(), org, Actor{}, "openai", name); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLastUseIsOfOneKey(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s, there := w.open(t), w.open(t)
		org := member(t, s, "acme").Org
		putNamed(t, s, org, "openai", "a", "sk-a", 1)
		putNamed(t, s, org, "openai", "b", "sk-b", 2)
		w.advance(time.Hour)
		revealed(t, s, org, "openai")
		s.writeUses(t.Context())
		for _, at := range []*Service{s, there} {
			list, err := at.ProviderKeys(t.Context(), org)
			if err != nil || len(list) != 2 || w.now().Sub(list[0].LastUsedAt).Abs() > time.Millisecond || !list[1].LastUsedAt.IsZero() {
				t.Errorf("%+v, %v", list, err)
			}
		}
	})
}

func TestKeysOnTrial(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s, there := w.open(t), w.open(t)
		k := seed(t, s, SeedSpec{Org: "acme", Email: "ann@example.com", Role: Admin})
		org, by := k.Org, Actor{k.User, k.Key}
		other := member(t, s, "globex").Org
		putNamed(t, s, org, "openai", "a", "sk-a-CANARY", 1)
		putNamed(t, s, org, "openai", "b", "sk-b-CANARY", 2)
		try := func(s *Service, name, given, wantName, wantKey string) KeyOnTrial {
			t.Helper()
			got, err := s.TryProviderKey(t.Context(), org, by, "openai", name, seal.NewSecret(given))
			if err != nil || got.Provider != "openai" || got.Name != wantName || got.Key.Reveal() != wantKey {
				t.Errorf("%q: %+v, %v", name, got, err)
			}
			return got
		}
		first := try(s, "", "", "a", "sk-a-CANARY")
		second := try(s, "b", "", "b", "sk-b-CANARY")
		given := try(s, "", "sk-given-CANARY", "", "sk-given-CANARY")
		meant := try(s, "b", "sk-given-CANARY", "b", "sk-given-CANARY")
		lines, err := s.Audit(t.Context(), org, 0, 4)
		if err != nil || len(lines) != 4 {
			t.Fatalf("%+v, %v", lines, err)
		}
		for i, want := range []string{`openai/b {"stored":false}`, `openai {"stored":false}`, `openai/b {"stored":true}`, `openai/a {"stored":true}`} {
			l := lines[i]
			if got := l.Target + " " + string(l.Detail); got != want || l.Action != "provider_key.test" || l.User != k.User || l.Key != k.Key {
				t.Errorf("written down as %+v, want %s", l, want)
			}
		}

		for _, c := range []struct {
			provider, name, given string
			kind                  fault.Kind
			code                  string
		}{
			{"gemini", "", "", fault.NotFound, "provider_key_missing"},
			{"openai", "c", "", fault.NotFound, "provider_key_missing"},
			{"openai", "a b", "", fault.Invalid, "invalid_key_name"},
			{"Open AI", "", "sk", fault.Invalid, "provider_not_found"},
			{"openai", "", "sk two", fault.Invalid, "invalid_provider_key"},
		} {
			_, err := s.TryProviderKey(t.Context(), org, by, c.provider, c.name, seal.NewSecret(c.given))
			hasCode(t, err, c.kind, c.code)
		}
		_, err = s.TryProviderKey(t.Context(), other, by, "openai", "a", seal.Secret{})
		hasCode(t, err, fault.NotFound, "provider_key_missing")
		_, err = s.TryProviderKey(t.Context(), "org_nobody", by, "openai", "a", seal.NewSecret("sk"))
		hasCode(t, err, fault.NotFound, "org_not_found")

		// A trial is no use; that the key passed is, at once, of that key as it was.
		used := func() (a, b time.Time) {
			t.Helper()
			list, err := there.ProviderKeys(t.Context(), org)
			if err != nil || len(list) != 2 {
				t.Fatalf("%+v, %v", list, err)
			}
			return list[0].LastUsedAt, list[1].LastUsedAt
		}
		passed := func(k KeyOnTrial) {
			t.Helper()
			if err := s.ProviderKeyPassed(t.Context(), org, k); err != nil {
				t.Error(err)
			}
		}
		if a, b := used(); !a.IsZero() || !b.IsZero() {
			t.Errorf("a trial counts as a use: %v, %v", a, b)
		}
		w.advance(time.Hour)
		passed(given)
		passed(meant)
		if a, b := used(); !a.IsZero() || !b.IsZero() {
			t.Errorf("a key that is not kept counts as one that is: %v, %v", a, b)
		}
		passed(second)
		if a, b := used(); !a.IsZero() || w.now().Sub(b).Abs() > time.Millisecond {
			t.Errorf("used: %v, %v", a, b)
		}
		putNamed(t, s, org, "openai", "a", "sk-a2", 1)
		passed(first)
		if a, _ := used(); !a.IsZero() {
			t.Errorf("the key before it passed, and it counts as used: %v", a)
		}

		// What another process has just put is what is tried.
		revealed(t, there, org, "openai")
		putNamed(t, s, org, "openai", "a", "sk-a3", 1)
		try(there, "a", "", "a", "sk-a3")
		w.exec(t, org, `UPDATE provider_keys SET sealed = $2 WHERE org_id = $1 AND slot = 'a'`, string(org), []byte("garbage"))
		_, err = s.TryProviderKey(t.Context(), org, by, "openai", "", seal.Secret{})
		hasCode(t, err, fault.Internal, "provider_key_unreadable")
		all, err := s.Audit(t.Context(), org, 0, 100)
		if err != nil || strings.Contains(fmt.Sprint(all), "CANARY") || strings.Contains(w.log.String(), "CANARY") {
			t.Errorf("a key is in the log: %v", err)
		}
	})
}
