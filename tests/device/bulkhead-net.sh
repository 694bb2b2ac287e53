#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Network ports under `bulkhead run`, with stand-ins: net-server without a network, net-user that has the host's, what
# joins them, a peer's stream, deaths of each, adoption. Taps are bulkhead-tap.sh's.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
command -v socat >/dev/null || skip_all "socat is not installed: no peer to stand in"
make_machine

helper() { status_of m | jq -r ".devices[0].helper.$1"; }
helper_is() { [ "$(helper state)" = "$1" ]; }
device_is() { [ "$(device m net0 state)" = "$1" ]; }
helper_back() { [ "$(helper state)" = up ] && [ "$(helper pid)" -ne "$1" ]; }
spare_is() { [ "$(device m net0 spare)" = "$1" ]; }
up_after() { [ "$(device m net0 restarts)" -ge "$1" ] && [ "$(device m net0 state)" = up ]; }
words() { tr '\0' ' ' <"/proc/$1/cmdline"; }
net_of() { readlink "/proc/$1/ns/net"; }

# ---- what the processes get ----
start m --net user,hostfwd=tcp:127.0.0.1:18022-:22,hostfwd=udp::18053-:53,restrict=on,allow=192.0.2.0/24,allow=[2001:db8::/32]:443,ipv6=on,net=10.9.0.0/24,dns=10.9.0.53,hostname=vm1,mtu=9000,tx-bytes=10M/1M
wait_running m
server=$(device m net0 pid) user=$(helper pid)
is "a port has a server and a helper" "$(device m net0 process) $(helper process) $(helper state)" "net-server net-user up"
like "the core is told of it" "$(words "$(status_of m | jq .core.pid)")" ' --device net0:net,hang-timeout=1500 '
like "the server is told of all" "$(words "$server")" \
	'--id net0 .*--sandbox on .*--packet-fd 3 --flight-fd 4 --state-fd 5 --vhost-fd 6 --anchor-fd 7 --mac [0-9a-f][26ae](:[0-9a-f]{2}){5} --mtu 9000 --queues 1 --tx-bytes 10M/1M '
like "net-user is told of its part" "$(words "$user")" \
	'--id net0 .*/m/net0\.user .*--packet-fd 3 --flight-fd 4 --mtu 9000 --net 10.9.0.0/24 --dns 10.9.0.53 --ipv6 on --hostname vm1 --hostfwd tcp:127.0.0.1:18022-:22 --hostfwd udp::18053-:53 --restrict on --allow 192.0.2.0/24 --allow \[2001:db8::/32\]:443 $'
is "net-user has this host's network" "$(net_of "$user")" "$(net_of self)"
check "... and the server has none" test "$(net_of "$server")" != "$(net_of self)"
check "... of user namespaces of their own" test "$(readlink "/proc/$user/ns/user")" != "$(readlink /proc/self/ns/user)"
if [ "$(id -u)" -eq 0 ]; then
	check "... and each another user" test "$(stat -c %u "/proc/$user")" -ne "$(stat -c %u "/proc/$server")"
fi
sockets() { find "/proc/$1/fd" -lname 'socket:*' -printf '%l\n'; }
for p in "$server" "$user"; do
	end=$(readlink "/proc/$p/fd/3")
	like "an end of the socket between them is in its process" "$end" '^socket:'
	unlike "... and not in the supervisor" "$(sockets "$pid")" "socket:.${end//[^0-9]/}."
done
check "a spare waits, too" wait_for 10 spare_is ready
mac=$(words "$server" | sed 's/.*--mac \([^ ]*\).*/\1/')
spare=$(device m net0 spare_pid)
like "... with the same address" "$(words "$spare")" "--mac $mac "
like "status for people shows both" "$(ctl m status)" $'net0 +net-server +up .*\n +net0\.user +net-user +up +process [0-9]+'
is "loops names each process as status does" \
	"$(ctl --json m loops | jq -rc '[.processes[] | select(.spare != true) | .id]')" '["supervisor","core","net0","net0.user"]'
