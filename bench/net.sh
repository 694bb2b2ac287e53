#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compares net-server with QEMU's own virtio-net, on equal taps and with the same bare guest; README.md has the method.
# shellcheck disable=SC1091,SC2034,SC2154 # what common.bash has and reads
. "${BASH_SOURCE%/*}/common.bash"

usage()
{
	cat <<END
usage: bench/net.sh [options]       as root: it makes a network namespace of its own
  --build DIR      the build tree (the present directory)
  --monitor NAME   runs net-server's guest: bulkhead, or qemu with vhost-user (bulkhead)
  --peer NAME      qemu, or qemu-vhost, which is the kernel's vhost-net (qemu)
  --pairs N        A B pairs for each cell, at least 5 (5)
  --seconds N      of each run (2)
  --cells REGEX    only the cells whose name matches
  --json FILE      also write the figures there (bench-net.json in the build tree)
END
}

build=$PWD monitor=bulkhead peer=qemu pairs=5 seconds=2 cells=. json=""
args=("$@")
options "build monitor peer pairs seconds cells json" "$@"
number pairs 5
[[ $monitor =~ ^(bulkhead|qemu)$ ]] || fail "--monitor $monitor: bulkhead or qemu"
[[ $peer =~ ^(qemu|qemu-vhost)$ ]] || fail "--peer $peer: qemu or qemu-vhost"
[ "$peer" != qemu-vhost ] || [ -e /dev/vhost-net ] || fail "there is no /dev/vhost-net here"
json=${json:-$build/bench-net.json}
payload=$build/tests/guest/payload.elf
load=$build/tests/guest/tap-load
for program in "$payload" "$load" "$build/net-server/net-server" "$build/supervisor/bulkhead"; do
	[ -e "$program" ] || fail "$program is missing: run make and make -C tests/guest check TESTS="
done
for program in ip unshare qemu-system-x86_64; do
	command -v $program >/dev/null || fail "$program is missing (Debian: iproute2, util-linux, qemu-system-x86)"
done
if [ -z "${BENCH_NET_INSIDE-}" ]; then
	BENCH_NET_INSIDE=1 exec unshare -nm --propagation private bash "$0" "${args[@]}"
fi
mount -t sysfs sys /sys
ip link set lo up
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6

temporary "${TMPDIR:-/tmp}/bench-net"
tmp=$made
export BULKHEAD_PATH=$build/vmm-core:$build/net-server XDG_STATE_HOME=$tmp

mac=02:00:00:00:00:02
memory=64M
start_qemu() # WORDS OPTION...
{
	qemu "$1" -device "virtio-net-pci,netdev=net,disable-legacy=on,mac=$mac,romfile=" "${@:2}"
}
# The machine of one side; what it says is on descriptor $from, and it hears $to. $roots: the processes whose descendants
# it is made of.
start() # SIDE WORDS
{
	rm -f "$tmp/socket"
	ip tuntap add tap0 mode tap vnet_hdr
	ip link set tap0 up
	roots=
	case $1 in
	bulkhead) bulkhead "$2" --net "tap=tap0,mac=$mac,spare=off" ;;
	net-server)
		"$build/net-server/net-server" --socket "$tmp/socket" --tap tap0 --mac $mac 2>"$tmp/server.err" &
		pids+=($!)
		roots=$!
		for ((n = 0; n < 500; n++)); do
			[ ! -S "$tmp/socket" ] || break
			pause 0.02
		done
		start_qemu "$2" -chardev "socket,id=char,path=$tmp/socket" -netdev vhost-user,id=net,chardev=char
		;;
	qemu) start_qemu "$2" -netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=off ;;
	qemu-vhost) start_qemu "$2" -netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=on ;;
	esac
	roots="$roots $machine"
}

# One run; appends "SIDE PPS GBITS DEVICE_US VCPU_US" to the cell's file.
run() # CELL SIDE LOAD-OPTIONS WORD...
{
	local cell=$1 side=$2 options=$3
	shift 3
	start "$side" "$*"
	until_line '!ready'
	# shellcheck disable=SC2086
	pin $roots
	if [ "$options" != - ]; then
		# shellcheck disable=SC2086
		$on_guest "$load" --interface tap0 --seconds $((seconds + 30)) ${options//,/ } >"$tmp/load.out" 2>&1 &
		pids+=($!)
	fi
	# shellcheck disable=SC2086
	measure net $roots
	awk -v side="$side" -v device=$device_ns -v vcpu=$vcpu_ns '{
		for (i = 3; i < NF; i += 2) v[$i] = $(i + 1)
		n = v["packets"] ? v["packets"] : 1
		printf "%s %.0f %.4f %.4f %.4f\n", side, v["packets"] * 1e6 / v["us"], v["bytes"] * 8 / v["us"] / 1000,
			device / 1000 / n, vcpu / 1000 / n }' <<<"$line" >>"$tmp/$cell.runs"
	quit
	ip link del tap0
}

# Name, tap-load's options (- for none), the guest's words.
all_cells='
tx-60 - net-tx size=60
tx-1500 - net-tx size=1514
tx-tso - net-tx tso
rx-60 --size,60 net-rx irq
rx-1500 --size,1514 net-rx irq
rx-tso --tso net-rx irq
ping-60 --size,60,--echo,--window,1 net-echo irq
'
ours=bulkhead
[ "$monitor" = bulkhead ] || ours=net-server
echo "median (min-max) of $pairs pairs of $seconds s; thousand frames a second, Gbit/s, microseconds of the device's CPU a frame"
printf '%-9s %-38s | %-38s | %s\n' cell "$ours: kpps           Gbit/s   CPU us" "$peer: kpps           Gbit/s   CPU us" \
	"ratio of kpps       of CPU"
columns='pps=%7.1f gbits=%6.2f device_cpu_us=%7.3f vcpu_us=' cost=device_cpu_us cell_width=-9
chosen=()
while read -r cell words; do
	[[ -z $cell || ! $cell =~ $cells ]] || chosen+=("$cell $words")
done <<<"$all_cells"
compare_all "${chosen[@]}"
write_figures
