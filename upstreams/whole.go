package upstreams

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"threadhub/internal/fault"
)

const (
	maxError  = 64 << 10 // bytes of an error's body that are read
	firstBody = 1 << 20  // bytes made room for before they have come, whatever the header promises
)

var errEncoding = errors.New("the answer has an encoding that was not asked for")

// whole reads an answer that is no stream: a whole one, or an error, of any status. streamed says that a stream was
// asked for, in which case only an error can be right.
func (k *call) whole(response *http.Response, streamed bool) ([]byte, error) {
	defer response.Body.Close()
	c := k.client
	status := response.StatusCode
	if status >= 400 && status <= 599 {
		body, _ := k.read(response, maxError) // what can be read of it: the status alone decides
		return nil, k.refused(status, response.Header, body)
	}
	if status != http.StatusOK {
		return nil, c.fault(fault.Upstream, nil, "upstream_protocol", "answered with a status that is neither an answer nor an error")
	}
	if !isJSON(response.Header) {
		return nil, c.fault(fault.Upstream, nil, "upstream_protocol", "answered with something that is not JSON")
	}
	body, err := k.read(response, k.most)
	if err != nil {
		return nil, k.unread(err, response.ContentLength >= 0)
	}
	if text := bytes.TrimLeft(body, " \t\r\n"); len(text) == 0 || text[0] != '{' || !json.Valid(text) {
		return nil, c.fault(fault.Upstream, nil, "upstream_protocol", "answered with JSON that is cut or broken")
	}
	if said, ok := embedded(body); ok {
		k.Body = body
		return nil, k.complain(said.status, said, response.Header)
	}
	if streamed {
		return nil, c.fault(fault.Upstream, nil, "upstream_protocol", "answered whole where a stream was asked for")
	}
	return body, nil
}

// unread is the fault of an answer whose body did not come whole. sized says that its header told its length.
func (k *call) unread(err error, sized bool) error {
	if cause := context.Cause(k.ctx); cause != nil {
		return k.givenUp(cause, fault.Timeout, "upstream_timeout", "stopped in the middle of its answer")
	}
	c := k.client
	switch {
	case errors.Is(err, errTooLarge):
		return c.fault(fault.Upstream, err, "upstream_oversize", "answered with more than the gateway takes")
	case sized && errors.Is(err, io.ErrUnexpectedEOF):
		return c.fault(fault.Upstream, err, "upstream_protocol", "sent less of its answer than it had promised")
	case k.broke(err):
		return c.fault(fault.Upstream, err, "upstream_reset", "closed the connection in the middle of its answer")
	default:
		return c.fault(fault.Upstream, err, "upstream_protocol", "sent an answer that cannot be read")
	}
}

var errTooLarge = errors.New("larger than the cap")

// read reads the body, decoded, up to limit bytes; with errTooLarge it returns what fits.
func (k *call) read(response *http.Response, limit int64) ([]byte, error) {
	from, err := k.decode(response)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if n := response.ContentLength; n > 0 {
		b.Grow(int(min(n, limit, firstBody)) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(from, limit+1))
	if n > limit {
		return b.Bytes()[:limit], errTooLarge
	}
	return b.Bytes(), err
}

// decode returns the body as it was before its Content-Encoding. We ask for identity, but not every edge listens; what
// the standard library knows is undone, and the rest is errEncoding. Reads are watched.
func (k *call) decode(response *http.Response) (io.Reader, error) {
	body := watched{response.Body, k.watch}
	switch strings.ToLower(strings.Join(response.Header.Values("Content-Encoding"), ",")) {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		return gzip.NewReader(body)
	case "deflate": // the standard says zlib; some send the bare format
		b := bufio.NewReader(body)
		head, err := b.Peek(2)
		if err != nil {
			return nil, err
		}
		if head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			return zlib.NewReader(b)
		}
		return flate.NewReader(b), nil
	default:
		return nil, errEncoding
	}
}
