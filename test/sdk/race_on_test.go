//go:build race

package sdk

// goFlags are those this test was built with, as far as they decide which compiled packages can be used again: the Go SDK
// takes a minute to compile.
var goFlags = []string{"-race"}
