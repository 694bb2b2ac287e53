#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Deaths and misbehaviour of the processes that `bulkhead run` started, and its own ends, with stand-ins for them.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
command -v socat >/dev/null || skip_all "socat is not installed: no back end to stand in"
make_machine
# Without a spare: each death shows a whole start.
disk=(--disk "path=$tmp/disk.img,spare=off")

# ---- what a child gets ----
start m "${disk[@]}"
wait_running m
tell disk0 fds
tell core fds
check "descriptors of a server: null, null, log, image, state, recorder, socket" wait_for 5 logged m 'blk-server\[disk0\]: fd 6 is socket:'
like "... the recorder is 5" "$(grep 'disk0.: fd 5 is' "$tmp/m.err")" 'memfd:.*flight'
like "... the state is 4" "$(grep 'disk0.: fd 4 is' "$tmp/m.err")" 'memfd:.*state'
like "... the image is 3" "$(grep 'disk0.: fd 3 is' "$tmp/m.err")" 'disk.img$'
like "... its log is 2, 0 and 1 are nothing" "$(grep -E 'disk0.: fd [012] is' "$tmp/m.err" | sed 's/.*fd//' | tr '\n' ' ')" '^ 0 is /dev/null  1 is /dev/null  2 is pipe:'
check "descriptors of the core" wait_for 5 logged m 'vmm-core: fd 6 is socket:'
like "... kvm, kernel" "$(grep -E 'core: fd [34] is' "$tmp/m.err" | sed 's/.*fd//' | tr '\n' ' ')" '^ 3 is /dev/kvm  4 is .*kernel'
# What the stand-in opens itself: epoll, eventfds, nng, its command FIFO. No other file, device or socket of the supervisor.
is "... and no file, device or directory besides" "$(grep -E 'fd [0-9]+ is /' "$tmp/m.err" | grep -vE '/dev/null|/dev/kvm|/memfd:[a-z:]*(flight|state)|/kernel$|disk.img$|\.ctl$|fake-child|\.do$')" ""
if [ "$(id -u)" -eq 0 ]; then
	p=$(device m disk0 pid)
	q=$(ctl --json m status | jq .core.pid)
	u=$(awk '/^Uid:/ { print $2 }' "/proc/$p/status")
	v=$(awk '/^Uid:/ { print $2 }' "/proc/$q/status")
	check "children run as users of their own" test "$u" -ge $((0x6b000000)) -a "$v" -ge $((0x6b000000)) -a "$u" -ne "$v"
fi

# ---- a server dies ----
old=$(device m disk0 pid)
restarts() { [ "$(device m disk0 restarts)" -ge "$1" ] && [ "$(device m disk0 state)" = up ]; }
kill -KILL "$old"
check "a killed server is replaced" wait_for 10 restarts 1
check "... the machine runs on" is_state m running
check "... with a line that tells each step's time" logged m \
	'disk0 is back after [0-9.]+ ms: detect [0-9.]+, reap [0-9.]+, wait [0-9.]+, spawn [0-9.]+, hello [0-9.]+, handshake'
check "... status tells it, too" test "$(device m disk0 last_recovery_ms.total | cut -d. -f1)" -lt 5000
like "... and the human status" "$(ctl m status)" 'disk0 +blk-server +up +process [0-9]+, /[^ ]*, 1 restart, the last died of signal 9 \(Killed\), back in [0-9.]+ ms \(detect '
tell disk0 crash
check "one that aborts is replaced" wait_for 10 restarts 2
check "... the signal is named" logged m 'disk0: blk-server \(process [0-9]+\) died of signal [0-9]+'
tell disk0 exit 3
check "one that exits is replaced" wait_for 10 restarts 3
check "... the status is named" logged m 'disk0: blk-server \(process [0-9]+\) ended with status 3'
for i in 1 2 3 4 5; do
	kill -KILL "$(device m disk0 pid)"
	wait_for 10 restarts $((3 + i)) || break
done
check "killed five times in a row it is replaced five times" restarts 8
is "no zombie is left" "$(ps -o stat= --ppid "$(pgrep -P "$pid")" | grep -c Z)" 0
fds=$(find "/proc/$pid/fd" | wc -l)
kill -KILL "$(device m disk0 pid)"
wait_for 10 restarts 9
fds_again() { [ "$(find "/proc/$pid/fd" | wc -l)" -le "$fds" ]; }
check "no descriptor of the supervisor is lost by a restart" wait_for 5 fds_again

