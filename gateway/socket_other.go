//go:build !linux

package gateway

import (
	"net"
	"time"
)

func closedByPeer(*net.TCPConn) bool                 { return false }
func halfClosedByPeer(*net.TCPConn) bool             { return false }
func unacknowledged(net.Conn) int                    { return -1 }
func setUserTimeout(_ *net.TCPConn, _ time.Duration) {}
