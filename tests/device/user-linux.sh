#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# net-user with Linux's own network stack as the guest (tests/support/net-guest.c): DHCP, names, transfers both ways, forwarded
# ports, restrictions, and net-server's end of the socket changing hands meanwhile. The host is a network namespace, too.
if [ -z "${USER_LINUX_INSIDE-}" ] && [ "$(id -u)" = 0 ]; then
	USER_LINUX_INSIDE=1 exec unshare -nm bash "$0"
fi
. "${top_srcdir:?}/tests/support/tap.sh"
[ "$(id -u)" = 0 ] || skip_all 'needs root, for network namespaces with a tap in them'
for tool in busybox socat perl; do
	command -v $tool >/dev/null || skip_all "$tool is not installed"
done
user=${top_builddir:?}/net-user/net-user
net_guest=$top_builddir/tests/support/net-guest
[ -x "$net_guest" ] || skip_all "$net_guest is not built"
[ -c /dev/net/tun ] || skip_all 'there is no /dev/net/tun'
sandbox=on
nm "$user" 2>/dev/null | grep -qE "__[at]san_init" && sandbox=off
export tmp

# The host: a loopback, an outside address, a name server, a web server, an echo.
busybox ip link set lo up
busybox ip addr add 192.0.2.1/32 dev lo
busybox ip addr add 198.51.100.1/32 dev lo
# The first name server's scope has libslirp ask for the interface; it goes on with the second, as the guest asks by IPv4.
printf 'nameserver %s\n' fe80::1%lo 127.0.0.1 >"$tmp/resolv.conf"
mount --bind "$tmp/resolv.conf" /etc/resolv.conf || skip_all 'nothing can be mounted over /etc/resolv.conf'
cat >"$tmp/names" <<'END'
use IO::Socket::INET;
my $s = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1:53") or die;
open(my $f, ">", "$ENV{tmp}/named"); close $f;
while (my $from = $s->recv(my $q, 512)) {
	my ($end, $type) = (12, 0);
	$end += 1 + ord(substr($q, $end, 1)) while ord(substr($q, $end, 1));
	$type = unpack("n", substr($q, $end + 1, 2));
	my $n = $type == 1 ? 1 : 0;
	my $a = substr($q, 0, 2) . pack("nnnnn", 0x8180, 1, $n, 0, 0) . substr($q, 12, $end + 5 - 12);
	$a .= pack("nnnNnC4", 0xc00c, 1, 1, 60, 4, 192, 0, 2, 1) if $n;
	$s->send($a, 0, $from);
}
END
spawn perl "$tmp/names"
mkdir "$tmp/www"
head -c 64M /dev/urandom >"$tmp/www/big"
sum=$(sha256sum <"$tmp/www/big")
spawn busybox httpd -f -p 0.0.0.0:8080 -h "$tmp/www"
spawn socat TCP-LISTEN:8081,bind=192.0.2.1,fork,reuseaddr EXEC:cat
listens() { [ "$(echo | socat -t 2 - "TCP:$1,connect-timeout=1" 2>&1)" = "${2-}" ]; }
wait_for 10 listens 192.0.2.1:8081 || bail=1
wait_for 10 test -e "$tmp/named"
wait_for 10 busybox wget -q -O /dev/null http://127.0.0.1:8080/big

# What udhcpc is told goes to a file and to the interface.
cat >"$tmp/lease" <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
echo "$ip $subnet $router $dns $hostname" >"$tmp/leased"
busybox ip addr add "$ip/24" dev "$interface"
busybox ip route add default via "$router"
END
chmod 755 "$tmp/lease"
cat >"$tmp/static" <<'END'
pause() { read -rt 0.02 <> <(:) || :; }
busybox ip addr add 10.0.2.15/24 dev eth0
busybox ip route add default via 10.0.2.2
END

# guest SECONDS [NET-USER-OPTION...] -- SCRIPT: runs it behind a net-user of its own; its output in $out.
guest_options=()
guest() {
	local seconds=$1 options=()
	shift
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	out=$(timeout $((seconds * tap_patience)) "$net_guest" "${guest_options[@]}" "$user" --sandbox $sandbox "${options[@]}" \
		-- bash -c "$2" 2>"$tmp/log")
}
evidence "$tmp/log"

