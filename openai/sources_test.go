package openai

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSources(t *testing.T) {
	const (
		urls    = `["https://a.example/","https://b.example/","https://a.example/"]`
		results = `[{"title":"A","url":"https://a.example/"}]`
		noted   = `[{"type":"url_citation","url_citation":{"url":"https://c.example/","title":"C"}},{"type":"file"},` +
			`{"type":"url_citation","url_citation":{"url":"https://c.example/","title":"again"}}]`
	)
	long := `["` + strings.Repeat("x", maxSources) + `"]`
	f := func(about, members, annotations, citations, found string) {
		t.Helper()
		want := []string{citations, found}
		a, err := ParseAnswer([]byte(`{"choices":[{"message":{"role":"assistant","content":"x","annotations":` + annotations + `}}]` + members + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, []string{string(a.Sources.Citations), string(a.Sources.SearchResults)}); diff != "" {
			t.Errorf("%s, whole:\n%s", about, diff)
		}
		var acc Accumulator
		for _, chunk := range []string{
			`{"choices":[{"index":0,"delta":{"content":"x"}}]` + members + `}`,
			`{"choices":[{"index":0,"delta":{"annotations":` + annotations + `}}]` + members + `}`,
			`{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"citations":[],"search_results":null}`,
		} {
			if _, err := acc.Add([]byte(chunk)); err != nil {
				t.Fatal(err)
			}
		}
		s := acc.Sources()
		if diff := cmp.Diff(want, []string{string(s.Citations), string(s.SearchResults)}); diff != "" {
			t.Errorf("%s, streamed:\n%s", about, diff)
		}
	}
	f("nothing", "", "[]", "", "")
	f("lists", `,"citations":`+urls+`,"search_results":`+results, "[]", urls, results)
	f("lists and annotations", `,"citations":`+urls, noted, urls, "")
	f("annotations alone", "", noted, `["https://c.example/"]`, "")
	f("lists that are none", `,"citations":"x","search_results":{}`, "null", "", "")
	f("a list that is too long", `,"citations":`+long, "[]", "", "")

	if s := (&Accumulator{}).Sources(); s.Citations != nil || s.SearchResults != nil {
		t.Errorf("an empty answer rests on %s", s)
	}
}
