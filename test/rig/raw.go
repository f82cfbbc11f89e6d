package rig

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// rawTimeout bounds a request whose bytes may be no request at all.
const rawTimeout = 10 * time.Second

// Raw sends request byte for byte over a connection of its own and reads one answer. method is what the answer is
// read as an answer to.
func (g *Gateway) Raw(method, request string) (*Reply, error) {
	c, err := net.DialTimeout("tcp", g.Host(), rawTimeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(rawTimeout)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return &Reply{resp.StatusCode, resp.Header, body}, err
}

// Host is the gateway's host:port.
func (g *Gateway) Host() string { return strings.TrimPrefix(g.URL, "http://") }
