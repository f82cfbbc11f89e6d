package openai

import (
	"bytes"
	"encoding/base64"
	"image"
	"image/png"
	"strings"
	"testing"
)

func picture(t testing.TB, w, h int) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Bytes())
}

func TestEstimateTokens(t *testing.T) {
	f := func(what, message string, atLeast, atMost int64) {
		t.Helper()
		if n := EstimateTokens([]byte(message)); n < atLeast || n > atMost {
			t.Errorf("%s: %d tokens, want %d to %d", what, n, atLeast, atMost)
		}
	}
	part := func(p string) string { return `{"role":"user","content":[` + p + `]}` }
	img := func(url, detail string) string {
		return part(`{"type":"image_url","image_url":{"url":"` + url + `"` + detail + `}}`)
	}
	f("empty", `{"role":"user","content":""}`, 5, 12)
	f("400 bytes of text", `{"role":"user","content":"`+strings.Repeat("word", 100)+`"}`, 100, 115)
	f("text in a part", part(`{"type":"text","text":"`+strings.Repeat("word", 100)+`"}`), 100, 125)
	f("a small image is one tile", img(picture(t, 300, 200), ""), 255, 275)
	f("two by two tiles", img(picture(t, 1000, 1000), ""), 85+4*170, 85+4*170+20)
	f("a large one is made smaller", img(picture(t, 4096, 4096), ""), 85+4*170, 85+4*170+20)
	f("a long one", img(picture(t, 3000, 300), ""), 85+4*170, 85+4*170+20)
	f("low detail", img(picture(t, 3000, 3000), `,"detail":"low"`), 85, 105)
	f("somewhere else", img("https://example.com/a.png", ""), 1105, 1125)
	f("not an image", img("data:image/png;base64,"+strings.Repeat("AAAA", 100_000), ""), 1105, 1125)
	f("audio by its length", part(`{"type":"input_audio","input_audio":{"data":"`+strings.Repeat("AAAA", 16_000)+`","format":"wav"}}`), 10, 25)
	f("a file by its length", part(`{"type":"file","file":{"file_data":"`+strings.Repeat("AAAA", 16_000)+`"}}`), 1000, 1020)
	f("a part of a kind nobody knows counts as text", part(`{"type":"new","new":"`+strings.Repeat("word", 100)+`"}`), 100, 125)
}

// An image's header that claims much must not cost much.
func TestEstimateReadsHeadersOnly(t *testing.T) {
	message := []byte(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + picture(t, 8000, 8000) + `"}}]}`)
	if n := testing.AllocsPerRun(10, func() { EstimateTokens(message) }); n > 100 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEstimateTokens(b *testing.B) {
	for name, m := range map[string]string{
		"text":  `{"role":"user","content":"` + strings.Repeat("word ", 200) + `"}`,
		"image": `{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + picture(b, 640, 480) + `"}}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				EstimateTokens([]byte(m))
			}
		})
	}
}
