#!/bin/sh
# The suites, one after the other, with the services in TEST_POSTGRES_URL and TEST_REDIS_URL. Called by tools/test.sh.
set -eu
cd "$(dirname "$0")/.."
began=$(date +%s)

section() { printf '\n== %s (%s s)\n' "$*" "$(($(date +%s) - began))"; }

export CI=true # a missing service is a failure, not a skip

if [ -n "${THREADHUB_SOAK:-}" ]; then
	section "go test -race ./..., the long forms"
	go test -race -count=1 -timeout 4h ./...
	section "fuzzing, 5 minutes each"
	FUZZTIME=5m sh tools/fuzz.sh
else
	section "go test -race ./..."
	go test -race ./...
	section "fuzzing, 5 s each"
	FUZZTIME=5s sh tools/fuzz.sh
fi
section "all passed"