out=$(ctl m pin net0.user/main 0 2>&1)
is "the threads of net-user can't be pinned: exit 1" $? 1
like "... says what can be done" "$out" "only threads of a device.s server are pinned; taskset -p"
tell net0 frame "out 1"
check "a frame goes from the server to net-user" wait_for 5 logged m 'net-user\[net0\]: frame: out 1'
tell net0.user frame "in 1"
check "... and back" wait_for 5 logged m 'net-server\[net0\]: frame: in 1'

# ---- what is asked of them ----
is "status has the link" "$(device m net0 link)" up
is "... and what the port is" "$(device m net0 network)" user
like "... and its address" "$(device m net0 mac)" '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$'
unlike "... and does not bore with it" "$(ctl m status)" 'link'
check "a property is set" ctl m set net0 link=down
is "... status has it" "$(device m net0 link)" down
like "... in words, too" "$(ctl m status)" ' net0 +net-server +up .*, link down'
check "... the server is told" wait_for 5 logged m 'net-server\[net0\]: set link to down'
check "... and the log tells" logged m '^bulkhead: net0: link=down on request'
out=$(ctl m set net0 wrong=1 2>&1)
is "one that it does not have: exit 1" $? 1
like "... says why" "$out" 'it has no such key'
out=$(ctl m set net9 link=up 2>&1)
like "a device that is not there" "$out" 'there is no such device'
out=$(ctl m set core link=up 2>&1)
like "a process that is no device" "$out" 'it is a process of the machine.s, and no device'
out=$(ctl m set net0 link=up rx-bytes=1 2>&1)
is "two values: exit 2" $? 2
like "... says that it takes one" "$out" 'one KEY=VALUE'
out=$(ctl m set net0 link 2>&1)
is "no value: exit 2" $? 2
like "... says so" "$out" '"link": is not KEY=VALUE'
out=$(ctl m set net0 2>&1)
like "too few words" "$out" '"set": needs a device.s id and one KEY=VALUE'
is "the counters of the server" "$(ctl --json m stats net0)" '{"tx":5}'
like "... for people" "$(ctl m stats net0)" '^tx +5$'
is "... of net-user" "$(ctl --json m stats net0.user)" '{"tx":5}'
like "... of nobody" "$(ctl m stats net9 2>&1)" 'there is no process of ours by that id'

# ---- deaths ----
slay "$user"
check "a dead net-user is replaced" wait_for 10 helper_back "$user"
check "... and the log says what that means" logged m \
	"net0: net-user died of signal 9 \(Killed\); the guest's connections through it are reset"
check "... and that it is back" wait_for 5 logged m 'net0: net-user is back after [0-9.]+ ms'
is "... the status counts it" "$(helper restarts) $(helper last_death)" "1 died of signal 9 (Killed)"
is "... the server is untouched" "$(device m net0 pid) $(device m net0 restarts)" "$server 0"
tell net0 frame "out 2"
check "... and joined with the new one" wait_for 5 logged m 'net-user\[net0\]: frame: out 2'
user=$(helper pid)
check "another property is set" ctl m set net0 rx-bytes=10M/64K
check "... and one thing is asked for" ctl m set net0 announce=on
check "... and the first one again" ctl m set net0 link=up
slay "$server"
check "a dead server is replaced by its spare" wait_for 10 up_after 1
is "... which was there" "$(device m net0 pid)" "$spare"
# How often servers were told of each.
told() { grep -oE 'net-server\[net0\]: set .*' "$tmp/m.err" | sort | uniq -c | awk '{ print $4, $6, $1 ";" }' | paste -sd ' '; }
told_is() { [ "$(told)" = "$1" ]; }
check "... and told what holds, and not what was over" wait_for 10 told_is \
	'announce on 1; link down 1; link up 3; rx-bytes 0 1; rx-bytes 10M/64K 2; rx-packets 0 2; tx-bytes 10M/1M 2; tx-packets 0 2;'
