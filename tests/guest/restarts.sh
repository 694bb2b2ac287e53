#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One device is restarted again and again: neither the core nor the supervisor nor the keeper keeps a descriptor, a page
# or a mapping of it. BULKHEAD_LONG=1 makes it ten thousand times.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/support/memory.bash"
. "$top_srcdir/tests/guest/storm.bash"
restarts=200 warm_up=200
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
# count NAME: its descriptors.
count() { ls "/proc/${process[$1]}/fd" | wc -l; }
same() { [ "$(count "$1")" = "$2" ]; }
# lowest NAME: its descriptors without those of a process that is being reaped.
lowest() {
	for _ in 1 2 3 4 5 6 7 8; do
		count "$1"
		pause_at_most 100
	done | sort -n | head -n 1
}

declare -A fds own resident maps growth new_maps
# measure: the own and the resident memory and the mappings of each, and what has been added since the last time.
measure() {
	local who before mapped
	for who in "${!process[@]}"; do
		before=${own[$who]:-0} mapped=${maps[$who]:-0}
		read -r "own[$who]" "resident[$who]" "maps[$who]" <<<"$(memory "${process[$who]}")"
		growth[$who]=$((own[$who] - before)) new_maps[$who]=$((maps[$who] - mapped))
	done
}
# The C library maps and unmaps stacks and heaps of its own: a few mappings come and go.
grew() { [ $((growth[$1] * 100)) -ge "${resident[$1]}" ] || [ "${new_maps[$1]}" -ge $((restarts / 10)) ]; }
settled() { ! grew core && ! grew supervisor && ! grew keeper; }

# Until the heap, which the threads share in another way each time, has been everywhere.
restart $warm_up
for who in core supervisor keeper; do fds[$who]=$(lowest $who); done
measure
# A leak grows in every round; a thread that takes its first page of the heap late does not.
for ((round = 1; round <= 3; round++)); do
	restart $restarts
	is "the device was restarted $restarts times" "$made" "$restarts"
	for who in core supervisor keeper; do wait_for 5 same $who "${fds[$who]}"; done
	measure
	for who in core supervisor keeper; do
		diag "$who: $(count $who) descriptors, ${fds[$who]} before; ${maps[$who]} mappings, ${new_maps[$who]} of them new;" \
			"${resident[$who]} KiB resident, ${own[$who]} of them its own, grown by ${growth[$who]}"
	done
	! settled || break
done
for who in core supervisor keeper; do
	is "$who has the descriptors that it had" "$(count $who)" "${fds[$who]}"
	check "$who has grown by less than 1 %" test $((growth[$who] * 100)) -lt "${resident[$who]}"
	check "$who keeps no mapping of a restart" test "${new_maps[$who]}" -lt $((restarts / 10))
done
"$bulkhead" ctl storm resume --run-dir "$tmp/run" >/dev/null
storm_end
