package perplexity

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// The answer marks what it took from where by [1], by [web:1] with some presets, in plain text. The number is the id of a
// result of the search. Out of these become annotations, as OpenAI has them, and beside them the lists that Sonar gave:
// citations, whose n-th is [n], and search_results.

// source is one result of a search.
type source struct {
	id         int64
	url, title string // JSON
	raw        string // the result as it came
}

// addSources adds results that are not there yet. Where they have no id (Sonar), they count from 1.
func addSources(to []source, results gjson.Result) []source {
	n := int64(0)
	for _, r := range elements(results) {
		n++
		s := source{id: n, url: orEmpty(r.Get("url").Raw), title: orEmpty(r.Get("title").Raw), raw: r.Raw}
		if id := r.Get("id"); id.Type == gjson.Number {
			s.id = id.Int()
		}
		if find(to, s.id) == nil && len(to) < maxSources {
			to = append(to, s)
		}
	}
	return to
}

// What of an answer may be cited, and how often. Nobody reads more; an answer that has more is a loop.
const (
	maxSources   = 1024
	maxCitations = 1024
)

func find(sources []source, id int64) *source {
	for i := range sources {
		if sources[i].id == id {
			return &sources[i]
		}
	}
	return nil
}

// appendAnnotations appends, as elements of an array, an annotation for each marker in text that names a source. Offsets
// are in characters (code points), and are those of the marker. Code is left alone: a[1] is no citation there.
func appendAnnotations(dst []byte, text string, sources []source) []byte {
	if len(sources) == 0 {
		return dst
	}
	chars, n := 0, 0 // where i is, in characters
	for i := 0; i < len(text) && n < maxCitations; {
		switch c := text[i]; {
		case c == '`':
			size := codeSpan(text[i:])
			chars += utf8.RuneCountInString(text[i : i+size])
			i += size
		case c == '[':
			ids, size := marker(text[i:])
			for _, id := range ids {
				if s := find(sources, id); s != nil {
					dst = appendAnnotation(dst, chars, chars+size, s.title, s.url)
					n++
				}
			}
			size = max(size, 1) // a marker is ASCII
			chars += size
			i += size
		case c < utf8.RuneSelf:
			chars++
			i++
		default:
			_, size := utf8.DecodeRuneInString(text[i:])
			chars++
			i += size
		}
	}
	return dst
}

// appendAnnotation appends one, as the chat API nests it. title and url are JSON.
func appendAnnotation(dst []byte, start, end int, title, url string) []byte {
	dst = append(comma(dst), `{"type":"url_citation","url_citation":{"start_index":`...)
	dst = strconv.AppendInt(dst, int64(start), 10)
	dst = append(dst, `,"end_index":`...)
	dst = strconv.AppendInt(dst, int64(end), 10)
	dst = append(append(dst, `,"title":`...), title...)
	dst = append(append(dst, `,"url":`...), url...)
	return append(dst, "}}"...)
}

// codeSpan is how long the code is that text begins with: from a run of backticks to the next as long. Where it does not
// end, only the run.
func codeSpan(text string) int {
	run := len(text) - len(strings.TrimLeft(text, "`"))
	end := strings.Index(text[run:], text[:run])
	if end < 0 {
		return run
	}
	return run + end + run
}

// marker reads the marker text begins with: [1], [web:1], [1, 2]. No ids: it is none.
func marker(text string) (ids []int64, size int) {
	const longest = 64
	end := strings.IndexByte(text[:min(len(text), longest)], ']')
	if end < 0 {
		return nil, 0
	}
	for item := range strings.SplitSeq(text[1:end], ",") {
		item = strings.TrimLeft(item, " ")
		if kind, number, found := strings.Cut(item, ":"); found && strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz_") == "" {
			item = number
		}
		id, err := strconv.ParseUint(item, 10, 16)
		if err != nil {
			return nil, 0
		}
		ids = append(ids, int64(id))
	}
	return ids, end + 1
}

// appendLegacy appends the lists of the older API as members of the answer: the results' addresses, and the results.
// They are in the order of their ids, so that [n] is the n-th.
func appendLegacy(dst []byte, sources []source) []byte {
	if len(sources) == 0 {
		return dst
	}
	sources = slices.Clone(sources)
	slices.SortStableFunc(sources, func(a, b source) int { return cmp.Compare(a.id, b.id) })
	dst = append(member(dst, "citations"), '[')
	for _, s := range sources {
		dst = append(comma(dst), s.url...)
	}
	dst = append(member(append(dst, ']'), "search_results"), '[')
	for _, s := range sources {
		dst = append(comma(dst), s.raw...)
	}
	return append(dst, ']')
}
