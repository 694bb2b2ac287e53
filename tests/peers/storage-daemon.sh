#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# qemu-storage-daemon as the back end: the bare guest on this /dev/kvm and the stock kernel in the test host run with
# their disk on its vhost-user-blk export.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -z "${BULKHEAD_QUICK-}" ] || skip_all "whole machines are left out of this run (BULKHEAD_QUICK)"
top=$top_srcdir
. "$top_srcdir/scripts/common.sh"
command -v qemu-storage-daemon >/dev/null || skip_all "qemu-system-common is not installed"
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/blk-server

evidence "$tmp/qsd.log" "$tmp/log" "$tmp/out" "$tmp/host"

if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
	truncate -s 16M "$tmp/disk.img"
	spawn qemu-storage-daemon --blockdev driver=file,node-name=f,filename="$tmp/disk.img" \
		--export type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path="$tmp/sock",writable=on \
		>"$tmp/qsd.log" 2>&1
	wait_for 10 test -S "$tmp/sock"
	timeout 600 "$top_builddir/supervisor/bulkhead" run --name peer --run-dir "$tmp/run" --test-devices --memory 64M \
		--kernel "$top_builddir/tests/guest/payload.elf" --append "io irq" --disk "vhost-user=$tmp/sock" \
		--console "file=$tmp/out" </dev/null >"$tmp/stdout" 2>"$tmp/log"
	is "the bare guest ends well on qemu-storage-daemon" $? 33
	like "what it read polled is what it wrote" "$(cat "$tmp/out")" "ok [0-9]* - polled: what is read is what was"
	like "what it read by MSI-X is what it wrote" "$(cat "$tmp/out")" "ok [0-9]* - irq: what is read is what was"
else
	skip "the bare guest ends well on qemu-storage-daemon" "no usable /dev/kvm"
fi

command -v qemu-system-x86_64 >/dev/null || { skip "the stock kernel boots on it" "no qemu-system-x86"; exit; }
stock_kernel
stock_initrd
guest_image "$tmp/root.img" 256M "$top_srcdir/tests/guest/inside/verify"
cat >"$tmp/host.sh" <<'EOF'
qemu-storage-daemon --blockdev driver=file,node-name=f,filename=/guest/root.img \
	--export type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=/tmp/sock,writable=on &
n=0
until [ -S /tmp/sock ] || [ $n -gt 500 ]; do n=$((n + 1)); usleep 20000; done
bulkhead run --name vm --kernel /guest/vmlinuz --initrd /guest/initrd --cpus 2 --memory 384M --on-reboot exit \
	--append "console=ttyS0 quiet panic=-1 bulkhead.run=verify bulkhead.sizes=64k" --disk vhost-user=/tmp/sock \
	--console stdio </dev/null
echo "status $?"
EOF
"$top/scripts/testhost" --again 2 --timeout 1500 --program "$top_builddir/supervisor/bulkhead" \
	--program "$top_builddir/vmm-core/vmm-core" --program "$top_builddir/blk-server/blk-server" \
	--program "$(command -v qemu-storage-daemon)" --add "$tmp/host.sh=bin/host.sh" \
	--add "$cache/kernel/vmlinuz=guest/vmlinuz" --add "$cache/initrd=guest/initrd" \
	--add "$tmp/root.img=guest/root.img" env BULKHEAD_PATH=/bin sh /bin/host.sh >"$tmp/host" 2>&1 </dev/null
like "the stock kernel boots with its root on qemu-storage-daemon" "$(cat "$tmp/host")" "root is /dev/vda, read-write"
like "fio 64k depth 16 verified there" "$(cat "$tmp/host")" "fio 64k depth 16 verified"
unlike "no fio failed, no kernel errors" "$(cat "$tmp/host")" "FAILED|kernel errors"
