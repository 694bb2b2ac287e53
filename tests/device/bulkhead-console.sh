#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The guest's console: standard streams, a terminal that is given back whatever happens, pty, file, socket.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
command -v socat >/dev/null || skip_all "socat is not installed: no terminal to run on"
make_machine

# ---- standard streams ----
printf 'typed' >"$tmp/input"
spawn "$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" <"$tmp/input" >"$tmp/m.out" 2>"$tmp/m.err"
wait_running m
check "output of the guest is on standard output" wait_for 5 grep -q 'fake guest runs' "$tmp/m.out"
check "a file as input reaches the guest" wait_for 5 grep -q '\[typed\]' "$tmp/m.out"
tell core say last words
tell core end poweroff
ends_with "ends" 0 "$pid" m
check "what the guest said last is there" grep -q 'last words' "$tmp/m.out"
"$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" </dev/null 2>"$tmp/m.err" | head -c 4 >"$tmp/head" &
tap_pids+=($!)
wait_running m
tell core say more
tell core end poweroff
gone_dir() { [ ! -e "$run_dir/m" ]; }
check "a reader that goes away is no harm" wait_for 10 gone_dir

# A socket as standard output, whose other end nobody reads.
spawn perl -MSocket -e 'socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or die; open(STDOUT, ">&", $b); exec @ARGV if !fork; sleep 1000' \
	"$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" </dev/null 2>"$tmp/m.err"
wait_running m
for i in {1..300}; do tell core say "$(printf 'y%.0s' {1..400})"; done
answers() { soon "$bulkhead" ctl --run-dir "$run_dir" m status; }
check "a socket that nobody reads does not stop the supervisor" answers
soon "$bulkhead" ctl --run-dir "$run_dir" m quit
check "... nor the end" wait_for 20 gone_dir

# ---- a terminal ----
# term COMMANDS...: runs a machine on a terminal of its own; what is typed comes from the FIFO, the settings before and
# after are in stty.before and stty.after.
mkfifo "$tmp/keys"
term() {
	cat >"$tmp/session" <<-END
		stty -g >$tmp/stty.before
		$bulkhead run --name m --run-dir $run_dir --kernel $tmp/kernel 2>$tmp/m.err
		echo "status \$?" >$tmp/session.status
		for i in {1..1000}; do [ -e $run_dir/m ] || break; read -rt 0.05 <> <(:); done
		stty -g >$tmp/stty.after
	END
	rm -f "$tmp/session.status"
	exec 7<>"$tmp/keys"
	spawn socat - EXEC:"bash $tmp/session",pty,setsid,ctty,stderr <&7 >"$tmp/term.out" 2>&1
	wait_running m
}
after_session() { [ -s "$tmp/session.status" ] && [ -s "$tmp/stty.after" ]; }
restored() {
	exec 7>&-
	check "$1: the session ends" wait_for 15 after_session
	is "$1: $(cat "$tmp/session.status")" "$(cat "$tmp/session.status")" "status $2"
	is "$1: the terminal is as before" "$(cat "$tmp/stty.after")" "$(cat "$tmp/stty.before")"
	wait_exit 10 "$pid"
	rm -f "$tmp/stty.after"
}
term
printf 'a\003b' >&7
check "keys go to the guest, Ctrl-C too" wait_for 5 grep -aq $'\003b\\]' "$tmp/term.out"
printf '\001h' >&7
check "Ctrl-A h shows help" wait_for 5 grep -aq 'Ctrl-A x  end the machine' "$tmp/term.out"
printf '\001\001' >&7
check "Ctrl-A Ctrl-A sends one" wait_for 5 grep -aq $'\\[\001\\]' "$tmp/term.out"
tell core end poweroff
restored "guest power-off" 0
clean_after m "nothing is left"
term
printf '\001x' >&7
restored "Ctrl-A x" 0
term
supervisor=$(cat "$run_dir/m/lock")
kill -TERM "$supervisor"
restored "SIGTERM" 0
term
tell core crash
restored "core crash" 5
term
kill -KILL "$(cat "$run_dir/m/lock")"
settings_back() { [ ! -e "$run_dir/m" ]; }
check "supervisor killed: the keeper cleans up" wait_for 10 settings_back
restored "supervisor killed" 137
term
kill -SEGV "$(cat "$run_dir/m/lock")"
wait_for 10 settings_back
restored "supervisor crashes" 139

# ---- pty ----
start m --console pty
wait_running m
pts=$(ctl --json m status | jq -r .console)
like "status tells the pty" "$pts" '^/dev/pts/[0-9]+$'
exec 8<>"$pts"
cat <&8 >"$tmp/pty.out" &
tap_pids+=($!)
printf 'hi' >&8
check "what is typed there is answered there" wait_for 5 grep -q '\[hi\]' "$tmp/pty.out"
kill "${tap_pids[-1]}"
exec 8<&-
i=0
while [ $i -lt 200 ]; do tell core say "$(printf 'y%.0s' {1..400})"; i=$((i + 1)); done
check "a pty that nobody reads stalls nobody" is_state m running
tell core end poweroff
ends_with "... nor the end" 0 "$pid" m

# ---- file ----
start m --console "file=$tmp/console.txt"
wait_running m
check "a file gets the output" wait_for 5 grep -q '^fake guest runs' "$tmp/console.txt"
tell core end reset
twice() { [ "$(grep -c '^fake guest runs' "$tmp/console.txt")" -eq 2 ]; }
check "... of the next generation, too" wait_for 10 twice
kill -TERM "$pid"
ends_with "ends" 0 "$pid" m

# ---- socket ----
start m --console "socket=$tmp/con.sock"
wait_running m
tell core say before anyone listens
(printf hello; exec cat) <"$tmp/keys" | socat - "UNIX-CONNECT:$tmp/con.sock" >"$tmp/client.out" 2>&1 &
tap_pids+=($!)
exec 9>"$tmp/keys"
answered() { grep -q '\[hello\]' "$tmp/client.out"; }
check "a client is answered" wait_for 5 answered
exchange=$(cat "$tmp/client.out")
like "a client gets what was said before" "$exchange" 'fake guest runs'
out=$(soon socat -t 20 - "UNIX-CONNECT:$tmp/con.sock" </dev/null 2>&1)
like "a second client is told that there is one" "$out" 'has a client already'
exec 9>&-
is "the socket is for its user alone" "$(stat -c %a "$tmp/con.sock")" 600
keeper=$(pgrep -P "$pid")
at_exit kill -CONT "$keeper"
kill -STOP "$keeper"
kill -KILL "$pid"
wait_exit 5 "$pid"
start next --console "socket=$tmp/con.sock"
check "a socket that a killed supervisor left is replaced, whatever its keeper still does" wait_running next
kill -CONT "$keeper"
check "the keeper ends the machine" wait_for 10 settings_back
kill -TERM "$pid"
ends_with "ends" 0 "$pid" next
check "the socket is removed" test ! -e "$tmp/con.sock"
echo precious >"$tmp/file"
out=$(soon "$bulkhead" run --run-dir "$run_dir" --kernel "$tmp/kernel" --console "socket=$tmp/file" 2>&1 </dev/null)
is "a file in the socket's place: exit 2" $? 2
is "... and it stays" "$(cat "$tmp/file")" precious
