#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What becomes of a device that dies too often or hangs: each policy, and the way back from it.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine

state_of() { [ "$(device m "$1" state)" = "$2" ]; }
up_after() { [ "$(device m disk0 restarts)" -ge "$1" ] && state_of disk0 up; }
spare_ready() { [ "$(device m disk0 spare)" = ready ]; }
spare_not_ready() { ! spare_ready; }
# storm REGEX [WORD]: has disk0, without its spare, die as often as it may, and waits for what the log says then.
more_lines() { [ "$(grep -cE -- "$1" "$tmp/m.err")" -gt "$2" ]; }
storm() {
	local before
	before=$(grep -cE -- "$1" "$tmp/m.err")
	script disk0 hello-exit=1 "${@:2}"
	! spare_ready || slay "$(device m disk0 spare_pid)"
	wait_for 10 spare_not_ready
	slay "$(device m disk0 pid)"
	wait_for 30 more_lines "$1" "$before"
	rm "$bin/disk0.do"
}

# ---- quarantine and revival ----
start m --limit-group id=slow,bps=1G --disk "path=$tmp/disk.img,restarts=2/60,group=slow" --disk "path=$tmp/disk1.img"
wait_running m
wait_for 10 spare_ready
storm "disk0: given up, it died more than 2 times in 60 s, the last one ended with status 1; the guest's requests to it wait until it is revived"
is "quarantine: it is given up by its own limit" "$(device m disk0 state)" failed
like "... status says what can be done" "$(ctl m status)" 'disk0 +blk-server +failed, .*; bulkhead ctl m revive disk0 tries again'
unlike "... and not of its neighbour" "$(ctl m status)" 'revive disk1'
is "... nothing of it is left" "$(device m disk0 pid)" null
spare_gone() { [ "$(device m disk0 spare_pid)" = null ]; }
check "... nor of its spare" wait_for 10 spare_gone
for words in "stats disk0" "set disk0 bps=1M" "set group:slow bps=1M" "resize disk0 2M" "move-queue disk0 0 io0" "pin disk0/io0 0"; do
	# shellcheck disable=SC2086
	like "... $words says what comes first" "$(ctl m $words 2>&1)" 'disk0 was given up; revive it first: bulkhead ctl m revive disk0$'
done
check "... the machine runs on" is_state m running
row=$("$bulkhead" ps --run-dir "$run_dir" | grep '^m ')
like "... ps shows both" "$row" '^m +[0-9]+ running, disk0 failed +1 +512M +2 [0-9.]+'
is "... as JSON, too" "$("$bulkhead" ps --run-dir "$run_dir" --json | jq -c '[.[] | .state, .failed]')" '["running",["disk0"]]'
like "... and status" "$(ctl m status)" '^m: running, disk0 failed, up for'
is "... its neighbour is untouched" "$(device m disk1 state) $(device m disk1 restarts)" "up 0"
check "... and killed, comes back" slay "$(device m disk1 pid)"
check "..." wait_for 10 state_of disk1 up
out=$(ctl m revive disk1 2>&1)
is "one that serves is not revived: exit 1" $? 1
like "... and told why" "$out" 'it serves already'
out=$(ctl m revive nobody 2>&1)
like "nor one that does not exist" "$out" 'there is no such device'
script disk0 hello-exit=1
out=$(ctl m revive disk0 2>&1)
is "a revival that fails says so: exit 1" $? 1
like "..." "$out" 'it died too often again'
is "... it is given up as before" "$(device m disk0 state)" failed
rm "$bin/disk0.do"
check "revive" ctl m revive disk0
is "... it serves when that is answered" "$(device m disk0 state)" up
like "... and ps no more of it" "$("$bulkhead" ps --run-dir "$run_dir" | grep '^m ')" ' running +1 '
for i in 1 2; do
	n=$(device m disk0 restarts)
	slay "$(device m disk0 pid)"
	check "... and may die as often as before ($i)" wait_for 10 up_after $((n + 1))
done
tell core end poweroff
ends_with "a machine whose devices were all revived ends well" 0 "$pid" m

# ---- read-only ----
start m --disk "path=$tmp/disk.img,restarts=2/60,on-failure=read-only"
wait_running m
wait_for 10 spare_ready
storm 'disk0: given up, .*; it goes on and refuses writes' free-only
restricted() { state_of disk0 up && ctl --json m status | jq -e '.devices[0].refuses_writes' >/dev/null; }
check "read-only: it comes back" wait_for 10 state_of disk0 up
check "... and refuses writes" restricted
like "... which status tells" "$(ctl m status)" 'disk0 .*, refuses writes'
like "... its process is told" "$(tr '\0' ' ' <"/proc/$(device m disk0 pid)/cmdline")" ' --refuse-writes $'
check "... its spare" wait_for 10 spare_ready
like "... is told, too" "$(tr '\0' ' ' <"/proc/$(device m disk0 spare_pid)/cmdline")" ' --refuse-writes $'
n=$(device m disk0 restarts)
slay "$(device m disk0 pid)"
check "... it still is replaced when it dies" wait_for 10 up_after $((n + 1))
check "... and refuses writes" restricted
check "revive lets it write again" ctl m revive disk0
unlike "... a new process" "$(tr '\0' ' ' <"/proc/$(device m disk0 pid)/cmdline")" 'refuse-writes'
is "..." "$(ctl --json m status | jq '.devices[0].refuses_writes')" false
wait_for 10 spare_ready
unlike "... and spare" "$(tr '\0' ' ' <"/proc/$(device m disk0 spare_pid)/cmdline")" 'refuse-writes'
storm 'disk0: given up, .*; it goes on and refuses writes' free-only
check "again: it goes on and refuses writes" wait_for 10 restricted
storm 'disk0: given up, .* wait until it is revived'
check "dying too often even so is a quarantine" wait_for 10 state_of disk0 failed
check "... revived from in full" ctl m revive disk0
unlike "... with writes" "$(tr '\0' ' ' <"/proc/$(device m disk0 pid)/cmdline")" 'refuse-writes'
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m

