#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A disk with memory=window under a guest that writes and verifies at native speed: its server has none of the guest's memory, and
# it and its window are killed, together with each other, and stopped, with a spare and without. The disk grows meanwhile. No request is lost, none is
# completed twice, and all data are right. BULKHEAD_LONG=1 kills more often.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
kills=6
[ -z "${BULKHEAD_LONG-}" ] || kills=300
disk=$tmp/disk.img

# The window of disk0, if it is up.
window_serving() {
	[[ $(storm_status) =~ \"id\":\"disk0.window\",\"process\":\"window\",\"state\":\"up\",\"pid\":([1-9][0-9]*) ]] &&
		window_pid=${BASH_REMATCH[1]}
}
both_serving() { storm_serving && window_serving; }
new_pair() { both_serving && [ "$storm_pid" != "$1" ] && [ "$window_pid" != "$2" ]; }

# strike SIGNAL server|window: what one process is sent has both replaced.
strike() {
	local old_server old_window
	wait_for 20 both_serving || return 1
	old_server=$storm_pid old_window=$window_pid
	if [ "$2" = server ]; then kill "-$1" "$old_server"; else kill "-$1" "$old_window"; fi
	wait_for 30 new_pair "$old_server" "$old_window"
}

# memory PID: what memfds it maps, and has open, each once.
memory() {
	{
		grep -o '/memfd:[^ ]*' "/proc/$1/maps"
		find "/proc/$1/fd" -lname '/memfd:*' -printf '%l\n' | cut -d' ' -f1
	} | sort -u | xargs
}

for spare in on off; do
	rm -f "$disk"
	truncate -s 16M "$disk"
	storm_start storm --disk "path=$disk,id=disk0,memory=window,window=4M,spare=$spare" ||
		not_ok "spare=$spare: the guest starts"
	wait_for 20 both_serving
	if [ -r "/proc/$storm_pid/maps" ]; then
		like "the window has the guest's memory" "$(memory "$window_pid")" '/memfd:guest-ram'
		like "... and its own" "$(memory "$window_pid")" '/memfd:window( |$)'
		like "the server has the window" "$(memory "$storm_pid")" '/memfd:window( |$)'
		unlike "... and none of the guest's memory, neither mapped nor open" "$(memory "$storm_pid")" 'guest'
	else
		skip "what the server maps" "only root may look"
	fi
	size=16
	for which in server window; do
		n=0
		while [ $n -lt $kills ]; do
			strike KILL $which || break
			pause_at_most 60
			n=$((n + 1))
		done
		is "spare=$spare: the $which is killed, and both are back" $n "$kills"
		storm_say n
		check "spare=$spare: the $which is stopped, and both are back" strike STOP $which
		wait_for 20 both_serving && { [ $spare = off ] || wait_for 20 storm_has_spare; }
		size=$((size + 1))
		check "spare=$spare: the disk grows" "$bulkhead" ctl storm resize disk0 ${size}M --run-dir "$tmp/run"
		check "... and the guest knows" storm_say g
	done
	wait_for 20 both_serving
	"$bulkhead" ctl storm stats disk0.window --run-dir "$tmp/run" >"$tmp/stats"
	check "all requests went through it" awk '$1 == "bytes_into_window" { i = $2 } $1 == "bytes_out_of_window" { o = $2 }
		END { exit !(i && o) }' "$tmp/stats"
	storm_end
done
