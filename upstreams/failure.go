package upstreams

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Failure is what a failed Chat knows beyond its fault. It is found in the error by FailureOf, or by errors.As.
type Failure struct {
	Status     int           // the provider's HTTP status; 0 if there was none
	UpstreamID string        // the provider's request id, if it gave one
	Sent       bool          // bytes of the request may have reached the provider: it may have worked, and billed
	Stale      bool          // it went out on a kept connection that broke at once, without a byte of an answer: see stale
	RetryAfter time.Duration // how long the provider asked to be left alone
	Header     http.Header   // as Answer.Header
	Body       []byte        // an answer that carries an error, as OpenRouter gives with status 200, or an event that does: it may hold usage

	MaybeBilled bool // the provider may bill more than that usage tells: a piece of a long answer did not come, or a request after others
}

// Error says what is known in one line, for the log.
func (f *Failure) Error() string {
	text := "no answer"
	if f.Status != 0 {
		text = "status " + strconv.Itoa(f.Status)
	}
	if f.UpstreamID != "" {
		text += ", request " + f.UpstreamID
	}
	return text
}

// FailureOf returns what a failed Chat knows; an empty Failure for any other error, never nil.
func FailureOf(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{}
}

// failed is an error of Chat: err decides what the client sees and f goes along.
type failed struct {
	err error
	f   *Failure
}

func (e *failed) Error() string   { return e.err.Error() + " (" + e.f.Error() + ")" }
func (e *failed) Unwrap() []error { return []error{e.err, e.f} }
