package gateway

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func itoa(n int) string { return strconv.Itoa(n) }

// The corpus: what is sent, the statuses of the answers, and how often a handler ran. Everything after a refusal is a
// second request in disguise, GET /t/hit, that must never run.
func TestRawRequests(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	const (
		hit  = "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n"
		post = "POST /t/echo HTTP/1.1\r\nHost: gw\r\n"
		get  = "GET /t/hit HTTP/1.1\r\nHost: gw\r\n"
	)
	bad := []int{400}
	cases := []struct {
		name   string
		in     string
		status []int
		calls  int
	}{
		// What must work.
		{"get", hit, []int{200}, 1},
		{"get, HTTP/1.0 without a Host", "GET /t/hit HTTP/1.0\r\n\r\n", []int{200}, 1},
		{"get, HTTP/1.0 keep-alive", "GET /t/hit HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + hit, []int{200, 200}, 2},
		{"post with a length", post + "Content-Length: 5\r\n\r\nhello", []int{200}, 1},
		{"post with length 0", post + "Content-Length: 0\r\n\r\n" + hit, []int{200, 200}, 2},
		{"post without a body", post + "\r\n" + hit, []int{200, 200}, 2},
		{"post chunked", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + hit, []int{200, 200}, 2},
		{"chunked, in capitals", post + "TRANSFER-ENCODING: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", []int{200}, 1},
		{"chunked, hex digits", post + "Transfer-Encoding: chunked\r\n\r\n00a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n" + hit, []int{200, 200}, 2},
		{"chunked and empty", post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hit, []int{200, 200}, 2},
		{"get with a body", get + "Content-Length: 5\r\n\r\nhello" + hit, []int{200, 200}, 2},
		{"ten at once", strings.Repeat(hit, 10), []int{200, 200, 200, 200, 200, 200, 200, 200, 200, 200}, 10},
		{"posts at once", strings.Repeat(post+"Content-Length: 3\r\n\r\nabc", 3) + hit, []int{200, 200, 200, 200}, 4},
		{"connection close ends it", get + "Connection: close\r\n\r\n" + hit, []int{200}, 1},
		{"a tab in a value", get + "X-A: a\tb\r\n\r\n", []int{200}, 1},
		{"UTF-8 in a value", get + "X-Title: Grüße\r\n\r\n", []int{200}, 1},
		{"an empty value", get + "X-A:\r\n\r\n", []int{200}, 1},
		{"100 headers", get + strings.Repeat("X-A: b\r\n", 99) + "\r\n", []int{200}, 1},
		{"a long header", get + "X-A: " + strings.Repeat("a", 60<<10) + "\r\n\r\n", []int{200}, 1},
		{"expect on HTTP/1.0 is ignored", "POST /t/echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi", []int{200}, 1},

		// Two ways to read where the body ends.
		{"length and chunked", post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunked and length", post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"length twice, equal", post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + hit, bad, 0},
		{"length twice, different", post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + hit, bad, 0},
		{"length as a list", post + "Content-Length: 5, 5\r\n\r\nhello" + hit, bad, 0},
		{"length negative", post + "Content-Length: -1\r\n\r\n" + hit, bad, 0},
		{"length with a plus", post + "Content-Length: +5\r\n\r\nhello" + hit, bad, 0},
		{"length in hex", post + "Content-Length: 0x5\r\n\r\nhello" + hit, bad, 0},
		{"length with a space inside", post + "Content-Length: 5 0\r\n\r\nhello" + hit, bad, 0},
		{"length empty", post + "Content-Length:\r\n\r\n" + hit, bad, 0},
		{"length a word", post + "Content-Length: five\r\n\r\n" + hit, bad, 0},
		{"length that overflows", post + "Content-Length: 18446744073709551621\r\n\r\nhello" + hit, bad, 0},
		{"length with a space before the colon", post + "Content-Length : 5\r\n\r\nhello" + hit, bad, 0},
		{"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunked, chunked", post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"identity", post + "Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello" + hit, bad, 0},
		{"gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunked with a vertical tab", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"an empty coding", post + "Transfer-Encoding:\r\n\r\n" + hit, bad, 0},
		{"chunked on HTTP/1.0", "POST /t/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"space before the colon of chunked", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},

		// Chunks.
		{"chunk size missing", post + "Transfer-Encoding: chunked\r\n\r\n\r\n" + hit, bad, 0},
		{"chunk size not hex", post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + hit, bad, 0},
		{"chunk size with 0x", post + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk size negative", post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + hit, bad, 0},
		{"chunk size that overflows", post + "Transfer-Encoding: chunked\r\n\r\n100000000000000005\r\nhello\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk size with a space", post + "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk extension", post + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk extension with a bare LF", post + "Transfer-Encoding: chunked\r\n\r\n5;\nhello\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk size line with a bare LF", post + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk data too long", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhellooo\r\n0\r\n\r\n" + hit, bad, 0},
		{"chunk data with a bare LF", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n" + hit, bad, 0},
		{"trailer", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n\r\n" + hit, bad, 0},
		{"trailer Content-Length", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n" + hit, bad, 0},
		{"last chunk with a bare LF", post + "Transfer-Encoding: chunked\r\n\r\n0\n\n" + hit, bad, 0},
		{"chunked, cut", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", bad, 0},

		// Lines.
		{"bare LF after the request line", "GET /t/hit HTTP/1.1\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"bare LF everywhere", "GET /t/hit HTTP/1.1\nHost: gw\n\n" + hit, bad, 0},
		{"bare LF after a header", get + "X-A: b\nX-B: c\r\n\r\n" + hit, bad, 0},
		{"bare LF ends the head", get + "\n" + hit, bad, 0},
		{"bare CR in a value", get + "X-A: b\rX-B: c\r\n\r\n" + hit, bad, 0},
		{"bare CR in a name", get + "X-A\r: b\r\n\r\n" + hit, bad, 0},
		{"two CR", get + "X-A: b\r\r\n\r\n" + hit, bad, 0},
		{"leading blank line", "\r\n" + hit, bad, 0},
		{"leading bare LF", "\n" + hit, bad, 0},
		{"leading space", " " + hit, bad, 0},
		{"folded with a space", get + "X-A: b\r\n c\r\n\r\n" + hit, bad, 0},
		{"folded with a tab", get + "X-A: b\r\n\tc\r\n\r\n" + hit, bad, 0},
		{"folded coding", post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + hit, bad, 0},
		{"first header folded", "GET /t/hit HTTP/1.1\r\n Host: gw\r\n\r\n" + hit, bad, 0},
		{"a line without a colon", get + "X-A\r\n\r\n" + hit, bad, 0},
		{"a line that is a colon", get + ": b\r\n\r\n" + hit, bad, 0},
		{"space in a name", get + "X A: b\r\n\r\n" + hit, bad, 0},
		{"a parenthesis in a name", get + "X(A): b\r\n\r\n" + hit, bad, 0},
		{"a byte beyond ASCII in a name", get + "X-\xc3\xa9: b\r\n\r\n" + hit, bad, 0},
		{"NUL in a value", get + "X-A: b\x00c\r\n\r\n" + hit, bad, 0},
		{"NUL in a name", get + "X-\x00A: b\r\n\r\n" + hit, bad, 0},
		{"escape in a value", get + "X-A: \x1b[31m\r\n\r\n" + hit, bad, 0},
		{"DEL in a value", get + "X-A: \x7f\r\n\r\n" + hit, bad, 0},

		// Request lines.
		{"absolute target", "GET http://evil/t/hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"authority target", "CONNECT gw:80 HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"target without a slash", "GET t/hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"target with a fragment", "GET /t/hit#x HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"target with a backslash", "GET /t\\hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"target beyond ASCII", "GET /t/\xc3\xa9 HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"no target", "GET  HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"two spaces", "GET  /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"a space in the target", "GET /t/hit x HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"a tab for a space", "GET\t/t/hit\tHTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"a space at the end", "GET /t/hit HTTP/1.1 \r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"HTTP/0.9", "GET /t/hit\r\n\r\n" + hit, bad, 0},
		{"HTTP/1.2", "GET /t/hit HTTP/1.2\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"HTTP/2.0", "GET /t/hit HTTP/2.0\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"http/1.1 in lower case", "GET /t/hit http/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"HTTP/01.1", "GET /t/hit HTTP/01.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hit, bad, 0},
		{"method in lower case", "get /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"method with a digit", "G3T /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"a method without end", strings.Repeat("G", 40) + " /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, bad, 0},
		{"a TLS greeting", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + hit, bad, 0},

		// Hosts, expectations, sizes.
		{"no Host", "GET /t/hit HTTP/1.1\r\n\r\n" + hit, bad, 0},
		{"two Hosts", get + "Host: gw\r\n\r\n" + hit, bad, 0},
		{"two Hosts on HTTP/1.0", "GET /t/hit HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n" + hit, bad, 0},
		{"empty Host", "GET /t/hit HTTP/1.1\r\nHost:\r\n\r\n" + hit, bad, 0},
		{"Host with a path", "GET /t/hit HTTP/1.1\r\nHost: gw/x\r\n\r\n" + hit, bad, 0},
		{"Host with a user", "GET /t/hit HTTP/1.1\r\nHost: a@gw\r\n\r\n" + hit, bad, 0},
		{"Host as a list", "GET /t/hit HTTP/1.1\r\nHost: gw, evil\r\n\r\n" + hit, bad, 0},
		{"an unknown expectation", post + "Content-Length: 5\r\nExpect: 200-ok\r\n\r\nhello" + hit, bad, 0},
		{"101 headers", get + strings.Repeat("X-A: b\r\n", 100) + "\r\n" + hit, []int{431}, 0},
		{"a head without end", get + "X-A: " + strings.Repeat("a", 70<<10), []int{431}, 0},
		{"a target without end", "GET /" + strings.Repeat("a", 9<<10) + " HTTP/1.1\r\nHost: gw\r\n\r\n" + hit, []int{431}, 0},
		{"length over the limit", post + "Content-Length: 20971521\r\n\r\n" + hit, []int{413}, 0},
		{"chunk over the limit", post + "Transfer-Encoding: chunked\r\n\r\n1400001\r\n" + hit, []int{413}, 0},

		// Clients that leave.
		{"nothing", "", nil, 0},
		{"half a head", "GET /t/hit HT", nil, 0},
		{"half a body", post + "Content-Length: 10\r\n\r\nhello", bad, 0},
		{"a good request, then a bad one", hit + "GET /t/hit HTTP/1.1\nHost: gw\r\n\r\n" + hit, []int{200, 400}, 1},
	}
	if len(cases) < 60 {
		t.Fatalf("the corpus has shrunk to %d", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := e.calls.Load()
			replies := e.raw(c.in)
			var status []int
			for _, r := range replies {
				status = append(status, r.status)
				if r.status != 200 && (r.errorField("type") == "" || r.code() == "" || !r.close || r.header.Get("X-Request-Id") == "") {
					t.Errorf("a refusal without error object, request id or close: %v %s", r.header, r.body)
				}
			}
			if fmt.Sprint(status) != fmt.Sprint(c.status) {
				t.Errorf("answers %v, want %v: %v", status, c.status, replies)
			}
			if n := e.calls.Load() - before; n != int64(c.calls) {
				t.Errorf("%d handlers ran, want %d", n, c.calls)
			}
		})
	}
}

// What a handler does not read of a body must never be taken for a request, whatever its size and framing.
func TestUnreadBodyIsNotARequest(t *testing.T) {
	e := newEdge(t, Options{}).serveTCP()
	smuggled := "GET /t/hit HTTP/1.1\r\nHost: gw\r\n\r\n"
	for _, pad := range []int{0, 1, 1024, 4096, 64 << 10, 300 << 10} {
		body := strings.Repeat("x", pad) + smuggled
		for name, in := range map[string]string{
			"length":  fmt.Sprintf("POST /t/write HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
			"chunked": fmt.Sprintf("POST /t/write HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		} {
			before := e.calls.Load()
			replies := e.raw(in) // without a key: answered from the head alone
			if len(replies) != 1 || replies[0].status != 401 {
				t.Errorf("%s, %d bytes: %v", name, pad, replies)
			}
			if n := e.calls.Load() - before; n != 0 {
				t.Errorf("%s, %d bytes: the body ran as a request", name, pad)
			}
		}
	}
}

// A head may come in any pieces.
func TestScanHeadInPieces(t *testing.T) {
	head := "POST /x HTTP/1.1\r\nHost: gw\r\nX-A: b\tc\r\n\r\n"
	for cut := 1; cut < len(head); cut++ {
		if end, err := scanHead([]byte(head[:cut]), 0); end != 0 || err != nil {
			t.Fatalf("cut at %d: %d, %v", cut, end, err)
		}
		if end, err := scanHead([]byte(head+"more"), cut); end != len(head) || err != nil {
			t.Fatalf("from %d: %d, %v", cut, end, err)
		}
	}
}

// A chunked body may come in any pieces, and ends in the same place.
func TestChunksInPieces(t *testing.T) {
	body := "5\r\nhello\r\n00b\r\nhello world\r\n0\r\n\r\n"
	in := []byte(body + "GET /")
	for cut := range len(in) {
		var c chunks
		n, err := c.take(in[:cut], 100)
		if err == nil && n == cut {
			var m int
			m, err = c.take(in[cut:], 100)
			n += m
		}
		if err != nil || n != len(body) || c.state != chunkDone || c.total != 16 {
			t.Fatalf("cut at %d: %d of %d bytes, %v, %+v", cut, n, len(body), err, c)
		}
	}
	var c chunks
	if _, err := c.take(in, 15); !fault.Is(err, fault.TooLarge) {
		t.Fatalf("16 bytes under a limit of 15: %v", err)
	}
}

// Whatever comes, the scanners neither panic nor claim more than they got.
func FuzzHead(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: gw\r\n\r\n"), 3)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), 20)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		end, err := scanHead(b, 0)
		if cut >= 0 && cut < len(b) {
			if e, rerr := scanHead(b[:cut], 0); e == 0 && rerr == nil {
				if e, rerr = scanHead(b, cut); e != end || (rerr == nil) != (err == nil) {
					t.Fatalf("in pieces %d, %v; whole %d, %v", e, rerr, end, err)
				}
			}
		}
		if err != nil || end == 0 {
			return
		}
		fr, err := checkHead(b[:end])
		if err != nil || !fr.chunked {
			return
		}
		var c chunks
		if n, err := c.take(b[end:], 1<<20); err == nil && n != len(b)-end && c.state != chunkDone {
			t.Fatalf("stopped at %d without an end", n)
		}
	})
}

// The framing rules hold by themselves, not because fasthttp happens to share some of them.
func TestCheckHead(t *testing.T) {
	for _, lines := range []string{
		"Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\ncontent-length: 6\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Content-Length: +5\r\n", "Content-Length: 5,5\r\n",
		"Host: other\r\n", "X A: b\r\n", "X-A : b\r\n", " X-A: b\r\n", ": b\r\n", "X-A\r\n", "Expect: nothing\r\n",
	} {
		if _, err := checkHead([]byte("POST / HTTP/1.1\r\nHost: gw\r\n" + lines + "\r\n")); err == nil {
			t.Errorf("%q is let through", lines)
		}
	}
	f, err := checkHead([]byte("POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 0012\r\nExpect: 100-Continue\r\n\r\n"))
	if err != nil || f != (frame{length: 12}) {
		t.Errorf("%+v, %v", f, err)
	}
}
