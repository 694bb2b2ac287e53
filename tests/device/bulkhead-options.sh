#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every wrong option of `bulkhead run` is one line that names option, value and what is allowed; exit 2; no trace.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
make_machine
long=$(printf 'x%.0s' {1..120})

# refused TEXT REGEX OPTION...: with a kernel given.
refused() {
	local text=$1 regex=$2 out code
	shift 2
	out=$(soon "$bulkhead" run --run-dir "$run_dir" --name t --kernel "$tmp/kernel" "$@" 2>&1 </dev/null)
	code=$?
	if [ $code -eq 2 ] && [ "$(wc -l <<<"$out")" -eq 1 ] && [[ $out =~ ^bulkhead:\ .*$regex ]] && [[ $out != *starting* ]] && [ ! -e "$run_dir" ]; then
		ok "$text"
	else
		not_ok "$text" "exit $code, output:" "$out" "want: $regex" "run directory: $(ls -d "$run_dir" 2>&1)"
	fi
	rm -rf "$run_dir"
}

refused "fault 70: unknown option" '--frobnicate: no such option' --frobnicate
refused "a word that is no option" '"stray": not an option' stray
refused "value missing" '--cpus: needs a value: N' --cpus
refused "fault 70: given twice" '--cpus: "2" is given after another' --cpus 1 --cpus 2
for v in 0 -1 65 4x 99999999999999999999 ''; do
	refused "fault 71: --cpus '$v'" "--cpus: \"$v\" is not a number from 1 to 64" --cpus "$v"
done
for v in 0 -1 15M 16777217 513G 99999999999T 1Q abc; do
	refused "fault 71: --memory '$v'" "--memory: \"$v\" is not a size from 16M to 512G" --memory "$v"
done
refused "--memory without a size" '--memory: .*allowed: SIZE' --memory ''
refused "fault 70: --memory with an unknown key" '--memory: "color" is not possible; allowed: SIZE' --memory 64M,color=red
refused "--memory hugepages=maybe" '--memory: hugepages="maybe" .*allowed: on, off' --memory 64M,hugepages=maybe
refused "--memory odd with huge pages" '--memory: an odd number .* 2M' --memory 65M,hugepages=on
refused "--cpu other" '--cpu: "qemu64" is not a processor; allowed: host' --cpu qemu64
refused "--cpu feature without minus" '--cpu: "avx" does not take a feature away' --cpu host,avx
refused "--cpu empty feature" '--cpu: "-" does not take' --cpu host,-
refused "--console other" '--console: "vga" is no console; allowed: stdio, pty, file=FILE, socket=SOCKET' --console vga
refused "--console file in no directory" '--console: file="/nonexistent/x" can.t be opened' --console file=/nonexistent/x
refused "fault 73: --console socket too long" '--console: .* has 12[0-9] bytes; .* can have 107' --console "socket=/$long"
refused "--on-reboot other" '--on-reboot: "maybe" is not possible; allowed: exit, restart' --on-reboot maybe
refused "--on-crash other" '--on-crash: "maybe" is not possible; allowed: stop, restart' --on-crash maybe
refused "--restarts without seconds" '--restarts: "5" is not N/SECONDS' --restarts 5
refused "fault 71: --restarts 5/0" '--restarts: "5/0" is not N/SECONDS' --restarts 5/0
refused "fault 71: --grace negative" '--grace: "-1" is not a number from 0 to 3600' --grace -1
refused "--sandbox other" '--sandbox: "maybe" is not possible; allowed: on, off, log' --sandbox maybe
refused "--log other" '--log: "file" is not possible; allowed: stderr, syslog' --log file
refused "--log-level other" '--log-level: "loud" is no level; allowed: error, warning, info, debug' --log-level loud
refused "--append control character" '--append: .* control character' --append $'a\nb'
refused "--append too long" '--append: has 2048 bytes; at most 2047' --append "$(printf 'x%.0s' {1..2048})"
refused "--run-dir relative" '--run-dir: "run" is not absolute|is given after' --run-dir=run
refused "--initrd missing file" "--initrd: \"/nonexistent\" can't be opened: No such file" --initrd /nonexistent

