/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of a process's mappings. */
#ifndef SMAPS_H
#define SMAPS_H

#include <sys/types.h>

/* How many mappings whose line in /proc/PID/smaps has name in it, and whose flags include with ("": any), go without a
 * flag ("dd": left out of core dumps); *found is how many there are. -errno if this user may not look. */
int smaps_without(pid_t pid, const char *name, const char *with, const char *flag, unsigned *found);

#endif
