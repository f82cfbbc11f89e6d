package upstreams

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
)

// Dialect is what one provider does in its own way.
type Dialect struct {
	Provider string   // "openai"
	BaseURL  string   // its own address, when Options name no other
	Forward  []string // headers of clients that are passed on, in canonical form
	Answer   []string // its headers that are kept in Answer.Header, in canonical form; a final * stands for any rest
	IDs      []string // those of them that may be its name for the request: the first that is there
	Check    KeyCheck
	List     List
	Parts    map[string][]string // Strict's

	// What a provider that speaks another dialect has of its own. nil: as OpenAI.
	Translate  func(*Request) (Words, error)
	Embeddings func(*Request) (Wording, error) // Translate of a request for embeddings
	Authorize  func(h http.Header, key string) // puts the key where the provider looks for it
	Family     func(model string) string       // Families'; nil: all its models understand each other
	Requests   func(model string) int          // Several's; nil: one for each answer

	// Takes is Strict's. nil: all, or none where there are Parts.
	Takes func(model, name string, value []byte) bool

	// What the operator wants of chats at a provider that speaks the dialect of OpenAI. nil: nothing.
	Introduce func(h http.Header)        // adds headers to a request for an answer, with those of the client in it
	Ask       func(body []byte) []byte   // the request that is sent for body, which it leaves alone
	Said      func(answer []byte) []byte // what is told of a whole answer, or of a chunk
}

// Client asks a provider. It is its Upstream, and safe for concurrent use.
type Client struct {
	dialect   Dialect
	options   Options
	base      *url.URL
	transport *http.Transport
	fresh     *http.Transport // takes a connection of its own for each request
}

// NewClient returns a client of the provider. It connects to nothing yet. It fails on a base URL that is none.
func NewClient(d Dialect, o Options) (*Client, error) {
	o = o.withDefaults()
	text := o.BaseURL
	if text == "" {
		text = d.BaseURL
	}
	base, err := parseBase(text)
	if err != nil {
		return nil, err
	}
	// net/http repeats a GET that met a kept connection as it broke: here nothing is asked twice.
	fresh := newTransport(o)
	fresh.DisableKeepAlives = true
	return &Client{dialect: d, options: o, base: base, transport: newTransport(o), fresh: fresh}, nil
}

func newTransport(o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial(dialer),
		TLSHandshakeTimeout:    o.ConnectTimeout,
		TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        45 * time.Second, // less than the minute after which common edges close
		MaxResponseHeaderBytes: o.MaxHeader,
		ForceAttemptHTTP2:      true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: 256 << 10, // what a slow client can make us hold of its answer
			SendPingTimeout:           15 * time.Second,
			PingTimeout:               15 * time.Second,
		},
	}
}

// Translate is Upstream's.
func (c *Client) Translate(r *Request) error {
	if c.dialect.Translate == nil {
		return nil
	}
	words, err := c.dialect.Translate(r)
	if err != nil {
		return err
	}
	r.words = words
	r.warn()
	return nil
}

// TranslateEmbeddings is Embedder's.
func (c *Client) TranslateEmbeddings(r *Request) error {
	if c.dialect.Embeddings == nil {
		return nil
	}
	words, err := c.dialect.Embeddings(r)
	if err != nil {
		return err
	}
	r.words = words
	r.warn()
	return nil
}

// Translates is Translator's.
func (c *Client) Translates() bool { return c.dialect.Translate != nil }

// Family is Families'.
func (c *Client) Family(model string) string {
	if c.dialect.Family == nil {
		return ""
	}
	return c.dialect.Family(model)
}

// Parts is Strict's.
func (c *Client) Parts() map[string][]string { return c.dialect.Parts }

// Takes is Strict's.
func (c *Client) Takes(model, name string, value []byte) bool {
	if c.dialect.Takes == nil {
		return c.dialect.Parts == nil
	}
	return c.dialect.Takes(model, name, value)
}

