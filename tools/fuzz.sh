#!/bin/sh
# Runs every fuzz target for FUZZTIME (5s), as many at a time as there are processors. What it finds is written to the
# package's testdata/fuzz: commit it. With a folder and the name of a target it runs that one.
set -eu
cd "$(dirname "$0")/.."

# fuzz DIR TARGET BINARY: one target of a package whose tests have been compiled for fuzzing. Its end of time is sometimes
# reported as a failure, "context deadline exceeded" without a failing input: such a run is repeated.
fuzz() {
	log=$(mktemp)
	cache=$(go env GOCACHE)/fuzz/threadhub/${1#./} # where go test -fuzz keeps what it has found interesting
	for try in 1 2 3; do
		if (cd "$1" && "$3" -test.run '^$' -test.fuzz "^$2\$" -test.fuzzcachedir "$cache" -test.parallel 1 \
			-test.fuzztime "${FUZZTIME:-5s}" -test.fuzzminimizetime 1s) >"$log" 2>&1; then
			echo "$1 $2: $(grep '^fuzz: elapsed' "$log" | tail -n 1)"
			rm -f "$log"
			return 0
		fi
		if ! grep -q 'context deadline exceeded' "$log" || grep -q 'Failing input' "$log"; then break; fi
	done
	echo "FAILED: $1 $2"
	cat "$log"
	rm -f "$log"
	return 1
}

if [ $# -eq 3 ]; then
	fuzz "$@"
	exit
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
trap 'exit 130' INT TERM

# compile DIR: its tests, for fuzzing, as $bin/dir with dots for slashes.
compile() {
	binary=$bin/$(echo "${1#./}" | tr / .)
	go test -c -fuzz '^Fuzz' -ldflags=-w -o "$binary" "$1"
}

if [ $# -eq 2 ]; then
	compile "$1"
	fuzz "$1" "$2" "$binary"
	exit
fi

# Each package is compiled once, and only those that have targets.
dirs=$(find . -name '*_test.go' -not -path '*/node_modules/*' -not -path '*/testdata/*' -exec grep -l '^func Fuzz' {} + | xargs -rn1 dirname | sort -u)
for dir in $dirs; do
	compile "$dir"
	targets=$(cd "$dir" && "$binary" -test.list '^Fuzz') || { echo "$targets"; exit 1; }
	for target in $(echo "$targets" | grep '^Fuzz'); do echo "$dir $target $binary"; done >>"$bin/all"
done
xargs -P "$(getconf _NPROCESSORS_ONLN)" -n 3 sh tools/fuzz.sh <"$bin/all"
