# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# What the scripts share: packages, the stock kernel, root trees, disk images. Sourced; $top is the source tree.

cache=${BULKHEAD_CACHE:-$top/build/cache}
build=${BULKHEAD_BUILD:-$top/build/tree}

# One line of progress, with the seconds since the script began.
started=$(date +%s)
say() { printf '[%3ds] %s\n' $(($(date +%s) - started)) "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# alone COMMAND...: runs it while no other run builds into the cache; if one does, waits for its turn.
alone() {
	mkdir -p "$cache"
	(
		flock 9
		set -e
		"$@"
	) 9>"$cache/lock"
	# Without set -e the caller gets here after a failure too, which has been told of.
	[ $? -eq 0 ] || exit 1
}

# Where a long step is, in a few words; a script may have better ones.
progress_of() { tail -n 1 "$logged_to" | cut -c 1-100; }

# logged LOG COMMAND...: runs a long step with its output in a log, and shows where it is when that changes, and once a
# minute. What looks at the log ends with the script, if that is interrupted.
progress_seconds=20
logged() {
	logged_to=$1 logged_status=0
	shift
	: >"$logged_to"
	{
		seconds=0 where='' since=0 told=0
		while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
			seconds=$((seconds + 1))
			[ $((seconds % progress_seconds)) = 0 ] || continue
			now=$(progress_of)
			if [ "$now" != "$where" ]; then
				where=$now since=$seconds told=$seconds
				say "  $now"
			elif [ $((seconds - told)) -ge 60 ]; then
				told=$seconds
				say "  $now (for $((seconds - since)) s)"
			fi
		done
	} </dev/null 9>&- &
	logged_pid=$!
	"$@" >"$logged_to" 2>&1 || logged_status=$?
	kill "$logged_pid" 2>/dev/null
	wait "$logged_pid" 2>/dev/null || :
	return "$logged_status"
}

packages_build='autoconf automake make gcc pkg-config libnng-dev protobuf-c-compiler libprotobuf-c-dev libaio-dev
	liburing-dev libseccomp-dev liburcu-dev libjansson-dev libcap-ng-dev libslirp-dev libcriterion-dev zlib1g-dev acpica-tools'
packages_guest='busybox-static cpio e2fsprogs fio qemu-system-x86'
packages_check='clang clang-format clang-tidy cppcheck libclang-rt-14-dev qemu-utils qemu-system-common xz-utils man-db groff-base git procps
	jq socat spin iperf3 iproute2 iputils-ping ethtool passt ipxe-qemu libnbd-dev nbdkit'
packages_valgrind='valgrind'

# packages NAME...: installs those that are lacking; says what it does, and what to do if it may not.
packages() {
	find_lacking "$@"
	[ -z "$lacking" ] || alone install_lacking "$@"
}

find_lacking() {
	lacking=
	for p; do
		dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null | grep -q '^ii' || lacking="$lacking $p"
	done
}

install_lacking() {
	find_lacking "$@"
	[ -n "$lacking" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		die "these Debian packages are missing; as root: apt-get install$lacking"
	fi
	say "installing$lacking"
	# shellcheck disable=SC2086
	logged "$cache/apt.log" apt_install $lacking ||
		{ tail -n 20 "$cache/apt.log" >&2; die "apt-get failed, see $cache/apt.log"; }
}
apt_install() {
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# build_tree DIR [CONFIGURE-OPTION...]: configures (once) and builds in DIR; the log of each step is kept there.
build_tree() {
	dir=$1
	shift
	mkdir -p "$dir"
	if [ -e "$top/config.status" ]; then
		die "this source tree was configured in place, which rules other builds of it out; run make distclean first"
	fi
	# The stamp says that autoreconf came to its end.
	if [ ! -x "$top/configure" ] || [ ! -e "$top/autom4te.cache/complete" ] ||
		[ -n "$(find "$top" -path "$top/build" -prune -o \( -name Makefile.am -o -name configure.ac -o -name tap.mk \) \
			-newer "$top/configure" -print)" ]; then
		say "generating configure"
		rm -f "$top/autom4te.cache/complete"
		logged "$dir/autoreconf.log" env -C "$top" autoreconf -fi ||
			{ tail -n 20 "$dir/autoreconf.log" >&2; die "autoreconf failed"; }
		: >"$top/autom4te.cache/complete"
	fi
	if [ ! -f "$dir/Makefile" ] || [ "$top/configure" -nt "$dir/config.status" ]; then
		say "configuring ${dir##*/}${*:+ }$*"
		logged "$dir/configure.log" env -C "$dir" "$top/configure" --silent "$@" ||
			{ tail -n 20 "$dir/configure.log" >&2; die "configure failed"; }
	fi
	say "building ${dir##*/}"
	logged "$dir/make.log" make -C "$dir" -j"$(nproc)" ||
		{ grep -E 'error|Error' "$dir/make.log" | head -n 20 >&2; die "the build failed, see $dir/make.log"; }
}

# True if /dev/kvm can run a stock kernel: hardware virtualization, not a KVM that interprets supervisor code.
kvm_is_real() {
	[ -r /dev/kvm ] && [ -w /dev/kvm ] && [ ! -e /sys/module/kvm_pvm ] &&
		{ [ -e /sys/module/kvm_intel ] || [ -e /sys/module/kvm_amd ]; }
}

kvm_why_not() {
	if [ ! -e /dev/kvm ]; then
		echo "there is no /dev/kvm here"
	elif [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
		echo "/dev/kvm may not be opened by this user"
	elif [ -e /sys/module/kvm_pvm ]; then
		echo "/dev/kvm is kvm_pvm, which interprets supervisor code and can't run a stock kernel"
	else
		echo "/dev/kvm belongs to no hardware virtualization"
	fi
}

# What the initrd, the guests and the test host insert, in the order of their dependencies.
modules_disk='virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk'
modules_guest='failover net_failover virtio_net button evdev pvpanic pvpanic-mmio'
modules_host='irqbypass kvm kvm-amd kvm-intel tun llc stp bridge'
modules="$modules_disk $modules_guest $modules_host"

# Fetches the stock cloud kernel's package once; $cache/kernel then has vmlinuz and modules/NAME.ko.
stock_kernel() { kernel_is_there || alone make_kernel; }

kernel_is_there() { [ "$(cat "$cache/kernel/done" 2>/dev/null)" = "$modules" ]; }

make_kernel() {
	kernel_is_there && return 0
	new=$cache/kernel.new
	rm -rf "$new"
	mkdir -p "$new/deb" "$new/modules"
	name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
	if [ -z "$name" ]; then
		[ "$(id -u)" != 0 ] || apt-get update -q >"$cache/apt.log" 2>&1 || :
		name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
			awk '/Depends: linux-image-/ { print $2; exit }')
	fi
	[ -n "$name" ] || die "apt knows no linux-image-cloud-amd64; run apt-get update"
	say "fetching $name"
	(cd "$new/deb" && apt-get download -q "$name") >"$cache/apt.log" 2>&1 ||
		{ tail -n 5 "$cache/apt.log" >&2; die "could not fetch $name"; }
	dpkg -x "$new"/deb/"$name"*.deb "$new/deb/x"
	cp "$new"/deb/x/boot/vmlinuz-* "$new/vmlinuz"
	for m in $modules; do
		find "$new/deb/x/lib/modules" -name "$m.ko" -exec cp {} "$new/modules/" \;
	done
	rm -rf "$new/deb"
	echo "$modules" >"$new/done"
	rm -rf "$cache/kernel"
	mv "$new" "$cache/kernel"
}

# An initrd for the stock kernel: loads virtio and hands over to /sbin/init on /dev/vda. Used by guests and test host.
stock_initrd() { initrd_is_there || alone make_initrd; }

initrd_is_there() { [ -f "$cache/initrd" ] && [ "$cache/initrd" -nt "$top/scripts/common.sh" ]; }

make_initrd() {
	initrd_is_there && return 0
	tree=$cache/initrd.d
	rm -rf "$tree"
	mkdir -p "$tree/bin" "$tree/modules" "$tree/proc" "$tree/dev" "$tree/root"
	cp /bin/busybox "$tree/bin/busybox"
	for m in $modules_disk; do
		cp "$cache/kernel/modules/$m.ko" "$tree/modules/"
	done
	cat >"$tree/init" <<'EOF'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
	$b insmod /modules/$m.ko
done
n=0
until [ -b /dev/vda ]; do
	n=$((n + 1))
	[ $n -gt 100 ] && { echo "initrd: no disk /dev/vda"; $b poweroff -f; }
	$b usleep 100000
done
mode=rw
$b grep -qw ro /proc/cmdline && mode=ro
$b mount -t ext4 -o $mode /dev/vda /root || { echo "initrd: cannot mount /dev/vda"; $b poweroff -f; }
$b umount /proc
$b mount -o move /dev /root/dev
exec $b switch_root /root /sbin/init
EOF
	chmod +x "$tree/init"
	(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$cache/initrd.new"
	mv "$cache/initrd.new" "$cache/initrd"
	rm -rf "$tree"
}

# root_tree DIR: a root with busybox and its applets, ready for /sbin/init.
root_tree() {
	rm -rf "$1"
	mkdir -p "$1/bin" "$1/sbin" "$1/etc" "$1/proc" "$1/sys" "$1/dev" "$1/tmp" "$1/run" "$1/root" "$1/lib64" \
		"$1/var/log" "$1/mnt" "$1/usr"
	ln -s ../bin "$1/usr/bin"
	ln -s ../sbin "$1/usr/sbin"
	cp /bin/busybox "$1/bin/busybox"
	for a in $(/bin/busybox --list); do
		[ "$a" = busybox ] || ln -s /bin/busybox "$1/bin/$a"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'root:x:0:' >"$1/etc/group"
}

# root_program DIR PROGRAM [AS]: copies a program and the libraries it names into the root.
root_program() {
	as=${3:-bin/${2##*/}}
	mkdir -p "$1/${as%/*}"
	rm -f "$1/$as"
	cp -L "$2" "$1/$as"
	for l in $(ldd "$2" 2>/dev/null | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }'); do
		[ -e "$1$l" ] && continue
		mkdir -p "$1${l%/*}"
		cp -L "$l" "$1$l"
	done
}

# root_image DIR FILE SIZE: an ext4 image of the tree; sparse.
root_image() {
	rm -f "$2"
	truncate -s "$3" "$2"
	PATH=$PATH:/sbin:/usr/sbin mke2fs -q -t ext4 -F -L root -d "$1" "$2" >/dev/null ||
		die "mke2fs could not make $2 of $1"
}

# guest_image FILE SIZE [EXTRA-SCRIPT...]: the root disk of a guest: busybox, fio, $guest_programs, the power button, and
# the scripts of scripts/guest, one of which the kernel's command line may name as bulkhead.run=NAME. Made aside: FILE is
# there when it is whole.
guest_programs=
guest_image() { alone make_guest_image "$@"; }

make_guest_image() {
	gi_file=$1 gi_size=$2
	shift 2
	gi_tree=$cache/guest.d
	root_tree "$gi_tree"
	for p in fio $guest_programs; do
		root_program "$gi_tree" "$(command -v "$p")"
	done
	mkdir -p "$gi_tree/modules" "$gi_tree/etc/acpi/PWRF" "$gi_tree/etc/bulkhead"
	for m in $modules_guest; do
		cp "$cache/kernel/modules/$m.ko" "$gi_tree/modules/"
	done
	ln -s /bin/busybox "$gi_tree/sbin/init"
	cp "$top/scripts/guest/inittab" "$top/scripts/guest/rc" "$gi_tree/etc/"
	cp "$top/scripts/guest/power-button" "$gi_tree/etc/acpi/PWRF/00000080"
	cp "$top/scripts/guest/demo" "$top/scripts/guest/udhcpc" "$@" "$gi_tree/etc/bulkhead/"
	chmod +x "$gi_tree/etc/rc" "$gi_tree/etc/acpi/PWRF/00000080" "$gi_tree"/etc/bulkhead/*
	root_image "$gi_tree" "$gi_file.new" "$gi_size"
	mv "$gi_file.new" "$gi_file"
	rm -rf "$gi_tree"
}
