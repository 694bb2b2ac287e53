#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# FAULTS 62 with the real processes: a guest writes and verifies at native speed while its supervisor is killed, and now
# and then blk-server while there is none; each time another supervisor takes the machine over. Then a machine with a process
# of each kind, all of which find the next supervisor.
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

# ---- a process of each kind ----
command -v jq >/dev/null || { skip "each kind of process" "jq is not installed"; exit; }
export BULKHEAD_PATH=$BULKHEAD_PATH:$top_builddir/net-server:$top_builddir/net-user:$top_builddir/nbd-dial
ctl() { "$bulkhead" ctl --run-dir "$tmp/run" "$@"; }
# serve: an NBD server on a port that nobody has, in $nbd.
serve() {
	local port tries=0
	while [ $((tries += 1)) -le 8 ]; do
		port=$((20000 + RANDOM % 10000))
		spawn nbdkit --exit-with-parent -f -t 1 -i 127.0.0.1 -p $port file "$tmp/nbd.img" 2>>"$tmp/nbdkit"
		taken() { ! kill -0 "$pid" 2>/dev/null || tap_ended "$pid"; }
		serves() { (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
		serves_or_not() { taken || serves; }
		wait_for 10 serves_or_not && ! taken && nbd=nbd://127.0.0.1:$port && return
	done
	return 1
}
# All of them, by the numbers of their threads, as they say on the bus.
processes() {
	ctl --json storm loops | jq -c '[.processes[] | select(.id != "supervisor") | [.id, .spare, .loops[].tid]] | sort'
}
all_told() { ctl --json storm loops | jq -e '[.processes[] | .loops | length > 0] | all' >/dev/null; }
rm -f "$tmp/disk.img"
truncate -s 16M "$tmp"/{disk,uring,window,nbd}.img
disks=(--disk "path=$tmp/disk.img" --disk "path=$tmp/window.img,memory=window,window=4M")
[ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" != 0 ] || disks+=(--disk "path=$tmp/uring.img,engine=io_uring")
if grep -q '^#define HAVE_LIBNBD' "$top_builddir/config.h" && command -v nbdkit >/dev/null && serve; then
	disks+=(--disk "nbd=$nbd")
else
	skip "one of them with an NBD server" "no libnbd, or no nbdkit"
fi
storm_start storm "${disks[@]}" --net "user,restrict=on" --on-supervisor-death keep ||
	{ not_ok "a machine with each kind of process starts"; exit 1; }
wait_for 20 storm_has_spare && wait_for 20 all_told
before=$(processes)
storm_say n
kill -KILL "$storm_vm"
wait_exit 10 "$storm_vm" && wait_for 10 alone
adopt
same() { [ "$(processes)" = "$before" ]; }
check "each kind of process: all of them find the next supervisor" wait_for 20 same
for device in $(ctl --json storm status | jq -r '.devices[].id'); do
	check "... and are told by it: the thread of $device is pinned" ctl storm pin "$device/io0" 0
done
storm_end