refused "--disk without a path" '--disk: names no image' --disk id=a
refused "fault 70: --disk unknown key" '--disk: "frmat" is no key of a disk; allowed: path, id' --disk "path=$tmp/disk.img,frmat=raw"
refused "--disk with a path alone" '--disk: "root.img" is no key .*; an image is path=root.img$' --disk root.img
refused "fault 70: --disk key twice" '--disk: "id" is given twice' --disk "path=$tmp/disk.img,id=a,id=b"
refused "--disk key without value" '--disk: "readonly" needs a value' --disk "path=$tmp/disk.img,readonly"
refused "--disk empty key" '--disk: .* empty key' --disk ",path=x"
for o in "disk path=$tmp/disk.img," "disk path=$tmp/disk.img,io-threads=a,map=0:a," "net user," "net user,mtu=1400," \
	"net user,hostname=a,,," "limit-group id=a,"; do
	refused "--$o ends in a comma" "--${o%% *}: \"${o#* }\" has an empty key" "--${o%% *}" "${o#* }"
done
refused "--memory that ends in a comma" '--memory: "64M," is not possible; allowed: SIZE' --memory 64M,
refused "--disk format=vmdk" '--disk: format="vmdk" is not possible; allowed: raw, qcow2' --disk "path=$tmp/disk.img,format=vmdk"
refused "--disk backing of a raw image" '--disk: backing="raw:/b" goes with format=qcow2 only' --disk "path=$tmp/disk.img,backing=raw:/b"
refused "--disk backing that is not there" "--disk: backing=\"/nonexistent\" can't be opened" --disk "path=$tmp/disk.img,format=qcow2,backing=qcow2:/nonexistent"
refused "--disk nbd of another kind" '--disk: nbd="file:///x" is not possible: it does not begin with nbd://' --disk "nbd=file:///x"
refused "--disk nbd and path" '--disk: path=".*" does not go with nbd' --disk "path=$tmp/disk.img,nbd=nbd://localhost"
refused "--disk nbd and format" '--disk: format, backing, cache and engine do not go with nbd' --disk "nbd=nbd://localhost,format=qcow2"
refused "--disk reconnect of a file" '--disk: reconnect="5" goes with nbd only' --disk "path=$tmp/disk.img,reconnect=5"
refused "--disk reconnect=0" '--disk: reconnect="0" is not possible; allowed: 1 to' --disk "nbd=nbd://localhost,reconnect=0"
refused "fault 71: --disk queues=0" '--disk: queues="0" is not a number from 1 to 64' --disk "path=$tmp/disk.img,queues=0"
refused "--disk io-threads of none" '--disk: io-threads="0" is not possible' --disk "path=$tmp/disk.img,io-threads=0"
refused "--disk io-threads twice the same" '--disk: io-threads="a:a" is not possible' --disk "path=$tmp/disk.img,io-threads=a:a"
refused "--disk io-threads, more than queues" '--disk: io-threads="3" are more than there are queues .2.' --disk "path=$tmp/disk.img,queues=2,io-threads=3"
refused "--disk io-threads, processors with a comma" '--disk: io-threads="a@0,x" is not possible|"x" is no key' --disk "path=$tmp/disk.img,io-threads=a@0,x"
refused "--disk map of no thread" '--disk: map="0:a,1:c" is not possible' --disk "path=$tmp/disk.img,queues=2,io-threads=a:b,map=0:a,1:c"
d=(--disk "path=$tmp/disk.img,server=store")
refused "--disk server, not a name" '--disk: server="a b" is not a name' --disk "path=$tmp/disk.img,server=a b"
refused "--disk server that is a port's id" '--disk: server="net0" is the id of a device' --disk "path=$tmp/disk.img,server=net0" --net user
refused "--disk server with a name of Bulkhead's" '--disk: server="keeper" is Bulkhead' --disk "path=$tmp/disk.img,server=keeper"
refused "--disk server twice with one image" 'is the image of disk0, too' "${d[@]}" "${d[@]}"
refused "--disk server and an NBD server" '--disk: server="store" does not go with nbd' --disk "nbd=nbd://localhost,server=store"
refused "--disk server and somebody else's" '"server" does not go with vhost-user' --disk "vhost-user=$tmp/x,server=store"
for keys in "spare=off spare=on" "restarts=1/2 restarts=1/3" "on-failure=stop on-failure=quarantine" "engine=null engine=aio" \
	"io-threads=a:b io-threads=a" "poll-max-us=1 poll-max-us=2"; do
	refused "--disk server with ${keys/ / and }" "--disk: ${keys%%=*} of disk1 and of disk2 differ, and server=\"store\" is one" \
		"${d[@]},queues=2" "${d[@]},${keys% *}" "${d[@]},${keys#* }"
done
refused "--disk server with an engine that one disk can't have" '--disk: engine=null goes with format=raw only, and disk0 shares' \
	"${d[@]},format=qcow2" --disk "path=$tmp/disk1.img,server=store,engine=null"
