#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A register of one device answers as fast as ever while another device's process dies and is replaced: the worst read
# in a window with a kill against the median read. What this machine itself does to a read is measured the same way,
# in windows without a kill, in turn, in which the host does all else the same. The vCPU's thread gets the scheduler's
# first choice where that is allowed: to be waiting for a processor is not to be waiting for another process. That of half
# of the windows is judged, and in the long form, which wants a machine that does nothing else, the worst read of all.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
kills=15 judged=median
[ -z "${BULKHEAD_LONG-}" ] || kills=100 judged=largest

truncate -s 16M "$tmp/disk.img" "$tmp/other.img"
storm_start probe --disk "path=$tmp/disk.img" --disk "path=$tmp/other.img" || not_ok "the guest starts"
core=$(storm_status | sed -n 's/.*"id":"core"[^}]*"pid":\([1-9][0-9]*\).*/\1/p')
for task in /proc/"$core"/task/*; do
	[[ $(<"$task/comm") != vcpu* ]] || vcpu=${task##*/}
done
# vcpu_first yes|no: only for the windows, since the scheduler stops who takes all of a processor for a second.
vcpu_first() {
	if [ "$1" = yes ]; then chrt -f -p 1 "${vcpu:-none}"; else chrt -o -p 0 "${vcpu:-none}"; fi 2>"$tmp/chrt"
}
vcpu_first no || diag "the vCPU competes with all others: $(<"$tmp/chrt")"
# storm_kill without the kill.
storm_spare_it() {
	local end=$((${EPOCHREALTIME/./} + $1))
	while [ "${EPOCHREALTIME/./}" -lt $end ]; do
		storm_serving
		pause_at_most 20
	done
}
# column KIND FIELD: one number of each window, in ns.
column() { sed -n "s/^reads $1 //p" "$tmp/said" | cut -d' ' -f"$2"; }
median() { sort -n | awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : 0 }'; }
largest() { sort -n | tail -n 1; }
# within_limit: what was measured so far, judged.
within_limit() {
	for kind in n k; do
		column $kind 4 >"$tmp/worst.$kind"
	done
	usual=$(column n 2 | median)
	noise=$($judged <"$tmp/worst.n") worst=$($judged <"$tmp/worst.k")
	limit=$((usual * 10))
	[ "${worst:-0}" -le "$limit" ]
}
# Windows of the kind w are not counted: the first warms up, the others are between two that are. What else the machine
# does may come in some windows and not in others: then more of them are taken, and all are judged.
storm_say w
n=0
for goal in $kills $((3 * kills)) $((9 * kills)); do
	while [ $n -lt "$goal" ]; do
		pause_at_most 100
		vcpu_first yes
		storm_say k || break
		begun=${EPOCHREALTIME/./}
		pause_at_most 20
		storm_kill || break
		took=$((${EPOCHREALTIME/./} - begun))
		storm_say w || break
		vcpu_first no
		pause_at_most 100
		vcpu_first yes
		storm_say n || break
		storm_spare_it $took
		storm_say w || break
		vcpu_first no
		n=$((n + 1))
	done
	is "blk-server of the other disk was killed and came back $goal times" "$n" "$goal"
	{ [ "$n" = "$goal" ] && ! within_limit; } || break
done
storm_end

within_limit
diag "a read takes $usual ns; the worst of a window, in ns:" \
	"without a kill $(figures "$tmp/worst.n"), with a kill $(figures "$tmp/worst.k")"
check "reads were measured in every window" test "$(wc -l <"$tmp/worst.k")" = "$n" -a "${usual:-0}" -gt 0
# What this machine alone does to a read can't be judged.
for judged in median ${BULKHEAD_LONG:+largest}; do
	within_limit
	text="the worst read while it is replaced ($judged of the windows: $worst ns) is at most ten times the usual ($limit ns)"
	if [ "$worst" -gt "$limit" ] && [ "$noise" -gt "$limit" ]; then
		skip "$text" "this machine alone makes a read wait $noise ns"
	else
		check "$text" within_limit
	fi
done
