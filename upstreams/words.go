package upstreams

import (
	"bytes"
	"encoding/json"
	"io"
)

// Wording is one request in the words of a provider that does not speak the OpenAI dialect, and what reads its answer. It
// is pure: bytes in, bytes out. One is made for each request, and used by one goroutine.
type Wording interface {
	Path() string       // after the base URL, escaped, with a query if there is one
	Body() []byte       // its bytes are never changed again
	Warnings() []string // see Request

	// Whole is the provider's answer in the OpenAI dialect. Errors: fault.Upstream for what is no answer, or a Complaint;
	// one that was worked for comes with an object that holds its usage.
	Whole(body []byte) ([]byte, error)
}

// Words is Wording of what may be answered by a stream.
type Words interface {
	Wording

	// Event is what one event of the stream says, as chunks of the OpenAI dialect: none, one or several, good until the
	// next call. data is not empty. end says that this was the provider's end marker: what follows is not read. Errors:
	// fault.Upstream, or a Complaint; chunks that come with one are told before it.
	Event(name string, data []byte) (chunks [][]byte, end bool, err error)

	// End is called when the bytes have ended without an end marker: nil if that is a good end for this provider, with
	// the chunks that are still to be told, as for Event.
	End() (chunks [][]byte, err error)

	// Used is called when the stream has ended in an error: what the answer is known to have taken, if no chunk has told
	// it yet.
	Used() (chunks [][]byte)
}

// Yielder is Words that may hold something of ours, which the client did not ask for and the provider may refuse. It is
// found by type assertion.
type Yielder interface {
	// Yield is called when the provider has refused the request as bad, with nothing done or billed. It reports whether it can
	// be asked again: Body is then without what was ours.
	Yield() bool
}

// warn adds what words have warned of since the last time. Callers may have added warnings of their own.
func (r *Request) warn() {
	all := r.words.Warnings()
	r.Warnings = append(r.Warnings, all[r.warned:]...)
	r.warned = len(all)
}

// Complaint is what the provider says is wrong in an answer that began well, as it came: an error object, or the text of
// one, in JSON. As an error of Words it becomes what the client is told of it.
type Complaint []byte

// Error leaves out what the provider said: it may quote the key.
func (Complaint) Error() string { return "the provider complains" }

// told is err, or what a client is told of the provider's complaint.
func (k *call) told(err error) error {
	if c, ok := err.(Complaint); ok { //nolint:errorlint // Words return it as it is
		said := parseError(c)
		return k.complain(said.status, said, nil)
	}
	return err
}

// told is call.told of what an event holds.
func (s *stream) told(err error, data []byte) error {
	if _, ok := err.(Complaint); ok { //nolint:errorlint // Words return it as it is
		s.said = data
	}
	return s.k.told(err)
}

// wholeTranslated is what whole returned, in the OpenAI dialect. An answer that carries an error is asked for its usage.
func (k *call) wholeTranslated(r *Request, body []byte, err error) ([]byte, error) {
	if err != nil {
		if k.Body != nil {
			if k.Body, _ = r.words.Whole(k.Body); k.Body == nil {
				k.Body = []byte("{}") // it tells of no usage, but it was an answer that carries an error
			}
		}
		return nil, err
	}
	if body, err = k.rest(r, body); err != nil {
		return nil, err
	}
	body, several, err := k.batches(r, body)
	if err != nil {
		return nil, err
	}
	body, err = r.words.Whole(body)
	r.warn()
	if err != nil {
		k.Body, k.MaybeBilled = body, k.MaybeBilled || several
		return nil, k.told(err)
	}
	return body, nil
}

// complete reports whether data, which may have been cut anywhere, is all there.
func complete(data []byte) bool { return bytes.Equal(data, endMark) || json.Valid(data) }

// nextTranslated is Next where the events are in the provider's own words.
func (s *stream) nextTranslated() ([]byte, error) {
	for len(s.chunks) == 0 && s.err == nil {
		event, err := s.events.Next()
		if s.events.Noise() {
			s.err = s.noise()
			break
		}
		if err == io.EOF { //nolint:errorlint // the reader's own end
			if s.goOn() {
				continue
			}
			if s.err != nil {
				break
			}
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
		if event.Unterminated && !complete(data) {
			s.err = s.unfinished(data)
			break
		}
		said, failed := embedded(data)
		chunks, end, err := s.words.Event(event.Name, data)
		switch s.err = s.told(err, data); {
		case failed: // what else it says, of its usage above all, is told before
			s.err = s.complain(said, data)
		case end && err == nil:
			s.err = io.EOF
			s.done.Store(true)
		case event.Unterminated: // only an end mark may lack its blank line
			s.err = s.unfinished(data)
			continue
		}
		s.chunks = chunks
	}
	if len(s.chunks) == 0 && !s.done.Load() && !s.used {
		s.used = true
		s.chunks = s.words.Used()
	}
	if len(s.chunks) > 0 {
		chunk := s.chunks[0]
		s.chunks = s.chunks[1:]
		return chunk, nil
	}
	return nil, s.err
}
