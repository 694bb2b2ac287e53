#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A process that dies without being told to leaves a report with its last words, and `bulkhead trace` prints it.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
make_machine
trace() { "$bulkhead" trace "$@"; }
reports() { find "$tmp/crash" -name '*.crash' 2>/dev/null; }
newest() { reports | grep '/one\.' | sort | tail -1; }
spare_ready() { [ "$(device one disk0 spare)" = ready ]; }
count() { [ "$(reports | wc -l)" -eq "$1" ]; }

# ---- what is no report ----

like "help" "$(trace --help)" '^usage: bulkhead trace FILE'
refused() {
	local out status
	out=$(trace "${@:2}" 2>&1 </dev/null)
	status=$?
	is "$1: exit status" "$status" 2
	like "$1: says so" "$out" '^(bulkhead trace: .*|usage: .*)'
	is "$1: nothing else" "$(LC_ALL=C grep -c '[^[:print:]]' <<<"$out")" 0
}
mkfifo "$tmp/fifo"
head -c 5000 /dev/urandom >"$tmp/noise"
printf 'bulkhead crash report 1\nshort' >"$tmp/short"
refused "no file" "$tmp/none"
refused "a directory" "$tmp"
refused "a fifo" "$tmp/fifo"
refused "noise" "$tmp/noise"
refused "a report that ends in its head" "$tmp/short"
refused "no argument"
refused "two arguments" "$tmp/noise" "$tmp/noise"
refused "an option" --json

# A head whose words are hostile, and a region that is noise behind the right first words.
{
	printf 'bulkhead crash report 1\nhow: \033[2J\007\xff\n'
	head -c 4060 /dev/zero
	printf 'bkhflght\001\000\000\000'
	head -c 24564 /dev/urandom
} >"$tmp/hostile"
is "the hostile report has the size of one" "$(stat -c %s "$tmp/hostile")" $((4096 + 3 * 8192))
trace "$tmp/hostile" >"$tmp/hostile.out"
is "a hostile report is printed" $? 0
is "... without what a terminal would obey" "$(LC_ALL=C grep -c '[^[:print:]]' "$tmp/hostile.out")" 0
check "... its words" grep -q '^how: ?\[2J??$' "$tmp/hostile.out"
check "... and its records" grep -q '^256 records\|^25[0-9] records\|^[0-9]* records' "$tmp/hostile.out"
head -c 12000 "$tmp/hostile" >"$tmp/cut"
like "a report that was cut short is printed as far as it goes" "$(trace "$tmp/cut")" 'recorded nothing'

# ---- machines ----

if sanitized || [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ] || ! command -v jq >/dev/null; then
	skip "processes that die in machines" "no access to /dev/kvm, no jq, or built with sanitizers"
	exit
fi
start one --disk "path=$tmp/disk.img"
wait_running one
kill -TERM "$pid"
ends_with "ends as told" 0 "$pid" one
check "... which is no crash" test ! -e "$tmp/crash"
for refusing in core disk0; do
	script "$refusing" exit=2
	start one --disk "path=$tmp/disk.img"
	ends_with "$refusing refuses its options" 2 "$pid" one
	rm "$bin/$refusing.do"
done
check "... which is no crash" test ! -e "$tmp/crash"

# The oldest of this machine's go; others stay.
mkdir "$tmp/crash"
for i in {10..25}; do : >"$tmp/crash/one.20200101T0000${i}_000Z.disk0.crash"; done
: >"$tmp/crash/two.20100101T000000_000Z.disk0.crash"
: >"$tmp/crash/one.notes"
start one --disk "path=$tmp/disk.img"
wait_running one
slay "$(device one disk0 pid)"
new() { [ -s "$(newest)" ]; }
check "a killed process leaves a report" wait_for 10 new
report=$(newest)
like "... named by machine, time and device" "$report" "/one\.20[0-9]{6}T[0-9]{6}_[0-9]{3}Z\.disk0\.crash$"
is "... for this user alone" "$(stat -c %a "$report")" 600
check "the log names it" wait_for 5 logged one "disk0: the crash report is $report"
check "the oldest one went for it" test ! -e "$tmp/crash/one.20200101T000010_000Z.disk0.crash"
check "... and no other" test -e "$tmp/crash/one.20200101T000011_000Z.disk0.crash"
check "... of this machine" test -e "$tmp/crash/two.20100101T000000_000Z.disk0.crash"
check "... nor another file" test -e "$tmp/crash/one.notes"
trace "$report" >"$tmp/out"
is "trace prints it" $? 0
check "... the machine" grep -qx 'machine: one' "$tmp/out"
check "... the device" grep -qx 'device: disk0' "$tmp/out"
check "... the process" grep -qE '^process: blk-server, process id [0-9]+, version ' "$tmp/out"
check "... how it ended" grep -qE '^how: it died of signal 9 \(Killed\)$' "$tmp/out"
kill -TERM "$pid"
ends_with "ends" 0 "$pid" one
rm -r "$tmp/crash"

# A directory that can't be made is no reason to stop.
: >"$tmp/file"
crash_dir=$tmp/file/crash start one --disk "path=$tmp/disk.img"
wait_running one
slay "$(device one disk0 pid)"
check "a report that can't be written is told of" \
	wait_for 10 logged one "disk0: the crash report can't be written, $tmp/file/crash: Not a directory"
back() { [ "$(device one disk0 state)" = up ]; }
check "... and the machine runs on" wait_for 10 back
kill -TERM "$pid"
ends_with "ends all the same" 0 "$pid" one

