package signatures_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/upstreams/signatures"
)

// refusing is a Redis that answers every command with the same error, and counts them.
func refusing(t *testing.T, reply string) (address string, commands *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	commands = new(atomic.Int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					if err != nil || line[0] != '*' {
						return
					}
					n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
					for range n {
						size, err := r.ReadString('\n')
						if err != nil {
							return
						}
						length, _ := strconv.Atoi(strings.TrimSpace(size[1:]))
						if _, err := io.CopyN(io.Discard, r, int64(length)+2); err != nil {
							return
						}
					}
					commands.Add(1)
					if _, err := io.WriteString(c, "-"+reply+"\r\n"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String(), commands
}

// R6: a Redis that is full, only reads, is loading or has lost its cluster is one that is away: a process has its own
// memory, nobody waits, and nothing is repeated.
func TestRedisThatRefuses(t *testing.T) {
	for _, reply := range []string{
		"OOM command not allowed when used memory > 'maxmemory'", "READONLY You can't write against a read only replica.",
		"LOADING Redis is loading the dataset in memory", "CLUSTERDOWN The cluster is down", "MOVED 1 127.0.0.1:1", "NOAUTH Authentication required.",
	} {
		address, commands := refusing(t, reply)
		client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, ReadTimeout: 100 * time.Millisecond})
		s, err := signatures.NewRedis(client, signatures.Options{Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		s.Keep(org, maker, map[string]string{"seen": "QQ=="})
		for range 20 {
			begin := time.Now()
			if got := s.Find(t.Context(), org, maker, []string{"seen", "unknown"}); len(got) != 1 || got["seen"] != "QQ==" {
				t.Errorf("%s: found %v", reply, got)
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("%s: it took %v", reply, took)
			}
		}
		if n := commands.Load(); n > 200 {
			t.Errorf("%s: %d commands for 21", reply, n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_ = client.Close()
	}
}