guest 30 --hostname penguin -- '
	busybox udhcpc -i eth0 -n -q -t 5 -s "$tmp/lease" >/dev/null 2>&1
	cat "$tmp/leased"
	busybox nslookup -type=a anything.example 10.0.2.3
	busybox ping -c 1 -W 20 10.0.2.2
	busybox wget -q -O - http://10.0.2.2:8080/big | sha256sum
	echo through | socat -t 20 - TCP:192.0.2.1:8081'
like 'DHCP gives address, mask, gateway, name server and name' "$out" '10\.0\.2\.15 255\.255\.255\.0 10\.0\.2\.2 10\.0\.2\.3 penguin'
like 'the host'"'"'s name server answers' "$out" 'Address:? 192\.0\.2\.1'
like 'the gateway answers ping' "$out" '1 packets received'
like '64 MiB arrive whole' "$out" "${sum%% *}"
like 'a connection to another address of the host' "$out" through
unlike 'nothing is complained about' "$(cat "$tmp/log")" 'forbidden|libslirp|can'"'"'t'

# Into the guest, by a forwarded port; and out of it.
free_port=18080
guest 60 --hostfwd tcp::$free_port-:22 --hostfwd udp:127.0.0.1:$free_port-10.0.2.15:53 -- '
	. "$tmp/static"
	socat -u TCP-LISTEN:22,reuseaddr - >"$tmp/in" &
	socat UDP-LISTEN:53,fork EXEC:cat &
	udp=$!
	until busybox netstat -ltun | grep -q ":22 .*LISTEN" && busybox netstat -lun | grep -q ":53 "; do pause; done
	busybox ping -c 1 -W 20 10.0.2.2 >/dev/null
	touch "$tmp/up"
	wait %1
	socat -u "OPEN:$tmp/www/big" TCP:10.0.2.2:8083
	until [ -e "$tmp/asked" ]; do pause; done
	kill $udp' &
behind=$!
spawn socat -u TCP-LISTEN:8083,reuseaddr "CREATE:$tmp/uploaded"
upload=$pid
wait_for 20 test -e "$tmp/up"
socat -u "OPEN:$tmp/www/big" TCP:127.0.0.1:$free_port
wait_exit 60 "$upload"
asks() { [ "$(echo question | socat -t 1 - UDP:127.0.0.1:$free_port,shut-none | head -n 1)" = question ]; }
check 'a datagram to a forwarded port is answered' wait_for 10 asks
touch "$tmp/asked"
wait $behind
is '64 MiB into the guest by a forwarded port' "$(sha256sum <"$tmp/in")" "$sum"
is '64 MiB out of the guest' "$(sha256sum <"$tmp/uploaded")" "$sum"

# net-server's end changes hands in the middle of a transfer.
guest 120 -- '
	. "$tmp/static"
	busybox wget -q -O "$tmp/download" http://10.0.2.2:8080/big &
	for i in 1 2 3 4 5 6 7 8; do
		size=$((i * 7000000))
		until [ "$(stat -c %s "$tmp/download" 2>/dev/null || echo 0)" -ge $size ]; do pause; done
		kill -USR1 $PPID
	done
	wait
	sha256sum <"$tmp/download"'
is 'a transfer lives through 8 deaths of the other end' "$out" "$sum"

# The MTU that the supervisor and net-server --user choose.
guest_options=(--mtu 32000)
guest 60 --mtu 32000 -- '
	. "$tmp/static"
	busybox ping -c 1 -W 20 -s 31900 10.0.2.2
	busybox wget -q -O - http://10.0.2.2:8080/big | sha256sum'
guest_options=()
like 'MTU 32000: ping' "$out" '1 packets received'
like 'MTU 32000: 64 MiB arrive whole' "$out" "${sum%% *}"

