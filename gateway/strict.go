package gateway

import (
	"bytes"

	"threadhub/internal/fault"
)

// What fasthttp accepts and a proxy in front of us may read otherwise is refused here, before fasthttp sees a byte of it:
// request smuggling lives on such differences. Every refusal closes the connection.

const (
	maxHead    = 64 << 10 // bytes of request line and headers; agents send long ones
	maxTarget  = 8 << 10  // bytes of the request target
	maxHeaders = 100
)

// frame is how the body of a request is delimited.
type frame struct {
	length  int64 // bytes of body; -1 when chunked
	chunked bool
}

func malformed(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "malformed HTTP request: "+format, args...).WithCode("malformed_request")
}

// scanHead looks at the bytes of a head as they arrive, from on, and returns where the head ends (the index after its
// blank line), 0 if more is needed. It refuses at once what can never become a head, so that nobody waits for the rest:
// an end of line that is not CR LF, a control byte, a first byte that begins no method (a TLS greeting, a blank line).
func scanHead(b []byte, from int) (int, *fault.Error) {
	if len(b) > 0 && (b[0] < 'A' || b[0] > 'Z') {
		return 0, malformed("it does not begin with a method")
	}
	for i := from; i < len(b); i++ {
		c := b[i]
		if c >= 0x20 && c != 0x7f {
			if i > 0 && b[i-1] == '\r' {
				return 0, malformed("a carriage return inside a line")
			}
			continue
		}
		switch {
		case c == '\r' && (i == 0 || b[i-1] != '\r'):
		case c == '\n' && i > 0 && b[i-1] == '\r':
			if i >= 3 && b[i-2] == '\n' && b[i-3] == '\r' {
				return i + 1, nil
			}
		case c == '\t' && i > 0 && b[i-1] != '\r':
		case c == '\n':
			return 0, malformed("a line that ends in a bare LF")
		default:
			return 0, malformed("a control byte in the head")
		}
	}
	return 0, nil
}

// checkHead reads a whole head, its blank line included, and says how the body is framed. head passed scanHead.
func checkHead(head []byte) (frame, *fault.Error) {
	line, rest, _ := bytes.Cut(head[:len(head)-2], crlf)
	old, err := checkRequestLine(line)
	if err != nil {
		return frame{}, err
	}
	var f frame
	var lines, hosts, lengths, codings int
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, crlf)
		if lines++; lines > maxHeaders {
			return frame{}, tooLargeHead("more than %d header lines", maxHeaders)
		}
		name, value, err := splitHeader(line)
		if err != nil {
			return frame{}, err
		}
		switch {
		case bytes.EqualFold(name, []byte("Host")):
			hosts++
			if !validHost(value) {
				return frame{}, malformed("the Host header")
			}
		case bytes.EqualFold(name, []byte("Content-Length")):
			lengths++
			if f.length, err = parseLength(value); err != nil {
				return frame{}, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			codings++
			if !bytes.EqualFold(value, []byte("chunked")) {
				return frame{}, malformed("the only Transfer-Encoding understood is chunked")
			}
			f.chunked, f.length = true, -1
		case bytes.EqualFold(name, []byte("Expect")):
			if !bytes.EqualFold(value, []byte("100-continue")) {
				return frame{}, malformed("the only expectation understood is 100-continue")
			}
		}
	}
	switch {
	case hosts > 1 || hosts == 0 && !old:
		return frame{}, malformed("exactly one Host header is needed")
	case lengths > 1:
		return frame{}, malformed("more than one Content-Length")
	case codings > 1:
		return frame{}, malformed("more than one Transfer-Encoding")
	case lengths > 0 && codings > 0:
		return frame{}, malformed("Content-Length and Transfer-Encoding exclude each other")
	case codings > 0 && old:
		return frame{}, malformed("HTTP/1.0 has no Transfer-Encoding")
	}
	return f, nil
}

var crlf = []byte("\r\n")

