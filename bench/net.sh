#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compares net-server with QEMU's own virtio-net, on equal taps and with the same bare guest; README.md has the method.
set -euo pipefail
export LC_ALL=C

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
while [ $# -gt 0 ]; do
	case $1 in
	--help) usage; exit 0 ;;
	--build | --monitor | --peer | --pairs | --seconds | --cells | --json)
		[ $# -gt 1 ] || { echo "net.sh: $1 takes a value" >&2; exit 2; }
		printf -v "${1#--}" %s "$2"
		shift 2
		;;
	*) echo "net.sh: $1 is no option: see --help" >&2; exit 2 ;;
	esac
done
fail() { echo "net.sh: $*" >&2; exit 2; }
[[ $pairs =~ ^[0-9]+$ && $pairs -ge 5 ]] || fail "--pairs $pairs: at least 5"
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

tmp=$(mktemp -d "${TMPDIR:-/tmp}/bench-net.XXXXXX")
chmod 711 "$tmp" # confined processes have user ids of their own
mkfifo "$tmp/never"
exec {never}<>"$tmp/never"
pause() { read -rt "$1" -u "$never" || :; }
pids=()
end_all()
{
	local p
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || :; done
	for p in "${pids[@]}"; do wait "$p" 2>/dev/null || :; done
	pids=()
	ip link del tap0 2>/dev/null || :
}
trap 'end_all; rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
export BULKHEAD_PATH=$build/vmm-core:$build/net-server XDG_STATE_HOME=$tmp

mac=02:00:00:00:00:02
start_qemu() # WORDS OPTION...
{
	local words=$1
	shift
	qemu-system-x86_64 -name bench,debug-threads=on -M q35,accel=kvm -cpu host -m 64 -object memory-backend-memfd,id=mem,size=64M,share=on \
		-numa node,memdev=mem -nodefaults -display none -serial stdio -no-reboot -kernel "$payload" -append "$words" \
		-device "virtio-net-pci,netdev=net,disable-legacy=on,mac=$mac,romfile=${tx-}" \
		-device isa-debug-exit,iobase=0xf4,iosize=4 "$@" <&"$to" >"$tmp/out" 2>"$tmp/err" &
	machine=$!
	pids+=($!)
}
# The machine of one side; what it says is on descriptor $from, and it hears $to. $roots: the processes whose descendants
# it is made of.
start() # SIDE WORDS
{
	rm -f "$tmp/in" "$tmp/out" "$tmp/socket"
	mkfifo "$tmp/in" "$tmp/out"
	exec {to}<>"$tmp/in" {from}<>"$tmp/out"
	ip tuntap add tap0 mode tap vnet_hdr
	ip link set tap0 up
	roots=
	case $1 in
	bulkhead)
		"$build/supervisor/bulkhead" run --name bench --run-dir "$tmp/run" --kernel "$payload" --append "$2" \
			--memory 64M --test-devices --console stdio --net "tap=tap0,mac=$mac,spare=off" \
			<&"$to" >"$tmp/out" 2>"$tmp/err" &
		machine=$!
		pids+=($!)
		;;
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

# Reads up to a line that begins so; it is in $line then.
until_line() # BEGINNING
{
	while IFS= read -rt 60 line <&"$from"; do
		line=${line%$'\r'}
		[[ $line != "$1"* ]] || return 0
	done
	tail -n 5 "$tmp"/*err >&2
	fail "the guest does not say $1"
}

# All processes of the machine, one a line.
family()
{
	local p
	for p; do
		echo "$p"
		# shellcheck disable=SC2046
		family $(cat "/proc/$p"/task/*/children 2>/dev/null)
	done
}

# "THREAD-KIND NANOSECONDS" of each thread: vcpu, device or other.
threads()
{
	local p t name task ns kind
	# shellcheck disable=SC2086
	for p in $(family $roots) $(pgrep -x "vhost-$machine" || :); do
		name=$(cat "/proc/$p/comm" 2>/dev/null) || continue
		for t in "/proc/$p/task"/*; do
			task=$(cat "$t/comm" 2>/dev/null) && read -r ns _ <"$t/schedstat" || continue
			case $name/$task in
			*/"CPU "*/KVM | vmm-core/vcpu*) kind=vcpu ;;
			net-server/* | qemu-*/* | vhost-*) kind=device ;;
			*) kind=other ;;
			esac
			echo "$kind $ns ${t##*/}"
		done
	done
}
# The device on one processor; the guest and the sender on the other.
pin()
{
	local kind thread
	[ "$(nproc)" -ge 2 ] || return 0
	while read -r kind _ thread; do
		case $kind in
		vcpu) taskset -p -c 0 "$thread" ;;
		device) taskset -p -c 1 "$thread" ;;
		esac
	done < <(threads) >/dev/null 2>&1 || :
}
cpu() { threads | awk -v kind="$1" '$1 == kind { n += $2 } END { printf "%.0f\n", n }'; }

