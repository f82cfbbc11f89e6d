package testkit

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// SmallDisk returns a folder that is a disk of its own with room for so many bytes, which anybody may write to, until the
// test is over. An error says that this machine does not let us have one.
func SmallDisk(t testing.TB, bytes int64) (dir string, err error) {
	t.Helper()
	dir, err = os.MkdirTemp("", "threadhub-disk-") // not the test's own folder, which other users cannot reach
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0777", bytes)); err != nil {
		_ = os.Remove(dir)
		return "", fmt.Errorf("mounting a small disk: %w", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting a small disk: %v", err)
		}
		_ = os.Remove(dir)
	})
	return dir, nil
}
