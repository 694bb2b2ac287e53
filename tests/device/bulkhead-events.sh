#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `bulkhead events`: what happens in a machine is told as it happens, to its end.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine
watch() {
	spawn "$bulkhead" events --run-dir "$run_dir" "${@:2}" m >"$tmp/$1" 2>"$tmp/$1.err"
}
# heard FILE: its reader is known to the machine.
stir() { ctl m pause && ctl m resume && [ -s "$tmp/$1" ]; }
heard() { wait_for 20 stir "$1" || not_ok "a reader is heard of"; }
told() { grep -qE "^[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3} $1$" "$tmp/text"; }

start m --disk "path=$tmp/disk.img"
machine=$pid
wait_running m
watch text
text=$pid
heard text
watch json --json
json=$pid
heard json
slay "$(device m disk0 pid)"
check "a death is told" wait_for 10 told 'disk0 device-restarted: restart 1'
check "... and that the machine was paused" told 'machine paused: .*'
ctl m quit
wait_exit 20 "$text"
is "with the machine it ends: exit 0" "$status" 0
is "... its last word is the end" "$(tail -n 1 "$tmp/text" | cut -d' ' -f2-)" "machine ended: exit status 0"
is "... it had nothing to complain of" "$(cat "$tmp/text.err")" ""
wait_exit 20 "$json"
is "the same in JSON: exit 0" "$status" 0
is "... each line has its object" "$(jq -r 'select(.wall_ns > 0 and .mono_ns > 0) | .seq' <"$tmp/json" | wc -l)" "$(wc -l <"$tmp/json")"
is "... none was missed" "$(jq -s '.[-1].seq - .[0].seq + 1 == length' <"$tmp/json")" true
is "... the last one is the end" "$(tail -n 1 "$tmp/json" | jq -r '.source + " " + .kind')" "machine ended"
ends_with "the machine ends" 0 "$machine" m

# ---- other ends ----
out=$("$bulkhead" events --run-dir "$run_dir" m 2>&1)
is "no machine of the name: exit 2" $? 2
like "... it says so" "$out" '"m": no machine of this name runs'
for words in "" "m m" "-x m" "--exec /x m" "../m"; do
	# shellcheck disable=SC2086
	out=$("$bulkhead" events --run-dir "$run_dir" $words 2>&1)
	is "events $words: exit 2" $? 2
	like "... it says why" "$out" '^bulkhead: events: '
done
start m --disk "path=$tmp/disk.img"
machine=$pid
wait_running m
watch text
text=$pid
heard text
kill -KILL "$machine"
wait_exit 20 "$text"
is "its supervisor dies: exit 1" "$status" 1
like "... it says so" "$(cat "$tmp/text.err")" '^bulkhead: events: "m": its supervisor is gone'
wait_exit 20 "$machine"
gone_dir() { [ ! -e "$run_dir/m" ]; }
check "... and the machine with it" wait_for 20 gone_dir
