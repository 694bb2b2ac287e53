#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Warm spares: a second process that waits and takes over. Its own death is not the device's, and there is none in a storm.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
not_quick
make_machine

spare_is() { [ "$(device m disk0 spare)" = "$1" ]; }
up_after() { [ "$(device m disk0 restarts)" -ge "$1" ] && [ "$(device m disk0 state)" = up ]; }
starts() { grep -c 'disk0: started' "$tmp/m.err"; }

start m --disk "path=$tmp/disk.img"
wait_running m
check "a disk has a spare unless told otherwise" wait_for 10 spare_is ready
spare=$(device m disk0 spare_pid)
active=$(device m disk0 pid)
check "... a process of its own" test "$spare" -gt 0 -a "$spare" -ne "$active"
if [ "$(id -u)" -eq 0 ]; then
	check "... of another user than the active one" test "$(stat -c %u "/proc/$spare")" -ne "$(stat -c %u "/proc/$active")"
fi
like "... with a bus folder of its own" "$(tr '\0' ' ' <"/proc/$spare/cmdline")" '/m/disk0\.b '
tell disk0.spare fds
check "... the image and a socket, like the active one" wait_for 5 logged m 'disk0.: fd 3 is .*disk.img'
like "status for people shows it" "$(ctl m status)" 'disk0 .*, spare ready'

# ---- it takes over ----
slay "$active"
check "the spare takes over" wait_for 10 up_after 1
is "... it is the process that waited" "$(device m disk0 pid)" "$spare"
check "... and the log says so, step by step" logged m \
	'disk0 is back after [0-9.]+ ms by its spare: detect [0-9.]+, reap [0-9.]+, take [0-9.]+, handshake [0-9.]+$'
is "... status, too" "$(device m disk0 last_recovery_by)" spare
is "... all steps" "$(device m disk0 last_recovery_ms | jq -c keys_unsorted)" '["total","detect","reap","take","handshake"]'
check "another spare is started" wait_for 10 spare_is ready
check "... in the other slot" test "$(device m disk0 spare_pid)" -ne "$spare"
pair="$(device m disk0 pid) $(device m disk0 spare_pid)"
slay "${pair% *}"
check "it takes over in turn" wait_for 10 up_after 2
is "... it is the process that waited" "$(device m disk0 pid)" "${pair#* }"
wait_for 10 spare_is ready
tell disk0 mute
check "a mute one is replaced by its spare" wait_for 40 up_after 3
like "... the reason is in the status" "$(device m disk0 last_death)" 'was killed: it does not answer'
fds=$(find "/proc/$pid/fd" | wc -l)
wait_for 10 spare_is ready
slay "$(device m disk0 pid)"
wait_for 10 up_after 4
wait_for 10 spare_is ready
fds_again() { [ "$(find "/proc/$pid/fd" | wc -l)" -le $((fds + 2)) ]; }
check "no descriptor of the supervisor is lost" wait_for 5 fds_again

# ---- its own death is not the device's ----
spare=$(device m disk0 spare_pid)
active=$(device m disk0 pid)
slay "$spare"
other_spare() {
	local now
	now=$(ctl --json m status | jq -r '.devices[0] | "\(.spare) \(.spare_pid)"')
	[ "${now% *}" = ready ] && [ "${now#* }" -ne "$spare" ]
}
check "a killed spare is replaced" wait_for 10 other_spare
check "... and spoken of" logged m 'disk0: its spare died of signal 9 \(Killed\); the device itself is not affected'
is "... the device is the same, with no restart more" "$(device m disk0 pid) $(device m disk0 restarts)" "$active 4"
tell disk0.spare mute
spare=$(device m disk0 spare_pid)
check "a spare that does not answer is replaced" wait_for 40 other_spare
script disk0 hello-exit=1
slay "$(device m disk0 spare_pid)"
check "spares that keep dying" wait_for 10 logged m 'disk0: its spare ended with status 1'
before=$(starts)
# Waits of 200, 400, 800, 1600 ms follow: no more than four in the first three seconds.
end=$((SECONDS + 3))
past() { [ $SECONDS -ge $end ]; }
wait_for 10 past
check "... come less and less often" test $(($(starts) - before)) -le 5
is "... and do not touch the device" "$(device m disk0 pid) $(device m disk0 restarts) $(device m disk0 state)" "$active 4 up"
rm "$bin/disk0.do"
check "... until one lives" wait_for 20 spare_is ready
check "quit" ctl m quit
ends_with "ends, the spare with it" 0 "$pid" m

# ---- none in a storm ----
script disk0 active-exit=100
start m --disk "path=$tmp/disk.img" --restarts 5/60
quarantined() { [ "$(device m disk0 state)" = failed ]; }
wait_running m
check "a device that dies as soon as it serves is given up" wait_for 30 quarantined
is "... for each death one process was started, and no spare" "$(starts)" 6
is "... nor is there one now" "$(device m disk0 spare)" none
check "quit" ctl m quit
ends_with "... its end tells" 6 "$pid" m
rm "$bin/disk0.do"

# ---- one that is still starting takes over, too ----
script disk0 no-ready
start m --disk "path=$tmp/disk.img" --start-timeout 3
check "a machine does not run before its disk serves" wait_for 5 logged m 'disk0: started'
rm "$bin/disk0.do"
wait_running m
script disk0 slow-ready=2000
check "a spare starts" wait_for 10 spare_is starting
slay "$(device m disk0 pid)"
again() { [ "$(device m disk0 state)" = up ] && [ "$(device m disk0 last_recovery_by)" = start ]; }
n=$(starts)
check "a spare that is not ready yet is waited for" wait_for 10 again
check "... instead of starting another" test "$(starts)" -le $((n + 1))
is "... and no step of the way back took longer than all" "$(device m disk0 last_recovery_ms |
	jq '.total as $all | [.detect, .reap, .wait, .spawn, .hello, .handshake, .ready] | max <= $all')" true
rm "$bin/disk0.do"

# ---- the machine pauses, and starts again ----
wait_for 10 spare_is ready
tell core end reset
generation() { [ "$(ctl --json m status | jq .generation)" -eq 2 ] && is_state m running; }
check "a reboot starts all anew" wait_for 20 generation
check "... with a spare" wait_for 10 spare_is ready
check "pause" ctl m pause
slay "$(device m disk0 pid)"
warm() { [ "$(device m disk0 state)" = up ] && [ "$(device m disk0 last_recovery_by)" = spare ]; }
check "a spare takes over in a paused machine" wait_for 10 warm
ctl m resume
kill -KILL "$pid"
wait_exit 10 "$pid"
gone_dir() { [ ! -e "$run_dir/m" ]; }
check "the supervisor dies: nothing is left, nor a spare" wait_for 10 gone_dir
clean_after m "... no process"

# ---- off ----
start m --disk "path=$tmp/disk.img,spare=off" --disk "path=$tmp/disk1.img"
wait_running m
other() { [ "$(device m disk1 spare)" = ready ]; }
check "each disk has its own option" wait_for 10 other
is "spare=off: none" "$(device m disk0 spare)" off
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m
