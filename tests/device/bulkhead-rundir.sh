#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The run directory and the locks: a second start, leftovers, planted links, images in use.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine

# try NAME OPTION...: a start that shall be refused; $out, $code.
try() {
	out=$(soon "$bulkhead" run --run-dir "$run_dir" --kernel "$tmp/kernel" --name "$@" 2>&1 </dev/null)
	code=$?
}

start one --disk "path=$tmp/disk.img"
one=$pid
check "a machine runs" wait_running one
try one
is "fault 63: the same name again: exit 2" $code 2
is "... says who has it" "$out" "bulkhead: --name: \"one\" is running already, as process $one; another name is needed"
try two --disk "path=$tmp/disk.img"
is "fault 68: its image again: exit 2" $code 2
like "... says who has it" "$out" "^bulkhead: --disk: path=\".*disk.img\" is in use by process [0-9]+; one writer"
holder=$(sed 's/.*process \([0-9]*\).*/\1/' <<<"$out")
like "... and that is one of the machine" "$(cat "/proc/$holder/comm" 2>&1)" 'bulkhead|blk-server|fake-child'
try two --disk "path=$tmp/disk.img,readonly=on"
is "its image read-only beside a writer: exit 2" $code 2
check "... and no directory for it" test ! -e "$run_dir/two"
is "the first is untouched" "$(state one)" running
like "ps lists it" "$("$bulkhead" ps --run-dir "$run_dir")" "one +$one running"
is "ps --json lists it" "$("$bulkhead" ps --run-dir "$run_dir" --json | jq -r '.[].name')" one

kill -STOP "$one"
like "... one that does not answer, too" "$(soon "$bulkhead" ps --run-dir "$run_dir")" "one +$one silent +- +- +- -"
kill -CONT "$one"

# The lock on the image outlives its server.
old=$(device one disk0 pid)
kill -KILL "$old"
restarted() { [ "$(device one disk0 state)" = up ] && [ "$(device one disk0 pid)" != "$old" ]; }
check "the server comes back" wait_for 10 restarted
try two --disk "path=$tmp/disk.img"
like "the image is still locked" "$out" 'is in use by process'

# The supervisor dies: the keeper ends all and gives all back.
children=$(ctl --json one status | jq -r '.core.pid, .devices[].pid')
kill -KILL "$one"
wait_exit 5 "$one"
for p in $children; do
	check "child $p dies with the supervisor" wait_for 5 gone "$p"
done
free() { [ ! -e "$run_dir/one" ]; }
check "fault 62: the supervisor is killed: the keeper removes the run directory" wait_for 5 free
check "... and says what became of the supervisor" wait_for 5 logged one "the supervisor \(process $one\) died"
start one --disk "path=$tmp/disk.img"
check "name and image are free again" wait_running one
kill -TERM "$pid"
ends_with "ends" 0 "$pid" one

# Its sandbox ends it, and its parent has no time to look.
spawn perl -e 'my $p = fork; exec @ARGV if !$p; sleep 1000' "$bulkhead" run --name one --run-dir "$run_dir" \
	--kernel "$tmp/kernel" </dev/null >"$tmp/one.out" 2>"$tmp/one.err"
wait_running one
"$top_builddir/tests/support/make-call" "$(cat "$run_dir/one/lock")" bulkhead 59
if [ $? -eq 77 ]; then
	skip "a forbidden call of the supervisor is reported" "this user may not trace it"
	kill -KILL "$(cat "$run_dir/one/lock")"
	wait_for 10 free
else
	check "a forbidden call of the supervisor is reported" wait_for 10 logged one \
		'one: the supervisor \(process [0-9]+\) died of signal 31 \(Bad system call\): .* sandbox forbids'
	check "... by itself too, with its number" logged one \
		'^bulkhead: forbidden system call 59, architecture 0xc000003e'
fi
check "... and all is cleaned up" wait_for 10 free

