#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One device is restarted again and again: neither the core nor the supervisor nor the keeper keeps a descriptor or a
# page of it. BULKHEAD_LONG=1 makes it ten thousand times.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
restarts=200 warm_up=200 grown=
[ -z "${BULKHEAD_LONG-}" ] || restarts=10000 warm_up=1000

truncate -s 16M "$tmp/disk.img"
storm_start storm --disk "path=$tmp/disk.img,spare=off" || not_ok "the guest starts"
# The device stays live, on rings that were started; only nobody asks anything of it.
storm_say n
"$bulkhead" ctl storm pause --run-dir "$tmp/run" >/dev/null

restart() {
	local n
	for ((n = 0; n < $1; n++)); do storm_kill || break; done
	made=$n
}
core=$(storm_status | sed -n 's/.*"id":"core"[^}]*"pid":\([1-9][0-9]*\).*/\1/p')
declare -A process=([core]=$core [supervisor]=$storm_vm [keeper]=$(cut -d' ' -f1 "/proc/$storm_vm/task/$storm_vm/children"))
# count NAME: its descriptors; rss NAME: its resident memory in KiB.
count() { ls "/proc/${process[$1]}/fd" | wc -l; }
rss() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/${process[$1]}/status"; }
same() { [ "$(count "$1")" = "$2" ]; }
# lowest NAME: its descriptors without those of a process that is being reaped.
lowest() {
	for _ in 1 2 3 4 5 6 7 8; do
		count "$1"
		pause_at_most 100
	done | sort -n | head -n 1
}

# Until the heap, which the threads share in another way each time, has been everywhere.
restart $warm_up
declare -A fds kib
for who in core supervisor keeper; do
	fds[$who]=$(lowest $who) kib[$who]=$(rss $who)
done
all=0
while [ $all -lt $restarts ]; do
	restart $((restarts / 10))
	[ "$made" -eq $((restarts / 10)) ] || break
	all=$((all + made))
	grown+=" $(rss supervisor)"
done
is "the device was restarted $restarts times" "$all" "$restarts"
diag "resident memory of the supervisor on the way, in KiB: ${kib[supervisor]},$grown"
for who in core supervisor keeper; do
	wait_for 5 same $who "${fds[$who]}"
	now=$(rss $who)
	diag "$who: $(count $who) descriptors, ${fds[$who]} before; resident $now KiB, ${kib[$who]} before"
	is "$who has the descriptors that it had" "$(count $who)" "${fds[$who]}"
	check "$who has grown by less than 1 %" test $((now * 100)) -lt $((${kib[$who]:-0} * 101))
done
"$bulkhead" ctl storm resume --run-dir "$tmp/run" >/dev/null
storm_end
