#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Which of the system calls that each process may make its tests use (count-calls.c): the tests below once more, traced, with what
# comes of them for all. Not among the tests that `make check` runs: `scripts/check --security` does, or
#	make -C tests/device check TESTS=calls.sh
# BULKHEAD_CALLS="TEST..." runs others, of tests/device or tests/guest (guest/bare.sh).
. "${top_srcdir:?}/tests/support/tap.sh"
count=${top_builddir:?}/tests/device/count-calls
grep -q '^#define BH_SANITIZE' "$top_builddir/config.h" && skip_all "sanitizer builds run without the sandbox"
"$count" "$tmp/none" -- true || skip_all "no process can be traced here"
tests=(test-blk-{io,bus,socket,requests,errors,blocks,qcow2,move,resize,nbd,nbd-hostile,flight} test-window
	test-net-{io,bus,link,control,command,move,limits}
	bulkhead-{image,spare,upgrade}.sh
	guest/{bare,hang,net-bare,ports,window}.sh)
[ -z "${BULKHEAD_CALLS-}" ] || read -ra tests <<<"$BULKHEAD_CALLS"

# A test of ours that needs more than it has here, or more time, still counts for what it did.
for t in "${tests[@]}"; do
	case $t in
	guest/*.sh) command=(bash "$top_srcdir/tests/$t") ;;
	*.sh) command=(bash "$top_srcdir/tests/device/$t") ;;
	*) command=(sh "$top_srcdir/tests/in-tmp" "$top_builddir/tests/device/$t") ;;
	esac
	CRITERION_OUTPUTS=tap:- timeout -k 5 60 "$count" "$tmp/used" -- "${command[@]}" >"$tmp/log" 2>&1
	status=$?
	check "$t, traced: its processes were seen" test -s "$tmp/used"
	grep -E '^not ok|^    Bail' "$tmp/log" | sed "s,^,# $t: ,"
	[ "$status" -ne 124 ] || diag "$t: not finished in time"
done
"$count" "$tmp/used" >"$tmp/report"
status=$?
cat "$tmp/report"
is "at most two calls of any steady stage are never used" "$status" 0
