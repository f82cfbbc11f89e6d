package gateway

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// States of include/net/tcp_states.h.
const (
	tcpClosed    = 7 // TCP_CLOSE: reset, or given up
	tcpCloseWait = 8 // TCP_CLOSE_WAIT: the peer sends no more
)

func closedByPeer(tcp *net.TCPConn) bool { return hasState(tcp, tcpClosed) }

func halfClosedByPeer(tcp *net.TCPConn) bool { return hasState(tcp, tcpCloseWait) }

func hasState(tcp *net.TCPConn, state uint8) (has bool) {
	withSocket(tcp, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		has = err == nil && info.State == state
	})
	return has
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
