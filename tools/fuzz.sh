#!/usr/bin/env bash
# usage: tools/fuzz.sh [PACKAGE...]
# Runs every fuzz target whose package and name match FUZZ (all), each for FUZZTIME (1m)
# with FUZZFLAGS, goes on after one that fails, and prints a table. It ends with 1 if one
# failed. The input that made it fail is then below testdata/fuzz of its package: commit
# it with the mend, and every go test runs it from then on.
set -uo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-1m} choice=${FUZZ:-.}
read -ra flags <<<"${FUZZFLAGS:-}"
[ $# -gt 0 ] || set -- ./...
packages=$(go list "$@") || exit 1

table=$'package\ttarget\texecutions\tnew interesting\tresult\n'
failed=0 ran=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for package in $packages; do
	# Compiling every package to list its targets would take long; most have none.
	dir=$(go list -f '{{.Dir}}' "$package")
	targets=$(cat "$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing\.F).*/\1/p' | sort)
	for target in $targets; do
		[[ "$package $target" =~ $choice ]] || continue
		echo "== $package $target" >&2
		ran=$((ran + 1)) result=ok
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "${flags[@]}" "$package" 2>&1 | tee "$output" >&2
		[ "${PIPESTATUS[0]}" = 0 ] || { result=FAILED failed=$((failed + 1)); }
		last=$(grep -E '^fuzz: elapsed: .* execs: ' "$output" | tail -n 1)
		executions=$(sed -n 's/.* execs: \([0-9]*\).*/\1/p' <<<"$last")
		new=$(sed -n 's/.*new interesting: \([0-9]*\).*/\1/p' <<<"$last")
		table+="$package"$'\t'"$target"$'\t'"${executions:-0}"$'\t'"${new:-0}"$'\t'"$result"$'\n'
	done
done
column -t -s $'\t' <<<"$table" 2>/dev/null || echo "$table"
if [ "$ran" = 0 ]; then
	echo "no fuzz target matches FUZZ=$choice"
	exit 1
fi
if [ "$failed" -gt 0 ]; then
	echo "$failed of $ran targets failed. What failed them is in testdata/fuzz of each package: commit it with the mend."
	exit 1
fi
echo "$ran targets, none failed"
