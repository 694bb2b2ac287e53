/* SPDX-License-Identifier: Apache-2.0 */
/* Scope clean-up: descriptors and memory that are given back when their variable goes out of scope. */
#ifndef BASE_CLEAN_H
#define BASE_CLEAN_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void clean_free(void *p)
{
	free(*(void **)p);
}

static inline void clean_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void clean_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define CLEAN_FREE __attribute__((cleanup(clean_free)))
#define CLEAN_FD   __attribute__((cleanup(clean_fd)))
#define CLEAN_FILE __attribute__((cleanup(clean_file)))

/* Hands an owned descriptor on: the variable gives it up and its scope no longer closes it. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Hands an owned pointer on in the same way. */
#define TAKE_PTR(p)                                                                                          \
	({                                                                                                   \
		__typeof__(p) taken_ = (p);                                                                  \
		(p) = NULL;                                                                                  \
		taken_;                                                                                      \
	})

#endif