refused "--disk server with a ninth disk" '--disk: server="store" has more than 8 disks' "${d[@]}" "${d[@]}" "${d[@]}" \
	"${d[@]}" "${d[@]}" "${d[@]}" "${d[@]}" "${d[@]}" "${d[@]}"
refused "--disk server with a 65th queue" '--disk: server="store" has more than 64 queues' "${d[@]},queues=60" "${d[@]},queues=5"
refused "--disk server with more threads than queues" '--disk: io-threads="3" are more than there are queues .2.' \
	"${d[@]},io-threads=3" "${d[@]}"
refused "--disk server with a thread for each queue, and too few of them" '--disk: map="1:1" is not possible' \
	"${d[@]},io-threads=a,map=1:1" "${d[@]},map=1:1"
refused "--disk server with a map to no thread of it" '--disk: map="0:c" is not possible' "${d[@]},io-threads=a:b,map=0:a" \
	"${d[@]},map=0:c"
refused "--disk map of no queue" '--disk: map="2:a" is not possible' --disk "path=$tmp/disk.img,queues=2,io-threads=a:b,map=2:a"
refused "--disk a number after another key" '--disk: "1:b" is no key' --disk "path=$tmp/disk.img,queues=2,1:b"
refused "--disk poll-max-us too long" '--disk: poll-max-us="1000001" is not a number' --disk "path=$tmp/disk.img,poll-max-us=1000001"
refused "--net map of no thread" '--net: map="0:io1" is not possible' --net user,map=0:io1
refused "--disk cache=fast" '--disk: cache="fast" is not possible; allowed: direct, buffered' --disk "path=$tmp/disk.img,cache=fast"
refused "--disk readonly=yes" '--disk: readonly="yes" is not possible; allowed: on, off' --disk "path=$tmp/disk.img,readonly=yes"
refused "fault 72: --disk id with traversal" '--disk: id="../x" is not a name' --disk "path=$tmp/disk.img,id=../x"
refused "--disk id of our own" '--disk: id="core" is Bulkhead' --disk "path=$tmp/disk.img,id=core"
refused "fault 70: --disk same id twice" '--disk: id="a" is given twice' --disk "path=$tmp/disk.img,id=a" --disk "path=$tmp/disk1.img,id=a"
refused "--disk id of a default" '--disk: id="disk1" is given twice' --disk "path=$tmp/disk.img,id=disk1" --disk "path=$tmp/disk1.img"
refused "--disk same image twice" '--disk: path=".*disk.img" is the image of a, too' --disk "path=$tmp/disk.img,id=a" --disk "path=$tmp/disk.img"
refused "--disk missing image" "--disk: path=\"/nonexistent\" can't be opened: No such file" --disk path=/nonexistent
refused "fault 72: --disk directory" '--disk: path="/" is no file of data; a regular file or block device' --disk path=/
refused "fault 72: --disk character device" '--disk: path="/dev/null" is no file of data' --disk path=/dev/null
refused "fault 72: --disk /proc/self/mem" '--disk: path="/proc/self/mem" is part of /proc' --disk path=/proc/self/mem
mkfifo "$tmp/fifo"
refused "--disk FIFO, without waiting for a writer" '--disk: path=".*fifo" is no file of data' --disk "path=$tmp/fifo"
: >"$tmp/empty"
refused "--disk empty image" '--disk: path=".*empty" has 0 bytes; at least one sector' --disk "path=$tmp/empty"
refused "--disk vhost-user nobody there" '--disk: vhost-user="/nonexistent": No such file' --disk vhost-user=/nonexistent
refused "fault 73: --disk vhost-user path too long" '--disk: vhost-user=.*; a socket.s path can have 107' --disk "vhost-user=/$long"
refused "--disk vhost-user with queues" '--disk: "queues" does not go with vhost-user' --disk vhost-user=/x,queues=2
many=()
for i in {1..17}; do many+=(--disk "path=$tmp/disk.img"); done
refused "--disk 17 times" '--disk: ".*" is one too many; at most 16' "${many[@]}"

