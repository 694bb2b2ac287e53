#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Taps under `bulkhead run`, with stand-ins: made, brought up, put into a bridge; what was made goes, what was there stays;
# each refusal is one line. All in a network namespace of this test's own.
if [ -z "${BULKHEAD_TAP_NS-}" ] && unshare -n true 2>/dev/null; then
	BULKHEAD_TAP_NS=1 exec unshare -n "$0" "$@"
fi
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
[ -n "${BULKHEAD_TAP_NS-}" ] || skip_all "no network namespace can be made (not root)"
[ -c /dev/net/tun ] && { : <>/dev/net/tun; } 2>/dev/null || skip_all "there is no /dev/net/tun that can be opened"
command -v ip >/dev/null || skip_all "ip (iproute2) is not installed"
make_machine

words() { tr '\0' ' ' <"/proc/$1/cmdline"; }
link() { ip -o link show "$1" 2>&1; }
gone_link() { ! ip link show "$1" >/dev/null 2>&1; }
all_links() { ip -o link | awk -F'[ :@]+' '{ print $2 }' | sort | tr '\n' ' '; }
# The queues of a tap that a process has open.
taps_of() { grep -l "iff:.*$2" "/proc/$1/fdinfo"/* 2>/dev/null | wc -l; }
up_after() { [ "$(device m net0 restarts)" -ge "$1" ] && [ "$(device m net0 state)" = up ]; }
spare_is() { [ "$(device m net0 spare)" = "$1" ]; }
before=$(all_links)

refused() {
	local text=$1 regex=$2 out code
	shift 2
	out=$(soon "$bulkhead" run --run-dir "$tmp/refused" --name t --kernel "$tmp/kernel" "$@" 2>&1 </dev/null)
	code=$?
	if [ $code -eq 2 ] && [ "$(wc -l <<<"$out")" -eq 1 ] && [[ $out =~ ^bulkhead:\ --net:\ .*$regex ]] && [ ! -e "$tmp/refused" ]; then
		ok "$text"
	else
		not_ok "$text" "exit $code, output:" "$out" "want: $regex"
	fi
	rm -rf "$tmp/refused"
}

# ---- one that is made ----
ip link add br0 type bridge
start m --net tap=bt0,bridge=br0
wait_running m
check "a bridge that is down: the log warns of it" logged m '^bulkhead: net0: its bridge, br0, is down'
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
ip link set br0 up
start m --net tap=bt0,bridge=br0,queues=3,mtu=1400
wait_running m
unlike "... of one that is up it does not" "$(<"$tmp/m.err")" "its bridge"
like "status says what the port is" "$(ctl m status)" ' net0 +net-server +up .*, tap bt0 in br0, [0-9a-f:]{17}'
server=$(device m net0 pid)
like "a tap is made, up, in its bridge, with its MTU" "$(link bt0)" '<[^>]*UP[^>]*> mtu 1400 .* master br0 '
is "the server has its queues" "$(taps_of "$server" bt0)" 3
is "... the supervisor has none of them, which could outlive the machine's name" "$(taps_of "$pid" bt0)" 0
like "... is told of them and of the MTU" "$(words "$server")" '--tap-fd 3,4,5 --flight-fd 6 --state-fd 7 --vhost-fd 8 --anchor-fd 9 --mac [0-9a-f:]+ --mtu 1400 --queues 3 '
check "... and has no network itself" test "$(readlink "/proc/$server/ns/net")" != "$(readlink /proc/self/ns/net)"
is "there is no net-user" "$(status_of m | jq '.devices[0].helper')" null
wait_for 10 spare_is ready
slay "$server"
check "a successor takes over" wait_for 10 up_after 1
is "... with the same queues" "$(taps_of "$(device m net0 pid)" bt0)" 3
refused "a tap in use" 'tap="bt0" is in use by another process' --net tap=bt0,queues=3
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
check "the tap is gone with the machine" gone_link bt0
is "... and nothing is left in the bridge" "$(ip -o link show master br0)" ""

start m --net tap=bt0,bridge=br0
wait_running m
kill -KILL "$pid"
wait_exit 10 "$pid"
check "a dead supervisor leaves no tap" wait_for 10 gone_link bt0
gone_dir() { [ ! -e "$run_dir/m" ]; }
check "... nor a directory" wait_for 10 gone_dir
clean_after m "... nor a process"

start m --net tap=bt0,bridge=br0 --on-supervisor-death keep
wait_running m
kill -KILL "$pid"
alone() { [ "$("$bulkhead" ps --run-dir "$run_dir" --json | jq -r '.[] | select(.name == "m") | .state')" = alone ]; }
check "a kept machine outlives its supervisor" wait_for 10 alone
like "... with its tap" "$(link bt0)" 'master br0 '
spawn "$bulkhead" adopt --run-dir "$run_dir" --log-level debug m </dev/null >>"$tmp/m.out" 2>>"$tmp/m.err"
wait_running m
slay "$(device m net0 pid)"
check "... taken over, a successor has it, too" wait_for 10 up_after 1
is "... the same queue" "$(taps_of "$(device m net0 pid)" bt0)" 1
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
check "... and the tap is gone" gone_link bt0

refused "a start that fails leaves no tap" 'id="net1": bridge="nobridge": there is no such interface' \
	--net tap=bt0,bridge=br0 --net tap=bt1,bridge=nobridge
is "... not one" "$(all_links)" "br0 $before"
script net0 exit=2
start m --net tap=bt0,bridge=br0
ends_with "nor does one whose server refuses it" 2 "$pid" m
is "... not one" "$(all_links)" "br0 $before"
rm "$bin/net0.do"

# ---- one that was there ----
ip tuntap add dev keep0 mode tap
start m --net tap=keep0,bridge=br0
wait_running m
like "a tap that was there is used" "$(link keep0)" '<[^>]*UP[^>]*> mtu 1500 .* master br0 '
like "... with the MTU that it has" "$(words "$(device m net0 pid)")" '--mtu 1500 '
ip tuntap add dev keep1 mode tap
out=$(soon "$bulkhead" run --run-dir "$run_dir" --name m --kernel "$tmp/kernel" --net tap=keep1,bridge=br0,mtu=1400 2>&1 </dev/null)
is "a machine whose name is in use: exit 2" $? 2
like "... it is that" "$out" '--name: "m" is running already'
like "... and its tap is as it was" "$(link keep1)" ' mtu 1500 .* state DOWN '
unlike "... and where it was" "$(link keep1)" master
ip link del keep1
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
like "... it stays" "$(link keep0)" 'keep0'
unlike "... but not in the bridge, where it was put" "$(link keep0)" master
ip link set keep0 master br0
start m --net tap=keep0,bridge=br0
wait_running m
kill -KILL "$pid"
wait_exit 10 "$pid"
wait_for 10 gone_dir
like "one that was in the bridge stays there" "$(link keep0)" 'master br0 '
ip link set keep0 nomaster
refused "... nor is it left in one by a start that fails" 'nobridge' --net tap=keep0,bridge=br0 --net tap=bt1,bridge=nobridge
unlike "..." "$(link keep0)" master
refused "several queues of one that was made for one" 'tap="keep0" is no tap, or one without queues=2; make it with multi_queue' \
	--net tap=keep0,queues=2
ip tuntap add dev many0 mode tap multi_queue
# The kernel would let a second process have more queues of it.
spawn "${top_builddir:?}/net-server/net-server" --sandbox off --socket "$tmp/socket" --tap many0 --queues 2 2>"$tmp/other.err"
other=$pid
wait_for 10 test -S "$tmp/socket"
is "another program has queues of one that was made for several" "$(taps_of "$(pgrep -P "$other")" many0)" 2
refused "... then a machine has none, be it one" 'tap="many0" is in use by another process' --net tap=many0
refused "... or several" 'tap="many0" is in use by another process' --net tap=many0,queues=2
kill "$other"
wait_exit 10 "$other"
# A stranger can't keep one away by a name.
spawn setpriv --reuid 65534 --clear-groups perl -MSocket -e \
	'socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, pack_sockaddr_un("\0bulkhead-tap-many0")) or die; sleep'
check "a stranger has taken a name" wait_for 10 grep -q "@bulkhead-tap-many0" /proc/net/unix
start m --net tap=many0
wait_running m
is "one that was made for several serves one pair" "$(taps_of "$(device m net0 pid)" many0)" 1
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m

# ---- one that goes away, which its servers tell ----
link_is() { [ "$(device m net0 link)" = "$1" ]; }
mkfifo "$bin/net1.ctl"
chmod 666 "$bin/net1.ctl"
start m --net tap=bt0 --net user,id=net1 --on-supervisor-death keep
wait_running m
machine=$pid
spawn "$bulkhead" events --run-dir "$run_dir" m >"$tmp/events"
stir() { ctl m pause && ctl m resume && [ -s "$tmp/events" ]; }
wait_for 20 stir || not_ok "events are heard"
wait_for 10 spare_is ready
tell net0.spare io-error $'bt0 is \xff gone'
check "of a tap that is gone a spare tells as well: status has it" wait_for 10 link_is gone
like "... in words, too" "$(ctl m status)" ' net0 +net-server +up .*, link gone'
check "... an event tells" wait_for 10 grep -q ' net0 link-lost: bt0 is ? gone$' "$tmp/events"
is "... the machine runs on, and stands for nothing" "$(ctl --json m status | jq -r '.state, .stands_for' | xargs)" "running null"
slay "$(device m net0 pid)"
check "a successor takes over" wait_for 10 up_after 1
tell net0 io-error "the tap is gone"
tell net1 io-error "no tap is gone"
check "a port without a tap has none to lose" wait_for 10 logged m 'net1: speaks of an I/O error, which it is not to: no tap is gone'
is "... nor is its link gone" "$(device m net1 link)" up
check "... and no second event" test "$(grep -c link-lost "$tmp/events")" -eq 1
kill -KILL "$machine"
check "the supervisor dies" wait_for 10 alone
spawn "$bulkhead" adopt --run-dir "$run_dir" --log-level debug m </dev/null >>"$tmp/m.out" 2>>"$tmp/m.err"
wait_running m
is "the next one knows of it" "$(device m net0 link)" gone
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m

# ---- refusals ----
refused "an interface of another kind" 'tap="br0" is an interface of another kind' --net tap=br0
refused "a bridge that is none" 'bridge="keep0" is no bridge that takes a tap' --net tap=bt0,bridge=keep0
ip link add br1 type bridge
ip link set keep0 master br1
refused "a port of another bridge" 'bridge="br0": keep0 is a port of another bridge' --net tap=keep0,bridge=br0
like "... where it stays" "$(link keep0)" 'master br1 '
if ! setpriv --reuid 65534 --clear-groups test -w /dev/kvm; then
	skip "without privileges" "other users may not use /dev/kvm"
else
	cp "$bulkhead" "$tmp/bulkhead" && chmod 755 "$tmp/bulkhead" && chmod 644 "$tmp/kernel"
	chmod 755 "$bin"
	out=$(setpriv --reuid 65534 --regid 65534 --clear-groups timeout 60 "$tmp/bulkhead" run --run-dir /tmp/no-run-dir-here --kernel "$tmp/kernel" --net tap=bt0 2>&1 </dev/null)
	is "without privileges: exit 2" $? 2
	like "... the line tells what root can do" "$out" '^bulkhead: --net: id="net0": tap="bt0": (not allowed; root can make it|there is no)'
fi
