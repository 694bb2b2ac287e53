#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The bare guest and what the host has beside it: a pty, a terminal, somebody else's disk that goes and comes back, an
# ordinary user, syslog.
. "$top_srcdir/tests/support/tap.sh"
[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "/dev/kvm is not there or may not be opened"
command -v socat >/dev/null || skip_all "socat is not installed: no terminal to run on"
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/blk-server
bulkhead=$top_builddir/supervisor/bulkhead
payload=$top_builddir/tests/guest/payload.elf
truncate -s 16M "$tmp/disk.img"
timeout 60 "$bulkhead" --version >/dev/null || skip_all "bulkhead does not start"

options=(--name host --run-dir "$tmp/run" --kernel "$payload" --memory 64M --test-devices)
console() { "$bulkhead" ctl host status --run-dir "$tmp/run" --json | sed -n 's/.*"console":"\([^"]*\)".*/\1/p'; }
# guest_says FILE TEXT / disk_is STATE RESTARTS
guest_says() { tr -d '\r' <"$1" | grep -q "^$2"; }
disk_is() {
	"$bulkhead" ctl host status --run-dir "$tmp/run" --json | tr -d '\n' |
		grep -q "\"id\":\"disk0\"[^}]*\"state\":\"$1\"[^}]*\"restarts\":$2"
}

# ---- an image that is none ----
truncate -s 1M "$tmp/bad.qcow2"
timeout 60 "$bulkhead" run "${options[@]}" --disk "path=$tmp/bad.qcow2,format=qcow2" </dev/null >"$tmp/out" 2>"$tmp/log"
is "a wrong qcow2 file: exit 2" $? 2
is "... one line names it and says what is wrong" "$(grep -v ': starting ' "$tmp/log")" \
	"blk-server[disk0]: image $tmp/bad.qcow2 can't be used as qcow2: it is not a qcow2 image"

# ---- memory that the host does not have ----
text="huge pages that there are none of: exit 2"
if [ "$(cat /proc/sys/vm/nr_hugepages /proc/sys/vm/nr_overcommit_hugepages | tr -d '\n')" = 00 ]; then
	timeout 60 "$bulkhead" run --name host --run-dir "$tmp/run" --kernel "$payload" --memory 64M,hugepages=on \
		--crash-dir "$tmp/crash" </dev/null >"$tmp/out" 2>"$tmp/log"
	is "$text" $? 2
	like "... the log says where there could be some" "$(<"$tmp/log")" \
		'guest RAM of 64 MiB can.t be made \(/proc/sys/vm/nr_hugepages says how many huge pages this host has\)'
	check "... and it is no crash" test ! -e "$tmp/crash"
else
	skip "$text" "this host has some"
fi

# ---- a pty ----
spawn "$bulkhead" run "${options[@]}" --append regs --disk "path=$tmp/disk.img" --console pty </dev/null >"$tmp/out" 2>"$tmp/log"
vm=$pid
has_pty() { [ -c "$(console)" ]; }
check "pty: there is one" wait_for 20 has_pty
exec 8<>"$(console)"
cat <&8 >"$tmp/pty.out" 8>&- 2>/dev/null &
tap_pids+=($!)
check "pty: what the guest said before is there" wait_for 20 guest_says "$tmp/pty.out" "# bare guest: regs"
check "pty: the guest goes on to its question" wait_for 20 guest_says "$tmp/pty.out" "# stop it"
printf s >&8
check "pty: what is typed reaches the guest" wait_for 20 guest_says "$tmp/pty.out" "# continue it"
printf c >&8
wait_exit 20 "$vm"
is "pty: exit status" "$status" 33
check "pty: the guest's last words are there" wait_for 5 guest_says "$tmp/pty.out" "1\\.\\."
exec 8<&-

# ---- a terminal ----
mkfifo "$tmp/keys"
cat >"$tmp/session" <<-END
	stty -g >$tmp/stty.before
	$bulkhead run ${options[*]} --append regs --disk path=$tmp/disk.img 2>$tmp/log
	echo \$? >$tmp/session.status
	stty -g >$tmp/stty.after
END
exec 7<>"$tmp/keys"
spawn socat - EXEC:"bash $tmp/session",pty,setsid,ctty,stderr <&7 >"$tmp/term.out" 2>&1
session=$pid
check "terminal: the guest's output is there" wait_for 20 guest_says "$tmp/term.out" "# stop it"
printf s >&7
check "terminal: keys reach the guest" wait_for 20 guest_says "$tmp/term.out" "# continue it"
printf c >&7
check "terminal: the session ends" wait_for 20 test -s "$tmp/stty.after"
exec 7>&-
wait_exit 10 "$session"
is "terminal: exit status" "$(cat "$tmp/session.status")" 33
check "terminal: the guest's last words are there" guest_says "$tmp/term.out" "1\\.\\."
is "terminal: it is as before" "$(cat "$tmp/stty.after")" "$(cat "$tmp/stty.before")"

# ---- a disk of somebody else's ----
serve() {
	spawn "$top_builddir/blk-server/blk-server" --socket "$tmp/ext.sock" --image "$tmp/disk.img" 2>>"$tmp/ext.log"
	server=$pid
	wait_for 10 test -S "$tmp/ext.sock"
}
# Gone without a chance to clean up, with all that it forked.
unserve() {
	kill -KILL "$server"
	wait_exit 5 "$server"
	rm -f "$tmp/ext.sock"
} 2>/dev/null
serve
mkfifo "$tmp/in"
exec 6<>"$tmp/in"
spawn "$bulkhead" run "${options[@]}" --append regs --disk "vhost-user=$tmp/ext.sock" --restarts 2/60 <&6 >"$tmp/out" 2>"$tmp/log"
vm=$pid
check "vhost-user: the guest uses it" wait_for 20 guest_says "$tmp/out" "# stop it"
unserve
away() { grep -q 'disk0: the back end is gone' "$tmp/log"; }
check "vhost-user: its end is noticed" wait_for 10 away
# What the guest asks for now waits for the successor.
printf s >&6
check "vhost-user: the guest runs on without it" wait_for 20 guest_says "$tmp/out" "# continue it"
check "vhost-user: it is connected to in vain" wait_for 10 grep -q "disk0: can't connect to the back end" "$tmp/log"
check "vhost-user: ... more often than it may die" wait_for 10 disk_is waiting '\([5-9]\|[1-9][0-9]\)'
serve
check "vhost-user: it is found when it is back" wait_for 20 disk_is up '[1-9]'
printf c >&6
check "vhost-user: what the guest asked for meanwhile is done" wait_for 20 guest_says "$tmp/out" \
	"ok .* - requests made while the device process was stopped complete"
wait_exit 20 "$vm"
is "vhost-user: exit status" "$status" 33
[ "$status" = 33 ] || diag "$(tail -n 20 "$tmp/log")"
exec 6>&-
unserve

# ---- an ordinary user, and syslog, each with a /dev of its own ----
if [ "$(id -u)" -ne 0 ] || ! unshare -m true 2>/dev/null; then
	skip "an ordinary user" "needs root to become one"
	skip "syslog" "needs root for a /dev/log"
	exit 0
fi
mkdir "$tmp/user" "$tmp/dev"
cp "$bulkhead" "$top_builddir/vmm-core/vmm-core" "$top_builddir/blk-server/blk-server" "$payload" "$tmp/user"
truncate -s 16M "$tmp/user/disk.img"
chown -R 65534:65534 "$tmp/user"
cat >"$tmp/as-user" <<-END
	mknod -m 666 $tmp/dev/kvm c 10 232 && mount --bind $tmp/dev/kvm /dev/kvm || exit 99
	cd $tmp/user
	BULKHEAD_PATH=$tmp/user exec setpriv --reuid 65534 --regid 65534 --clear-groups ./bulkhead run --name user \
		--run-dir $tmp/user/run --kernel payload.elf --append "io irq" --memory 64M --test-devices \
		--disk path=disk.img --console file=out
END
setpriv --reuid 65534 --regid 65534 --clear-groups unshare -U true 2>/dev/null
if [ $? -ne 0 ]; then
	skip "an ordinary user" "this host lets ordinary users make no user namespaces"
else
	unshare -m bash "$tmp/as-user" </dev/null >"$tmp/user.out" 2>&1
	is "an ordinary user runs the guest" $? 33
	[ -s "$tmp/user/out" ] || diag "$(tail -n 20 "$tmp/user.out")"
	check "... which does its I/O" guest_says "$tmp/user/out" "ok .* - irq: what is read is what was written"
	check "... and leaves nothing" test ! -e "$tmp/user/run"
fi
if [ -e /dev/log ]; then
	skip "syslog" "this machine has a /dev/log that is not ours"
else
	cat >"$tmp/with-log" <<-END
		for f in kvm null; do mknod -m 666 $tmp/dev/\$f.node \$(stat -c 'c %Hr %Lr' /dev/\$f) || exit 99; done
		mount -t tmpfs tmpfs /dev && ln -s /proc/self/fd /dev/fd || exit 99
		for f in kvm null; do : >/dev/\$f; mount --bind $tmp/dev/\$f.node /dev/\$f || exit 99; done
		$bulkhead run ${options[*]} --append io --disk path=$tmp/disk.img --console file=$tmp/con --log syslog
		[ \$? -eq 2 ] || exit 98
		socat -u UNIX-RECV:/dev/log,ignoreeof CREATE:$tmp/syslog &
		log=\$!
		while ! [ -S /dev/log ]; do read -rt 0.05 <> <(:); done
		$bulkhead run ${options[*]} --append io --disk path=$tmp/disk.img --console file=$tmp/con --log syslog
		status=\$?
		pause() { read -rt 0.05 <> <(:); }
		$bulkhead run ${options[*]} --append regs --disk path=$tmp/disk.img --console file=$tmp/con --log syslog &
		vm=\$!
		while [ "\$(grep -ao 'the guest runs' $tmp/syslog | wc -l)" -lt 2 ]; do pause; done
		kill \$log
		wait \$log
		rm -f /dev/log
		socat -u UNIX-RECV:/dev/log,ignoreeof CREATE:$tmp/syslog.2 &
		log=\$!
		while ! [ -S /dev/log ]; do pause; done
		$bulkhead ctl --run-dir $tmp/run host quit
		wait \$vm || exit 97
		kill \$log
		exit \$status
	END
	timeout 300 unshare -m bash "$tmp/with-log" </dev/null >"$tmp/out" 2>"$tmp/err"
	is "syslog: the guest runs" $? 33
	is "syslog: one line for the start without /dev/log, then nothing on stderr" "$(cat "$tmp/err")" \
		"bulkhead: --log: \"syslog\" is not possible, /dev/log: No such file or directory; allowed here: stderr"
	check "syslog: lines carry level, process id and machine" \
		grep -aqE '<30>bulkhead\[[0-9]+\]: host: bulkhead: host: the guest runs' "$tmp/syslog"
	check "syslog: one that is started anew has the lines from then on" grep -aq 'host: ending on request' "$tmp/syslog.2"
	check "syslog: those of children, too" grep -aqE '<30>bulkhead\[[0-9]+\]: host: blk-server\[disk0\]: ' "$tmp/syslog"
fi
