//go:build !seedbug

// Package seedbug plants bugs, for the suites to show that they would see them: a build with the tag seedbug has all of
// them, and the environment names the one that is on. Without the tag it is nothing at all.
package seedbug

// On reports whether the bug of that name is on.
func On(string) bool { return false }
