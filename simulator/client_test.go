package simulator

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// exchangeHTTP sends one request through net/http, on a connection of its own.
func exchangeHTTP(t *testing.T, method, url, key, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func fetch(t *testing.T, method, url, key, body string) (int, string) {
	t.Helper()
	resp, b := exchangeHTTP(t, method, url, key, body)
	return resp.StatusCode, b
}

// benchmarkClient asks over one kept connection and reads as little of the answer as can be.
func benchmarkClient(b *testing.B, s *Simulator, body string) {
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	req := fmt.Appendf(nil, "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	end := []byte("}")
	if bytes.Contains(req, []byte(`"stream":true`)) {
		end = []byte("0\r\n\r\n")
	}
	buf := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		for {
			n, err := c.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			if bytes.HasSuffix(buf[:n], end) {
				break
			}
		}
	}
}
