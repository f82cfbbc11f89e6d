package upstreamstest

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/openai"
	"threadhub/upstreams"
)

// Batches is how a provider embeds many texts that takes no more than some in a request. Its answers tell usage.
type Batches struct {
	New    func(upstreams.Options) (*upstreams.Client, error)
	Most   int
	Texts  string                    // where the texts are in a request
	Answer func(of []float64) string // to texts that are numbers: embeddings of two dimensions, of which the first is the number by Number
	Number func(first float64) float64
}

// asked is a request for n embeddings: the text of each is its number modulo 100.
func (b Batches) asked(t testing.TB, server *Server, n int, more string, adjust ...func(*upstreams.Options)) (*upstreams.Client, *upstreams.Request) {
	t.Helper()
	o := upstreams.Options{BaseURL: server.URL}
	for _, f := range adjust {
		f(&o)
	}
	u, err := b.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprint(i % 100)
	}
	input, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"model":"m","input":%s,"dimensions":2%s}`, input, more)
	r := &upstreams.Request{Body: body, Model: "m", Inputs: n, Key: seal.NewSecret(Key), Attempt: "req_1-0"}
	if err := u.TranslateEmbeddings(r); err != nil {
		t.Fatal(err)
	}
	return u, r
}

// serve answers as the provider does, but for the request on which change has something else. sizes are of what it got.
func (b Batches) serve(t testing.TB, change func(n int, c *Conn, good string) (did bool)) (server *Server, sizes func() []int) {
	var mu sync.Mutex
	var got []int
	server = Serve(t, func(c *Conn) {
		var of []float64
		for _, text := range gjson.GetBytes(c.Body, b.Texts).Array() {
			of = append(of, text.Float())
		}
		mu.Lock()
		got = append(got, len(of))
		n := len(got)
		mu.Unlock()
		if c.Request.Header.Get("X-Client-Request-Id") != "req_1-0" {
			t.Errorf("request %d has another name", n)
		}
		if good := b.Answer(of); change == nil || !change(n, c, good) {
			c.Send(Reply("200 OK", good, JSON))
		}
	})
	return server, func() []int {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// Run holds the provider to what Batcher promises.
func (b Batches) Run(t *testing.T) {
	t.Run("joined", b.joined)
	t.Run("failed", b.failed)
	t.Run("left", b.left)
	t.Run("oversize", b.oversize)
}

func (b Batches) joined(t *testing.T) {
	for _, n := range []int{1, b.Most, b.Most + b.Most/2, 2*b.Most + 1, openai.MaxInputs} {
		for _, more := range []string{"", `,"encoding_format":"base64"`} {
			server, sizes := b.serve(t, nil)
			u, r := b.asked(t, server, n, more)
			a, err := u.Embed(t.Context(), r)
			if err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			e, err := openai.ParseEmbeddingsAnswer(a.Body, n)
			if err != nil || e.Usage == nil || e.Usage.Input != int64(n) || a.MaybeBilled || a.Status != 200 {
				t.Fatalf("%d: %v, %+v", n, err, a)
			}
			for i, v := range gjson.GetBytes(a.Body, "data").Array() {
				first := v.Get("embedding.0").Num
				if more != "" {
					first = float64(unpacked(t, v.Get("embedding").Str)[0])
				}
				if v.Get("index").Int() != int64(i) || b.Number(first) != float64(i%100) {
					t.Fatalf("%d: embedding %d is %s", n, i, v.Raw)
				}
			}
			var want []int
			for left := n; left > 0; left -= b.Most {
				want = append(want, min(left, b.Most))
			}
			if !slices.Equal(sizes(), want) {
				t.Errorf("%d were asked for as %v", n, sizes())
			}
		}
	}
}

// failed has the second of three requests fail: all of them have, nothing more is asked, and what was answered is billed.
func (b Batches) failed(t *testing.T) {
	send := func(text string) func(*Conn, string) {
		return func(c *Conn, _ string) {
			c.Send(text)
			c.Close()
		}
	}
	refusal := `{"error":{"message":"no","code":429}}`
	for about, c := range map[string]struct {
		second func(c *Conn, good string)
		code   string
	}{
		"limited":   {send(Reply("429 Slow", refusal, JSON)), "rate_limit_exceeded"},
		"failed":    {send(Reply("500 Error", refusal, JSON)), "upstream_error"},
		"in a 200":  {send(Reply("200 OK", `{"error":{"message":"no","code":500}}`, JSON)), "upstream_error"},
		"no JSON":   {send(Reply("200 OK", "<html></html>", "Content-Type: text/html")), "upstream_protocol"},
		"one fewer": {func(c *Conn, _ string) { c.Send(Reply("200 OK", b.Answer(make([]float64, b.Most-1)), JSON)) }, "upstream_protocol"},
		"one more":  {func(c *Conn, _ string) { c.Send(Reply("200 OK", b.Answer(make([]float64, b.Most+1)), JSON)) }, "upstream_protocol"},
		"cut": {func(c *Conn, good string) {
			send("HTTP/1.1 200 OK\r\n"+JSON+"\r\nContent-Length: 100000\r\n\r\n"+good[:9])(c, "")
		}, "upstream_protocol"},
		"no answer":   {func(c *Conn, _ string) { c.Reset() }, "upstream_reset"},
		"no patience": {func(c *Conn, _ string) { c.Gone() }, "upstream_timeout"},
	} {
		server, sizes := b.serve(t, func(n int, conn *Conn, good string) bool {
			if n == 2 {
				c.second(conn, good)
			}
			return n == 2
		})
		u, r := b.asked(t, server, 2*b.Most+1, "", func(o *upstreams.Options) { o.HeaderTimeout, o.TotalTimeout = 5*blink, Patience/2 })
		_, err := u.Embed(t.Context(), r)
		f := upstreams.FailureOf(err)
		if !fault.HasCode(err, c.code) || !f.MaybeBilled || !f.Sent || f.Stale || len(sizes()) != 2 {
			t.Errorf("%s: %v, %+v, asked for %v", about, err, f, sizes())
			continue
		}
		if tokens := gjson.GetBytes(f.Body, "usage.prompt_tokens").Int(); tokens < int64(b.Most) {
			t.Errorf("%s: of what was answered is told %s", about, f.Body)
		}
	}
	// The second cannot be sent any more.
	var closing *Server
	closing, _ = b.serve(t, func(_ int, c *Conn, good string) bool {
		closing.listener.Close()
		c.Send(Reply("200 OK", good, JSON, "Connection: close"))
		c.Close()
		return true
	})
	client, request := b.asked(t, closing, b.Most+1, "")
	_, err := client.Embed(t.Context(), request)
	if f := upstreams.FailureOf(err); !fault.HasCode(err, "upstream_unreachable") || !f.MaybeBilled || !f.Sent {
		t.Errorf("out of reach: %v, %+v", err, f)
	}
	// The last is read elsewhere.
	server, sizes := b.serve(t, func(n int, c *Conn, _ string) bool {
		if n == 2 {
			c.Send(Reply("200 OK", b.Answer(nil), JSON))
		}
		return n == 2
	})
	u, r := b.asked(t, server, b.Most+1, "")
	_, err = u.Embed(t.Context(), r)
	if f := upstreams.FailureOf(err); !fault.HasCode(err, "upstream_protocol") || !f.MaybeBilled || len(sizes()) != 2 || f.Body == nil {
		t.Errorf("the last: %v, %+v", err, f)
	}
}

// left has the client leave while the second request is under way.
func (b Batches) left(t *testing.T) {
	cause := errors.New("the client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := make(chan bool, 1)
	server, sizes := b.serve(t, func(n int, c *Conn, _ string) bool {
		if n == 2 {
			cancel(cause)
			gone <- c.Gone()
		}
		return n == 2
	})
	u, r := b.asked(t, server, 2*b.Most+1, "")
	_, err := u.Embed(ctx, r)
	if f := upstreams.FailureOf(err); !errors.Is(err, cause) || !f.MaybeBilled || !<-gone || len(sizes()) != 2 {
		t.Errorf("%v, %+v, asked for %v", err, f, sizes())
	}
}

// oversize has two answers that are together more than may come.
func (b Batches) oversize(t *testing.T) {
	n := b.Most + 1
	half := 1<<19 + n*(4096*32/2) + 1<<10
	server, sizes := b.serve(t, func(_ int, c *Conn, good string) bool {
		c.Send(Reply("200 OK", strings.TrimSuffix(good, "}")+`,"more":"`+strings.Repeat("x", half)+`"}`, JSON))
		return true
	})
	u, r := b.asked(t, server, n, "")
	_, err := u.Embed(t.Context(), r)
	if f := upstreams.FailureOf(err); !fault.HasCode(err, "upstream_oversize") || !f.MaybeBilled || len(sizes()) != 2 {
		t.Errorf("%v, %+v, asked for %v", err, f, sizes())
	}
}

func unpacked(t testing.TB, text string) (vector []float32) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for ; len(raw) >= 4; raw = raw[4:] {
		vector = append(vector, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
	}
	return vector
}
