#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Control groups: each process in its own, with limits as far as there are controllers; nothing of them is left, whoever dies.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
make_machine

refused() {
	local out code
	out=$(soon "$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" --cgroup "$2" 2>&1 </dev/null)
	code=$?
	like "refused: $1" "$code $out" "^2 bulkhead: --cgroup: .*$3"
}
refused "no absolute path" machines '"machines" is not possible; allowed: the absolute path of a cgroup, self'
refused "not there" "$tmp/none" 'none" can.t be opened: No such file or directory; a cgroup is needed'
refused "no cgroup" "$tmp" 'is no cgroup of version 2'

mount=$(awk '$0 ~ / - cgroup2 / && $4 == "/" { print $5; exit }' /proc/self/mountinfo)
[ -n "$mount" ] && folder=$(mktemp -d "$mount/bulkhead-test.XXXXXX" 2>/dev/null) ||
	{ skip "groups" "no cgroup can be made here"; exit; }
at_exit rmdir "$folder"
sanitized && { skip "groups" "built with sanitizers, which the supervisor's sandbox does not allow"; exit; }
need_kvm
own=$folder/bulkhead-m

# group_of PROCESS-ID: within the folder.
group_of() { sed -n "s,^0::.*/${folder##*/}/,,p" "/proc/$1/cgroup"; }
in_group() { [ "$(group_of "$(device m "$1" "$2")")" = "bulkhead-m/$3" ]; }
gone() { [ ! -e "$own" ]; }

# ---- a life ----
start m --disk "path=$tmp/disk.img" --net user --cgroup "$folder"
wait_running m
check "the server of a disk has a group" wait_for 20 in_group disk0 pid disk0
check "... its spare another" wait_for 20 in_group disk0 spare_pid disk0.b
check "... the port's too" in_group net0 pid net0
is "there is one for each process" "$(cd "$own" && echo */)" "core/ disk0.b/ disk0/ net0.b/ net0.user/ net0/"
is "the core runs in its own" "$(wc -l <"$own/core/cgroup.procs")" 1
check "the log says where" logged m "control groups in $own"
slay "$(device m disk0 pid)"
again() { [ "$(device m disk0 restarts)" = 1 ] && in_group disk0 pid disk0.b && in_group disk0 spare_pid disk0; }
check "after a death the spare serves in its group, a new one waits in the other" wait_for 20 again
controllers=$(<"$folder/cgroup.controllers")
for c in "memory memory.max" "pids pids.max" "cpu cpu.weight"; do
	read -r name file <<<"$c"
	if [[ " $controllers " == *" $name "* ]]; then
		like "$file is set" "$(<"$own/disk0/$file")" '^[0-9]+$'
	else
		check "no controller $name: the log says so" logged m "no controller $name was made over"
	fi
done
ctl m quit
ends_with "it ends" 0 "$pid" m
check "... and no group is left" gone

# ---- deaths ----
start m --disk "path=$tmp/disk.img" --cgroup "$folder"
wait_running m
kill -KILL "$pid"
dead() { gone && [ ! -e "$run_dir/m" ] && ! pgrep -f "$run_dir/m/" >/dev/null; }
check "the supervisor dies: no group is left, nor anything else" wait_for 20 dead
mkdir "$own" "$own/core" "$own/old"
start m --disk "path=$tmp/disk.img" --cgroup "$folder"
check "what a dead machine left is taken over" wait_running m
ctl m quit
ends_with "... and ends" 0 "$pid" m
check "... no group is left" gone
mkdir -p "$own/old"
spawn sleep 1000
echo "$pid" >"$own/old/cgroup.procs"
refused "a process is in it" "$folder" "can't make \"$own\": .*; nothing may run in it"
kill -KILL "$pid"
wait_exit 20 "$pid"
rmdir "$own/old" "$own"
spawn sleep 1000
echo "$pid" >"$folder/cgroup.procs"
if [[ " $controllers " == *" "@(cpu|memory|pids)" "* ]]; then
	refused "a process is in the folder" "$folder" "processes are in \"$folder\"; a cgroup without any"
else
	skip "a process is in the folder" "no controller that forbids it"
fi
kill -KILL "$pid" # it may still be this shell's copy, with its traps
wait_exit 20 "$pid"
check "a refusal leaves nothing" gone

# ---- self ----
alone=$folder/alone
mkdir "$alone"
start_alone() { echo "$BASHPID" >"$alone/cgroup.procs" && exec "$bulkhead" "$@"; }
spawn start_alone run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" --disk "path=$tmp/disk.img" --cgroup self \
	</dev/null >"$tmp/m.out" 2>"$tmp/m.err"
wait_running m
is "self: the supervisor steps aside" "$(group_of "$pid")" alone/bulkhead
is "... and the server is beside it" "$(group_of "$(device m disk0 pid)")" alone/bulkhead-m/disk0
ctl m quit
ends_with "... it ends" 0 "$pid" m
is "... its group alone is left" "$(cd "$alone" && echo */)" bulkhead/
rmdir "$alone/bulkhead" "$alone"
