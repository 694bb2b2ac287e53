# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the comparisons share; source this first. A script has functions usage, and run CELL SIDE WORD... that measures
# once and appends "SIDE FIGURE..." to $tmp/CELL.runs, in the order of $columns; then:
#   fail TEXT                      ends the script, status 2
#   options "NAME..." "$@"         sets the variable of each option given
#   number NAME MINIMUM            ends the script if that variable is no number, or less
#   temporary PATH                 a new folder, $made, whose name begins so; it goes when the script ends
#   end_all                        ends the processes in $pids, as the end of the script does
#   pause SECONDS                  sleeps
#   family PID...                  these processes and all their descendants, one a line
#   threads PID...                 "KIND NANOSECONDS ID" of each thread of theirs: vcpu, device or other
#   pin PID...                     the device on one processor, the vCPU on the other; $on_device and $on_guest do so for a command
#   until_line BEGINNING           reads the guest's lines up to one that begins so, which is in $line then
#   measure WORD PID...            a window of the bare guest: its line, which begins with WORD, and $device_ns and $vcpu_ns
#   quit                           has the guest end its machine, and ends all other processes
#   qemu, bulkhead WORDS OPTION... starts a machine, $machine, with the bare guest, its command line, $memory and a device
#   compare_all "CELL WORD..."...  the pairs of each cell; prints its line of the table, and adds it to the figures
#   disk_cells SHORT WHERE...      cells of disks, "NAME WHERE DEPTH BLOCK WRITES QUEUES [poll]": those whose name matches
#                                  $cells, or those of SHORT if it is empty
#   disk_header OURS PEER          the head of their table
#   write_figures FIELD...         the JSON file
# The guest's lines come on descriptor $from, and it hears $to. $build is the build tree, $tmp a temporary folder.
# shellcheck disable=SC2034,SC2154
set -euo pipefail
export LC_ALL=C

fail() { echo "${0##*/}: $*" >&2; exit 2; }

options()
{
	local names=" $1 " name
	shift
	while [ $# -gt 0 ]; do
		[ "$1" != --help ] || { usage; exit 0; }
		name=${1#--}
		[[ $1 == --* && $names == *" $name "* ]] || fail "$1 is no option: see --help"
		[ $# -gt 1 ] || fail "$1 takes a value"
		printf -v "${name//-/_}" %s "$2"
		shift 2
	done
}

number() { [[ ${!1} =~ ^[0-9]+$ && ${!1} -ge $2 ]] || fail "--$1 ${!1}: at least $2"; }

pids=() folders=()
end_all()
{
	local p
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || :; done
	for p in "${pids[@]}"; do wait "$p" 2>/dev/null || :; done
	pids=()
}
trap 'end_all; rm -rf "${folders[@]}"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

temporary()
{
	made=$(mktemp -d "$1.XXXXXX")
	folders+=("$made")
	chmod 711 "$made" # confined processes have user ids of their own
}

never=
pause()
{
	if [ -z "$never" ]; then
		mkfifo "$tmp/never"
		exec {never}<>"$tmp/never"
	fi
	read -rt "$1" -u "$never" || :
}

# ---- processes ----

family()
{
	local p
	for p; do
		echo "$p"
		# shellcheck disable=SC2046
		family $(cat "/proc/$p"/task/*/children 2>/dev/null)
	done
}

threads()
{
	local p t name task ns kind
	# shellcheck disable=SC2046
	for p in $(family "$@") $(printf 'vhost-%s\n' "$@" | xargs -n 1 pgrep -x || :); do
		name=$(cat "/proc/$p/comm" 2>/dev/null) || continue
		for t in "/proc/$p/task"/*; do
			task=$(cat "$t/comm" 2>/dev/null) && read -r ns _ <"$t/schedstat" || continue
			case $name/$task in
			*/"CPU "*/KVM | vmm-core/vcpu*) kind=vcpu ;;
			net-server/* | blk-server/* | qemu-*/* | vhost-*) kind=device ;;
			*) kind=other ;;
			esac
			echo "$kind $ns ${t##*/}"
		done
	done
}

on_device="" on_guest=""
if [ "$(nproc)" -ge 2 ]; then
	on_device='taskset -c 1' on_guest='taskset -c 0'
fi
pin()
{
	local kind thread
	[ -n "$on_device" ] || return 0
	while read -r kind _ thread; do
		case $kind in
		vcpu) taskset -p -c 0 "$thread" ;;
		device) taskset -p -c 1 "$thread" ;;
		esac
	done < <(threads "$@") >/dev/null 2>&1 || :
}
cpu_of() # KIND PID...
{
	threads "${@:2}" | awk -v kind="$1" '$1 == kind { n += $2 } END { printf "%.0f\n", n }'
}

