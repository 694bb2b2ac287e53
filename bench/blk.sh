#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compares blk-server with qemu-storage-daemon, or one engine of it with another, through the same front end, or with fio on
# the same file; README.md has the method.
# shellcheck disable=SC1091,SC2034,SC2154 # what common.bash has and reads
. "${BASH_SOURCE%/*}/common.bash"

usage()
{
	cat <<END
usage: bench/blk.sh [options]
  --build DIR      the build tree (the present directory)
  --server FILE    blk-server, if not the build tree's
  --disk-dir DIR   where the file on a disk is made (the build tree)
  --engine NAME    of blk-server: aio or io_uring (aio); qemu-storage-daemon uses the same
  --peer NAME      qsd; aio or io_uring, the engine of another blk-server that it is compared with; window, the same
                   blk-server that sees one in place of the guest's memory; or fio (qsd)
  --pairs N        A B pairs for each cell, at least 5 (5)
  --seconds N      of each run (2)
  --size SIZE      of the file, as head(1) understands it (1G)
  --cells REGEX    the cells whose name matches; . is all of them, hours of work (a short list)
  --json FILE      also write the figures there (bench-blk.json in the build tree)
END
}

build=$PWD server="" engine=aio peer=qsd disk_dir="" pairs=5 seconds=2 size=1G cells="" json=""
options "build server engine peer disk-dir pairs seconds size cells json" "$@"
number pairs 5
server=${server:-$build/blk-server/blk-server}
disk_dir=${disk_dir:-$build}
json=${json:-$build/bench-blk.json}
bench=$build/bench/vhost-blk-bench
for program in "$bench" "$server"; do
	[ -x "$program" ] || fail "$program is missing: run make and make -C bench check"
done
case $engine in
aio) aio=native ;;
io_uring) aio=io_uring ;;
*) fail "--engine $engine: aio or io_uring" ;;
esac
[[ $peer =~ ^(qsd|aio|io_uring|window|fio)$ ]] || fail "--peer $peer: qsd, aio, io_uring, window or fio"
[ "$peer" = fio ] || [ "$peer" = window ] || needed="qemu-storage-daemon qemu-img"
for program in ${needed-fio}; do
	command -v "$program" >/dev/null || fail "$program is missing (Debian: qemu-system-common, qemu-utils, fio)"
done

temporary /dev/shm/bench-blk
tmp=$made
temporary "$disk_dir/bench-blk"
disk=$made

# Name: where the file is, what is done, the size of a request if not 4 KiB, queues if not one, depth, and who polls.
short='
tmpfs-read-d1 tmpfs-read-d32 tmpfs-read-d32-poll tmpfs-write-d32-poll tmpfs-mix-d32-poll
tmpfs-read-4q-d32 tmpfs-write-4q-d32
disk-read-d1 disk-read-d32 disk-write-d32 disk-mix-d32 disk-read-4q-d32 disk-write-4q-d32
qcow2-read-d1 qcow2-read-d32 qcow2-read-d32-poll qcow2-write-d32-poll
null-read-d1 null-read-d32 null-read-d32-poll
'
[ "$peer" != window ] || short='null-read-d1 null-read-d32 null-read-128k-d1 null-read-128k-d32 tmpfs-read-d1 tmpfs-read-d32
tmpfs-read-128k-d1 tmpfs-read-128k-d32 tmpfs-write-d32 tmpfs-write-128k-d32 disk-read-d1 disk-read-d32 disk-read-128k-d1
disk-read-128k-d32'
places="tmpfs disk qcow2 null"
[ "$peer" != fio ] || places="tmpfs disk"
[ "$peer" != window ] || places="tmpfs disk null"
# shellcheck disable=SC2086
mapfile -t chosen < <(disk_cells "$short" $places)
[ ${#chosen[@]} -gt 0 ] || fail "--cells $cells: no cell has such a name"

# The file of a place, made when it is first wanted: random bytes, which no format takes for nothing.
image_of() # WHERE
{
	image=$tmp/image
	[ -e "$tmp/image" ] || head -c "$size" /dev/urandom >"$tmp/image"
	case $1 in
	disk) image=$disk/image ;;
	qcow2) image=$tmp/image.qcow2 ;;
	esac
	[ ! -e "$image" ] || return 0
	case $1 in
	disk) cp "$tmp/image" "$image" && sync "$image" ;;
	qcow2) qemu-img convert -O qcow2 "$tmp/image" "$image" ;;
	esac
}

