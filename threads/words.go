package threads

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidwall/gjson"
	"golang.org/x/text/unicode/norm"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/openai"
)

// Searches find words, and we say what a word is: then both stores find the same.

const (
	maxWord  = 64        // characters of a word that count
	maxWords = 4096      // words of one text
	maxIndex = 256 << 10 // bytes of them, without the org's marks; Postgres keeps no tsvector over a megabyte

	// MaxSearchWords is how many words one search may have.
	MaxSearchWords = 16
)

// Words returns the words of text, each once, in the order of their first use. A word is a maximal run of letters, digits
// and the marks on them, in lower case and compatibility form (NFKC), at most 64 characters of it. Han, Hiragana and
// Katakana are written without spaces, so there each character is a word; Hangul has spaces and needs none of that. A text
// of more than 4096 words, or 256 KiB of them, is known by its first ones.
func Words(text string) []string {
	var list []string
	seen := map[string]bool{}
	size := 0
	add := func(word []byte) bool {
		if !seen[string(word)] {
			w := string(word)
			seen[w] = true
			list = append(list, w)
			size += len(w) + 1
		}
		return len(list) < maxWords && size < maxIndex
	}
	var word []byte
	runes := 0
	end := func() bool {
		if runes == 0 {
			return true
		}
		w := word
		word, runes = word[:0], 0
		return add(w)
	}
	for _, r := range norm.NFKC.String(text) {
		more := true
		switch {
		case 'a' <= r && r <= 'z', r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			if runes++; runes <= maxWord {
				word = append(word, byte(unicode.ToLower(r)))
			}
		case r < utf8.RuneSelf:
			more = end()
		case alone(r):
			more = end() && add(utf8.AppendRune(nil, unicode.ToLower(r)))
		case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r) && runes > 0:
			if runes++; runes <= maxWord {
				word = utf8.AppendRune(word, unicode.ToLower(r))
			}
		default:
			more = end()
		}
		if !more {
			return list
		}
	}
	end()
	return list
}

// alone reports whether r is a word by itself. The long-vowel mark belongs to both kana and so to no script.
func alone(r rune) bool {
	return r >= 0x2E80 && (unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana) && (unicode.IsLetter(r) || unicode.IsDigit(r)) || r == 'ー')
}

// SearchWords returns what q asks for. Errors: fault.Invalid.
func SearchWords(q string) ([]string, error) {
	words := Words(q)
	switch {
	case len(words) == 0:
		return nil, fault.New(fault.Invalid, "q holds no word to look for").WithParam("q")
	case len(words) > MaxSearchWords:
		return nil, fault.New(fault.Invalid, "q may have up to %d words", MaxSearchWords).WithParam("q")
	}
	return words, nil
}

// ofOrg puts a mark of the org in front of each word. The index is one for all orgs: so a search passes over the words of
// its own org only, and neither its time nor its length tells of others'.
func ofOrg(org id.Org, words []string) []string {
	sum := sha256.Sum256([]byte(org))
	mark := hex.EncodeToString(sum[:4])
	marked := make([]string, len(words))
	for i, w := range words {
		marked[i] = mark + w
	}
	return marked
}

// messageWords are the words of what a message says, its text and its refusal, as the index takes them, with spaces between.
func messageWords(org id.Org, raw []byte) string {
	text := openai.ContentText(raw)
	for _, path := range []string{"refusal", "content.#.refusal"} {
		for _, r := range gjson.GetBytes(raw, path).Array() {
			if r.Type == gjson.String {
				text += "\n" + r.Str
			}
		}
	}
	return strings.Join(ofOrg(org, Words(text)), " ")
}

// titleWords are the words of a thread's title and description as they are stored: each between spaces.
func titleWords(title, description string) string {
	words := Words(title + "\n" + description)
	if len(words) == 0 {
		return ""
	}
	return " " + strings.Join(words, " ") + " "
}

// The forms in which the stores are asked for messages that have, for each of words, one that begins with it. Words hold
// nothing that could end a quotation.
func tsquery(words []string) string { return "'" + strings.Join(words, "':* & '") + "':*" }

func ftsQuery(words []string) string {
	return `"` + strings.Join(words, `"* AND "`) + `"*`
}