// checkRequestLine reports whether the request speaks HTTP/1.0.
func checkRequestLine(line []byte) (old bool, err *fault.Error) {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(method) > 16 {
		return false, malformed("the request line")
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return false, malformed("the method")
		}
	}
	target, version, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return false, malformed("the request line")
	}
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		old = true
	default:
		return false, malformed("only HTTP/1.1 and HTTP/1.0 are spoken here")
	}
	// An absolute target names a host of its own, which a proxy may have routed by and we would not.
	if len(target) == 0 || target[0] != '/' {
		return false, malformed("the request target must be a path")
	}
	if len(target) > maxTarget {
		return false, tooLargeHead("a request target over %d bytes", maxTarget)
	}
	for _, c := range target {
		if c <= 0x20 || c >= 0x7f || c == '#' || c == '\\' {
			return false, malformed("a byte in the request target that must be percent-encoded")
		}
	}
	return old, nil
}

// splitHeader takes a header line apart. The value is without the white space around it.
func splitHeader(line []byte) (name, value []byte, err *fault.Error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, malformed("a folded header line")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 {
		return nil, nil, malformed("a header line without a name")
	}
	for _, c := range name {
		if !tokenByte(c) {
			return nil, nil, malformed("a byte in a header name that is not allowed there")
		}
	}
	return name, bytes.Trim(value, " \t"), nil
}

// tokenByte reports whether c may stand in a token (RFC 9110, 5.6.2).
func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}

func validHost(host []byte) bool {
	for _, c := range host {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || bytes.IndexByte([]byte("-._~:[]%"), c) >= 0) {
			return false
		}
	}
	return len(host) > 0 && len(host) <= 255
}

// parseLength reads a Content-Length: digits and nothing else, up to 18 of them.
func parseLength(value []byte) (int64, *fault.Error) {
	if len(value) == 0 || len(value) > 18 {
		return 0, malformed("the Content-Length")
	}
	var n int64
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, malformed("the Content-Length")
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

func tooLargeHead(format string, args ...any) *fault.Error {
	return fault.New(fault.TooLarge, "the request head is too large: "+format, args...).WithCode(codeHeadTooLarge)
}

// chunks follows the framing of a chunked body and says where it ends. The zero value stands at the body's first byte.
// Extensions and trailers are refused: no client of this API sends them, and proxies read them in different ways.
type chunks struct {
	state chunkState
	left  int64 // of the chunk's size or data still to come
	total int64 // bytes of data announced so far
	digit int
}

type chunkState uint8

const (
	chunkSize    chunkState = iota // hex digits
	chunkSizeLF                    // the LF after them
	chunkData                      // left bytes of data
	chunkDataCR                    // the CR after the data
	chunkDataLF                    // and its LF
	chunkFinalCR                   // the blank line after the last chunk
	chunkFinalLF
	chunkDone
)

// take follows b and returns how many of its bytes belong to the body, fewer than len(b) only when the body has ended.
// Data beyond limit is refused as soon as it is announced.
func (c *chunks) take(b []byte, limit int64) (int, *fault.Error) {
	for i := 0; i < len(b); {
		if c.state == chunkDone {
			return i, nil
		}
		if c.state == chunkData {
			n := min(c.left, int64(len(b)-i))
			i, c.left = i+int(n), c.left-n
			if c.left == 0 {
				c.state = chunkDataCR
			}
			continue
		}
		if err := c.step(b[i], limit); err != nil {
			return i, err
		}
		i++
	}
	return len(b), nil
}

func (c *chunks) step(b byte, limit int64) *fault.Error {
	switch {
	case c.state == chunkSize && b == '\r' && c.digit > 0:
		c.state, c.digit = chunkSizeLF, 0
		if c.total += c.left; c.total > limit {
			return bodyTooLarge(limit)
		}
	case c.state == chunkSize && hexDigit(b) >= 0 && c.digit < 8:
		c.left, c.digit = c.left<<4|int64(hexDigit(b)), c.digit+1
	case c.state == chunkSizeLF && b == '\n':
		if c.state = chunkData; c.left == 0 {
			c.state = chunkFinalCR
		}
	case c.state == chunkDataCR && b == '\r', c.state == chunkFinalCR && b == '\r':
		c.state++
	case c.state == chunkDataLF && b == '\n':
		c.state = chunkSize
	case c.state == chunkFinalLF && b == '\n':
		c.state = chunkDone
	default:
		return malformed("the chunked body")
	}
	return nil
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

func bodyTooLarge(limit int64) *fault.Error {
	return fault.New(fault.TooLarge, "the request body is over the limit of %d bytes", limit).WithCode("request_too_large")
}
