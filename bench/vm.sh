#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compares a whole machine with one disk with QEMU's, with the same bare guest on /dev/kvm; README.md has the method.
# shellcheck disable=SC1091,SC2034,SC2154 # what common.bash has and reads
. "${BASH_SOURCE%/*}/common.bash"

usage()
{
	cat <<END
usage: bench/vm.sh [options]
  --build DIR      the build tree (the present directory)
  --disk-dir DIR   where the file on a disk is made (the build tree)
  --engine NAME    aio or io_uring (aio), of both
  --poll-max-us N  of both I/O threads (what each has by itself)
  --pairs N        A B pairs for each cell, at least 5 (5)
  --seconds N      of each run (2)
  --size SIZE      of the file, as head(1) understands it (1G)
  --cells REGEX    the cells whose name matches; . is all of them, hours of work (a short list)
  --json FILE      also write the figures there (bench-vm.json in the build tree)
END
}

build=$PWD engine=aio poll_max_us="" disk_dir="" pairs=5 seconds=2 size=1G cells="" json=""
options "build disk-dir engine poll-max-us pairs seconds size cells json" "$@"
number pairs 5
disk_dir=${disk_dir:-$build}
json=${json:-$build/bench-vm.json}
for program in "$build/tests/guest/payload.elf" "$build/blk-server/blk-server" "$build/vmm-core/vmm-core" \
	"$build/supervisor/bulkhead"; do
	[ -e "$program" ] || fail "$program is missing: run make and make -C tests/guest check TESTS="
done
command -v qemu-system-x86_64 >/dev/null || fail "qemu-system-x86_64 is missing (Debian: qemu-system-x86)"
{ : <>/dev/kvm; } 2>/dev/null || fail "/dev/kvm is not there or may not be opened"
case $engine in
aio) aio=native ;;
io_uring) aio=io_uring ;;
*) fail "--engine $engine: aio or io_uring" ;;
esac

temporary /dev/shm/bench-vm
tmp=$made
temporary "$disk_dir/bench-vm"
disk=$made
export BULKHEAD_PATH=$build/vmm-core:$build/blk-server XDG_STATE_HOME=$tmp

short='
tmpfs-read-d1 tmpfs-read-d1-poll tmpfs-read-d32 tmpfs-read-d32-poll tmpfs-write-d32 tmpfs-mix-d32 tmpfs-read-4q-d32
tmpfs-read-64k-d32 tmpfs-read-1m-d32
disk-read-d1 disk-read-d1-poll disk-read-d32 disk-read-d32-poll disk-write-d32
'
mapfile -t chosen < <(disk_cells "$short" tmpfs disk)
[ ${#chosen[@]} -gt 0 ] || fail "--cells $cells: no cell has such a name"

# One run; appends "SIDE IOPS CPU_US P99_US VCPU_US" to the cell's file.
run() # CELL SIDE WHERE DEPTH BLOCK WRITES QUEUES [poll]
{
	local cell=$1 side=$2 depth=$4 queues=$7 words image=$tmp/image mode=irq bytes
	[ "$3" = tmpfs ] || image=$disk/image
	[ "${8-}" != poll ] || mode=polled
	bytes=$(numfmt --from=iec "$5")
	memory=$((16 + 4 * 32 * bytes / 1048576 + 48))M
	words="blk-run $mode queues=$queues depth=$depth block=$bytes writes=$6 megabytes=${memory%M}"
	case $side in
	bulkhead) bulkhead "$words" \
		--disk "path=$image,queues=$queues,engine=$engine,cache=direct${poll_max_us:+,poll-max-us=$poll_max_us}" ;;
	qemu) qemu "$words" -object "iothread,id=io${poll_max_us:+,poll-max-ns=$((poll_max_us * 1000))}" \
		-blockdev "driver=file,node-name=f,filename=$image,cache.direct=on,aio=$aio" \
		-device "virtio-blk-pci,drive=f,iothread=io,num-queues=$queues,disable-legacy=on" ;;
	esac
	until_line '!ready'
	pin "$machine"
	measure blk "$machine"
	awk -v side="$side" -v device="$device_ns" -v vcpu="$vcpu_ns" '{
		for (i = 3; i < NF; i += 2) v[$i] = $(i + 1)
		n = v["requests"] ? v["requests"] : 1
		if (v["errors"] || !v["requests"]) exit 1
		printf "%s %.0f %.4f %.1f %.4f\n", side, v["requests"] * 1e6 / v["us"], device / 1000 / n,
			v["p99_ns"] / 1000, vcpu / 1000 / n }' <<<"$line" >>"$tmp/$cell.runs" || fail "$side: $line"
	quit
}

head -c "$size" /dev/urandom >"$tmp/image"
cp "$tmp/image" "$disk/image"
sync "$disk/image"
ours=bulkhead peer=qemu
disk_header "bulkhead, $engine" "QEMU, iothread, $aio"
columns+=' vcpu_us='
compare_all "${chosen[@]}"
write_figures "\"engine\": \"$engine\""
