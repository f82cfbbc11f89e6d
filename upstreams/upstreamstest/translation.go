package upstreamstest

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"threadhub/openai"
	"threadhub/upstreams"
)

var update = flag.Bool("update", false, "write what comes out as what is expected")

// Golden compares got with a file of testdata, or writes it.
func Golden(t testing.TB, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := File(t, name); !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// File is what stands in a file of testdata.
func File(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Same compares two texts by the JSON they are.
func Same(t testing.TB, about string, got, want []byte) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%s: %v: %s", about, err, got)
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatalf("%s: %v: %s", about, err, want)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("%s: (-want +got)\n%s", about, diff)
	}
}

// Accumulated is the message that chunks make; it fails for one that is no chunk.
func Accumulated(t testing.TB, chunks []string) *openai.Accumulator {
	t.Helper()
	var a openai.Accumulator
	for _, c := range chunks {
		if _, err := a.Add([]byte(c)); err != nil {
			t.Fatalf("%v: %s", err, c)
		}
	}
	return &a
}

// Play has what a client reads streams with read one with w, and returns the chunks and what ended them: io.EOF for a good
// end, else a fault.
func Play(t testing.TB, provider string, w upstreams.Words, body io.Reader) (chunks []string, err error) {
	t.Helper()
	c, err := upstreams.NewClient(upstreams.Dialect{
		Provider: provider, BaseURL: "https://provider.test",
		Translate: func(*upstreams.Request) (upstreams.Words, error) { return w, nil },
	}, upstreams.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s := Subject{Wire: &Wire{}}
	return s.play(t, client{c}, body)
}
