#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Each target for a few seconds from its corpus on: BULKHEAD_FUZZ=N has it be N. What is found is left as fuzz-TARGET-*.
. "${top_srcdir:?}/tests/support/tap.sh"

seconds=${BULKHEAD_FUZZ:-7}
found=$top_builddir/tests/fuzz/found
mkdir -p "$found"
for folder in "$top_srcdir"/tests/fuzz/corpus/*/; do
	target=$(basename "$folder")
	mkdir "$tmp/$target"
	if "$top_builddir/tests/fuzz/fuzz-$target" -max_total_time="$seconds" -max_len=1024 -rss_limit_mb=1024 -timeout=20 \
		-print_final_stats=1 -artifact_prefix="$found/$target-" "$tmp/$target" "$folder" >"$tmp/$target.log" 2>&1; then
		runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$tmp/$target.log")
		cover=$(sed -n 's/.*DONE *cov: \([0-9]*\).*/\1/p' "$tmp/$target.log")
		ok "fuzz-$target: $runs executions in $seconds s, $cover edges, no finding"
	else
		not_ok "fuzz-$target: a finding" "$(tail -n 60 "$tmp/$target.log")"
	fi
done
