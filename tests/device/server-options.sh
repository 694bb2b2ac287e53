#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Wrong options of the processes that bulkhead starts are refused in one line.
. "${top_srcdir:?}/tests/support/tap.sh"

# refused TEXT PATTERN OPTION...: exit status 2 and one line that matches, of $program. Descriptor 3 is open.
refused() {
	local text=$1 pattern=$2 out status
	shift 2
	out=$(soon "$program" "$@" 2>&1 3</dev/null)
	status=$?
	text="${program##*/}, $text"
	is "$text: exit status" "$status" 2
	is "$text: one line" "$(printf '%s\n' "$out" | wc -l)" 1
	like "$text: says what" "$out" "$pattern"
}

program=${top_builddir:?}/blk-server/blk-server
truncate -s 1M "$tmp/image"
s=(--socket "$tmp/s" --image "$tmp/image")
refused 'an unknown option' 'blk-server: --colour: no such option'  --colour red
refused 'a word' 'blk-server: foo: no such option' foo
refused 'no socket' '--socket PATH or --vhost-fd N' --image "$tmp/image"
refused 'no image' '--image FILE or --image-fd N' --socket "$tmp/s"
refused 'a front end that is not open' '--vhost-fd 9: must be a connected' --image "$tmp/image" --vhost-fd 9
refused 'a front end that is no socket' '--vhost-fd 9: must be a connected' --image "$tmp/image" --vhost-fd 9 9< /dev/null
refused 'queues 0' '--queues 0: must be a number from 1 to 64' "${s[@]}" --queues 0
refused 'queues 65' '--queues 65: must be' "${s[@]}" --queues=65
refused 'queues -1' '--queues -1: must be' "${s[@]}" --queues -1
refused 'queues overflowing' '--queues 18446744073709551617: must be' "${s[@]}" --queues 18446744073709551617
refused 'more threads than queues' '--io-threads 2: must be at most' "${s[@]}" --io-threads 2
refused 'a thread called main' '--io-threads main: must be' "${s[@]}" --io-threads main
refused 'a thread twice' '--io-threads a:b:a: must be' "${s[@]}" --io-threads a:b:a
refused 'processors that are none' '--io-threads a@x: must be' "${s[@]}" --io-threads a@x
refused 'a map of no such thread' '--map 0:c: must be' "${s[@]}" --io-threads a:b --map 0:c
refused 'a map of no such queue' '--map 1:a: must be' "${s[@]}" --io-threads a:b --map 1:a
refused 'one thread each, and other threads' '--map 1:1: must be' "${s[@]}" --queues 3 --io-threads a:b --map 1:1
refused 'a missing value' '--queues needs a value' "${s[@]}" --queues
refused 'a value too many' '--readonly takes no value' "${s[@]}" --readonly=on
refused 'an option twice' '--image is given twice' "${s[@]}" --image "$tmp/image"
refused 'a format' '--format vmdk: must be raw or qcow2' "${s[@]}" --format vmdk
refused 'a cache mode' '--cache none: must be direct or buffered' "${s[@]}" --cache none
refused 'an engine' '--engine fast: must be aio, io_uring or null' "${s[@]}" --engine fast
refused 'the null engine with tables' '--engine null is for --format raw' "${s[@]}" --engine null --format qcow2
refused 'io_uring without a fence' '--engine io_uring needs --state-fd here' "${s[@]}" --engine io_uring --readonly
refused 'a log level' '--log-level loud: must be' "${s[@]}" --log-level loud
refused 'a missing image' "--image $tmp/none: No such file" --socket "$tmp/s" --image "$tmp/none"
refused 'a directory' "--image $tmp: Is a directory" --socket "$tmp/s" --image "$tmp"
: > "$tmp/empty"
refused 'an empty image' 'must be at least 512 bytes' --socket "$tmp/s" --image "$tmp/empty"
refused 'a fifo' 'must be a regular file or a block device' --socket "$tmp/s" --image /dev/null
refused 'a descriptor that is none' '--image-fd 77: must be an open file' --socket "$tmp/s" --image-fd 77
refused 'memory that is no flight recorder' '--flight-fd 3: must be memory made for it' "${s[@]}" --flight-fd 3
refused 'memory that is no state' '--state-fd 3: must be memory made for it' "${s[@]}" --state-fd 3
refused 'a directory of the socket that is none' 'No such file' --socket "$tmp/no/s" --image "$tmp/image"
refused 'fault 73: a socket path over 107 bytes' 'must be at most 107 bytes' \
	--socket "$tmp/$(printf '%0110d' 0)" --image "$tmp/image"