// Requests is Several's.
func (c *Client) Requests(model string) int {
	if c.dialect.Requests == nil {
		return 1
	}
	return c.dialect.Requests(model)
}

// Forward is Upstream's.
func (c *Client) Forward() []string { return c.dialect.Forward }

// Close lets go of the connections that nobody uses. Calls under way are their callers' to end.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// call is one request at a provider and, if it is a stream, its answer.
type call struct {
	client *Client
	via    *http.Transport
	ctx    context.Context // ends with the caller's, or by the watch, or by Close
	watch  *watch
	key    string
	most   int64                // bytes of a whole answer that are taken
	embeds bool                 // it asks for embeddings
	reads  bool                 // it asks nobody
	sent   atomic.Bool          // a connection was ours: bytes may have left
	heard  atomic.Bool          // a byte of an answer has come
	conn   atomic.Pointer[conn] // what the request went out on, once sent
	kept   atomic.Int64         // when that was, in nanoseconds since the start, if it was a kept connection of HTTP/1; else 0
	http2  bool
	said   complaint // what the provider said was wrong

	Failure // filled as things become known
}

// Chat is Upstream's.
func (c *Client) Chat(ctx context.Context, r *Request) (*Answer, error) {
	patience := c.options.HeaderTimeout
	if !r.Stream {
		patience = c.options.WholeTimeout
	}
	return c.begin(ctx, r.Key, c.via(r), r.left(patience), c.options.MaxBody).ask(r, "chat/completions")
}

// via is what r goes out by.
func (c *Client) via(r *Request) *http.Transport {
	if r.Fresh {
		return c.fresh
	}
	return c.transport
}

// left is what is left of patience to an attempt that need not be the first.
func (r *Request) left(patience time.Duration) time.Duration {
	if r.Since.IsZero() {
		return patience
	}
	return max(patience-time.Since(r.Since), time.Millisecond)
}

// maxEmbedding is how many bytes of an answer one embedding may take: 4,096 numbers of 32 digits each.
const maxEmbedding = 4096 * 32

// Embed is Embedder's. No model thinks before it embeds, so the patience with each request is that for a stream.
func (c *Client) Embed(ctx context.Context, r *Request) (*Answer, error) {
	k := c.begin(ctx, r.Key, c.via(r), r.left(c.options.HeaderTimeout), 1<<20+int64(r.Inputs)*maxEmbedding)
	k.embeds = true
	return k.ask(r, "embeddings")
}

// Read is Chat where nobody needs to be asked: the answer is in response, a recording above all. It closes the body.
func (c *Client) Read(ctx context.Context, r *Request, response *http.Response) (*Answer, error) {
	k := c.begin(ctx, r.Key, c.transport, c.options.HeaderTimeout, c.options.MaxBody)
	k.reads = true
	return k.ended(k.receive(response, r))
}

// ended is what Chat returns. A call goes on only for as long as its stream does.
func (k *call) ended(answer *Answer, err error) (*Answer, error) {
	if err != nil || answer.Stream == nil {
		k.end(nil)
	}
	if err != nil {
		return nil, k.failed(err)
	}
	return answer, nil
}

// begin makes a call whose answer has to begin within patience, and holds at most so many bytes where it is whole.
func (c *Client) begin(ctx context.Context, key seal.Secret, via *http.Transport, patience time.Duration, most int64) *call {
	ctx, cancel := context.WithCancelCause(ctx)
	k := &call{client: c, via: via, key: key.Reveal(), most: most}
	k.watch = newWatch(cancel, patience, c.options.TotalTimeout, c.options.Panics)
	k.ctx = httptrace.WithClientTrace(ctx, k.trace())
	return k
}

// failed is err with what is known of the call.
func (k *call) failed(err error) error {
	k.Sent = k.sent.Load()
	return &failed{err, &k.Failure}
}

// end stops the watch and ends the context; a body still open loses its connection.
func (k *call) end(body io.Closer) {
	k.watch.stop()
	k.watch.cancel(ErrClosed)
	if body != nil {
		body.Close()
	}
}

