package model

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// scriptHeader names the script of a request; the gateway passes it on, as the provider says it understands it.
const scriptHeader = "X-Model-Script"

// provider is one that answers as it was told, without a network between.
type provider struct {
	mu      sync.Mutex
	last    int
	scripts map[string]*script
}

// script is what one request is answered with, and what was seen of it.
type script struct {
	name   string
	answer Saying
	n      int           // choices
	comes  int           // pieces of the answer that come: all is all of them, less leaves it cut, none is nothing at all
	pause  time.Duration // before the answer begins

	mu   sync.Mutex
	seen [][]byte // the bodies of the attempts
}

// all is more pieces than any answer has.
const all = 1 << 20

func newProvider() *provider { return &provider{scripts: map[string]*script{}} }

// expect takes a script in; forget ends it.
func (p *provider) expect(s *script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	s.name = strconv.Itoa(p.last)
	p.scripts[s.name] = s
}

func (p *provider) forget(s *script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.scripts, s.name)
}

// Forward is Upstream's.
func (p *provider) Forward() []string { return []string{scriptHeader} }

func (*provider) Translate(*upstreams.Request) error { return nil }

// Chat is Upstream's.
func (p *provider) Chat(ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	p.mu.Lock()
	s := p.scripts[r.Header.Get(scriptHeader)]
	p.mu.Unlock()
	if s == nil {
		s = &script{answer: Saying{Role: "assistant", Parts: []string{"unscripted"}}, n: 1, comes: all}
	}
	s.mu.Lock()
	s.seen = append(s.seen, r.Body)
	s.mu.Unlock()
	if s.pause > 0 {
		select {
		case <-time.After(s.pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	switch {
	case r.Stream:
		return &upstreams.Answer{Status: 200, Stream: &stream{left: s.chunks(), good: s.whole()}}, nil
	case s.whole():
		return &upstreams.Answer{Status: 200, Body: s.body()}, nil
	default:
		return nil, errCut
	}
}

var errCut = fault.New(fault.Upstream, "the provider closed the connection").WithCode("upstream_reset")

// whole reports whether all of the answer comes.
func (s *script) whole() bool { return s.comes == all }

// text is what of the answer comes in a stream.
func (s *script) text() (parts []string) {
	text := ""
	for i, p := range s.pieces() {
		if i < s.comes {
			text += p
		}
	}
	if text == "" {
		return nil
	}
	return []string{text}
}

// pieces are the answer's text in pieces.
func (s *script) pieces() (list []string) {
	for _, p := range s.answer.Parts {
		for _, r := range p {
			list = append(list, string(r))
		}
	}
	return list
}

const usage = `"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}`

func (s *script) message() string {
	m := map[string]any{"role": "assistant", "content": nil, "refusal": nil, "annotations": []any{}}
	if len(s.answer.Parts) > 0 {
		m["content"] = s.answer.Parts[0]
	}
	if calls := s.calls(); calls != nil {
		m["tool_calls"] = calls
	}
	b, _ := json.Marshal(m)
	return string(b)
}

func (s *script) calls() (calls []map[string]any) {
	for i, c := range s.answer.Calls {
		calls = append(calls, map[string]any{
			"index": i, "id": c.ID, "type": "function", "function": map[string]string{"name": c.Name, "arguments": c.Args},
		})
	}
	return calls
}

func (s *script) body() []byte {
	choices := fmt.Sprintf(`{"index":0,"message":%s,"finish_reason":"stop"}`, s.message())
	for i := 1; i < s.n; i++ {
		choices += fmt.Sprintf(`,{"index":%d,"message":{"role":"assistant","content":"other"},"finish_reason":"stop"}`, i)
	}
	return fmt.Appendf(nil, `{"id":"c","object":"chat.completion","created":1,"model":"gpt-5-mini","choices":[%s],%s}`, choices, usage)
}

func (s *script) chunks() (list []string) {
	chunk := func(choices, more string) string {
		return fmt.Sprintf(`{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-5-mini","choices":[%s]%s}`, choices, more)
	}
	delta := func(i int, delta, finish string) string {
		return chunk(fmt.Sprintf(`{"index":%d,"delta":%s,"finish_reason":%s}`, i, delta, finish), "")
	}
	for i, p := range s.pieces() {
		if i == s.comes {
			return list
		}
		list = append(list, delta(0, `{"content":`+quote(p)+`}`, "null"))
	}
	if !s.whole() {
		return list
	}
	if calls := s.calls(); calls != nil {
		b, _ := json.Marshal(calls)
		list = append(list, delta(0, `{"tool_calls":`+string(b)+`}`, "null"))
	}
	for i := 1; i < s.n; i++ {
		list = append(list, delta(i, `{"content":"other"}`, "null"))
	}
	for i := range s.n {
		list = append(list, delta(i, "{}", `"stop"`))
	}
	return append(list, chunk("", ","+usage))
}

// stream is an answer in pieces.
type stream struct {
	left []string
	good bool
}

// Next is Stream's.
func (s *stream) Next() ([]byte, error) {
	if len(s.left) > 0 {
		c := s.left[0]
		s.left = s.left[1:]
		return []byte(c), nil
	}
	if s.good {
		return nil, io.EOF
	}
	return nil, errCut
}

// Close is Stream's.
func (s *stream) Close() error { return nil }
