package gateway

import (
	"context"
	"slices"
	"strconv"
	"time"

	"threadhub/calls"
	"threadhub/internal/fetch"
	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/metering/limits"
	"threadhub/openai"
	"threadhub/orgs"
	"threadhub/router/failover"
	"threadhub/threads"
	"threadhub/upstreams"
)

// exchange is one request for a model's work on its way through the gateway. Each field is set by the step named beside it
// and only read by later ones.
type exchange struct {
	id      id.Request  // arrival
	arrived time.Time   // arrival
	caller  orgs.Caller // authenticate

	gone   func() bool                      // arrival: whether the client has certainly left
	attend func() (context.Context, func()) // arrival: a context that ends when the client has left; call the function when it need not

	req        *openai.ChatRequest       // parse: what is asked for in a chat
	embed      *openai.EmbeddingsRequest // parse: what is to be embedded; one of the two is nil
	named      id.Thread                 // parse: the thread the request names; "": a plain call
	tags       map[string]string         // parse: what the client says that the request belongs to
	heads      map[string]string         // parse: its headers, names in lower case; only where rules may ask for them
	fork       bool                      // parse: a request that differs inside the thread goes on in a new one
	why        string                    // parse: why a provider was named, of a forward
	claim      string                    // parse: a hash of its Idempotency-Key; "": none
	retry      int                       // parse: which repeat it is without one, by the SDK's word; 0: none; take: or overtaken
	alike      id.Request                // parse, take: the call that it may repeat, as far as that has been looked at
	hash       [32]byte                  // parse: of what is asked
	threadless bool                      // parse: of embeddings, that name a thread all the same
	again      bool                      // parse: of a forward, that asks what was said last; load then makes req
	spare      bool                      // parse: rather a shorter answer than none, where a budget has too little left

	grant *limits.Grant // limit: what was taken of the call's limits; nil: it is under none
	rooms []limits.Room // limit: how they stand

	turn   *threads.Turn  // load; nil for a plain call
	thread id.Thread      // load: the one the turn is in, which a fork makes; "" for a plain call
	policy threads.Policy // load: what becomes of a history that does not fit
	leave  func()         // load: lets the next request of this process into the thread

	places      []place          // route: whom this may be asked, the best first
	tries       *failover.Call   // route: what follows when an attempt has ended
	unsupported upstreams.Policy // route: what becomes of what the provider cannot be told
	aim                          // route to translate: what is asked, and of whom

	files map[string]fetch.File // translate: what the request points to, by its address; none once the call is open

	budgets []metering.Budget // admit: those that it counts in
	atMost  int64             // admit: tokens that a budget leaves for the answer; 0: as many as are asked for

	opening *calls.Opening    // open
	booking *metering.Booking // open: what it holds in hard budgets; nil: none binds it
	over    []metering.Level  // open: those of them that had no room for it
	nearing []string          // open: warnings of budgets that are nearly used up
	tape    *calls.Tape       // open: what the client is given; nil if nobody can come back for it

	since  time.Time         // call: when the first attempt began
	asked  time.Time         // call: when the provider was asked
	began  time.Time         // call: when its answer began; zero if it never did
	answer *upstreams.Answer // call
	late   <-chan error      // call: tells when the first event of a stream has come; nil: it has, or there is none

	tried  []past         // attempts: those that ended without an answer, but for the last
	waited time.Duration  // attempts: for those
	unsure *calls.Further // attempts: one that was not made, as nobody knows whether it is recorded; nil: there is none

	first     time.Time           // relay: when the first piece of the answer came
	generated *openai.Accumulator // relay: what a stream brought so far
	told      [][2]string         // relay: what of the answer's header is told again to whoever repeats the request

	charge metering.Charge // record
	said   threads.Message // record: the answer as the thread keeps it, but for its place and time; zero for a plain call
}

// sent is the client's request, whatever it is for.
func (e *exchange) sent() *openai.Request {
	if e.embed != nil {
		return &e.embed.Request
	}
	return &e.req.Request
}

// kind is what the request is for, as calls name it.
func (e *exchange) kind() string {
	if e.embed != nil {
		return kindEmbeddings
	}
	return kindChat
}

// streams reports whether a stream is asked for.
func (e *exchange) streams() bool { return e.req != nil && e.req.Stream }

// viewer is the caller as threads knows one.
func (e *exchange) viewer() threads.Viewer { return viewerOf(e.caller) }

// warnings are what the client is warned of, each once.
func (e *exchange) warnings() []string {
	all := slices.Clone(e.untold)
	for _, w := range e.ask.Warnings {
		if !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	if e.atMost > 0 {
		all = append(all, loweredWarning)
	}
	return append(all, e.nearing...)
}

// attempt is the name of attempt n in both sides' logs.
func (e *exchange) attempt(n int) string { return string(e.id) + "-" + strconv.Itoa(n) }
