# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the tests of `bulkhead` share, over tap.sh: the program with a run directory of its own, and stand-ins for
# vmm-core, the servers and net-user (tests/support/fake-child) that do as they are told.
. "${top_srcdir:?}/tests/support/tap.sh"
bulkhead=${top_builddir:?}/supervisor/bulkhead
run_dir=$tmp/run
evidence "$tmp/m.out" "$tmp/m.err" "$tmp/one.err" "$tmp/ctl.err"
bin=$tmp/bin
unset JOURNAL_STREAM BULKHEAD_PATH

# A kernel and an image that are files, and programs that are the stand-ins.
make_machine() {
	mkdir -p "$bin"
	chmod 755 "$bin"
	cp "$top_builddir/tests/support/fake-child" "$bin/fake-child"
	ln -sf fake-child "$bin/vmm-core"
	ln -sf fake-child "$bin/blk-server"
	ln -sf fake-child "$bin/window"
	ln -sf fake-child "$bin/net-server"
	ln -sf fake-child "$bin/net-user"
	ln -sf fake-child "$bin/nbd-dial"
	printf '\177ELF kernel' >"$tmp/kernel"
	truncate -s 1M "$tmp/disk.img" "$tmp/disk1.img"
	mkfifo "$bin"/{core,disk0,disk0.spare,disk1,disk1.spare,disk0.user,disk0.window,disk0.window.spare,net0,net0.spare,net0.user}.ctl
	chmod 666 "$bin"/*.ctl
	export BULKHEAD_PATH=$bin
}

# The run-time of the sanitizers needs system calls that the supervisor's filter kills for.
sanitized() { grep -q '^#define BH_SANITIZE' "$top_builddir/config.h"; }

# For tests of a minute, which need not run again from the distribution's archive.
not_quick() { [ -z "${BULKHEAD_QUICK-}" ] || skip_all "long tests are left out of this run (BULKHEAD_QUICK)"; }

need_kvm() {
	sanitized && skip_all "built with sanitizers, which the supervisor's sandbox does not allow"
	command -v jq >/dev/null || skip_all "jq is not installed"
	[ -r /dev/kvm ] && [ -w /dev/kvm ] || skip_all "no access to /dev/kvm, which bulkhead run opens"
}

# What the stand-in named $1 shall do from its start / is to do now.
script() { echo "${*:2}" >"$bin/$1.do"; }
# A FIFO opened both ways takes a line even if nobody reads it.
tell() { echo "${*:2}" 1<>"$bin/$1.ctl"; }

# Starts a machine named $1 with the options that follow; $pid, its output in $tmp/NAME.out and .err.
start() {
	local name=$1
	shift
	show_evidence
	spawn "$bulkhead" run --name "$name" --run-dir "$run_dir" --kernel "$tmp/kernel" --log-level debug \
		--crash-dir "${crash_dir:-$tmp/crash}" "$@" \
		</dev/null >"$tmp/$name.out" 2>"$tmp/$name.err"
}

ctl() { "$bulkhead" ctl --run-dir "$run_dir" "$@"; }
# A machine's status in JSON. That there is no answer is for the test to see, and for the evidence.
status_of() {
	local said
	said=$(ctl --json "$1" status 2>&1) || { echo "$EPOCHREALTIME: $? $said" >>"$tmp/ctl.err"; return 1; }
	echo "$said"
}
state() { status_of "$1" | jq -r .state; }
is_state() { [ "$(state "$1")" = "$2" ]; }
device() { status_of "$1" | jq -r ".devices[] | select(.id == \"$2\") | .$3"; }
logged() { grep -qE -- "$2" "$tmp/$1.err"; }

wait_running() { wait_for 20 is_state "$1" running; }

# Ends with the status wanted, and has left nothing: no directory, no process that has it open.
ends_with() {
	local text=$1 want=$2 id=$3 name=$4
	wait_exit 30 "$id"
	is "$text" "$status" "$want"
	clean_after "$name" "$text: nothing is left"
}

clean_after() {
	local left=
	[ -e "$run_dir/$1" ] && left="directory $(find "$run_dir/$1")"
	pgrep -f "$run_dir/$1/" >/dev/null && left="$left processes $(pgrep -af "$run_dir/$1/")"
	is "$2" "$left" ""
}

# Kills the process of that id, which comes out of a status: null if there is none. 0 would be this test with all its children.
slay() { [[ ${1-} =~ ^[1-9][0-9]*$ ]] && kill -KILL "$1"; }
