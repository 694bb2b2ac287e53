#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In the test host: a stock guest's network under bulkhead, by a tap and in user mode, reported as TAP. Needs a busybox
# shell. The guest does what is typed on its serial line.
#   net-host.sh MIB KILLS SECONDS PART...
# Parts: tap-out tap-in user-out user-in (transfers of so many MiB) speed link kills.
set -u
mib=$1 kills=$2 seconds=$3
shift 3
parts=" $* "
wants() { case $parts in *" $1 "*) ;; *) return 1 ;; esac; }
. /bin/common
asked=0
since() { echo $(($(cut -d. -f1 /proc/uptime) - begun)); }
begun=$(cut -d. -f1 /proc/uptime)

# guest SECONDS COMMAND: has the guest's shell do it; its output is in /tmp/said.
guest() {
	asked=$((asked + 1)) from=$(($(wc -l </tmp/console) + 1))
	echo "{ $2; } 2>&1; echo \"guest: done $asked \$?\"" >&5
	until_true "$1" grep -q "^guest: done $asked [0-9]" /tmp/console || return 1
	tail -n "+$from" /tmp/console | tr -d '\r' | sed -n "/^guest: done $asked /q;p" >/tmp/said
	tr -d '\r' </tmp/console | grep -q "^guest: done $asked 0"
}
# A check that is done in the guest.
guest_check() { check "$1" /tmp/said guest "$2" "$3"; }

pattern() {
	n=0
	while [ $n -lt "$1" ]; do
		echo $n
		cat /tmp/block
		n=$((n + 1))
	done
}
speed() { echo "$((mib * 100 / ($2 - $1 + 1))) MiB/s"; }
now() { awk '{ printf "%d\n", $1 * 100 }' /proc/uptime; }

# outbound NAME ADDRESS / inbound NAME ADDRESS PORT: so many MiB out of the guest and into it, with sums.
outbound() {
	t=$(now)
	socat -u -b 65536 TCP-LISTEN:5001,reuseaddr - </dev/null | md5sum >/tmp/sum &
	taker=$!
	until_true 10 sh -c 'netstat -ltn | grep -q ":5001 "'
	guest 3000 "pattern $mib | socat -u -b 65536 - TCP:$2:5001" || kill $taker
	wait $taker
	check "$1: $mib MiB out of the guest, the sum is right ($(speed "$t" "$(now)"))" /tmp/sum cmp /tmp/sum /tmp/sum.want
}
inbound() {
	guest 60 "take $3"
	t=$(now)
	pattern "$mib" | timeout 3000 socat -u -b 65536 - "TCP:$2"
	guest 600 'until [ -f /tmp/sum ]; do usleep 20000; done; cat /tmp/sum'
	check "$1: $mib MiB into the guest, the sum is right ($(speed "$t" "$(now)"))" /tmp/said grep -qf /tmp/sum.want /tmp/said
}

# iperf NAME OPTION...: prints what the receiver got, which ends well only if it is something.
iperf() {
	name=$1
	shift
	status=0
	timeout 120 iperf3 -c 10.9.0.10 -f m -t "$seconds" "$@" >/tmp/iperf 2>&1 || status=$?
	rate=$(awk '/receiver/ { r = $(NF - 2) } END { print r + 0 }' /tmp/iperf)
	check "iperf3, $name: $rate Mbit/s" /tmp/iperf [ "$status" = 0 -a "${rate%%.*}" -gt 0 ]
}

seq 1 160000 | head -c 1048576 >/tmp/block
pattern "$mib" | md5sum >/tmp/sum.want
echo nameserver 127.0.0.1 >/etc/resolv.conf
cp /guest/root.img /tmp/root.img
: >/tmp/console
mkfifo /tmp/keys
exec 5<>/tmp/keys

bulkhead run --name vm --kernel /guest/vmlinuz --initrd /guest/initrd --cpus 4 --memory 384M \
	--append "console=ttyS0 quiet panic=-1" --disk path=/tmp/root.img --console stdio \
	--net tap=tap0,queues=4,mtu=9000,restarts=1000/60 --net user,restarts=2/60,hostfwd=tcp:127.0.0.1:2222-:22 <&5 >>/tmp/console 2>/tmp/log &
