#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# memory=window under `bulkhead run`, with stand-ins: a server and its window are started, ready, replaced and ended as one.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine

words() { tr '\0' ' ' <"/proc/$1/cmdline"; }
pair() { echo "$(device m disk0 pid) $(device m disk0 window.pid)"; }
up_after() { [ "$(device m disk0 restarts)" -ge "$1" ] && [ "$(device m disk0 state)" = up ]; }
spare_is() { [ "$(device m disk0 spare)" = "$1" ]; }
# That of its log lines which tell of a start.
windows() { grep -c 'disk0: started window' "$tmp/m.err"; }

refused() {
	local out
	out=$("$bulkhead" run --run-dir "$tmp/other" --kernel "$tmp/kernel" "${@:3}" 2>&1 </dev/null)
	is "$1: exit 2" $? 2
	like "... says why" "$out" "$2"
}
refused "another word" 'memory="some" is not possible; allowed: all, window' --disk path="$tmp/disk.img",memory=some
refused "a size without a window" 'window="8M" goes with memory=window only' --disk path="$tmp/disk.img",window=8M
refused "a window too small" 'window="1M" is not a size from 2M to 4G' --disk path="$tmp/disk.img",memory=window,window=1M
refused "a window too small for its queues" 'window is too small for 8 queues; allowed: at least 16M' \
	--disk path="$tmp/disk.img",memory=window,window=8M,queues=8
refused "... the default one" 'window is too small for 64 queues; allowed: at least 128M' \
	--disk path="$tmp/disk.img",memory=window,queues=64
refused "a shared server" 'memory="window" does not go with server' --disk path="$tmp/disk.img",memory=window,server=s
refused "somebody else's back end" '"memory" does not go with vhost-user' --disk vhost-user="$tmp/socket",memory=window

