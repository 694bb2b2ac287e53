#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# FAULTS 42: a blk-server that answers pings and completes nothing, one that is stopped, one that spins, each under a guest
# that writes and verifies at native speed: found within 2 s and replaced, nothing lost. Storage that takes its time is
# not a hang, nor is a successor that can't open it yet. BULKHEAD_LONG=1 takes more rounds.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
rounds=3
[ -z "${BULKHEAD_LONG-}" ] || rounds=20
guest=$top_builddir/tests/guest

hangs() { grep -c 'device disk0 hangs' "$tmp/log"; }
more_hangs() { [ "$(hangs)" -gt "$1" ]; }
stop_all() { kill -STOP "$1"; }
# disturb HOW PID: its I/O thread, and that alone.
disturb() {
	"$guest/disturb" "$1" "$2" io >"$tmp/disturbed" &
	tap_pids+=("$!")
	wait_for 5 grep -q "done" "$tmp/disturbed"
}
stop_thread() { disturb stop "$1"; }
spin_thread() { disturb spin "$1"; }

# detect COMMAND: does this to the process that serves disk0; how long until the core says so, in ms, is added to
# $tmp/took. Then waits for the successor.
detect() {
	local before from
	storm_serving || return 1
	before=$(hangs)
	from=${EPOCHREALTIME/./}
	"$1" "$storm_pid" || return 1
	wait_for 20 more_hangs "$before" || return 1
	echo $(((${EPOCHREALTIME/./} - from) / 1000)) >>"$tmp/took"
	wait_for 20 storm_successor "$storm_pid"
}
spread() { sort -n "$1" | awk '{ v[NR] = $1 } END { printf "min %s median %s max %s", v[1], v[int((NR + 1) / 2)], v[NR] }'; }
# Each of them in the long form; in the short one, which runs on busy machines, half of them.
in_time() {
	local judged=median
	[ -z "${BULKHEAD_LONG-}" ] || judged=max
	[ "$(spread "$1" | sed "s/.*$judged \([0-9]*\).*/\1/")" -le 2000 ]
}
# rounds FAULT TEXT COMMAND
rounds() {
	local n=0
	: >"$tmp/took"
	while [ $n -lt $rounds ]; do
		storm_say n || break
		pause_at_most 300
		detect "$3" || break
		n=$((n + 1))
	done
	is "fault $1: $2: found and replaced $rounds times" "$n" "$rounds"
	diag "$2: found after, in ms: $(spread "$tmp/took")"
	check "fault $1: $2: within 2 s" in_time "$tmp/took"
}

# The guest expects a disk of zeros.
new_disk() { truncate -s 0 "$tmp/disk.img" && truncate -s 16M "$tmp/disk.img"; }
new_disk
storm_start storm --disk "path=$tmp/disk.img" || { not_ok "the guest starts"; exit 1; }
rounds 42 "stopped" stop_all
rounds 42 "answers pings, but its queue's thread is stopped" stop_thread
rounds 43 "its queue's thread spins" spin_thread
unlike "none of them was found by its pings" "$(<"$tmp/log")" 'ping'
storm_end

# ---- told not to look ----
new_disk
storm_start storm --disk "path=$tmp/disk.img,hang-timeout=0" || { not_ok "the guest starts"; exit 1; }
storm_serving
kill -STOP "$storm_pid"
pause_at_least() {
	local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
	while [ "${EPOCHREALTIME/./}" -lt $end ]; do pause_at_most 100; done
}
pause_at_least 3
is "hang-timeout=0: a stopped one is left alone" "$(hangs)" 0
kill -CONT "$storm_pid"
storm_end

# ---- slow storage ----
: >"$tmp/slow.img"
slow=
if [ -w /dev/fuse ] && [ "$(id -u)" -eq 0 ]; then
	at_exit umount -l "$tmp/slow.img"
	"$top_builddir/tests/support/slow-file" "$tmp/slow.img" "$tmp/disk.img" >"$tmp/slow.out" 2>&1 &
	slow=$!
	tap_pids+=("$slow")
	wait_for 5 grep -q ready "$tmp/slow.out" || slow=
fi
if [ -z "$slow" ]; then
	skip "fault 42: storage that holds requests for 4 s" "no FUSE file can be mounted here"
	exit
