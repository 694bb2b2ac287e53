#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `bulkhead image`: snapshots that QEMU made are listed and reverted to, and QEMU reads what it would have made of it; an image
# that is in use, or no image, is refused; and whoever reads it is confined.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
command -v qemu-img >/dev/null && command -v qemu-io >/dev/null || skip_all "qemu-img and qemu-io are not installed"
command -v jq >/dev/null || skip_all "jq is not installed"
cd "$tmp" || exit 99
box=()
sanitized && box=(--sandbox off)
image() { "$bulkhead" image "${box[@]}" "$@"; }
# For its errors; $status and $out.
try() {
	out=$(image "$@" 2>&1)
	status=$?
}
io() { qemu-io -f qcow2 "$@" >/dev/null; }

# ---- lists ----
qemu-img create -q -f qcow2 disk 8M
try snapshots disk
is "an image without snapshots: exit 0" "$status" 0
is "... says so" "$out" "disk: no snapshots"
is "... in JSON, too" "$(image snapshots --json disk)" "[]"
io -c 'write -q -P 7 0 3M' disk
qemu-img snapshot -c one disk
qemu-img snapshot -c 'zwölf, 2nd' disk
is "the list says what QEMU says" "$(image snapshots --json disk | jq -Sc 'map([.id, .name, .time, .vm_state_bytes])')" \
	"$(qemu-img info --output json disk | jq -Sc '.snapshots | map([.id, .name, ."date-sec", ."vm-state-size"])')"
is "... and how large the disk was" "$(image snapshots --json disk | jq -c 'map(.bytes)')" '[8388608,8388608]'
try snapshots disk
like "... for people" "$out" "^ID +TIME .*"$'\n'"1 +$(date +%Y)-.* 8388608 +0  one"$'\n'"2 .*  zwölf, 2nd"

is "... if malloc is to ask for huge pages, too" "$(GLIBC_TUNABLES=glibc.malloc.hugetlb=1 image snapshots disk 2>&1)" "$out"

# ---- reverted by us as by QEMU ----
# reverts KIND OPTION...: an image made so, with content before and after two snapshots.
reverts() {
	local kind=$1
	shift
	qemu-img create -q -f qcow2 "$@" disk 8M
	io -c 'write -q -P 1 0 3M' -c 'write -q -c -P 2 4M 1M' -c 'write -q -z 100k 300k' disk
	qemu-img snapshot -c one disk
	io -c 'write -q -P 3 1M 2M' -c 'discard -q 4M 512k' -c 'write -q -P 4 6M 300k' disk
	qemu-img snapshot -c two disk
	io -c 'write -q -P 5 0 8M' disk
	for name in one two; do
		cp disk copy
		try revert disk "$name"
		is "$kind: reverted to $name" "$status $out" "0 disk: reverted to snapshot $name"
		qemu-img snapshot -a "$name" copy
		check "... which QEMU reads as what it would have made of it" qemu-img compare -f qcow2 -F qcow2 disk copy
		check "... and finds nothing wrong with" qemu-img check -q -f qcow2 disk
		io -c "write -q -P 9 2M 5M" disk
		check "... nor when it wrote there" qemu-img check -q -f qcow2 disk
	done
	qemu-img snapshot -a two disk
	qemu-img snapshot -d one disk
	is "... what QEMU reverted and deleted from is listed" "$(image snapshots --json disk | jq -r '.[].name')" two
	try revert disk two
	is "... and reverted to" "$status" 0
	check "... without leaks" qemu-img check -q -f qcow2 disk
}
head -c 5M /dev/urandom >base
reverts "a plain image"
reverts "version 2 on a file" -o compat=0.10 -F raw -b base
reverts "subclusters on a file" -o extended_l2=on,cluster_size=16k -F raw -b base
reverts "small clusters" -o cluster_size=512,refcount_bits=64
reverts "lazy counts" -o lazy_refcounts=on

qemu-img create -q -f qcow2 disk 4M
qemu-img snapshot -c 2 disk
io -c 'write -q -P 1 0 1M' disk
qemu-img snapshot -c other disk
io -c 'write -q -P 2 0 1M' disk
image revert disk 2 >/dev/null
check "an id goes before a name" io -c 'read -q -P 1 0 1M' disk
qemu-img resize -q disk 9M
try revert disk other
is "a disk that has grown since" "$status $(qemu-img info --output json disk | jq '."virtual-size"')" "0 4194304"
check "... is as small as it was" qemu-img check -q -f qcow2 disk

# ---- refused ----
# refused TEXT STATUS PATTERN WORD...: one line that matches.
refused() {
	try "${@:4}"
	is "$1: exit $2" "$status" "$2"
	like "... says why" "$out" "^bulkhead: image: $3"
	is "... in one line" "$(wc -l <<<"$out")" 1
}
before=$(sha256sum disk)
refused "no such snapshot" 2 '"disk": there is no snapshot "three"; bulkhead image snapshots disk lists all' revert disk three
refused "no such file" 2 'path="none" can.t be opened: No such file' snapshots none
refused "a folder" 2 'path="\." is no file of data' snapshots .
refused "a file of another format" 2 '"base": ' snapshots base
refused "no such request" 2 '"list": no such request; allowed: snapshots, revert' list disk
refused "no file" 2 '"snapshots": needs FILE' snapshots
refused "no snapshot" 2 '"revert": needs FILE and SNAPSHOT' revert disk
refused "a word too many" 2 '"x": one word too many' revert disk one x
refused "an option that is none" 2 '"--force": no such option' revert --force disk
refused "a list of what is not listed" 2 '"--json": goes with snapshots only' revert --json disk other
refused "a sandbox that is neither on nor off" 2 '"--sandbox": needs a value: on or off' snapshots disk --sandbox=maybe
is "nothing was changed" "$(sha256sum disk)" "$before"
is "bulkhead image alone: exit 2" "$("$bulkhead" image 2>/dev/null; echo $?)" 2

