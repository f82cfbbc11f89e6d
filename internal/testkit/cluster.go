package testkit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// clusterNodes are as few as a cluster can have and still agree on who is away.
const clusterNodes = 3

// slots are how many parts the keys of a cluster are in.
const slots = 16384

// Cluster is a Redis Cluster of three servers on free ports of 127.0.0.1, without replicas, that keeps nothing on disk but
// who is in it.
type Cluster struct {
	Nodes []*Server
	bus   []int // the nodes' other ports, on which they talk with each other
	dir   string
}

// StartCluster starts a cluster and returns when all of its nodes agree that it is whole. A node that is silent for
// nodeTimeout is taken for dead. It needs redis-server, as Start does.
func StartCluster(ctx context.Context, nodeTimeout time.Duration) (*Cluster, error) {
	bin, err := redisBinary()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "threadhub-cluster-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir}
	for i := range clusterNodes {
		if err = c.add(ctx, bin, filepath.Join(dir, strconv.Itoa(i)), nodeTimeout); err != nil {
			break
		}
	}
	if err == nil {
		err = c.join(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a cluster: %w", err), c.Stop())
	}
	return c, nil
}

// add starts one more node, which knows nobody yet.
func (c *Cluster) add(ctx context.Context, bin, home string, nodeTimeout time.Duration) error {
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	bus, err := freePort() // by default it is the other port and ten thousand, and there may be no such port
	if err != nil {
		return err
	}
	s := redisServer(filepath.Join(home, "log"))
	s.command = func(port int) []string {
		return []string{
			bin, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", home,
			"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus),
			"--cluster-node-timeout", strconv.FormatInt(nodeTimeout.Milliseconds(), 10),
		}
	}
	c.Nodes, c.bus = append(c.Nodes, s), append(c.bus, bus)
	return s.start(ctx)
}

// join makes one cluster of the nodes, each with its share of the slots.
func (c *Cluster) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for i, s := range c.Nodes {
		first, last := i*slots/clusterNodes, (i+1)*slots/clusterNodes-1
		for _, command := range [][]any{
			{"CLUSTER", "ADDSLOTSRANGE", first, last},
			{"CLUSTER", "SET-CONFIG-EPOCH", i + 1},
		} {
			if err := s.do(ctx, command...); err != nil {
				return err
			}
		}
	}
	for i, s := range c.Nodes[1:] {
		if err := c.Nodes[0].do(ctx, "CLUSTER", "MEET", "127.0.0.1", s.port, c.bus[i+1]); err != nil {
			return err
		}
	}
	return c.whole(ctx)
}

// Whole returns when all nodes agree that the cluster is whole.
func (c *Cluster) Whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return c.whole(ctx)
}

func (c *Cluster) whole(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		agree := 0
		for _, s := range c.Nodes {
			node := s.client()
			info, err := node.ClusterInfo(ctx).Result()
			_ = node.Close()
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprint("cluster_known_nodes:", clusterNodes)) {
				agree++
			}
		}
		if agree == clusterNodes {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes agree: %w", agree, clusterNodes, context.Cause(ctx))
		}
	}
}

// client is one of this node alone.
func (s *Server) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: strings.TrimPrefix(s.URL(), "redis://"), MaxRetries: -1, MaintNotificationsConfig: silent})
}

func (s *Server) do(ctx context.Context, command ...any) error {
	c := s.client()
	defer func() { _ = c.Close() }()
	if err := c.Do(ctx, command...).Err(); err != nil {
		return fmt.Errorf("%v: %w", command, err)
	}
	return nil
}

// URL names all nodes, as go-redis writes it: the first as the host, the others as addr.
func (c *Cluster) URL() string {
	u := url.URL{Scheme: "redis"}
	others := url.Values{}
	for i, s := range c.Nodes {
		addr := strings.TrimPrefix(s.URL(), "redis://")
		if i == 0 {
			u.Host = addr
		} else {
			others.Add("addr", addr)
		}
	}
	u.RawQuery = others.Encode()
	return u.String()
}

// StartClusterFor is StartCluster for one test, as StartFor is Start.
func StartClusterFor(t testing.TB, nodeTimeout time.Duration) *Cluster {
	t.Helper()
	service(t, EnvRedis, "a Redis Cluster of its own")
	c, err := StartCluster(context.Background(), nodeTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Errorf("stopping the cluster: %v", err)
		}
	})
	return c
}

// Stop ends all nodes and removes what they kept.
func (c *Cluster) Stop() error {
	for _, s := range c.Nodes {
		s.end()
	}
	return os.RemoveAll(c.dir)
}

// shared is the cluster of this test process, if a test has asked for one.
var shared struct {
	sync.Mutex
	cluster *Cluster
}

// sharedNodeTimeout is long: that the machine is busy is not what most tests are about.
const sharedNodeTimeout = 20 * time.Second

// RedisCluster returns the URL of a Redis Cluster, empty. All tests of a process have the same one, one after the other:
// a test that uses it must not be parallel. Leaks ends it.
func RedisCluster(t testing.TB) string {
	t.Helper()
	service(t, EnvRedis, "a Redis Cluster")
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil {
		c, err := StartCluster(context.Background(), sharedNodeTimeout)
		if err != nil {
			t.Fatal(err)
		}
		shared.cluster = c
	}
	for _, s := range shared.cluster.Nodes {
		if err := s.do(context.Background(), "FLUSHALL"); err != nil {
			t.Fatal(err)
		}
	}
	return shared.cluster.URL()
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil {
		return nil
	}
	c := shared.cluster
	shared.cluster = nil
	return c.Stop()
}

// silent keeps go-redis from logging by itself.
var silent = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

// RedisClient returns a client of what Redis or RedisCluster returned, until the test is over. It gives up a command after
// timeout, and repeats none.
func RedisClient(t testing.TB, at string, timeout time.Duration) redis.UniversalClient {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	var c redis.UniversalClient
	if u.Query().Has("addr") {
		o, err := redis.ParseClusterURL(at)
		if err != nil {
			t.Fatal(err)
		}
		o.ReadTimeout, o.WriteTimeout, o.MaintNotificationsConfig = timeout, timeout, silent
		c = redis.NewClusterClient(o)
	} else {
		o, err := redis.ParseURL(at)
		if err != nil {
			t.Fatal(err)
		}
		o.ReadTimeout, o.WriteTimeout, o.MaxRetries, o.MaintNotificationsConfig = timeout, timeout, -1, silent
		c = redis.NewClient(o)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
