package testkit

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"threadhub/migrations"
)

// SQLite returns the sqlite:// URL of a fresh file with all migrations applied, in the test's own folder.
func SQLite(t testing.TB) string {
	t.Helper()
	migrated, err := migratedSQLite()
	if err != nil {
		t.Fatalf("migrating a fresh file: %v", err)
	}
	file := filepath.Join(t.TempDir(), "threadhub.db")
	if err := os.WriteFile(file, migrated, 0o600); err != nil {
		t.Fatal(err)
	}
	return "sqlite://" + file
}

// migratedSQLite is the content of a file with all migrations applied. It is made once: with the race detector that takes
// longer than many a test.
var migratedSQLite = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "threadhub-sqlite-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "threadhub.db")
	if err := migrations.Up(context.Background(), "sqlite://"+file, migrations.Options{}); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
})
