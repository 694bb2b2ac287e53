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
/* One call with each that there is of a kind, which the expression all has name##_of() try. */
#define EACH_OF(name, each, all, ...)                                                                        \
	static long name##_of(each)                                                                          \
	{                                                                                                    \
		return CALL(__VA_ARGS__);                                                                    \
	}                                                                                                    \
	static long name(const struct taken_page *page)                                                      \
	{                                                                                                    \
		(void)page;                                                                                  \
		return all;                                                                                  \
	}
/* One call with each descriptor, fd. */
#define EACH(name, ...) EACH_OF(name, int fd, taken_each_fd(name##_of), __VA_ARGS__)

#define TABLE(table) const struct taken_table table = { .try = tries, .n = ARRAY_SIZE(tries) }

#endif
