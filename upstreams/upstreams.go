// Package upstreams talks to the providers, one folder each. This file is the contract they share; upstreamstest is the
// suite every one of them passes.
//
// An upstream gets the request in the OpenAI dialect and answers in it: openai and openrouter pass bytes through, others
// translate. It promises that ending the context closes the provider's socket, that nothing is retried (but see Yielder),
// that no redirect is followed, that a stream ends with io.EOF only after the provider's own end marker, and that no
// provider key gets into an error. It leaves to others which provider to ask, what an answer costs, and every record of it.
package upstreams

import (
	"context"
	"io"
	"net/http"
	"time"

	"threadhub/internal/fetch"
	"threadhub/internal/seal"
)

// Request is one attempt at a provider. What it points to must never be changed again: a connection's writer may still
// be at it when Chat has returned.
type Request struct {
	Body    []byte      // the request in the OpenAI dialect, with the provider's own name for the model in it
	Model   string      // that name
	Stream  bool        // what Body asks for
	Inputs  int         // how many embeddings Body asks for: it bounds how large the answer may be
	Key     seal.Secret // the org's key at this provider
	Attempt string      // our name for the attempt, sent as X-Client-Request-Id so that both sides' logs can be compared
	Header  http.Header // the caller's headers that this provider understands (allow-listed by Forward); may be nil
	Since   time.Time   // when the first attempt for the same answer began: the patience is for all; zero: with this one
	Fresh   bool        // it takes a connection of its own, not one that was kept

	Unsupported Policy // what becomes of what of Body the provider cannot be told

	// Warnings name what of Body the provider is not told, as "dropped=seed;reason=…". Translate sets
	// them; Chat, or of a stream the Next that brings its end, may add what the answer turned out to lack.
	Warnings []string

	// Signatures of calls of functions in Body that the client did not send back. Translate names those it would need;
	// whoever knows some calls it again with them. What stays unknown is done without.
	Signatures Signatures

	// Files that Body points to, by their addresses; one without data cannot be had. Translate names those it would put in
	// in Links; whoever gets some calls it again with Files. What is not in Files is left to the provider.
	Files map[string]fetch.File
	Links []Link

	words  Wording // Translate: Body in the provider's own words; nil where those are Body's
	warned int     // how many of the warnings of words are in Warnings
}

// Wire is what the provider is sent, and where below its base URL, once r is translated.
func (r *Request) Wire() (path string, body []byte) {
	if r.words == nil {
		return "chat/completions", r.Body
	}
	return r.words.Path(), r.words.Body()
}

// Link is a file that a request points to.
type Link struct {
	URL   string
	Param string   // where it stands
	Types []string // what it may be: media types, or beginnings of them that end in a slash
	Past  bool     // it was said earlier in the conversation, which goes on without it if it cannot be had
}

// Upstream is one provider. Safe for concurrent use.
type Upstream interface {
	// Translate puts r into the provider's own words. It is called before Chat, and before anything is recorded, does no
	// I/O, and leaves Body as it is. Errors: fault.Invalid, with the parameter, for what cannot be carried and cannot be
	// left out.
	Translate(r *Request) error

	// Chat sends r and returns when the head of the provider's answer is there (streams) or all of it (whole). Errors are faults
	// whose Code is the contract's: upstream_unreachable, upstream_timeout, upstream_reset, upstream_protocol,
	// upstream_error, rate_limit_exceeded, or the provider's own for what the client must change; when ctx ends, its
	// cause. FailureOf tells more about each of them.
	Chat(ctx context.Context, r *Request) (*Answer, error)

	// Forward names the request headers of clients that are passed on, in canonical form.
	Forward() []string
}

// Tester is an Upstream that can tell whether a key is good, without a model at work. It is found by type assertion.
type Tester interface {
	// Test asks the provider for what only a good key gets, and waits for it ten seconds at most. Errors are those of
	// Chat; of a key that is no good, upstream_auth.
	Test(ctx context.Context, key seal.Secret) (Proof, error)
}

// Embedder is an Upstream that can embed. It is found by type assertion.
type Embedder interface {
	// TranslateEmbeddings is Translate for a request for embeddings.
	TranslateEmbeddings(r *Request) error

	// Embed is Chat for one. Its answer is always whole.
	Embed(ctx context.Context, r *Request) (*Answer, error)
}

// Lister is an Upstream that can tell which models there are. It is found by type assertion.
type Lister interface {
	// List asks the provider which models it has for whoever has the key. Nothing of its answer is taken on trust: names
	// that no model can have are left out, and so is what cannot be of what it tells of them. Errors are those of Chat.
	List(ctx context.Context, key seal.Secret) ([]Model, error)
}

// Proof is what a provider let see whoever has a good key.
type Proof struct {
	Status int  // its HTTP status
	Models int  // how many models it lists; below 0: it does not tell
	Narrow bool // the key may not do all: the provider knows it, and did not let it see its models
}

// Families is an Upstream whose models do not all understand what others of them left in a conversation (signatures of
// thoughts, above all). It is found by type assertion.
type Families interface {
	// Family names the models that do among themselves.
	Family(model string) string
}

// Translator is an Upstream that says whether its provider has words of its own: one that has none gets the client's bytes.
// It is found by type assertion.
type Translator interface {
	Translates() bool
}

// Strict is an Upstream that may refuse a message for what it does not know in it. It is found by type assertion.
type Strict interface {
	// Parts are the kinds of parts that a content may have, by the role of its message; nil: any, and any members.
	Parts() map[string][]string

	// Takes reports whether the model takes back a member of an answer that OpenAI's answers have not, by its name and
	// value (openai.ChatRequest.Shed).
	Takes(model, name string, value []byte) bool
}

// Several is an Upstream that may take several requests for one answer, as its models write no more in one. It is found by
// type assertion.
type Several interface {
	// Requests is how many there may be for one answer of the model.
	Requests(model string) int
}

// Answer is what a provider said. Close it once, also after an error of Next.
type Answer struct {
	Status     int         // the provider's HTTP status
	UpstreamID string      // the provider's own request id, if it gave one
	Header     http.Header // the provider's rate-limit headers and request id, as it named them; nothing else
	Body       []byte      // the whole answer, exactly as received; nil for a stream
	Stream     Stream      // the answer as it comes; nil for a whole one

	MaybeBilled bool // the provider may bill more than a whole answer tells: a piece of it did not come
}

// Stream is an answer in pieces. Not safe for concurrent use, but for Close.
type Stream interface {
	// Next returns the payload of the next data event: one JSON chunk of the OpenAI dialect, good until the next
	// call. io.EOF means the provider ended the stream with its end marker. Any other error is a fault:
	// upstream_truncated, upstream_reset, upstream_stalled, upstream_protocol, upstream_oversize, or the code of an
	// error the provider put into the stream. What is known of the usage of an answer that broke comes before it.
	Next() ([]byte, error)
	io.Closer
}
