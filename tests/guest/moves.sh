#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The bare guest writes and verifies with four queues on two threads: on a raw image, on a qcow2 image that has it as its
# backing file, and on an export of an NBD server. Every 100 ms a queue moves to the other thread; limits change, the disk
# grows, and its server is killed now and then, in the midst of one of these: no request fails, and nothing is lost.
# BULKHEAD_LONG=1 goes on for minutes.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
seconds=3
[ -z "${BULKHEAD_LONG-}" ] || seconds=300
export BULKHEAD_PATH=$BULKHEAD_PATH:$top_builddir/nbd-dial
rates=(bps=64M bps=8M bps=0 iops=20000 iops=1000 iops=0 bps-burst=1M iops-burst=50)
step=$((256 << 10)) most=$((32 << 20)) # bytes that the disk grows by, and that the guest uses
evidence "$tmp/refused"

ctl() { "$bulkhead" ctl --run-dir "$tmp/run" storm "$@" 2>>"$tmp/refused"; }

# What is done next, in the array words.
choose_move() {
	local q=$((RANDOM % 4))
	if [ "${thread[q]}" = a ]; then thread[q]=b; else thread[q]=a; fi
	words=(move-queue disk0 $q "${thread[q]}")
}
choose_limit() { words=(set disk0 "${rates[RANDOM % ${#rates[@]}]}"); }
choose_size() {
	"$enlarge" $((bytes + step))
	words=(resize disk0 $((bytes + step)))
}

move() {
	choose_move
	ctl "${words[@]}" && moves=$((moves + 1))
}
limit() {
	choose_limit
	ctl "${words[@]}" && limits=$((limits + 1))
}
no_limits() { ctl set disk0 bps=0 && ctl set disk0 iops=0; }
# As large as the guest needs it, if no more.
grow() {
	[ $((bytes + step)) -le $most ] || return 0
	choose_size
	ctl "${words[@]}" && storm_say g || return 1
	bytes=$((bytes + step)) growths=$((growths + 1))
}

# strike: its server is killed while one of them is under way, which may be refused then. A request that several
# processes die with is answered with an error, so all that are out must have been answered before.
strike() {
	local job
	storm_say d || return 1
	case $((RANDOM % (2 + (bytes + step <= most)))) in
	0) choose_move ;;
	1) choose_limit ;;
	2) choose_size ;;
	esac
	ctl "${words[@]}" &
	job=$!
	pause_at_most 30
	storm_kill || return 1
	kills=$((kills + 1))
	if ! wait $job; then
		refused=$((refused + 1))
		ctl "${words[@]}" || return 1
	fi
	[ "${words[0]}" != resize ] || { storm_say g && bytes=$((bytes + step)) growths=$((growths + 1)); }
}

pass() {
	local tick=0 next=${EPOCHREALTIME/./} left
	local end=$((next + seconds * 1000000))
	while [ "$next" -lt $end ]; do
		tick=$((tick + 1)) next=$((next + 100000))
		move || return
		[ $((tick % 3)) -ne 0 ] || limit || return
		[ $((tick % 5)) -ne 0 ] || grow || return
		[ $((tick % 7)) -ne 0 ] || strike || return
		[ $((tick % 13)) -ne 0 ] || "$outage" || return
		left=$((next - ${EPOCHREALTIME/./}))
		[ $left -le 0 ] || pause $left
	done
}

# What the last round has of its own: other deaths, and that somebody else has to make the image longer.
nothing() { :; }
outage=nothing enlarge=nothing
# round TEXT DISK: a machine for so many seconds.
round() {
	local text=$1
	moves=0 limits=0 growths=0 kills=0 refused=0 outages=0 thread=(a b a b)
	if storm_start "storm queues=4 flush=64 learn" --disk "$2,id=disk0,queues=4,io-threads=a:b,restarts=1000/1" && pass; then
		ok "$text: all of it is done"
	else
		not_ok "$text: all of it is done" "${words[*]}"
	fi
	check "$text: no more limits" no_limits
	storm_end
	diag "$text: $moves moves, $limits limits, $growths growths, $kills kills, $refused refused by them," \
		"$outages outages; $(grep -o 'storm: .*' "$tmp/said")"
}

bytes=$((1 << 20))
truncate -s $bytes "$tmp/disk.img"
round raw "path=$tmp/disk.img"

# ---- qcow2 ----
has() {
	local text=$1 program
	shift
	for program; do
		command -v "$program" >/dev/null || { skip "$text" "$program is not installed" && return 1; }
	done
}
# overlay: over what the first round left.
overlay() {
	mv "$tmp/disk.img" "$tmp/base.img"
	qemu-img create -q -f qcow2 -F raw -b "$tmp/base.img" "$tmp/disk.qcow2"
	round qcow2 "path=$tmp/disk.qcow2,format=qcow2,backing=$tmp/base.img"
	# Who is killed leaks the clusters that it had reserved, which is status 3.
	qemu-img check -q "$tmp/disk.qcow2" >"$tmp/check" 2>&1
	like "qcow2: qemu-img finds the image consistent" $? '^[03]$'
	qemu-img convert -f qcow2 -O raw "$tmp/disk.qcow2" "$tmp/disk.img"
}
! has qcow2 qemu-img || overlay

# ---- nbd ----
serve() {
	rm -f "$tmp/nbd"
	# One thread for each connection: with several nbdkit 1.32 aborts at times when the other end goes away.
	spawn nbdkit --exit-with-parent -f -t 1 -U "$tmp/nbd" file "$tmp/disk.img" 2>>"$tmp/nbdkit"
	server=$pid
	wait_for 20 test -S "$tmp/nbd" && chmod 777 "$tmp/nbd"
}
helper() { storm_status | jq -r ".devices[0].helper.$1"; }
helper_is_new() { [ "$(helper pid)" != "$dial" ] && [ "$(helper state)" = up ]; }
# kill_others: the server of the export, or who makes the connections to it, is killed.
kill_others() {
	storm_say d || return 1
	if [ $((outages % 2)) -eq 0 ]; then
		kill -KILL "$server"
		wait "$server" 2>/dev/null
		pause_at_most 200
		serve || return 1
	else
		dial=$(helper pid)
		kill -KILL "$dial" && wait_for 20 helper_is_new || return 1
	fi
	outages=$((outages + 1))
}
longer() { truncate -s "$1" "$tmp/disk.img"; }
# export_disk: what the last round left.
export_disk() {
	evidence "$tmp/nbdkit"
	serve
	outage=kill_others enlarge=longer
	round nbd "nbd=nbd+unix:///?socket=$tmp/nbd,reconnect=300"
}
if ! grep -q '^#define HAVE_LIBNBD' "$top_builddir/config.h"; then
	skip "nbd" "built without libnbd"
else
	! has nbd nbdkit jq || export_disk
fi