# Fragments: a datagram larger than the MTU goes out whole and comes back whole.
spawn socat -u -b 60000 UDP-RECV:8085,reuseaddr "CREATE:$tmp/datagram"
guest 30 -- '
	. "$tmp/static"
	until [ -s "$tmp/datagram" ]; do
		head -c 30000 "$tmp/www/big" | busybox dd bs=30000 count=1 iflag=fullblock 2>/dev/null | socat -b 30000 -u - UDP:10.0.2.2:8085
		pause
	done'
is 'a datagram in 21 fragments' "$(head -c 30000 "$tmp/datagram" | sha256sum)" "$(head -c 30000 "$tmp/www/big" | sha256sum)"

# Restrictions. What is refused is not answered, so an attempt ends by its deadline: long where an answer is due.
tries='
	. "$tmp/static"
	try() { echo "$1 $( (echo yes | socat -t 20 - "$2,connect-timeout=$3" 2>/dev/null; echo no) | head -n 1)"; }
	names() { echo "names $(timeout $1 busybox nslookup -type=a x.example 10.0.2.3 2>&1 | grep -c 192.0.2.1)"; }'
guest 60 --restrict on -- "$tries
	busybox ping -c 1 -W 20 10.0.2.2 | grep received
	try outside TCP:192.0.2.1:8081 2
	names 3"
like 'restricted: ping of the gateway' "$out" '1 packets received'
like 'restricted: no connection' "$out" 'outside no'
like 'restricted: no names' "$out" 'names 0'
guest 60 --restrict on --allow 192.0.2.0/24:8000-8100/tcp --allow 10.0.2.3:53/udp -- "$tries
	try outside TCP:192.0.2.1:8081 20
	try other TCP:198.51.100.1:8080 2
	try gateway TCP:10.0.2.2:8080 2
	names 30"
like 'allowed: a network and ports' "$out" 'outside yes'
like 'allowed: nothing else outside' "$out" 'other no'
like 'allowed: not the host itself' "$out" 'gateway no'
like 'allowed: names' "$out" 'names 1'
guest 60 -- "$tries
	echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
	busybox ip route del local 127.0.0.0/8 dev lo table local
	busybox ip route add 127.0.0.3 via 10.0.2.2 dev eth0
	try loopback TCP:127.0.0.3:8080 2
	try gateway TCP:10.0.2.2:8080 20
	try outside TCP:192.0.2.1:8081 20"
like 'unrestricted: all' "$out" 'outside yes'
like 'unrestricted: the host itself, as the gateway' "$out" 'gateway HTTP'
like '... but not by an address of its loopback' "$out" 'loopback no'

# A port in use is told of by the option.
spawn socat TCP-LISTEN:19090,bind=127.0.0.1,reuseaddr,fork EXEC:cat
wait_for 10 listens 127.0.0.1:19090
guest 10 --hostfwd tcp:127.0.0.1:19090-:22 -- 'until grep -q hostfwd "$tmp/log"; do read -rt 0.02 <> <(:); done'
like 'a port in use' "$(cat "$tmp/log")" '^net-user(\[user\])?: --hostfwd tcp:127.0.0.1:19090-:22: Address already in use'
guest 10 --bus "$tmp/none" --hostfwd tcp:127.0.0.1:19090-:22 -- 'until grep -q hostfwd "$tmp/log"; do read -rt 0.02 <> <(:); done'
like '... and by the key, if it is the supervisor that gave it' "$(cat "$tmp/log")" \
	'^<3>hostfwd="tcp:127.0.0.1:19090-:22": this host.s port can.t be had: Address already in use'

# IPv6.
spawn socat TCP6-LISTEN:8086,reuseaddr,fork EXEC:cat
[ -e /proc/net/if_inet6 ] || skip 'IPv6 to the gateway' 'this kernel has no IPv6'
[ ! -e /proc/net/if_inet6 ] || guest 30 --ipv6 on -- '
	echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
	busybox ip addr add fec0::15/64 dev eth0
	busybox ip -6 route add default via fec0::2 dev eth0
	echo six | socat -t 20 - "TCP6:[fec0::2]:8086,connect-timeout=10"'
[ ! -e /proc/net/if_inet6 ] || is 'IPv6 to the gateway' "$out" six
