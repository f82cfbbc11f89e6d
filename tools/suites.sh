#!/bin/sh
# The suites, one after the other, with the services in TEST_POSTGRES_URL and TEST_REDIS_URL. Called by tools/test.sh.
set -eu
cd "$(dirname "$0")/.."
began=$(date +%s)

section() { printf '\n== %s (%s s)\n' "$*" "$(($(date +%s) - began))"; }

rooms() { go list ./... | grep -v '^threadhub/test/'; }

export CI=true # a missing service is a failure, not a skip

# The race detector looks after Go's memory. SQLite, which is C made into Go, works on memory of its own: to hand each of
# its accesses to the detector takes four times as long and finds nothing. What calls it is looked after.
race='-race -gcflags=modernc.org/sqlite/lib=-race=false'
link='-ldflags=-w' # without what only debuggers read tests are linked sooner

# The suites share what they build of the product.
THREADHUB_TEST_BINARIES=$(mktemp -d)
export THREADHUB_TEST_BINARIES
trap 'rm -rf "$THREADHUB_TEST_BINARIES"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -n "${THREADHUB_SOAK:-}" ]; then
	section "every room, with the race detector, the long forms"
	# shellcheck disable=SC2046,SC2086 # lists
	go test $race $link -count=1 -timeout 4h $(rooms)
	go test $link -count=1 -run TheTime ./orgs # which the race detector would drown
	section "schedules, the long form"
	go test $link -tags seedbug -v -count=1 -timeout 4h -run '^TestSchedules' ./gateway ./router/failover
	section "the binary from outside, the long forms"
	go test $link -v -count=1 -timeout 4h ./test/...
	section "fuzzing, 5 minutes each"
	FUZZTIME=5m sh tools/fuzz.sh
else
	section "schedules: relay, settling and failover against models, and the bugs they must see"
	go test $link -tags seedbug -v -run '^TestSchedules|^TestMemoryIsLikeTheStore$' ./gateway ./router/failover
	section "every room, with the race detector"
	# shellcheck disable=SC2046,SC2086
	go test $race $link -parallel 4 -timeout 30m $(rooms) # many wait; and a busy machine is slow, not wrong
	# shellcheck disable=SC2086
	go test $link -run TheTime ./orgs # which the race detector would drown
	section "the binary from outside: SDKs, histories, kills, faults, panics, restarts, streams, tenancy, secrets, fidelity"
	go test $link -v -timeout 30m ./test/... # -v shows the tables
	section "fuzzing, 5 s each"
	FUZZTIME=5s sh tools/fuzz.sh
fi
section "all passed"
