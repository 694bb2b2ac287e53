#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Which of the system calls that each process may make its tests use (count-calls.c): the tests below once more, traced, with what
# comes of them for all. Not among the tests that `make check` runs: `scripts/check --security` does, or
#	make -C tests/device check TESTS=calls.sh
# BULKHEAD_CALLS="TEST..." runs others, of tests/device or another folder (guest/bare.sh). Those that trace
# processes themselves (guest/hang.sh) can't run here, nor those in which process 1 of a namespace dies of a fault: traced, it lives.
. "${top_srcdir:?}/tests/support/tap.sh"
count=${top_builddir:?}/tests/device/count-calls
grep -q '^#define BH_SANITIZE' "$top_builddir/config.h" && skip_all "sanitizer builds run without the sandbox"
limit=180 # seconds, for one of them
"$count" "$tmp/none" -- true || skip_all "no process can be traced here"
tests=(test-blk-{io,bus,socket,requests,errors,blocks,qcow2,move,resize,nbd,nbd-hostile,flight}
	"RIG_ENGINE=io_uring test-blk-"{io,bus,requests,blocks,move}
	test-window{,-server} "RIG_WINDOW=1 test-blk-requests"
	test-net-{io,bus,link,control,command,move,limits}
	"test-user --filter=user/!(fault_33_segments*)"
	bulkhead-{image,spare}.sh
	guest/{adopt,bare,host-side,moves,net-bare,ports,window}.sh
	unit/test-confine)
[ -z "${BULKHEAD_CALLS-}" ] || read -ra tests <<<"$BULKHEAD_CALLS"

# A test of ours that needs more than it has here, or more time, still counts for what it did.
for t in "${tests[@]}"; do
	read -ra words <<<"$t"
	environment=()
	[[ $t != *=*\ test-* ]] || { environment=("${words[0]}"); words=("${words[@]:1}"); }
	case $t in
	guest/*.sh) command=(bash "$top_srcdir/tests/$t") ;;
	*.sh) command=(bash "$top_srcdir/tests/device/$t") ;;
	unit/*) command=(sh "$top_srcdir/tests/in-tmp" "$top_builddir/tests/$t") ;;
	*) command=(sh "$top_srcdir/tests/in-tmp" "$top_builddir/tests/device/${words[0]}" "${words[@]:1}") ;;
	esac
	rm -f "$tmp/one"
	CRITERION_OUTPUTS=tap:- timeout -k 5 $limit "$count" "$tmp/one" -- env "${environment[@]}" "${command[@]}" >"$tmp/log" 2>&1
	status=$?
	check "$t, traced: its processes were seen" test -s "$tmp/one"
	cat "$tmp/one" >>"$tmp/used"
	grep -E '^not ok|^    Bail' "$tmp/log" | sed "s,^,# $t: ,"
	[ "$status" -ne 124 ] || diag "$t: not finished in time"
done
"$count" "$tmp/used" >"$tmp/report"
status=$?
cat "$tmp/report"
is "at most two calls of any steady stage are never used" "$status" 0
