package router

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// words is a list of words to look for in a message, whatever their case. An entry is a word (news), the beginning of
// words (aktuell*), a part of words (*akhbar*), or several words in a row (what's new). Scripts that do not write spaces
// between words (Han, kana, Thai) are looked for anywhere in the text.
type words struct {
	exact    map[string]bool
	prefixes []string
	parts    []string   // of words
	anywhere []string   // of the text
	phrases  [][]string // words in a row; the last may be a prefix, written with *
}

func newWords(list []string) *words {
	w := &words{exact: map[string]bool{}}
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
			w.phrases = append(w.phrases, fields)
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

var apostrophes = strings.NewReplacer("’", "'", "ʼ", "'", "`", "'")

// fold makes case and apostrophes alike.
func fold(s string) string {
	return apostrophes.Replace(strings.ToLower(s))
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
	for i := range t.words {
		if w.at(t.words[i:]) {
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
		for i := start; i < min(start+opening, end); i++ {
			if w.at(t.words[i:]) {
				return true
			}
		}
	}
	return w.somewhere(t)
}

func (w *words) somewhere(t *text) bool {
	for _, part := range w.anywhere {
		if strings.Contains(t.folded, part) {
			return true
		}
	}
	return false
}

// at reports whether rest, which is not empty, begins with an entry.
func (w *words) at(rest []string) bool {
	word := rest[0]
	if w.exact[word] {
		return true
	}
	for _, p := range w.prefixes {
		if strings.HasPrefix(word, p) {
			return true
		}
	}
	for _, p := range w.parts {
		if strings.Contains(word, p) {
			return true
		}
	}
	for _, phrase := range w.phrases {
		if says(rest, phrase) {
			return true
		}
	}
	return false
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