var errManyHeaders = errors.New("more informational answers than anybody needs")

func (k *call) trace() *httptrace.ClientTrace {
	informational := 0
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			k.conn.Store(connOf(info.Conn))
			k.kept.Store(0)
			if info.Reused && !overHTTP2(info.Conn) {
				k.kept.Store(max(1, int64(time.Since(k.watch.start))))
			}
			k.sent.Store(true)
		},
		GotFirstResponseByte: func() { k.heard.Store(true) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if informational++; informational > 10 {
				return errManyHeaders
			}
			return nil
		},
	}
}

// do sends request. r is what it asks, nil if that is not for a model's answer.
func (k *call) do(request *http.Request, r *Request) (*Answer, error) {
	response, err := k.trip(request) //nolint:bodyclose // receive, or the stream it makes, sees to that
	if err != nil {
		return nil, err
	}
	return k.receive(response, r)
}

// trip sends request and returns when the header of its answer is there.
func (k *call) trip(request *http.Request) (*http.Response, error) {
	// The transport itself, not an http.Client: no redirects, no cookies, and errors that do not quote the URL.
	response, err := k.via.RoundTrip(request)
	if err != nil {
		return nil, k.unanswered(err)
	}
	return response, nil
}

// look notes what the header of an answer tells.
func (k *call) look(response *http.Response) {
	k.watch.within(k.client.options.IdleTimeout)
	k.http2 = response.ProtoMajor == 2
	k.Status = response.StatusCode
	k.Header = k.client.keep(response.Header, k.key)
	k.UpstreamID = k.client.requestID(k.Header)
}