# ---- junk, floods, silence ----
tell disk0 junk 20
check "one that sends malformed messages is fenced and replaced" wait_for 10 restarts 10
check "... and says why" logged m 'disk0: killing blk-server .*it keeps sending malformed messages'
flood_from=$SECONDS
tell disk0 flood 20000
said_so() { tell disk0 log after the flood && logged m 'disk0.: [0-9]+ lines were held back'; }
check "a flood of log lines is rationed" wait_for 10 said_so
# A hundred a second, and it takes as long as this machine lets it.
check "... to few" test "$(grep -c 'of a flood' "$tmp/m.err")" -le $((300 + 100 * (SECONDS - flood_from)))
check "... and stalls nobody" is_state m running
tell disk0 raw $'<3>\033[31mred\007'
check "control characters of a child do not reach the log" wait_for 5 logged m 'blk-server\[disk0\]: \?\[31mred\?$'
tell disk0 raw 'vmm-core: I am the core'
check "a child can't speak as another" wait_for 5 logged m '^blk-server\[disk0\]: vmm-core: I am the core'
tell disk0 mute
check "one that answers no more is killed" wait_for 40 logged m 'disk0: killing blk-server .*it does not answer'
check "... and replaced" wait_for 10 restarts 11

# ---- requests ----
check "pause" ctl m pause
check "... is paused" is_state m paused
check "pause again is no error" ctl m pause
out=$(ctl m power-button 2>&1)
like "the button of a paused machine" "$out" 'only a running guest'
check "resume" ctl m resume
check "... runs" is_state m running
tell core mute
ctl m pause >"$tmp/asked" 2>&1 &
asked=$!
paused() { [ "$(grep -c 'vmm-core: told to pause' "$tmp/m.err")" -eq "$1" ]; }
check "a core is asked to pause" wait_for 5 paused 2
tell core rejoin
wait "$asked"
is "... and leaves the bus before it answers: asked again when it is back" $? 0
check "... twice in all" paused 3
check "... paused" is_state m paused
check "... and runs again" ctl m resume
check "power-button" ctl m power-button
ends_with "the guest powers off: exit 0" 0 "$pid" m

# ---- a process that shows what its main loop does ----
script disk0 sleeps
start m "${disk[@]}"
wait_running m
is "one that sleeps is not woken to ask if it lives" "$(wakes 6 "$(device m disk0 pid)")" 0
tell disk0 stuck
check "... and one that is stuck is killed" wait_for 60 logged m 'disk0: killing blk-server .*it does not answer'
check "... and replaced" wait_for 10 restarts 1
rm "$bin/disk0.do"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- ends ----
for end in poweroff:0 panic:3 crash:4 33:33; do
	start m "${disk[@]}" --test-devices
	wait_running m
	tell core end "${end%:*}"
	ends_with "guest end ${end%:*}: exit ${end#*:}" "${end#*:}" "$pid" m
done
start m "${disk[@]}"
wait_running m
tell core crash
ends_with "the core crashes: exit 5" 5 "$pid" m
start m "${disk[@]}"
wait_running m
generation() { [ "$(ctl --json m status | jq .generation)" -eq "$1" ] && is_state m running; }
server=$(device m disk0 pid)
tell core end reset
check "a reboot starts a new generation" wait_for 10 generation 2
check "... with new processes" test "$(device m disk0 pid)" -ne "$server"
kill -TERM "$pid"
ends_with "SIGTERM presses the button: exit 0" 0 "$pid" m
check "... and says so" logged m 'asking the guest to power off, 10 s at most'
start m "${disk[@]}" --on-reboot exit
wait_running m
tell core end reset
ends_with "--on-reboot exit: exit 0" 0 "$pid" m
start m "${disk[@]}" --on-crash restart --restarts 1/60
wait_running m
tell core crash
check "--on-crash restart: a new generation" wait_for 10 generation 2
tell core end panic
ends_with "... once, then exit with the last reason" 3 "$pid" m

