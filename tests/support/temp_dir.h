/* SPDX-License-Identifier: Apache-2.0 */
/* A folder for a test to work in. What a failing test leaves there goes with $TMPDIR, which tests/in-tmp made for it. */
#ifndef SUPPORT_TEMP_DIR_H
#define SUPPORT_TEMP_DIR_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static inline const char *temp_dir_base(void)
{
	const char *base = getenv("TMPDIR");

	return base && *base ? base : "/tmp";
}

/* Makes one below base; its path goes into to, an array. */
static inline bool temp_dir_make_in(const char *base, char *to, size_t size)
{
	return snprintf(to, size, "%s/bulkhead-XXXXXX", base) < (int)size && mkdtemp(to);
}

static inline bool temp_dir_make(char *to, size_t size)
{
	return temp_dir_make_in(temp_dir_base(), to, size);
}

#endif