refused "--net of nothing" '--net: names no network; one of these is needed: user, tap=NAME' --net id=a
refused "--net of two networks" '--net: names more than one network' --net user,tap=t0
refused "fault 70: --net unknown key" '--net: "mca" is no key of a network port; allowed: user, tap, stream' --net user,mca=x
refused "--net with a name alone" '--net: "tap0" is no key .*; a tap is tap=tap0$' --net tap0
refused "--net user=off" '--net: user="off" is not possible' --net user=off
refused "--net mac too short" '--net: mac="52:54:00" is not an address like' --net user,mac=52:54:00
refused "--net mac of a group" '--net: mac="53:54:00:12:34:56" is a group' --net user,mac=53:54:00:12:34:56
refused "--net mac of zeros" '--net: mac="00:00:00:00:00:00" is nobody.s address; one that is not all zeroes' --net user,mac=00:00:00:00:00:00
refused "--net same mac twice" '--net: mac="52:54:00:12:34:56" of net1 is that of net0, too' \
	--net user,mac=52:54:00:12:34:56 --net user,mac=52:54:00:12:34:56
refused "--net same tap twice" '--net: tap="t0" is given twice' --net tap=t0 --net tap=t0,bridge=br0
refused "--net id of a disk" '--net: id="a" is given twice' --disk "path=$tmp/disk.img,id=a" --net user,id=a
refused "--net mtu=100" '--net: mtu="100" is not a number from 576 to 65521' --net user,mtu=100
refused "--net queues=17" '--net: queues="17" is not a number from 1 to 16' --net user,queues=17
refused "fault 72: --net tap with a slash" '--net: tap="a/b" is not an interface' --net tap=a/b
refused "--net tap with a pattern" '--net: tap="tap%d" is not an interface' --net tap=tap%d
refused "--net tap name too long" '--net: tap="0123456789abcdef" is not an interface.s name: 1 to 15' --net tap=0123456789abcdef
for v in user "stream=/x" "listen=$tmp/x"; do
	refused "--net $v with queues" '--net: queues="2" only goes with tap' --net "$v,queues=2"
done
refused "--net bridge without a tap" '--net: "bridge" only goes with tap' --net user,bridge=br0
refused "--net hostfwd with a tap" '--net: "hostfwd" only goes with user' --net tap=t0,hostfwd=tcp::1-:2
for v in 22 tcp:22 tcp::22-22 sctp::1-:2 tcp::0-:1 tcp::1-:65536 tcp::-:1 tcp:localhost:18997-:80 tcp::1-:2-:3; do
	refused "--net hostfwd=$v" "--net: hostfwd=\"$v\": must be tcp\\|udp:\[ADDR\]:PORT-" --net "user,hostfwd=$v"
done
for v in tcp::18997-192.0.2.3:80 tcp::18997-10.0.2.2:80 udp::18997-10.0.2.3:80 tcp::18997-10.0.2.255:80; do
	refused "--net hostfwd=$v" "--net: hostfwd=\"$v\": the guest.s address must be one of its network" --net "user,hostfwd=$v"
done
refused "--net hostfwd of a port twice" '--net: hostfwd="tcp:127.0.0.1:18997-:81": that port of the host is forwarded already' \
	--net user,hostfwd=tcp::18997-:80,hostfwd=udp::18997-:80,hostfwd=tcp:127.0.0.1:18997-:81
refused "--net hostfwd of a port of another one's" '--net: hostfwd="tcp::18997-:81" of net1 is of a port that net0 forwards, too' \
	--net user,hostfwd=tcp::18998-:80,hostfwd=tcp::18997-:80 --net user,hostfwd=tcp::18997-:81
refused "--net hostfwd 65 times" '--net: hostfwd="tcp::65-:1" is one too many; at most 64' --net "user$(printf ',hostfwd=tcp::%s-:1' {1..65})"
for v in foo.com:80 1.2.3.4:99999 1.2.3.4/33 1.2.3.4/24 1.2.3.4:5-4 1.2.3.4/sctp '[::1' '[fe80::1/64]'; do
	refused "--net allow=$v" '--net: allow=".*": must be CIDR\[:PORT' --net "user,ipv6=on,restrict=on,allow=192.0.2.1,allow=$v"
done
refused "--net allow without restrict" '--net: "allow" only goes with restrict=on' --net user,allow=192.0.2.1
refused "--net allow of IPv6 without it" '--net: allow="\[2001:db8::1\]" only goes with ipv6=on' --net 'user,restrict=on,allow=[2001:db8::1]'
refused "--net ipv6=yes" '--net: ipv6="yes" is not possible; allowed: on, off' --net user,ipv6=yes
for v in 10.0.2.0 10.0.2.0/28 10.0.2/24 10.0.2.0/24x 2001:db8::/24 10.0.2.9/24 127.0.0.0/8 0.0.0.0/8 224.0.0.0/8; do
	refused "--net net=$v" "--net: net=\"$v\": must be an IPv4 network like 10.0.2.0/24: 8 to 27 bits" --net "user,net=$v"
