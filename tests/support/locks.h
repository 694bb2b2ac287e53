/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits for a lock, as the kernel tells. */
#ifndef SUPPORT_LOCKS_H
#define SUPPORT_LOCKS_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Whether somebody waits for a flock(2) of this file. */
static inline bool locks_waited_for(int fd)
{
	char line[256], inode[32];
	FILE *locks = fopen("/proc/locks", "re");
	struct stat st = { 0 };
	bool found = false;

	if (!locks || fstat(fd, &st) < 0)
		return false;
	snprintf(inode, sizeof(inode), ":%llu ", (unsigned long long)st.st_ino);
	while (fgets(line, sizeof(line), locks))
		found |= strstr(line, "-> FLOCK") && strstr(line, inode);
	fclose(locks);
	return found;
}

#endif
