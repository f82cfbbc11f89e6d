package threads_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/fault"
	"threadhub/threads"
)

func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                           nil,
		" \t\x00 -- '&|!:*() \"\\ ":  nil,
		"Hello, hello WORLD":         {"hello", "world"},
		"it's foo_bar x-1 v2.5":      {"it", "s", "foo", "bar", "x", "1", "v2", "5"},
		"Straße ÉTÉ cafe\u0301":      {"straße", "été", "café"},
		"ﬁne ＡＢＣ１":                   {"fine", "abc1"},
		"日本語のテスト":                    {"日", "本", "語", "の", "テ", "ス", "ト"},
		"サーバーis down":                {"サ", "ー", "バ", "is", "down"},
		"안녕 세계":                      {"안녕", "세계"},
		"नमस्ते":                     {"नमस्ते"},
		"a\xffb":                     {"a", "b"},
		"\u0301 alone":               {"alone"},
		"'; DROP TABLE threads; --x": {"drop", "table", "threads", "x"},
	} {
		if diff := cmp.Diff(want, threads.Words(text)); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", text, diff)
		}
	}
}

func TestWordsAreBounded(t *testing.T) {
	long := threads.Words(strings.Repeat("é", 1000))
	if len(long) != 1 || utf8.RuneCountInString(long[0]) != 64 {
		t.Errorf("a long word became %q", long)
	}
	var many strings.Builder
	for i := range rune(20000) {
		many.WriteRune(0x4e00 + i)
	}
	if n := len(threads.Words(many.String())); n != 4096 {
		t.Errorf("%d words", n)
	}
	many.Reset()
	for i := range 5000 {
		many.WriteString(strings.Repeat(string(rune(0x10400+i%40)), 60) + string(rune('a'+i%26)) + strings.Repeat("x", i/26%200) + " ")
	}
	if n := len(strings.Join(threads.Words(many.String()), " ")); n > 257<<10 {
		t.Errorf("%d bytes of words", n)
	}
}

// Whatever the text, a word holds nothing that means something in a query, and is found again as itself.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "Hello wörld", "'a' & \"b\"* OR NEAR(c)", "\x00\xff", "日本 ー゛", "İIı", strings.Repeat("a", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words := threads.Words(s)
		for i, w := range words {
			if w == "" || !utf8.ValidString(w) || utf8.RuneCountInString(w) > 64 || slices.Contains(words[:i], w) {
				t.Errorf("%q has the word %q", s, w)
			}
			for _, r := range w {
				if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
					t.Errorf("%q has the word %q, with %q in it", s, w, r)
				}
			}
		}
	})
}

func TestSearchWords(t *testing.T) {
	for _, q := range []string{"", "  ", "\x00", "'*&|", strings.Repeat("-", 10<<10), "a b c d e f g h i j k l m n o p q"} {
		if _, err := threads.SearchWords(q); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.40q: %v", q, err)
		}
	}
	if words, err := threads.SearchWords("a b c d e f g h i j k l m n o p a"); err != nil || len(words) != 16 {
		t.Errorf("%q, %v", words, err)
	}
}

// Marks keep the words of orgs apart in the index that is one for all.
func TestWordsAreAnOrgsOwn(t *testing.T) {
	a, b := threads.MessageWords("org_a", []byte(`{"role":"user","content":"hello"}`)), threads.MessageWords("org_b", []byte(`{"role":"user","content":"hello"}`))
	if a == b || len(a) != len(b) || a[8:] != "hello" || b[8:] != "hello" {
		t.Errorf("%q and %q", a, b)
	}
}
