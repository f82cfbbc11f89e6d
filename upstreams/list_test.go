package upstreams

import (
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// FuzzListed reads any JSON as an entry of a list, and makes sure of what gets through.
func FuzzListed(f *testing.F) {
	for _, entry := range []string{
		`{"id":"openai/gpt-6.1-sol","created":1792454400,"kinds":["text","image"]}`, `{"id":"a\u0000b","created":-1}`, `{"id":["x"],"created":1e300,"kinds":{"text":1}}`,
		`{"id":"` + strings.Repeat("a/", 100) + `b","created":"7","kinds":["TEXT","<b>",7,null,"` + strings.Repeat("x", 99) + `"]}`,
	} {
		f.Add([]byte(entry))
	}
	f.Add([]byte(`{"id":"a","shutdown_date":"2026-12-31T00:00:00Z"}`))
	f.Add([]byte(`{"id":"a","shutdown_date":"<b>2026-12-31"}`))
	f.Fuzz(func(t *testing.T, entry []byte) {
		v := gjson.ParseBytes(entry)
		m, _ := List{}.read(v)
		if _, err := time.Parse(time.DateOnly, m.Shutdown); m.Shutdown != "" && err != nil {
			t.Fatalf("%q is gone on %q", entry, m.Shutdown)
		}
		if m.Created < 0 || m.Created > 1<<40 {
			t.Fatalf("%q was made at %d", entry, m.Created)
		}
		for _, kind := range Kinds(v.Get("kinds")) {
			if kind == "" || len(kind) > maxKindName || strings.ContainsFunc(kind, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
				t.Fatalf("%q has the kind %q", entry, kind)
			}
		}
		if isModel(m.ID) && (len(m.ID) > maxModel || strings.ContainsAny(m.ID, " <>\"'\\%?#&\r\n\x00") || strings.Contains("/"+m.ID+"/", "//") || strings.Contains("/"+m.ID+"/", "/../")) {
			t.Fatalf("%q is a name", m.ID)
		}
	})
}
