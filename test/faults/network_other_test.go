//go:build !linux

package faults

import (
	"errors"
	"net"
	"time"
)

type network struct{ host string }

var errNoNetwork = errors.New("networks are made on Linux alone")

func newNetwork(*world) (*network, error)      { return nil, errNoNetwork }
func (*network) dial(string) (net.Conn, error) { return nil, errNoNetwork }
func (*network) cut() error                    { return errNoNetwork }
func scaleUserTimeout(int, string, time.Duration) (was time.Duration, err error) {
	return 0, errNoNetwork
}
