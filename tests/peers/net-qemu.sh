#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# QEMU as the front end of our net-server, with iPXE from its network card's ROM as the guest: it asks for an address by DHCP,
# which net-user answers, or passt at the other end of a stream. No kernel and no KVM are needed.
# (passt's own vhost-user mode is newer than Debian's package.)
. "${top_srcdir:?}/tests/support/tap.sh"

[ -z "${BULKHEAD_QUICK-}" ] || skip_all "whole machines are left out of this run (BULKHEAD_QUICK)"
command -v qemu-system-x86_64 >/dev/null || skip_all 'qemu-system-x86_64 is not installed'
[ -e /usr/lib/ipxe/qemu/pxe-virtio.rom ] || skip_all 'ipxe-qemu is not installed'
server=${top_builddir:?}/net-server/net-server
[ -x "$server" ] || skip_all "$server is not built"
nm "$server" 2>/dev/null | grep -qE "__[at]san_init" && sandbox=off || sandbox=on
evidence "$tmp/console" "$tmp/qemu.log" "$tmp/server.log"

start_server() { # OPTIONS...
	rm -f "$tmp/socket"
	spawn "$server" --socket "$tmp/socket" --sandbox $sandbox "$@" 2>"$tmp/server.log"
	server_pid=$pid
	wait_for 10 test -S "$tmp/socket"
}

# boot OPTIONS: QEMU with a port of this server; $address is what the guest says of its own.
boot() {
	: >"$tmp/console"
	spawn qemu-system-x86_64 -accel tcg -M q35,memory-backend=ram -m 128 -nodefaults -nographic -no-reboot \
		-serial file:"$tmp/console" -object memory-backend-memfd,id=ram,size=128M,share=on \
		-chardev "socket,id=net,path=$tmp/socket" -netdev vhost-user,id=n0,chardev=net \
		-device "virtio-net-pci,netdev=n0,disable-legacy=on,bootindex=1$1" >"$tmp/qemu.log" 2>&1
	qemu_pid=$pid
	wait_for 60 grep -qa 'Nothing to boot' "$tmp/console"
	address=$(grep -ao 'net0: [0-9.]*/[0-9.]* gw [0-9.]*' "$tmp/console" | head -n 1)
	kill "$qemu_pid"
	wait_exit 10 "$qemu_pid"
}

ends() { # TEXT
	kill "$server_pid"
	wait_exit 10 "$server_pid"
	is "$1: the server ends when told to" "$status" 0
}

# All processes below one.
below() {
	local child
	for child in $(cat "/proc/$1/task/"*"/children" 2>/dev/null); do
		echo "$child"
		below "$child"
	done
}
gone() {
	local process
	for process; do
		! kill -0 "$process" 2>/dev/null || return 1
	done
}

start_server --user
boot ''
is '--user: the guest gets its address' "$address" 'net0: 10.0.2.15/255.255.255.0 gw 10.0.2.2'
boot ,packed=on
is '--user: so does the next one on the same server, with packed rings offered' "$address" 'net0: 10.0.2.15/255.255.255.0 gw 10.0.2.2'
mapfile -t helpers < <(below "$server_pid")
check '... net-user is one of its processes' bash -c 'cat "${@/%//comm}" | grep -qx net-user' - "${helpers[@]/#//proc/}"
ends '--user'
check '... and all of them with it' wait_for 10 gone "${helpers[@]}"

start_server --user --net 10.9.8.0/24 --dns 10.9.8.7 --ipv6 on --hostname guest --mtu 1400 --restrict on
boot ''
is '--user --net: the guest gets an address of that network' "$address" 'net0: 10.9.8.15/255.255.255.0 gw 10.9.8.2'
ends '--user --net'

if command -v passt >/dev/null; then
	# It goes on as nobody before it makes its socket.
	mkdir -m 777 "$tmp/passt"
	spawn passt --foreground --one-off --socket "$tmp/passt/s" -a 10.0.2.15 -n 24 -g 10.0.2.2 >"$tmp/passt.log" 2>&1
	passt_pid=$pid
	if wait_for 10 test -S "$tmp/passt/s"; then
		start_server --stream "$tmp/passt/s"
		boot ''
		like 'passt: the guest gets an address' "$address" '^net0: 10.0.2.15/255.255.255.0 gw 10.0.2.2$'
		kill "$passt_pid"
		ends passt
	else
		skip 'passt: the guest gets an address' "passt does not start here: $(tail -n 1 "$tmp/passt.log")"
	fi
else
	skip 'passt: the guest gets an address' 'passt is not installed'
fi
