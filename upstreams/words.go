package upstreams

import (
	"bytes"
	"io"
)

// Words is one request in the words of a provider that does not speak the OpenAI dialect, and what reads its answer. It
// is pure: bytes in, bytes out. One is made for each request, and used by one goroutine.
type Words interface {
	Path() string       // after the base URL, escaped, with a query if there is one
	Body() []byte       // never changed again
	Warnings() []string // see Request

	// Whole is the provider's answer in the OpenAI dialect. Errors: fault.Upstream for what is no answer; one that was
	// worked for comes with an object that holds its usage.
	Whole(body []byte) ([]byte, error)

	// Event is what one event of the stream says, as chunks of the OpenAI dialect: none, one or several, good until the
	// next call. end says that this was the provider's end marker: what follows is not read. Errors: fault.Upstream, or
	// what the provider complains of, as for Upstream.Chat; chunks that come with one are told before it.
	Event(name string, data []byte) (chunks [][]byte, end bool, err error)

	// End is called when the bytes have ended without an end marker: nil if that is a good end for this provider, with
	// the chunks that are still to be told, as for Event.
	End() (chunks [][]byte, err error)
}

// nextTranslated is Next where the events are in the provider's own words.
func (s *stream) nextTranslated() ([]byte, error) {
	for len(s.chunks) == 0 && s.err == nil {
		event, err := s.events.Next()
		if s.events.Noise() {
			s.err = s.noise()
			break
		}
		if err == io.EOF { //nolint:errorlint // the reader's own end
			s.chunks, err = s.words.End()
			if s.err = err; err == nil {
				s.err = io.EOF
				s.done.Store(true)
			}
			break
		}
		if err != nil {
			s.err = s.ended(err)
			break
		}
		data := bytes.Trim(event.Data, " \t\r\n")
		if len(data) == 0 {
			continue
		}
		if event.Unterminated {
			s.err = s.unfinished(data)
			break
		}
		if said, ok := embedded(data); ok {
			s.err = s.k.complain(said.status, said, nil)
			break
		}
		var end bool
		if s.chunks, end, s.err = s.words.Event(event.Name, data); end && s.err == nil {
			s.err = io.EOF
			s.done.Store(true)
		}
	}
	if len(s.chunks) > 0 {
		chunk := s.chunks[0]
		s.chunks = s.chunks[1:]
		return chunk, nil
	}
	return nil, s.err
}

// noise is the error of a stream that holds something that is no event: what the provider said, if it put its error there
// as it is.
func (s *stream) noise() error {
	if said, ok := embedded(s.events.Stray()); ok {
		return s.k.complain(said.status, said, nil)
	}
	return s.fault(nil, "upstream_protocol", "put something into its stream that is no event")
}