done
refused "--net dns of a name" '--net: dns="one": must be an IPv4 address' --net user,dns=one
for v in 1.1.1.1 10.0.2.2 10.0.2.15 10.0.2.0 10.0.2.255; do
	refused "--net dns=$v" "--net: dns=\"$v\": must be a free address of the guest.s network" --net "user,dns=$v"
done
refused "--net dns of another network than net" '--net: dns="10.0.2.3": must be a free address' --net user,net=10.9.0.0/24,dns=10.0.2.3
refused "--net hostname with a blank" '--net: hostname="a b": must be a host name: 1 to 63' --net "user,hostname=a b"
for v in ${long:0:64} a_b; do
	refused "--net hostname=$v" '--net: hostname=".*": must be a host name' --net "user,hostname=$v"
done
for v in ipv6=on net=10.0.2.0/24 dns=10.0.2.3 hostname=a; do
	refused "--net $v with a tap" "--net: \"${v%%=*}\" only goes with user" --net "tap=t0,$v"
done
refused "--net rx-bytes of words" '--net: rx-bytes="fast" is not RATE' --net user,rx-bytes=fast
refused "--net tx-packets with a bad burst" '--net: tx-packets="10/x" is not RATE' --net user,tx-packets=10/x
for key in rx-bytes rx-packets tx-bytes tx-packets; do
	for v in 2T 1025G 10/5G 2T/1 0000000000000000000000000000000001; do
		refused "--net $key=$v" "--net: $key=\"$v\" is not RATE\\[/BURST\\], numbers up to 1T a second and 4G at once" --net "user,$key=$v"
	done
	refused "--net $key at its bounds, and what comes after it" '--net: mtu="1" is not' --net "user,$key=1T/4G,mtu=1"
done
refused "--net on-failure=read-only" '--net: on-failure="read-only" is not possible; allowed: quarantine, needs-reset, stop' --net user,on-failure=read-only
refused "--net stream nobody there" '--net: id="net0": stream="/nonexistent": No such file' --net stream=/nonexistent
refused "--net stream that is a file" '--net: id="net0": stream=".*": no socket; a socket on which' --net "stream=$tmp/kernel"
refused "--net listen where a file is" '--net: id="net0": listen=".*kernel" can.t be made: Address already in use' --net "listen=$tmp/kernel"
refused "--net listen in no directory" '--net: id="net0": listen="/nonexistent/x" can.t be made: No such file' --net listen=/nonexistent/x
refused "--net stream with a spare" '--net: spare="on" does not go with stream' --net "stream=$tmp/kernel,spare=on"
refused "--net vhost-user nobody there" '--net: vhost-user="/nonexistent": No such file' --net vhost-user=/nonexistent
refused "--net vhost-user with mtu" '--net: "mtu" does not go with vhost-user; allowed beside it: id, mac' --net vhost-user=/x,mtu=1400
many=()
for i in {1..9}; do many+=(--net user); done
refused "--net 9 times" '--net: ".*" is one too many; at most 8' "${many[@]}"

# With options of their own.
refused_alone() {
	local text=$1 regex=$2 out code
	shift 2
	out=$(soon "$bulkhead" "$@" 2>&1 </dev/null)
	code=$?
	if [ $code -eq 2 ] && [[ $out =~ $regex ]] && { [[ $out == usage:* ]] || [ "$(wc -l <<<"$out")" -eq 1 ]; }; then ok "$text"; else not_ok "$text" "exit $code" "$out" "want: $regex"; fi
}
refused_alone "no kernel" '^bulkhead: --kernel: missing' run --cpus 1
refused_alone "missing kernel" "^bulkhead: --kernel: \"/nonexistent\" can't be opened" run --kernel /nonexistent
refused_alone "empty kernel" '^bulkhead: --kernel: ".*empty" is empty' run --kernel "$tmp/empty"
echo this is no kernel, whatever its name says, but it is long enough >"$tmp/bzImage"
truncate -s 4096 "$tmp/bzImage"
refused_alone "a kernel that is none" '^bulkhead: --kernel: ".*/bzImage" is neither a bzImage nor an ELF file; a kernel is needed$' \
	run --run-dir "$run_dir" --kernel "$tmp/bzImage" --disk "path=$tmp/disk.img"
