package faults

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/test/kills"
)

// nodeTime is after how long the nodes of a cluster take a silent one for dead, and the cluster for down.
const nodeTime = 2 * time.Second

// clusterTime is how long a command may take: longer than elsewhere, as a busy machine is not what the row is about.
const clusterTime = 10 * redisTime

var moves = row{
	id: "R7", title: "a cluster moves its keys, and loses a node", metric: "threadhub_shared_streams_up", lacks: "what becomes of limits there",
	setup: setup{cluster: true, replicas: 2, env: append(longStreams(), "THREADHUB_TIMEOUTS__REDIS="+clusterTime.String())},
	play:  moved,
}

// moved plays R7. Tapes of the row's org are told and heard while the slot that they are in goes from one node to another,
// and are heard of anew when a node was away.
func moved(w *world) {
	ctx := context.Background()
	n := w.nodes()
	tag := "{" + w.who.Org + "}"
	heard := func(pieces int) (pair [2]*live) {
		first := w.question(said(pieces, 50*time.Millisecond), keyed(w.name()))
		pair[0] = w.streaming(w.g[1], first)
		pair[1] = w.streaming(w.g[0], again(first)) // through Redis
		return pair
	}
	alike := func(pair [2]*live) {
		w.Helper()
		first, follower := pair[0].wait(), pair[1].wait()
		w.wants([]*kills.Exchange{first, follower}, well)
		if follower.Seen != first.Seen || follower.Request != first.Request {
			w.Errorf("who followed got %q, the first %q", follower.Seen, first.Seen)
		}
	}
	running := heard(90)
	w.moveSlot(n, tag, func() { alike(heard(20)) }) // on the other node already
	alike(heard(20))
	alike(running)
	for _, reply := range []string{"MOVED", "ASK"} {
		if w.replies(n, reply) == 0 {
			w.Errorf("no command was answered %s", reply)
		}
	}

	lost := w.rand.IntN(len(n))
	w.unmoved(func() {
		w.must(w.cluster.Nodes[lost].Kill())
		w.eventually(20*time.Second, func() bool {
			info, err := n[(lost+1)%len(n)].ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:fail")
		}, "the cluster to be down")
	}, clusterTime)
	w.must(w.cluster.Nodes[lost].Restart(ctx))
	w.must(w.cluster.Whole(ctx))
	for _, g := range w.g {
		w.eventually(10*time.Second, func() bool {
			now := w.metrics(g)
			return now["threadhub_shared_streams_up"] == 1 && now["threadhub_bus_up"] == 1
		}, "replicas to hear each other again")
	}
	alike(heard(20))
	if k := w.replies(n, "CROSSSLOT"); k > 0 {
		w.Errorf("%d commands had keys of several slots", k)
	}
}

// nodes are clients of the cluster's nodes, one each.
func (w *world) nodes() (list []*redis.Client) {
	w.Helper()
	for _, s := range w.cluster.Nodes {
		o, err := redis.ParseURL(s.URL())
		w.must(err)
		c := redis.NewClient(o)
		w.Cleanup(func() { _ = c.Close() })
		list = append(list, c)
	}
	return list
}

// moveSlot moves the slot that key is in to another node. halfway runs while keys that are there are on the one node, and
// those that are not on the other.
func (w *world) moveSlot(n []*redis.Client, key string, halfway func()) {
	w.Helper()
	ctx := context.Background()
	slot := w.slot(n, key)
	from, to := w.owner(n, slot), 0
	for to == from {
		to++
	}
	set := func(at int, args ...any) {
		w.Helper()
		w.must(n[at].Do(ctx, append([]any{"CLUSTER", "SETSLOT", slot}, args...)...).Err())
	}
	id := func(at int) string {
		w.Helper()
		s, err := n[at].Do(ctx, "CLUSTER", "MYID").Text()
		w.must(err)
		return s
	}
	set(to, "IMPORTING", id(from))
	set(from, "MIGRATING", id(to))
	halfway()
	host, port, err := net.SplitHostPort(n[to].Options().Addr)
	w.must(err)
	for {
		keys, err := n[from].ClusterGetKeysInSlot(ctx, slot, 100).Result()
		w.must(err)
		if len(keys) == 0 {
			break
		}
		for _, k := range keys {
			w.must(n[from].Migrate(ctx, host, port, k, 0, 5*time.Second).Err())
		}
	}
	for _, at := range []int{to, from} {
		set(at, "NODE", id(to))
	}
}

func (w *world) slot(n []*redis.Client, key string) int {
	w.Helper()
	slot, err := n[0].ClusterKeySlot(context.Background(), key).Result()
	w.must(err)
	return int(slot)
}

// owner is which node has a slot.
func (w *world) owner(n []*redis.Client, slot int) int {
	w.Helper()
	list, err := n[0].ClusterSlots(context.Background()).Result()
	w.must(err)
	for _, s := range list {
		for at, c := range n {
			if s.Start <= slot && slot <= s.End && s.Nodes[0].Addr == c.Options().Addr {
				return at
			}
		}
	}
	w.Fatalf("nobody has slot %d: %v", slot, list)
	return 0
}

// replies is how often the nodes have answered with an error of this name.
func (w *world) replies(n []*redis.Client, name string) (sum int) {
	w.Helper()
	for _, c := range n {
		info, err := c.Info(context.Background(), "errorstats").Result()
		w.must(err)
		for line := range strings.Lines(info) {
			if count, ok := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("errorstat_%s:count=", name)); ok {
				k, err := strconv.Atoi(count)
				w.must(err)
				sum += k
			}
		}
	}
	return sum
}
