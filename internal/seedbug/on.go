//go:build seedbug

// Package seedbug plants bugs, for the suites to show that they would see them: a build with the tag seedbug has all of
// them, and the environment names the one that is on. Without the tag it is nothing at all.
package seedbug

import "os"

// Env names the bug.
const Env = "THREADHUB_TEST_SEEDBUG"

var on = os.Getenv(Env)

// Planted names the bug that is on.
func Planted() string { return on }

// Plant turns the bug of that name on, in place of the one before, for tests that look for several in one process.
func Plant(name string) { on = name }

// On reports whether the bug of that name is on.
func On(name string) bool { return name == on }
