#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# FAULTS 62 with the real processes: a guest writes and verifies at native speed while its supervisor is killed, and now
# and then blk-server while there is none; each time another supervisor takes the machine over.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
evidence "$tmp/adopt.log"
# A machine that is alone outlives this test, too: its keeper is ended, and all with it.
end_alone() { grep -q without "$tmp/run/storm/lock" && kill -KILL "$(cut -d ' ' -f 1 "$tmp/run/storm/lock")"; }
at_exit end_alone
rounds=6
[ -z "${BULKHEAD_LONG-}" ] || rounds=40

alone() { grep -q without "$tmp/run/storm/lock"; }
fds_of() { find "/proc/$1/fd" | wc -l; }
core() { [[ $(storm_status) =~ \"core\":\{[^}]*\"pid\":([1-9][0-9]*) ]] && echo "${BASH_REMATCH[1]}"; }
adopt() {
	"$bulkhead" adopt --run-dir "$tmp/run" --log-level debug storm <"$tmp/in" >"$tmp/out" 2>>"$tmp/adopt.log" &
	storm_vm=$!
	tap_pids+=("$storm_vm")
}
# One round; with a word, blk-server dies while there is no supervisor.
bereave() {
	local old
	storm_say n && wait_for 20 storm_serving || return 1
	old=$storm_pid
	pause_at_most 200
	kill -KILL "$storm_vm"
	wait_exit 10 "$storm_vm" && wait_for 10 alone || return 1
	[ -z "${1-}" ] || kill -KILL "$old"
	pause_at_most 300
	adopt
	if [ -n "${1-}" ]; then
		wait_for 20 storm_successor "$old" || return 1
	else
		wait_for 20 storm_serving && [ "$storm_pid" = "$old" ] || return 1
	fi
	storm_say k
}

truncate -s 16M "$tmp/disk.img"
storm_start storm --disk "path=$tmp/disk.img" --on-supervisor-death keep || { not_ok "the guest starts"; exit 1; }
wait_for 20 storm_serving
core=$(core)
done=0
while [ "$done" -lt "$rounds" ]; do
	bereave "$([ $((done % 2)) -eq 0 ] || echo server)" || break
	# After the first of each kind nothing more is to be held.
	[ "$done" -gt 1 ] || had=$(fds_of "$core")
	done=$((done + 1))
done
is "fault 62: the supervisor is killed $rounds times, every other time blk-server after it" "$done" "$rounds"
is "... it is the same core" "$(core)" "$core"
same_fds() { [ "$(fds_of "$core")" -le "$had" ]; }
check "... with no more descriptors than after the first of each kind: $had" wait_for 10 same_fds
diag "descriptors of the core now: $(fds_of "$core")"
storm_end