is "... net-user is untouched" "$(helper pid) $(helper restarts)" "$user 1"
tell net0.user frame "in 2"
check "... and joined with it" wait_for 5 logged m 'net-server\[net0\]: frame: in 2'
tell net0.user mute
check "a net-user that does not answer is replaced" wait_for 40 helper_back "$user"
is "... the reason is in the status" "$(helper last_death)" "was killed: it does not answer"
wait_for 10 spare_is ready
mkdir "$bin/new" && chmod 755 "$bin/new" && cp "$bin/fake-child" "$bin/new/net-server"
check "another program takes over" ctl m upgrade net0 --exec "$bin/new/net-server"
like "... with the same options" "$(words "$(device m net0 pid)")" "$bin/new/net-server --id net0 .*--mac $mac "
check "... and what was set" wait_for 10 told_is 'announce on 1; link down 1; link up 4; rx-bytes 0 1; rx-bytes 10M/64K 3; rx-packets 0 3; tx-bytes 10M/1M 3; tx-packets 0 3;'
user=$(helper pid) n=$(helper restarts)
cp "$bin/fake-child" "$bin/new/net-user"
out=$(ctl m upgrade net0.user --exec "$bin/new/net-user")
is "another program for net-user" $? 0
like "... what that cost is said, and no request waited" "$out" '^net0.user: upgraded; it was away for [0-9.]+ ms: the guest.s connections through it are reset$'
check "... another process" test "$(helper pid)" -ne "$user"
like "... with the same options" "$(words "$(helper pid)")" "$bin/new/net-user --id net0 .*--hostfwd tcp:127"
is "... and that is no death" "$(helper state) $(helper restarts)" "up $n"
mkdir "$bin/bad" && chmod 755 "$bin/bad" && printf '#!/bin/sh\nexit 3\n' >"$bin/bad/net-user" && chmod 755 "$bin/bad/net-user"
out=$(ctl m upgrade net0.user --exec "$bin/bad/net-user" 2>&1)
is "a program that does not come up: exit 1" $? 1
like "... says why" "$out" 'the new process could not be started'
served() { [ "$(helper state)" = up ] && words "$(helper pid)" | grep -q "^$bin/new/net-user "; }
check "... the one before serves again" wait_for 10 served
cp "$bin/fake-child" "$bin/bad/net-user"
echo hello-exit=3 >"$bin/bad/net0.user.do"
out=$(ctl m upgrade net0.user --exec "$bin/bad/net-user" 2>&1)
like "... nor one that dies at once" "$out" 'the new process ended with status 3'
check "... the one before serves again" wait_for 10 served
out=$(ctl m upgrade net0.user --exec "$bin/none" 2>&1)
like "one that is not there" "$out" '/none: No such file'
check "pause" ctl m pause
user=$(helper pid)
slay "$user"
check "net-user comes back in a paused machine" wait_for 10 helper_back "$user"
ctl m resume
tell core end reset
generation() { [ "$(ctl --json m status | jq .generation)" -eq 2 ] && is_state m running; }
check "a reboot starts all anew" wait_for 20 generation
is "... with net-user" "$(helper state)" up
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m

# ---- a link that nobody is at the other end of ----
script net0 no-peer
start m --net user
wait_running m
like "by itself the MTU is one that a wire would not have" "$(words "$(device m net0 pid)")" ' --mtu 32000 '
like "... and net-user's the same" "$(words "$(helper pid)")" ' --mtu 32000 '
check "a link is set down" ctl m set net0 link=down
out=$(ctl m set net0 link=up 2>&1)
is "up, with nobody at the other end: exit 1" $? 1
like "... says why" "$out" 'nobody is at the other end'
wait_for 10 spare_is ready
slay "$(device m net0 pid)"
check "... and holds for its successor all the same" wait_for 10 told_is \
	'link down 1; link up 3; rx-bytes 0 2; rx-packets 0 2; tx-bytes 0 2; tx-packets 0 2;'
