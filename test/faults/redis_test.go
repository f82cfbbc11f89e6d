package faults

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/test/kills"
)

var withRedis = setup{redis: true}

var redisRows = []row{
	{id: "R1", title: "Redis is down", setup: setup{redis: true, replicas: 2}, metric: "threadhub_limits_degraded", play: func(w *world) {
		w.unmoved(func() { w.must(w.redis.Kill()) }, redisTime)
		w.degraded(w.g[0], true)
		w.must(w.redis.Restart(context.Background()))
		w.degraded(w.g[0], false)
		w.want(w.ask(said(2, 0)), well)
	}},
	{id: "R2", title: "Redis is frozen", setup: withRedis, metric: "threadhub_limits_degraded", play: func(w *world) {
		w.unmoved(func() { w.must(w.redis.Freeze()) }, redisTime)
		w.degraded(w.g[0], true)
		w.must(w.redis.Thaw())
		w.degraded(w.g[0], false)
		w.want(w.ask(said(2, 0)), well)
	}},
	{id: "R3", title: "Redis is slow: 20 ms more", setup: setup{redis: true, between: true}, play: func(w *world) {
		w.unmoved(func() { w.wire["redis"].Delay(20 * time.Millisecond) }, 40*time.Millisecond)
	}},
	{id: "R4", title: "failover of Redis, with the last writes lost", setup: withRedis, play: limitsAfterFailover},
	{id: "R5", title: "FLUSHALL", setup: withRedis, play: func(w *world) {
		w.unmoved(func() { w.must(w.redisClient().FlushAll(context.Background()).Err()) }, 0)
	}},
	{id: "R6", title: "Redis answers with OOM, READONLY or LOADING", setup: withRedis, play: func(w *world) {
		c := w.redisClient()
		switch pick(w, "oom", "readonly") {
		case "oom":
			w.unmoved(func() { w.must(c.ConfigSet(context.Background(), "maxmemory", "1").Err()) }, 0)
			w.must(c.ConfigSet(context.Background(), "maxmemory", "0").Err())
		case "readonly":
			w.unmoved(func() { w.must(c.ReplicaOf(context.Background(), "127.0.0.1", "1").Err()) }, 0)
			w.must(c.ReplicaOf(context.Background(), "NO", "ONE").Err())
		}
	}},
	moves,
	{id: "R8", title: "a command that timed out was carried out", setup: setup{redis: true, between: true}, play: limitsCountOnce},
	{id: "R9", title: "the clock of Redis jumps", setup: withRedis, play: limitsWhenTheClockJumps},
	{id: "R10", title: "a pooled connection gives another's reply", metric: "threadhub_cache_tenant_mismatch_total", setup: setup{replicas: 2, redis: true, between: true, env: longStreams()}, play: func(w *world) {
		first := w.question(said(160, 50*time.Millisecond), keyed(w.name()))
		l := w.streaming(w.g[1], first)
		follower := w.streaming(w.g[0], again(first)) // through Redis
		ours := []byte(w.who.Org)
		theirs := bytes.Clone(ours) // of the same length, so that no reply is broken
		theirs[len(theirs)-1] ^= 1
		w.wire["redis"].Edit(func(way Way, p []byte) []byte {
			if way == Up {
				return p
			}
			return bytes.ReplaceAll(p, ours, theirs)
		})
		w.moved("threadhub_cache_tenant_mismatch_total")
		w.wire["redis"].Edit(nil)
		w.wants([]*kills.Exchange{l.wait(), follower.wait()}, well)
		if follower.Seen != first.Seen || follower.Request != first.Request {
			w.Errorf("who followed got %q, the first %q", follower.Seen, first.Seen)
		}
	}},
	{id: "R11", title: "Redis and Postgres are down", setup: setup{redis: true, own: true}, metric: "threadhub_store_up", play: func(w *world) {
		w.want(w.ask(said(1, 0)), well)
		unknown := w.house.Seed("unknown", "eve@unknown.example", "admin") // to the gateway
		w.must(w.redis.Kill())
		w.must(w.pg.Kill())
		e := w.ask(said(1, 0))
		w.eventually(5*time.Second, func() bool { return w.status(w.g[0].Operator+"/health/ready") == 503 }, "the gateway not to be ready")
		stranger := w.question(said(1, 0))
		c := &kills.Client{Addr: w.g[0].Host(), Key: unknown.Key}
		c.Ask(stranger)
		c.Close()
		w.must(w.redis.Restart(context.Background()))
		back := w.back()
		w.want(e, refused(503, "storage_unavailable").in(databaseTime))
		if stranger.Status != 503 {
			w.Errorf("a key that cannot be looked up got %d", stranger.Status)
		}
		w.recovers(back)
	}},
	{id: "R12", title: "many ask at once with a key that nobody has looked up", setup: setup{apart: true}, play: func(w *world) {
		g := w.house.Serve() // which knows nobody
		before := w.lookups()
		for _, e := range w.many(60, 60, func(int) *kills.Exchange { return w.send(g, w.question(said(1, 0), plain)) }) {
			w.want(e, well)
		}
		w.must(g.Stop(10 * time.Second)) // its backends tell their statistics as they end
		w.sleep(time.Second)
		if n := w.lookups() - before; n > 30 {
			w.Errorf("one key was looked up %d times", n)
		}
	}},
}

// unmoved checks that what is done to Redis changes nothing, but for a little time.
func (w *world) unmoved(do func(), more time.Duration) {
	w.Helper()
	thread := w.question("").Thread
	ask := func() time.Duration {
		began := time.Now()
		for i := range 6 {
			how := []option{in(thread)}
			if i%2 == 1 {
				how = append(how, whole)
			}
			w.want(w.ask(said(2, 0), how...), well)
			w.must(w.renameKey(i)) // which is told to other processes
		}
		return time.Since(began)
	}
	usual := ask()
	limit := w.limit(12)
	limit.ask(4)
	do()
	if now := ask(); now > usual+6*3*more+slack {
		w.Errorf("it took %v, and %v before", now, usual)
	}
	limit.ask(20)
	limit.kept(len(w.g) - 1) // what one replica has not heard of another
}

// renameKey changes something that all processes are told of.
func (w *world) renameKey(i int) error {
	r, err := w.g[0].Do(context.Background(), "PUT", "/api/orgs/"+w.who.Org+"/providers/openai", w.who.Key, map[string]string{"api_key": "sk-openai-of-" + w.who.Org})
	if err == nil && r.Status != 200 {
		err = fmt.Errorf("change %d: status %d %s", i, r.Status, r.Body)
	}
	return err
}

func (w *world) redisClient() *redis.Client {
	w.Helper()
	o, err := redis.ParseURL(w.redis.URL())
	w.must(err)
	c := redis.NewClient(o)
	w.Cleanup(func() { _ = c.Close() })
	return c
}

// lookups is how often keys have been looked up in Postgres.
func (w *world) lookups() (n int64) {
	w.Helper()
	conn := w.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	w.must(conn.QueryRow(context.Background(), `SELECT coalesce(idx_scan, 0) + seq_scan FROM pg_stat_user_tables WHERE relname = 'api_keys'`).Scan(&n))
	return n
}
