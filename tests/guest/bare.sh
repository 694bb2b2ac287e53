#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The bare guest on this machine's own /dev/kvm: virtio-blk polled and by MSI-X, exit by the debug port, and law 1: no
# register access waits while the device process is stopped.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "/dev/kvm is not there or may not be opened"
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/blk-server
bulkhead=$top_builddir/supervisor/bulkhead
payload=$top_builddir/tests/guest/payload.elf
truncate -s 16M "$tmp/disk.img"

run() {
	local append=$1
	shift
	"$bulkhead" run --name bare --run-dir "$tmp/run" --kernel "$payload" --append "$append" --memory 64M \
		--disk "path=$tmp/disk.img${keys-}" --test-devices "$@"
}
evidence "$tmp/log" "$tmp/out" "$tmp/load" "$tmp/regs"
timeout 60 "$bulkhead" --version >/dev/null || skip_all "bulkhead does not start"
run "io irq" --console "file=$tmp/out" </dev/null >"$tmp/stdout" 2>"$tmp/log"
is "io and irq: the debug port's value times 2 plus 1 is the exit status" $? 33
relay "$tmp/out"

keys=,queues=2 run "blk-run seconds=1 queues=2 depth=8 writes=30 irq" --console "file=$tmp/load" </dev/null >"$tmp/stdout" 2>"$tmp/log"
is "a load on two queues: exit status" $? 33
relay "$tmp/load"
like "a load on two queues: the window is told" "$(tr -d '\r' <"$tmp/load")" \
	'blk window requests [1-9][0-9]* bytes [1-9][0-9]* us [0-9]+ errors 0 p50_ns [1-9]'

# refused_kernel TEXT PATTERN OPTION...: vmm-core finds out, so the line is its own; the status is the configuration's.
refused_kernel() {
	"$bulkhead" run --name bare --run-dir "$tmp/run" "${@:3}" </dev/null >"$tmp/log" 2>&1
	is "$1: exit status" $? 2
	like "$1: says why" "$(cat "$tmp/log")" "$2"
}
refused_kernel "a kernel that is none" 'kernel: .*is neither a bzImage nor an ELF file' --kernel "$top_srcdir/configure.ac"
truncate -s 64M "$tmp/initrd"
refused_kernel "an initrd larger than the memory" 'initrd: [0-9]+ bytes do not fit' --kernel "$payload" \
	--initrd "$tmp/initrd" --memory 64M
rm "$tmp/initrd"

# Law 1. The guest asks for the stop and the continue on its serial line.
mkfifo "$tmp/in" "$tmp/fifo"
keys=,hang-timeout=0 # or it would be replaced before all is measured
run regs --console stdio <"$tmp/in" >"$tmp/fifo" 2>"$tmp/log" &
vm=$!
tap_pids+=("$vm")
exec 4>"$tmp/in" 5<"$tmp/fifo"
blk=
while IFS= read -rt 300 line <&5; do
	line=${line%$'\r'}
	printf '%s\n' "$line" >>"$tmp/regs"
	case $line in
	"# stop it")
		blk=$("$bulkhead" ctl bare status --run-dir "$tmp/run" --json | tr -d '\n' |
			sed -n 's/.*"id":"disk0"[^}]*"pid":\([1-9][0-9]*\).*/\1/p')
		[ -n "$blk" ] && kill -STOP "$blk"
		check "blk-server is stopped" wait_for 5 grep -q '^State:.*stopped' "/proc/${blk:-none}/status"
		printf s >&4 ;;
	"# continue it")
		kill -CONT "$blk"
		printf c >&4 ;;
	"1.."*) break ;;
	esac
done
wait_exit 30 "$vm"
is "regs: exit status" "$status" 33
relay "$tmp/regs"
# The clock is the TSC; the ratio is what counts: the median must not grow beyond what a busy machine does to it.
for reg in status config select notify; do
	mapfile -t m < <(sed -n "s/^cycles $reg [0-9]* \([0-9]*\) \([0-9]*\) [0-9]*$/\1 \2/p" "$tmp/regs")
	if [ ${#m[@]} -eq 2 ]; then
		read -r run_med run_p99 <<<"${m[0]}"
		read -r stop_med stop_p99 <<<"${m[1]}"
		diag "$reg register: median $run_med cycles (p99 $run_p99) running, $stop_med (p99 $stop_p99) stopped"
		check "law 1: $reg register is no slower with blk-server stopped" \
			test "$stop_med" -le $((run_med * 4 + 2000))
	else
		not_ok "law 1: $reg register was measured"
	fi
done
