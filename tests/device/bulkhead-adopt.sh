#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The supervisor dies and the machine does not: what is left, who may take it over, and that all comes back, also what was
# half done.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
not_quick
command -v socat >/dev/null || skip_all "socat is not installed: no client for the console's socket"
make_machine
evidence "$tmp/adopt.err"
# A machine that is alone outlives this test, too: its keeper is ended, and all with it.
end_alone() { grep -q without "$run_dir/m/lock" && kill -KILL "$(cut -d ' ' -f 1 "$run_dir/m/lock")"; }
at_exit end_alone
keep=(--on-supervisor-death keep)
disk=(--disk "path=$tmp/disk.img")

ps_state() { "$bulkhead" ps --run-dir "$run_dir" --json | jq -r ".[] | select(.name == \"$1\") | .state"; }
is_alone() { [ "$(ps_state m)" = alone ]; }
# Kills the supervisor and waits until the keeper is ready for another.
bereave() {
	kill -KILL "$pid"
	wait_exit 10 "$pid"
	wait_for 10 is_alone
}
# Its supervisor is this test's child, $pid, from then on.
adopt() {
	spawn "$bulkhead" adopt --run-dir "$run_dir" "$@" m </dev/null >"$tmp/adopt.out" 2>"$tmp/adopt.err"
}
adopted() { grep -qE -- "$1" "$tmp/adopt.err"; }
answers() { ctl m status; }
spare_is() { [ "$(device m disk0 spare)" = "$1" ]; }
up_after() { [ "$(device m disk0 restarts)" -ge "$1" ] && [ "$(device m disk0 state)" = up ]; }
fds_of() { find "/proc/$1/fd" 2>/dev/null | wc -l; }
is_zombie() { [ "$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null)" = Z ]; }
pids() { ctl --json m status | jq -c '[.core.pid, .devices[0].pid, .devices[0].spare_pid]'; }

# ---- FAULTS 62 ----
start m "${disk[@]}" "${keep[@]}"
wait_running m
wait_for 10 spare_is ready
keeper=$(pgrep -P "$pid")
before=$(pids)
first=$pid
bereave
is "fault 62: the supervisor is SIGKILLed" "$status" 137
check "... the keeper says so" logged m "the supervisor \(process $first\) died of signal 9 \(Killed\); the machine runs on"
is "... ps shows the machine alone" "$(ps_state m)" alone
like "... also to people" "$("$bulkhead" ps --run-dir "$run_dir")" "m +$keeper +alone"
for p in $(jq '.[]' <<<"$before"); do
	check "... process $p runs on" test -d "/proc/$p" -a "$(sed 's/.*) //; s/ .*//' "/proc/$p/stat")" != Z
done
like "... ctl says what to do" "$(ctl m status 2>&1)" 'runs without a supervisor; bulkhead adopt m takes it over'
out=$(soon "$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" 2>&1 </dev/null)
is "fault 63: the same name is started while there is no supervisor: exit 2" $? 2
like "... and says what to do" "$out" 'running already, without a supervisor; bulkhead adopt m takes it over'
out=$(soon "$bulkhead" run --name n --run-dir "$run_dir" --kernel "$tmp/kernel" "${disk[@]}" 2>&1 </dev/null)
is "fault 68: a second machine on the image meanwhile: exit 2" $? 2
like "... is refused by the lock, which the keeper holds" "$out" 'disk.img" is in use by process'
adopt
check "adopt: ctl answers" wait_for 10 answers
is "... the machine runs" "$(state m)" running
is "... with the processes that it had" "$(pids)" "$before"
check "... and says whom it follows" adopted "m: taken over from process $first, which died; the machine is running"
check "... all are back on the bus" wait_for 5 adopted 'core: process [0-9]+ is back on the bus'
is "... and none was restarted" "$(device m disk0 restarts)" 0
is "... its filter is as narrow" "$(awk '/^Seccomp:/ { print $2 }' "/proc/$pid/status")$(awk '/^CapEff:/ { print $2 }' "/proc/$pid/status")" "20000000000000000"

