package upstreams

import (
	"context"
	"errors"
	"net/http"
)

// Continuer is Words of a provider that gives a long answer in pieces, each for a request of its own. To the client, to
// the thread and to the ledger they are one answer. It is found by type assertion.
type Continuer interface {
	// Continue reports whether the answer goes on that has just ended: whole, or, where that is nil, the stream. Body is
	// then what asks for the rest; and the rest is read by Whole, which returns all of it, or by Event and End.
	Continue(whole []byte) bool

	// GiveUp says that the rest did not come. What came before is the answer, and Whole is then called with nil.
	GiveUp()
}

// again asks for what Words have become.
func (k *call) again(r *Request) (*http.Response, error) {
	k.Failure = Failure{}
	k.sent.Store(false)
	k.heard.Store(false)
	request, err := k.asking(r, "")
	if err != nil {
		return nil, err
	}
	patience := k.client.options.WholeTimeout
	if r.Stream || k.embeds {
		patience = k.client.options.HeaderTimeout
	}
	k.watch.wait(patience)
	response, err := k.trip(request)
	if err == nil {
		k.look(response)
	}
	return response, err
}

// left reports whether the caller has ended the call, or the stream: not for the provider's silence.
func (k *call) left() bool {
	cause := context.Cause(k.ctx)
	return cause != nil && !errors.Is(cause, errSilent) && !errors.Is(cause, errExpired)
}

// untouched reports whether the provider did not begin to work on the last request: it did not get it, or it refused it.
func (k *call) untouched() bool { return !k.sent.Load() || k.Status >= 400 }

// rest asks for the rest of a whole answer, for as long as there is some, and returns the last piece: nil if that did not
// come. What came before is paid for, and better than nothing; only if the caller has gone is it of no use.
func (k *call) rest(r *Request, body []byte) ([]byte, error) {
	more, ok := r.words.(Continuer)
	if !ok || k.reads {
		return body, nil
	}
	first := k.Failure
	defer func() {
		first.MaybeBilled = k.MaybeBilled
		k.Failure = first
	}()
	for more.Continue(body) {
		k.most -= int64(len(body))
		next, err := k.piece(r)
		if err == nil {
			body = next
			continue
		}
		k.MaybeBilled = !k.untouched()
		more.GiveUp()
		if k.left() {
			first.Body, _ = r.words.Whole(nil)
			return nil, err
		}
		return nil, nil
	}
	return body, nil
}

func (k *call) piece(r *Request) ([]byte, error) {
	response, err := k.again(r)
	if err != nil {
		return nil, err
	}
	return k.whole(response, false)
}

// goOn asks for the rest of a stream that has ended, if there is some. A rest that the provider does not begin leaves what
// came before as it was cut; one that breaks is the error of the stream.
func (s *stream) goOn() bool {
	more, ok := s.words.(Continuer)
	if !ok || s.k.reads || !more.Continue(nil) {
		return false
	}
	response, err := s.k.again(s.ask)
	if err == nil {
		err = s.follow(response)
	}
	switch {
	case err == nil:
		return true
	case s.k.untouched() && !s.k.left():
		more.GiveUp()
	default:
		s.err = err
	}
	return false
}

// follow reads on from another answer.
func (s *stream) follow(response *http.Response) error {
	if response.StatusCode != http.StatusOK || !isEventStream(response.Header) {
		_, err := s.k.whole(response, true)
		return err
	}
	from, err := s.k.decode(response)
	if err != nil {
		response.Body.Close()
		return s.k.unread(err, false)
	}
	s.mu.Lock()
	old := s.body
	s.body = response.Body
	closed := s.closed
	s.mu.Unlock()
	old.Close()
	if closed {
		response.Body.Close()
		return ErrClosed
	}
	s.events = s.k.client.events(from)
	return nil
}
