package main

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"threadhub/internal/db"
)

// A log that somebody changed in the file is told of, in words, in JSON and by the exit status.
func TestVerifyTellsOfABrokenLog(t *testing.T) {
	dir := t.TempDir()
	env := []string{"THREADHUB_DATA_DIR=" + dir}
	for _, org := range []string{"acme", "globex"} {
		if status, _, errs := run(t, env, "seed", "--org", org, "--user", "ann@example.com"); status != exitOK {
			t.Fatal(errs)
		}
	}
	if status, out, errs := run(t, env, "audit", "verify", "--json"); status != exitOK || !strings.Contains(out, `"ok":true,"orgs":2`) {
		t.Fatalf("as it was written: %d %s %s", status, out, errs)
	}
	conn, err := sql.Open("sqlite", db.SQLiteDSN(filepath.Join(dir, "threadhub.db"), false))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, s := range []string{
		`DROP TRIGGER audit_no_update`,
		`UPDATE audit SET detail = '{"role":"viewer"}' WHERE org_id = 'org_acme' AND seq = 2`,
	} {
		if _, err := conn.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	status, out, errs := run(t, env, "audit", "verify", "--json")
	if status != exitError || !strings.Contains(out, `"ok":false,"orgs":2`) || !strings.Contains(out, `"bad_line":2,"why":"it is not as it was written"`) ||
		!strings.Contains(errs, "of 1 of 2 orgs") || strings.Count(out, "\n") != 1 {
		t.Errorf("after the change: %d %s %s", status, out, errs)
	}
	if status, out, _ = run(t, env, "audit", "verify"); status != exitError || !strings.Contains(out, "BROKEN at line 2") || strings.Count(out, "  ok\n") != 1 {
		t.Errorf("in words: %d %s", status, out)
	}
	if status, _, _ = run(t, env, "audit", "verify", "--org", "org_globex"); status != exitOK {
		t.Errorf("another org's log: %d", status)
	}
}
