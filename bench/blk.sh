#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compares blk-server with qemu-storage-daemon, or one engine of it with another, through the same front end; README.md has
# the method.
set -euo pipefail
export LC_ALL=C

usage()
{
	cat <<END
usage: bench/blk.sh [options]
  --build DIR      the build tree (the present directory)
  --server FILE    blk-server, if not the build tree's
  --disk-dir DIR   where the file on a disk is made (the build tree)
  --engine NAME    of blk-server: aio, io_uring or null (aio); qemu-storage-daemon uses the same
  --peer NAME      qsd, or the engine of another blk-server that it is compared with (qsd)
  --pairs N        A B pairs for each cell, at least 5 (5)
  --seconds N      of each run (2)
  --size SIZE      of the file, as head(1) understands it (1G)
  --cells REGEX    only the cells whose name matches
  --json FILE      also write the figures there (bench-blk.json in the build tree)
END
}

build=$PWD server="" engine=aio peer=qsd disk_dir="" pairs=5 seconds=2 size=1G cells=. json=""
while [ $# -gt 0 ]; do
	case $1 in
	--help) usage; exit 0 ;;
	--build | --server | --engine | --peer | --disk-dir | --pairs | --seconds | --size | --cells | --json)
		[ $# -gt 1 ] || { echo "blk.sh: $1 takes a value" >&2; exit 2; }
		name=${1#--}
		printf -v "${name//-/_}" %s "$2"
		shift 2
		;;
	*) echo "blk.sh: $1 is no option: see --help" >&2; exit 2 ;;
	esac
done
[[ $pairs =~ ^[0-9]+$ && $pairs -ge 5 ]] || { echo "blk.sh: --pairs $pairs: at least 5" >&2; exit 2; }
server=${server:-$build/blk-server/blk-server}
disk_dir=${disk_dir:-$build}
json=${json:-$build/bench-blk.json}
bench=$build/bench/vhost-blk-bench
for program in "$bench" "$server"; do
	[ -x "$program" ] || { echo "blk.sh: $program is missing: run make and make -C bench check" >&2; exit 2; }
done
case $engine in
aio) aio=native ;;
io_uring) aio=io_uring ;;
null) aio= ;;
*) echo "blk.sh: --engine $engine: aio, io_uring or null" >&2; exit 2 ;;
esac
[ "$peer" != qsd ] || command -v qemu-storage-daemon >/dev/null ||
	{ echo "blk.sh: qemu-storage-daemon is missing (Debian: qemu-system-common)" >&2; exit 2; }

# Everything made is under these two, and goes with them; so does the server that runs.
pid=
tmpfs=$(mktemp -d /dev/shm/bench-blk.XXXXXX)
disk=
clean_up()
{
	if [ -n "$pid" ]; then
		kill "$pid" 2>/dev/null || :
		wait "$pid" 2>/dev/null || :
	fi
	rm -rf "$tmpfs" ${disk:+"$disk"}
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
disk=$(mktemp -d "$disk_dir/bench-blk.XXXXXX")

# The server has one processor and the generator another, where there are two.
on_server="" on_bench=""
if [ "$(nproc)" -ge 2 ]; then
	on_server='taskset -c 1' on_bench='taskset -c 0'
fi

start_server() # PROGRAM IMAGE SOCKET QUEUES
{
	local as=$engine node="driver=file,node-name=f,filename=$2,cache.direct=on,aio=$aio"
	rm -f "$3"
	[ -n "$aio" ] || node="driver=null-co,node-name=f,size=$(stat -c %s "$2"),read-zeroes=on"
	case $1,$peer in
	qsd,qsd)
		$on_server qemu-storage-daemon --blockdev "$node" \
			--export "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=$3,writable=on,num-queues=$4" &
		;;
	*)
		[ "$1" = blk-server ] || as=$peer
		$on_server "$server" --socket "$3" --image "$2" --cache direct --engine "$as" --queues "$4" --log-level error &
		;;
	esac
	pid=$!
}

stop_server()
{
	kill "$pid" 2>/dev/null || :
	wait "$pid" 2>/dev/null || :
	pid=
}

# One run; appends "PROGRAM IOPS CPU_US P99_US" to the cell's file.
run() # CELL PROGRAM IMAGE OPTIONS...
{
	local cell=$1 program=$2 image=$3 line queues=1
	shift 3
	[[ " $* " =~ " --queues "([0-9]+) ]] && queues=${BASH_REMATCH[1]}
	start_server "$program" "$image" "$tmpfs/socket" "$queues"
	line=$($on_bench "$bench" --socket "$tmpfs/socket" --pid "$pid" --seconds "$seconds" "$@")
	stop_server
	sed -E "s/.*\"iops\": ([0-9.]+).*\"cpu_us_per_request\": ([0-9.]+).*\"p99_us\": ([0-9.]+).*/$program \1 \2 \3/" \
		<<<"$line" >>"$tmpfs/$cell.runs"
}

