#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What `bulkhead ctl` changes of a disk while it is in use, with stand-ins for core and servers.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine

# ---- size ----
start m --disk path="$tmp/disk.img",id=disk0
wait_running m
check "a disk is made larger" ctl m resize disk0 24M
check "... its server is told" logged m 'blk-server\[disk0\]: set size to 24M'
check "... and the log tells" logged m '^bulkhead: disk0: size=24M on request'
out=$(ctl m resize disk9 24M 2>&1)
is "one that is not there: exit 1" $? 1
like "... says so" "$out" 'there is no such device'
out=$(ctl m resize disk0 2>&1)
is "no size: exit 2" $? 2
like "... says so" "$out" '"resize": needs a disk.s id and its new size'
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- formats ----
words() { tr '\0' ' ' <"/proc/$1/cmdline"; }
cp "$tmp/disk.img" "$tmp/base.img"
start m --disk path="$tmp/disk.img",id=disk0,format=qcow2,backing=qcow2:"$tmp/base.img",backing="$tmp/base.img"
wait_running m
like "the server is told of the format, and gets backing files as descriptors" "$(words "$(device m disk0 pid)")" \
	'--backing qcow2:fd=5,fd=6 --vhost-fd 8 .*--format qcow2 '
is "... for reading" "$(awk '/^flags/ { print $2 % 10 }' "/proc/$(device m disk0 pid)/fdinfo/6")" 0
ctl m quit
ends_with "ends" 0 "$pid" m

truncate -s 1M "$tmp/looks"
printf 'QFI\xfb' | dd of="$tmp/looks" conv=notrunc status=none
cp "$tmp/looks" "$tmp/said"
cp "$tmp/looks" "$tmp/is"
start m --disk path="$tmp/looks",id=disk0 --disk path="$tmp/said",id=disk1,format=raw \
	--disk path="$tmp/is",id=disk2,format=qcow2 --disk path="$tmp/disk.img",id=disk3
wait_running m
warned() { grep 'begins like a qcow2 image' "$tmp/m.err"; }
is "an image that begins like a qcow2 one, without a format: one warning" "$(warned)" \
	"bulkhead: disk0: \"$tmp/looks\" begins like a qcow2 image and is used as raw; format=qcow2 is for such an image, format=raw for what only looks like one"
like "... it is raw all the same" "$(words "$(device m disk0 pid)")" '--format raw '
ctl m quit
ends_with "ends" 0 "$pid" m
start m --disk path="$tmp/looks",id=disk0,cache=buffered
wait_running m
check "... read through the page cache, too" warned
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- an export of an NBD server ----
start m --disk nbd=nbd://192.0.2.1/x,id=disk0,reconnect=7
wait_running m
like "the server is told of the export, and where to ask for connections" "$(words "$(device m disk0 pid)")" \
	'--nbd nbd://192.0.2.1/x --dial-fd 3 --reconnect 7 '
like "nbd-dial is told of the server" "$(words "$(device m disk0 helper.pid)")" 'nbd-dial --id disk0 .*--socket-fd 3 .*--uri nbd://192.0.2.1/x'
tell disk0 away 90
away() { [ "$(device m disk0 away.what)" = "$1" ]; }
check "an outage shows in status" wait_for 5 away "NBD server"
is "... with what waits" "$(device m disk0 away.requests)" 3
like "... and for people" "$(ctl m status)" 'disk0 +blk-server +up .*, without its NBD server for 1m[0-9]+s, 3 requests waiting'
tell disk0 away 0
check "... and no more when it is over" wait_for 5 away null
is "nbd-dial has this host's network, and the server none" \
	"$(readlink "/proc/$(device m disk0 helper.pid)/ns/net") $([ "$(readlink "/proc/$(device m disk0 pid)/ns/net")" != "$(readlink /proc/self/ns/net)" ] && echo none)" \
	"$(readlink /proc/self/ns/net) none"
old=$(device m disk0 helper.pid) server=$(device m disk0 pid)
slay "$old"
check "a dead nbd-dial is replaced" wait_for 10 eval '[ "$(device m disk0 helper.state)" = up ] && [ "$(device m disk0 helper.pid)" != "$old" ]'
is "... the server serves on" "$(device m disk0 pid)" "$server"
check "... the log tells" logged m 'disk0: nbd-dial died of signal 9 .*; the server keeps the connections that it has'
like "one that is upgraded: what that cost is said" "$(ctl m upgrade disk0.user)" \
	'^disk0.user: upgraded; it was away for [0-9.]+ ms: the server keeps the connections that it has$'
