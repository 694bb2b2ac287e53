#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Two runs of the scripts at once with one cache: each finds all of it whole, and what one builds the other takes.
. "${top_srcdir:?}/tests/support/tap.sh"
for p in flock dpkg-deb cpio mke2fs fio; do
	PATH=$PATH:/sbin:/usr/sbin command -v $p >/dev/null || skip_all "$p is not installed"
done
[ -x /bin/busybox ] || skip_all "busybox-static is not installed"

# A stock kernel's package, and an apt that brings it when it is told to.
modules=$(sed -n "s/^modules_[a-z]*='\(.*\)'/\1/p" "$top_srcdir/scripts/common.sh" | tr '\n' ' ')
mkdir -p "$tmp/bin" "$tmp/deb/DEBIAN" "$tmp/deb/boot" "$tmp/deb/lib/modules/6.0"
chmod 755 "$tmp/deb/DEBIAN"
printf 'Package: linux-image-6.0\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\nDescription: none\n' \
	>"$tmp/deb/DEBIAN/control"
echo kernel >"$tmp/deb/boot/vmlinuz-6.0"
for m in $modules; do echo "$m" >"$tmp/deb/lib/modules/6.0/$m.ko"; done
dpkg-deb -b "$tmp/deb" "$tmp/linux-image-6.0_1_amd64.deb" >/dev/null || skip_all "dpkg-deb makes no package here"
cat >"$tmp/bin/apt-cache" <<'EOF'
#!/bin/sh
echo "  Depends: linux-image-6.0"
EOF
cat >"$tmp/bin/apt-get" <<EOF
#!/bin/sh
echo "\$*" >>"$tmp/downloads"
read -r go <"$tmp/go"
cp "$tmp"/*.deb .
EOF
chmod +x "$tmp/bin/apt-cache" "$tmp/bin/apt-get"

# What a test or the demo begins with.
cat >"$tmp/run" <<EOF
set -eu
top=$top_srcdir
. "$top_srcdir/scripts/common.sh"
stock_kernel
stock_initrd
guest_image "$tmp/image\$1" 256M
EOF
evidence "$tmp/log1" "$tmp/log2"
export BULKHEAD_CACHE=$tmp/cache PATH=$tmp/bin:$PATH
mkfifo "$tmp/go"
exec 7<>"$tmp/go"
downloads() { [ "$(cat "$tmp/downloads" 2>/dev/null | wc -l)" -ge "$1" ]; }
# The second run is where it must be (at the lock), or where it must not (it downloads, too).
second_is_there() {
	local p
	downloads 2 && return
	for p in $(pgrep -x flock); do
		[ "$(readlink "/proc/$p/fd/9")" = "$BULKHEAD_CACHE/lock" ] && return
	done
	return 1
}
spawn sh "$tmp/run" 1 >"$tmp/log1" 2>&1
first=$pid
check "the first run downloads" wait_for 10 downloads 1
spawn sh "$tmp/run" 2 >"$tmp/log2" 2>&1
second=$pid
check "the second comes meanwhile" wait_for 10 second_is_there
printf 'go\ngo\n' >&7
wait_exit 60 "$first"
is "the first run ends well" "$status" 0
wait_exit 60 "$second"
is "the second run ends well" "$status" 0
is "it took the first one's download" "$(wc -l <"$tmp/downloads")" 1
is "the kernel is there" "$(cat "$BULKHEAD_CACHE/kernel/vmlinuz")" kernel
for m in $modules; do echo "$m.ko"; done | sort >"$tmp/want"
check "all modules are there" diff "$tmp/want" <(ls "$BULKHEAD_CACHE/kernel/modules")
like "the initrd is whole" "$(gzip -dc "$BULKHEAD_CACHE/initrd" | cpio -t --quiet)" 'modules/virtio_blk.ko'
for i in 1 2; do
	PATH=$PATH:/sbin:/usr/sbin check "disk $i is whole" e2fsck -fn "$tmp/image$i"
done
is "nothing half made is left" "$(ls "$BULKHEAD_CACHE")" "$(printf '%s\n' apt.log initrd kernel lock)"

# A run that is killed while it builds leaves no lock behind, and the next one begins anew. The word that the second run
# had no use for would let it come to its end before it is killed.
rm -rf "$BULKHEAD_CACHE" "$tmp/downloads" "$tmp/go"
mkfifo "$tmp/go"
exec 7<>"$tmp/go"
spawn setsid sh "$tmp/run" 1 >"$tmp/log1" 2>&1
check "a run downloads" wait_for 10 downloads 1
kill -KILL -- "-$pid"
spawn sh "$tmp/run" 2 >"$tmp/log2" 2>&1
check "it is killed; the next one downloads" wait_for 10 downloads 2
echo go >&7
wait_exit 60 "$pid"
is "... and ends well" "$status" 0
