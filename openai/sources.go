package openai

import "bytes"

// Sources is what an answer rests on, as its provider lists it beside the messages: Perplexity does, and OpenRouter
// passes that on. Where a provider only annotates (OpenAI, Gemini) the citations are the addresses of its annotations.
type Sources struct {
	Citations     []byte // an array of URLs; nil: none. The provider's may hold one twice, as marks in the text count them
	SearchResults []byte // an array of what a search found, in the provider's own form; nil: none
}

// maxSources is how much of a list is kept, in bytes: a longer one is left out.
const maxSources = 256 << 10

// keepList sets to to the list v, unless v is none, empty or too long, and without a new copy where nothing changed: some
// providers repeat it with every chunk.
func keepList(to *[]byte, v []byte) {
	if isArray(v) && len(v) > len("[]") && len(v) <= maxSources && !bytes.Equal(*to, v) {
		*to = bytes.Clone(v)
	}
}

// orAnnotated is s, with the addresses of a message's annotations where it has no citations.
func (s Sources) orAnnotated(annotations [][]byte) Sources {
	if s.Citations != nil {
		return s
	}
	var seen [][]byte
	for _, a := range annotations {
		c, _ := find(a, "url_citation")
		inner := c.Value.of(a)
		u, _ := find(inner, "url")
		if url := u.Value.of(inner); isString(url) && !contains(seen, url) {
			seen = append(seen, url)
		}
	}
	keepList(&s.Citations, appendList(nil, "[", seen))
	return s
}

func contains(list [][]byte, v []byte) bool {
	for _, old := range list {
		if bytes.Equal(old, v) {
			return true
		}
	}
	return false
}

// annotationsOf are the elements of a message's annotations.
func annotationsOf(message []byte) (list [][]byte) {
	m, _ := find(message, "annotations")
	each(m.Value.of(message), func(n int, v []byte) {
		if n < maxItems {
			list = append(list, v)
		}
	})
	return list
}