ctl m quit
ends_with "ends" 0 "$pid" m

# A name that can't be looked up: no part of one is that long.
host=$(printf 'a%.0s' {1..70}).example
ln -sf "$(realpath "$top_builddir/nbd-dial/nbd-dial")" "$bin/nbd-dial"
crash_dir=$tmp/no-host start m --disk "nbd=nbd://$host/x,id=disk0"
ends_with "a server's host that nobody knows: exit 2" 2 "$pid" m
is "... said once, by its name" "$(grep -c "can't be found" "$tmp/m.err") $(grep -o "the address of $host can't be found" "$tmp/m.err")" \
	"1 the address of $host can't be found"
check "... without a crash report" test ! -e "$tmp/no-host"
ln -sf fake-child "$bin/nbd-dial"

# ---- limits ----
refused() {
	local out
	out=$("$bulkhead" run --run-dir "$tmp/other" --kernel "$tmp/kernel" "${@:3}" 2>&1 </dev/null)
	is "$1: exit 2" $? 2
	like "... says why" "$out" "$2"
}
truncate -s 1M "$tmp/disk2.img"
start m --limit-group id=slow,bps=10M,iops-burst=5 --limit-group id=idle \
	--disk path="$tmp/disk.img",id=disk0,bps=1M,iops-burst=7,group=slow --disk path="$tmp/disk1.img",id=disk1,group=slow \
	--disk path="$tmp/disk2.img",id=disk2
wait_running m
like "the server is told of the disk's limits" "$(words "$(device m disk0 pid)")" \
	'--image-fd 3 --state-fd 4 --group-fd 5 --bps 1M --iops-burst 7 --vhost-fd 7 .*--flight-fd 6 '
same_memory() { [ "$(stat -Lc %i "/proc/$1/fd/5")" = "$(stat -Lc %i "/proc/$2/fd/5")" ]; }
check "... and two disks of a group have the same memory" same_memory "$(device m disk0 pid)" "$(device m disk1 pid)"
check "... but not their own" test "$(stat -Lc %i "/proc/$(device m disk0 pid)/fd/4")" != "$(stat -Lc %i "/proc/$(device m disk1 pid)/fd/4")"
limits() { status_of m | jq -c '[.devices[].limits]'; }
is "status tells of them" "$(limits)" '[{"bps":"1M","iops-burst":"7"},{},{}]'
check "a limit is changed" ctl m set disk0 bps=2M
is "... as status tells" "$(limits)" '[{"bps":"2M","iops-burst":"7"},{},{}]'
like "... and people" "$(ctl m status)" 'disk0 .*, at most bps=2M iops-burst=7'
check "another one is taken away" ctl m set disk0 iops-burst=0
is "... and told of no more" "$(limits)" '[{"bps":"2M"},{},{}]'
unlike "one that the server refuses is not told of" "$(ctl m set disk0 wrong=1; limits)" wrong
check "... of this disk" logged m 'blk-server\[disk0\]: set bps to 2M'
groups() { status_of m | jq -c '[.devices[].group]'; }
slow='{"id":"slow","limits":{"bps":"10M","iops-burst":"5"}}'
is "status tells of their group, too" "$(groups)" "[$slow,$slow,null]"
like "... and people" "$(ctl m status)" 'disk0 .*, at most bps=2M, in group slow: at most bps=10M iops-burst=5'
check "a group's limit is changed" ctl m set group:slow iops=300
slow='{"id":"slow","limits":{"bps":"10M","iops":"300","iops-burst":"5"}}'
is "... as status tells of each of its disks" "$(groups)" "[$slow,$slow,null]"
is "... but not of them alone" "$(limits)" '[{"bps":"2M"},{},{}]'
check "... by one of its servers" logged m 'blk-server\[disk0\]: set group-iops to 300'
check "... and the log tells" logged m '^bulkhead: group:slow: iops=300 on request'
out=$(ctl m set group:idle iops=300 2>&1)
like "a group without disks" "$out" 'there is no disk in such a group'
out=$(ctl m set group: iops=300 2>&1)
like "... nor is one without a name that of the disks without a group" "$out" 'there is no disk in such a group'
ctl m quit
ends_with "ends" 0 "$pid" m
refused "a group that is not there" 'group="fast" is not there; --limit-group id=fast' --disk path="$tmp/disk.img",group=fast
refused "a group twice" 'id="a" is given twice' --limit-group id=a --limit-group id=a
refused "a group without a name" 'names no group' --limit-group bps=1M
refused "a rate that is none" 'bps="fast" is not a number up to 1T' --disk path="$tmp/disk.img",bps=fast
refused "a burst that is too large" 'bps-burst="5G" is not a number up to 4G' --limit-group id=a,bps-burst=5G
# ---- engines ----
start m --disk path="$tmp/disk.img",id=disk0,engine=null --disk path="$tmp/disk1.img",id=disk1 \
	--disk path="$tmp/disk2.img",id=disk2,engine=io_uring