start_daemon() # WHERE QUEUES
{
	local file="driver=file,filename=$image,cache.direct=on,aio=$aio" node
	case $1 in
	qcow2) node="driver=qcow2,file.${file//,/,file.},cache.direct=on" ;;
	null) node="driver=null-co,size=$(stat -c %s "$image"),read-zeroes=on" ;;
	*) node=$file ;;
	esac
	$on_device qemu-storage-daemon --blockdev "$node,node-name=f" \
		--export "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=$tmp/socket,writable=on,num-queues=$2" &
	pids=($!)
}

start_server() # ENGINE WHERE QUEUES [SOCKET]
{
	local as=$1 format=raw
	case $2 in
	qcow2) format=qcow2 ;;
	null) as=null ;;
	esac
	$on_device "$server" --socket "${4-$tmp/socket}" --image "$image" --format $format --cache direct --engine "$as" \
		--queues "$3" --log-level error &
	pids=($!)
}

# The same behind a window: both are on the device's processor, and the time of both counts.
start_window() # WHERE QUEUES
{
	rm -f "$tmp/inner"
	start_server "$engine" "$1" "$2" "$tmp/inner"
	until [ -S "$tmp/inner" ]; do pause 0.01; done
	$on_device "$build/window/window" --socket "$tmp/socket" --server "$tmp/inner" --queues "$2" --log-level error &
	pids=($! "${pids[@]}")
}

# The same with no virtio at all: the sizes and depths of all queues in one job, which submits and waits for itself.
run_fio() # CELL DEPTH BLOCK WRITES QUEUES
{
	local ioengine=libaio
	[ "$engine" = aio ] || ioengine=io_uring
	$on_device fio --name=bench --filename="$image" --direct=1 --ioengine=$ioengine --iodepth=$(($2 * $5)) --bs="$3" \
		--rw=randrw --rwmixwrite="$4" --norandommap --randseed="$pair" --ramp_time=500ms --runtime="$seconds" --time_based \
		--thread --group_reporting --output-format=terse --terse-version=3 | awk -F';' '{
		for (i = 1; i <= NF; i++)
			if (sub(/^99\.000000%=/, "", $i) && $i + 0 > p99) p99 = $i + 0
		iops = $8 + $49
		printf "fio %.0f %.4f %.1f\n", iops, iops ? ($88 + $89) * 1e4 / iops : 0, p99 }' >>"$tmp/$1.runs"
}

# One run; appends "SIDE IOPS CPU_US P99_US P50_US" to the cell's file.
run() # CELL SIDE WHERE DEPTH BLOCK WRITES QUEUES [poll]
{
	local cell=$1 side=$2 where=$3 line
	image_of "$where"
	rm -f "$tmp/socket"
	case $side in
	blk-server) start_server "$engine" "$where" "$7" ;;
	qsd) start_daemon "$where" "$7" ;;
	window) start_window "$where" "$7" ;;
	fio)
		run_fio "$cell" "$4" "$5" "$6" "$7"
		return
		;;
	*) start_server "$side" "$where" "$7" ;;
	esac
	line=$($on_guest "$bench" --socket "$tmp/socket" --pid "${pids[0]}" ${pids[1]:+--beside "${pids[1]}"} --seconds "$seconds" --seed "$pair" \
		--depth "$4" --block "$5" --writes "$6" --queues "$7" ${8:+--$8})
	# A window that loses its server would say so.
	if [ "$side" = window ]; then
		kill "${pids[0]}"
		wait "${pids[0]}" || :
	fi
	end_all
	sed -E "s/.*\"iops\": ([0-9.]+).*\"cpu_us_per_request\": ([0-9.]+).*\"p50_us\": ([0-9.]+).*\"p99_us\": ([0-9.]+).*/$side \1 \2 \4 \3/" \
		<<<"$line" >>"$tmp/$cell.runs"
}

ours=blk-server
case $peer in
qsd) other=qemu-storage-daemon ;;
window) other="blk-server, window" ;;
fio) other="fio, $engine" ;;
*) other="blk-server, $peer" ;;
esac
disk_header "blk-server, $engine" "$other"
# What a window costs is time on each request's way, most of all.
if [ "$peer" = window ]; then
	columns='iops=%6.1f cpu_us=%6.2f p99_us=%6.0f p50_us=%6.0f'
	printf '%-27s %-43s | %-43s |\n' '' "$(printf '%22s %6s %6s %6s' '' us p99 p50)" "$(printf '%22s %6s %6s %6s' '' us p99 p50)"
fi
compare_all "${chosen[@]}"
write_figures "\"engine\": \"$engine\"" "\"peer\": \"$peer\""
