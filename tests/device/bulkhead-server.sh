#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Several disks that one process serves: one death is all disks', and one recovery, one spare, one upgrade; and status, loops
# and ctl know the server and each of its disks.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine
mkfifo "$bin"/store{,.spare}.ctl
chmod 666 "$bin"/store{,.spare}.ctl
truncate -s 1M "$tmp/disk2.img"

all() { status_of m | jq -c "[.devices[] | select(.server == \"store\") | .$1]"; }
up_after() { [ "$(all restarts)" = "[$1,$1]" ] && [ "$(all state)" = '["up","up"]' ]; }
spare_ready() { [ "$(all spare)" = '["ready","ready"]' ]; }
pid_of_store() { device m disk0 pid; }

start m --disk "path=$tmp/disk.img,server=store,queues=2" \
	--disk "path=$tmp/disk1.img,queues=1" --disk "path=$tmp/disk2.img,server=store,queues=3,id=data,restarts=4/60,on-failure=needs-reset,on-error=stop"
wait_running m
is "two disks have one server" "$(status_of m | jq -c '[.devices[] | [.id, .server]]')" \
	'[["disk0","store"],["disk1",null],["data","store"]]'
is "... which is one process" "$(all pid | jq 'unique | length')" 1
check "... another one than the third disk's" test "$(device m disk1 pid)" -ne "$(pid_of_store)"
words=$(tr '\0' ' ' <"/proc/$(pid_of_store)/cmdline")
like "... it is told of both" "$words" '--id store .*--device disk0 --image-fd .*--queues 2 .*--device data --image-fd .*--queues 3 '
like "... each has a socket of its own" "$words" '--vhost-fd ([0-9]+) .*--vhost-fd ([0-9]+) '
like "... the core knows where their rings are" "$(tr '\0' ' ' <"/proc/$(status_of m | jq .core.pid)/cmdline")" \
	'--device disk0:blk,hang-timeout=[0-9]+ .*--device data:blk,hang-timeout=[0-9]+,first-ring=2 '
like "status for people names it" "$(ctl m status)" 'data +blk-server .*served by store'
check "it has one spare" wait_for 20 spare_ready

# ---- deaths ----
slay "$(pid_of_store)"
check "its death is both disks', and its spare brings both back" wait_for 20 up_after 1
is "... by the spare" "$(all last_recovery_by)" '["spare","spare"]'
is "... the third disk is not concerned" "$(device m disk1 restarts)" 0
is "... they are back as one" "$(grep -c 'store is back after' "$tmp/m.err")" 1
check "there is another spare" wait_for 20 spare_ready

# ---- upgrade, by either name ----
before=$(pid_of_store)
is "the server can be upgraded" "$(ctl --json m upgrade store | jq -r .device)" store
check "... both disks have the new process" test "$(pid_of_store)" -ne "$before"
before=$(pid_of_store)
is "... also by one of its disks" "$(ctl --json m upgrade data | jq -r .device)" store
check "... with which the other one moves" test "$(device m disk0 pid)" -ne "$before"
up_again() { [ "$(all state)" = '["up","up"]' ]; }
check "... both serve" wait_for 20 up_again
check "... the spare is there again" wait_for 20 spare_ready

# ---- another supervisor's view is the process's ----
check "stats of a disk are asked for by its name" ctl --json m stats data
like "... of the server there are none" "$(ctl m stats store 2>&1)" 'it serves several devices; each of them has its own'
like "a size is a disk's" "$(ctl m resize store 2M 2>&1)" 'there is no such device'
is "loops has the server once, and its spare" "$(ctl --json m loops | jq -c '[.processes[] | select(.id == "store") | .spare]')" '[false,true]'

is "... with the queues of both" "$(ctl --json m loops | jq -c '[.processes[] | select(.id == "store" and .spare == false) | .loops[].queues]')" \
	'[["disk0:1","data:0"]]'
like "... for people" "$(ctl m loops)" ' disk0:1,data:0'

