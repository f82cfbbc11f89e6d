package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/config"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
)

func redisConfig(url string, cluster bool) *config.Config {
	c := config.Default()
	c.RedisURL, c.RedisCluster = seal.NewSecret(url), cluster
	return c
}

// One node is enough to find all of a cluster.
func TestOneNodeOfACluster(t *testing.T) {
	u, err := url.Parse(testkit.StartClusterFor(t, 20*time.Second).URL())
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = ""
	cfg := redisConfig(u.String(), true)
	cfg.Timeouts.Redis = 5 * time.Second // a busy machine is not what this is about
	c, err := openRedis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range 100 { // on all nodes
		if err := c.Set(t.Context(), fmt.Sprint("key ", i), "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// No kind of client waits as long as go-redis would, and each address that is wrong is told without its password.
func TestRedisIsNotWaitedFor(t *testing.T) {
	want := config.Default().Timeouts
	one, err := openRedis(redisConfig("redis://h:1", false))
	if err != nil {
		t.Fatal(err)
	}
	if o := one.(*redis.Client).Options(); o.ReadTimeout != want.Redis || o.WriteTimeout != want.Redis || o.PoolTimeout != want.Redis || o.DialTimeout != want.Connect || o.MaxRetries != 0 {
		t.Errorf("of one Redis: %+v", o)
	}
	many, err := openRedis(redisConfig("redis://h:1?addr=i:2", false))
	if err != nil {
		t.Fatal(err)
	}
	if o := many.(*redis.ClusterClient).Options(); o.ReadTimeout != want.Redis || o.WriteTimeout != want.Redis || o.PoolTimeout != want.Redis ||
		o.DialTimeout != want.Connect || o.MaxRedirects != redirects || o.ClusterStateReloadInterval != clusterLooks || len(o.Addrs) != 2 {
		t.Errorf("of a cluster: %+v", o)
	}
	_, _ = one.Close(), many.Close()
	for _, u := range []string{"redis://:hunter2@h:1?unknown=1", "redis://:hunter2@h:1?addr=nowhere"} {
		if _, err := openRedis(redisConfig(u, false)); err == nil {
			t.Errorf("%s was taken", u)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", u, err)
		}
	}
}