unlike "... whom nobody warns of it" "$(cat "$tmp/m.err")" 'does not take the link'
rm "$bin/net0.do"
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m

# ---- a port of the host that somebody has ----
spawn socat TCP-LISTEN:18997,bind=127.0.0.1,reuseaddr,fork EXEC:cat
taken=$pid
listens() { (: <>/dev/tcp/127.0.0.1/18997) 2>/dev/null; }
wait_for 5 listens
for rule in tcp::18997-:80 tcp:0.0.0.0:18997-:80; do
	out=$(soon "$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" --net "user,hostfwd=udp::18997-:80,hostfwd=$rule" 2>&1 </dev/null)
	is "hostfwd=$rule, in use: exit 2" $? 2
	is "... told of in one line, and nothing was started" "$out" \
		"bulkhead: --net: id=\"net0\": hostfwd=\"$rule\": this host's port can't be had: Address already in use"
done
out=$(soon "$bulkhead" run --name m --run-dir "$run_dir" --kernel "$tmp/kernel" --net user,hostfwd=udp:192.0.2.1:18997-:80 2>&1 </dev/null)
like "an address that is not this host's" "$out" 'hostfwd="udp:192.0.2.1:18997-:80": .* Cannot assign requested address$'
clean_after m "... nothing is left"
kill "$taken"

# ---- too many deaths ----
script net0.user hello-exit=3
start m --net user,id=net0,restarts=2/60
wait_exit 20 "$pid"
is "a net-user that never comes up: exit 6" "$status" 6
check "... the log tells of it" logged m 'net0: net-user given up, it died more than 2 times in 60 s, the last one ended with status 3'
clean_after m "... nothing is left"
script net0.user exit=2
start m --net user
ends_with "one that refuses its options: exit 2" 2 "$pid" m
rm "$bin/net0.user.do"
start m --net user,restarts=2/60
wait_running m
server=$(device m net0 pid)
script net0.user exit=1
slay "$(helper pid)"
check "one that keeps dying is given up" wait_for 20 helper_is failed
is "... and no process is told of" "$(helper pid)" null
like "... what it is asked for says what comes first" "$(ctl m stats net0.user 2>&1)" 'net0.user was given up; revive it first: bulkhead ctl m revive net0.user$'
check "... the log says what follows" logged m 'net0: net-user given up, .* the guest has no network until it is revived'
is "... the server lives" "$(device m net0 state) $(device m net0 pid)" "up $server"
out=$(ctl m revive net0 2>&1)
is "revived in vain: exit 1" $? 1
like "... says so" "$out" 'died too often again'
rm "$bin/net0.user.do"
check "revive" ctl m revive net0.user
is "... it serves" "$(helper state)" up
check "quit" ctl m quit
ends_with "ends well, since nothing is failed any more" 0 "$pid" m
start m --net user,restarts=2/60
wait_running m
script net0.user exit=1
slay "$(helper pid)"
wait_for 20 helper_is failed
script net0 exit=1
slay "$(device m net0 spare_pid)"
slay "$(device m net0 pid)"
check "server and net-user are given up" wait_for 20 device_is failed
rm "$bin/net0.do"
out=$(soon "$bulkhead" ctl --run-dir "$run_dir" m revive net0 2>&1)
is "revived, and net-user in vain: exit 1" $? 1
like "... says so" "$out" 'it serves, but what it needs died too often again'
is "... the server serves" "$(device m net0 state) $(helper state)" "up failed"
rm "$bin/net0.user.do"
check "... net-user is revived alone" ctl m revive net0
is "... serves, too" "$(device m net0 state) $(helper state)" "up up"
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
start m --net user,restarts=1/60
wait_running m
script net0.user exit=1
slay "$(helper pid)"
wait_for 20 helper_is failed
out=$(ctl m upgrade net0.user --exec "$bin/bad/net-user" 2>&1)
like "given up, and upgraded to what is no better" "$out" 'the new process ended with status 3'
is "... it is given up as before" "$(helper state) $(helper pid)" "failed null"
is "upgraded to what works" "$(ctl m upgrade net0.user --exec "$bin/new/net-user")" "net0.user: upgraded"
is "... it serves" "$(helper state)" up
like "... that program" "$(words "$(helper pid)")" "^$bin/new/net-user "
rm "$bin/net0.user.do"
check "quit" ctl m quit
ends_with "ends well" 0 "$pid" m
start m --net user,restarts=1/60,on-failure=needs-reset
wait_running m
script net0.user exit=1
slay "$(helper pid)"
check "on-failure=needs-reset: the device is given up with it" wait_for 20 device_is failed
check "... the log says so" logged m 'net0: given up, as net-user was; the guest is told that it needs a reset'
check "... the core is told, too" wait_for 10 logged m 'vmm-core: device net0 failed'
out=$(ctl m revive net0 2>&1)
is "... revived in vain: exit 1" $? 1
like "... says so" "$out" 'died too often again'
rm "$bin/net0.user.do"
check "... revived" ctl m revive net0
is "... with net-user" "$(device m net0 state) $(helper state)" "up up"
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
start m --net user,restarts=1/60,on-failure=stop
wait_running m
script net0.user exit=1
slay "$(helper pid)"
ends_with "on-failure=stop: the machine ends" 6 "$pid" m
rm "$bin/net0.user.do"