: > "$tmp/file"
refused 'a socket path that is a file' 'it is no socket' --socket "$tmp/file" --image "$tmp/image"
check 'nothing is left behind' test ! -e "$tmp/s"

truncate -s 1M "$tmp/image2"
d=("${s[@]}" --device one --device two)
refused 'a device twice' '--device two: must be a name of 1 to 31 characters that no other has' "${d[@]}" --device two
refused 'too many devices' '--device [a-z0-9]*: must be .*at most sixteen times' "${d[@]}" $(printf -- '--device d%s ' {1..15})
refused 'a device without a socket' 'two: give --socket PATH or --vhost-fd N' "${d[@]}" --image "$tmp/image2"
refused 'a device without an image' 'give --image FILE or --image-fd N' "${d[@]}" --socket "$tmp/s2"
refused 'one image of two devices' "$tmp/image.*in use" "${d[@]}" --socket "$tmp/s2" --image "$tmp/image"
refused 'one socket of two devices' 'another server listens there' "${d[@]}" --socket "$tmp/s" --image "$tmp/image2"
refused 'an option of a device twice' '--queues is given twice' "${d[@]}" --queues 1 --queues 2
refused 'an option of the process twice' '--poll-max-us is given twice' "${s[@]}" --poll-max-us 1 --device one --device two --poll-max-us 2
refused 'more queues than a process has' 'two: --queues 64: all devices together can have 64' "${d[@]}" --socket "$tmp/s2" \
	--image "$tmp/image2" --queues 64
refused 'more threads than queues of all' '--io-threads 3: must be at most the number of queues \(2\)' "${d[@]}" --socket "$tmp/s2" \
	--image "$tmp/image2" --io-threads 3
refused 'two engines' 'need the same --engine' "${d[@]}" --socket "$tmp/s2" --image "$tmp/image2" --engine null
check 'nothing of two is left behind' test ! -e "$tmp/s" -a ! -e "$tmp/s2"

n=(--socket "$tmp/s" --nbd)
refused 'an image and an export' 'one of them' "${s[@]}" --nbd nbd://localhost
refused 'an export over TLS' '--nbd nbds://localhost: must be nbd://' "${n[@]}" nbds://localhost
refused 'an export without a socket' '--nbd nbd\+unix:///: must be' "${n[@]}" nbd+unix:///
refused 'an outage of no time' '--reconnect 0: must be' "${n[@]}" nbd://localhost --reconnect 0
refused 'an export as qcow2' '--format is for files' "${n[@]}" nbd://localhost --format qcow2

program=$top_builddir/nbd-dial/nbd-dial
refused 'no URI' 'give --uri URI and --socket-fd N' --socket-fd 3
refused 'a URI' '--uri file:///x: must be nbd://' --uri file:///x --socket-fd 3
refused 'a socket that is not open' '--socket-fd 9: must be a socket' --uri nbd://localhost --socket-fd 9

program=$top_builddir/window/window
w=(--socket "$tmp/s")
refused 'no server' 'give --server PATH or --server-fd N, one of them' "${w[@]}"
refused 'two servers' 'give --server PATH or --server-fd N, one of them' "${w[@]}" --server "$tmp/x" --server-fd 9
refused 'a server that is not there' "--server $tmp/none: No such file" "${w[@]}" --server "$tmp/none"
refused 'a server that is not open' '--server-fd 9: must be a connected' "${w[@]}" --server-fd 9
refused 'a server that is no socket' '--server-fd 9: must be a connected' "${w[@]}" --server-fd 9 9</dev/null
refused 'a window too small' '--size 1M: must be a size from 2M to 4G' "${w[@]}" --server-fd 9 --size 1M
refused 'a window too small for its queues' '--size: must be at least 8M for 4 queues' "${w[@]}" --server "$tmp/x" --size 4M --queues 4
check 'nothing of it is left behind' test ! -e "$tmp/s"

