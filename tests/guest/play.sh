#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The bare guest plays at random (payload/play.h): registers, rings and interrupts, mostly right and now and then wrong, on a
# raw disk, a qcow2 one, one with io_uring and a port in user mode; then the same while their processes are killed. The core
# and the supervisor live on, device processes are only replaced, and each device serves whenever the guest has reset it.
# BULKHEAD_LONG=1 plays for minutes with each of several seeds. PLAY="seed=N steps=N from=N" plays that once, as the guest's
# last line before a finding says it, with kills if PLAY_KILLS=1.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
command -v jq >/dev/null || skip_all "jq is not installed"
export BULKHEAD_PATH=$BULKHEAD_PATH:$top_builddir/net-server:$top_builddir/net-user
options=(--net "user,restrict=on")
grep -q '^#define BH_SANITIZE' "$top_builddir/config.h" && options+=(--sandbox off)
seeds=1 steps=5000
[ -z "${BULKHEAD_LONG-}" ] || seeds="1 2 3 4 5" steps=100000
steps_all=0 restarts_all=0

new_disks() {
	disks=(--disk "path=$tmp/raw.img,queues=2,io-threads=2")
	rm -f "$tmp"/*.img "$tmp/disk.qcow2"
	truncate -s 16M "$tmp/raw.img" "$tmp/uring.img"
	if command -v qemu-img >/dev/null; then
		qemu-img create -q -f qcow2 "$tmp/disk.qcow2" 16M
		disks+=(--disk "path=$tmp/disk.qcow2,format=qcow2")
	fi
	[ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" != 0 ] ||
		disks+=(--disk "path=$tmp/uring.img,engine=io_uring")
}
all_up() { [ "$(storm_status | jq -r '[.core.state, .devices[].state] | unique | join(" ")')" = up ]; }
ended() { ! kill -0 "$storm_vm" 2>/dev/null || tap_ended "$storm_vm"; }
settled() { all_up || ended; }
restarts() { storm_status | jq '[.devices[].restarts] | add'; }
core() { storm_status | jq .core.pid; }

# kill_some: now and then one of the devices' processes, as long as the machine is there.
kill_some() {
	local pid
	while kill -0 "$storm_vm" 2>/dev/null; do
		pause_at_most 400
		pid=$(storm_status | jq -r ".devices[$RANDOM % (.devices | length)].pid")
		[[ $pid =~ ^[1-9][0-9]*$ ]] && kill -KILL "$pid"
	done 2>/dev/null
}

# play TEXT WORDS KILLS
play() {
	local text=$1 core n killer=
	new_disks
	storm_start "play $2" "${disks[@]}" "${options[@]}" || { not_ok "$text: the guest starts"; return; }
	wait_for 20 settled
	core=$(core)
	if [ "$3" = 1 ]; then
		kill_some &
		killer=$!
	fi
	check "$text: the guest plays to the end" storm_until '!played'
	[ -z "$killer" ] || { kill "$killer"; wait "$killer"; } 2>/dev/null
	wait_for 20 settled
	if ended; then
		not_ok "$text: core and supervisor live until the guest ends the machine"
		exec {storm_in}>&- {storm_out}<&-
	else
		check "$text: all is up, or comes up" all_up
		is "$text: the core is the one that it began with" "$(core)" "$core"
		n=$(restarts)
		storm_end
	fi
	unlike "$text: no device was given up, and no call forbidden" "$(cat "$tmp/log")" 'given up|forbidden system call'
	# Those that the supervisor replaces, since a ring is not as they left it, are killed.
	[ "$3" = 1 ] || unlike "$text: no process died by itself" "$(cat "$tmp/log")" ' died of '
	unlike "$text: no sanitizer has a finding" "$(cat "$tmp/log")" 'Sanitizer|runtime error:'
	is "$text: neither core nor supervisor left a report" \
		"$(find "$tmp/crash" "$XDG_STATE_HOME" -name '*.crash' 2>/dev/null | grep -E '\.(core|bulkhead|supervisor)\.')" ""
	diag "$text: ${n:-0} restarts; $(grep -a '^play: ' "$tmp/said" | tail -n 1)"
	steps_all=$((steps_all + $(grep -a '^play: ' "$tmp/said" | sed -n 's/.* step \([0-9]*\) .*/\1/p' | tail -n 1)))
	restarts_all=$((restarts_all + ${n:-0}))
	sed -n 's/^vmm-core: device \([a-z]*\)[0-9]* is down: /\1: /p' "$tmp/log" | sort | uniq -c | while read -r line; do
		diag "... $line"
	done
}

if [ -n "${PLAY-}" ]; then
	play "$PLAY" "$PLAY" "${PLAY_KILLS-0}"
	exit
fi
for seed in $seeds; do
	play "seed $seed" "seed=$seed steps=$steps" 0
	play "seed $seed with kills" "seed=$((seed + 100)) steps=$steps" 1
done
diag "whole machine: steps played $steps_all, restarts of device processes $restarts_all, findings $tap_failed"
