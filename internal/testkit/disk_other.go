//go:build !linux

package testkit

import (
	"errors"
	"testing"
)

// SmallDisk is for Linux alone.
func SmallDisk(testing.TB, int64) (dir string, err error) {
	return "", errors.New("small disks are mounted on Linux alone")
}
