//go:build !race

package sdk

var goFlags []string // see race_on_test.go