# ---- without a supervisor ----
start m --net user --on-supervisor-death keep
wait_running m
wait_for 10 spare_is ready
ctl m set net0 link=down
server=$(device m net0 pid) user=$(helper pid)
kill -KILL "$pid"
alone() { [ "$(ctl_ps)" = alone ]; }
ctl_ps() { "$bulkhead" ps --run-dir "$run_dir" --json | jq -r '.[] | select(.name == "m") | .state'; }
check "the machine outlives its supervisor" wait_for 10 alone
adopt() {
	spawn "$bulkhead" adopt --run-dir "$run_dir" --log-level debug m </dev/null >>"$tmp/m.out" 2>>"$tmp/m.err"
}
adopt
wait_running m
is "taken over: the same processes" "$(device m net0 pid) $(helper pid) $(helper restarts)" "$server $user 0"
is "... and the link as it was set" "$(device m net0 link)" down
told_down() { grep -c 'net-server\[net0\]: set link to down' "$tmp/m.err"; }
told_more() { [ "$(told_down)" -gt "$1" ]; }
check "... told again what was set, in case its supervisor died over that" wait_for 10 told_more 1
tell net0 frame "out 3"
check "... still joined" wait_for 5 logged m 'net-user\[net0\]: frame: out 3'
slay "$user"
check "... net-user is looked after" wait_for 10 helper_back "$user"
user=$(helper pid)
kill -KILL "$pid"
wait_for 10 alone
slay "$user"
adopt
check "one that died meanwhile is replaced" wait_for 20 helper_back "$user"
is "... the server is untouched" "$(device m net0 pid)" "$server"
tell net0 frame "out 4"
check "... and joined with it" wait_for 5 logged m 'net-user\[net0\]: frame: out 4'
# In the middle of an upgrade.
half_way() { [ "$(helper state)" = starting ] && words "$(helper pid)" | grep -q "^$bin/bad/net-user "; }
before() { [ "$(helper state)" = up ] && words "$(helper pid)" | grep -q "^$bin/net-user "; }
n=$(helper restarts)
echo no-ready >"$bin/bad/net0.user.do"
ctl m upgrade net0.user --exec "$bin/bad/net-user" >/dev/null 2>&1 &
check "another program starts" wait_for 10 half_way
kill -KILL "$pid"
wait_for 10 alone
adopt
check "... still, taken over" wait_for 10 half_way
slay "$(helper pid)"
check "... dead, the one before serves again" wait_for 10 before
is "... and that is no death" "$(helper restarts)" "$n"
check "... the log tells" logged m 'net0: net-user not upgraded: the new process died of signal 9'
wait_for 10 spare_is ready
n=$(told_down)
slay "$server"
check "a successor of the server is told what was set before all that" wait_for 10 told_more "$n"
wait_for 10 up_after 1
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
start m --net user
wait_running m
kill -KILL "$pid"
wait_exit 10 "$pid"
gone_dir() { [ ! -e "$run_dir/m" ]; }
check "without keep all ends with the supervisor" wait_for 10 gone_dir
clean_after m "... no process is left"

