#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A stock Debian kernel in the test host: 1, 2 and 4 vCPUs, fio with verification, a reboot; then blk-server killed under
# disks of all formats, while queues move, limits change and disks grow.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -z "${BULKHEAD_QUICK-}" ] || skip_all "whole machines are left out of this run (BULKHEAD_QUICK)"
top=$top_srcdir
. "$top_srcdir/scripts/common.sh"
inside=$top_srcdir/tests/guest/inside
command -v qemu-system-x86_64 >/dev/null || skip_all "qemu-system-x86 is not installed"
command -v fio >/dev/null || skip_all "fio is not installed"
for program in nbdkit qemu-img; do
	command -v "$program" >/dev/null || skip_all "$program is not installed"
done
grep -q '^#define HAVE_LIBNBD' "$top_builddir/config.h" || skip_all "built without libnbd"
nbd_file=$(nbdkit --dump-config | sed -n 's/^plugindir=//p')/nbdkit-file-plugin.so
stock_kernel
stock_initrd
guest_image "$tmp/root.img" 256M "$inside/verify" "$inside/kills"
head -c 32M /dev/urandom >"$tmp/backing.img"
qemu-img create -q -u -f qcow2 -F raw -b /guest/backing.img "$tmp/over.qcow2" 32M
evidence "$tmp/err"
kills=20
[ -z "${BULKHEAD_LONG-}" ] || kills=100
"$top/scripts/testhost" --again 2 --timeout "$((3000 + kills * 10))" --memory 4096 \
	--program "$top_builddir/supervisor/bulkhead" --program "$top_builddir/vmm-core/vmm-core" \
	--program "$top_builddir/blk-server/blk-server" --program "$top_builddir/nbd-dial/nbd-dial" \
	--program "$(command -v nbdkit)" --program "$(command -v qemu-img)" --program "$(PATH=$PATH:/sbin command -v e2fsck)" \
	--add "$inside/common=bin/common" --add "$inside/host.sh=bin/host.sh" --add "$cache/kernel/vmlinuz=guest/vmlinuz" \
	--add "$cache/initrd=guest/initrd" --add "$tmp/root.img=guest/root.img" --add "$nbd_file=guest/nbd-file.so" \
	--add "$tmp/backing.img=guest/backing.img" --add "$tmp/over.qcow2=guest/over.qcow2" \
	env BULKHEAD_PATH=/bin sh /bin/host.sh "1 2 4" "$kills" 2>"$tmp/err" </dev/null
status=$?
[ $status -eq 0 ] || diag "the test host ended with status $status"
tap_done=1
exit $status
