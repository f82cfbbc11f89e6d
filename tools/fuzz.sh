#!/bin/sh
# Runs every fuzz target for FUZZTIME (5s), as many at a time as there are processors. What it finds is written to the
# package's testdata/fuzz: commit it. With a folder and the name of a target it runs that one.
set -eu
cd "$(dirname "$0")/.."

# fuzz DIR TARGET: one target. The go command sometimes reports its own end of time as a failure, "context deadline
# exceeded" without a failing input: such a run is repeated.
fuzz() {
	log=$(mktemp)
	for try in 1 2 3; do
		if go test -run '^$' -fuzz "^$2\$" -parallel 1 -fuzztime "${FUZZTIME:-5s}" -fuzzminimizetime 1s "$1" >"$log" 2>&1; then
			echo "$1 $2: $(tail -n 1 "$log")"
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

if [ $# -eq 2 ]; then
	fuzz "$1" "$2"
	exit
fi

# Only these packages are asked, as asking compiles their tests.
dirs=$(find . -name '*_test.go' -not -path '*/node_modules/*' -not -path '*/testdata/*' -exec grep -l '^func Fuzz' {} + | xargs -rn1 dirname | sort -u)
all=''
for dir in $dirs; do
	targets=$(go test -list '^Fuzz' "$dir") || { echo "$targets"; exit 1; }
	for target in $(echo "$targets" | grep '^Fuzz'); do
		all="$all$dir $target
"
	done
done
printf %s "$all" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -n 2 sh tools/fuzz.sh
