package gateway

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Accepted sockets have the options that the bounds of memory and time rest on.
func TestTune(t *testing.T) {
	probe := make(chan map[string]int, 1)
	look := Route{Method: "GET", Pattern: "/t/sockets", Needs: Open, handler: func(_ *Gateway, x *request) {
		got := map[string]int{}
		withSocket(tcpOf(x.conn()), func(fd int) {
			got["sndbuf"], _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
			got["nodelay"], _ = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
			got["keepalive"], _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			got["timeout"], _ = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		})
		probe <- got
	}}
	e := newEdge(t, Options{}, look).serveTCP()
	e.do("GET", "/t/sockets", "")
	got := <-probe
	// The kernel doubles what is asked for, and counts its own overhead in it.
	if got["sndbuf"] == 0 || got["sndbuf"] > 2*sendBuffer || got["nodelay"] != 1 || got["keepalive"] != 1 || got["timeout"] != 30000 {
		t.Errorf("%v", got)
	}
}
