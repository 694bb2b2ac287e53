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
		--disk "path=/tmp/root.img,queues=$cpus_now" --console file=/tmp/console --start-timeout 300 "$@" </dev/null 2>/tmp/log &
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

# Four disks with four queues each: the root, and raw, qcow2 and NBD on two threads. The host kills the server of one or
# of several at once; meanwhile queues move, limits change, and the disks that can grow do.
rm -f /tmp/console
truncate -s 32M /tmp/data.img /tmp/export.img
mkdir -p /tmp/nbd
nbdkit -f -t 1 -U /tmp/nbd/socket /guest/nbd-file.so /tmp/export.img 2>/tmp/nbdkit &
nbdkit=$!
until_true 60 [ -S /tmp/nbd/socket ]
chmod 755 /tmp/nbd
chmod 777 /tmp/nbd/socket
two="queues=4,io-threads=a:b,map=0:a,1:b,2:a,3:b,restarts=1000/60"
machine 4 kills --disk "path=/tmp/data.img,$two" \
	--disk "path=/guest/over.qcow2,format=qcow2,backing=/guest/backing.img,$two" \
	--disk "nbd=nbd+unix:///?socket=/tmp/nbd/socket,reconnect=600,$two" --restarts 1000/60 --cgroup /sys/fs/cgroup
until_true 240 grep "guest: writing" /tmp/console
kills=0
seed=$$
random() {
	seed=$(((seed * 1103515245 + 12345) & 0x7fffffff))
	drawn=$(((seed >> 8) % $1))
}
# What its predecessor had in flight is answered: a request that processes die with again and again is given up.
answered() {
	bulkhead ctl vm stats "$1" --json | tr -d '\n ' >/tmp/stats
	[ "$(sed -n 's/.*"completed":\([0-9]*\).*/\1/p' /tmp/stats)" -ge \
		"$(sed -n 's/.*"resubmitted":\([0-9]*\).*/\1/p' /tmp/stats)" ]
}
# killed DISK...: kills their servers together and waits for all successors; false if something is amiss.
killed() {
	pids=
	for d; do
		until_true 60 replaced "$d" none && until_true 60 answered "$d" || return 1
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
# What goes on meanwhile, every 100 ms as far as this host is fast enough; what a kill refuses is counted.
meddle() {
	seed=1 tick=0 moves=0 limits=0 growths=0 refused=0 mib=32
	while [ ! -f /tmp/stop ]; do
		tick=$((tick + 1))
		random 3
		disk=disk$((drawn + 1))
		random 4
		if bulkhead ctl vm move-queue $disk "$drawn" "$([ $((tick % 2)) = 0 ] && echo a || echo b)"; then
			moves=$((moves + 1))
		else
			refused=$((refused + 1))
		fi
		case $((tick % 16)) in
		3) set="set $disk iops=2000" limit=1 ;;
		7) set="set $disk iops=0" limit=1 ;;
		11) mib=$((mib + 1)) set="resize disk1 ${mib}M" limit=0 ;;
		15) mib=$((mib + 1)) set="resize disk2 ${mib}M" limit=0 ;;
		*) set= ;;
		esac
		if [ -z "$set" ]; then
			:
		elif bulkhead ctl vm $set; then
			limits=$((limits + limit)) growths=$((growths + 1 - limit))
		else
			refused=$((refused + 1))
		fi
		echo "$moves moves, $limits limits, $growths growths, $refused refused" >/tmp/meddled
		usleep 100000
	done >/tmp/meddle.log 2>&1
}
meddle &
meddler=$!
while [ $kills -lt "$2" ]; do
	random 900000
	usleep "$drawn"
	random 6
	case $drawn in
	0) killed disk0 ;;
	1) killed disk1 ;;
	2) killed disk2 ;;
	3) killed disk3 ;;
	4) killed disk0 disk1 ;;
	*) killed disk1 disk2 disk3 ;;
	esac || break
done
touch /tmp/stop
wait $meddler
for d in disk1 disk2 disk3; do bulkhead ctl vm set $d iops=0; done
# Each process has its control group, whose limits hold: a server that gets no more memory is ended by the kernel, and replaced.
groups=/sys/fs/cgroup/bulkhead-vm
check "cgroup: each process has its own" /tmp/log sh -c "ls -d $groups/*/ | wc -l | grep -qx 10 && grep -qx $(pid_of disk1) $groups/disk1*/cgroup.procs"
check "cgroup: core and disks are limited" /tmp/log sh -c \
	"cat $groups/*/memory.max $groups/*/pids.max >/tmp/limits && ! grep -q max /tmp/limits && grep -qx 400 $groups/core/cpu.weight"
old=$(pid_of disk1)
group=$(sed -n 's,^0::,/sys/fs/cgroup,p' "/proc/$old/cgroup")
echo 1M >"$group/memory.max"
check "cgroup: without memory a server dies, and another takes over" /tmp/log until_true 60 replaced disk1 "$old"
echo 1G >"$group/memory.max"
check "cgroup: the log says why" /tmp/log until_true 20 grep "disk1: the kernel ended it for want of memory: see memory.max of $group" /tmp/log
check "kills: blk-server was killed $kills times, at least $2" /tmp/log [ "$kills" -ge "$2" ]
bulkhead ctl vm power-button
until_true 480 dead $vm || kill -KILL $vm
wait $vm
status=$?
check "kills: exit status 0 after power-off ($status)" /tmp/log [ $status = 0 ]
check "kills: the guest finished its writing" /tmp/console grep "guest: finished" /tmp/console
check "kills: all disks have four queues" /tmp/console grep "guest: queues 4 4 4 4" /tmp/console
check "kills: meanwhile $(cat /tmp/meddled)" /tmp/meddle.log grep '^[1-9][0-9]* moves, [1-9].* limits, [1-9].* growths' /tmp/meddled
check "kills: the guest saw disks grow" /tmp/console grep "guest: growths seen [1-9]" /tmp/console
check "kills: the backing file is seen through" /tmp/console \
	grep "guest: backing $(head -c 4194304 /guest/backing.img | md5sum | cut -d' ' -f1)" /tmp/console
kill $nbdkit
check "kills: qemu-img finds the qcow2 image consistent" /tmp/check sh -c \
	'qemu-img check /guest/over.qcow2 >/tmp/check 2>&1; status=$?; [ $status = 0 ] || [ $status = 3 ]'
check "kills: 0 mismatches ($(grep rounds /tmp/console | tr -d '\r'))" /tmp/console grep "rounds, 0 failed" /tmp/console
check "kills: 0 guest I/O errors" /tmp/console sh -c '! grep "kernel errors" /tmp/console'
clean_disk kills
check "cgroup: none is left" /tmp/log [ ! -e $groups ]
nothing_left "kills: "
grep 'is back after' /tmp/log | sed 's/^/# /'
dmesg | grep 'type=1326' | sed 's/^/# /'
echo "1..$count"
[ $failed = 0 ]
