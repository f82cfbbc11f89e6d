package gateway

import (
	"io"
	"net"
	"testing"
)

func TestDeparted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	pair := func() (client, server *net.TCPConn) {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = c.Close(), s.Close() })
		return c.(*net.TCPConn), s.(*net.TCPConn)
	}

	client, server := pair()
	if departed(server) || halfClosed(server) {
		t.Error("a quiet client has not departed")
	}
	_, _ = io.WriteString(client, "more")
	if departed(server) {
		t.Error("a client that sends has not departed")
	}
	_ = client.CloseWrite()
	until(t, "the FIN behind the data", func() bool { b := make([]byte, 8); n, err := server.Read(b); return n == 0 && err == io.EOF })
	if departed(server) {
		t.Error("a half-close is not a departure")
	}
	if !halfClosed(server) {
		t.Error("a half-close is one")
	}

	// A reset, also one behind a byte that nobody has read: a peek would see the byte.
	for _, unread := range []string{"", "x"} {
		client, server := pair()
		_, _ = io.WriteString(client, unread)
		_ = client.SetLinger(0)
		_ = client.Close()
		until(t, "the departure", func() bool { return departed(&conn{Conn: server}) })
	}

	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if departed(a) {
		t.Error("what is not TCP cannot be told")
	}
}