check "... nothing was started" test ! -e "$run_dir"
refused_alone "fault 72: kernel in /proc" '^bulkhead: --kernel: "/proc/version" is part of /proc' run --kernel /proc/version
refused_alone "kernel is a block or other device" '^bulkhead: --kernel: "/dev/zero" is no file of data' run --kernel /dev/zero
for n in '' a/b .. -x "$long"; do
	refused_alone "fault 72: --name '$n'" '^bulkhead: --name: ".*" is not a name: 1 to 31 of' run --kernel "$tmp/kernel" --name "$n"
done
refused_alone "relative run directory" '^bulkhead: --run-dir: "run" is not absolute' run --kernel "$tmp/kernel" --run-dir run
mkdir "$tmp/$long"
refused_alone "fault 73: socket path over 107 bytes" '^bulkhead: --run-dir: ".*" makes a socket path of 1[0-9][0-9] bytes; at most 107' \
	run --kernel "$tmp/kernel" --run-dir "$tmp/$long"
refused_alone "no options: short usage" '^usage: bulkhead run --kernel FILE' run
refused_alone "no command: help" '^usage: bulkhead COMMAND' 
refused_alone "unknown command" '"fly": no such command; allowed: run, ctl, events, ps' fly
refused_alone "ctl unknown request" '"explode": no such request; allowed: status, pause' ctl x explode
refused_alone "ctl unknown option" '"--foo": no such option' ctl --foo
refused_alone "ctl without a name" '^bulkhead: ctl: a machine.s name and a request are missing; .*$' ctl
refused_alone "ctl without a request" '^bulkhead: ctl: "x": a request is missing after it; allowed: status, .*$' ctl x
refused_alone "ctl without a device" '^bulkhead: ctl: "revive": needs a device.s id after it$' ctl x revive
refused_alone "adopt without a name" '^bulkhead: adopt: a machine.s name is missing; .*$' adopt
refused_alone "ctl with a name that leaves the directory" '"../x": not a machine.s name' ctl ../x status
refused_alone "ps with a word" '"x": one word too many' ps x
out=$("$bulkhead" ctl --run-dir "$run_dir" nobody status 2>&1)
is "ctl for a machine that does not run: exit 2" $? 2
like "... says so" "$out" '^bulkhead: "nobody": no machine of this name runs in'
is "... as adopt does" "$("$bulkhead" adopt --run-dir "$run_dir" nobody 2>&1); $?" "$out; 2"
check "ps of nothing" "$bulkhead" ps --run-dir "$run_dir"

out=$(env -u BULKHEAD_PATH BULKHEAD_PATH=/nonexistent "$bulkhead" run --run-dir "$run_dir" --kernel "$tmp/kernel" 2>&1)
if [ ! -w /dev/kvm ]; then
	skip "programs that are not installed" "no /dev/kvm"
elif [[ $out == *"vmm-core: kernel:"* ]]; then
	skip "programs that are not installed" "they are installed on this machine"
else
	like "programs that are not installed" "$out" 'the program vmm-core is not installed; looked in \$BULKHEAD_PATH'
fi
if [ "$(id -u)" -eq 0 ] && [ -w /dev/kvm ] && ! sanitized && mkdir "$tmp/root" && unshare -m mount --rbind / "$tmp/root"; then
	out=$(unshare -m sh -c 'mount --rbind / "$0" && exec chroot "$0" "$@"' "$tmp/root" \
		env BULKHEAD_PATH="$bin" "$bulkhead" run --run-dir "$run_dir" --kernel "$tmp/kernel" 2>&1 </dev/null)
	like "in a chroot, where the kernel allows no namespaces" "$out" 'must be allowed, .* not in a chroot\): Operation not permitted'
else
	skip "in a chroot" "needs root, mounts and /dev/kvm, and no sanitizers"
fi
if [ "$(id -u)" -eq 0 ] && [ -e /dev/kvm ] && ! setpriv --reuid 65534 --clear-groups test -w /dev/kvm; then
	cp "$bulkhead" "$tmp/bulkhead" && chmod 755 "$tmp/bulkhead" && chmod 644 "$tmp/kernel"
	out=$(setpriv --reuid 65534 --regid 65534 --clear-groups "$tmp/bulkhead" run --run-dir /tmp/no-run-dir-here --kernel "$tmp/kernel" 2>&1)
	is "no access to /dev/kvm: exit 2" $? 2
	like "... says what to do" "$out" '/dev/kvm: no access; join the group kvm'
else
	skip "no access to /dev/kvm" "needs root and a /dev/kvm that others may not use"
fi
