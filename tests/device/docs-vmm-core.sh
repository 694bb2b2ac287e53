#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --help and the man page of vmm-core name the same options, and wrong options are refused in one line.
. "$top_srcdir/tests/support/tap.sh"
core=$top_builddir/vmm-core/vmm-core

"$core" --help | grep -oE '^  --[a-z-]+' | tr -d ' ' | sort > "$tmp/help"
sed -n '/^\.SH OPTIONS/,/^\.SH EXIT/p' "$top_srcdir/docs/vmm-core.8" | grep -A1 '^\.TP' | grep -oE '\\-\\-[a-z-]+' |
	sed 's/\\-/-/g' | sort > "$tmp/man"
check 'every option of --help is in the man page and the reverse' diff "$tmp/help" "$tmp/man"
is 'there are options to compare' "$(wc -l < "$tmp/help" | awk '{ print ($1 > 10) }')" 1
like '--version' "$("$core" --version)" '^vmm-core [0-9]'

# refused TEXT PATTERN OPTION...: exit status 2 and one line that matches.
refused() {
	local text=$1 pattern=$2 out status
	shift 2
	out=$("$core" "$@" 2>&1 3</dev/null)
	status=$?
	is "$text: exit status" "$status" 2
	is "$text: one line" "$(printf '%s\n' "$out" | wc -l)" 1
	like "$text: says what" "$out" "$pattern"
}

s=(--kvm-fd 3 --kernel-fd 3)
refused 'an unknown option' 'vmm-core: --colour: no such option' --colour red
refused 'a word' 'vmm-core: foo: not an option' foo
refused 'no KVM' '--kvm-fd: is needed' --kernel-fd 3
refused 'no kernel' '--kernel-fd: is needed' --kvm-fd 3
refused 'a closed descriptor' '--kvm-fd 77: descriptor is not open' --kvm-fd 77
refused 'a descriptor that is no number' '--kernel-fd x: must be the number' --kernel-fd x
refused 'an option twice' '--cpus: is given twice' "${s[@]}" --cpus 1 --cpus 2
refused 'a missing value' '--cpus: needs a value' "${s[@]}" --cpus
refused 'a value too many' '--test-devices=on: takes no value' "${s[@]}" --test-devices=on
refused 'no processors' '--cpus 0: must be 1 to 240' "${s[@]}" --cpus 0
refused 'too many processors' '--cpus 241: must be 1 to 240' "${s[@]}" --cpus 241
refused 'no memory' '--memory 0: must be' "${s[@]}" --memory 0
refused 'memory overflowing' '--memory 99999999T: must be' "${s[@]}" --memory 99999999T
refused 'memory that is no multiple' '--memory 67108865: must be' "${s[@]}" --memory 67108865
refused 'an unknown key of memory' '--memory swap: must be hugepages=on' "${s[@]}" --memory 64M,swap=on
refused 'odd huge pages' 'must be a multiple of 2M' "${s[@]}" --memory 65M,hugepages=on
refused 'a processor' '--cpu pentium: ' "${s[@]}" --cpu pentium
refused 'a device without kind' '--device disk0: must be ID:KIND' "${s[@]}" --device disk0
refused 'a device without id' '--device :blk: must be ID:KIND' "${s[@]}" --device :blk
refused 'an id that is a path' 'must be ID:KIND' "${s[@]}" --device ../x:blk
refused 'an id of 32 bytes' 'must be ID:KIND' "${s[@]}" --device "$(printf '%032d' 0):blk,socket=x"
refused 'an unknown kind' 'must be one of: blk' "${s[@]}" --device disk0:floppy
refused 'a device twice' '--device disk0: is there twice' "${s[@]}" --device disk0:blk,socket=a \
	--device disk0:blk,socket=b
refused 'a device without a way to it' '--device disk0: needs socket=PATH' "${s[@]}" --device disk0:blk
refused 'a socket path over 107 bytes' 'PATH at most 107 bytes' "${s[@]}" \
	--device "disk0:blk,socket=$(printf '%0108d' 0)"
refused 'an unknown key of a device' '--device queues: must be socket=' "${s[@]}" --device disk0:blk,queues=1
refused 'a command line over 2047 bytes' '--append: must be at most 2047 bytes' "${s[@]}" \
	--append "$(printf '%02048d' 0)"
refused 'a sandbox' '--sandbox maybe: must be on or off' "${s[@]}" --sandbox maybe
refused 'a log level' '--log-level loud: must be' "${s[@]}" --log-level loud
