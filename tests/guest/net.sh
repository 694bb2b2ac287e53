#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A stock Debian kernel's network in the test host: by a tap and in user mode, DHCP, names, transfers with sums, iperf3, a
# flood, MTU 9000, the link down and up, net-server killed. BULKHEAD_LONG=1 is 1 GiB each way and 100 kills.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -z "${BULKHEAD_QUICK-}" ] || skip_all "whole machines are left out of this run (BULKHEAD_QUICK)"
top=$top_srcdir
. "$top_srcdir/scripts/common.sh"
inside=$top_srcdir/tests/guest/inside
command -v qemu-system-x86_64 >/dev/null || skip_all "qemu-system-x86 is not installed"
for p in fio iperf3 socat ethtool; do
	command -v $p >/dev/null || skip_all "$p is not installed"
done
ping=$(command -v ping) && [ "$(readlink -f "$ping")" != /bin/busybox ] || skip_all "iputils-ping is not installed"
stock_kernel
stock_initrd
guest_programs='iperf3 socat ethtool'
guest_image "$tmp/root.img" 256M "$inside/net-guest"
evidence "$tmp/err"
mib=4 kills=10 seconds=1
[ -z "${BULKHEAD_LONG-}" ] || mib=1024 kills=100 seconds=10

# run_parts PART...: a host and a machine of its own, whose results become this test's.
run_parts() {
	local status=0
	"$top/scripts/testhost" --again 2 --timeout "$((900 + mib * 10 + kills * 10))" --memory 4096 \
		--program "$top_builddir/supervisor/bulkhead" --program "$top_builddir/vmm-core/vmm-core" \
		--program "$top_builddir/blk-server/blk-server" --program "$top_builddir/net-server/net-server" \
		--program "$top_builddir/net-user/net-user" --program "$top_builddir/tests/guest/dns-one" \
		--program "$(command -v iperf3)" --program "$(command -v socat)" --program "$ping" \
		--add "$inside/common=bin/common" --add "$inside/net-host.sh=bin/net-host.sh" --add "$cache/kernel/vmlinuz=guest/vmlinuz" \
		--add "$cache/initrd=guest/initrd" --add "$tmp/root.img=guest/root.img" \
		env BULKHEAD_PATH=/bin sh /bin/net-host.sh "$mib" "$kills" "$seconds" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
	relay "$tmp/out"
	is "$*: the host is content" "$status" 0
}

# An emulated host may stop: a run that takes half an hour is made of several, of which only the one that it stopped in is
# made again.
if [ -n "${BULKHEAD_LONG-}" ]; then
	for part in tap-out tap-in user-out user-in "speed link kills"; do
		# shellcheck disable=SC2086
		run_parts $part
	done
else
	run_parts tap-out tap-in user-out user-in speed link kills
fi
