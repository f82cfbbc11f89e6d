#!/bin/sh
# Runs every fuzz target for FUZZTIME (5s). What it finds is written to the package's testdata/fuzz: commit it.
set -eu
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz DIR TARGET: one target. The go command sometimes reports its own end of time as a failure, "context deadline
# exceeded" without a failing input: such a run is repeated.
fuzz() {
	for try in 1 2 3; do
		if go test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-5s}" -fuzzminimizetime 1s "$1" >"$log" 2>&1; then
			tail -n 1 "$log"
			return 0
		fi
		if ! grep -q 'context deadline exceeded' "$log" || grep -q 'Failing input' "$log"; then break; fi
	done
	cat "$log"
	return 1
}

# Only these packages are asked, as asking compiles their tests.
dirs=$(find . -name '*_test.go' -not -path '*/node_modules/*' -not -path '*/testdata/*' -exec grep -l '^func Fuzz' {} + | xargs -rn1 dirname | sort -u)
failed=''
for dir in $dirs; do
	targets=$(go test -list '^Fuzz' "$dir") || { echo "$targets"; failed="$failed $dir"; continue; }
	for target in $(echo "$targets" | grep '^Fuzz'); do
		echo "$dir $target"
		fuzz "$dir" "$target" || failed="$failed $dir:$target"
	done
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
