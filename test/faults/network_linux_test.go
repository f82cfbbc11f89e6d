package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// network is one apart from the machine's own, with a cable between them.
type network struct {
	name, cable string
	host        string // the machine's address on the cable
}

// newNetwork makes one that is gone when the row is over. An error says that the machine does not allow it.
func newNetwork(w *world) (*network, error) {
	pid, nth := os.Getpid(), tenants.Add(1)
	n := &network{name: fmt.Sprint("threadhub", pid, "-", nth), cable: fmt.Sprint("th", pid%100000, "c", nth%1000)}
	// Addresses that are kept for tests of networks (RFC 2544): others of this process, and of others, have others.
	first := int(nth%64) * 4
	at := func(k int) string { return fmt.Sprintf("198.%d.%d.%d", 18+pid>>8&1, pid&255, first+k) }
	n.host = at(1)
	if err := ip("netns", "add", n.name); err != nil {
		return nil, err
	}
	w.Cleanup(func() {
		if err := ip("netns", "del", n.name); err != nil { // and the cable with it
			w.TB.Error(err)
		}
	})
	for _, args := range []string{
		"link add " + n.cable + " type veth peer name far netns " + n.name,
		"addr add " + n.host + "/30 dev " + n.cable,
		"link set " + n.cable + " up",
		"-n " + n.name + " addr add " + at(2) + "/30 dev far",
		"-n " + n.name + " link set far up",
	} {
		if err := ip(strings.Fields(args)...); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// dial connects from within the network.
func (n *network) dial(addr string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock it: the thread ends with this goroutine
		var at *os.File
		if at, err = os.Open("/run/netns/" + n.name); err != nil {
			return
		}
		defer func() { _ = at.Close() }()
		if err = unix.Setns(int(at.Fd()), unix.CLONE_NEWNET); err == nil {
			c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		}
	}()
	<-done
	return c, err
}

// cut takes the link away: what is sent is lost, and nobody is told.
func (n *network) cut() error { return ip("-n", n.name, "link", "set", "far", "down") }

// scaleUserTimeout sets what TCP_USER_TIMEOUT is of a process's connection with peer, and returns what it was.
func scaleUserTimeout(pid int, peer string, to time.Duration) (was time.Duration, err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(process) }()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, err
	}
	for _, f := range list {
		n, err := strconv.Atoi(f.Name())
		if err != nil {
			return 0, err
		}
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err != nil {
			continue // it has been closed meanwhile
		}
		at, err := unix.Getpeername(fd)
		if err == nil && addrOf(at) == peer {
			ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(to.Milliseconds())), unix.Close(fd))
			return time.Duration(ms) * time.Millisecond, err
		}
		_ = unix.Close(fd)
	}
	return 0, fmt.Errorf("the process has no connection with %s", peer)
}

func addrOf(at unix.Sockaddr) string {
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(at.Addr[:]).String(), strconv.Itoa(at.Port))
	case *unix.SockaddrInet6: // a socket of both families
		return net.JoinHostPort(net.IP(at.Addr[:]).String(), strconv.Itoa(at.Port))
	}
	return ""
}