# ---- the bare guest ----

until_line()
{
	while IFS= read -rt 60 line <&"$from"; do
		line=${line%$'\r'}
		[[ $line != "$1"* ]] || return 0
	done
	tail -n 5 "$tmp"/*err >&2
	fail "the guest does not say $1"
}

# With a moment of load before it that is not counted.
measure()
{
	local word=$1
	shift
	printf b >&"$to"
	until_line '!b'
	pause 0.5
	printf e >&"$to"
	until_line '!e'
	device_ns=$(cpu_of device "$@") vcpu_ns=$(cpu_of vcpu "$@")
	printf b >&"$to"
	until_line '!b'
	pause "$seconds"
	printf e >&"$to"
	until_line "$word "
	device_ns=$(($(cpu_of device "$@") - device_ns)) vcpu_ns=$(($(cpu_of vcpu "$@") - vcpu_ns))
}

# The guest ends its machine: told to end by a signal, one would wait for what the guest makes of its power button.
quit()
{
	printf q >&"$to"
	until_line '1..'
	wait "$machine" || :
	end_all
}

to="" from=""
serial_line()
{
	[ -z "$to" ] || exec {to}>&- {from}<&-
	rm -f "$tmp/in" "$tmp/out"
	mkfifo "$tmp/in" "$tmp/out"
	exec {to}<>"$tmp/in" {from}<>"$tmp/out"
}

qemu()
{
	serial_line
	qemu-system-x86_64 -name bench,debug-threads=on -M q35,accel=kvm -cpu host -m "$memory" \
		-object "memory-backend-memfd,id=mem,size=$memory,share=on" -numa node,memdev=mem \
		-nodefaults -display none -serial stdio -no-reboot -bios qboot.rom -kernel "$build/tests/guest/payload.elf" -append "$1" \
		-device isa-debug-exit,iobase=0xf4,iosize=4 "${@:2}" <&"$to" >"$tmp/out" 2>"$tmp/err" &
	machine=$!
	pids+=($!)
}

bulkhead()
{
	serial_line
	"$build/supervisor/bulkhead" run --name bench --run-dir "$tmp/run" --kernel "$build/tests/guest/payload.elf" \
		--append "$1" --memory "$memory" --test-devices --console stdio "${@:2}" <&"$to" >"$tmp/out" 2>"$tmp/err" &
	machine=$!
	pids+=($!)
}

# ---- statistics ----

# $columns: the names of the figures and how the table shows their medians, NAME=FORMAT. The first is the rate, shown in
# thousands and with its span; one without a format is in the JSON file only. $cost: the other figure that is compared.
# $ours, $peer: the sides; $cell_width.
summarise() # CELL FORMAT
{
	awk -v cell="$1" -v format="$2" -v ours="$ours" -v peer="$peer" -v columns="$columns" -v cost="$cost" -v width="$cell_width" '
	function sort(v, n,   i, j, t) {
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
	}
	function spread(v, n, out) {
		sort(v, n)
		out["med"] = n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
		out["min"] = v[1]; out["max"] = v[n]
	}
	function stat(f, who, out,   i, v) {
		for (i = 1; i <= n[who]; i++) v[i] = a[f, who, i] + 0
		spread(v, n[who], out)
	}
	# The ratio of each pair, so that what disturbs the machine disturbs both of its sides.
	function ratio(f, out,   i, v) {
		for (i = 1; i <= n[peer]; i++) v[i] = a[f, peer, i] ? a[f, ours, i] / a[f, peer, i] : 0
		spread(v, n[peer], out)
	}
	function three(s) { return sprintf("{\"median\": %.4f, \"min\": %.4f, \"max\": %.4f}", s["med"], s["min"], s["max"]) }
	function span(s, unit, f) { return sprintf("(" f "-" f ")", s["min"] / unit, s["max"] / unit) }
	function json(who,   f, s, text) {
		for (f = 1; f <= count; f++) {
			stat(f, who, s)
			text = text (f > 1 ? ", " : "") "\"" name[f] "\": " three(s)
		}
		return "{" text "}"
	}
	function line(who,   f, s, text) {
		stat(1, who, s)
		text = sprintf(show[1] " %-15s", s["med"] / 1000, span(s, 1000, "%.1f"))
		for (f = 2; f <= count; f++) {
			stat(f, who, s)
			if (show[f]) text = text " " sprintf(show[f], s["med"])
		}
		return text
	}
	BEGIN {
		count = split(columns, word, " ")
		for (f = 1; f <= count; f++) {
			split(word[f], part, "="); name[f] = part[1]; show[f] = part[2]
			if (name[f] == cost) costs = f
		}
	}
	{ n[$1]++; for (f = 1; f <= count; f++) a[f, $1, n[$1]] = $(f + 1) }
	END {
		ratio(1, rr); ratio(costs, rc)
		if (format == "json")
			printf "{\"cell\": \"%s\", \"pairs\": %d,\n  \"%s\": %s,\n  \"%s\": %s,\n  \"%s_ratio\": %s, \"cpu_ratio\": %s}",
				cell, n[peer], ours, json(ours), peer, json(peer), name[1], three(rr), three(rc)
		else
			printf "%-*s %s | %s | %5.2f %-13s %5.2f %s\n", width, cell, line(ours), line(peer),
				rr["med"], span(rr, 1, "%.2f"), rc["med"], span(rc, 1, "%.2f")
	}' "$tmp/$1.runs"
}

# What is under way and how long all will still take, for whoever watches.
progress() # [TEXT TURN TURNS SINCE]
{
	[ -t 2 ] || return 0
	printf '\r\033[K' >&2
	[ $# -eq 0 ] || printf '%s' "$1" >&2
	[ "${2-0}" = 0 ] || printf '; %d minutes to go' $(((SECONDS - $4) * ($3 - $2) / $2 / 60 + 1)) >&2
}

figures=
compare_all()
{
	local cell name words pair turn=0 began=$SECONDS
	for cell; do
		read -r name words <<<"$cell"
		for ((pair = 1; pair <= pairs; pair++, turn++)); do
			progress "$name, pair $pair" $turn $(($# * pairs)) "$began"
			# shellcheck disable=SC2086
			{
				run "$name" "$ours" $words
				run "$name" "$peer" $words
			}
		done </dev/null
		progress
		summarise "$name" table
		figures+="${figures:+,
}$(summarise "$name" json)"
	done
}

write_figures()
{
	{
		printf '{'
		[ $# -eq 0 ] || printf '%s, ' "$@"
		printf '"machine": {"cpus": %d, "kernel": "%s"}, "seconds": %d, "cells": [\n%s\n]}\n' \
			"$(nproc)" "$(uname -r)" "$seconds" "$figures"
	} >"$json"
	echo "figures: $json" >&2
}

# ---- disks ----

disk_cells()
{
	local short=" ${1//$'\n'/ } " where mix block queues depth mode name
	shift
	for where; do
		for mix in read:0 write:100 mix:30; do
			for block in 4K 64K 128K 1M; do
				for queues in 1 2 4; do
					for depth in 1 32; do
						for mode in "" poll; do
							name=$where-${mix%:*}
							[ $block = 4K ] || name+=-${block,,}
							[ $queues = 1 ] || name+=-${queues}q
							name+=-d$depth${mode:+-$mode}
							if [ -n "$cells" ]; then
								[[ $name =~ $cells ]] || continue
							else
								[[ $short == *" $name "* ]] || continue
							fi
							echo "$name $where $depth $block ${mix#*:} $queues $mode"
						done
					done
				done
			done
		done
	done
}

disk_header()
{
	columns='iops=%6.1f cpu_us=%6.2f p99_us=' cost=cpu_us cell_width=-27
	echo "median (min-max) of $pairs pairs of $seconds s; thousand requests a second, and microseconds of the device's CPU a request"
	printf '%-27s %-29s | %-29s | %s\n' cell "$(printf '%-24s CPU' "$1")" "$(printf '%-24s CPU' "$2")" \
		"ratio of IOPS       of CPU"
}
