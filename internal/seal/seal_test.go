package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustParse(t testing.TB, s string) *Keyring {
	t.Helper()
	k, err := ParseKeyring(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyringReadsListsInBothPaddings(t *testing.T) {
	a, b := NewKey(), NewKey()
	k := mustParse(t, " "+a+" ,"+strings.TrimRight(b, "="))
	if len(k.IDs()) != 2 || k.First() != k.IDs()[0] || len(k.First()) != 8 {
		t.Fatalf("ids %v, first %q", k.IDs(), k.First())
	}
	if got := mustParse(t, b).First(); got != k.IDs()[1] {
		t.Fatalf("the id depends on padding: %q and %q", got, k.IDs()[1])
	}
}

func TestKeyringRefusesWithoutTelling(t *testing.T) {
	good := NewKey()
	std := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, 32))
	for name, c := range map[string]struct{ in, says string }{
		"empty":         {"", "no key"},
		"blank":         {"  ", "no key"},
		"trailing":      {good + ",", "key 2 of the list is empty"},
		"short":         {base64.URLEncoding.EncodeToString([]byte("CANARYCANARY")), "12 bytes"},
		"long":          {base64.URLEncoding.EncodeToString(bytes.Repeat([]byte("C"), 33)), "33 bytes"},
		"not base64":    {"CANARY!" + good[7:], "not url-safe"},
		"plain base64":  {std, "write - for +"},
		"twice":         {good + "," + good, "twice"},
		"second is bad": {good + ",CANARY!", "key 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseKeyring(c.in)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want it to say %q", err, c.says)
			}
			for _, part := range []string{"CANARY", good[:12], std[:12]} {
				if strings.Contains(err.Error(), part) {
					t.Fatalf("the error holds key material: %v", err)
				}
			}
		})
	}
}

func TestKeyringOpensWithAnyKeyAndSealsWithTheFirst(t *testing.T) {
	old, fresh := NewKey(), NewKey()
	was := mustParse(t, old)
	id, sealed, err := was.Wrap([]byte("data key"), "org_a|1")
	if err != nil {
		t.Fatal(err)
	}
	both := mustParse(t, fresh+","+old)
	if got, err := both.Unwrap(id, sealed, "org_a|1"); err != nil || string(got) != "data key" {
		t.Fatalf("got %q, %v", got, err)
	}
	id2, sealed2, err := both.Wrap([]byte("data key"), "org_a|1")
	if err != nil || id2 != both.First() || id2 == id {
		t.Fatalf("sealed by %q, %v", id2, err)
	}
	var unknown *UnknownKeyError
	if _, err := was.Unwrap(id2, sealed2, "org_a|1"); !errors.As(err, &unknown) || unknown.ID != id2 {
		t.Fatalf("the old keyring opened it, or said %v", err)
	}
	if _, err := both.Unwrap(id, sealed2, "org_a|1"); !errors.Is(err, ErrOpen) {
		t.Fatalf("opened under the wrong key id: %v", err)
	}
	var none *Keyring
	if _, _, err := none.Wrap(nil, ""); err == nil {
		t.Fatal("no keyring sealed something")
	}
	if _, err := none.Unwrap(id, sealed, ""); err == nil {
		t.Fatal("no keyring opened something")
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	key := NewKey()
	k := mustParse(t, key)
	s := NewSecret("CANARY")
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "keyring", k)
	j, err := json.Marshal(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%v %+v %#v %s %q %v %+v %#v", s, s, s, s, s, k, k, k) + log.String() + string(j)
	if strings.Contains(out, "CANARY") || strings.Contains(out, key[:10]) {
		t.Fatalf("printed: %s", out)
	}
	if s.Reveal() != "CANARY" {
		t.Fatal("only Reveal gives the value, and it did not")
	}
}

// Any other key, binding or byte, and any other length: shut.
func TestBoxOpensOnlyAsSealed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var key, other [KeySize]byte
		copy(key[:], rapid.SliceOfN(rapid.Byte(), KeySize, KeySize).Draw(t, "key"))
		copy(other[:], rapid.SliceOfN(rapid.Byte(), KeySize, KeySize).Draw(t, "other key"))
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		binding := rapid.String().Draw(t, "binding")
		otherBinding := rapid.String().Draw(t, "other binding")

		box := NewBox(key)
		sealed := box.Seal(plain, binding)
		if got, err := box.Open(sealed, binding); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("does not open as sealed: %q, %v", got, err)
		}
		if bytes.Equal(sealed, box.Seal(plain, binding)) {
			t.Fatal("sealed twice alike: the nonce is not random")
		}
		if otherBinding != binding {
			if _, err := box.Open(sealed, otherBinding); !errors.Is(err, ErrOpen) {
				t.Fatal("opened with another binding")
			}
		}
		if other != key {
			if _, err := NewBox(other).Open(sealed, binding); !errors.Is(err, ErrOpen) {
				t.Fatal("opened with another key")
			}
		}
		at := rapid.IntRange(0, len(sealed)-1).Draw(t, "at")
		flip := byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		changed := bytes.Clone(sealed)
		changed[at] ^= flip
		if _, err := box.Open(changed, binding); !errors.Is(err, ErrOpen) {
			t.Fatalf("opened with byte %d changed", at)
		}
		if _, err := box.Open(sealed[:at], binding); !errors.Is(err, ErrOpen) {
			t.Fatalf("opened when cut to %d bytes", at)
		}
	})
}

func FuzzOpen(f *testing.F) {
	box := NewBox([KeySize]byte{1})
	f.Add(box.Seal([]byte("x"), "b"), "b")
	f.Add([]byte{}, "")
	f.Add([]byte{boxV1}, "")
	f.Add(bytes.Repeat([]byte{boxV1}, 29), "b")
	f.Fuzz(func(t *testing.T, sealed []byte, binding string) {
		plain, err := box.Open(sealed, binding)
		if err != nil {
			if !errors.Is(err, ErrOpen) || plain != nil {
				t.Fatalf("got %q and %v", plain, err)
			}
			return
		}
		if len(sealed) != len(plain)+29 {
			t.Fatalf("%d bytes in a box of %d", len(plain), len(sealed))
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	f.Add(NewKey())
	f.Add(NewKey() + "," + NewKey())
	f.Add("a,b")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKeyring(s)
		if (k == nil) == (err == nil) {
			t.Fatalf("got %v and %v", k, err)
		}
		if k == nil {
			return
		}
		id, sealed, err := k.Wrap([]byte("x"), "b")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Unwrap(id, sealed, "b"); err != nil || string(got) != "x" {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}