program=$top_builddir/vmm-core/vmm-core
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
for ms in '' x -1 3600001 1.5; do
	refused "a hang time-out of '$ms'" 'hang-timeout: must be hang-timeout=MS' "${s[@]}" \
		--device "disk0:blk,socket=a,hang-timeout=$ms"
done
refused 'a device without a way to it' '--device disk0: needs socket=PATH' "${s[@]}" --device disk0:blk
refused 'a socket path over 107 bytes' 'PATH at most 107 bytes' "${s[@]}" \
	--device "disk0:blk,socket=$(printf '%0108d' 0)"
refused 'an address for a disk' 'mac: must be a network device' "${s[@]}" --device disk0:blk,socket=a,mac=52:54:00:12:34:56
refused 'an address of a group' 'mac: must be a network device' "${s[@]}" --device net0:net,socket=a,mac=53:54:00:12:34:56
refused 'an unknown key of a device' '--device queues: must be socket, hang-timeout, first-ring or mac' "${s[@]}" --device disk0:blk,queues=1
refused 'a command line over 2047 bytes' '--append: must be at most 2047 bytes' "${s[@]}" \
	--append "$(printf '%02048d' 0)"
refused 'a sandbox' '--sandbox maybe: must be on, off or log' "${s[@]}" --sandbox maybe
refused 'a log level' '--log-level loud: must be' "${s[@]}" --log-level loud

program=$top_builddir/net-server/net-server
s=(--socket "$tmp/s")
refused 'an unknown option' 'net-server: --colour: no such option' --colour red
refused 'a rule for nobody' '--hostfwd needs --user' "${s[@]}" --packet-fd 3 --hostfwd tcp::2-:2
refused 'another end beside --user' '--user: must be the only other end' "${s[@]}" --user --packet-fd 3
refused 'what net-user does not take' 'net-user: --hostfwd tcp::0-:2: must be' "${s[@]}" --user --hostfwd tcp::0-:2
refused 'a network that net-user does not take' 'net-user: --net 10.0.2.0/28: must be' "${s[@]}" --user --net 10.0.2.0/28
refused 'an MTU that net-user does not take' 'net-user: --mtu 100: must be' "${s[@]}" --user --mtu 100
for option in '--net 10.9.8.0/24' '--dns 10.0.2.4' '--ipv6 on' '--hostname guest'; do
	# shellcheck disable=SC2086
	refused "${option% *} without --user" "${option% *} needs --user" "${s[@]}" --packet-fd 3 $option
done
refused 'no backend' 'give --tap NAME, --tap-fd N' "${s[@]}"
refused 'two backends' 'give --tap NAME, --tap-fd N' "${s[@]}" --packet-fd 3 --stream "$tmp/x"
refused 'a name of 16 characters' '--tap 0123456789abcdef: must be the name' "${s[@]}" --tap 0123456789abcdef
refused 'a queue that is none' '--tap-fd 3: must be a tap' "${s[@]}" --tap-fd 3
refused 'a queue too many' '--tap-fd 3,4: must be' "${s[@]}" --tap-fd 3,4
refused 'a queue that is no number' '--tap-fd x: must be a descriptor' "${s[@]}" --tap-fd x
refused 'a packet socket that is none' '--packet-fd 3: must be a connected SOCK_SEQPACKET' "${s[@]}" --packet-fd 3
refused 'a stream that is none' '--stream-fd 3: must be a connected stream' "${s[@]}" --stream-fd 3
refused 'a closed descriptor' '--packet-fd 77: Bad file descriptor' "${s[@]}" --packet-fd 77
refused 'nobody at the stream' "--stream $tmp/none: nobody can be connected to" "${s[@]}" --stream "$tmp/none"
refused 'fault 73: a stream path over 107 bytes' 'must be at most 107 bytes' "${s[@]}" --stream "$tmp/$(printf '%0110d' 0)"
refused 'several pairs on a socket' '--packet-fd has one queue' "${s[@]}" --packet-fd 3 --queues 2
refused 'queues 32' '--queues 32: must be at most 31' "${s[@]}" --packet-fd 3 --queues 32
for mac in '' 02:00:00:00:00 02:00:00:00:00:0g 02:00:00:00:00:01:02 01:00:00:00:00:01 02-00-00-00-00-01; do
	refused "a MAC address '$mac'" "--mac $mac: must be six bytes" "${s[@]}" --packet-fd 3 --mac "$mac"
