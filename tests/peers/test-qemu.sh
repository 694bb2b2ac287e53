#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# QEMU as the front end of our blk-server: its BIOS boots from the disk, and the boot sector reads and writes it.
# No kernel and no KVM are needed.
# shellcheck source=tests/support/tap.sh disable=SC2154  # top_srcdir, top_builddir: the Makefile's
. "${top_srcdir:?}/tests/support/tap.sh"

command -v qemu-system-x86_64 >/dev/null || skip_all 'qemu-system-x86_64 is not installed'
server=$top_builddir/blk-server/blk-server
[ -x "$server" ] || skip_all "$server is not built"
socket=$tmp/socket image=$tmp/image

# Bytes to a place of the image.
poke() { # OFFSET HEX...
	local at=$1
	shift
	printf '%b' "$(printf '\\x%s' "$@")" | dd of="$image" bs=1 seek="$at" conv=notrunc status=none
}

# A disk of 4 MiB whose boot sector copies sectors 1-8 to 64-71 N times, then ends QEMU with status 33, or 35 if
# the BIOS reports an error.
make_image() { # N
	head -c $((9 * 512)) /dev/urandom >"$image"
	truncate -s 4M "$image"
	poke 0 31 c0 8e d8 8e c0                     # ds = es = 0
	poke 6 be 40 7c b4 42 cd 13 72 15            # read by the packet at 7c40
	poke 15 b9 "$(printf %02x $(($1 % 256)))" "$(printf %02x $(($1 / 256)))" # cx = N
	poke 18 51 be 50 7c b8 00 43 cd 13 59 72 06  # write by the packet at 7c50
	poke 30 e2 f2                                # again until cx is 0
	poke 32 b0 10 eb 02 b0 11 e6 f4 f4 eb fd     # out 0xf4, 16 (or 17); halt
	poke 64 10 00 08 00 00 80 00 00 01 00 00 00 00 00 00 00
	poke 80 10 00 08 00 00 80 00 00 40 00 00 00 00 00 00 00
	poke 510 55 aa
}

copied() { cmp -s <(dd if="$image" skip=1 count=8 status=none) <(dd if="$image" skip=64 count=8 status=none); }

start_server() { # OPTIONS...
	rm -f "$socket"
	spawn "$server" --socket "$socket" --image "$image" --log-level warning "$@"
	server_pid=$pid
	wait_for 10 test -S "$socket"
}

start_qemu() { # CHARDEV-OPTIONS DEVICE-OPTIONS
	spawn qemu-system-x86_64 -accel tcg -M pc,memory-backend=ram -m 64 -nodefaults -display none -no-reboot \
		-object memory-backend-memfd,id=ram,size=64M,share=on \
		-chardev "socket,id=disk,path=$socket$1" \
		-device "vhost-user-blk-pci,chardev=disk,bootindex=1$2" -device isa-debug-exit,iobase=0xf4
	qemu_pid=$pid
}

boot() { # TEXT SERVER-OPTIONS DEVICE-OPTIONS
	make_image 1
	# shellcheck disable=SC2086  # several options
	start_server $2
	start_qemu '' "$3"
	wait_exit 60 "$qemu_pid"
	is "$1: the BIOS reads and writes without error" "$status" 33
	check "$1: the sectors are on the disk" copied
	kill "$server_pid"
	wait_exit 10 "$server_pid"
	is "$1: the server ends when told to" "$status" 0
}

boot 'one queue' '' ''
boot 'modern, two queues of 64' '--queues 2' ',num-queues=2,queue-size=64,disable-legacy=on'
boot 'packed ring offered' '' ',packed=on'

# The server is killed under the guest; QEMU hands the in-flight region to its successor.
make_image 1500
start_server
start_qemu ,reconnect=1 ''
if wait_for 60 copied; then ok 'the guest writes'; else not_ok 'the guest writes'; fi
for round in 1 2; do
	kill -KILL "$server_pid"
	wait_exit 10 "$server_pid"
	start_server
done
check 'QEMU lives on without its server' kill -0 "$qemu_pid"
wait_exit 120 "$qemu_pid"
is "after $round kills every write was completed without error" "$status" 33
check 'and the sectors are on the disk' copied
