#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# blk-server is killed at random moments under a guest that writes and verifies at native speed, and that measures how
# long its requests stand still: cold, and with a warm spare, which is there when the kill comes. The disk is in memory if
# there is room. BULKHEAD_LONG=1 kills a thousand times each.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
kills=25
[ -z "${BULKHEAD_LONG-}" ] || kills=1000
disk=$tmp/disk.img
if [ -w /dev/shm ] && [ "$(df --output=avail /dev/shm | tail -n 1)" -gt 65536 ]; then
	disk=$(mktemp -d /dev/shm/bulkhead-test.XXXXXX)
	at_exit rm -r "$disk"
	disk=$disk/disk.img
fi

# number P FILE: a percentile, p50 or p99.
number() { figures "$2" | sed "s/.*$1 \([0-9]*\) .*/\1/; s/none/999999999/"; }

median_at_most() { [ "$(number p50 "$1")" -le $(($2 * 1000)) ]; }
p99_at_most() { [ "$(number p99 "$1")" -le $(($2 * 1000)) ]; }

# storm_prepared SPARE: a process serves, and a spare is there if it is to be.
storm_prepared() {
	[ "$1" = off ] || storm_has_spare || return 1
	storm_serving
}

# storm SPARE TARGET-MS [ENGINE]: the issue's target is for the p99.
storm() {
	local spare=$1 target=$2 engine=${3-aio} n=0 met=missed
	rm -f "$disk" "$tmp/deaths"
	truncate -s 16M "$disk"
	storm_start storm --disk "path=$disk,spare=$spare,engine=$engine" || not_ok "$engine, spare=$spare: the guest starts"
	while [ $n -lt $kills ]; do
		# To ask is to disturb, on a machine with two processors: that is in windows that do not count.
		wait_for 20 storm_prepared "$spare" || break
		storm_say n && pause_at_most 40 || break
		storm_say k && pause_at_most 20 || break
		storm_strike || break
		n=$((n + 1))
		storm_say w || break
	done
	is "$engine, spare=$spare: blk-server was killed and came back $kills times" "$n" "$kills"
	storm_end
	sed -n 's/^stall //p' "$tmp/said" >"$tmp/stalls"
	sed -n 's/^noise //p' "$tmp/said" >"$tmp/noise"
	sed -n 's/.*disk0 is back after \([0-9.]*\) ms.*/\1/p' "$tmp/log" | awk '{ printf "%d\n", $1 * 1000 }' >"$tmp/back"
	is "$engine, spare=$spare: every kill has its stall" "$(wc -l <"$tmp/stalls")" "$kills"
	p99_at_most "$tmp/stalls" "$target" && met=met
	diag "$engine, spare=$spare: stall in us: $(figures "$tmp/stalls"); the target, p99 at most $target ms, is $met" \
		"$engine, spare=$spare: ... of which the process took to die: $(figures "$tmp/deaths")" \
		"$engine, spare=$spare: as the supervisor sees it: $(figures "$tmp/back")" \
		"$engine, spare=$spare: in windows without a kill: $(figures "$tmp/noise")"
}
# check_stalls SPARE TARGET-MS: the long form judges the p99, on a machine on which a guest that nobody disturbs waits for
# less than half of that; the short one, which may run on a busy machine, only wants nobody to wait for a back-off.
check_stalls() {
	local text="spare=$1: the p99 of the stalls is at most $2 ms" noise
	if [ -z "${BULKHEAD_LONG-}" ]; then
		check "spare=$1: half of the stalls are at most 200 ms" median_at_most "$tmp/stalls" 200
		return
	fi
	noise=$(number p99 "$tmp/noise")
	if ! p99_at_most "$tmp/stalls" "$2" && [ "$noise" -gt $(($2 * 500)) ]; then
		skip "$text" "without a kill the p99 is $noise us on this machine"
	else
		check "$text" p99_at_most "$tmp/stalls" "$2"
	fi
}

storm off 50
check_stalls off 50
storm on 5
check_stalls on 5
if [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" != 0 ]; then
	skip "the same with io_uring" "this kernel does not allow it"
else
	[ -n "${BULKHEAD_LONG-}" ] || kills=8
	storm on 5 io_uring
	check_stalls "on, engine=io_uring" 5
fi
