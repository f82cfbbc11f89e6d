package orgs

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

var keyForm = regexp.MustCompile(`^th_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`)

func TestNewKeysAreWellFormedAndDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		k := NewKey()
		text := k.Secret().Reveal()
		if !keyForm.MatchString(text) {
			t.Fatalf("a key of another form: %q", text)
		}
		if seen[text] || seen[string(k.ID)] {
			t.Fatal("a key came twice")
		}
		seen[text], seen[string(k.ID)] = true, true
		got, err := ParseKey(text)
		if err != nil || got != k {
			t.Fatalf("read back as %v, %v", got, err)
		}
	}
}

// The widest secret still has 43 digits, and the narrowest too.
func TestDigitsAreOfFixedWidth(t *testing.T) {
	most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	a, b := digits(new(big.Int), keySecret), digits(new(big.Int).Set(most), keySecret)
	if len(a) != keySecret || len(b) != keySecret || strings.Trim(a, "0") != "" {
		t.Fatalf("got %q and %q", a, b)
	}
	back := new(big.Int)
	for i := range len(b) {
		back.Mul(back, big.NewInt(62)).Add(back, big.NewInt(int64(strings.IndexByte(base62, b[i]))))
	}
	if back.Cmp(most) != 0 {
		t.Fatal("the widest secret lost something")
	}
}

// Whatever single character is changed, the key is refused without asking the store.
func TestChecksumRefusesEveryChangedCharacter(t *testing.T) {
	text := NewKey().Secret().Reveal()
	for i := range len(text) {
		for _, c := range []byte("0aZ_-. \x00\xff") {
			if text[i] == c {
				continue
			}
			if _, err := ParseKey(text[:i] + string([]byte{c}) + text[i+1:]); err == nil {
				t.Fatalf("taken with %q at %d", c, i)
			}
		}
	}
	for _, junk := range []string{"", "th_", text[:len(text)-1], text + "0", " " + text, "sk-" + text, strings.Repeat("_", keyLen), strings.Repeat("é", keyLen/2)} {
		if _, err := ParseKey(junk); !fault.HasCode(err, "invalid_api_key") || !fault.Is(err, fault.Unauthorized) {
			t.Fatalf("%q: %v", junk, err)
		}
	}
}

func TestKeyPrintsNoSecret(t *testing.T) {
	k := NewKey()
	secret := k.text[secretAt : sumAt-1]
	out := fmt.Sprintf("%v %+v %#v %s %q", k, k, k, k, k)
	if strings.Contains(out, secret) || !strings.Contains(out, string(k.ID)) {
		t.Fatalf("printed %s", out)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(NewKey().Secret().Reveal())
	f.Add("")
	f.Add(strings.Repeat("0", keyLen))
	f.Add("th_000000000000_0000000000000000000000000000000000000000000_000000")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil {
			if !fault.HasCode(err, "invalid_api_key") || k != (APIKey{}) {
				t.Fatalf("got %v, %v", k, err)
			}
			if len(text) > 8 && strings.Contains(err.Error(), text) {
				t.Fatal("the error repeats what was shown")
			}
			return
		}
		if !keyForm.MatchString(text) || k.Secret().Reveal() != text || string(k.ID) != text[3:15] {
			t.Fatalf("%q was taken as %v", text, k)
		}
	})
}

func BenchmarkParseAndHash(b *testing.B) {
	text := NewKey().Secret().Reveal()
	b.ReportAllocs()
	for b.Loop() {
		k, err := ParseKey(text)
		if err != nil {
			b.Fatal(err)
		}
		_ = k.sum()
	}
}
