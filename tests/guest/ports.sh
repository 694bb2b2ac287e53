#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Network ports of the bare guest on this machine's own /dev/kvm, with the real programs and no privileges: two machines
# linked by a stream, and one in user mode; each process killed under traffic; link and limits changed meanwhile.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "/dev/kvm is not there or may not be opened"
grep -q '^#define BH_SANITIZE' "${top_builddir:?}/config.h" && skip_all "the sandbox allows no sanitizers"
command -v jq >/dev/null || skip_all "jq is not installed"
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/net-server:$top_builddir/net-user
bulkhead=$top_builddir/supervisor/bulkhead
evidence "$tmp/one.out" "$tmp/one.err" "$tmp/two.out" "$tmp/two.err"

# start NAME WORDS OPTION...: a machine whose guest does what WORDS say until it is told to quit.
start() {
	spawn "$bulkhead" run --name "$1" --run-dir "$tmp/run" --crash-dir "$tmp/crash" --kernel "$top_builddir/tests/guest/payload.elf" \
		--append "$2 seconds=600" --memory 64M --test-devices "${@:3}" </dev/null >"$tmp/$1.out" 2>"$tmp/$1.err"
}
ctl() { "$bulkhead" ctl --run-dir "$tmp/run" "$@"; }
status() { ctl --json "$1" status | jq -r ".devices[0].$2"; }
counter() { ctl --json "$1" stats "$2" | jq -r ".$3"; }
is_ready() { grep -q '^!ready' "$tmp/$1.out"; }
# grows NAME PROCESS COUNTER: more than it was at the first look, of the same process.
grows() {
	local first
	first=$(counter "$@") || return 1
	[ -n "$first" ] && wait_for 1 more_than "$first" "$@"
}
more_than() { local now; now=$(counter "${@:2}") && [ "$now" -gt "$1" ]; }
restarted() { [ "$(status "$1" restarts)" -ge "$2" ] && [ "$(status "$1" state)" = up ]; }
slay() { [[ ${1-} =~ ^[1-9][0-9]*$ ]] && kill -KILL "$1"; }

# ---- two machines ----
start one net-rx --net "listen=$tmp/link"
one=$pid
check "a machine listens for another" wait_for 30 is_ready one
start two net-tx --net "stream=$tmp/link"
two=$pid
check "the other one connects" wait_for 30 is_ready two
check "frames arrive" wait_for 10 grows one net0 rx_packets
slay "$(status one pid)"
check "the receiver's server is replaced" wait_for 20 restarted one 1
check "... the sender's, too, whose connection that was" wait_for 20 restarted two 1
check "... frames arrive again" wait_for 20 grows one net0 rx_packets
n=$(status two restarts)
slay "$(status two pid)"
check "the sender's server is replaced" wait_for 20 restarted two $((n + 1))
check "... frames arrive again" wait_for 20 grows one net0 rx_packets
downs() { grep -c '^!link down' "$tmp/two.out"; }
n=$(downs)
check "link=down" ctl two set net0 link=down
more_downs() { [ "$(downs)" -gt "$n" ]; }
check "... the guest sees it" wait_for 10 more_downs
check "link=up" ctl two set net0 link=up
check "... frames arrive again" wait_for 20 grows one net0 rx_packets
out=$(ctl two set net0 color=red 2>&1)
like "a property that a port does not have" "$out" 'has no color'
out=$(ctl two set net0 tx-packets=fast 2>&1)
like "a limit that is none" "$out" 'must be a rate'
ctl two quit
ctl one quit
wait_exit 20 "$two"
is "both end" "$status" 0
wait_exit 20 "$one"
is "..." "$status" 0
check "the socket is gone" test ! -e "$tmp/link"

# ---- user mode ----
start one net-tx --net user,tx-packets=20000/1000
one=$pid
check "a machine in user mode" wait_for 30 is_ready one
check "frames come to net-user" wait_for 10 grows one net0.user frames_from_guest
helper_back() { [ "$(status one helper.state)" = up ] && [ "$(status one helper.restarts)" -ge 1 ]; }
server=$(status one pid)
slay "$(status one helper.pid)"
check "net-user is replaced" wait_for 20 helper_back
check "... frames come to the new one" wait_for 20 grows one net0.user frames_from_guest
is "... from the same server" "$(status one pid)" "$server"
user=$(status one helper.pid)
slay "$server"
check "the server is replaced" wait_for 20 restarted one 1
check "... frames come from the new one" wait_for 20 grows one net0.user frames_from_guest
is "... to the same net-user" "$(status one helper.pid)" "$user"
check "upgrade of the server" ctl one upgrade net0
check "upgrade of net-user" ctl one upgrade net0.user
check "... frames come" wait_for 20 grows one net0.user frames_from_guest
ctl one quit
wait_exit 20 "$one"
is "it ends" "$status" 0
check "nothing is left" test ! -e "$tmp/run/one"