# The figures of a cell: a line of the table, or of JSON.
summarise() # CELL FORMAT
{
	awk -v cell="$1" -v format="$2" '
	function sort(v, n,   i, j, t) {
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
	}
	function median(v, n) { return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }
	{ n[$1]++; iops[$1, n[$1]] = $2; cpu[$1, n[$1]] = $3; p99[$1, n[$1]] = $4 }
	function stat(a, who, out,   i, v) {
		for (i = 1; i <= n[who]; i++) v[i] = a[who, i] + 0
		sort(v, n[who]); out["med"] = median(v, n[who]); out["min"] = v[1]; out["max"] = v[n[who]]
	}
	# The ratio of each pair, so that what disturbs the machine disturbs both of its sides.
	function ratio(a, out,   i, v, m) {
		m = n["blk-server"] < n["qsd"] ? n["blk-server"] : n["qsd"]
		for (i = 1; i <= m; i++) v[i] = a["qsd", i] ? a["blk-server", i] / a["qsd", i] : 0
		sort(v, m); out["med"] = median(v, m); out["min"] = v[1]; out["max"] = v[m]
	}
	function three(s, f) { return sprintf("{\"median\": " f ", \"min\": " f ", \"max\": " f "}", s["med"], s["min"], s["max"]) }
	function span(s, unit, f) { return sprintf("(" f "-" f ")", s["min"] / unit, s["max"] / unit) }
	END {
		stat(iops, "blk-server", bi); stat(cpu, "blk-server", bc); stat(p99, "blk-server", bp)
		stat(iops, "qsd", qi); stat(cpu, "qsd", qc); stat(p99, "qsd", qp)
		ratio(iops, ri); ratio(cpu, rc)
		if (format == "json")
			printf "{\"cell\": \"%s\", \"pairs\": %d,\n  \"blk_server\": {\"iops\": %s, \"cpu_us\": %s, \"p99_us\": %s},\n  \"qsd\": {\"iops\": %s, \"cpu_us\": %s, \"p99_us\": %s},\n  \"iops_ratio\": %s, \"cpu_ratio\": %s}",
				cell, n["qsd"], three(bi, "%.0f"), three(bc, "%.3f"), three(bp, "%.1f"),
				three(qi, "%.0f"), three(qc, "%.3f"), three(qp, "%.1f"), three(ri, "%.3f"), three(rc, "%.3f")
		else
			printf "%-21s %6.1f %-15s %6.2f | %6.1f %-15s %6.2f | %5.2f %-13s %5.2f %s\n", cell,
				bi["med"] / 1000, span(bi, 1000, "%.1f"), bc["med"],
				qi["med"] / 1000, span(qi, 1000, "%.1f"), qc["med"],
				ri["med"], span(ri, 1, "%.2f"), rc["med"], span(rc, 1, "%.2f")
	}' "$tmpfs/$1.runs"
}

# Name, where the file is, generator's options.
all_cells='
tmpfs-read-d1 tmpfs --depth 1
tmpfs-read-d32 tmpfs --depth 32
tmpfs-read-d32-poll tmpfs --depth 32 --poll
tmpfs-write-d32-poll tmpfs --depth 32 --poll --writes 100
tmpfs-read-4q-d32 tmpfs --queues 4 --depth 32
tmpfs-write-4q-d32 tmpfs --queues 4 --depth 32 --writes 100
disk-read-d1 disk --depth 1
disk-read-d32 disk --depth 32
disk-write-d32 disk --depth 32 --writes 100
disk-read-4q-d32 disk --queues 4 --depth 32
disk-write-4q-d32 disk --queues 4 --depth 32 --writes 100
'

echo "making the files" >&2
head -c "$size" /dev/urandom >"$tmpfs/image"
cp "$tmpfs/image" "$disk/image"
sync "$disk/image"

echo "4 KiB requests, median (min-max) of $pairs pairs of $seconds s; thousand IOPS, and microseconds of the server's CPU a request"
other=qemu-storage-daemon
[ "$peer" = qsd ] || other="blk-server, $peer"
printf '%-21s %-29s | %-29s | %s\n' cell "$(printf '%-24s CPU' "blk-server, $engine")" \
	"$(printf '%-24s CPU' "$other")" "ratio of IOPS       of CPU"
list=
while read -r cell where options; do
	[[ -n $cell && $cell =~ $cells ]] || continue
	image=$tmpfs/image
	[ "$where" = disk ] && image=$disk/image
	for ((i = 0; i < pairs; i++)); do
		# shellcheck disable=SC2086  # several options
		{
			run "$cell" blk-server "$image" --seed $((i + 1)) $options
			run "$cell" qsd "$image" --seed $((i + 1)) $options
		} </dev/null
	done
	summarise "$cell" table
	list+="${list:+,
}$(summarise "$cell" json)"
done <<<"$all_cells"
printf '{"engine": "%s", "peer": "%s", "machine": {"cpus": %d, "kernel": "%s"}, "seconds": %d, "cells": [\n%s\n]}\n' \
	"$engine" "$peer" "$(nproc)" "$(uname -r)" "$seconds" "$list" >"$json"
echo "figures: $json" >&2
