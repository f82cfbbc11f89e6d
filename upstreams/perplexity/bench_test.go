package perplexity

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"threadhub/upstreams"
	"threadhub/upstreams/upstreamstest"
)

// conversation is a request of so many messages, with tools.
func conversation(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"model":"sonar-pro","stream":true,"temperature":0.2,"messages":[{"role":"system","content":"Be brief."}`)
	for i := range n {
		role := "user"
		if i%2 == 1 {
			role = "assistant"
		}
		fmt.Fprintf(&b, `,{"role":"%s","content":"%s"}`, role, strings.Repeat("some words that are said, ", 16))
	}
	b.WriteString(`],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}}]}`)
	return []byte(b.String())
}

func BenchmarkRequest(b *testing.B) {
	for name, translate := range map[string]func(*upstreams.Request) error{
		"agent": func(r *upstreams.Request) error { _, err := translateAgent(r, searchChoices[""]); return err },
		"sonar": func(r *upstreams.Request) error { _, err := translateSonar(r); return err },
	} {
		for _, n := range []int{1, 43} { // some 20 KB
			r := &upstreams.Request{Body: conversation(n), Stream: true}
			b.Run(fmt.Sprint(name, " ", n, " messages"), func(b *testing.B) {
				b.SetBytes(int64(len(r.Body)))
				b.ReportAllocs()
				for b.Loop() {
					if err := translate(r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkWhole(b *testing.B) {
	for _, name := range []string{"agent/plain", "sonar/plain"} {
		raw := upstreamstest.File(b, name+".resp.json")
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := asked(name[:5]).Whole(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	for _, name := range []string{"agent/stream", "sonar/stream_full"} {
		raw := upstreamstest.File(b, name+".sse")
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := play(b, asked(name[:5]), bytes.NewReader(raw)); err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}