script core deaf
start m "${disk[@]}" --grace 1
wait_running m
kill -TERM "$pid"
ends_with "a guest deaf to its button is ended after the grace" 0 "$pid" m
check "... and says so" logged m 'did not power off in 1 s'
start m "${disk[@]}" --grace 300
wait_running m
kill -TERM "$pid"
wait_for 5 logged m 'asking the guest'
kill -INT "$pid"
ends_with "a second signal ends at once" 0 "$pid" m
script core stay
script disk0 stay
start m "${disk[@]}"
wait_running m
check "quit" ctl m quit
ends_with "children that ignore SHUTDOWN are killed" 0 "$pid" m
rm "$bin"/*.do

# ---- starts that fail ----
script core exit=2
start m "${disk[@]}"
ends_with "the core refuses its options: exit 2" 2 "$pid" m
script core exit=1
start m "${disk[@]}"
ends_with "the core dies before it is ready: exit 5" 5 "$pid" m
script core hello-exit=1
start m "${disk[@]}"
ends_with "the core dies after HELLO: exit 5" 5 "$pid" m
script core no-hello
start m "${disk[@]}" --start-timeout 3
ends_with "the core says nothing: exit 5" 5 "$pid" m
check "... after its deadline" logged m 'core: killing vmm-core .*it did not say hello in time'
rm "$bin/core.do"
script disk0 exit=2
start m "${disk[@]}"
ends_with "a server refuses its options: exit 2" 2 "$pid" m
script disk0 exit=1
start m "${disk[@]}" --restarts 3/60
ends_with "a server that never becomes ready is given up: exit 6" 6 "$pid" m
check "... after as many restarts as allowed" logged m 'disk0: given up, it died more than 3 times in 60 s'
is "... not one more" "$(grep -c 'disk0: started' "$tmp/m.err")" 4
script disk0 no-ready
start m "${disk[@]}" --restarts 0/60 --start-timeout 3
ends_with "a server that says hello but never ready is given up" 6 "$pid" m
check "... after its deadline" logged m 'disk0: killing blk-server .*it did not become ready in time'
script disk0 wrong-name
start m "${disk[@]}" --restarts 0/60
ends_with "a server that calls itself somebody else is killed" 6 "$pid" m
check "... and says so" logged m 'disk0: blk-server says it is blk somebody'
script disk0 exit=1
start m "${disk[@]}" --restarts 10/60
wait_for 10 logged m 'blk-server .* ended with status 1'
rm "$bin/disk0.do"
check "a server that starts at the third or so attempt will do" wait_running m

# ---- a storm ----
script disk0 hello-exit=1
kill -KILL "$(device m disk0 pid)"
quarantined() { [ "$(device m disk0 state)" = failed ]; }
check "a restart storm ends in quarantine" wait_for 60 quarantined
check "... the machine runs on" is_state m running
check "... and the log is clear" logged m 'disk0: given up, it died more than 10 times in 60 s'
check "... with no start more than that" test "$(grep -c 'disk0: started' "$tmp/m.err")" -le 11
tell core end poweroff
ends_with "... its end tells: exit 6" 6 "$pid" m
rm "$bin/disk0.do"

# ---- death in the middle of a hand-off: no DEVICE_DOWN comes, the core has the descriptor of one that is dead ----
script core unlink-late
start m "${disk[@]}" --disk "path=$tmp/disk1.img,spare=off"
wait_running m
script disk0 hello-exit=0
kill -KILL "$(device m disk0 pid)"
wait_for 10 logged m 'blk-server .* ended with status 0'
rm "$bin/disk0.do"
up_again() { [ "$(device m disk0 state)" = up ]; }
check "a server that dies during the hand-off is replaced" wait_for 20 up_again
is "its neighbour is untouched" "$(device m disk1 restarts)" 0
rm "$bin/core.do"

# ---- the keeper dies ----
keeper=$(pgrep -P "$pid")
children=$(ctl --json m status | jq -r '.core.pid, .devices[].pid')
kill -KILL "$keeper"
wait_exit 10 "$pid"
is "without its keeper the machine ends: exit 1" "$status" 1
for p in $children; do check "... with child $p" wait_for 5 gone "$p"; done
start m
check "the next machine of the name takes over" wait_running m
check "... ends" ctl m quit
ends_with "... and leaves nothing" 0 "$pid" m

# ---- a core that gets no processor ----
start m "${disk[@]}"
wait_running m
core=$(ctl --json m status | jq .core.pid)
kill -STOP "$core"
check "a core that does not answer is told of" wait_for 40 logged m 'vmm-core \(process [0-9]+\) does not answer'
is "... in the status, too" "$(ctl --json m status | jq -r .core.state)" silent
kill -CONT "$core"
check "... is left alone, and told of when it answers" wait_for 40 logged m 'vmm-core answers again'
is "... in the status, too" "$(ctl --json m status | jq -r .core.state)" up
check "... ends" ctl m quit
ends_with "... with status 0" 0 "$pid" m

# ---- the core dies as it is told to run the guest ----
script core resume-exit=7
for i in 1 2 3; do
	start m "${disk[@]}"
	ends_with "a core that dies before the guest runs: exit 5" 5 "$pid" m
	check "... and its status is named" logged m 'core: vmm-core .* ended with status 7'
done
rm "$bin/core.do"

# ---- an external back end ----
spawn socat -u "UNIX-LISTEN:$tmp/ext.sock,fork" OPEN:/dev/null
wait_for 5 test -S "$tmp/ext.sock"
start m --disk "vhost-user=$tmp/ext.sock,id=ext"
check "a machine with somebody else's back end" wait_running m
is "... has no process of ours for it" "$(device m ext process):$(device m ext pid)" "vhost-user:null"
kill -TERM "$pid"
ends_with "... ends" 0 "$pid" m

# ---- without sandbox ----
start m "${disk[@]}" --sandbox off
check "--sandbox off" wait_running m
kill -INT "$pid"
ends_with "... ends" 0 "$pid" m
