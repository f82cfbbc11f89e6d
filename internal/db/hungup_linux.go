package db

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// hungUp reports whether the server at the other end of an idle connection has closed it, or says something nobody asked
// for, which is mostly why it is about to. It never blocks and takes nothing from the connection.
func hungUp(c net.Conn) (is bool) {
	if wrapped, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = wrapped.NetConn()
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		is = !errors.Is(err, unix.EAGAIN)
	})
	return is || err != nil
}
