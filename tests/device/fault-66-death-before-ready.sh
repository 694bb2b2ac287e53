#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# FAULTS 66: a child dies before it is ready or in the middle of a hand-off, as the first process of a machine, as a
# successor, as a spare. Once the cause is gone the device serves, and what is left of the dead one disturbs nobody.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
not_quick
make_machine

state_of() { [ "$(device m "$1" state)" = "$2" ]; }
up_after() { [ "$(device m disk0 restarts)" -ge "$1" ] && state_of disk0 up; }
spare_ready() { [ "$(device m disk0 spare)" = ready ]; }
deaths() { grep -cE 'disk0: blk-server \(process [0-9]+\) (ended with|died of)|disk0: killing' "$tmp/m.err"; }
died_more() { [ "$(deaths)" -gt "$1" ]; }

# ---- the first process of a machine ----
for words in exit=1 hello-exit=1 "no-ready" "no-hello" active-exit=0; do
	script disk0 "$words"
	start m --disk "path=$tmp/disk.img" --start-timeout 2 --restarts 100/60
	check "first start: $words" wait_for 20 died_more 1
	rm "$bin/disk0.do"
	check "... the machine starts as soon as it can" wait_running m
	# One that dies once it serves was up before: the machine runs while its successor may yet be starting.
	check "... with all that it should have" wait_for 20 state_of disk0 up
	ctl m quit
	ends_with "... and ends" 0 "$pid" m
done

# ---- a successor ----
start m --disk "path=$tmp/disk.img,spare=off" --start-timeout 2 --restarts 100/60
wait_running m
for words in exit=1 hello-exit=1 no-ready no-hello active-exit=0 wrong-name; do
	script disk0 "$words"
	n=$(deaths)
	slay "$(device m disk0 pid)"
	check "successor: $words" wait_for 20 died_more $((n + 1))
	rm "$bin/disk0.do"
	check "... it serves as soon as it can" wait_for 20 state_of disk0 up
done
# In the hand-off: the core has the socket of one that is dead, and says nothing, or that it is bad.
for how in ignore reject; do
	n=$(device m disk0 restarts)
	tell core $how
	slay "$(device m disk0 pid)"
	check "hand-off: the core will $how it; the next one serves" wait_for 20 up_after $((n + 2))
done
check "... the reason is told" logged m 'disk0: killing blk-server .*: the test rejects it'
ctl m quit
ends_with "... and ends" 0 "$pid" m

# ---- a spare ----
start m --disk "path=$tmp/disk.img" --start-timeout 2
wait_running m
for words in exit=1 no-ready; do
	wait_for 20 spare_ready
	script disk0 "$words"
	slay "$(device m disk0 spare_pid)"
	n=$(grep -c 'disk0: its spare' "$tmp/m.err")
	more() { [ "$(grep -c 'disk0: its spare' "$tmp/m.err")" -gt $((n + 1)) ]; }
	check "spare: $words" wait_for 20 more
	is "... the device does not notice" "$(device m disk0 restarts) $(device m disk0 state)" "0 up"
	rm "$bin/disk0.do"
done
check "... there is one again" wait_for 20 spare_ready
ctl m quit
ends_with "... and ends" 0 "$pid" m
# It dies at the moment that it takes over, and with the active one.
start m --disk "path=$tmp/disk.img"
wait_running m
wait_for 20 spare_ready
script disk0 active-exit=0
slay "$(device m disk0 spare_pid)"
not_ready() { ! spare_ready; }
wait_for 5 not_ready
wait_for 20 spare_ready
slay "$(device m disk0 pid)"
rm "$bin/disk0.do"
check "a spare that dies as it takes over is replaced in turn" wait_for 20 up_after 2
wait_for 20 spare_ready
n=$(device m disk0 restarts)
kill -KILL "$(device m disk0 spare_pid)" "$(device m disk0 pid)"
check "both at once: a new one is started" wait_for 20 up_after $((n + 1))
ctl m quit
ends_with "... and ends" 0 "$pid" m
