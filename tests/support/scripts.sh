#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What scripts/ owes to who runs them: progress, errors that say what to do, and nothing left after a signal. The test
# host's QEMU is a stand-in here, its kernel an empty file.
. "$top_srcdir/tests/support/tap.sh"
scripts=$(cd "$top_srcdir/scripts" && pwd)
unset BULKHEAD_BUILD

# ---- progress: with the functions, in shells of their own ----
with_common() { BULKHEAD_CACHE=$tmp/cache top=$tmp/tree sh -c ". '$scripts/common.sh'; $1"; }
mkdir -p "$tmp/tree" "$tmp/cache"
with_common "logged '$tmp/log' sh -c 'echo out; echo err >&2; exit 3'"
is "a long step's status is the command's" $? 3
is "... its output is in the log" "$(sort "$tmp/log" | tr '\n' ' ')" "err out "
mkfifo "$tmp/gate"
with_common "progress_seconds=1; logged '$tmp/log' sh -c 'echo half way; read x <$tmp/gate'" 2>"$tmp/err" &
tap_pids+=($!)
check "... its last line is shown while it lasts" wait_for 20 grep -q 'half way' "$tmp/err"
echo 1<>"$tmp/gate"
check "... it ends" wait_exit 20 "$!"
: >"$tmp/tree/config.status"
out=$(with_common "build_tree '$tmp/build'" 2>&1)
like "a source folder that is configured itself: what to do" "$out" 'run make distclean first'

# ---- the options of the scripts ----
for s in demo check testhost; do
	out=$(BULKHEAD_CACHE=$tmp/none "$scripts/$s" --help)
	is "$s --help: status" $? 0
	like "$s --help: says how" "$out" "scripts/$s"
done
check "... and makes nothing" test ! -e "$tmp/none"
out=$("$scripts/demo" --frobnicate 2>&1)
like "demo: unknown option" "$out" 'unknown option --frobnicate; see --help'

# ---- the test host ----
export BULKHEAD_CACHE=$tmp/cache TMPDIR=$tmp/work
for p in mke2fs script busybox setsid; do
	PATH=$PATH:/sbin:/usr/sbin command -v $p >/dev/null || { skip "the test host" "$p is not installed"; exit 0; }
done
dpkg-query -W busybox-static cpio e2fsprogs fio qemu-system-x86 >/dev/null 2>&1 ||
	{ skip "the test host" "its packages are not installed"; exit 0; }
mkdir -p "$tmp/cache/kernel/modules" "$tmp/work" "$tmp/bin"
(
	top=$top_srcdir
	. "$scripts/common.sh"
	for m in $modules; do : >"$tmp/cache/kernel/modules/$m.ko"; done
	echo "$modules" >"$tmp/cache/kernel/done"
)
: >"$tmp/cache/kernel/vmlinuz"
: >"$tmp/cache/initrd"
cat >"$tmp/bin/qemu-system-x86_64" <<END
#!/bin/sh
[ -t 0 ] && echo "a terminal" || echo "no terminal"
last= monitor=
for word; do
	[ "\$last" != -pidfile ] || echo \$\$ >"\$word"
	case \$word in pipe,id=monitor,path=*) monitor=\${word##*=} ;; esac
	last=\$word
done
if [ -e "$tmp/stay" ]; then
	printf 'prompt> '
	echo \$\$ >"$tmp/qemu.pid"
	read -r command <"\$monitor.in"
	echo "\$command" >"$tmp/monitor"
	exec sleep 600
fi
for word; do
	case \$word in file:*/status) echo 7 >"\${word#file:}" ;; esac
done
END
chmod +x "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH
out=$("$scripts/testhost" true </dev/null)
is "the command's status is the test host's" $? 7
is "... and its output" "$(tr -d '\n' <<<"$out")" "no terminal"
out=$(script -qec "'$scripts/testhost' true" /dev/null </dev/null)
like "on a terminal it is the command's" "$out" '^a terminal'
out=$(script -qec "'$scripts/testhost' true | cat" /dev/null </dev/null)
like "... but not if the output goes elsewhere: Ctrl-C shall work" "$out" '^no terminal'
touch "$tmp/stay"
spawn setsid "$scripts/testhost" true </dev/null >"$tmp/out" 2>&1
check "it runs" wait_for 60 test -s "$tmp/qemu.pid"
check "half a line is passed on: it may be a prompt" wait_for 20 grep -q '^prompt> $' "$tmp/out"
kill -TERM "$pid"
wait_exit 10 "$pid"
is "SIGTERM to the script alone ends it" "$status" 143
check "... QEMU too" wait_for 10 gone "$(cat "$tmp/qemu.pid")"
is "... and leaves no files" "$(ls "$tmp/work")" ""

# Both say nothing. Of the one that can't run, as a signal has stopped it, that tells nothing.
rm "$tmp/qemu.pid"
spawn setsid "$scripts/testhost" --silence 2 true </dev/null >"$tmp/out" 2>&1
first=$pid
wait_for 60 test -s "$tmp/qemu.pid"
qemu=$(cat "$tmp/qemu.pid")
kill -STOP "$qemu"
out=$("$scripts/testhost" --silence 5 true </dev/null 2>&1)
is "a host that is silent for too long: status" $? 125
like "... it is said" "$out" 'the test host has stopped: no heart-beat for 5 s'
is "... after it was nudged" "$(cat "$tmp/monitor")" "sendkey shift"
like "... and whether QEMU computed" "$out" 'QEMU computed for 0 s'
check "one whose QEMU is stopped is waited for" kill -0 "$first"
kill -CONT "$qemu"
wait_exit 60 "$first"
is "... until it goes on" "$status" 125
