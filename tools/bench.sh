#!/bin/sh
# Runs every benchmark. BENCH picks some by name, COUNT repeats them for benchstat.
set -eu
cd "$(dirname "$0")/.."

dirs=$(find . -name '*_test.go' -not -path '*/testdata/*' -exec grep -l '^func Benchmark' {} + | xargs -rn1 dirname | sort -u)
[ -n "$dirs" ] || { echo 'no package has a benchmark'; exit 0; }
# shellcheck disable=SC2086 # a list of folders
go test -run '^$' -bench "${BENCH:-.}" -benchmem -count "${COUNT:-1}" $dirs