# Three references at most, and a third snapshot would be the fourth for a moment.
qemu-img create -q -f qcow2 -o refcount_bits=2 full 1M
io -c 'write -q 0 64k' full
qemu-img snapshot -c one full
qemu-img snapshot -c two full
refused "counts that are full" 2 '"full": reverting needs one reference more' revert full one
check "... leave the image as it was" qemu-img check -q -f qcow2 full

mkfifo wait
exec 8<>wait
spawn qemu-io -f qcow2 disk <&8 >qemu.out
check "QEMU opens the image" wait_for 10 grep -q '^qemu-io> ' qemu.out
refused "while QEMU has it it is not reverted" 2 "path=\"disk\" is in use by process $pid" revert disk other
echo quit >&8
wait_exit 10 "$pid"
check "... and is when it has ended" image revert disk other

make_machine
if sanitized || ! [ -w /dev/kvm ]; then
	skip "an image that a machine has" "needs a machine that is confined, and /dev/kvm"
else
	start m --disk path="$tmp/disk",id=disk0,format=qcow2
	wait_running m
	refused "while a machine has the image it is not reverted" 2 'path="disk" is in use by process [0-9]+; one writer' revert disk other
	refused "... nor listed" 2 'path="disk" is in use by process [0-9]+' snapshots disk
	ctl m quit
	ends_with "ends" 0 "$pid" m
	check "... and is when that has ended" image revert disk other
fi

# ---- images that lie ----
# put FILE OFFSET FORMAT NUMBER...: writes numbers (pack's FORMAT) into it.
put() { perl -e 'open F, "+<", shift; seek F, shift, 0; print F pack(shift, @ARGV)' -- "$@"; }
# fake NAME COUNT ID: an image with a table of COUNT snapshots with no tables of their own, each with these bytes as id and name.
fake() {
	qemu-img create -q -f qcow2 "$1" 1M
	perl -e 'my ($n, $id) = @ARGV; my $one = pack("Q>NnnNNQ>NN", 0, 0, length $id, length $id, 0, 0, 0, 0, 0) . $id . $id;
		$one .= "\0" x (-length($one) % 8); print $one x $n' -- "$2" "$3" >table
	truncate -s 1M "$1"
	cat table >>"$1"
	truncate -s 8M "$1"
	put "$1" 60 "NQ>" "$2" 1048576
}
fake odd 1 $'\e[2Jx\xff'
try snapshots odd
like "a name that a terminal would obey is shown without" "$out" '\?\[2Jx\?$'
is "... and JSON can be made of it" "$(image snapshots --json odd | jq -r '.[0].name')" '?[2Jx?'
refused "a snapshot without tables" 1 '"odd": it can.t be reverted: ' revert odd $'\e[2Jx\xff'
put odd 1048584 N 4294967295
refused "... with tables that are not there" 1 '"odd": it can.t be reverted: ' revert odd $'\e[2Jx\xff'
put odd 60 NQ\> 65536 8388600
refused "a table behind the end" 2 '"odd": ' snapshots odd
put odd 60 NQ\> 4294967295 1048576
refused "more snapshots than there can be" 2 '"odd": it has 4294967295 snapshots' snapshots odd

# ---- who reads it ----
fake many 5000 some
is "many snapshots" "$(image snapshots many | wc -l)" 5001
mkfifo full.out
exec 9<>full.out
# Nobody reads what it prints, so it stays in the middle.
spawn "$bulkhead" image "${box[@]}" snapshots many >full.out 2>image.err
reader() { pgrep -P "$pid"; }
check "a process of its own reads the image" wait_for 10 reader
reader=$(reader)
if sanitized; then
	skip "it is confined" "built with sanitizers"
else
	field() { awk -v f="$1:" '$1 == f { print $2 }' "/proc/$reader/status"; }
	check "it is filtered" wait_for 10 eval '[ "$(field Seccomp)" = 2 ]'
	is "... has no capabilities, and gets none" "$(field CapEff) $(field CapBnd) $(field NoNewPrivs)" "0000000000000000 0000000000000000 1"
	for ns in user mnt pid net ipc uts; do
		check "... and its own $ns namespace" test "$(readlink "/proc/$reader/ns/$ns")" != "$(readlink "/proc/self/ns/$ns")"
	done
	[ "$(id -u)" != 0 ] || is "... and is not root" "$(field Uid)" 65534
	is "... it has the image and a pipe" "$(cd "/proc/$reader/fd" && readlink -- * | sed 's/\[.*//; s/^.*\///' | xargs)" \
		"null null null many pipe:"
fi
kill -KILL "$reader"
cat <&9 >/dev/null &
drain=$!
wait_exit 10 "$pid"
kill "$drain"
is "it dies: exit 1" "$status" 1
is "... says so" "$(cat image.err)" 'bulkhead: image: "many": the process that reads it was ended by signal 9 (Killed)'
spawn "$bulkhead" image "${box[@]}" snapshots many >full.out
check "another one" wait_for 10 reader
reader=$(reader)
sanitized || { kill -KILL "$pid" && check "dies with the command" wait_for 10 gone "$reader"; }