fi
new_disk
storm_start storm --disk "path=$tmp/slow.img" || { not_ok "the guest starts"; exit 1; }
storm_serving
old=$storm_pid
storm_say n
kill -USR1 "$slow"
pause_at_least 4
is "fault 42: storage that holds requests for 4 s is no hang" "$(hangs)" 0
like "... but said to be slow" "$(<"$tmp/log")" 'device disk0: no progress on queue 0 for [1-9][0-9]* ms: its storage is slow'
storm_serving
is "... the same process serves" "$storm_pid" "$old"
from=${EPOCHREALTIME/./}
kill -STOP "$old"
check "... and when it is stopped as well, that is found" wait_for 20 more_hangs 0
like "... as status tells" "$(storm_status)" '"state":"killed","killed_for":"queue0madenoprogress'
like "... and people" "$("$bulkhead" ctl storm status --run-dir "$tmp/run")" 'killed +process [0-9]+ \(queue 0 made no progress'
diag "stopped with slow storage: found after $(((${EPOCHREALTIME/./} - from) / 1000)) ms"
kill -USR2 "$slow"
check "... it is replaced once its storage gives the requests back" wait_for 20 storm_successor "$old"

# ---- killed with writes in the storage ----
# die_with_writes SECONDS MEANWHILE...: kills it, and MEANWHILE judges what is there so much later.
die_with_writes() {
	storm_serving
	old=$storm_pid
	storm_say n
	kill -USR1 "$slow"
	pause_at_least 1
	kill -KILL "$old"
	pause_at_least "$1"
	check "fault 48: killed while its storage holds requests" gone "$old"
	"${@:2}"
	kill -USR2 "$slow"
	check "... and serves once it gives them back" wait_for 20 storm_successor "$old"
	like "... and its death is told as it was" "$(storm_status)" '"last_death":"diedofsignal9'
	storm_end
}
not_replaced() {
	storm_successor "$old"
	is "... it is not replaced as long as it does" $? 1
	like "... and status says that it is dead" "$(storm_status)" '"state":"dead"'
}
# However long that takes, it is no failure of the successor.
waits() {
	check "... its successor has the rings" wait_for 20 storm_successor "$old"
	check "... and waits" wait_for 20 grep -q 'waits for what a predecessor left to the kernel' "$tmp/log"
	pause_at_least 4
	like "... as status tells" "$(storm_status)" '"state":"up",.*"away":\{"what":"predecessor",.*"restarts":1,'
}
die_with_writes 3 not_replaced
if [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" != 0 ]; then
	skip "fault 48: the same with io_uring" "this kernel does not allow it"
else
	new_disk
	storm_start storm --disk "path=$tmp/slow.img,engine=io_uring" || not_ok "the guest starts with io_uring"
	wait_for 20 storm_has_spare
	die_with_writes 3 waits
fi

# ---- a successor that opens storage which does not answer ----
# successor_waits SECONDS: its predecessor leaves nothing in the storage; longer than the time for a start, 2 s.
successor_waits() {
	new_disk
	storm_start storm --disk "path=$tmp/slow.img,spare=off" --start-timeout 2 || not_ok "the guest starts without a spare"
	storm_serving
	storm_say n
	kill -STOP "$storm_pid"
	# What it has asked for is answered in order, so before the last one, which is ours.
	dd if="$tmp/slow.img" of=/dev/null bs=4096 count=1 iflag=direct status=none
	kill -USR1 "$slow"
	wait_for 5 held_last holding
	kill -KILL "$storm_pid"
	wait_for 5 held_last held
	pause_at_least "$1"
	like "fault 42: a successor waits for its storage for $1 s, as status tells" "$(storm_status)" \
		'"state":"starting",.*"away":\{"what":"storage","name":"[^"]*/slow.img","for_s":[1-9].*"restarts":1,'
	like "... and people" "$("$bulkhead" ctl storm status --run-dir "$tmp/run")" 'waits for its storage, .*/slow.img, for [1-9]'
	like "... and the log" "$(<"$tmp/log")" 'disk0: blk-server \(process [0-9]+\) waits for its storage, .*/slow.img'
	unlike "... and is not killed for it" "$(<"$tmp/log")" 'disk0: killing blk-server'
	kill -USR2 "$slow"
	check "... the disk is served once that answers" wait_for 20 storm_serving
}
held_last() { [ "$(tail -n 1 "$tmp/slow.out")" = "$1" ]; }
successor_waits 4
like "... by the same process" "$(storm_status)" '"restarts":1,'
storm_end
# The core does not wait that long for an answer; another process is needed, and that is all.
successor_waits 13
like "... by the next one" "$(storm_status)" '"restarts":2,'
storm_end
kill -TERM "$slow"
