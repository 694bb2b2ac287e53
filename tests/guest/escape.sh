#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Somebody has taken over each of a machine's processes and tries to get out (taken/taken.h): the real programs, started by the
# real supervisor with what they always have, which at each stage of their confinement try some 250 things that must not be
# possible. And the guest runs on.
. "${top_srcdir:?}/tests/support/tap.sh"
. "$top_srcdir/tests/guest/storm.bash"
guest=$top_builddir/tests/guest
grep -q '^#define BH_SANITIZE' "$top_builddir/config.h" && skip_all "the sandbox allows no sanitizers"
command -v jq >/dev/null || skip_all "jq is not installed"
bin=$tmp/bin
mkdir -m 755 "$bin"
for program in blk-server window net-server net-user nbd-dial vmm-core; do
	ln -s "$guest/taken-$program" "$bin/$program"
done
export BULKHEAD_PATH=$bin
lure=bulkhead-escape-$$
spawn "$guest/taken-page" lure "$lure" "$tmp/lure.sock" >"$tmp/lure"
wait_for 10 grep -q '^port ' "$tmp/lure"
port=$(sed -n 's/^port //p' "$tmp/lure")

# take PROGRAM.ID STAGES NEIGHBOUR: the process of that name is taken over, and another device has that id.
take() {
	"$guest/taken-page" make "$bin/$1.page" "$2" $$ "$port" "$lure" "$tmp/lure.sock" "$tmp/run/storm/$3/bus" "$tmp/disk0.img"
	taken+=("$1")
}
# tried PROGRAM.ID STAGE: it is through with that.
tried() { [[ " $("$guest/taken-page" stages "$bin/$1.page") " == *" $2 "* ]]; }
taken=() blocked=0 tries=0
# judge PROGRAM.ID: its results are ours.
judge() {
	"$guest/taken-page" report "$bin/$1.page" "${1/./ }" >"$tmp/report"
	relay "$tmp/report"
	read -r b n < <(sed -n 's,^# blocked \([0-9]*\) / \([0-9]*\)$,\1 \2,p' "$tmp/report")
	blocked=$((blocked + b)) tries=$((tries + n))
}
# began_with PROGRAM.ID WHAT...: descriptors 3, 4, ... and no other, after the three that all have.
began_with() {
	local name=$1 fd=2 want="0 /dev/null 1 /dev/null 2 pipe" what
	shift
	for what; do want+=" $((++fd)) $what"; done
	is "${name/./ } began with what it needs, and nothing else" \
		"$("$guest/taken-page" fds "$bin/$name.page" | sed 's/:\[.*//; s/ (deleted)//' | tr '\n' ' ')" "$want "
}
# has_only PID TEXT REGEX [MEMORY]: all that it has open by now; and what it shares with others by mapping it is memory without a
# name: a server's own, and what of the guest it is given, or MEMORY in its place.
has_only() {
	local left
	left=$(find "/proc/$1/fd" -lname '*' -printf '%l\n' | sed 's/^\(socket\|pipe\):.*/\1/' | grep -vxE "/dev/null|socket|pipe|anon_inode:\[(eventfd|eventpoll)\]$3" | sort -u)
	is "$2 has nothing else open while it serves" "$left" ""
	left=$(sed -n 's/^[^ ]* ...s [^/]*//p' "/proc/$1/maps" | grep -vxE "(/memfd:(flight|state|${4-guest-ram|inflight})|/\[aio\]|/dev/zero) \(deleted\)|$bin/.*\.page" | sort -u)
	is "... and shares no other memory" "$left" ""
}

# ---- every process, at every stage ----
truncate -s 16M "$tmp"/disk{0,1,2,3}.img
servers=anchor,one,steady,thread,serves
disks=(--disk "path=$tmp/disk0.img")
take blk-server.disk0 $servers net0
if [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" = 0 ]; then
	disks+=(--disk "path=$tmp/disk1.img,engine=io_uring")
	take blk-server.disk1 $servers disk0
fi
if command -v nbdkit >/dev/null; then
	spawn nbdkit --foreground --unix "$tmp/nbd" file "$tmp/disk2.img"
	wait_for 10 test -S "$tmp/nbd"
	chmod 777 "$tmp/nbd"
	disks+=(--disk "id=nbd0,nbd=nbd+unix:///?socket=$tmp/nbd")
	take blk-server.nbd0 $servers disk0
	take nbd-dial.nbd0 one,steady,serves disk0
fi
disks+=(--disk "id=disk3,path=$tmp/disk3.img,memory=window")
take blk-server.disk3 $servers disk0
take window.disk3 one,steady,thread,serves disk0
take net-server.net0 $servers disk0
take net-user.net0 one,steady,thread,serves disk0
take vmm-core.core one,steady,thread,serves disk0
storm_start storm "${disks[@]}" --net user
check "the guest runs while all of its processes are taken over" storm_say n
for name in "${taken[@]}"; do
	check "${name/./ } is through with its attempts" wait_for 20 tried "$name" serves
	judge "$name"
	case $name in
	blk-server.nbd0) began_with "$name" socket /memfd:state /memfd:flight socket socket ;;
	blk-server.*) began_with "$name" "$tmp/${name#*.}.img" /memfd:state /memfd:flight socket socket ;;
	window.*) began_with "$name" /memfd:flight socket socket ;;
	net-server.*) began_with "$name" socket /memfd:flight /memfd:state socket socket ;;
	vmm-core.*) began_with "$name" /dev/kvm "$guest/payload.elf" /memfd:flight socket socket ;;
	*) began_with "$name" socket /memfd:flight ;;
	esac
done
if [ "$(id -u)" -eq 0 ]; then
	pid_of() { storm_status | jq -r ".devices[] | select(.id == \"$1\") | .pid"; }
	has_only "$(pid_of disk0)" "blk-server" "|$tmp/disk0.img"
	has_only "$(pid_of net0)" "net-server" ""
	has_only "$(pid_of disk3)" "blk-server behind a window" "|$tmp/disk3.img" 'window|window-inflight'
	has_only "$(storm_status | jq -r '.devices[] | select(.id == "disk3") | .window.pid')" "window" \
		'|/memfd:window(-inflight)? \(deleted\)' 'guest-ram|inflight|window|window-inflight'
else
	skip "what servers have open while they serve" "not root's, who alone may look"
fi
storm_say n
storm_end
is "nobody reached the host's listeners" "$(grep -v '^port' "$tmp/lure" | grep -v loopback)" ""
diag "escape probes blocked $blocked / $tries"

