package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Tables are not taken away under a server, and a file that is not there is not made to take tables from.
func TestMigrateDownBesideAServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	env := []string{"THREADHUB_DATA_DIR=" + dir}
	if code, out, errs := run(t, env, "migrate", "down"); code != exitOK || !strings.Contains(out, "version 0") {
		t.Errorf("of nothing: %d %s%s", code, out, errs)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("down made the data folder")
	}
	r := start(t, env, "serve")
	if code, _, errs := run(t, env, "migrate", "down"); code != exitError || !strings.Contains(errs, "another threadhub") {
		t.Errorf("beside a server: %d %s", code, errs)
	}
	r.stop()
	if code, out, errs := run(t, env, "migrate", "down"); code != exitOK || !strings.Contains(out, "to come: 0012_budgets") {
		t.Errorf("after it: %d %s%s", code, out, errs)
	}
}

func TestDataDirThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if code, _, errs := run(t, nil, "demo", "--data-dir", dir); code != exitError || !strings.Contains(errs, "data_dir is "+dir) {
			t.Errorf("%s: %d %s", dir, code, errs)
		}
	}
}
