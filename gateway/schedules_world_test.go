package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"

	"threadhub/calls"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/metering"
	"threadhub/orgs"
	routing "threadhub/router"
	"threadhub/router/failover"
	"threadhub/threads"
	"threadhub/upstreams"
)

// gated is the store as one process sees it.
type gated struct {
	db.Store
	p  *play
	pr *proc
}

var (
	errStoreAway    = fault.New(fault.Unavailable, "the schedule says so").WithCode("storage_unavailable")
	errStoreUnknown = fault.New(fault.Unavailable, "the schedule says so").WithCode("outcome_unknown")
)

// Commit is db.Store's. A unit of which it is not known what became of it is run again behind the first, as the store does.
func (s *gated) Commit(ctx context.Context, u *db.Unit) error {
	what, unknown := s.p.unit(s.pr, u), errStoreUnknown
	if u.Record {
		unknown = errStoreAway
	}
	v, _ := s.p.wait(s.pr, what, true, nil)
	if v == refused {
		return errStoreAway
	}
	s.p.land(what)
	do := func() error { return s.Store.Commit(context.WithoutCancel(ctx), u) }
	switch v {
	case silent:
		_ = do()
		return unknown
	case late:
		s.p.limbo = append(s.p.limbo, limbo{what, func() { _ = do() }})
		return unknown
	}
	err := do()
	if err != nil {
		s.p.say("%s: %v", what, err)
	}
	return err
}

// land carries out what may still come of the same unit.
func (p *play) land(what string) {
	for i, l := range p.limbo {
		if l.what == what {
			p.limbo = slices.Delete(p.limbo, i, i+1)
			l.do()
			return
		}
	}
}

// unit names a unit by what it is and which call it is of.
func (p *play) unit(pr *proc, u *db.Unit) (what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var of id.Request
	set := func(name string, call id.Request) {
		if what == "" {
			what, of = name, call
		}
	}
	u.Rows(schedulesStages, func(_ string, row any) {
		switch r := row.(type) {
		case *calls.Opening:
			set("OPEN", r.ID)
			if p.calls[r.ID] == nil {
				p.calls[r.ID] = &seenCall{n: len(p.order), pr: pr, asked: map[int]bool{}, tokens: map[int][2]int64{}}
				p.order = append(p.order, r.ID)
			}
		case *calls.Closing:
			what, of = "RECORD", r.ID
			if r.RecordID != string(r.ID) {
				what = "SETTLE"
			}
		case *calls.Further:
			set("ATTEMPT "+strconv.Itoa(r.N), r.ID)
		case *calls.Taking:
			what, of = "TAKE", r.Of.ID
		case *metering.Line:
			set("LATE", r.Call)
		}
	})
	p.seen[what]++
	return fmt.Sprintf("%s %d", what, p.calls[of].n)
}

// schedulesStages tell the names of stages; those of each process have the same places.
var schedulesStages = stagesOf(calls.New(), threads.New(), metering.New())

func stagesOf(c *calls.Store, t *threads.Store, l *metering.Ledger) []db.Stage {
	shut, ended := c.RecordStages()
	opened, begun := c.OpenStages()
	all := slices.Concat(shut, t.RecordStages(), []db.Stage{l.Stage()}, ended, opened, t.OpenStages(), begun)
	db.Order(all)
	return all
}

func (s *gated) asks(what string, do func() error) error {
	switch v, _ := s.p.wait(s.pr, what, true, nil); v {
	case granted:
		return do()
	default:
		return errStoreAway
	}
}

func (s *gated) changes(what string, do func() error) error {
	switch v, _ := s.p.wait(s.pr, what, true, nil); v {
	case granted:
		return do()
	case silent:
		_ = do()
		return errStoreUnknown
	default:
		return errStoreAway
	}
}

func (s *gated) Query(ctx context.Context, org id.Org, qs ...db.Query) error {
	return s.asks("query", func() error { return s.Store.Query(ctx, org, qs...) })
}

func (s *gated) Walk(ctx context.Context, f func(db.Tx) error) error {
	return s.asks("walk", func() error { return s.Store.Walk(ctx, f) })
}

func (s *gated) Write(ctx context.Context, org id.Org, f func(db.Tx) error) error {
	return s.changes("write", func() error { return s.Store.Write(ctx, org, f) })
}

func (s *gated) Common(ctx context.Context, f func(db.Tx) error) error {
	return s.changes("common", func() error { return s.Store.Common(ctx, f) })
}

// start brings up a process.
func (p *play) start(slot int) {
	pr := &proc{p: p, slot: slot, seed: p.r.Uint64(), panics: contain.New(p.log)}
	pr.ctx, pr.cancel = context.WithCancel(context.Background())
	p.procs[slot] = pr
	go pr.run()
}

