#!/bin/sh
# All tests. Looks for what they need, installs it where it may (root on Debian), starts a throw-away Postgres and Redis,
# and runs the suites. With TEST_POSTGRES_URL and TEST_REDIS_URL set, those servers are used and none is started.
# THREADHUB_SOAK=1 runs the long forms.
set -eu
cd "$(dirname "$0")/.."

section() { printf '\n== %s\n' "$*"; }

section "what the tests need"
sh tools/needs.sh

if [ -n "${TEST_POSTGRES_URL:-}" ] && [ -n "${TEST_REDIS_URL:-}" ]; then
	sh tools/suites.sh
else
	section "a throw-away Postgres and Redis"
	go run ./internal/testkit/cmd/services -- sh tools/suites.sh
fi
