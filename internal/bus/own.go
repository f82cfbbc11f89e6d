package bus

import (
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Limits of Own.
type Limits struct {
	Dial        time.Duration // how long to wait for a connection
	Timeout     time.Duration // for each answer, and for a place in the pool
	Connections int           // at most
}

// Own returns a client like c with tight timeouts and no retries: go-redis waits ten seconds for a server that is frozen,
// whatever the caller's context says. It takes the address and the credentials from c, which stays the caller's. Of a
// cluster what is asked of a wrong or silent node is asked again as often as c would.
func Own(c redis.UniversalClient, o Limits) redis.UniversalClient {
	switch c := c.(type) {
	case *redis.ClusterClient:
		own := *c.Options()
		own.DialTimeout, own.DialerRetries = o.Dial, 1
		own.ReadTimeout, own.WriteTimeout, own.PoolTimeout = o.Timeout, o.Timeout, o.Timeout
		own.MaxRetries, own.PoolSize, own.MinIdleConns = -1, o.Connections, 0
		return redis.NewClusterClient(&own)
	case *redis.Client:
		own := *c.Options()
		own.DialTimeout, own.DialerRetries = o.Dial, 1
		own.ReadTimeout, own.WriteTimeout, own.PoolTimeout = o.Timeout, o.Timeout, o.Timeout
		own.MaxRetries, own.PoolSize, own.MinIdleConns = -1, o.Connections, 0
		return redis.NewClient(&own)
	}
	panic(fmt.Sprintf("bus: a %T is neither a client nor a cluster client", c)) // wiring, seen at the first start
}
