#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Rules about the tree: who may include whom, and that every folder and file introduces itself.
. "${top_srcdir:?}/tests/support/tap.sh"
cd "$top_srcdir" || exit 99

# The folders whose headers each may include; itself is understood.
declare -A may=(
	[lib/base]=""
	[lib/flight]="lib/base"
	[lib/state]="lib/base"
	[lib/loop]="lib/base"
	[lib/qcow2]="lib/base"
	[lib/mem]="lib/base"
	[lib/sandbox]="lib/base"
	[lib/virtq]="lib/base lib/mem"
	[lib/bus]="lib/base lib/loop"
	[lib/vhost]="lib/base lib/loop lib/mem lib/virtq"
	[lib/server]="lib/base lib/flight lib/state lib/loop lib/mem lib/virtq lib/bus lib/vhost lib/sandbox"
	[vmm-core]="lib/base lib/flight lib/loop lib/mem lib/virtq lib/bus lib/vhost lib/sandbox"
	[blk-server]="lib/base lib/flight lib/state lib/qcow2 lib/loop lib/mem lib/virtq lib/bus lib/vhost lib/sandbox lib/server"
	[window]="lib/base lib/loop lib/mem lib/virtq lib/vhost lib/sandbox lib/server"
	[nbd-dial]="lib/base lib/flight lib/loop lib/bus lib/sandbox lib/server"
	[net-user]="lib/base lib/flight lib/loop lib/bus lib/sandbox lib/server"
	[net-server]="lib/base lib/flight lib/state lib/loop lib/mem lib/virtq lib/sandbox lib/server"
	[supervisor]="lib/base lib/flight lib/state lib/qcow2 lib/loop lib/bus lib/sandbox"
)
for folder in "${!may[@]}"; do
	bad=
	for file in "$folder"/*.[ch]; do
		while read -r header; do
			[ -e "$folder/$header" ] && continue
			home=$(ls lib/*/"$header" vmm-core/"$header" blk-server/"$header" window/"$header" nbd-dial/"$header" net-server/"$header" net-user/"$header" supervisor/"$header" 2>/dev/null)
			[ -n "$home" ] || continue
			allowed=
			for h in $home; do
				[[ " ${may[$folder]} " == *" ${h%/*} "* ]] && allowed=1
			done
			[ -n "$allowed" ] || bad+="$file includes $header; "
		done < <(sed -n 's/^#include "\(.*\)"/\1/p' "$file")
	done
	is "$folder includes only what stands below it" "$bad" ""
	check "$folder has a README" test -s "$folder/README.md"
done

is "generated protobuf headers stay in lib/bus" \
	"$(grep -rlE '#include.*(pb-c\.h|protobuf-c)' --include='*.[ch]' lib vmm-core blk-server window nbd-dial net-server net-user supervisor | grep -v '^lib/bus/')" ""
is "KVM's headers stay in vmm-core" \
	"$(grep -rl '#include <linux/kvm' --include='*.[ch]' lib blk-server window nbd-dial net-server net-user supervisor)" ""
is "libaio's header stays in one file of blk-server" \
	"$(grep -rl '#include <libaio.h>' --include='*.[ch]' lib vmm-core blk-server window nbd-dial net-server net-user supervisor | wc -l)" 1
is "liburing's header stays in one file of blk-server" \
	"$(grep -rl '#include <liburing.h>' --include='*.[ch]' lib vmm-core blk-server window nbd-dial net-server net-user supervisor | wc -l)" 1
is "libnbd's header stays in blk-server's part for it" \
	"$(grep -rl '#include <libnbd.h>' --include='*.[ch]' lib vmm-core blk-server window nbd-dial net-server net-user supervisor | grep -v '^blk-server/nbd')" ""
is "vmm-core never walks a ring" "$(grep -l '#include "virtq.h"' vmm-core/*.[ch])" ""
is "every source begins with its licence" \
	"$(find lib vmm-core blk-server window nbd-dial net-server net-user supervisor tests bench proto -name '*.[chS]' -o -name '*.proto' | while read -r f; do
		head -n 3 "$f" | grep -q SPDX || echo "$f"; done)" ""