# ---- two processes ----
start m --disk path="$tmp/disk.img",id=disk0,memory=window,window=8M,queues=2,io-threads=2,spare=off --disk path="$tmp/disk1.img",id=disk1
wait_running m
first=$(pair)
like "the window is told of its part" "$(words "${first#* }")" \
	'window --id disk0 --bus .*/m/disk0\.window --sandbox on .*--flight-fd 3 --vhost-fd 4 --server-fd 5 --size 8388608 --io-threads 2 --queues 2 '
unlike "... and of no image" "$(words "${first#* }")" 'image'
like "the server is none the wiser" "$(words "${first% *}")" 'blk-server --id disk0 .*--vhost-fd [0-9]+ .*--queues 2 '
is "another disk has none" "$(device m disk1 window)" null
like "status for people shows both" "$(ctl m status)" $'disk0 +blk-server +up .*\n +disk0\.window +window +up +process [0-9]+'
is "ctl reaches its counters" "$(ctl --json m stats disk0.window)" '{"tx":5}'
is "... and its loops" "$(ctl --json m loops | jq -r '[.processes[] | select(.id == "disk0.window")] | length')" 1
if [ "$(id -u)" -eq 0 ]; then
	check "they are users of their own" test "$(stat -c %u "/proc/${first% *}")" -ne "$(stat -c %u "/proc/${first#* }")"
fi
# Nothing of the core's goes to the server: its one socket leads to the window.
sockets() { find "/proc/$1/fd" -lname 'socket:*' -printf '%f '; }
check "the server has no socket to the core" test "$(readlink "/proc/${first% *}/fd/5")" != "$(readlink "/proc/${first#* }/fd/4")"

# ---- one dies, both are replaced ----
new_pair() { # OLD COUNT
	local now
	up_after "$2" || return 1
	now=$(pair)
	[ "${now% *}" != "${1% *}" ] && [ "${now#* }" != "${1#* }" ]
}
slay "${first% *}"
check "a server that dies is replaced, with its window" wait_for 10 new_pair "$first" 1
check "... which is killed for it" logged m 'disk0: killing window \(process [0-9]+\): its server is gone'
like "... the status names the one that died first" "$(device m disk0 last_death)" 'died of signal 9'
second=$(pair)
slay "${second#* }"
check "a window that dies is replaced, with its server" wait_for 10 new_pair "$second" 2
check "... and both are dead before another is started, whichever end is told first" awk -v window="window \\(process ${second#* }\\)" -v server="blk-server \\(process ${second% *}\\)" '
	$0 ~ "disk0: " window " (died|was killed|ended)" { gone = 1 }
	$0 ~ "disk0: " server " (died|was killed|ended)" { dead = 1 }
	gone != dead && /disk0: started/ { wrong = 1 }
	END { exit wrong || !gone || !dead }' "$tmp/m.err"
third=$(pair)
tell disk0.window mute
check "a window that does not answer is replaced, with its server" wait_for 40 new_pair "$third" 3
like "... the status has the reason" "$(device m disk0 last_death)" 'was killed: it does not answer'
is "each death was one restart" "$(device m disk0 restarts)" 3
reports() { find "$tmp/crash" -name '*.disk0.crash' | wc -l; }
has_reports() { [ "$(reports)" -ge "$1" ]; }
wait_for 10 has_reports 3
is "... and one crash report" "$(reports)" 3

# ---- neither is up alone ----
script disk0.window no-ready
fourth=$(pair)
slay "${fourth% *}"
started() { [ "$(windows)" -ge 5 ] && [ "$(device m disk0 state)" = starting ]; }
check "a server whose window is not ready" wait_for 10 started
rm "$bin/disk0.window.do"
is "... does not serve" "$(device m disk0 state)" starting
slay "$(device m disk0 window.pid)"
check "... until another one is" wait_for 10 new_pair "$fourth" 5
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- a spare is a pair ----
start m --disk path="$tmp/disk.img",id=disk0,memory=window
wait_running m
check "a spare waits" wait_for 10 spare_is ready
is "... with its window" "$(windows)" 2
old=$(pair)
spare=$(device m disk0 spare_pid)
slay "${old% *}"
check "it takes over" wait_for 10 new_pair "$old" 1
is "... at once" "$(device m disk0 last_recovery_by) $(device m disk0 pid)" "spare $spare"
check "... and there is another" wait_for 10 spare_is ready
check "an upgrade" ctl m upgrade disk0
check "... is another pair" new_pair "$(pair | sed "s/.*/$spare ${old#* }/")" 1
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- the window's own program ----
new=$tmp/new
mkdir "$new"
chmod 755 "$new"
cp "$bin/fake-child" "$new/window"
mkfifo "$new"/disk0.window{,.spare}.ctl
chmod 666 "$new"/*.ctl
versions() { echo "$(device m disk0 version) $(device m disk0 window.version)"; }
upgrade() { ctl m upgrade disk0.window "$@" 2>"$tmp/why"; }
start m --disk path="$tmp/disk.img",id=disk0,memory=window
wait_running m
wait_for 10 spare_is ready
old=$(pair)
upgrade --exec "$new/nothing"
is "an upgrade of the window to what is not there" $? 1
like "... is refused" "$(<"$tmp/why")" 'nothing: .*No such file'
echo exit=1 >"$new/disk0.window.do"
upgrade --exec "$new/window"
is "... to one that ends at once" $? 1
like "... as well" "$(<"$tmp/why")" 'the new process ended'
is "... nothing was touched" "$(pair) $(versions)" "$old fake-bin fake-bin"
rm "$new/disk0.window.do"
wait_for 10 spare_is ready
check "an upgrade of the window" upgrade --exec "$new/window"
is "... replaces its program and no other" "$(versions)" "fake-bin fake-new"
check "... in another pair" new_pair "$old" 0
wait_for 10 spare_is ready
slay "$(device m disk0 pid)"
check "a death later" wait_for 10 up_after 1
is "... the other slot has it, too" "$(versions)" "fake-bin fake-new"
wait_for 10 spare_is ready
check "an upgrade of the server" ctl m upgrade disk0
is "... leaves it as it is" "$(versions)" "fake-bin fake-new"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- one refuses its options ----
for which in disk0 disk0.window; do
	script $which exit=2
	start m --disk path="$tmp/disk.img",id=disk0,memory=window
	ends_with "$which refuses its options" 2 "$pid" m
	rm "$bin/$which.do"
done

# ---- the supervisor dies ----
start m --on-supervisor-death keep --disk path="$tmp/disk.img",id=disk0,memory=window,spare=off
wait_running m
before=$(pair)
kill -KILL "$pid"
wait_exit 10 "$pid"
adopt() {
	spawn "$bulkhead" adopt m --run-dir "$run_dir" --log-level debug </dev/null >>"$tmp/m.out" 2>>"$tmp/m.err"
}
adopt
wait_running m
is "both live on" "$(pair)" "$before"
kill -KILL "$pid"
wait_exit 10 "$pid"
slay "${before#* }"
adopt
wait_running m
check "one that died meanwhile takes the other along" wait_for 10 new_pair "$before" 1
after=$(pair)
kill -KILL "$pid"
wait_exit 10 "$pid"
slay "${after% *}"
adopt
wait_running m
check "... the other way round, too" wait_for 10 new_pair "$after" 2
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- JSON ----
cat >"$tmp/vm.json" <<END
{ "kernel": "$tmp/kernel", "disk": [{"path": "$tmp/disk.img", "id": "disk0", "memory": "window", "window": "16M"}] }
END
spawn "$bulkhead" run --name m --run-dir "$run_dir" --config "$tmp/vm.json" </dev/null >"$tmp/m.out" 2>"$tmp/m.err"
wait_running m
like "the same from JSON" "$(words "$(device m disk0 window.pid)")" ' --size 16777216 '
ctl m quit
ends_with "ends" 0 "$pid" m