vm=$!
follow
until_true 60 [ -d /sys/class/net/tap0 ] || until_true 1 dead $vm
ifconfig tap0 10.9.0.1 netmask 255.255.255.0 mtu 9000 up
cat >/tmp/udhcpd.conf <<END
interface tap0
start 10.9.0.10
end 10.9.0.10
opt dns 10.9.0.1
opt router 10.9.0.1
opt subnet 255.255.255.0
opt lease 86400
lease_file /tmp/leases
pidfile /tmp/udhcpd.pid
END
: >/tmp/leases
udhcpd -f /tmp/udhcpd.conf >/tmp/udhcpd.log 2>&1 &
dns-one 53 10.9.0.77 & # an address that nobody has, so that no other line of an answer has it
until_true 300 grep -q 'guest:/' /tmp/console
echo "exec sh /etc/bulkhead/net-guest" >&5
until_true 60 grep -q '^guest: listening' /tmp/console
guest_check "the guest is up" 60 "test -d /sys/class/net/eth1"
echo "# $(since) s"

guest_check "tap: the device says which MTU" 10 "grep -x 9000 /sys/class/net/eth0/mtu"
guest_check "tap: DHCP" 60 "dhcp eth0 10.9.0.10 10.9.0.1"
guest_check "tap: a name is resolved" 30 "nslookup one.example 10.9.0.1 | grep -w 10.9.0.77"
guest_check "user: DHCP" 60 "dhcp eth1 10.0.2.15 10.0.2.3"
guest_check "user: a name is resolved" 30 "nslookup two.example 10.0.2.3 | grep -w 10.9.0.77"
guest_check "user: the host answers" 30 "ping -c 3 -W 10 10.0.2.2"
echo "# $(since) s"
! wants tap-out || outbound tap 10.9.0.1
! wants tap-in || inbound tap 10.9.0.10:5002 5002
! wants user-out || outbound user 10.0.2.2
! wants user-in || inbound user 127.0.0.1:2222 22
echo "# $(since) s"

speed_part() {
	guest_check "the device has four queue pairs, and all are used" 10 "ethtool -l eth0 | grep -c 'Combined:.*4' | grep -x 2"
	guest_check "iperf3 listens" 30 "iperf3 -s -D && until netstat -ltn | grep -q :5201; do usleep 20000; done"
	iperf "in, four pairs" -P 4
	iperf "out, four pairs" -P 4 -R
	guest_check "one pair by the control queue" 30 "ethtool -L eth0 combined 1 && ethtool -l eth0 | grep -c 'Combined:.*1' | grep -x 1"
	iperf "in, one pair"
	iperf "out, one pair" -R
	guest_check "four pairs again" 30 "ethtool -L eth0 combined 4"
	echo "# $(since) s"
}
! wants speed || speed_part

link_part() {
	/bin/ping -q -f -c 1000 10.9.0.10 >/tmp/ping 2>&1
	check "ping flood: $(grep loss /tmp/ping)" /tmp/ping grep ' 0% packet loss' /tmp/ping
	fragments() { awk '/^Ip:/ { v = $20 } END { print v }' /proc/net/snmp; }
	before=$(fragments)
	/bin/ping -q -c 5 -s 8972 -W 10 10.9.0.10 >/tmp/ping 2>&1
	check "MTU 9000: packets of that size, whole" /tmp/ping sh -c \
		"grep -q ' 0% packet loss' /tmp/ping && [ '$before' = '$(fragments)' ]"

	check "link down: said to net-server" /tmp/log bulkhead ctl vm set net0 link=down
	guest_check "link down: the guest sees it" 60 "carrier eth0 0"
	/bin/ping -q -c 2 -W 1 10.9.0.10 >/tmp/ping 2>&1
	check "link down: nothing passes" /tmp/ping grep '100% packet loss' /tmp/ping
	check "link up: said to net-server" /tmp/log bulkhead ctl vm set net0 link=up
	guest_check "link up: the guest sees it" 60 "carrier eth0 1"
	/bin/ping -q -c 3 -W 10 10.9.0.10 >/tmp/ping 2>&1
	check "link up: it passes again" /tmp/ping grep ' 0% packet loss' /tmp/ping
	echo "# $(since) s"
}
! wants link || link_part

