#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The bare guest sends back what comes through a tap while net-server is killed: what is lost and what comes twice at native
# speed, cold and with a warm spare. Then the link goes down and up, and the tap goes away. BULKHEAD_LONG=1 kills a hundred times each.
. "${top_srcdir:?}/tests/support/tap.sh"
[ -z "${BULKHEAD_QUICK-}" ] || skip_all "storms are left out of this run (BULKHEAD_QUICK)"
[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "/dev/kvm is not there or may not be opened"
[ -c /dev/net/tun ] || skip_all "there is no /dev/net/tun"
command -v ip >/dev/null || skip_all "iproute2 is not installed"
if [ -z "${NET_BARE_INSIDE-}" ]; then
	unshare -nm true 2>/dev/null || skip_all "no network namespace may be made here"
	tap_done=1
	rm -rf "$tmp"
	NET_BARE_INSIDE=1 exec unshare -nm --propagation private bash "$0"
fi
mount -t sysfs sys /sys
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/net-server
bulkhead=$top_builddir/supervisor/bulkhead
timeout 60 "$bulkhead" --version >/dev/null || skip_all "bulkhead does not start"
evidence "$tmp/log" "$tmp/out" "$tmp/load"
kills=10
[ -z "${BULKHEAD_LONG-}" ] || kills=100
mkfifo "$tmp/never"
exec {never}<>"$tmp/never"

guest_says() { tr -d '\r' <"$tmp/out" | grep -qx "$1"; }
# The process that serves net0, in $serving; another one than $1.
successor() {
	[[ $("$bulkhead" ctl bare status --run-dir "$tmp/run" --json | tr -d '\n ') =~ \"id\":\"net0\",\"process\":\"net-server\",\"state\":\"up\",\"pid\":([1-9][0-9]*) ]] &&
		serving=${BASH_REMATCH[1]} && [ "$serving" != "$1" ]
}
start() {
	rm -f "$tmp/in"
	mkfifo "$tmp/in"
	exec {in}<>"$tmp/in"
	: >"$tmp/out"
	mkdir -p "$tmp/crash"
	spawn "$bulkhead" run --name bare --run-dir "$tmp/run" --kernel "$top_builddir/tests/guest/payload.elf" \
		--append net-echo --memory 64M --test-devices --crash-dir "$tmp/crash" --console stdio \
		--net "tap=tap0,mac=02:00:00:00:00:02,restarts=1000/1,$1" <"$tmp/in" >"$tmp/out" 2>"$tmp/log"
	vm=$pid
	wait_for 20 guest_says '!ready'
	ip link set tap0 up txqueuelen 10000
}
finish() {
	printf q >&"$in"
	wait_exit 30 "$vm"
	is "$1: the guest ends the machine, content" "$status" 33
	exec {in}>&-
	show_evidence
}
number() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$tmp/load"; }

# storm SPARE: 20000 frames a second, of which a tap holds half a second's worth while nobody reads it.
storm() {
	local what=spare=$1 n=0 lost twice
	start "spare=$1"
	check "$what: the guest starts" guest_says '!ready'
	spawn "$top_builddir/tests/guest/tap-load" --interface tap0 --echo --rate 20000 --seconds 3600 >"$tmp/load"
	load=$pid
	while [ $n -lt $kills ]; do
		wait_for 20 successor none || break
		read -rt "0.$((RANDOM % 4))$((RANDOM % 10))" -u "$never" || :
		old=$serving
		kill -KILL "$old" && wait_for 20 successor "$old" || break
		n=$((n + 1))
	done
	is "$what: net-server was killed and came back $kills times" "$n" "$kills"
	check "$what: ... with frames under way to the last kill" kill -TERM "$load"
	wait_exit 60 "$load"
	is "$what: frames went in and came back to the end" "$status" 0
	lost=$(number lost) twice=$(number twice)
	diag "$what: of $(number sent) frames $lost were lost, $twice came twice: $(awk -v l="$lost" -v t="$twice" -v k="$n" \
		'BEGIN { k = k ? k : 1; printf "%.2f and %.2f a kill", l / k, t / k }'); the slowest took $(number max_us) us"
	# What was under way in the rings at a kill, which have 256 places each, is all that may be lost or repeated.
	check "$what: no more is lost than was in the rings" test "${lost:-999999}" -le $((kills * 512))
	check "$what: no more comes twice than was in the rings" test "${twice:-999999}" -le $((kills * 512))
}

storm off
finish spare=off
storm on
"$bulkhead" ctl bare --run-dir "$tmp/run" set net0 link=down >/dev/null
check "link: the guest sees it go down" wait_for 10 guest_says '!link down'
"$bulkhead" ctl bare --run-dir "$tmp/run" set net0 link=up >/dev/null
check "link: ... and up" wait_for 10 guest_says '!link up'
"$top_builddir/tests/guest/tap-load" --interface tap0 --echo --rate 1000 --seconds 1 >"$tmp/load" 2>&1
is "link: frames pass again, none is lost" "$(number lost)" 0

# ---- 60: the tap goes away ----
bare() { "$bulkhead" ctl bare --run-dir "$tmp/run" "$@"; }
net0_has() { bare status | grep -q "^  net0 .*$1"; }
downs() { [ "$(tr -d '\r' <"$tmp/out" | grep -cx '!link down')" -eq "$1" ]; }
# Each pause is told to who hears.
stir() { bare pause >/dev/null && bare resume >/dev/null && [ -s "$tmp/events" ]; }
spawn "$bulkhead" events --run-dir "$tmp/run" bare >"$tmp/events"
wait_for 20 stir || not_ok "events are heard"
wait_for 20 net0_has 'spare ready' || not_ok "there is a spare"
ip link del tap0
check "gone: the guest sees the link go down" wait_for 10 downs 2
check "gone: status has it" wait_for 10 net0_has 'link gone'
check "gone: an event tells" wait_for 10 grep -q ' net0 link-lost: tap0 is gone$' "$tmp/events"
out=$(bare set net0 link=up 2>&1)
is "gone: it can't be set up: exit 1" $? 1
like "gone: ... which says why" "$out" 'tap0 is gone'
is "gone: the log has a line of the tap by its name" "$(grep -c 'tap0 is gone; the link is down' "$tmp/log")" 1
for by in spare "its next spare"; do
	successor none
	old=$serving
	kill -KILL "$old"
	check "gone: $by takes over" wait_for 20 successor "$old"
	check "gone: ... with the link as it was" net0_has 'link gone'
	check "gone: ... and has a spare in turn" wait_for 20 net0_has 'spare ready'
done
# The first spare was there before.
is "gone: ... as each of them says it once" "$(grep -c ': tap0 is gone; the link is down' "$tmp/log") $(grep -c ': the tap is gone; the link is down' "$tmp/log")" "2 2"
is "gone: no process ended of it" "$(grep -cE 'its spare ended|bad state' "$tmp/log")" 0
is "gone: it is an event once" "$(grep -c link-lost "$tmp/events")" 1
finish spare=on