wait_running m
like "the server is told of the engine" "$(words "$(device m disk0 pid)")" ' --engine null '
unlike "... and only that one" "$(words "$(device m disk1 pid)")" ' --engine '
is "the status tells" "$(device m disk0 engine) $(device m disk1 engine) $(device m disk2 engine)" "null aio io_uring"
like "... and people of one that is not the default" "$(ctl m status | grep disk)" 'disk0 [^\n]*, engine null'
unlike "... only" "$(ctl m status | grep disk1)" 'engine'
ctl m quit
ends_with "ends" 0 "$pid" m
refused "an engine that is none" 'engine="fast" is not possible; allowed: aio, io_uring, null' --disk path="$tmp/disk.img",engine=fast
refused "tables that nothing is read of" 'engine=null goes with format=raw only' --disk path="$tmp/disk.img",engine=null,format=qcow2
# ---- what the host refuses ----
start m --disk path="$tmp/disk.img",id=disk0,on-error=enospc --disk path="$tmp/disk1.img",id=disk1
wait_running m
like "the server is told of the policy" "$(words "$(device m disk0 pid)")" ' --on-error enospc '
unlike "... and only that one" "$(words "$(device m disk1 pid)")" ' --on-error '
is "a machine that runs stands for nothing" "$(ctl --json m status | jq .stands_for)" null
tell disk1 io-error "give me attention"
check "a server whose disk keeps nothing is not listened to" wait_for 10 logged m 'disk1: speaks of an I/O error, which it is not to'
is "... and the machine runs on" "$(ctl --json m status | jq -r '.state, .stands_for' | xargs)" "running null"
tell disk0 io-error "no room"
check "a request that is kept stops the machine" wait_for 10 is_state m paused
is "... the status says why" "$(ctl --json m status | jq -r .stands_for)" "disk0: no room"
like "... for people" "$(ctl m status)" '  stands: disk0: no room; resume tries it again'
check "... the log says so" logged m 'disk0: no room; the machine stands until bulkhead ctl m resume'
check "resume" ctl m resume
check "... has it tried again" logged m 'blk-server\[disk0\]: set retry to now'
check "... only there" bash -c "! grep -q 'disk1.: set retry' '$tmp/m.err'"
is "... and it runs" "$(ctl --json m status | jq -r '.state, .stands_for' | xargs)" "running null"
tell disk0 io-error $'no \xff\xfe r\xc3om again'
check "it stands again" wait_for 10 is_state m paused
is "... the status can be said whatever bytes the server sent" "$(ctl --json m status | jq -r .stands_for)" "disk0: no ?? r?om again"
tell disk0 mute
check "one whose server does not answer is resumed" ctl m resume
check "... and it is said that the request was not tried" wait_for 20 logged m 'disk0: not told to try again what it keeps: .*; bulkhead ctl m resume does it again'
tell core mute
tell disk1 io-error "nobody hears"
tell disk0 io-error "once more"
check "a core that does not stop the guest: that is said" wait_for 20 logged m 'disk0: once more: the machine could not be stopped, .*: the core did not do it'
ctl m quit
ends_with "ends" 0 "$pid" m
refused "a policy that is none" 'on-error="ignore" is not possible; allowed: report, stop, enospc, retry' \
	--disk path="$tmp/disk.img",on-error=ignore
cat >"$tmp/vm.json" <<END
{ "kernel": "$tmp/kernel", "limit-group": [{"id": "slow", "iops": 100}],
  "disk": [{"path": "$tmp/disk.img", "id": "disk0", "bps": "5M", "iops": 20, "group": "slow"}] }
END
spawn "$bulkhead" run --name m --run-dir "$run_dir" --config "$tmp/vm.json" </dev/null >"$tmp/m.out" 2>"$tmp/m.err"
wait_running m
like "the same from JSON" "$(words "$(device m disk0 pid)")" '--group-fd 5 --bps 5M --iops 20 '
ctl m quit
ends_with "ends" 0 "$pid" m