# ---- kills: TCP both ways with sums, and packets that are counted ----
resent() { awk '/^Tcp:/ { v = $13 } END { print v }' /proc/net/snmp; }
kills_part() {
	mkfifo /tmp/summed
	guest 60 "rm -f /tmp/enough; take 5003"
	socat -u -b 65536 TCP-LISTEN:5004,reuseaddr - </dev/null | md5sum >/tmp/sum &
	taker=$!
	until_true 10 sh -c 'netstat -ltn | grep -q ":5004 "'
	md5sum </tmp/summed >/tmp/sum.want &
	summer=$!
	while [ ! -f /tmp/enough ]; do cat /tmp/block; done | tee /tmp/summed | socat -u -b 65536 - TCP:10.9.0.10:5003 &
	giver=$!
	guest 60 "give 10.9.0.1 5004"
	/bin/ping -q -i 0.01 10.9.0.10 >/tmp/ping 2>&1 &
	pinger=$!
	host_before=$(resent)
	killed=0
	seed=$$
	while [ $killed -lt "$kills" ]; do
		seed=$(((seed * 1103515245 + 12345) & 0x7fffffff))
		usleep $(((seed >> 8) % 300000))
		until_true 60 replaced net0 none || break
		old=$new
		kill -KILL "$old" && until_true 60 replaced net0 "$old" || break
		killed=$((killed + 1))
	done
	check "kills: net-server was killed and replaced $killed times" /tmp/log [ "$killed" = "$kills" ]
	# Until one that was asked after the last kill has been answered: what comes late is in then, too.
	until_true 60 /bin/ping -q -c 1 -W 10 10.9.0.10
	kill -INT $pinger
	wait $pinger
	touch /tmp/enough
	host_resent=$(($(resent) - host_before))
	wait $giver $summer
	check "kills: TCP into the guest, the sum is right" /tmp/said guest 300 \
		"touch /tmp/enough; until [ -f /tmp/sum ]; do usleep 20000; done; cat /tmp/sum; grep $(cut -d' ' -f1 /tmp/sum.want) /tmp/sum"
	guest 300 'until [ -s /tmp/sum.given ]; do usleep 20000; done; cat /tmp/sum.given'
	wait $taker
	check "kills: TCP out of the guest, the sum is right" /tmp/said grep -qf /tmp/sum /tmp/said
	guest 10 "awk '/^Tcp:/ { v = \$13 } END { print v }' /proc/net/snmp"
	awk -v kills="$killed" -v host="$host_resent" -v guest="$(head -n 1 /tmp/said)" '/transmitted/ {
		for (i = 1; i <= NF; i++) { if ($i ~ /^transmitted/) sent = $(i - 2); if ($i ~ /^received/) came = $(i - 1); if ($i ~ /^duplicates/) twice = substr($(i - 1), 2) }
		printf "# kills: of %d echo requests, one in 10 ms, %d had no answer and %d a second one: %.2f lost a kill, %.2f twice;",
			sent, sent - came, twice, (sent - came) / (kills ? kills : 1), twice / (kills ? kills : 1)
		printf " TCP segments sent again: %d by the host, %d by the guest since it booted\n", host, guest }' /tmp/ping
	echo "# $(since) s"
}
! wants kills || kills_part

guest_check "no kernel errors in the guest" 10 "! dmesg | grep -E 'NETDEV WATCHDOG|BUG:|virtio_net.*(error|timeout)'"
bulkhead ctl vm status | sed 's/^/# /'
bulkhead ctl vm power-button
until_true 240 dead $vm || kill -KILL $vm
wait $vm
status=$?
check "exit status 0 after power-off ($status)" /tmp/log [ $status = 0 ]
nothing_left ''
grep 'is back after' /tmp/log | tail -n 5 | sed 's/^/# /'
echo "# $(since) s"
dmesg | grep 'type=1326' | sed 's/^/# /'
echo "1..$count"
[ $failed = 0 ]