// receive takes the answer whose header has come.
func (k *call) receive(response *http.Response, r *Request) (*Answer, error) {
	k.look(response)
	answer := &Answer{Status: k.Status, UpstreamID: k.UpstreamID, Header: k.Header}
	stream := r != nil && r.Stream
	var err error
	if response.StatusCode == http.StatusOK && stream && isEventStream(response.Header) {
		answer.Stream, err = k.stream(response, r)
	} else {
		answer.Body, err = k.whole(response, stream)
		switch said := k.client.dialect.Said; {
		case r == nil:
		case r.words != nil:
			answer.Body, err = k.wholeTranslated(r, answer.Body, err)
			answer.MaybeBilled = k.MaybeBilled
		case err == nil && said != nil && !k.embeds:
			answer.Body = said(answer.Body)
		}
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// ask sends r to path, or where its words say, and ends the call unless its answer is a stream.
func (k *call) ask(r *Request, path string) (*Answer, error) {
	return k.ended(k.send(r, path))
}

func (k *call) send(r *Request, path string) (*Answer, error) {
	request, err := k.asking(r, path)
	if err != nil {
		return nil, err
	}
	answer, err := k.do(request, r)
	if err == nil || k.Status != http.StatusBadRequest {
		return answer, err
	}
	if ours, ok := r.words.(Yielder); !ok || !ours.Yield() {
		return nil, err
	}
	k.client.options.Log.Warn("the provider refused a request that held something of ours; it is asked again without",
		"provider", k.client.dialect.Provider, "upstream_id", k.UpstreamID)
	response, err := k.again(r) //nolint:bodyclose // as in do
	if err != nil {
		return nil, err
	}
	return k.receive(response, r)
}

// asking is the request for r, at path or where its words say.
func (k *call) asking(r *Request, path string) (*http.Request, error) {
	body := r.Body
	switch {
	case r.words != nil:
		path, body = r.Wire()
	case k.client.dialect.Ask != nil && !k.embeds:
		body = k.client.dialect.Ask(body)
	}
	request, err := k.request(http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	h := request.Header
	for _, name := range k.client.dialect.Forward {
		if v := r.Header.Get(name); v != "" && len(v) <= maxForward && printable(v) {
			h[name] = []string{v}
		}
	}
	if k.client.dialect.Introduce != nil {
		k.client.dialect.Introduce(h)
	}
	if r.Stream {
		h["Accept"] = []string{"text/event-stream"}
	}
	h["Content-Type"] = []string{"application/json"}
	if r.Attempt != "" && printable(r.Attempt) {
		h["X-Client-Request-Id"] = []string{r.Attempt}
	}
	return request, nil
}

// request is one with the key, for what stands at path, with its query, below the base.
func (k *call) request(method, path string, body io.Reader) (*http.Request, error) {
	if k.key == "" || !printable(k.key) {
		return nil, k.client.keyRejected("has characters that no key has")
	}
	path, query, _ := strings.Cut(path, "?")
	to := k.client.base.JoinPath(path)
	to.RawQuery = query
	request, err := http.NewRequestWithContext(k.ctx, method, to.String(), body)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the request to the provider could not be made").WithCode("internal_error")
	}
	h := request.Header
	h["Accept"] = []string{"application/json"}
	h["Accept-Encoding"] = []string{"identity"}
	if k.client.dialect.Authorize != nil {
		k.client.dialect.Authorize(h, k.key)
	} else {
		h["Authorization"] = []string{"Bearer " + k.key}
	}
	h["User-Agent"] = []string{"threadhub"}
	return request, nil
}

// unanswered is the fault of a request that got no header of an answer.
func (k *call) unanswered(err error) error {
	if cause := context.Cause(k.ctx); cause != nil {
		return k.givenUp(cause, fault.Timeout, "upstream_timeout", "did not begin to answer in time")
	}
	c := k.client
	switch {
	case !k.sent.Load():
		return c.fault(fault.Upstream, err, "upstream_unreachable", "cannot be reached")
	case k.heard.Load() && !isCut(err) && !k.conn.Load().isBroken():
		// net/http quotes what it cannot read, and a provider may have put anything there.
		return c.fault(fault.Upstream, errors.New(scrub(unquoted(err), k.key)), "upstream_protocol", "sent something that is no answer in HTTP")
	default:
		k.Stale = k.stale()
		return c.fault(fault.Upstream, err, "upstream_reset", "closed the connection before it answered")
	}
}

// stalePrompt is how soon after a request a connection breaks that had been closed before: a round trip, and some.
const stalePrompt = time.Second

// stale reports whether the connection that broke had been kept from an earlier request, and was closed by the provider
// before it read this one: no byte came, and it broke as soon as it was written to. A provider that reads a request and dies
// of it at once looks the same, and only that.
func (k *call) stale() bool {
	sent := time.Duration(k.kept.Load())
	return sent > 0 && !k.heard.Load() && time.Since(k.watch.start)-sent < stalePrompt
}

// givenUp is the error of a call whose context ended, for cause: silence as the caller says, the other reasons of ours,
// or what the caller's own context gave.
func (k *call) givenUp(cause error, silence fault.Kind, code, text string) error {
	switch {
	case errors.Is(cause, errSilent):
		return k.client.fault(silence, cause, code, text)
	case errors.Is(cause, errExpired):
		return k.client.fault(fault.Timeout, cause, "deadline", "took longer than one call may take")
	}
	return cause
}

// fault is an error of this provider, in words for the client. It never is io.EOF, whatever caused it: that would be the
// good end of a stream to whoever asks by errors.Is.
func (c *Client) fault(kind fault.Kind, cause error, code, text string) *fault.Error {
	if errors.Is(cause, io.EOF) {
		cause = errors.New(cause.Error())
	}
	return fault.Wrap(kind, cause, "%s %s", c.dialect.Provider, text).WithCode(code)
}

// broke reports whether err, met in the body of an answer, is a broken connection. The errors of a stream of HTTP/2 have
// no types to tell them by; but there is little else to go wrong, as the framing is not in the body.
func (k *call) broke(err error) bool { return k.http2 || isCut(err) }

// unquoted is the text of an error up to what it quotes of the provider, which may be what the provider was asked.
func unquoted(err error) string {
	text, _, _ := strings.Cut(err.Error(), `"`)
	return strings.TrimSpace(text)
}