# Supervisor and keeper die: the next one takes over what they left.
start one --disk "path=$tmp/disk.img"
wait_running one
one=$pid
keeper=$(pgrep -P "$one")
kill -STOP "$one"
kill -KILL "$keeper"
kill -KILL "$one"
wait_exit 5 "$one"
wait_for 5 gone "$keeper"
check "the directory is left behind" test -e "$run_dir/one/lock"
ln -s /etc/passwd "$run_dir/one/ctl2"
mkdir -p "$run_dir/one/odd/deep"
: >"$run_dir/one/disk0/file"
rmdir "$run_dir/one/odd/deep"
like "ps does not list the dead one" "$("$bulkhead" ps --run-dir "$run_dir" | wc -l)" '^1$'
for command in "ctl one status" "adopt one"; do
	# shellcheck disable=SC2086
	out=$(soon "$bulkhead" $command --run-dir "$run_dir" 2>&1 </dev/null)
	is "$command: exit 2" $? 2
	like "... it says what to do" "$out" "no machine of this name runs; .* left $run_dir/one, which the next bulkhead run --name one takes over"
done
start one --disk "path=$tmp/disk.img"
check "a new one takes it over" wait_running one
check "... and says so" logged one "took over what process $one left in"
check "... and removed a planted link, not what it points to" test ! -e "$run_dir/one/ctl2" -a -s /etc/passwd
kill -TERM "$pid"
ends_with "ends" 0 "$pid" one

# Planted things.
mkdir "$tmp/target"
mkdir -m 711 "$run_dir"
ln -s "$tmp/target" "$run_dir/evil"
try evil
is "fault 69: a symbolic link for a machine's directory: exit 2" $code 2
like "... is named" "$out" 'run-dir: ".*/evil" is a symbolic link or a file'
is "... and not followed" "$(ls -A "$tmp/target")" ""
mkdir "$run_dir/evil2"
ln -s "$tmp/target/lock" "$run_dir/evil2/lock"
try evil2
is "fault 69: a symbolic link for a lock: exit 2" $code 2
is "... and not followed" "$(ls -A "$tmp/target")" ""
rm -r "$run_dir/evil2"
ln -s "$run_dir" "$tmp/link"
out=$(soon "$bulkhead" run --run-dir "$tmp/link" --kernel "$tmp/kernel" 2>&1)
like "fault 69: a symbolic link for the run directory" "$out" 'run-dir: ".*/link" is a symbolic link or a file'
mkdir -m 777 "$tmp/open"
chmod 777 "$tmp/open"
out=$(soon "$bulkhead" run --run-dir "$tmp/open" --kernel "$tmp/kernel" 2>&1)
like "a run directory that others can write" "$out" 'can be written by others; mode 0700 is needed'
if [ "$(id -u)" -eq 0 ]; then
	mkdir "$tmp/foreign"
	chown 65534 "$tmp/foreign"
	out=$(soon "$bulkhead" run --run-dir "$tmp/foreign" --kernel "$tmp/kernel" 2>&1)
	like "a run directory of somebody else" "$out" 'belongs to user 65534; a directory of user 0'
	mkdir -m 700 "$tmp/closed"
	out=$(soon "$bulkhead" run --run-dir "$tmp/closed/run" --kernel "$tmp/kernel" 2>&1)
	like "a run directory that confined children can't reach" "$out" 'closed to the users that confined processes run as; .*/closed needs mode o\+x'
	is "modes of what a machine makes" "$(start m --disk "path=$tmp/disk.img"; wait_running m; cd "$run_dir/m" && stat -c '%n %a' . lock ctl events disk0 | tr '\n' ' '; kill "$pid"; wait_exit 20 "$pid")" \
		". 711 lock 600 ctl 600 events 600 disk0 710 "
fi

# The directory itself.
run_dir=$tmp/fresh
start one
one=$pid
wait_running one
start two
wait_running two
kill -TERM "$one"
ends_with "the machine that made the run directory ends" 0 "$one" one
check "... another is in it" is_state two running
kill -TERM "$pid"
ends_with "the last one ends" 0 "$pid" two
check "... and takes it along" test ! -e "$run_dir"
mkdir -m 711 "$run_dir"
start one
wait_running one
kill -TERM "$pid"
ends_with "a machine in a directory that was there ends" 0 "$pid" one
check "... which stays" test -d "$run_dir"
