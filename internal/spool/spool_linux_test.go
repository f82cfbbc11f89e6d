package spool

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
)

// A disk of its own that is really full: what was told to be kept is whole, and what does not fit leaves nothing.
func TestAFullDisk(t *testing.T) {
	dir := t.TempDir()
	switch err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); {
	case errors.Is(err, syscall.EPERM): // not what is missing, but who asks: users may not mount
		t.Skipf("a file system of its own: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(dir, 0) }()
	s, err := Open(dir, keyring(t, seal.NewKey()), Options{Every: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Room(); err != nil {
		t.Errorf("an empty disk: %v", err)
	}
	kept := 0
	for i := range 20 {
		name := "req_" + string(rune('a'+i))
		if err := s.Put(name, make([]byte, 9000)); err != nil {
			break
		}
		kept++
	}
	if kept == 0 || kept == 20 {
		t.Fatalf("%d records were kept on 64 KiB", kept)
	}
	for _, name := range s.Names() {
		if _, err := s.Get(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return fault.HasCode(s.Room(), "storage_full") }, "room to be gone")
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > kept+1 { // a probe may be there
		t.Errorf("the folder holds %d files of %d records, %v", len(left), kept, err)
	}
}
