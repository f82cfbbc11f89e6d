package db_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/testkit"
)

// A unit that comes just after the server has gone has certainly not happened, and its caller is told so, soon: it was not
// sent into a connection that the server had closed.
func TestAUnitAfterTheServerHasGoneIsNotInDoubt(t *testing.T) {
	t.Parallel()
	services := testkit.StartFor(t, testkit.Options{NoRedis: true})
	url := services.Postgres.URL()
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), "CREATE ROLE "+db.AppRole); err != nil {
		t.Fatal(err)
	}
	_ = admin.Close(t.Context())
	s := open(t, db.Options{URL: url})
	if err := s.Commit(t.Context(), &db.Unit{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil { // a connection of the side lane is there, too
		t.Fatal(err)
	}
	if err := services.Postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = s.Commit(context.Background(), &db.Unit{})
	if !fault.HasCode(err, "storage_unavailable") {
		t.Errorf("it is told %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}
