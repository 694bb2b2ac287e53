#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What `bulkhead ctl` changes of a disk while it is in use, with stand-ins for core and servers.
. "${top_srcdir:?}/tests/device/bulkhead.bash"
need_kvm
make_machine

# ---- size ----
start m --disk path="$tmp/disk.img",id=disk0
wait_running m
check "a disk is made larger" ctl m resize disk0 24M
check "... its server is told" logged m 'blk-server\[disk0\]: set size to 24M'
check "... and the log tells" logged m '^bulkhead: disk0: size=24M on request'
out=$(ctl m resize disk9 24M 2>&1)
is "one that is not there: exit 1" $? 1
like "... says so" "$out" 'there is no such device'
out=$(ctl m resize disk0 2>&1)
is "no size: exit 2" $? 2
like "... says so" "$out" '"resize": needs a disk.s id and its new size'
ctl m quit
ends_with "ends" 0 "$pid" m
