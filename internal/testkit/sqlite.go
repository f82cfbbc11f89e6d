package testkit

import (
	"context"
	"path/filepath"
	"testing"

	"threadhub/migrations"
)

// SQLite returns the sqlite:// URL of a fresh file with all migrations applied, in the test's own folder.
func SQLite(t testing.TB) string {
	t.Helper()
	url := "sqlite://" + filepath.Join(t.TempDir(), "threadhub.db")
	if err := migrations.Up(context.Background(), url, migrations.Options{}); err != nil {
		t.Fatalf("migrating a fresh file: %v", err)
	}
	return url
}
