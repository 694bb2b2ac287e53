# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What a process has in memory, exactly; sourced after tap.sh by tests that look for leaks.
#   memory PID    three numbers: KiB that are its own, KiB that are resident in all, its mappings
# /proc/PID/status lags behind, as the kernel keeps part of the count per thread, and counts the pages of programs and
# libraries, which come and go as the page cache likes. So /proc/PID/smaps is added up: of a plain file only the pages
# that the process made its own by writing, and of all else (heaps, stacks, shared memory) every page.
memory() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / {
			maps++
			plain = $6 ~ "^/" && $6 !~ "^/(memfd:|SYSV|dev/zero|dev/shm/|\\[)"
		}
		$1 == "Rss:" { resident += $2 }
		$1 == (plain ? "Anonymous:" : "Rss:") || $1 == "Swap:" { own += $2 }
		END { print own + 0, resident + 0, maps + 0 }' "/proc/$1/smaps"
}
