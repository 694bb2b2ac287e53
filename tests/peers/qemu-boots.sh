#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# QEMU as the front end: it boots the stock Debian kernel with its root disk on our blk-server --socket.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -z "${BULKHEAD_QUICK-}" ] || skip_all "whole machines are left out of this run (BULKHEAD_QUICK)"
top=$top_srcdir
. "$top_srcdir/scripts/common.sh"
command -v qemu-system-x86_64 >/dev/null || skip_all "qemu-system-x86 is not installed"
stock_kernel
stock_initrd
guest_image "$tmp/root.img" 256M "$top_srcdir/tests/guest/inside/verify"

evidence "$tmp/console" "$tmp/qemu.log" "$tmp/server.log"

# boot SERVER-OPTION...: blk-server on a fresh copy of the disk, QEMU on top of it.
boot() {
	cp "$tmp/root.img" "$tmp/disk.img"
	spawn "$top_builddir/blk-server/blk-server" --socket "$tmp/sock" --image "$tmp/disk.img" --queues 2 "$@" \
		2>"$tmp/server.log"
	server=$pid
	wait_for 10 test -S "$tmp/sock" || return 1
	timeout 900 qemu-system-x86_64 -M q35,memory-backend=ram -accel tcg,thread=multi -smp 2 -m 512 -nodefaults \
		-display none -serial file:"$tmp/console" -object memory-backend-memfd,id=ram,size=512M,share=on \
		-kernel "$cache/kernel/vmlinuz" -initrd "$cache/initrd" \
		-append "console=ttyS0 quiet panic=-1 bulkhead.run=verify" \
		-chardev socket,id=blk,path="$tmp/sock" -device vhost-user-blk-pci,chardev=blk,num-queues=2 \
		</dev/null >"$tmp/qemu.log" 2>&1
}

boot
is "QEMU ends by itself" $? 0
like "the guest's root is on blk-server" "$(cat "$tmp/console")" "root is /dev/vda, read-write"
for bs in 4k 64k 1m; do
	for depth in 1 16; do
		like "fio $bs depth $depth verified" "$(cat "$tmp/console")" "fio $bs depth $depth verified"
	done
done
like "the guest rebooted under the same server and found its files" "$(cat "$tmp/console")" "files are as they were"
unlike "no kernel errors" "$(cat "$tmp/console")" "kernel errors"
kill -TERM "$server"
wait_exit 10 "$server"
is "blk-server ends on SIGTERM" "$status" 0
check "its socket is gone" test ! -e "$tmp/sock"
PATH=$PATH:/sbin check "e2fsck finds the file system clean" e2fsck -fn "$tmp/disk.img"