# ---- needs-reset ----
start m --disk "path=$tmp/disk.img,restarts=1/60,on-failure=needs-reset"
wait_running m
storm 'disk0: given up, .*; the guest is told that it needs a reset'
check "needs-reset: the core is told to fail the device" wait_for 10 logged m 'vmm-core: device disk0 failed'
order() { grep -nE 'disk0: blk-server .*ended with status 1|vmm-core: device disk0 failed' "$tmp/m.err" | tail -1 | grep -q 'failed'; }
check "... after its last process was gone" order
check "... revive" ctl m revive disk0
ctl m quit
ends_with "ends" 0 "$pid" m

# ... while a ring of io_uring outlives its process: it holds a lock on the device's state, as this test does.
start m --disk "path=$tmp/disk.img,restarts=1/60,on-failure=needs-reset"
wait_running m
server=$(device m disk0 pid)
like "the server gets its state" "$(tr '\0' ' ' <"/proc/$server/cmdline")" '--state-fd 4 '
exec 9<"/proc/$server/fd/4"
flock -s 9
storm 'disk0: given up, .*; the guest is told that it needs a reset'
ctl m pause # what the core was told before, it has done when it answers
tell core log marked
check "needs-reset: the core goes on" wait_for 10 logged m 'vmm-core: marked'
unlike "... it is not told while something of the device is under way" "$(cat "$tmp/m.err")" 'vmm-core: device disk0 failed'
exec 9<&-
check "... and when that is over, it is" wait_for 10 logged m 'vmm-core: device disk0 failed'
ctl m quit
ends_with "ends, given up as it is: exit 6" 6 "$pid" m

# ---- stop ----
start m --disk "path=$tmp/disk.img,restarts=1/60,on-failure=stop"
wait_running m
storm 'disk0: given up, .*; the machine ends'
ends_with "stop: the machine ends, exit 6" 6 "$pid" m

# ---- hangs, as the core tells them ----
start m --disk "path=$tmp/disk.img"
wait_running m
wait_for 10 spare_ready
old=$(device m disk0 pid)
tell core hang disk0
check "a device that hangs is replaced" wait_for 10 up_after 1
check "... the old process is gone" gone "$old"
check "... the log tells why" logged m 'disk0: killing blk-server \(process [0-9]+\): queue 1 made no progress for 1500 ms: says the test'
like "... and the status" "$(device m disk0 last_death)" '^was killed: queue 1 made no progress for 1500 ms'
is "... by its spare" "$(device m disk0 last_recovery_by)" spare
tell core hang disk7
check "a device that does not exist is no harm" wait_for 5 logged m 'core: it speaks of a device that does not exist'
hangs() { [ "$(grep -c 'killing blk-server .*made no progress' "$tmp/m.err")" -eq "$1" ]; }
out_of_service() { [[ $(device m disk0 state) =~ ^(waiting|starting)$ ]]; }
wait_for 10 spare_ready
tell core ignore
slay "$(device m disk0 pid)"
wait_for 10 out_of_service
tell core hang disk0
check "a hang that was told too late hits nobody" wait_for 20 up_after 3
check "... the successor had its time" logged m 'disk0: killing blk-server .*: the core did not take it up in time'
check "..." hangs 1
# Without a spare: the core has the new process's rings before that is ready.
wait_for 10 spare_ready
script disk0 slow-ready=3000
slay "$(device m disk0 spare_pid)"
wait_for 10 spare_not_ready
slay "$(device m disk0 pid)"
wait_for 10 out_of_service
tell core hang disk0
check "one that hangs before it is ready is replaced, too" wait_for 10 hangs 2
rm "$bin/disk0.do"
check "... and its successor serves" wait_for 20 up_after 5

# ---- what the process says of its recovery ----
script disk0 recovered
wait_for 10 spare_ready
slay "$(device m disk0 spare_pid)"
wait_for 10 spare_gone
wait_for 10 spare_ready
n=$(device m disk0 restarts)
slay "$(device m disk0 pid)"
wait_for 10 up_after $((n + 1))
check "a process tells how it took up its rings" wait_for 5 logged m \
	'disk0 took up its rings: 5 requests again, 1 of them failed as poisoned; replay [0-9.]+ ms, first completion [0-9.]+ ms'
is "... the status has it" "$(device m disk0 last_recovery_ms | jq -c '[has("replay", "first_completion", "stall")]')" '[true,true,true]'
is "... and counts" "$(device m disk0 resubmitted) $(device m disk0 poisoned)" "5 1"
script disk0 recovered-early
wait_for 10 spare_ready
slay "$(device m disk0 spare_pid)"
wait_for 10 spare_gone
wait_for 10 spare_ready
slay "$(device m disk0 pid)"
check "one that tells of an impossible time is not believed" wait_for 10 logged m 'disk0: blk-server says that it recovered at an impossible time'
wait_for 10 up_after $((n + 2))
is "... and counts for nothing" "$(device m disk0 resubmitted) $(device m disk0 poisoned)" "5 1"
ctl m quit
ends_with "ends" 0 "$pid" m