# ---- a directory that hangs ----
# A file system whose server answers nothing, until that ends: it holds up whoever looks into it.
mkdir "$tmp/hung"
is_mounted() { grep -q " $tmp/hung " /proc/self/mountinfo; }
hang_crashes() {
	spawn bash -c 'exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none "$1" &&
		exec sleep 1000' - "$tmp/hung" 2>"$tmp/mount.err"
	hung=$pid
	wait_for 2 is_mounted || { gone "$hung" || kill "$hung"; return 1; }
}
writer() { pgrep -P "$keeper" -x bulkhead-report; }
up_after() { [ "$(device one "$1" restarts)" -ge "$2" ] && [ "$(device one "$1" state)" = up ]; }
waits=8
if [ "$(id -u)" -ne 0 ] || ! hang_crashes; then
	skip "a crash directory that hangs holds up no recovery" "no file system can be made that hangs"
else
	at_exit umount -l "$tmp/hung"
	crash_dir=$tmp/hung/crash start one --disk "path=$tmp/disk.img" --disk "path=$tmp/disk1.img" --restarts 100/1
	wait_running one
	keeper=$(pgrep -P "$pid")
	slay "$(device one disk0 pid)"
	check "a crash directory that hangs: a process of its own waits for it" wait_for 10 writer
	is "... which holds none of the keeper's files" "$(find "/proc/$(writer)/fd" -lname "$tmp/*")" ""
	is "... nor its streams" "$(find "/proc/$(writer)/fd" -lname /dev/null | wc -l)" 3
	slay "$(device one disk1 pid)"
	check "... another disk that dies meanwhile is back" wait_for 10 up_after disk1 1
	check "... and so is the first" up_after disk0 1
	for ((i = 2; i <= waits + 1; i++)); do
		slay "$(device one disk0 pid)"
		wait_for 10 up_after disk0 $i
		wait_for 10 spare_ready
	done
	check "... reports beyond a few are dropped, and that is said" wait_for 10 logged one \
		"disk0: no crash report is written of it, $waits others wait for $tmp/hung/crash"
	is "... there is never more than one that waits" "$(writer | wc -l)" 1
	kill "$hung"
	told() { [ "$(grep -c "the crash report can't be written, $tmp/hung/crash: " "$tmp/one.err")" -ge "$1" ]; }
	check "... once it hangs no more all others are tried" wait_for 10 told $waits
	umount -l "$tmp/hung"
	kill -TERM "$pid"
	ends_with "... the machine ends" 0 "$pid" one

	hang_crashes
	crash_dir=$tmp/hung/crash start one --disk "path=$tmp/disk.img"
	wait_running one
	keeper=$(pgrep -P "$pid")
	slay "$(device one disk0 pid)"
	wait_for 10 writer
	waiting=$(writer)
	kill -TERM "$pid"
	ends_with "a machine ends while its crash directory hangs" 0 "$pid" one
	check "... says what is lost" logged one "one: 1 crash reports are lost, $tmp/hung/crash does not take them"
	check "... and who wrote it ends, too" wait_for 5 gone "${waiting:-$pid}"
	kill "$hung"
	umount -l "$tmp/hung"
fi

# ---- the real server, with the stand-in for the core ----

ln -sf "$(realpath "$top_builddir/blk-server/blk-server")" "$bin/blk-server"
start one --disk "path=$tmp/disk.img,spare=off"
wait_running one
server=$(device one disk0 pid)
"$top_builddir/tests/support/make-call" "$server" io0 41
case $? in
77) skip "a forbidden call is named" "this user may not trace the server" ;;
*)
	check "a forbidden call is named" wait_for 10 logged one \
		"disk0: blk-server \(process $server\) died of the forbidden system call socket \(41, x86_64\), made by thread io0"
	check "... by the server itself too" wait_for 5 logged one 'forbidden system call 41, architecture 0xc000003e, thread io0'
	check "... and the device is back" wait_for 10 back
	check "it leaves a report" wait_for 10 count 1
	trace "$(newest)" >"$tmp/out"
	is "trace prints it" $? 0
	check "... with the call" \
		grep -qx 'how: it died of the forbidden system call socket (41, x86_64), made by thread io0' "$tmp/out"
	check "... and what the recorder held" grep -qE '^ +-?[0-9.]+  main +state +ready$' "$tmp/out"
	check "... of the bus too" grep -qE 'main +said +Hello' "$tmp/out"
	;;
esac
server=$(device one disk0 pid)
if "$top_builddir/tests/support/make-call" "$server" io0 102 32; then
	check "a call by the 32-bit interface is named" wait_for 10 logged one \
		"died of the forbidden system call socketcall \(102, i386\), made by thread io0"
else
	skip "a call by the 32-bit interface is named" "this user may not trace the server"
fi
wait_for 10 back
kill -TERM "$pid"
ends_with "ends" 0 "$pid" one

start one --disk "path=$tmp/disk.img,spare=off" --sandbox log
wait_running one
check "--sandbox log: the supervisor passes it on" wait_for 5 logged one 'no system call is forbidden'
server=$(device one disk0 pid)
if "$top_builddir/tests/support/make-call" "$server" io0 41; then
	check "... the process answers after a call that is forbidden otherwise" ctl one loops
	is "... and is the same" "$(device one disk0 pid):$(device one disk0 restarts)" "$server:0"
else
	skip "... the process answers after a call that is forbidden otherwise" "this user may not trace the server"
fi
kill -TERM "$pid"
ends_with "... ends" 0 "$pid" one
