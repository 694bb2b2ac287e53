/* SPDX-License-Identifier: Apache-2.0 */
/* How attempts are written down. */
#ifndef TAKEN_TRY_H
#define TAKEN_TRY_H

#include <sys/syscall.h>

#include "num.h"
#include "taken.h"

#define PTR(x) ((long)(uintptr_t)(x))

/* A call as it is; what follows the arguments are fields of struct taken_try. */
#define ARGS(...) .arg = { __VA_ARGS__ }
#define PLAIN(text, call, args, ...)                                                                         \
	{                                                                                                    \
		.name = (text), .nr = SYS_##call, args, __VA_ARGS__                                          \
	}
/* Several calls, or of several descriptors. */
#define BY(text, function, ...)                                                                              \
	{                                                                                                    \
		.name = (text), .fn = (function), __VA_ARGS__                                                \
	}
/* One call with each descriptor. */
#define EACH(name, ...)                                                                                      \
	static long name##_of(int fd)                                                                        \
	{                                                                                                    \
		return CALL(__VA_ARGS__);                                                                    \
	}                                                                                                    \
	static long name(const struct taken_page *page)                                                      \
	{                                                                                                    \
		(void)page;                                                                                  \
		return taken_each_fd(name##_of);                                                             \
	}

#define TABLE(table) const struct taken_table table = { .try = tries, .n = ARRAY_SIZE(tries) }

#endif