# One run; appends "SIDE PPS GBITS DEVICE_US VCPU_US" to the cell's file.
run() # CELL SIDE LOAD-OPTIONS WORDS
{
	local cell=$1 side=$2 options=$3 words=$4 device vcpu
	start "$side" "$words"
	until_line '!ready'
	pin
	if [ "$options" != - ]; then
		# shellcheck disable=SC2086
		taskset -c 0 "$load" --interface tap0 --seconds $((seconds + 30)) ${options//,/ } >"$tmp/load.out" 2>&1 &
		pids+=($!)
	fi
	printf b >&"$to"
	until_line '!b'
	# A moment of load that is not counted.
	pause 0.5
	printf e >&"$to"
	until_line '!e'
	device=$(cpu device) vcpu=$(cpu vcpu)
	printf b >&"$to"
	until_line '!b'
	pause "$seconds"
	printf e >&"$to"
	until_line 'net '
	device=$(($(cpu device) - device)) vcpu=$(($(cpu vcpu) - vcpu))
	awk -v side="$side" -v device=$device -v vcpu=$vcpu '{
		for (i = 3; i < NF; i += 2) v[$i] = $(i + 1)
		n = v["packets"] ? v["packets"] : 1
		printf "%s %.0f %.4f %.4f %.4f\n", side, v["packets"] * 1e6 / v["us"], v["bytes"] * 8 / v["us"] / 1000,
			device / 1000 / n, vcpu / 1000 / n }' <<<"$line" >>"$tmp/$cell.runs"
	printf q >&"$to"
	end_all
	exec {to}>&- {from}<&-
}

# The figures of a cell: a line of the table, or of JSON.
summarise() # CELL FORMAT
{
	awk -v cell="$1" -v format="$2" -v ours="$ours" -v peer="$peer" '
	function sort(v, n,   i, j, t) {
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
	}
	function median(v, n) { return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }
	{ n[$1]++; for (f = 2; f <= 5; f++) a[f, $1, n[$1]] = $f }
	function stat(f, who, out,   i, v) {
		for (i = 1; i <= n[who]; i++) v[i] = a[f, who, i] + 0
		sort(v, n[who]); out["med"] = median(v, n[who]); out["min"] = v[1]; out["max"] = v[n[who]]
	}
	# The ratio of each pair, so that what disturbs the machine disturbs both of its sides.
	function ratio(f, out,   i, v) {
		for (i = 1; i <= n[peer]; i++) v[i] = a[f, peer, i] ? a[f, ours, i] / a[f, peer, i] : 0
		sort(v, n[peer]); out["med"] = median(v, n[peer]); out["min"] = v[1]; out["max"] = v[n[peer]]
	}
	function three(s) { return sprintf("{\"median\": %.4f, \"min\": %.4f, \"max\": %.4f}", s["med"], s["min"], s["max"]) }
	function span(s, unit, f) { return sprintf("(" f "-" f ")", s["min"] / unit, s["max"] / unit) }
	function side(who,   p, g, c, v) {
		stat(2, who, p); stat(3, who, g); stat(4, who, c); stat(5, who, v)
		if (format == "json")
			return sprintf("{\"pps\": %s, \"gbits\": %s, \"device_cpu_us\": %s, \"vcpu_us\": %s}", three(p), three(g), three(c), three(v))
		return sprintf("%7.1f %-15s %6.2f %7.3f", p["med"] / 1000, span(p, 1000, "%.1f"), g["med"], c["med"])
	}
	END {
		ratio(2, rp); ratio(4, rc)
		if (format == "json")
			printf "{\"cell\": \"%s\", \"pairs\": %d,\n  \"%s\": %s,\n  \"%s\": %s,\n  \"pps_ratio\": %s, \"cpu_ratio\": %s}",
				cell, n[peer], ours, side(ours), peer, side(peer), three(rp), three(rc)
		else
			printf "%-9s %s | %s | %5.2f %-13s %5.2f %s\n", cell, side(ours), side(peer),
				rp["med"], span(rp, 1, "%.2f"), rc["med"], span(rc, 1, "%.2f")
	}' "$tmp/$1.runs"
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
list=
while read -r cell options words; do
	[[ -n $cell && $cell =~ $cells ]] || continue
	for ((i = 0; i < pairs; i++)); do
		run "$cell" "$ours" "$options" "$words"
		run "$cell" "$peer" "$options" "$words"
	done </dev/null
	summarise "$cell" table
	list+="${list:+,
}$(summarise "$cell" json)"
done <<<"$all_cells"
printf '{"machine": {"cpus": %d, "kernel": "%s"}, "seconds": %d, "cells": [\n%s\n]}\n' \
	"$(nproc)" "$(uname -r)" "$seconds" "$list" >"$json"
echo "figures: $json" >&2