func (pr *proc) run() {
	store := &gated{pr.p.base, pr.p, pr}
	c, t, l := calls.New(), threads.New(), metering.New()
	stagesOf(c, t, l)
	c.Use(store)
	t.Use(store)
	var err error
	for pr.lease == nil {
		if pr.lease, err = c.TakeLease(pr.ctx, calls.LeaseOptions{Panics: pr.panics}); err != nil {
			pause(pr.ctx, time.Second)
		}
	}
	o := scheduled()
	o.Log, o.Store, o.Calls, o.Threads, o.Ledger, o.Owner, o.Panics, o.Spool = pr.p.log, store, c, t, l, pr.lease.Owner(), pr.panics, pr.p.spools[pr.slot]
	o.Upstreams = map[string]upstreams.Upstream{"openai": &oracle{pr}}
	o.Failover = failover.Options{Rand: rand.New(rand.NewPCG(pr.seed, 3))}
	pr.g = New(o)
	_ = pr.g.Recover()
	pr.g.backlog.resume()
	pr.settler = &Settler{Store: store, Calls: c, Threads: t, Ledger: l, Catalogue: o.Catalogue, Lease: pr.lease, Log: o.Log, Panics: pr.panics, AtOnce: 1}
	pr.ready = true
	pr.settler.Run(pr.ctx)
}

// scheduled are the options of every process but for what is its own.
var scheduled = sync.OnceValue(func() Options {
	catalogue, err := metering.Embedded()
	if err != nil {
		panic(err)
	}
	return Options{
		Orgs: fakeOrgs{}, Purse: twoKeys{}, Catalogue: catalogue,
		Router: routing.New(routing.Options{Catalogue: catalogue, Providers: []string{"openai"}}),
	}
})

// twoKeys is a purse with two keys for every provider.
type twoKeys struct{}

func (twoKeys) KeyNames(context.Context, id.Org, string) ([]orgs.KeyName, error) {
	return []orgs.KeyName{{Name: "one"}, {Name: "two"}}, nil
}

func (twoKeys) NamedKey(_ context.Context, _ id.Org, _, name string) (seal.Secret, error) {
	return seal.NewSecret("sk-" + name), nil
}

func (twoKeys) HasProviderKey(context.Context, id.Org) (map[string]bool, error) {
	return map[string]bool{"openai": true}, nil
}

// What a provider does where it is not granted an answer.
const (
	bounds      = refused
	fails       = silent
	resets      = late
	unreachable = other
)

// oracle is the provider of one process.
type oracle struct{ pr *proc }

func (*oracle) Translate(*upstreams.Request) error { return nil }
func (*oracle) Forward() []string                  { return nil }

// Chat is Upstream's.
func (o *oracle) Chat(ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	name, num, _ := strings.Cut(r.Attempt, "-")
	n, _ := strconv.Atoi(num)
	c := o.pr.p.asked(id.Request(name), n)
	v, waited := o.pr.p.wait(o.pr, fmt.Sprintf("ask %d-%d", c.n, n), false, ctx.Done())
	if !waited {
		return nil, context.Cause(ctx)
	}
	failed := func(kind fault.Kind, code string, f upstreams.Failure) (*upstreams.Answer, error) {
		return nil, errors.Join(fault.New(kind, "the schedule says so").WithCode(code), &f)
	}
	switch v {
	case bounds:
		return failed(fault.RateLimited, "rate_limit_exceeded", upstreams.Failure{Status: 429, Sent: true, RetryAfter: time.Duration(n) * time.Second})
	case fails:
		return failed(fault.Upstream, "upstream_error", upstreams.Failure{Status: 500, Sent: true})
	case resets:
		c.unsafe = true
		return failed(fault.Upstream, "upstream_reset", upstreams.Failure{Sent: true})
	case unreachable:
		return failed(fault.Upstream, "upstream_unreachable", upstreams.Failure{})
	}
	s := &saying{pr: o.pr, c: c, n: n, closed: make(chan struct{})}
	for i := range 2 + c.n%2 {
		s.pieces = append(s.pieces, fmt.Sprintf("%d.%d.%d ", c.n, n, i))
	}
	if r.Stream {
		return &upstreams.Answer{Status: 200, Stream: s}, nil
	}
	c.tokens[n] = [2]int64{promptTokens, int64(len(s.pieces))}
	return &upstreams.Answer{Status: 200, Body: fmt.Appendf(nil,
		`{"id":"c","object":"chat.completion","created":1,"model":"gpt-5-mini","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],%s}`,
		strings.Join(s.pieces, ""), s.usage())}, nil
}

const promptTokens = 10

// saying is an answer in pieces.
type saying struct {
	pr     *proc
	c      *seenCall
	n      int
	pieces []string
	at     int
	once   sync.Once
	closed chan struct{}
}

