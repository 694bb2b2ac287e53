#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# FAULTS 65, a restart storm: wherever in its life a device process dies again and again, it ends in quarantine with a
# bounded number of starts, the machine and its other devices run on, and the device comes back when it is revived.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
. "$top_srcdir/tests/support/memory.bash"
need_kvm
make_machine
limit=4

state_of() { [ "$(device m "$1" state)" = "$2" ]; }
starts() { grep -c 'disk0: started' "$tmp/m.err"; }
given_up() { grep -c 'disk0: given up' "$tmp/m.err"; }

start m --disk "path=$tmp/disk.img,restarts=$limit/60,spare=off" --disk "path=$tmp/disk1.img,spare=off"
wait_running m
neighbour=$(device m disk1 pid)
fds=$(find "/proc/$pid/fd" | wc -l)
read -r own _ <<<"$(memory "$pid")"
rounds=0
for words in exit=1 hello-exit=1 hello-exit=0 active-exit=0 active-exit=50 wrong-name; do
	script disk0 "$words"
	before=$(starts)
	slay "$(device m disk0 pid)"
	check "a storm of $words ends in quarantine" wait_for 30 state_of disk0 failed
	is "... after as many starts as allowed" $(($(starts) - before)) $limit
	rounds=$((rounds + 1))
	is "... with one clear line" "$(given_up)" $rounds
	is "... the machine and its other device run on" "$(state m) $(device m disk1 pid) $(device m disk1 restarts)" "running $neighbour 0"
	rm "$bin/disk0.do"
	check "... and it is revived" ctl m revive disk0
done
# Killed from outside, faster than it can serve.
before=$(starts)
killed=0
while ! state_of disk0 failed && [ $killed -lt 50 ]; do
	p=$(device m disk0 pid)
	[[ $p =~ ^[1-9][0-9]*$ ]] || continue
	kill -KILL "$p" 2>/dev/null && killed=$((killed + 1))
	wait_for 5 gone "$p"
done
check "a storm of SIGKILL ends in quarantine" state_of disk0 failed
is "... after as many starts as allowed" $(($(starts) - before)) $limit
check "... revived" ctl m revive disk0
same_fds() { [ "$(find "/proc/$pid/fd" | wc -l)" -le $((fds + 2)) ]; }
diag "descriptors before: $fds, now: $(find "/proc/$pid/fd" | wc -l), kinds: $(find "/proc/$pid/fd" -type l -printf "%l\n" | sed "s/:.*//" | sort | uniq -c | tr "\n" " ")"
check "the supervisor has lost no descriptor in $(starts) starts" wait_for 5 same_fds
read -r now _ <<<"$(memory "$pid")"
check "... nor much memory" test $((now - own)) -lt 512
tell core end poweroff
ends_with "the machine ends well" 0 "$pid" m
