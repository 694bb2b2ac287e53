#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# blk-server is replaced by other programs, given up and revived, under a guest that writes and verifies at native speed:
# live upgrade, an upgrade that is taken back, an outage. BULKHEAD_LONG=1 makes the outage last an hour.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
upgrades=5 outage=3
[ -z "${BULKHEAD_LONG-}" ] || { upgrades=100 outage=3600; }
mkdir "$tmp/new"
cp "$top_builddir/blk-server/blk-server" "$tmp/new/blk-server"
chmod 755 "$tmp/new/blk-server"
truncate -s 16M "$tmp/disk.img"
ctl() { "$bulkhead" ctl storm "$@" --run-dir "$tmp/run"; }
runs_program() { storm_serving && tr '\0' '\n' <"/proc/$storm_pid/cmdline" | head -1 | grep -qx "$1"; }
is_failed() { [[ $(storm_status) =~ \"state\":\"failed\" ]]; }
went_on() { is_failed || storm_successor "$old"; }

storm_start storm --disk "path=$tmp/disk.img,restarts=3/60" || not_ok "the guest starts"

# ---- upgrades ----
program=$tmp/new/blk-server other=$top_builddir/blk-server/blk-server
n=0
while [ $n -lt $upgrades ]; do
	storm_say k || break
	pause_at_most 20
	ctl upgrade disk0 --exec "$program" >>"$tmp/upgraded" 2>&1 || break
	wait_for 5 runs_program "$program" || break
	read -r program other <<<"$other $program"
	n=$((n + 1))
done
is "upgraded under load $upgrades times" "$n" "$upgrades"
[ "$n" = "$upgrades" ] || diag "$(cat "$tmp/upgraded")"
sed -n 's/.*waited for \([0-9.]*\) ms/\1/p' "$tmp/upgraded" | awk '{ printf "%d\n", $1 * 1000 }' >"$tmp/waits"
check "each tells how long requests waited" test "$(wc -l <"$tmp/waits")" -eq "$n"

# ---- one that does not come up, and one that dies soon ----
cp /bin/true "$tmp/new/true"
out=$(ctl upgrade disk0 --exec "$tmp/new/true" 2>&1)
is "a program that is no server is refused" $? 1
check "... the old one serves" wait_for 5 runs_program "$other"
storm_say k
ctl upgrade disk0 --exec "$program" >"$tmp/taken-back" 2>&1 &
asked=$!
wait_for 20 runs_program "$program" && kill -KILL "$storm_pid"
wait "$asked"
is "a new program that dies soon: the upgrade failed" $? 1
like "... and says so" "$(cat "$tmp/taken-back")" 'the new process died of signal 9'
check "... the old one serves again" wait_for 5 runs_program "$other"
storm_say n

# ---- an outage ----
check "a spare is there" wait_for 20 storm_has_spare
for i in 1 2 3 4 5; do
	wait_for 20 storm_serving || break
	old=$storm_pid
	kill -KILL "$old"
	wait_for 20 went_on
	is_failed && break
done
check "killed too often it is given up" is_failed
end=$((SECONDS + outage))
over() { [ $SECONDS -ge $end ]; }
wait_for $((outage + 10)) over
check "it is revived after $outage s" ctl revive disk0
check "... and serves" storm_serving
storm_say n
storm_end
sed -n 's/^stall //p' "$tmp/said" >"$tmp/stalls"
diag "waits of upgrades in us, as the supervisor sees them: $(figures "$tmp/waits")" \
	"stalls in us, as the guest sees them: $(figures "$tmp/stalls")"
