package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The URL may name several servers, one of which takes writes at a time: another one when that one has failed.

// findsWriter has connections made only to a server that takes writes, unless the URL says otherwise, and returns how many
// servers there are to look at. One that is silent leaves the others time.
func findsWriter(c *pgx.ConnConfig, timeout time.Duration) (servers int) {
	if c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	named := map[string]bool{fmt.Sprint(c.Host, " ", c.Port): true}
	for _, f := range c.Fallbacks { // the same server without TLS is one, too
		named[fmt.Sprint(f.Host, " ", f.Port)] = true
	}
	c.ConnectTimeout = connectTimeout
	if len(named) > 1 {
		c.ConnectTimeout = min(connectTimeout, timeout/time.Duration(len(named)))
	}
	return len(named)
}

// arrived puts a fresh connection on the app's role, and counts it as a failover if it leads to another server than the
// last. That those before it are of no use any more they say themselves, when something is written (25006).
func (s *postgresStore) arrived(ctx context.Context, c *pgx.Conn) error {
	if s.servers > 1 {
		at := c.PgConn().Conn().RemoteAddr().String()
		if was := s.server.Swap(&at); was != nil && *was != at {
			s.n.failovers.Add(1)
			s.o.Log.Warn("the store is at another server now", "was", *was, "is", at)
		}
	}
	_, err := c.Exec(ctx, "SET ROLE "+AppRole)
	return err
}
