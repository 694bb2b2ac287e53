#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One device is restarted again and again, idle without a spare and under load with one: neither the core nor the supervisor
# nor the keeper keeps a descriptor, a page or a mapping of it. BULKHEAD_LONG=1 makes it ten thousand times, two thousand with a spare,
# each of which waits for the next one.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/support/memory.bash"
. "$top_srcdir/tests/guest/storm.bash"

restart() {
	local n
	for ((n = 0; n < $1; n++)); do
		[ "$spare" = off ] || wait_for 20 storm_has_spare || break
		storm_kill || break
	done
	made=$n
}
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

declare -A process fds own resident maps growth new_maps
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

# many SPARE WARM-UP RESTARTS: restarts it so often, and judges.
many() {
	local spare=$1 who round
	restarts=$3
	fds=() own=() resident=() maps=() growth=() new_maps=()
	truncate -s 0 "$tmp/disk.img" && truncate -s 16M "$tmp/disk.img"
	storm_start storm --disk "path=$tmp/disk.img,spare=$spare" || not_ok "spare=$spare: the guest starts"
	storm_say n
	# The device stays live, on rings that were started; only nobody asks anything of it.
	[ "$spare" = on ] || "$bulkhead" ctl storm pause --run-dir "$tmp/run" >/dev/null
	process[core]=$(storm_status | sed -n 's/.*"id":"core"[^}]*"pid":\([1-9][0-9]*\).*/\1/p')
	process[supervisor]=$storm_vm
	process[keeper]=$(cut -d' ' -f1 "/proc/$storm_vm/task/$storm_vm/children")
	# Until the heap, which the threads share in another way each time, has been everywhere.
	restart "$2"
	for who in core supervisor keeper; do fds[$who]=$(lowest $who); done
	measure
	# A leak grows in every round; a thread that takes its first page of the heap late does not.
	for ((round = 1; round <= 3; round++)); do
		restart "$restarts"
		is "spare=$spare: the device was restarted $restarts times" "$made" "$restarts"
		for who in core supervisor keeper; do wait_for 5 same $who "${fds[$who]}"; done
		measure
		for who in core supervisor keeper; do
			diag "$who: $(lowest $who) descriptors, ${fds[$who]} before; ${maps[$who]} mappings, ${new_maps[$who]} of them new;" \
				"... ${resident[$who]} KiB resident, ${own[$who]} of them its own, grown by ${growth[$who]}"
		done
		! settled || break
	done
	for who in core supervisor keeper; do
		check "spare=$spare: $who has the descriptors that it had" wait_for 5 same $who "${fds[$who]}"
		check "spare=$spare: $who has grown by less than 1 %" test $((growth[$who] * 100)) -lt "${resident[$who]}"
		check "spare=$spare: $who keeps no mapping of a restart" test "${new_maps[$who]}" -lt $((restarts / 10))
	done
	[ "$spare" = on ] || "$bulkhead" ctl storm resume --run-dir "$tmp/run" >/dev/null
	storm_end
}

if [ -n "${BULKHEAD_LONG-}" ]; then
	many off 1000 10000
	many on 200 2000
else
	many off 200 200
	many on 100 100
fi
