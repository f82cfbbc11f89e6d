package upstreams

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seedbug"
	"threadhub/internal/sse"
	"threadhub/openai"
)

// What is done with a connection whose stream has ended well: a little more is read of it, for a little while, so that it
// can serve the next request. Usually the end is there already.
const (
	drainBytes = 4 << 10
	drainTime  = 50 * time.Millisecond
)

var endMark = []byte("[DONE]")

// stream is an answer as it comes. The bytes are read in the goroutine that calls Next.
type stream struct {
	k      *call
	events *sse.Reader
	ask    *Request
	words  Words    // ask's, of a provider that speaks another dialect; nil: it does not
	early  [][]byte // what Begin took
	chunks [][]byte // translated, and not yet returned
	said   []byte   // what the provider said was wrong, as it came; nil: nothing
	used   bool     // of a stream that broke, what it took has been asked for
	err    error    // what Next returns from now on
	done   atomic.Bool
	close  sync.Once

	mu     sync.Mutex
	body   io.ReadCloser // another one where an answer goes on
	closed bool
}

func (k *call) stream(response *http.Response, r *Request) (Stream, error) {
	from, err := k.decode(response)
	if err != nil {
		response.Body.Close()
		return nil, k.unread(err, false)
	}
	words, _ := r.words.(Words)
	return &stream{k: k, body: response.Body, events: k.client.events(from), ask: r, words: words}, nil
}

func (c *Client) events(from io.Reader) *sse.Reader {
	if seedbug.On("no-line-limit") {
		return sse.NewReader(from, 1<<30)
	}
	return sse.NewReader(from, c.options.MaxLine)
}

// Ready reports whether Next would return without waiting for the provider: a relay asks before it flushes. It may be
// found by type assertion, and leaves the last payload alone.
func (s *stream) Ready() bool {
	return len(s.early) > 0 || s.err != nil || len(s.chunks) > 0 || s.events.Ready()
}

// Warnings are the request's and those that the answer gave rise to so far. They may be found by type assertion.
func (s *stream) Warnings() []string {
	if s.words == nil {
		return nil
	}
	return s.words.Warnings()
}

// Next is Stream's.
func (s *stream) Next() (payload []byte, err error) {
	if len(s.early) > 0 {
		payload, s.early = s.early[0], s.early[1:]
	} else {
		payload, err = s.read()
	}
	if s.err != nil && s.words != nil {
		s.ask.warn()
	}
	return payload, err
}

// Begin waits for the first event, which Next then returns. A stream that ends before it, or by it, or that nobody can read
// from its beginning, has failed as Chat does, and its error is Chat's; Next then tells the same in its own way. It leaves
// the request alone, so others may look at that meanwhile. It may be found by type assertion.
func (s *stream) Begin() error {
	var got openai.Accumulator
	var usage []byte
	for {
		payload, err := s.read()
		if err != nil {
			return s.unbegun(err, usage)
		}
		chunk, err := got.Add(payload)
		if err == nil && (s.err == nil || !got.Empty() || got.Finished()) {
			s.early = append(s.early, payload)
			return nil
		}
		payload = bytes.Clone(payload) // it has failed already, and what it took is told before
		s.early = append(s.early, payload)
		if err != nil {
			return s.unbegun(err, usage)
		}
		if chunk.UsageSpan != [2]int{} {
			usage = payload
		}
	}
}

// unbegun is err, which a stream ended in before it had begun, with what is known of it.
func (s *stream) unbegun(err error, usage []byte) error {
	if err == io.EOF { //nolint:errorlint // only itself means a good end
		err = s.fault(nil, "upstream_truncated", "ended its stream without an answer")
	}
	switch {
	case usage != nil:
		s.k.Body = usage
	case s.said != nil && s.words == nil:
		s.k.Body = bytes.Clone(s.said)
	case s.said != nil:
		s.k.Body = []byte("{}") // it tells of no usage, but it was an answer that carries an error
	}
	return s.k.failed(err)
}

// read takes what Next returns from the provider.
func (s *stream) read() ([]byte, error) {
	if s.words != nil {
		return s.nextTranslated()
	}
	for s.err == nil {
		event, err := s.events.Next()
		if s.events.Noise() {
			s.err = s.noise()
			break
		}
		if err != nil {
			s.err = s.ended(err)
			break
		}
		data := bytes.Trim(event.Data, " \t\r\n")
		switch {
		case bytes.Equal(data, endMark):
			s.err = io.EOF
			s.done.Store(true)
		case event.Unterminated:
			s.err = s.unfinished(data)
		case len(data) == 0: // a sign of life in the form of an event
		case event.Name == "error":
			s.err = s.complaint(data)
		default:
			said, failed := embedded(data)
			switch {
			case failed:
				s.err = s.complain(said, data)
			case data[0] != '{':
				s.err = s.fault(nil, "upstream_protocol", "put something into its stream that is not JSON")
			case s.k.client.dialect.Said != nil:
				return s.k.client.dialect.Said(data), nil
			default:
				return data, nil
			}
		}
	}
	return nil, s.err
}

// unfinished is the error of a stream that ended inside an event: what the provider said, if it was an error and all of
// it came.
func (s *stream) unfinished(data []byte) error {
	if said, ok := embedded(data); ok {
		return s.complain(said, data)
	}
	return s.fault(nil, "upstream_truncated", "ended its stream in the middle of an event")
}

// complaint is the error of an event named error, whatever it holds.
func (s *stream) complaint(data []byte) error {
	said, ok := embedded(data)
	if !ok {
		said = parseComplaint(data)
	}
	return s.complain(said, data)
}

// complain is the error of a stream in whose data the provider says what is wrong.
func (s *stream) complain(said complaint, data []byte) error {
	s.said = data
	return s.k.complain(said.status, said, nil)
}

// noise is the error of a stream that holds something that is no event: what the provider said, if it put its error there
// as it is.
func (s *stream) noise() error {
	if said, ok := embedded(s.events.Stray()); ok {
		return s.complain(said, s.events.Stray())
	}
	return s.fault(nil, "upstream_protocol", "put something into its stream that is no event")
}

// ended is the error of a stream whose bytes ended without the end marker.
func (s *stream) ended(err error) error {
	if cause := context.Cause(s.k.ctx); cause != nil {
		return s.k.givenUp(cause, fault.Upstream, "upstream_stalled", "stopped in the middle of its stream")
	}
	switch {
	case errors.Is(err, io.EOF):
		return s.fault(err, "upstream_truncated", "ended its stream before the answer was complete")
	case errors.Is(err, sse.ErrTooLong):
		return s.fault(err, "upstream_oversize", "sent a larger piece than the gateway takes")
	case s.k.broke(err):
		return s.fault(err, "upstream_reset", "closed the connection in the middle of its stream")
	default:
		return s.fault(err, "upstream_protocol", "sent a stream that cannot be read")
	}
}

func (s *stream) fault(cause error, code, text string) error {
	return s.k.client.fault(fault.Upstream, cause, code, text)
}

// Close is Stream's. It may be called while Next waits, which then returns an error. After the end marker it may take
// as long as drainTime.
func (s *stream) Close() error {
	s.close.Do(func() {
		s.mu.Lock()
		s.closed = true
		body := s.body
		s.mu.Unlock()
		if s.done.Load() {
			s.k.watch.within(drainTime)
			_, _ = io.CopyN(io.Discard, watched{body, s.k.watch}, drainBytes)
		}
		s.k.end(body)
	})
	return nil
}
