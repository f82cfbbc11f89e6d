package calls_test

import (
	"os"
	"testing"

	"threadhub/calls"
)

func TestCheckpoint(t *testing.T) {
	dir := t.TempDir() + "/streams"
	c, err := calls.OpenCheckpoints(dir)
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Begin("req_1")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"data: one\n\n", "data: two\n\n"} {
		if err := k.Add([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	// Another process finds it while the first has not closed it: it was killed.
	if got, err := c.Read("req_1"); err != nil || string(got) != "data: one\n\ndata: two\n\n" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.Begin("req_1"); err == nil {
		t.Error("a call has two checkpoints")
	}
	if info, err := os.Stat(dir + "/req_1"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v, %v", info.Mode(), err)
	}
	if err := k.Done(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read("req_1"); err != nil || got != nil {
		t.Errorf("after the record: %q, %v", got, err)
	}

	k, err = c.Begin("req_2")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(); err != nil {
		t.Fatal(err)
	}
	if err := c.Clear(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("after Clear: %v, %v", entries, err)
	}
}

func TestNoCheckpoints(t *testing.T) {
	var c *calls.Checkpoints
	k, err := c.Begin("req_1")
	if err != nil || k.Add([]byte("x")) != nil || k.Keep() != nil || k.Done() != nil || c.Clear() != nil {
		t.Errorf("none is not nothing: %v", err)
	}
	if got, err := c.Read("req_1"); err != nil || got != nil {
		t.Errorf("read %q, %v", got, err)
	}
}
