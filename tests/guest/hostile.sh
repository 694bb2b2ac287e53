#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A whole machine with a back end that somebody took over: it spoils its ring (FAULTS 41) or the eventfd that it shares with the
# core (FAULTS 46). The guest goes on, and so does the core.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
guest=$top_builddir/tests/guest

# begin HOW: a machine whose disk is like that; the guest has a request out.
begin() {
	rm -f "$tmp/sock" "$tmp/bad.out"
	spawn "$guest/bad-backend" "$1" "$tmp/sock" >"$tmp/bad.out"
	wait_for 5 test -S "$tmp/sock"
	storm_start storm --disk "vhost-user=$tmp/sock" || { not_ok "$1: the guest starts"; exit 1; }
	wait_for 10 grep -q "done" "$tmp/bad.out"
}
says() { wait_for 10 grep -q "$1" "$tmp/log"; }
ask() { timeout 60 "$bulkhead" ctl storm "$1" --run-dir "$tmp/run"; }
core_answers() { ask pause && ask resume; }
finish() {
	check "$1: the core answers" core_answers
	check "$1: the guest runs on" storm_say n
	ask quit
	wait_exit 20 "$storm_vm"
	exec {storm_in}>&- {storm_out}<&-
	tap_kill
}

begin ahead
check "fault 41: a used index that is 40000 ahead is seen, and the connection ended" \
	says 'device disk0 is down: its used index is not among the requests that the driver made available'
finish "fault 41, ahead"
begin ids
check "fault 41: a used id that was never issued is seen, and the connection ended" \
	says 'device disk0 is down: its used ring names descriptors that do not exist'
finish "fault 41, ids"
begin full
check "fault 46: with the kick's eventfd full and blocking, the stall is noticed" \
	says 'device disk0: no progress on queue 0 for [1-9][0-9]* ms: there are no health words'
finish "fault 46"