func (s *saying) usage() string {
	return fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, promptTokens, len(s.pieces), promptTokens+len(s.pieces))
}

// Next is Stream's.
func (s *saying) Next() ([]byte, error) {
	v, waited := s.pr.p.wait(s.pr, fmt.Sprintf("next %d-%d", s.c.n, s.n), false, s.closed)
	s.c.broke = s.c.broke || waited && v == other
	if !waited || v == other {
		return nil, fault.New(fault.Upstream, "the schedule says so").WithCode("upstream_reset")
	}
	const head = `{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-5-mini","choices":[`
	s.at++
	switch i := s.at - 1; {
	case i < len(s.pieces):
		return fmt.Appendf(nil, head+`{"index":0,"delta":{"content":%q},"finish_reason":null}]}`, s.pieces[i]), nil
	case i == len(s.pieces):
		s.c.tokens[s.n] = [2]int64{promptTokens, int64(len(s.pieces))}
		return []byte(head + `{"index":0,"delta":{},"finish_reason":"stop"}],` + s.usage() + `}`), nil
	}
	return nil, io.EOF
}

// Close is Stream's.
func (s *saying) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// client sends one request and reads its answer.
type client struct {
	p    *play
	n    int
	pr   *proc
	text string

	thread, key   string
	stream, retry bool

	began, done bool
	cut         bool // the connection, by the client or with the process
	status      int
	call        id.Request
	raw         []byte
	read        int    // of raw
	seen        string // of the answer
	code        string // of an error
	whole       bool   // the answer is complete, as far as the client was told
}

// leaves is what a client does where it is not granted to read on.
const leaves = other

func (c *client) run() {
	defer func() { c.done = true }()
	rc := new(fasthttp.RequestCtx)
	rc.Init2(deaf{}, quietLogger{c.pr.g.opts.Log}, false)
	h := &rc.Request.Header
	h.SetMethod("POST")
	rc.Request.SetRequestURI("/v1/chat/completions")
	h.Set("Authorization", "Bearer "+memberKey)
	h.SetContentType("application/json")
	for name, value := range map[string]string{"X-Thread-Id": c.thread, "Idempotency-Key": c.key} {
		if value != "" {
			h.Set(name, value)
		}
	}
	if c.retry {
		h.Set("X-Stainless-Retry-Count", "1")
	}
	rc.Request.SetBodyString(fmt.Sprintf(`{"model":"openai/gpt-5-mini","stream":%t,"messages":[{"role":"user","content":%q}]}`, c.stream, c.text))
	c.pr.g.serve(rc)
	for i, b := 0, rc.Request.Body(); i < len(b); i++ {
		b[i] = 'x' // as the next request on the connection would, were it still fasthttp's
	}
	c.status, c.call = rc.Response.StatusCode(), id.Request(rc.Response.Header.Peek("X-Request-Id"))
	if !rc.Response.IsBodyStream() {
		c.take(rc.Response.Body())
		return
	}
	buf := make([]byte, 512)
	for {
		if v, _ := c.p.wait(c.pr, fmt.Sprintf("read %d", c.n), false, nil); v == leaves {
			c.cut = true
			break
		}
		n, err := rc.Response.BodyStream().Read(buf)
		c.take(buf[:n])
		if err != nil {
			break
		}
	}
	_ = rc.Response.CloseBodyStream()
}

// take hears a piece of the answer.
func (c *client) take(b []byte) {
	if c.cut {
		return
	}
	c.raw = append(c.raw, b...)
	var events []string
	if c.raw[0] == '{' {
		events = []string{string(c.raw)}
	} else if end := bytes.LastIndex(c.raw, []byte("\n\n")); end >= c.read {
		for line := range strings.Lines(string(c.raw[c.read : end+2])) {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				events = append(events, strings.TrimSpace(data))
			}
		}
		c.read = end + 2
	}
	for _, e := range events {
		if e == "[DONE]" {
			c.whole = true
			continue
		}
		if !gjson.Valid(e) {
			c.p.say("client %d was told %q", c.n, e)
		}
		if code := gjson.Get(e, "error.code"); code.Exists() {
			c.code = code.Str
		}
		c.seen += gjson.Get(e, "choices.0.delta.content").Str + gjson.Get(e, "choices.0.message.content").Str
	}
	if c.raw[0] == '{' && c.status == 200 && c.code == "" {
		c.whole = true
	}
	c.p.heard(c)
}

// deaf is a connection to a client of which nothing is known.
type deaf struct{ net.Conn }

func (deaf) Write(p []byte) (int, error)      { return len(p), nil }
func (deaf) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (deaf) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (deaf) Close() error                     { return nil }
func (deaf) SetDeadline(time.Time) error      { return nil }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }
