# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A machine with the bare guest whose blk-server is killed; sourced by the storm tests, after tap.sh.
#   storm_start WORDS OPTION...   starts the machine and waits until the guest is ready
#   storm_say BYTE                tells the guest, and waits for its answer
#   storm_has_spare               true if a spare of disk0 is ready
#   storm_kill                    kills blk-server of disk0 and waits until its successor serves; 1 if it does not.
#                                 How long the kernel took over the death is added to $tmp/deaths, in us
#   storm_strike                  kills process $storm_pid, which storm_serving found, and sleeps until the supervisor
#                                 logs that its successor completed a request: nothing of ours runs meanwhile
#   storm_end                     tells it 'q' and relays its results; what it said is in $tmp/said
#   pause US / pause_at_most MS   so long; a random time, at most so long
#   figures FILE                  "p50 ... p99 ... max ..." of a file of numbers, one a line
# shellcheck disable=SC2154
export BULKHEAD_PATH=$top_builddir/vmm-core:$top_builddir/blk-server:$top_builddir/window
bulkhead=$top_builddir/supervisor/bulkhead
[ -z "${BULKHEAD_QUICK-}" ] || skip_all "storms are left out of this run (BULKHEAD_QUICK)"
[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "/dev/kvm is not there or may not be opened"
timeout 60 "$bulkhead" --version >/dev/null || skip_all "bulkhead does not start"
# Should process ids come round, as they do in minutes here, bash may wait for ever for a child that it has reaped.
ids=/proc/sys/kernel/pid_max
if [ -n "${BULKHEAD_LONG-}" ] && [ -w $ids ]; then
	at_exit sh -c "echo $(<$ids) >$ids"
	echo 4194304 >$ids
fi
evidence "$tmp/log" "$tmp/said"
mkfifo "$tmp/never"
exec {storm_never}<>"$tmp/never"

pause() {
	local s
	printf -v s '%d.%06d' $(($1 / 1000000)) $(($1 % 1000000))
	read -rt "$s" -u "$storm_never" || :
}

pause_at_most() { pause $(((RANDOM * 32768 + RANDOM) % ($1 * 1000) + 1)); }

storm_status() { "$bulkhead" ctl storm status --run-dir "$tmp/run" --json | tr -d '\n '; }

# The process that serves disk0, if the device is up.
storm_serving() {
	[[ $(storm_status) =~ \"id\":\"disk0\",\"process\":\"blk-server\",\"state\":\"up\",\"pid\":([1-9][0-9]*) ]] &&
		storm_pid=${BASH_REMATCH[1]}
}

storm_has_spare() { [[ $(storm_status) =~ \"spare\":\"ready\" ]]; }

# The guest's lines up to the one wanted.
storm_until() {
	local line
	while IFS= read -rt 300 line <&"$storm_out"; do
		line=${line%$'\r'}
		printf '%s\n' "$line" >>"$tmp/said"
		[ "$line" != "$1" ] || return 0
	done
	return 1
}

storm_start() {
	local words=$1
	shift
	rm -f "$tmp/in" "$tmp/out"
	mkdir -p "$tmp/crash"
	mkfifo "$tmp/in" "$tmp/out"
	: >"$tmp/said"
	"$bulkhead" run --name storm --run-dir "$tmp/run" --kernel "$top_builddir/tests/guest/payload.elf" \
		--append "$words" --memory 64M --test-devices --restarts 1000/1 --crash-dir "$tmp/crash" --console stdio "$@" \
		<"$tmp/in" >"$tmp/out" 2>"$tmp/log" &
	storm_vm=$!
	tap_pids+=("$storm_vm")
	exec {storm_in}>"$tmp/in" {storm_out}<"$tmp/out"
	storm_until '!ready'
}

storm_say() {
	printf %s "$1" >&"$storm_in"
	storm_until "!$1"
}

storm_successor() { storm_serving && [ "$storm_pid" != "$1" ]; }

storm_kill() {
	local old
	wait_for 20 storm_serving || return 1
	old=$storm_pid
	"$top_builddir/tests/guest/kill-time" "$old" >>"$tmp/deaths" && wait_for 20 storm_successor "$old"
}

storm_strike() {
	"$top_builddir/tests/guest/kill-time" "$storm_pid" "$tmp/log" "disk0 took up its rings" >>"$tmp/deaths"
}

storm_end() {
	local line
	printf q >&"$storm_in"
	while IFS= read -rt 300 line <&"$storm_out"; do
		printf '%s\n' "${line%$'\r'}" >>"$tmp/said"
		[[ $line != 1..* ]] || break
	done
	exec {storm_in}>&- {storm_out}<&-
	wait_exit 30 "$storm_vm" || { kill "$storm_vm" && wait_exit 30 "$storm_vm"; }
	is "the guest ends the machine, content" "$status" 33
	relay "$tmp/said"
	show_evidence
}

figures() {
	sort -n "$1" | awk '{ v[NR] = $1 } END { if (!NR) { print "none"; exit }
		printf "p50 %s p99 %s max %s (%d)", v[int((NR + 1) / 2)], v[int(NR * 0.99 + 0.999999)], v[NR], NR }'
}
