/* SPDX-License-Identifier: Apache-2.0 */
/* Reads /proc/PID/smaps. */
#include "smaps.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "clean.h"

static bool has(const char *flags, const char *flag)
{
	char word[8];

	snprintf(word, sizeof(word), *flag ? " %s " : "%s", flag);
	return strstr(flags, word);
}

int smaps_without(pid_t pid, const char *name, const char *with, const char *flag, unsigned *found)
{
	char path[32], line[512];
	CLEAN_FILE FILE *f = NULL;
	bool wanted = false;
	int without = 0;

	*found = 0;
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			wanted = strstr(line, name);
		} else if (wanted && !strncmp(line, "VmFlags:", 8) && has(line, with)) {
			++*found;
			without += !has(line, flag);
		}
	}
	return ferror(f) ? -EIO : without;
}
