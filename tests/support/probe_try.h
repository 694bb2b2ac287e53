/* SPDX-License-Identifier: Apache-2.0 */
/* The attempts themselves. */
#ifndef PROBE_TRY_H
#define PROBE_TRY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct probe_try {
	const char *name;
	int (*fn)(pid_t parent); /* 0 or more if it did what must not be possible, else -errno */
	bool by_layer; /* namespaces, capabilities, root and Landlock must refuse it by themselves */
	bool set_up;   /* a process may need it before its steady stage */
	bool deadly;   /* ends even who has taken the handler of forbidden calls over */
};

extern const struct probe_try probe_tries[];
extern const size_t probe_tries_count;

#endif