# ---- a back end of somebody else's ----
spawn socat -u "UNIX-LISTEN:$tmp/backend,fork" OPEN:/dev/null
backend=$pid
wait_for 5 test -S "$tmp/backend"
start m --net "vhost-user=$tmp/backend,mac=52:54:00:00:00:07"
wait_running m
is "a back end of somebody else's has no process" "$(device m net0 process) $(device m net0 pid)" "vhost-user null"
like "... the core is told of its address" "$(words "$(status_of m | jq .core.pid)")" ' --device net0:net,hang-timeout=1500,mac=52:54:00:00:00:07 '
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m
kill "$backend"

# ---- a peer's stream ----
listen() { spawn socat "UNIX-LISTEN:$tmp/peer,fork" "OPEN:$tmp/peer.out,creat,append" && peer=$pid && wait_for 5 test -S "$tmp/peer"; }
listen
start m --net "stream=$tmp/peer"
wait_running m
server=$(device m net0 pid)
like "the server gets the connection" "$(words "$server")" '--flight-fd 3 --state-fd 4 --vhost-fd 5 --stream-fd 6 --anchor-fd 7 '
is "... there is no spare, since the peer takes one connection" "$(device m net0 spare)" off
slay "$server"
check "a successor is connected anew" wait_for 10 up_after 1
machine=$pid
kill "$peer"
wait_exit 5 "$peer"
rm -f "$tmp/peer"
pid=$machine
slay "$(device m net0 pid)"
check "a peer that is away is waited for" wait_for 10 logged m "net0: can't connect to its peer"
many() { [ "$(device m net0 restarts)" -ge 6 ]; }
check "... for as long as it takes" wait_for 20 many
is "... and that is no death" "$(device m net0 state)" waiting
machine=$pid
listen
pid=$machine
check "... when it is back the port is" wait_for 20 up_after 6
check "quit" ctl m quit
ends_with "ends" 0 "$pid" m

# ---- a stream that a peer connects to ----
start m --net "listen=$tmp/own,tx-bytes=5M" --net "listen=$tmp/own2"
wait_running m
check "the server is told its limits again, past what stands in its memory" wait_for 10 logged m 'net-server\[net0\]: set tx-bytes to 5M'
like "the server gets the listening socket" "$(words "$(device m net0 pid)")" '--listen-fd 3 --flight-fd 4 --state-fd 5 --vhost-fd 6 --anchor-fd 7 '
check "... and so does a spare" wait_for 10 spare_is ready
like "..." "$(words "$(device m net0 spare_pid)")" '--listen-fd 3 '
is "... which is this user's alone" "$(stat -c %a "$tmp/own")" 600
out=$(soon "$bulkhead" run --run-dir "$tmp/other" --kernel "$tmp/kernel" --net "listen=$tmp/own3" --net "listen=$tmp/own" 2>&1 </dev/null)
like "... and in use" "$out" 'listen=".*/own" can.t be made: Address already in use'
check "... a start that fails leaves none" test ! -e "$tmp/own3"
kill -KILL "$pid"
wait_exit 10 "$pid"
check "the keeper removes it" wait_for 10 gone_dir
check "... both" test ! -e "$tmp/own" -a ! -e "$tmp/own2"
