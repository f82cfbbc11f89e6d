// Package faults plays the fault matrix: each row makes one part fail (Postgres, Redis, a provider, a client, the gateway
// itself) under the real binary, and looks at what the clients got, what thread and ledger hold, and which metric moved.
// After each row the invariants are checked on the store, the clients' logs and the providers' own log (the checker is
// that of test/kills).
//
// Rows are in one file per letter, as values of row. One is played alone, and again as it was, by
//
//	go test ./test/faults -run 'Faults/P3' -seed 7
//
// A row that cannot be shown yet says what it awaits, and one that is shown in part says what is lacking; so does one that
// needs what this machine does not allow, as a small disk or a network of its own. With THREADHUB_SOAK each row is played
// with many seeds, and docs/faults.md is written with what came of it.
//
// The suite is tested by bugs that are planted in a build of their own (internal/seedbug): each must be caught.
package faults
