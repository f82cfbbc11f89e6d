package gateway

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tcpClosed is the state TCP_CLOSE of include/net/tcp_states.h: reset, or given up.
const tcpClosed = 7

func closedByPeer(tcp *net.TCPConn) bool {
	gone := false
	withSocket(tcp, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State == tcpClosed
	})
	return gone
}

// unacknowledged returns how many bytes sent on c the peer's kernel has not yet taken, -1 if that cannot be told.
func unacknowledged(c net.Conn) int {
	n := -1
	withSocket(tcpOf(c), func(fd int) {
		if v, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil {
			n = v
		}
	})
	return n
}

func setUserTimeout(tcp *net.TCPConn, d time.Duration) {
	withSocket(tcp, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

func withSocket(tcp *net.TCPConn, f func(fd int)) {
	if tcp == nil {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
