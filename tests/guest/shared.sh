#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Two disks of one blk-server, which is killed at random moments under a guest that writes to both and verifies: cold and with a
# spare. Each death is both disks'. BULKHEAD_LONG=1 kills three hundred times each.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
kills=8
[ -z "${BULKHEAD_LONG-}" ] || kills=300

prepared() {
	[ "$1" = off ] || storm_has_spare || return 1
	storm_serving
}
# Of how many requests were done again, of each disk.
resubmitted() { storm_status | grep -o '"resubmitted":[0-9]*' | cut -d : -f 2 | xargs; }

for spare in off on; do
	rm -f "$tmp"/disk?.img
	truncate -s 16M "$tmp/disk0.img" "$tmp/disk1.img"
	storm_start "storm both queues=2 flush=16" --disk "path=$tmp/disk0.img,queues=2,server=store,io-threads=2,spare=$spare" \
		--disk "path=$tmp/disk1.img,queues=2,server=store" || not_ok "spare=$spare: the guest starts"
	n=0
	while [ $n -lt $kills ]; do
		wait_for 20 prepared "$spare" || break
		pause_at_most 40
		storm_kill || break
		n=$((n + 1))
		# What was out then completes before the next one, or it could be taken for what the process dies of.
		storm_say d || break
	done
	is "spare=$spare: the server of two disks was killed and came back $kills times" "$n" "$kills"
	again=$(resubmitted)
	like "spare=$spare: ... with requests of both" "$again" '^[1-9][0-9]* [1-9][0-9]*$'
	diag "spare=$spare: done again: $again"
	storm_end
done
