#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Live upgrade: a new program takes over only when it is ready, the old one comes back if it does not last, and what is
# not fit to be run is refused.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
not_quick
make_machine
new=$tmp/new
mkdir "$new"
chmod 755 "$new"
cp "$bin/fake-child" "$new/blk-server"
mkfifo "$new"/disk0{,.spare}.ctl
chmod 666 "$new"/*.ctl

version() { device m disk0 version; }
spare_ready() { [ "$(device m disk0 spare)" = ready ]; }
up_after() { [ "$(device m disk0 restarts)" -ge "$1" ] && [ "$(device m disk0 state)" = up ]; }
program() { tr '\0' '\n' <"/proc/$1/cmdline" | head -1; }
fresh() { start m --disk "path=$tmp/disk.img${1:+,$1}" "${@:2}" && wait_running m && old=$(device m disk0 pid); }
new_script() { echo "$*" >"$new/disk0.do"; }
# refused TEXT REGEX: an upgrade was not done, for a reason, and nothing of the old process was touched.
refused() {
	is "$1: refused" "$code" 1
	like "... and why" "$out" "$2"
	is "... the old process serves as before" "$(device m disk0 pid) $(device m disk0 state) $(device m disk0 restarts)" "$old up 0"
}
upgrade() {
	out=$(ctl m upgrade disk0 "$@" 2>&1)
	code=$?
}

# ---- it takes over ----
fresh
wait_for 10 spare_ready
upgrade --exec "$new/blk-server"
is "an upgrade" $code 0
like "... tells how long requests waited" "$out" '^disk0: upgraded; its requests waited for [0-9.]+ ms$'
is "... the new program serves" "$(version) $(device m disk0 state)" "fake-new up"
check "... the old process is gone" gone "$old"
check "... it was drained first" logged m 'blk-server\[disk0\]: told to drain'
order() { grep -oE 'told to drain|\(process '"$old"'\) ended|handed over' "$tmp/m.err" | tr '\n' ' '; }
like "... and had ended before the new one got the rings" "$(order)" "drain .process $old. ended handed over "
is "... that is no restart" "$(device m disk0 restarts)" 0
check "... the spare" wait_for 10 spare_ready
is "... is of the new program" "$(program "$(device m disk0 spare_pid)")" "$new/blk-server"
slay "$(device m disk0 pid)"
check "a death later" wait_for 10 up_after 1
is "... leads to the new program" "$(version)" fake-new
wait_for 10 spare_ready
tell core end reset
generation() { [ "$(ctl --json m status | jq .generation)" -eq 2 ] && is_state m running; }
check "so does a reboot" wait_for 20 generation
is "... in one slot" "$(version)" fake-new
wait_for 10 spare_ready
is "... and the other" "$(program "$(device m disk0 spare_pid)")" "$new/blk-server"
upgrade
is "without --exec: what is installed" "$code $(version)" "0 fake-bin"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- what is not fit to be run ----
fresh
wait_for 10 spare_ready
upgrade --exec blk-server
is "a path that is not absolute: exit 2" $code 2
upgrade --exec "$new/nothing"
refused "no such file" "$new/nothing: No such file"
upgrade --exec "$new"
refused "a directory" 'it is no regular file'
upgrade --exec "$new/disk0.ctl"
refused "a FIFO" 'it is no regular file'
cp "$new/blk-server" "$new/plain"
chmod 644 "$new/plain"
upgrade --exec "$new/plain"
refused "one that is not executable" 'it is not executable'
cp "$new/blk-server" "$new/open"
chmod 757 "$new/open"
upgrade --exec "$new/open"
refused "one that anybody may write to" 'others may write to it'
chmod 775 "$new/open"
upgrade --exec "$new/open"
refused "one that a group may write to" 'others may write to it'
if [ "$(id -u)" -eq 0 ]; then
	cp "$new/blk-server" "$new/foreign"
	chmod 755 "$new/foreign"
	chown 65534 "$new/foreign"
	upgrade --exec "$new/foreign"
	refused "one of another user" 'it belongs neither to root nor to this user'
else
	skip "one of another user" "needs root to make one"
fi
printf '#!/bin/sh\nexit 0\n' >"$new/script"
chmod 755 "$new/script"
upgrade --exec "$new/script"
refused "a program that ends" 'the new process ended with status|can.t be started'
out=$(ctl m upgrade disk9 2>&1)
like "a device that does not exist" "$out" 'there is no such device'
check "the spare" wait_for 10 spare_ready
is "... is of the old program" "$(program "$(device m disk0 spare_pid)")" "$bin/blk-server"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- a new program that does not come up ----
crash_dir=$tmp/refused
fresh "" --start-timeout 3
wait_for 10 spare_ready
for words in exit=1 hello-exit=1 wrong-name no-ready no-hello; do
	new_script $words
	upgrade --exec "$new/blk-server"
	refused "a new program with $words" 'the new process (ended|was killed)'
done
check "the spare" wait_for 10 spare_ready
is "... is of the old program" "$(program "$(device m disk0 spare_pid)")" "$bin/blk-server"
reports() { find "$tmp/refused" -name '*.crash' 2>/dev/null | wc -l; }
has_report() { [ "$(reports)" -gt 0 ]; }
slay "$(device m disk0 pid)"
check "a death in service leaves a crash report" wait_for 10 has_report
is "... and is the only one that does" "$(reports)" 1
ctl m quit
ends_with "ends" 0 "$pid" m
unset crash_dir

# ---- one that comes up and does not last ----
for ms in 0 300 2000; do
	fresh
	wait_for 10 spare_ready
	new_script active-exit=$ms
	upgrade --exec "$new/blk-server"
	is "a new program that dies after $ms ms: exit 1" $code 1
	like "... and says so" "$out" 'the new process ended with status 7'
	is "... the old one serves when that is said" "$(version) $(device m disk0 state)" "fake-bin up"
	check "... the log has it" logged m 'disk0: the old program takes over again: the new process ended with status 7'
	[ $ms -ne 2000 ] || is "... it was warm" "$(device m disk0 last_recovery_by)" spare
	check "... its spare" wait_for 10 spare_ready
	is "... is of the old one, too" "$(program "$(device m disk0 spare_pid)")" "$bin/blk-server"
	n=$(device m disk0 restarts)
	slay "$(device m disk0 pid)"
	wait_for 10 up_after $((n + 1))
	is "... as are all later ones" "$(version)" fake-bin
	ctl m quit
	ends_with "ends" 0 "$pid" m
done
rm "$new/disk0.do"

# ---- one that the core can't use ----
fresh
wait_for 10 spare_ready
tell core reject
upgrade --exec "$new/blk-server"
is "a new program that the core rejects" "$code $(version) $(device m disk0 state)" "1 fake-bin up"
like "... the reason is told" "$out" 'the new process was killed: the test rejects it'
wait_for 10 spare_ready
tell core ignore
upgrade --exec "$new/blk-server"
is "one that the core never has up" "$code $(version) $(device m disk0 state)" "1 fake-bin up"
like "... the reason is told" "$out" 'the core did not take it up in time'
wait_for 10 spare_ready
new_script mute
upgrade --exec "$new/blk-server"
rm "$new/disk0.do"
is "one that is mute is no worse than a mute one at other times" "$code $(version)" "0 fake-new"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- an old process that does not finish ----
script disk0 no-drain
fresh
wait_for 10 spare_ready
upgrade --exec "$new/blk-server"
refused "an old process that does not drain" 'the old process did not finish its requests in time'
check "... is told to serve on" wait_for 5 logged m 'blk-server\[disk0\]: told to serve on'
wait_for 10 spare_ready
unlike "... and the new one, which nobody asked to end, is not said to be slow" "$(cat "$tmp/m.err")" 'did not end in time'
ctl m quit
ends_with "ends" 0 "$pid" m
script disk0 no-drain no-resume
fresh
wait_for 10 spare_ready
rm "$bin/disk0.do"
upgrade --exec "$new/blk-server"
refused "one that does not drain" 'the old process did not finish its requests in time'
check "... and does not answer when it is told to serve on is replaced" wait_for 15 up_after 1
check "... for that" logged m "disk0: killing blk-server \(process $old\): it can.t be told to serve on"
ctl m quit
ends_with "ends" 0 "$pid" m
script disk0 no-drain
fresh
wait_for 10 spare_ready
# during_drain COMMAND...: an upgrade, and the command in the middle of its drain.
during_drain() {
	local before asked
	before=$(grep -c 'told to drain' "$tmp/m.err")
	ctl m upgrade disk0 --exec "$new/blk-server" >"$tmp/upgrade.out" 2>&1 &
	asked=$!
	drains() { [ "$(grep -c 'told to drain' "$tmp/m.err")" -gt "$before" ]; }
	wait_for 10 drains
	"$@"
	wait "$asked"
	code=$?
	out=$(cat "$tmp/upgrade.out")
}
again() {
	out2=$(ctl m upgrade disk0 2>&1)
	like "a second upgrade meanwhile" "$out2" 'not possible while it is being upgraded'
	out2=$(ctl m revive disk0 2>&1)
	like "... or revival" "$out2" 'it is on its way already'
}
during_drain again
refused "... the first one" 'did not finish its requests'
during_drain slay "$old"
is "an old process that dies as it drains: the new one takes over" "$code $(version) $(device m disk0 state)" "0 fake-new up"
ctl m quit
ends_with "ends" 0 "$pid" m
fresh
wait_for 10 spare_ready
during_drain tell core hang disk0
is "an old process that hangs as it drains: the new one takes over" "$code $(version) $(device m disk0 state)" "0 fake-new up"
check "... it was killed for that" logged m 'disk0: killing blk-server .*made no progress'
ctl m quit
ends_with "ends" 0 "$pid" m
fresh
wait_for 10 spare_ready
new_dies() { kill -KILL "$(pgrep -f "^$new/blk-server .*$run_dir/m/")"; }
during_drain new_dies
refused "a new process that dies as the old one drains" 'the new process died of signal 9'
during_drain ctl m quit
is "the machine ends meanwhile: exit 1" $code 1
ends_with "... and well" 0 "$pid" m
rm "$bin/disk0.do"

# ---- without spare ----
fresh spare=off
upgrade --exec "$new/blk-server"
is "spare=off: an upgrade" "$code $(version)" "0 fake-new"
no_spare() { [ "$(device m disk0 spare)" = off ]; }
check "... leaves no spare" wait_for 10 no_spare
script disk0 active-exit=100
upgrade
is "... and another is taken back" "$code $(version) $(device m disk0 state)" "1 fake-new up"
rm "$bin/disk0.do"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- the old program can't be started any more ----
fresh spare=off,restarts=1/60
new_script slow-ready=1500 active-exit=100
soon "$bulkhead" ctl --run-dir "$run_dir" m upgrade disk0 --exec "$new/blk-server" >"$tmp/upgrade.out" 2>&1 &
asked=$!
check "a new program starts" wait_for 10 pgrep -f "^$new/blk-server .*$run_dir/m/"
limit=$(prlimit --pid "$pid" --nofile --output SOFT --noheadings)
prlimit --pid "$pid" --nofile=4:
check "... and dies on trial, when the old one can't be started: given up" wait_for 10 logged m 'disk0: given up'
prlimit --pid "$pid" --nofile="$((limit)):"
wait "$asked"
is "... who asked is answered" $? 1
like "... with the reason" "$(cat "$tmp/upgrade.out")" 'the new process ended with status 7'
rm "$new/disk0.do"
check "... and it can be revived" soon "$bulkhead" ctl --run-dir "$run_dir" m revive disk0
is "... with the old program" "$(version) $(device m disk0 state)" "fake-bin up"
ctl m quit
ends_with "ends" 0 "$pid" m

# ---- a device that was given up, as its program does not work ----
fresh restarts=1/60
wait_for 10 spare_ready
script disk0 exit=1
slay "$(device m disk0 spare_pid)"
slay "$old"
is_failed() { [ "$(device m disk0 state)" = failed ]; }
check "a device is given up" wait_for 20 is_failed
starts() { grep -c 'disk0: started blk-server' "$tmp/m.err"; }
# still_failed TEXT REGEX: an upgrade was not done, for a reason, and it is given up as before.
still_failed() {
	is "$1: refused" "$code" 1
	like "... and why" "$out" "$2"
	is "... it is given up" "$(device m disk0 state) $(device m disk0 pid)" "failed null"
}
upgrade --exec "$new/nothing"
still_failed "no such file" "$new/nothing: No such file"
new_script hello-exit=3
n=$(starts)
upgrade --exec "$new/blk-server"
still_failed "a new program that does not come up" 'the new process ended with status 3'
is "... the old one, which is no better, was not tried" $(($(starts) - n)) 1
new_script active-exit=500
upgrade --exec "$new/blk-server"
still_failed "one that does not last" 'the new process ended with status 7'
out=$(ctl m revive disk0 2>&1)
like "... its program is the old one" "$out" 'it died too often again'
rm "$new/disk0.do"
upgrade --exec "$new/blk-server"
is "one that works: it serves" "$code $(version) $(device m disk0 state)" "0 fake-new up"
is "... as is said, without how long requests waited since it was given up" "$out" "disk0: upgraded"
check "... its spare" wait_for 10 spare_ready
is "... is of the new program" "$(program "$(device m disk0 spare_pid)")" "$new/blk-server"
n=$(device m disk0 restarts)
slay "$(device m disk0 pid)"
check "... it may die as often as before" wait_for 10 up_after $((n + 1))
is "... and comes back with it" "$(version)" fake-new
tell core end poweroff
ends_with "the machine ends well" 0 "$pid" m
rm "$bin/disk0.do"

# ---- the program's file is replaced under a running machine ----
fresh
wait_for 10 spare_ready
rm "$bin/blk-server"
printf '#!/bin/sh\nexit 1\n' >"$bin/blk-server"
chmod 755 "$bin/blk-server"
for i in 1 2; do
	slay "$(device m disk0 pid)"
	check "deaths lead to the program that the machine began with ($i)" wait_for 10 up_after "$i"
	wait_for 10 spare_ready
done
old=$(device m disk0 pid)
upgrade
is "an upgrade takes what is there now" "$code" 1
is "... which is no good" "$(device m disk0 pid) $(device m disk0 state)" "$old up"
rm "$bin/blk-server"
ln -s fake-child "$bin/blk-server"
check "... until it is" ctl m upgrade disk0
ctl m quit
ends_with "ends" 0 "$pid" m
