#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In the test host: boots the stock kernel under bulkhead and reports TAP. Needs a busybox shell.
#   host.sh CPUS-LIST KILLS
set -u
. /bin/common
# machine CPUS SCRIPT OPTION...: starts bulkhead in the background on a fresh copy of the disk; $vm is its process.
machine() {
	cpus_now=$1 script_now=$2
	shift 2
	cp /guest/root.img /tmp/root.img
	bulkhead run --name vm --kernel /guest/vmlinuz --initrd /guest/initrd --cpus "$cpus_now" --memory 384M \
		--append "console=ttyS0 quiet panic=-1 bulkhead.run=$script_now" \
		--disk "path=/tmp/root.img,queues=$cpus_now" --console file=/tmp/console "$@" </dev/null 2>/tmp/log &
	vm=$!
}
clean_disk() {
	check "$1: e2fsck finds the file system clean" /tmp/fsck sh -c 'e2fsck -fn /tmp/root.img >/tmp/fsck 2>&1'
}
follow

for cpus in $1; do
	what="$cpus vCPU"
	rm -f /tmp/console
	machine "$cpus" verify
	until_true 900 dead $vm || kill -KILL $vm
	wait $vm
	status=$?
	check "$what: exit status 0 after power-off ($status)" /tmp/log [ $status = 0 ]
	check "$what: the root is read-write on /dev/vda" /tmp/console grep "root is /dev/vda, read-write" /tmp/console
	check "$what: the guest has that many" /tmp/console grep "guest: cpus $cpus" /tmp/console
	for bs in 4k 64k 1m; do
		for depth in 1 16; do
			check "$what: fio $bs depth $depth verified" /tmp/console \
				grep "fio $bs depth $depth verified" /tmp/console
		done
	done
	check "$what: it rebooted once and found its files" /tmp/console \
		grep "files are as they were before the reboot" /tmp/console
	check "$what: no kernel errors" /tmp/console sh -c '! grep "kernel errors" /tmp/console'
	clean_disk "$what"
	nothing_left "$what: "
done

# Two disks with four queues each; the host kills the server of one, of the other, or of both at once.
rm -f /tmp/console
truncate -s 64M /tmp/data.img
machine 4 kills --disk path=/tmp/data.img,queues=4 --restarts 1000/60
until_true 240 grep "guest: writing" /tmp/console
kills=0
seed=$$
random() {
	seed=$(((seed * 1103515245 + 12345) & 0x7fffffff))
	drawn=$(((seed >> 8) % $1))
}
# killed DISK...: kills their servers together and waits for all successors; false if something is amiss.
killed() {
	pids=
	for d; do
		until_true 60 replaced "$d" none || return 1
		pids="$pids$new "
	done
	# shellcheck disable=SC2086
	kill -KILL $pids || return 1
	for d; do
		kills=$((kills + 1))
		until_true 60 replaced "$d" "${pids%% *}" || return 1
		pids=${pids#* }
	done
}
while [ $kills -lt "$2" ]; do
	random 900000
	usleep "$drawn"
	random 3
	case $drawn in
	0) killed disk0 ;;
	1) killed disk1 ;;
	*) killed disk0 disk1 ;;
	esac || break
done
check "kills: blk-server was killed $kills times, at least $2" /tmp/log [ "$kills" -ge "$2" ]
bulkhead ctl vm power-button
until_true 480 dead $vm || kill -KILL $vm
wait $vm
status=$?
check "kills: exit status 0 after power-off ($status)" /tmp/log [ $status = 0 ]
check "kills: the guest finished its writing" /tmp/console grep "guest: finished" /tmp/console
check "kills: both disks have four queues" /tmp/console grep "guest: queues 4 4" /tmp/console
check "kills: 0 mismatches ($(grep rounds /tmp/console | tr -d '\r'))" /tmp/console grep "rounds, 0 failed" /tmp/console
check "kills: 0 guest I/O errors" /tmp/console sh -c '! grep "kernel errors" /tmp/console'
clean_disk kills
nothing_left "kills: "
grep 'is back after' /tmp/log | sed 's/^/# /'
dmesg | grep 'type=1326' | sed 's/^/# /'
echo "1..$count"
[ $failed = 0 ]