done
refused 'mtu 67' '--mtu 67: must be a number from 68' "${s[@]}" --packet-fd 3 --mtu 67
for rate in '' x 1/ /1 1/2/3 -1 2T; do
	refused "a rate of '$rate'" "--tx-bytes $rate: must be a rate" "${s[@]}" --packet-fd 3 --tx-bytes "$rate"
done
check 'nothing is left behind' test ! -e "$tmp/s"

program=$top_builddir/net-user/net-user
s=(--packet-fd 3)
refused 'an unknown option' 'net-user: --colour: no such option' --colour red
refused 'no socket' '--packet-fd is needed' --mtu 1500
refused 'a descriptor that is none' '--packet-fd 77: must be a SOCK_SEQPACKET' --packet-fd 77
refused 'a file' '--packet-fd 3: must be a SOCK_SEQPACKET' "${s[@]}"
refused 'a destination for an unrestricted guest' '--allow needs --restrict on' "${s[@]}" --allow 10.0.0.0/8
for rule in '' tcp 'tcp::22' 'sctp::1-:2' 'tcp::0-:22' 'tcp::22-:65536' 'tcp:300.1.1.1:22-:22' 'tcp:22-22' 'tcp::1-:2-:3'; do
	refused "a forwarding '$rule'" "--hostfwd $rule: must be tcp.udp" "${s[@]}" --hostfwd "$rule"
done
refused 'a forwarding to elsewhere' '--hostfwd tcp::2-192.168.1.1:2: the guest.s address must be' "${s[@]}" --hostfwd tcp::2-192.168.1.1:2
refused 'a forwarding to the gateway' 'the guest.s address must be' "${s[@]}" --hostfwd tcp::2-10.0.2.2:2
for dest in '' 1.2.3 10.0.0.1/8 1.2.3.4/33 1.2.3.4:0 1.2.3.4:5-4 1.2.3.4:80/sctp '[::1' '[fe80::1/64]' '[::1]:x' example.com; do
	refused "a destination '$dest'" 'must be CIDR' "${s[@]}" --restrict on --allow "$dest"
done
for net in 10.0.2.0 10.0.2.0/28 10.0.2.1/24 127.0.0.0/8 224.0.0.0/8 0.0.0.0/8 10.0.2.0/x; do
	refused "a network $net" "--net $net: must be an IPv4 network" "${s[@]}" --net "$net"
done
refused 'a name server elsewhere' '--dns 10.0.3.3: must be a free address' "${s[@]}" --dns 10.0.3.3
refused 'a name server on the gateway' '--dns 10.0.2.2: must be a free address' "${s[@]}" --dns 10.0.2.2
refused 'a host name' '--hostname a_b: must be a host name' "${s[@]}" --hostname a_b
refused 'an mtu' '--mtu 100: must be' "${s[@]}" --mtu 100
refused 'a switch' '--ipv6 yes: must be on or off' "${s[@]}" --ipv6 yes
refused 'a port of the host twice' '--hostfwd udp::2-:3: that port of the host is forwarded already' "${s[@]}" \
	--hostfwd tcp::2-:2 --hostfwd udp:127.0.0.1:2-:2 --hostfwd udp::2-:3

# The supervisor names who speaks, and wants to know how grave it is.
for name in blk-server net-server net-user nbd-dial window; do
	program=$top_builddir/$name/$name
	refused 'under a supervisor' '^<3>--colour: no such option; see' --id x --bus "$tmp/bus" --colour
	refused 'under a supervisor, in one word' '^<3>--log-level loud: must be' "--bus=$tmp/bus" --log-level loud
done
