#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The JSON file: all that the flags say, refused as strictly.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
make_machine

# refused TEXT REGEX JSON
refused() {
	local out code
	printf '%s' "$3" >"$tmp/vm.json"
	out=$(soon "$bulkhead" run --run-dir "$run_dir" --config "$tmp/vm.json" 2>&1 </dev/null)
	code=$?
	if [ $code -eq 2 ] && [ "$(wc -l <<<"$out")" -eq 1 ] && [[ $out =~ ^bulkhead:\ .*$2 ]] && [ ! -e "$run_dir" ]; then
		ok "$1"
	else
		not_ok "$1" "exit $code, output:" "$out" "want: $2"
	fi
}
k="\"kernel\": \"$tmp/kernel\""
refused "not JSON" 'vm.json:1: ' '{"kernel"'
refused "not an object" 'vm.json: not a JSON object' '["kernel"]'
refused "fault 70: unknown key" 'vm.json: frobnicate: no such key' "{$k, \"frobnicate\": 1}"
refused "fault 70: duplicate key" 'vm.json:1: .*[Dd]uplicate' "{$k, \"cpus\": 1, \"cpus\": 2}"
refused "fault 70: duplicate key in a disk" 'vm.json:1: .*[Dd]uplicate' "{$k, \"disk\": [{\"path\": \"a\", \"path\": \"b\"}]}"
refused "fault 70: config inside config" 'vm.json: config: no such key' "{$k, \"config\": \"x\"}"
refused "fault 71: cpus 0" 'vm.json: cpus: "0" is not a number from 1 to 64' "{$k, \"cpus\": 0}"
refused "fault 71: cpus -1" 'vm.json: cpus: "-1" is not a number' "{$k, \"cpus\": -1}"
refused "fault 71: cpus over 64 bits" 'vm.json:1: ' "{$k, \"cpus\": 99999999999999999999}"
refused "cpus 1.5" 'vm.json: cpus: null, a fraction or a list is not possible' "{$k, \"cpus\": 1.5}"
refused "cpus null" 'vm.json: cpus: null, a fraction' "{$k, \"cpus\": null}"
refused "cpus a list" 'vm.json: cpus: null, a fraction or a list' "{$k, \"cpus\": [1]}"
refused "fault 71: memory overflow" 'vm.json: memory: "99999999999T" is not a size' "{$k, \"memory\": \"99999999999T\"}"
refused "fault 70: memory object with unknown key" 'vm.json: memory: "color" is not possible' "{$k, \"memory\": {\"size\": \"64M\", \"color\": \"x\"}}"
refused "fault 70: disk with unknown key" 'vm.json: disk: "pth" is no key of a disk' "{$k, \"disk\": [{\"pth\": \"x\"}]}"
refused "disk with a nested value" 'vm.json: disk: "path" holds no text' "{$k, \"disk\": [{\"path\": {}}]}"
refused "fault 70: net with unknown key" 'vm.json: net: "mca" is no key of a network port' "{$k, \"net\": [{\"user\": true, \"mca\": \"x\"}]}"
refused "fault 70: net key twice in a list" 'vm.json: net: "mtu" is given twice' "{$k, \"net\": {\"user\": true, \"mtu\": [1400, 1500]}}"
refused "net that net-user would refuse" 'vm.json: net: hostfwd="tcp:localhost:18080-:80": must be tcp.udp:' \
	"{$k, \"net\": {\"user\": true, \"hostfwd\": [\"tcp::18022-:22\", \"tcp:localhost:18080-:80\"]}}"
refused "net of text that ends in a comma" 'vm.json: net: "user," has an empty key' "{$k, \"net\": \"user,\"}"
refused "net with a list of lists" 'vm.json: net: "hostfwd" holds no text' "{$k, \"net\": {\"user\": true, \"hostfwd\": [[]]}}"
refused "comma in a path stays a path" '--disk: path="/nonexistent,id=x"' "{$k, \"disk\": [{\"path\": \"/nonexistent,id=x\"}]}"
refused "key that is a list of pairs" 'vm.json: disk: "id=a,path" is not possible' "{$k, \"disk\": [{\"id=a,path\": \"x\"}]}"
refused "no kernel" '--kernel: missing' '{"cpus": 1}'
refused "NUL in text" 'vm.json:1: ' "{$k, \"append\": \"a\\u0000b\"}"
printf '{"cpus": 1}\0' >"$tmp/vm.json"
like "zero byte in the file" "$(soon "$bulkhead" run --config "$tmp/vm.json" 2>&1)" 'holds a zero byte'
like "missing file" "$(soon "$bulkhead" run --config /nonexistent 2>&1)" "^bulkhead: --config: \"/nonexistent\" can't be opened"
like "a directory as file" "$(soon "$bulkhead" run --config / 2>&1)" '^bulkhead: --config: "/" is no file of data'
like "fault 72: /proc/self/environ as file" "$(soon "$bulkhead" run --config /proc/self/environ 2>&1)" '^bulkhead: --config: "/proc/self/environ" is part of /proc'

if ! sanitized && [ -w /dev/kvm ] && command -v jq >/dev/null; then
	cat >"$tmp/vm.json" <<END
{"kernel": "$tmp/kernel", "append": "a, b", "cpus": 3, "memory": {"size": "64M", "hugepages": false},
 "disk": [{"path": "$tmp/disk.img", "id": "root", "readonly": true, "queues": 2}, "path=$tmp/disk1.img"],
 "net": {"user": true, "hostfwd": ["tcp::18022-:22", "tcp::18080-:80"], "mac": "52:54:00:00:00:01"},
 "on-reboot": "exit", "test-devices": true, "sandbox": true, "grace": 3, "name": "from-file"}
END
	"$bulkhead" run --config "$tmp/vm.json" --run-dir "$run_dir" --cpus 5 --name t </dev/null >"$tmp/t.out" 2>"$tmp/t.err" &
	tap_pids+=($!)
	wait_running t
	is "a flag wins over the file" "$(ctl --json t status | jq -c '[.cpus, .memory_bytes]')" '[5,67108864]'
	is "disks of the file" "$(ctl --json t status | jq -c '[.devices[].id]')" '["root","disk1","net0"]'
	core=$(ctl --json t status | jq .core.pid)
	args=$(tr '\0' ' ' <"/proc/$core/cmdline")
	like "the core is told of all" "$args" '--append a, b --cpus 5 --memory 64M --cpu host --device root:blk,hang-timeout=1500 --device disk1:blk,hang-timeout=1500 --device net0:net,hang-timeout=1500 --test-devices '
	root=$(device t root pid)
	like "the server is told of all" "$(tr '\0' ' ' <"/proc/$root/cmdline")" '--id root .*--sandbox on .*--image-fd 3 --state-fd 4 --vhost-fd 6 --format raw --readonly --queues 2 --cache [a-z]* --flight-fd 5 --anchor-fd 7 '
	user=$(status_of t | jq '.devices[2].helper.pid')
	like "... and net-user" "$(tr '\0' ' ' <"/proc/$user/cmdline")" '--hostfwd tcp::18022-:22 --hostfwd tcp::18080-:80 '
	like "the address is as given" "$(tr '\0' ' ' <"/proc/$(device t net0 pid)/cmdline")" '--mac 52:54:00:00:00:01 '
	check "quit" ctl t quit
	ends_with "ends" 0 "${tap_pids[-1]}" t
else
	skip "a machine from a file" "no access to /dev/kvm, no jq, or built with sanitizers"
fi
