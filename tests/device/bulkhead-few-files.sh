#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A start that finds no descriptor left, at one step after the other: it ends with its reason, whatever was set up by then.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
command -v prlimit >/dev/null || skip_all "prlimit (util-linux) is not installed"
make_machine

runs_or_ended() { logged m 'the guest runs' || gone "$pid"; }
# What the keeper can't remove for want of a descriptor the next one does.
ended_well() { [ "$status" -lt 128 ] && [ -s "$tmp/m.err" ]; }
# few TEXT OPTION...: with one descriptor more each time, until the machine runs.
few() {
	local n wrong='' text=$1
	shift
	: >"$tmp/said"
	for n in {8..160}; do
		spawn prlimit --nofile="$n" "$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" \
			--restarts 1/60 "$@" </dev/null >"$tmp/m.out" 2>"$tmp/m.err"
		wait_for 20 runs_or_ended
		logged m 'the guest runs' && break
		wait_exit 20 "$pid"
		ended_well || wrong="$wrong$n descriptors: status $status, $(tail -n 1 "$tmp/m.err")"$'\n'
		cat "$tmp/m.err" >>"$tmp/said"
	done
	check "$text: it runs with $n descriptors" logged m 'the guest runs'
	kill -TERM "$pid"
	ends_with "... and ends" 0 "$pid" m
	is "... with fewer it ends in order" "$wrong" ""
	for step in 'memory for flight recorders' 'the keeper' 'the bus' 'the endpoints of ctl and events'; do
		check "... where there is none left for $step" grep -q "$step.*Too many open files" "$tmp/said"
	done
}
few "a disk" --disk "path=$tmp/disk.img"
few "a disk with a window and a port with a helper" --disk "path=$tmp/disk.img,memory=window" --net user
