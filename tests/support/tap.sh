# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# TAP for tests written in bash: source this first. Every test gets an empty directory $tmp and gives back all
# that it made, whatever happens:
#   ok TEXT / not_ok TEXT [DETAIL...]     one result; DETAIL lines become diagnostics
#   skip TEXT REASON                      a result that this machine can't give
#   skip_all REASON                       ends the test before its first result
#   check TEXT COMMAND...                 ok if the command succeeds; its output is shown if it does not
#   is TEXT GOT WANT / like TEXT GOT REGEX / unlike TEXT GOT REGEX
#   relay FILE                            the results in that TAP become this test's
#   spawn COMMAND...                      starts it in the background, its id in $pid; killed at the end
#   at_exit COMMAND...                    runs at the end, last one first
#   wait_for SECONDS COMMAND...           repeats the command until it succeeds, or fails at the deadline; the seconds
#                                         are those of an idle machine, a busy one gets $tap_patience times as many
#   soon COMMAND...                       runs a command that is to end at once: after a minute it is ended, status 124
#   wait_exit SECONDS PID                 waits for a spawned process to end; its exit status in $status
#   evidence FILE...                      their last lines are shown at the end if a test failed or it ended early
#   show_evidence                         shows them now if a test failed since; before they are written anew
# The plan is printed at the end, so a test that dies early is seen to be incomplete.
set -u
tap_count=0 tap_failed=0 tap_done=0
# It takes nothing from a test that passes, and a slow machine is not a failure.
tap_patience=6
tap_pids=() tap_exits=() tap_evidence=() tap_shown=0
tmp=$(mktemp -d "${TMPDIR:-/tmp}/bulkhead-test.XXXXXX") || exit 99
# Processes under other user ids must be able to reach what a test puts here.
chmod 711 "$tmp"
# Reports of processes that die in tests.
export XDG_STATE_HOME=$tmp/state

diag() { printf '%s\n' "$@" | sed 's/^/# /'; }

ok() {
	tap_count=$((tap_count + 1))
	printf 'ok %d - %s\n' "$tap_count" "$1"
}

not_ok() {
	tap_count=$((tap_count + 1)) tap_failed=$((tap_failed + 1))
	printf 'not ok %d - %s\n' "$tap_count" "$1"
	shift
	[ $# -eq 0 ] || diag "$@"
}

skip() {
	tap_count=$((tap_count + 1))
	printf 'ok %d - %s # SKIP %s\n' "$tap_count" "$1" "$2"
}

skip_all() {
	tap_done=1
	printf '1..0 # SKIP %s\n' "$1"
	exit 0
}

check() {
	local text=$1 out
	shift
	if out=$("$@" 2>&1); then ok "$text"; else not_ok "$text" "failed ($?): $*" "$out"; fi
}

is() {
	if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "got:  $2" "want: $3"; fi
}

like() {
	if [[ $2 =~ $3 ]]; then ok "$1"; else not_ok "$1" "got:  $2" "want: something like $3"; fi
}

unlike() {
	if [[ $2 =~ $3 ]]; then not_ok "$1" "got:  $2" "want: nothing like $3"; else ok "$1"; fi
}

# What it says beside them is shown, too. A guest's console ends lines as terminals do.
relay() {
	local line
	while IFS= read -r line; do
		line=${line%$'\r'}
		case $line in
		"ok "*" - "*) ok "${line#* - }" ;;
		"not ok "*" - "*) not_ok "${line#* - }" ;;
		"# "*) printf '%s\n' "$line" ;;
		esac
	done <"$1"
}

spawn() {
	# A shell gives its background processes /dev/null as input unless told.
	"$@" <&0 &
	pid=$!
	tap_pids+=("$pid")
}

evidence() { tap_evidence+=("$@"); }

# Whoever reads the output of a run elsewhere has nothing else to tell what happened.
show_evidence() {
	local f
	[ $tap_failed -gt $tap_shown ] || return 0
	tap_shown=$tap_failed
	for f in "${tap_evidence[@]}"; do
		[ -s "$f" ] && diag "---- the last lines of ${f##*/}" "$(tail -n 40 "$f")"
	done
}

at_exit() { tap_exits+=("$(printf '%q ' "$@")"); }

wait_for() {
	# The command sees this name, too: not one that a test has a use for.
	local tap_deadline=$((${EPOCHREALTIME/./} + $1 * 1000000 * tap_patience))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "${EPOCHREALTIME/./}" -lt "$tap_deadline" ] || { diag "waited in vain: $*" >&2; return 1; }
		read -rt 0.02 <> <(:) || :
	done
}

soon() { timeout $((10 * tap_patience)) "$@"; }

# True if no such process is left; for wait_for.
gone() { ! kill -0 "$1" 2>/dev/null; }

# How often the threads of process $1 have gone to sleep.
switches() { cat "/proc/$1"/task/*/status 2>/dev/null | awk '/^voluntary_ctxt/ { n += $2 } END { print NR ? n : "gone" }'; }
# True after eleven seconds in which none did: nng wakes once more ten seconds after a connection was made.
tap_rests() {
	local before
	before=$(switches "$1")
	read -rt 11 <> <(:) || :
	[ "$(switches "$1")" = "$before" ]
}
# wakes SECONDS PID: how often they wake in that time, once they have come to rest (or do not come to it soon).
wakes() {
	local before after
	tap_rests "$2" || tap_rests "$2"
	before=$(switches "$2")
	# That something does not happen has no event.
	read -rt "$1" <> <(:) || :
	after=$(switches "$2")
	if [ "$before" = gone ] || [ "$after" = gone ]; then echo gone; else echo $((after - before)); fi
}

wait_exit() {
	status=timeout
	wait_for "$1" tap_ended "$2" || return 1
	wait "$2"
	status=$?
}

# A background process of this shell stays a zombie until waited for, so its state decides.
tap_ended() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
	stat=${stat##*) }
	[ "${stat%% *}" = Z ]
}

# Ends what spawn started: by id, and only while that id is still a child of this shell.
tap_kill() {
	local p parent
	for p in "${tap_pids[@]}"; do
		parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$p/status" 2>/dev/null)
		[ "$parent" = $$ ] || continue
		kill -TERM "$p" 2>/dev/null
		wait_for 5 tap_ended "$p" || kill -KILL "$p" 2>/dev/null
		wait "$p" 2>/dev/null
	done
}

tap_end() {
	local ended=$? i
	trap '' INT TERM HUP
	tap_kill
	[ "$ended" -eq 0 ] || tap_shown=-1
	show_evidence
	for ((i = ${#tap_exits[@]} - 1; i >= 0; i--)); do eval "${tap_exits[i]}" >/dev/null 2>&1; done
	rm -rf -- "$tmp"
	if [ $tap_done -eq 0 ]; then
		printf '1..%d\n' "$tap_count"
		[ $tap_failed -eq 0 ] && [ $tap_count -gt 0 ] || exit 1
	fi
}

trap tap_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
