package main

import (
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"threadhub/config"
)

// redirects is how often a command goes on to another node of a cluster: once because its keys have moved, once because
// they are moving.
const redirects = 2

// clusterLooks is how often it is looked who has which keys of a cluster, beside what its nodes say when they are asked for
// keys they do not have: one that died says nothing.
const clusterLooks = time.Second

// openRedis makes a client of the Redis there is; nil if there is none. It connects to nothing yet.
func openRedis(cfg *config.Config) (redis.UniversalClient, error) {
	if cfg.RedisURL.Empty() {
		return nil, nil
	}
	at, t := cfg.RedisURL.Reveal(), cfg.Timeouts
	silent := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled} // or it logs by itself
	// go-redis waits for ten seconds on a server that is frozen, whatever the caller's context says.
	if cfg.RedisIsCluster() {
		o, err := redis.ParseClusterURL(at)
		if err != nil { // its text may repeat the URL, and with it the password
			return nil, errors.New("REDIS_URL is not an address that a Redis Cluster understands: redis://user:password@host:6379?addr=host2:6379")
		}
		o.MaintNotificationsConfig = silent
		o.DialTimeout, o.DialerRetries, o.MaxRedirects, o.ClusterStateReloadInterval = t.Connect, 1, redirects, clusterLooks
		o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = t.Redis, t.Redis, t.Redis
		return redis.NewClusterClient(o), nil
	}
	o, err := redis.ParseURL(at)
	if err != nil {
		return nil, errors.New("REDIS_URL is not an address that Redis understands: redis://user:password@host:6379/0")
	}
	o.MaintNotificationsConfig = silent
	o.DialTimeout, o.DialerRetries, o.MaxRetries = t.Connect, 1, -1
	o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = t.Redis, t.Redis, t.Redis
	return redis.NewClient(o), nil
}
