// Package fault says what kind of failure an error is, so that one table at the edge can decide what the client sees
// and nobody reads error text.
//
// A room that fails for a reason it understands returns a *fault.Error; any other error is Internal: logged, its text
// withheld. The message is written for the client and says what to change; the wrapped cause is for the log and is
// never sent.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what went wrong, in the terms of the one who asked. The zero Kind is Internal.
type Kind uint8

// The kinds, with the HTTP status the edge gives each of them.
const (
	Internal     Kind = iota // 500: ours, and unexpected
	Invalid                  // 400: the request must change
	Unauthorized             // 401: no such key
	Payment                  // 402: over a budget
	Denied                   // 403: the caller's role, in the caller's own org, or the org's standing with a provider; never for foreign things
	NotFound                 // 404: absent, or somebody else's: the two look alike
	Method                   // 405
	Slow                     // 408: the client took too long to send
	Conflict                 // 409: right request, wrong moment
	Gone                     // 410: it was there, and is kept no longer
	TooLarge                 // 413
	MediaType                // 415
	Reused                   // 422: one idempotency key, two bodies
	RateLimited              // 429: our limit or the provider's
	Upstream                 // 502: the provider failed
	Unavailable              // 503: a part of ours is down or full
	Timeout                  // 504: the provider said nothing in time
)

// Error is a failure with a kind. Build one with New or Wrap.
type Error struct {
	Kind    Kind
	Code    string        // the OpenAI error object's code, a contract with clients: "thread_locked"
	Param   string        // the request member at fault, if one is
	Message string        // for the client
	Retry   time.Duration // how long to wait before a repeat; 0: say nothing
	Final   bool          // a repeat cannot help: SDKs are told not to retry
	Details any           // more of it for programs, as a member "details" of the error object; nil: nothing
	cause   error
}

// New returns an error of kind k whose message the client will read.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Wrap is New with a cause that is logged and never sent.
func Wrap(k Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...), cause: cause}
}

// WithCode sets the machine-readable code.
func (e *Error) WithCode(code string) *Error { e.Code = code; return e }

// WithParam names the request member at fault.
func (e *Error) WithParam(param string) *Error { e.Param = param; return e }

// After says how long the client should wait before it tries again.
func (e *Error) After(d time.Duration) *Error { e.Retry = d; return e }

// NoRetry says that trying again cannot help.
func (e *Error) NoRetry() *Error { e.Final = true; return e }

// WithDetails adds what programs may want to know of it.
func (e *Error) WithDetails(v any) *Error { e.Details = v; return e }

// Error is for the log: it holds the cause.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Message
	}
	return e.Message + ": " + e.cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// From returns err as an *Error: itself, or an Internal one that wraps it. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Code: "internal_error", Message: "the gateway failed; the request id helps us find out why", cause: err}
}

// Is reports whether err is a fault of kind k. An error without a kind is Internal.
func Is(err error, k Kind) bool { return err != nil && From(err).Kind == k }

// HasCode reports whether err is a fault with this code.
func HasCode(err error, code string) bool { return err != nil && From(err).Code == code }
