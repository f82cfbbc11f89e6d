package testkit

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisLease is how long a test may keep a database; one whose process was killed is free again after it.
const redisLease = 10 * time.Minute

// Redis returns the redis:// URL of an empty database, the test's own until it is over. Pub/sub knows no databases: a
// test that publishes must use a channel name of its own.
func Redis(t testing.TB) string {
	t.Helper()
	server := service(t, EnvRedis, "Redis")
	o, err := redis.ParseURL(server)
	if err != nil {
		t.Fatalf("%s is not a redis:// URL: %v", EnvRedis, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), prepare)
	defer cancel()
	n, err := leaseRedis(ctx, t, o)
	if err != nil {
		t.Fatalf("taking a Redis database: %v", err)
	}
	u := fmt.Sprintf("redis://%s/%d", o.Addr, n)
	if o.Password != "" {
		u = fmt.Sprintf("redis://%s:%s@%s/%d", o.Username, o.Password, o.Addr, n)
	}
	return u
}

// leaseRedis takes a database number of the server, in its database 0, and empties it. Numbers are few (16 by default),
// so it waits for one when all are taken.
func leaseRedis(ctx context.Context, t testing.TB, o *redis.Options) (int, error) {
	book := redis.NewClient(o)
	defer func() { _ = book.Close() }()
	have, err := book.ConfigGet(ctx, "databases").Result()
	if err != nil {
		return 0, err
	}
	count, err := strconv.Atoi(have["databases"])
	if err != nil {
		return 0, fmt.Errorf("the server does not say how many databases it has: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	tenant := rand.Text()
	for {
		for n := 1; n < count; n++ {
			key := "testkit:database:" + strconv.Itoa(n)
			got, err := book.SetNX(ctx, key, tenant, redisLease).Result()
			if err != nil {
				return 0, err
			}
			if got {
				t.Cleanup(func() { freeRedis(t, *o, n, key) })
				return n, flush(ctx, *o, n)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("all %d databases are taken", count-1)
		}
	}
}

func flush(ctx context.Context, o redis.Options, n int) error {
	o.DB = n
	c := redis.NewClient(&o)
	defer func() { _ = c.Close() }()
	return c.FlushDB(ctx).Err()
}

func freeRedis(t testing.TB, o redis.Options, n int, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := flush(ctx, o, n)
	book := redis.NewClient(&o)
	defer func() { _ = book.Close() }()
	if e := book.Del(ctx, key).Err(); err == nil {
		err = e
	}
	if err != nil {
		t.Logf("giving back Redis database %d: %v", n, err) // a test may have killed the server
	}
}
