#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --help and the man page of blk-server name the same options, and wrong options are refused in one line.
. "$top_srcdir/tests/support/tap.sh"
server=$top_builddir/blk-server/blk-server

"$server" --help | grep -oE '^  --[a-z-]+' | tr -d ' ' | sort > "$tmp/help"
sed -n '/^\.SH OPTIONS/,/^\.SH EXIT/p' "$top_srcdir/docs/blk-server.8" | grep -A1 '^\.TP' | grep -oE '\\-\\-[a-z-]+' |
	sed 's/\\-/-/g' | sort > "$tmp/man"
check 'every option of --help is in the man page and the reverse' diff "$tmp/help" "$tmp/man"
is 'there are options to compare' "$(wc -l < "$tmp/help" | awk '{ print ($1 > 10) }')" 1
like '--version' "$("$server" --version)" '^blk-server [0-9]'

# refused TEXT PATTERN OPTION...: exit status 2 and one line that matches.
refused() {
	local text=$1 pattern=$2 out status
	shift 2
	out=$("$server" "$@" 2>&1)
	status=$?
	is "$text: exit status" "$status" 2
	is "$text: one line" "$(printf '%s\n' "$out" | wc -l)" 1
	like "$text: says what" "$out" "$pattern"
}

truncate -s 1M "$tmp/image"
s=(--socket "$tmp/s" --image "$tmp/image")
refused 'an unknown option' 'blk-server: --colour: no such option'  --colour red
refused 'a word' 'blk-server: foo: no such option' foo
refused 'no socket' '--socket PATH or --vhost-fd N' --image "$tmp/image"
refused 'no image' '--image FILE or --image-fd N' --socket "$tmp/s"
refused 'queues 0' '--queues 0: must be a number from 1 to 64' "${s[@]}" --queues 0
refused 'queues 65' '--queues 65: must be' "${s[@]}" --queues=65
refused 'queues -1' '--queues -1: must be' "${s[@]}" --queues -1
refused 'queues overflowing' '--queues 18446744073709551617: must be' "${s[@]}" --queues 18446744073709551617
refused 'more threads than queues' '--io-threads 2: must be at most' "${s[@]}" --io-threads 2
refused 'a missing value' '--queues needs a value' "${s[@]}" --queues
refused 'a value too many' '--readonly takes no value' "${s[@]}" --readonly=on
refused 'an option twice' '--image is given twice' "${s[@]}" --image "$tmp/image"
refused 'a format' '--format qcow2: must be raw' "${s[@]}" --format qcow2
refused 'a cache mode' '--cache none: must be direct or buffered' "${s[@]}" --cache none
refused 'a log level' '--log-level loud: must be' "${s[@]}" --log-level loud
refused 'a missing image' "--image $tmp/none: No such file" --socket "$tmp/s" --image "$tmp/none"
refused 'a directory' "--image $tmp: Is a directory" --socket "$tmp/s" --image "$tmp"
: > "$tmp/empty"
refused 'an empty image' 'must be at least 512 bytes' --socket "$tmp/s" --image "$tmp/empty"
refused 'a fifo' 'must be a regular file or a block device' --socket "$tmp/s" --image /dev/null
refused 'a descriptor that is none' '--image-fd 77: must be an open file' --socket "$tmp/s" --image-fd 77
refused 'a directory of the socket that is none' 'No such file' --socket "$tmp/no/s" --image "$tmp/image"
refused 'FAULTS 73: a socket path over 107 bytes' 'must be at most 107 bytes' \
	--socket "$tmp/$(printf '%0110d' 0)" --image "$tmp/image"
: > "$tmp/file"
refused 'a socket path that is a file' 'it is no socket' --socket "$tmp/file" --image "$tmp/image"
check 'nothing is left behind' test ! -e "$tmp/s"