# ---- one of them attacks the core, and the host ----
# The guest's disk is another one's; that of the attacker is disk1.
page=$bin/blk-server.disk1.page
ctl=$tmp/run/storm/ctl
pid_of() { storm_status | jq -r ".devices[] | select(.id == \"$1\") | .pid"; }
is_up() { [ "$(storm_status | jq -r ".devices[] | select(.id == \"$1\") | .state")" = up ]; }
worst=0
# A processor that somebody else has is not what is measured: who attacks has one with the guest, who is attacked and who
# asks have another. Only root may place others.
apart=() own= attackers=
if [ "$(id -u)" -eq 0 ] && command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
	mapfile -t cpus < <(taskset -cp $$ | sed 's/.*: //; s/,/\n/g' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done)
	own=${cpus[0]} attackers=${cpus[1]}
	apart=(taskset -c "$own")
fi
# place CPU PID [NAMES]: its threads run there, those of such names, and whoever they start.
place() {
	local task
	for task in "/proc/$2/task"/*; do
		[[ $(cat "$task/comm") != ${3-*} ]] || taskset -cp "$1" "${task##*/}" >/dev/null || return 1
	done
}
set_apart() {
	local core
	core=$(storm_status | jq -r .core.pid)
	place "$own" "$storm_vm" && place "$own" "$core" && place "$attackers" "$core" 'vcpu*'
}
# asked MS: for so long the core is asked, and answers; the longest time is in $took, in us.
asked() { read -r took answers < <("${apart[@]}" "$guest/taken-page" ask "$ctl" "$1") && [ "${answers:-0}" -gt 0 ]; }
# attacker: the process of disk1 is one more that was taken over, and serves. One that was just started is none.
attacker() {
	local i old
	for i in 1 2 3 4 5; do
		wait_for 20 is_up disk1 || return 1
		take blk-server.disk1 "" disk0
		old=$(pid_of disk1)
		[ "${old:-0}" -gt 0 ] && kill -KILL "$old"
		wait_for 2 "$guest/taken-page" serves "$page" && wait_for 20 is_up disk1 && return 0
	done
	return 1
}
# attack NAME TEXT
attack() {
	check "$2: there is an attacker" attacker
	[ -z "$attackers" ] || place "$attackers" "$(pid_of disk1)" || not_ok "... on a processor that may be its"
	"$guest/taken-page" attack "$page" "$1" 400
	if asked 300; then ok "... and the core answers"; else not_ok "... and the core answers"; fi
	diag "$1: an answer took at most ${took:-?} us (${answers:-0} answers)"
	[ "${took:-0}" -le $worst ] || worst=$took
	check "... and the guest runs on" storm_say n
}
truncate -s 0 "$tmp/disk0.img" && truncate -s 16M "$tmp/disk0.img"
rm -f "$bin"/*.page
storm_start storm --disk "path=$tmp/disk0.img" --disk "path=$tmp/disk1.img,spare=off" || not_ok "the guest starts"
[ -z "$attackers" ] || check "who attacks is kept from the others' processor" set_apart
asked 300
diag "without an attack an answer took at most $took us ($answers answers)"
attack connections "fault 38: connections to the bus without end"
attack events "fault 38: messages on the bus without end"
attack requests "fault 38: requests to the core without end"
attack replies "fault 47: replies that nobody asked for"
attack endless "fault 35: a message of 4 GiB"
attack half "fault 35: half a message, then silence"
attack descriptors "fault 37: descriptors that nobody asked for, of types that are wrong (36)"
attack eventfds "fault 46: eventfds that are full"
attack lines "log lines without end"
attack spin "fault 43: spinning"
attack processes "fault 44: a fork bomb"
attack hoard "fault 45: descriptors until there are no more"
attack memory "memory"
worst=$(((worst + 999) / 1000))
if [ -z "$attackers" ]; then
	diag "an answer took at most $worst ms"
	skip "how long the core is blocked" "it takes root, taskset and two processors to tell it from a wait for a processor"
else
	diag "core blocked at most $worst ms"
fi
# Whoever else is on the machine has his share of each processor: this is no figure.
check "the core was never blocked for long" test "$worst" -lt 2000

# ---- one of them does not want to end ----
# survivors: processes of the machine's, or with an attacker's memory (which only root may see), and no others.
survivors() {
	{
		pgrep -f "$tmp/run/"
		grep -l "$bin/" /proc/[0-9]*/maps 2>"$tmp/grep" | sed 's,/proc/\([0-9]*\)/.*,\1,'
	} | sort -u | wc -l
}
replaced() { is_up disk1 && [ "$(pid_of disk1)" != "$1" ]; }
for how in cling anchor; do
	check "killed, it tries to live on ($how): there is one" attacker
	old=$(pid_of disk1)
	"$guest/taken-page" attack "$page" $how 600000
	begun() { [ "$(awk '{ print $14 }' "/proc/$old/stat")" -gt 20 ]; }
	check "... which is at it" wait_for 10 begun
	kill -KILL "$old"
	check "... it is replaced" wait_for 20 replaced "$old"
	check "... and gone" wait_for 10 gone "$old"
done
check "told to end, it does not: there is one" attacker
"$guest/taken-page" attack "$page" cling 600000
storm_say n
"$bulkhead" ctl storm quit --run-dir "$tmp/run"
check "... the machine ends" wait_exit 60 "$storm_vm"
exec {storm_in}>&- {storm_out}<&-
diag "survivors after the kill: $(survivors)"
is "... nothing of it is left" "$(survivors)" 0