# ---- one of them ----
tell store away 90 3
data_away() { [ "$(all away.what)" = "[null,$1]" ]; }
check "a disk whose storage is away is named" wait_for 10 data_away '"predecessor"'
tell store away 0 3
check "... and no more when it is back" wait_for 10 data_away null
tell store as disk0
tell store io-error "no room"
check "a disk that keeps nothing is not listened to, though it shares its server" wait_for 10 logged m \
	'disk0: speaks of an I/O error, which it is not to'
tell store as data
tell store io-error "no room"
stands() { [ "$(status_of m | jq -r .stands_for)" = "data: no room" ]; }
check "... another one is" wait_for 10 stands
check "resume" ctl m resume
check "... has that one try again" wait_for 10 logged m 'blk-server\[store\]: set data: retry to now'
check "... and no other one" bash -c "! grep -q 'set disk0: retry' '$tmp/m.err'"
tell store as disk7
tell store io-error "no room"
check "a disk that it does not serve is no harm" wait_for 10 logged m 'store: blk-server speaks of a device that it does not serve'

# ---- too many deaths ----
given_up() { [ "$(all state)" = '["failed","failed"]' ]; }
for _ in 1 2 3 4 5 6; do
	wait_for 20 up_again || break
	slay "$(pid_of_store)"
	given_up && break
done
check "a server that dies too often is given up with both its disks" wait_for 20 given_up
is "... status lists them" "$(status_of m | jq -c .failed)" '["disk0","data"]'
check "... the guest is told of both" wait_for 10 logged m 'vmm-core: device data failed'
check "..." wait_for 10 logged m 'vmm-core: device disk0 failed'
is "... the third disk serves" "$(device m disk1 state)" up
check "revive by a disk's name revives the server" ctl m revive data
check "... and so both" wait_for 20 up_again
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- as many as possible ----
truncate -s 1M "$tmp/base.img"
eight=()
for i in {1..8}; do
	truncate -s 1M "$tmp/eight$i.img"
	eight+=(--disk "path=$tmp/eight$i.img,id=eight$i,server=store,queues=8,group=all,format=qcow2$(printf ',backing=%s' "$tmp/base.img"{,,,,,,})")
done
start m --limit-group id=all,bps=10M "${eight[@]}"
wait_running m
is "eight disks with eight files each have one server" "$(all pid | jq -c '[length, (unique | length)]')" '[8,1]'
all_ready() { [ "$(all spare | jq -c unique)" = '["ready"]' ]; }
check "... and a spare" wait_for 20 all_ready
slay "$(device m eight8 pid)"
all_up() { [ "$(all restarts | jq -c unique)$(all state | jq -c unique)" = '[1]["up"]' ]; }
check "... which takes over for all" wait_for 20 all_up
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- another supervisor ----
is_alone() { [ "$("$bulkhead" ps --run-dir "$run_dir" --json | jq -r ".[] | select(.name == \"m\") | .state")" = alone ]; }
end_alone() { grep -q without "$run_dir/m/lock" && kill -KILL "$(cut -d ' ' -f 1 "$run_dir/m/lock")"; }
at_exit end_alone
pids() { status_of m | jq -c '[.devices[] | .pid, .spare_pid]'; }
start m --on-supervisor-death keep --disk "path=$tmp/disk.img,server=store" --disk "path=$tmp/disk2.img,server=store,id=data"
wait_running m
check "a spare is there" wait_for 20 spare_ready
before=$(pids)
kill -KILL "$pid"
wait_exit 10 "$pid"
check "the supervisor dies and the machine does not" wait_for 20 is_alone
spawn "$bulkhead" adopt --run-dir "$run_dir" m </dev/null >"$tmp/adopt.out" 2>"$tmp/adopt.err"
check "another one takes over server and spare" wait_for 20 up_again
is "... the same processes" "$(pids)" "$before"
slay "$(pid_of_store)"
check "... and has both disks' sockets of the spare" wait_for 20 up_after 1
is "... which takes over" "$(all last_recovery_by)" '["spare","spare"]'
ctl m quit
wait_exit 30 "$pid"
is "ends" "$status" 0
clean_after m "nothing is left"
