package router

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// words is a list of words to look for in a message, whatever their case. An entry is a word (news), the beginning of
// words (aktuell*), a part of words (*akhbar*), or several words in a row (what's new). Scripts that do not write spaces
// between words (Han, kana, Thai) are looked for anywhere in the text. An entry after ! is an exception (!good news):
// where it stands no other entry does.
type words struct {
	exact    map[string]bool
	prefixes []string
	parts    []string              // of words
	anywhere []string              // of the text
	phrases  map[string][][]string // by the first: words in a row; the last may be a prefix, written with *
	except   *words                // nil: there are no exceptions
}

func newWords(list []string) *words {
	var entries, exceptions []string
	for _, entry := range list {
		if e, ok := strings.CutPrefix(strings.TrimSpace(entry), "!"); ok {
			exceptions = append(exceptions, e)
		} else {
			entries = append(entries, entry)
		}
	}
	w := read(entries)
	if exceptions != nil {
		w.except = read(exceptions)
	}
	return w
}

func read(list []string) *words {
	w := &words{exact: map[string]bool{}, phrases: map[string][][]string{}}
	for _, entry := range list {
		entry = fold(strings.TrimSpace(entry))
		bare := strings.Trim(entry, "*")
		switch fields := split(bare); {
		case strings.ContainsFunc(bare, unspaced):
			w.anywhere = append(w.anywhere, bare)
		case len(fields) > 1:
			if strings.HasSuffix(entry, "*") {
				fields[len(fields)-1] += "*"
			}
			w.phrases[fields[0]] = append(w.phrases[fields[0]], fields)
		case len(fields) == 0:
		case strings.HasPrefix(entry, "*"):
			w.parts = append(w.parts, fields[0])
		case strings.HasSuffix(entry, "*"):
			w.prefixes = append(w.prefixes, fields[0])
		default:
			w.exact[fields[0]] = true
		}
	}
	return w
}

// unspaced reports whether a character is of a script without spaces.
func unspaced(c rune) bool {
	return unicode.In(c, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai)
}

// text is a message as lists look at it.
type text struct {
	folded string
	words  []string
	starts []int // in words: where sentences begin
}

func newText(message string) *text {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	t := &text{folded: fold(message)}
	for sentence := range strings.FieldsFuncSeq(t.folded, endsSentence) {
		if found := split(sentence); len(found) > 0 {
			t.starts = append(t.starts, len(t.words))
			t.words = append(t.words, found...)
		}
	}
	return t
}

func endsSentence(c rune) bool {
	return strings.ContainsRune(".!?;:,\n…。！？；：，、؟،؛¿¡–—", c)
}

// alike is what is written one way or the other: apostrophes, and the alif of Arabic with or without its hamza. Its vowels
// and the stroke that stretches words are mostly not written at all.
var alike = strings.NewReplacer("’", "'", "ʼ", "'", "`", "'", "أ", "ا", "إ", "ا", "آ", "ا", "ٱ", "ا", "ـ", "",
	"\u064b", "", "\u064c", "", "\u064d", "", "\u064e", "", "\u064f", "", "\u0650", "", "\u0651", "", "\u0652", "")

// fold makes alike what people write one way or the other, case above all.
func fold(s string) string {
	return alike.Replace(strings.ToLower(s))
}

// split returns the words of s: letters, digits and marks, and an apostrophe between them.
func split(s string) []string {
	var out []string
	from := -1
	for i, c := range s {
		in := unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c) || c == '_'
		if c == '\'' && from >= 0 {
			next, _ := utf8.DecodeRuneInString(s[i+1:])
			in = unicode.IsLetter(next)
		}
		switch {
		case in && from < 0:
			from = i
		case !in && from >= 0:
			out, from = append(out, s[from:i]), -1
		}
	}
	if from >= 0 {
		out = append(out, s[from:])
	}
	return out
}

// in reports whether the text has a word of the list.
func (w *words) in(t *text) bool {
	for i := 0; i < len(t.words); i++ {
		if n := w.except.at(t.words[i:]); n > 0 {
			i += n - 1
		} else if w.at(t.words[i:]) > 0 {
			return true
		}
	}
	return w.somewhere(t)
}

// opening is how far into a sentence a word still opens it: "And what …", "Hallo, kannst du …".
const opening = 2

// open reports whether a sentence begins with a word of the list.
func (w *words) open(t *text) bool {
	for n, start := range t.starts {
		end := len(t.words)
		if n+1 < len(t.starts) {
			end = t.starts[n+1]
		}
		for i := start; i < min(start+opening, end) && w.except.at(t.words[i:]) == 0; i++ {
			if w.at(t.words[i:]) > 0 {
				return true
			}
		}
	}
	return w.somewhere(t)
}

// somewhere reports whether the text has what is looked for anywhere in it.
func (w *words) somewhere(t *text) bool {
	return w.inside(t.folded) && (w.except == nil || w.inside(w.except.without(t.folded)))
}

func (w *words) inside(text string) bool {
	return slices.ContainsFunc(w.anywhere, func(part string) bool { return strings.Contains(text, part) })
}

// without takes out of text what is looked for anywhere in it.
func (w *words) without(text string) string {
	for _, part := range w.anywhere {
		text = strings.ReplaceAll(text, part, " ")
	}
	return text
}

// at is how many words the entry has with which rest begins; 0 if it begins with none. rest is not empty, w may be nil.
func (w *words) at(rest []string) int {
	if w == nil {
		return 0
	}
	word := rest[0]
	for _, phrase := range w.phrases[word] {
		if says(rest, phrase) {
			return len(phrase)
		}
	}
	if w.exact[word] {
		return 1
	}
	for _, p := range w.prefixes {
		if strings.HasPrefix(word, p) {
			return 1
		}
	}
	for _, p := range w.parts {
		if strings.Contains(word, p) {
			return 1
		}
	}
	return 0
}

func says(rest, phrase []string) bool {
	if len(rest) < len(phrase) {
		return false
	}
	for i, p := range phrase {
		if begin, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(rest[i], begin) {
			continue
		}
		if rest[i] != p {
			return false
		}
	}
	return true
}
