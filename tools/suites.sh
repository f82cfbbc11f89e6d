#!/bin/sh
# The suites, one after the other, with the services in TEST_POSTGRES_URL and TEST_REDIS_URL. Called by tools/test.sh.
set -eu
cd "$(dirname "$0")/.."
began=$(date +%s)

section() { printf '\n== %s (%s s)\n' "$*" "$(($(date +%s) - began))"; }

rooms() { go list ./... | grep -v '^threadhub/test/'; }

export CI=true # a missing service is a failure, not a skip

if [ -n "${THREADHUB_SOAK:-}" ]; then
	section "every room, with the race detector, the long forms"
	# shellcheck disable=SC2046 # a list of packages
	go test -race -count=1 -timeout 4h $(rooms)
	section "the binary from outside, the long forms"
	go test -v -count=1 -timeout 4h ./test/...
	section "fuzzing, 5 minutes each"
	FUZZTIME=5m sh tools/fuzz.sh
else
	section "every room, with the race detector"
	# shellcheck disable=SC2046
	go test -race -parallel 4 -timeout 30m $(rooms) # many wait; and a busy machine is slow, not wrong
	section "the binary from outside: SDKs, histories, kills, faults, panics, restarts, streams, tenancy, secrets, fidelity"
	go test -v -timeout 30m ./test/... # -v shows the tables
	section "fuzzing, 5 s each"
	FUZZTIME=5s sh tools/fuzz.sh
fi
section "all passed"
