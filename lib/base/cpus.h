/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of processors as people write them: "0-3,8". */
#ifndef BASE_CPUS_H
#define BASE_CPUS_H

#include <sched.h>
#include <stddef.h>

#define CPUS_MAX      CPU_SETSIZE /* processors that a set can name, from 0 on */
#define CPUS_TEXT_MAX 256         /* bytes of a set in words, the NUL included; a longer one is cut */

/* Numbers and ranges with commas between them. -EINVAL for anything else, and for none at all; -ERANGE for a number that
 * is too large. */
int cpus_parse(const char *word, cpu_set_t *cpus);

/* The other way round; "" for none. */
void cpus_format(const cpu_set_t *cpus, char *text, size_t size);

#endif
