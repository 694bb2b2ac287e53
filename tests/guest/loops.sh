#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# I/O threads under a guest that writes and verifies: their names, what `ctl loops` says of them, a queue that moves between
# them and threads that are pinned while requests run, and a successor that begins with what was set.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
command -v jq >/dev/null || skip_all "jq is not installed"
moves=100
[ -z "${BULKHEAD_LONG-}" ] || moves=2000
head -c 16M /dev/urandom >"$tmp/disk.img" # a guest must not mind what there was before
truncate -s 16M "$tmp/disk1.img"

ctl() { "$bulkhead" ctl --run-dir "$tmp/run" "$@"; }
loops() { ctl --json storm loops; }
# loop FIELD PROCESS LOOP: of the process that serves.
loop() { loops | jq -r ".processes[] | select(.id == \"$2\" and .spare != true) | .loops[] | select(.name == \"$3\") | .$1"; }
queues_of() { loops | jq -c "[.processes[] | select(.id == \"$1\" and .spare != true) | .loops[] | select(.name != \"main\") | [.name, .queues]]"; }

storm_start storm --disk "path=$tmp/disk.img,queues=4,io-threads=a:b@0,map=0:a,1:b,2-3:a" \
	--disk "path=$tmp/disk1.img,queues=2,map=1:1" || not_ok "the guest starts"
wait_for 20 storm_serving || not_ok "it is served"
is "queues are where the map puts them" "$(queues_of disk0)" '[["a",[0,2,3]],["b",[1]]]'
is "... one thread each" "$(queues_of disk1)" '[["io0",[0]],["io1",[1]]]'
is "every process has its loops there" "$(loops | jq -c '[.processes[] | select(.spare != true) | .id]')" \
	'["supervisor","core","disk0","disk1"]'
is "a thread is where it was pinned" "$(loop cpus disk0 b)" 0
tid=$(loop tid disk0 a)
is "ps knows the thread by its name and number" "$(ps -L -o comm= -q "$storm_pid" | sort | grep -cxE 'a|b')" 2
is "... the number is its" "$(cat "/proc/$storm_pid/task/$tid/comm")" a
check "... the supervisor's is its own" test "$(loop tid supervisor supervisor)" -gt 0
like "loops, for people" "$(ctl storm loops)" 'disk0 +b +[0-9]+ 0 +[0-9.]+% .* 1'
sum() { loops | jq -e '[.processes[].loops[] | .busy >= 0 and .busy <= 1 and .passes >= .sleeps and .polls >= .poll_hits] | all'; }
check "shares and counts make sense" sum

# ---- while it runs ----
storm_say n
for ((i = 0; i < moves; i++)); do
	to=b
	[ $((i % 2)) -eq 0 ] || to=a
	ctl storm move-queue disk0 0 $to || break
done
is "a queue moved $moves times" "$i" "$moves"
check "... to where it is: nothing to do" ctl storm move-queue disk0 0 a
check "... and once more" ctl storm move-queue disk0 0 b
is "... it is served there" "$(queues_of disk0)" '[["a",[2,3]],["b",[0,1]]]'
check "a thread by its name alone" ctl storm pin a 0
check "... and by its device's" ctl storm pin disk1/io1 0
check "... the main loop, too" ctl storm pin disk1/main 0
is "... they run there" "$(loop cpus disk0 a) $(loop cpus disk1 io1) $(loop cpus disk1 main)" "0 0 0"
no() {
	local text=$1 want=$2 out
	shift 2
	out=$(ctl storm "$@" 2>&1)
	is "$text: refused" $? 1
	like "... says why" "$out" "$want"
}
no "a thread that is not there" 'no such I/O thread' move-queue disk0 0 c
no "a queue that is not there" 'no such queue' move-queue disk0 4 a
no "a device that is not there" 'no such device' move-queue disk2 0 a
no "processors that are not there" 'may use none' pin a 1023
no "processors that are no numbers" 'written as' pin a x
no "a name that no thread has" 'no device has' pin c 0

# ---- and if it dies ----
old=$storm_pid
storm_kill || not_ok "a successor serves"
check "another process serves" test "$storm_pid" -ne "$old"
is "... as its predecessor did" "$(queues_of disk0)" '[["a",[2,3]],["b",[0,1]]]'
is "... and where" "$(loop cpus disk0 a)" 0
storm_say w
storm_end
