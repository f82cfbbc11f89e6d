package db_test

import (
	"context"
	"net"
	"net/url"
	"testing"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/testkit"
)

// Of several servers in the URL, one that is silent or refuses does not keep us from the one that takes writes, nor from
// it in time.
func TestOtherServersAreLookedAt(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel answers for it, and nobody else does
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for name, first := range map[string]string{"silent": silent.Addr().String(), "refuses": "127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(testkit.Postgres(t))
			if err != nil {
				t.Fatal(err)
			}
			u.Host = first + "," + u.Host
			const timeout = 2 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			store, err := db.Open(ctx, db.Options{URL: u.String(), Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = store.Close() }()
			if err := store.Common(t.Context(), func(db.Tx) error { return nil }); err != nil {
				t.Errorf("leases: %v", err)
			}
			if err := store.Read(t.Context(), "org_a", func(db.Tx) error { return nil }); err != nil {
				t.Errorf("the pool: %v", err)
			}
			if n := store.Stats().Failovers; n != 0 {
				t.Errorf("%d failovers, and the server is where it was", n)
			}
		})
	}
}
