/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of processors in words. */
#include "cpus.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Takes a number off the front of *word. -EINVAL if there is none, -ERANGE. */
static int take_number(const char **word, unsigned *n)
{
	const char *p = *word;

	*n = 0;
	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		*n = *n * 10 + (unsigned)(*p - '0');
		if (*n >= CPUS_MAX)
			return -ERANGE;
	}
	*word = p;
	return 0;
}

int cpus_parse(const char *word, cpu_set_t *cpus)
{
	CPU_ZERO(cpus);
	for (;;) {
		unsigned first, last;
		int err = take_number(&word, &first);

		last = first;
		if (!err && *word == '-') {
			word++;
			err = take_number(&word, &last);
		}
		if (err)
			return err;
		if (last < first)
			return -EINVAL;
		for (; first <= last; first++)
			CPU_SET(first, cpus);
		if (!*word)
			return 0;
		if (*word++ != ',')
			return -EINVAL;
	}
}

void cpus_format(const cpu_set_t *cpus, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (unsigned first = 0, last; first < CPUS_MAX && len < size; first = last + 1) {
		last = first;
		if (!CPU_ISSET(first, cpus))
			continue;
		while (last + 1 < CPUS_MAX && CPU_ISSET(last + 1, cpus))
			last++;
		len += (size_t)snprintf(text + len, size - len, last > first ? "%s%u-%u" : "%s%u",
					len ? "," : "", first, last);
	}
}
