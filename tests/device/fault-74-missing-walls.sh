#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Fault 74: a kernel that lacks or forbids a wall of the sandbox. Whoever asked for the sandbox gets an error that names the step,
# and no process that serves without it.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
sanitized && skip_all "sanitizer builds run without the sandbox"
without=${top_builddir:?}/tests/support/without
soon "$without" seccomp=ENOSYS -- true
[ $? -eq 77 ] && skip_all "calls can't be taken away here"
landlocked=1
"$without" landlock_restrict_self=EPERM -- "$top_builddir/blk-server/blk-server" --version >/dev/null || skip_all "calls can't be taken away here"
# landlock_create_ruleset, asked for its version.
perl -e 'exit(syscall(444, 0, 0, 1) < 1)' || landlocked=
make_machine

# refused TEXT REGEX CALL COMMAND...: without that call the command ends with an error, says which step, and nobody listens.
refused() {
	local text=$1 regex=$2 call=$3 out status
	shift 3
	out=$(soon "$without" "$call" -- "$@" 2>&1 </dev/null 3<>"${kvm:-/dev/null}" 4<"$tmp/kernel")
	status=$?
	check "fault 74: $text: ends with an error ($status)" test "$status" -ne 0 -a "$status" -lt 124
	like "... which names the step" "$out" "$regex"
	check "... and nobody listens" test ! -e "$tmp/s" -a ! -e "$run_dir/m"
}
each() {
	refused "$1, seccomp missing" 'filter.*Function not implemented' seccomp=ENOSYS "${@:2}"
	refused "$1, seccomp forbidden" 'filter.*Operation not permitted' seccomp=EPERM "${@:2}"
	refused "$1, namespaces forbidden" 'clone3.*Operation not permitted' clone3=EPERM "${@:2}"
	refused "$1, mounts forbidden" 'pivot_root.*Operation not permitted' pivot_root=EPERM "${@:2}"
	refused "$1, limits forbidden" 'limit core files.*Operation not permitted' prlimit64=EPERM "${@:2}"
	if [ -n "$landlocked" ]; then
		refused "$1, Landlock not to be enforced" 'enforce Landlock.*Operation not permitted' landlock_restrict_self=EPERM "${@:2}"
	else
		skip "$1, Landlock not to be enforced" "this kernel has none"
	fi
}

each blk-server "$top_builddir/blk-server/blk-server" --socket "$tmp/s" --image "$tmp/disk.img"
each "bulkhead image" "$bulkhead" image snapshots "$tmp/disk.img"
if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
	kvm=/dev/kvm
	each vmm-core "$top_builddir/vmm-core/vmm-core" --kvm-fd 3 --kernel-fd 4
	run=("$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel")
	refused "the supervisor, seccomp missing" 'system-call filter: Function not implemented' seccomp=ENOSYS "${run[@]}"
	refused "its children, namespaces missing" 'clone3.*Function not implemented' clone3=ENOSYS "${run[@]}"
else
	skip "vmm-core, and a machine's supervisor" "no access to /dev/kvm"
fi
