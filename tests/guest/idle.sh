#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A machine whose guest asks its disks for nothing: how often its processes wake. blk-server does not, the one that serves nor
# the spare, and neither does the keeper. The guest itself looks at its serial line all the time.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "/dev/kvm is not there or may not be opened"
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/blk-server
bulkhead=$top_builddir/supervisor/bulkhead
timeout 60 "$bulkhead" --version >/dev/null || skip_all "bulkhead does not start"
evidence "$tmp/log" "$tmp/said"
command -v jq >/dev/null || skip_all "jq is not installed"
s=5
[ -z "${BULKHEAD_LONG-}" ] || s=60
truncate -s 16M "$tmp/disk.img" "$tmp/disk1.img"
status() { "$bulkhead" ctl idle status --run-dir "$tmp/run" --json; }
spare_ready() { [ "$(status | jq -r '.devices[0].spare, .devices[1].spare' | xargs)" = "ready ready" ]; }
asked() { grep -q '^# stop it' "$tmp/said"; }

"$bulkhead" run --name idle --run-dir "$tmp/run" --kernel "$top_builddir/tests/guest/payload.elf" --append "io irq regs" \
	--memory 64M --test-devices --console "file=$tmp/said" --disk "path=$tmp/disk.img,queues=2,io-threads=2" \
	--disk "path=$tmp/disk1.img" </dev/null >"$tmp/stdout" 2>"$tmp/log" &
vm=$!
tap_pids+=("$vm")
check "the guest has used its disk and waits for us" wait_for 60 asked
check "there are spares" wait_for 30 spare_ready
json=$(status)
keeper=$(ps -o ppid= -p "$(jq .core.pid <<<"$json")")
pids=$keeper' '$(jq -r '.pid, .core.pid, (.devices[] | .pid, .spare_pid)' <<<"$json" | xargs)
names=(keeper supervisor core disk0 "disk0 (spare)" disk1 "disk1 (spare)")
i=0
for p in $pids; do
	wakes $s "$p" >"$tmp/wakes.$i" &
	measures[i]=$!
	i=$((i + 1))
done
wait "${measures[@]}"
for i in "${!names[@]}"; do
	diag "${names[i]} wakes in $s s: $(cat "$tmp/wakes.$i")"
done
for i in 0 3 4 5 6; do
	is "${names[i]} does not wake" "$(cat "$tmp/wakes.$i")" 0
done
check "the supervisor looks now and then" test "$(cat "$tmp/wakes.1")" -le $((20 * s))
"$bulkhead" ctl idle quit --run-dir "$tmp/run"
wait_exit 30 "$vm"
is "ends" "$status" 0