# ---- never two ----
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
is "fault 63: a second supervisor: exit 2" $? 2
is "... is told of the first" "$out" "bulkhead: adopt: \"m\" has a supervisor, process $pid; there is never more than one"
kill -STOP "$pid"
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
like "... even if that one is stopped" "$out" "has a supervisor, process $pid;"
kill -CONT "$pid"
mv "$run_dir/m/keeper" "$run_dir/m/keeper.real"
perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die; bind($s, pack_sockaddr_un($ARGV[0])) or die' "$run_dir/m/keeper"
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
is "a keeper that can't be reached: exit 2" $? 2
is "... and why" "$out" 'bulkhead: adopt: can'"'"'t reach the keeper of "m": Connection refused'
rm "$run_dir/m/keeper"
mv "$run_dir/m/keeper.real" "$run_dir/m/keeper"
if [ "$(id -u)" -eq 0 ]; then
	cp "$bulkhead" "$tmp/bulkhead" && chmod 755 "$tmp/bulkhead"
	out=$(soon setpriv --reuid 65534 --regid 65534 --clear-groups "$tmp/bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
	is "another user can't: exit 2" $? 2
	bereave
	out=$(soon setpriv --reuid 65534 --regid 65534 --clear-groups "$tmp/bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
	is "... nor while there is none" $? 2
	# The socket itself made open to all: the keeper looks who it is.
	chmod 666 "$run_dir/m/keeper"
	answer=$(setpriv --reuid 65534 --regid 65534 --clear-groups perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die;
		connect($s, pack_sockaddr_un($ARGV[0])) or die; recv($s, my $b, 512, 0); print unpack("l", $b)' "$run_dir/m/keeper" 2>&1)
	is "... and not by an open socket: EACCES" "$answer" -13
	chmod 600 "$run_dir/m/keeper"
	adopt
	wait_for 10 answers
fi
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" nobody 2>&1 </dev/null)
is "a machine that is not there: exit 2" $? 2
like "... says so" "$out" '"nobody": no machine of this name runs in'
for words in "" "../m" "a b" "--frob m" "--console"; do
	# shellcheck disable=SC2086
	soon "$bulkhead" adopt --run-dir "$run_dir" $words >"$tmp/words" 2>&1 </dev/null
	is "adopt '$words': exit 2" $? 2
done

# ---- FAULTS 69: what somebody planted in the run directory ----
bereave
mkdir "$tmp/target"
echo precious >"$tmp/target/bus"
mv "$run_dir/m/disk0" "$run_dir/m/disk0.real"
mv "$run_dir/m/keeper" "$run_dir/m/keeper.real"
ln -s keeper.real "$run_dir/m/keeper"
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
is "fault 69: a planted symbolic link for the keeper's socket: exit 2" $? 2
rm "$run_dir/m/keeper"
mv "$run_dir/m/keeper.real" "$run_dir/m/keeper"
mv "$run_dir/m/disk0.real" "$run_dir/m/disk0"
ln -s "$tmp/target" "$run_dir/m/planted"
ln -s "$tmp/target/new" "$run_dir/m/ctl"
adopt
check "fault 64: a stale or planted name where an endpoint belongs is replaced" wait_for 10 answers
is "... not followed" "$(ls "$tmp/target")" bus
bereave
is "fault 69: the keeper follows no planted link when it cleans up" "$(cat "$tmp/target/bus")" precious
mkdir "$run_dir/x"
ln -s "$run_dir/m" "$run_dir/link"
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" link 2>&1 </dev/null)
is "... nor does adopt, to another machine's directory" $? 2
rm -r "$run_dir/link" "$run_dir/x"

# ---- FAULTS 67, and a death that nobody saw ----
active=$(jq '.[1]' <<<"$before")
spare=$(jq '.[2]' <<<"$before")
slay "$active"
check "a server dies while there is no supervisor" wait_for 5 is_zombie "$active"
adopt
check "... it is replaced at adoption" wait_for 10 up_after 1
is "... by its spare" "$(device m disk0 pid)" "$spare"
check "... and reaped" wait_for 5 gone "$active"
# Now the dead one's id is somebody else's.
same=0
if [ -w /proc/sys/kernel/ns_last_pid ]; then
	for _ in {1..50}; do
		echo $((active - 1)) 2>/dev/null >/proc/sys/kernel/ns_last_pid
		sleep 1000 &
		tap_pids+=($!)
		[ $! -eq "$active" ] && same=$! && break
		kill -KILL $!
	done
fi
if [ "$same" -gt 0 ]; then
	bereave
	adopt
	wait_for 10 answers
	slay "$(device m disk0 pid)"
	wait_for 10 up_after 2
	check "fault 67: a process that has a dead server's id is left alone by adoption and recovery" test -d "/proc/$same"
else
	skip "fault 67: a process that has a dead server's id is left alone" "ids can't be chosen here"
fi
bereave
core=$(jq '.[0]' <<<"$before")
slay "$core"
check "fault 67: a dead child's id stays its own while nobody watches" wait_for 5 is_zombie "$core"
adopt
ends_with "the core died while there was no supervisor: the adopter's exit 5" 5 "$pid" m
check "... the keeper is gone" wait_for 5 gone "$keeper"

# ---- a guest that ends, consoles and logs that nobody reads ----
start m "${disk[@]}" "${keep[@]}" --console "socket=$tmp/con"
wait_running m
flooded=$(pids)
bereave
for i in {1..400}; do tell core say "$i $(printf 'y%.0s' {1..400})"; done
server=$(jq '.[1]' <<<"$flooded")
tell disk0 flood 5000
# Until the pipe, which nobody reads, is as good as full.
has_flooded() { [ "$(sed -n 's/^wchar: //p' "/proc/$server/io")" -gt 32768 ]; }
[ ! -r "/proc/$server/io" ] || wait_for 10 has_flooded
tell core log said while alone
tell core end poweroff
adopt
ends_with "a guest that powered off meanwhile: the adopter's exit 0" 0 "$pid" m
check "... what a process logged meanwhile is there, as far as the pipe held it" adopted 'line 1 of 5000 of a flood'
check "... and the console's flood did not stop the core" adopted 'said while alone'
check "... nor its socket stay behind" test ! -e "$tmp/con"

# ---- consoles ----
start m "${disk[@]}" "${keep[@]}" --console pty
wait_running m
pts=$(ctl --json m status | jq -r .console)
bereave
adopt
wait_for 10 answers
is "a pty is the same one after adoption" "$(ctl --json m status | jq -r .console)" "$pts"
cat "$pts" >"$tmp/pts" &
tap_pids+=($!)
tell core say hello after adoption
check "... and relays" wait_for 5 grep -q 'hello after adoption' "$tmp/pts"
bereave
adopt --console "file=$tmp/con.file" --log-level info
wait_for 10 answers
tell core say to a file
check "--console is for the adopter" wait_for 5 grep -q 'to a file' "$tmp/con.file"
check "... and --log-level" test "$(grep -c 'message 3' "$tmp/adopt.err")" -eq 0
kill -TERM "$pid"
ends_with "SIGTERM to the adopter presses the button: exit 0" 0 "$pid" m

# ---- a terminal ----
cat >"$tmp/session" <<-END
	stty -g >$tmp/stty.before
	$bulkhead run --name m --run-dir $run_dir --kernel $tmp/kernel --on-supervisor-death keep 2>$tmp/m.err
	for i in {1..1000}; do grep -q without $run_dir/m/lock && break; read -rt 0.05 <> <(:); done
	stty -g >$tmp/stty.after
END
spawn socat - EXEC:"bash $tmp/session",pty,setsid,ctty,stderr </dev/zero >"$tmp/term.out" 2>&1
session=$pid
wait_running m
slay "$(cat "$run_dir/m/lock")"
check "the terminal of a killed supervisor is given back" wait_for 20 test -s "$tmp/stty.after"
is "... as it was" "$(cat "$tmp/stty.after")" "$(cat "$tmp/stty.before")"
# The machine has it open, so this does not end by itself.
kill "$session"
wait_exit 10 "$session"
adopt
check "... and the machine can be adopted without one" wait_for 10 answers
ctl m quit
ends_with "... ends" 0 "$pid" m

# ---- half done ----
start m --limit-group id=slow,bps=10M,iops=100 --disk "path=$tmp/disk.img,bps=1M,group=slow" "${keep[@]}"
wait_running m
ctl m set disk0 bps=2M
ctl m set group:slow bps=20M
ctl m pause
bereave
adopt
wait_for 10 answers
is "limits that were set are told of by the adopter, a group's too" \
	"$(status_of m | jq -c '.devices[0] | [.limits, .group.limits]')" '[{"bps":"2M"},{"bps":"20M","iops":"100"}]'
is "a paused machine is paused" "$(state m)" paused
check "... and can be resumed" ctl m resume
# Its sandbox ends it.
victim=$pid
"$top_builddir/tests/support/make-call" "$victim" bulkhead 59
if [ $? -eq 77 ]; then
	skip "a supervisor that its sandbox ended is replaced like any other" "this user may not trace it"
	bereave
else
	wait_exit 10 "$victim"
	is "a supervisor that its sandbox ends" "$status" $((128 + 31))
	wait_for 10 is_alone
fi
adopt
wait_for 10 answers
# In back-off: nothing starts, and the supervisor dies in the middle of that.
wait_for 10 spare_is ready
script disk0 exit=1
slay "$(device m disk0 spare_pid)"
slay "$(device m disk0 pid)"
restarting() { [ "$(device m disk0 restarts)" -ge "$1" ]; }
check "a device that keeps dying" wait_for 20 restarting 3
bereave
rm "$bin/disk0.do"
adopt
back() { [ "$(device m disk0 state)" = up ]; }
check "one that was in back-off comes back after adoption" wait_for 20 back
check "... its restarts are remembered" test "$(device m disk0 restarts)" -ge 3
# The core is heard of again when its device's successor has started, and says once more what became of the predecessor.
wait_for 10 spare_is ready
script disk0 exit=1
slay "$(device m disk0 spare_pid)"
slay "$(device m disk0 pid)"
n=$(device m disk0 restarts)
check "it keeps dying again" wait_for 20 restarting $((n + 2))
bereave
script disk0 slow-ready=2000
adopt
check "a new process that takes its time comes up after adoption" wait_for 20 back
is "... and is not blamed for its predecessor's end" "$(grep 'killing blk-server' "$tmp/adopt.err")" ""
rm "$bin/disk0.do"
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m

script disk0 hello-exit=1
start m "${disk[@]}" "${keep[@]}" --restarts 3/60
ends_with "before all is started a machine ends with its supervisor's word: exit 6" 6 "$pid" m
rm "$bin/disk0.do"
start m "${disk[@]}" "${keep[@]}" --restarts 2/60
wait_running m
wait_for 10 spare_is ready
script disk0 exit=1
slay "$(device m disk0 spare_pid)"
slay "$(device m disk0 pid)"
quarantined() { [ "$(device m disk0 state)" = failed ]; }
check "a device in quarantine" wait_for 30 quarantined
bereave
adopt
wait_for 10 answers
is "... is in quarantine after adoption" "$(device m disk0 state)" failed
rm "$bin/disk0.do"
check "... and can be revived" ctl m revive disk0
tell core end reset
generation() { [ "$(ctl --json m status | jq .generation)" -eq "$1" ] && is_state m running; }
check "a reboot under the adopter" wait_for 10 generation 2
bereave
adopt
wait_for 10 answers
is "... its generation is remembered" "$(ctl --json m status | jq .generation)" 2

# An upgrade whose new process takes its time to start.
wait_for 10 spare_is ready
script disk0 slow-ready=3000
ctl m upgrade disk0 >"$tmp/upgrade" 2>&1 &
tap_pids+=($!)
under_way() { sed -n '/disk0: upgrading/,$p' "$tmp/adopt.err" | grep -q 'disk0: started'; }
check "an upgrade is under way" wait_for 10 under_way
bereave
rm "$bin/disk0.do"
adopt
check "... it is finished by the adopter" wait_for 20 adopted 'disk0: upgraded'
is "... the device serves" "$(device m disk0 state)" up
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m

# An upgrade that the supervisor leaves in the middle of the drain, and its new process with it.
script disk0 no-drain
start m "${disk[@]}" "${keep[@]}"
wait_running m
wait_for 10 spare_is ready
rm "$bin/disk0.do"
old=$(device m disk0 pid)
ctl m upgrade disk0 >"$tmp/upgrade" 2>&1 &
tap_pids+=($!)
check "an old process drains" wait_for 10 logged m 'blk-server\[disk0\]: told to drain'
bereave
slay "$(pgrep -f "^$bin/blk-server .*$run_dir/m/" | grep -vx "$old")"
adopt
check "... a new one that dies with the supervisor: the old one is told to serve on" \
	wait_for 10 adopted 'blk-server\[disk0\]: told to serve on'
is "... and does" "$(device m disk0 pid) $(device m disk0 state)" "$old up"
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m

# What a server's anchor told of it is read, and lost with the supervisor.
start m --disk "path=$tmp/disk.img,spare=off" "${keep[@]}" --start-timeout 60
wait_running m
script disk0 nameless
slay "$(device m disk0 pid)"
nameless() { [ "$(device m disk0 state)" = starting ] && pgrep -P "$(device m disk0 pid)"; }
check "a process starts whose id its supervisor does not know" wait_for 10 nameless
bereave
rm "$bin/disk0.do"
adopt
check "... its adopter does not wait for it" wait_for 5 adopted 'disk0: killing blk-server .*: its supervisor died as it started it'
check "... it is replaced" wait_for 5 back
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m

# pin PID: process 1 of a sandbox, which can't end before the last process in its namespace is reaped; unpin.
pin() {
	local machine=$pid
	spawn nsenter -t "$1" -p sleep 1000
	pinned=$pid pid=$machine
	wait_for 5 pgrep -P "$pinned" && kill -STOP "$pinned"
}
unpin() { kill -CONT "$pinned"; }
# A process that the supervisor asked for and never knew, and that takes its time to end.
if [ "$(id -u)" -ne 0 ] || ! command -v nsenter >/dev/null; then
	skip "adoption waits for no process that takes its time to end" "needs root and nsenter to make one"
else
	start m --disk "path=$tmp/disk.img,spare=off" --disk "path=$tmp/disk1.img,spare=off" "${keep[@]}" --restarts 2/60
	wait_running m
	script disk0 exit=1
	slay "$(device m disk0 pid)"
	wait_for 30 quarantined
	rm "$bin/disk0.do"
	keeper=$(pgrep -P "$pid")
	kill -STOP "$keeper"
	ctl m revive disk0 >"$tmp/revive" 2>&1 &
	tap_pids+=($!)
	asks() { [ "$(cut -d ' ' -f 1 "/proc/$pid/syscall")" = 47 ]; } # recvmsg, of the keeper's answer
	check "the supervisor asks for a process" wait_for 10 asks
	kill -KILL "$pid"
	kill -CONT "$keeper"
	wait_exit 10 "$pid"
	wait_for 10 is_alone
	late=$(pgrep -P "$keeper" -f -- '--id disk0 ')
	check "... which the keeper starts when nobody is there any more" test -n "$late"
	pin "$late"
	adopt
	check "it takes its time to end: adoption does not wait for that" wait_for 10 answers
	is "... its device waits" "$(device m disk0 state)" waiting
	is "... the other serves" "$(device m disk1 state)" up
	check "... it was killed" adopted "disk0: process $late is ended, it is not known what became of it"
	check "... but has not ended" test -d "/proc/$late"
	unpin
	check "... once it has ended the device is back" wait_for 10 back
	unlike "... with another one" "$(device m disk0 pid)" "^$late$"
	kill -TERM "$pid"
	ends_with "ends" 0 "$pid" m

	# The real server has an anchor, which says that it is dead, and then takes its time to end itself.
	ln -sf "$(realpath "$top_builddir/blk-server/blk-server")" "$bin/blk-server"
	start m "${disk[@]}" "${keep[@]}"
	wait_running m
	wait_for 10 spare_is ready
	bereave
	adopt
	wait_for 10 adopted 'disk0: process [0-9]+ is back on the bus'
	server=$(device m disk0 pid)
	pin "$(ps -o ppid= -p "$server" | tr -d ' ')"
	slay "$server"
	check "after an adoption a death is told by the server's anchor" wait_for 10 up_after 1
	like "... with how it died" "$(device m disk0 last_death)" '^died of signal 9'
	unpin
	kill -TERM "$pid"
	ends_with "ends" 0 "$pid" m
	ln -sf fake-child "$bin/blk-server"
fi

# Being told to end.
script core stay
start m "${disk[@]}" "${keep[@]}"
wait_running m
ctl m quit
wait_for 5 is_state m ending
bereave
adopt
ends_with "a machine that was ending ends under the adopter: exit 0" 0 "$pid" m
rm "$bin/core.do"

# ---- moments: the supervisor dies anywhere in a recovery or a reboot ----
start m "${disk[@]}" "${keep[@]}" --restarts 1000/1
wait_running m
wait_for 10 spare_is ready
whole=0
for i in {1..12}; do
	slay "$(device m disk0 pid)"
	[ $((i % 3)) -eq 0 ] && tell core end reset
	read -rt "0.$(printf %03d $((i * 5)))" <> <(:)
	bereave
	adopt
	wait_for 20 is_state m running && wait_for 20 back && whole=$((whole + 1))
done
is "killed at 12 moments of a recovery or reboot, the machine is whole each time" "$whole" 12
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m

# ---- a service that is started again ----
start m "${disk[@]}" "${keep[@]}"
wait_running m
wait_for 10 spare_is ready
before=$(pids)
bereave
start m "${disk[@]}" "${keep[@]}"
check "bulkhead run with keep takes over the machine that it finds" wait_for 10 is_state m running
is "... with its processes" "$(pids)" "$before"
keeper=$(pgrep -P 1 -f "run --name m --run-dir $run_dir " | head -n 1)
keeper=${keeper:-$(ps -o ppid= -p "$(jq '.[0]' <<<"$before")" | tr -d ' ')}

# ---- nothing leaks ----
gaps=()
counts() { echo "$(fds_of "$keeper") $(fds_of "$(jq '.[0]' <<<"$before")") $(fds_of "$(jq '.[1]' <<<"$before")")"; }
bereave
adopt
wait_for 10 answers
wait_for 10 adopted 'core: process [0-9]+ is back'
wait_for 10 adopted 'disk0: process [0-9]+ is back'
# A connection that is made anew may still be on its way: what stays the same for a second counts.
settle() {
	local now same=0
	while [ $same -lt 10 ]; do
		now="$(counts) $(fds_of "$pid")"
		[ "$now" = "${settled-}" ] && same=$((same + 1)) || same=0
		settled=$now
		read -rt 0.1 <> <(:) || :
	done
}
settle
had=${settled% *}
ours=${settled##* }
for _ in {1..10}; do
	bereave
	t=${EPOCHREALTIME/./}
	adopt
	wait_for 10 answers
	gaps+=($(((${EPOCHREALTIME/./} - t) / 1000)))
	wait_for 10 adopted 'core: process [0-9]+ is back'
	wait_for 10 adopted 'disk0: process [0-9]+ is back'
done
is "ten times killed and adopted: the same processes" "$(pids)" "$before"
same_counts() { [ "$(counts)" = "$had" ]; }
check "... keeper, core and server have as many descriptors as before: $had" wait_for 5 same_counts
same_ours() { [ "$(fds_of "$pid")" -eq "$ours" ]; }
check "... and so has the supervisor: $ours" wait_for 5 same_ours
mapfile -t gaps < <(printf '%s\n' "${gaps[@]}" | sort -n)
diag "from the start of bulkhead adopt until ctl answers: ms min/median/max ${gaps[0]}/${gaps[5]}/${gaps[9]}"

# ---- the keeper dies, too ----
bereave
children=$(pgrep -P "$keeper" | tr '\n' ' ')
kill -KILL "$keeper"
for p in $children; do check "without supervisor and keeper process $p ends" wait_for 5 gone "$p"; done
start m "${disk[@]}"
check "... and the next machine of the name takes over what is left" wait_running m
out=$(soon "$bulkhead" adopt --run-dir "$run_dir" m 2>&1 </dev/null)
like "a machine that is not to be kept can't be adopted" "$out" "runs with process $pid as its supervisor, and ends with it"
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m
